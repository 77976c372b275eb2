"""`bottega init DATA`: a look at the data, and a commented recipe that runs as it is; `--from FILE`: another tool's, carried over.

Left out: what other tools' keys mean (importers/). The method is the first that fits this machine, by `plan`.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from bottega.core import rundir
from bottega.core.config import dump_yaml
from bottega.core.errors import UserError
from bottega.core.types import Conversation, Document, Labelled, Preference, Turn
from bottega.data.formats import format_of, samples
from bottega.data.sources import Problem, places

CHARACTERS_PER_TOKEN = 4
OBJECTIVES: dict[type, str] = {Document: "pretrain", Conversation: "sft", Preference: "dpo"}
NAMES: dict[type, str] = {Document: "texts", Conversation: "chats", Preference: "pairs", Labelled: "labelled texts"}
WORDS = {
    "pretrain": "go on reading: the model learns the language and the facts of these texts",
    "sft": "learn the answers of these conversations",
    "dpo": "prefer the chosen answers to the rejected ones",
}
MIN_ROWS_TO_SPLIT = 20
METHOD = "method: {name: lora, rank: 16}"


def init(
    path: str | None = None,
    *,
    out: str = "recipe.yaml",
    model: str | None = None,
    format: str | None = None,
    template: str | None = None,
    source: str | None = None,
    force: bool = False,
) -> dict[str, Any]:
    """Look at `path` and write a recipe for it, or carry over another tool's configuration.

    Args:
        model: default: garzone, or with `source` the model that it names. source: a training YAML of LLaMA-Factory, Axolotl or
            LLM Foundry, or InstructLab's config.yaml; `path` then stands for the data that it names.

    Returns: what was seen (format, rows, an estimate of tokens, bad rows) or carried over, and the recipe's file.

    Raises:
        UserError: the data cannot be read, nothing can be learnt from its kind yet, or `out` is there already.
    """
    target = Path(out)
    if target.exists() and not force:
        raise UserError(f"{out} is there already; choose another --out, or overwrite it with --force")
    if source is not None:
        return _import(source, path, target, model, format, template)
    if path is None:
        raise UserError("init needs DATA to look at, or another tool's configuration: bottega init --from FILE")
    model = model or "garzone"
    seen = _look(path, format)
    data = os.path.relpath(os.path.abspath(path), target.absolute().parent)
    rundir.atomic_write(target, _recipe(seen, data, model, format, template, "", ""))
    from bottega.workshop import plan_brief, recipe

    change, why = plan_brief.choose(target)
    rundir.atomic_write(target, _recipe(seen, data, model, format, template, change, why))
    recipe.load(target)  # our own promise: what init writes, run reads
    return {"recipe": out, **seen, "method": change or METHOD, "why": why, "next": f"bottega run {out}"}


def _import(
    source: str, path: str | None, target: Path, model: str | None, format: str | None, template: str | None
) -> dict[str, Any]:
    """The recipe made from another tool's configuration, written to `target`."""
    from bottega.workshop import importers, recipe

    if format is not None or template is not None:
        raise UserError("--format and --template come from the file that --from names; change them in the recipe")
    found = importers.read(source, data=os.path.abspath(path) if path else None, model=model)
    shown = importers.relative(found.recipe, target.absolute().parent)
    rundir.atomic_write(target, importers.render(found, Path(source).name, shown))
    try:
        recipe.load(target)
        mend = []
    except UserError as error:  # an extra that is not installed, a file that lies elsewhere
        mend = str(error).splitlines()
    out = str(target)
    return {"recipe": out, **found.to_json(), "to_mend": mend, "next": f"bottega run {out} --dry-run"}


def init_text(result: dict[str, Any]) -> str:
    """What was seen and what to do next."""
    if "tool" in result:
        lost = [f"  {one['key']}: {one['why']}" for one in result["not_carried"]]
        lines = [f"{result['tool']}: {len(result['carried'])} keys carried over, {len(lost)} not:", *lost]
        lines += [f"note: {note}" for note in result["notes"]]
        lines += [f"before it runs: {line}" for line in result["to_mend"]]
        return "\n".join([*lines, f"wrote {result['recipe']}; next: {result['next']}"])
    lines = [f"{result['rows']:,} rows ({result['format']}), about {result['tokens']:,} tokens: {result['objective']}"]
    if result["bad"]:
        lines.append(f"{result['bad']} rows cannot be used, for example {result['example']}; see `bottega data check`")
    lines.append(f"{result['method']}: {result['why']}")
    return "\n".join([*lines, f"wrote {result['recipe']}; next: {result['next']}"])


def _look(path: str, format: str | None) -> dict[str, Any]:
    counts: dict[type, int] = {}
    characters = longest = bad = 0
    example = ""
    for sample in samples(path, format=format):
        if isinstance(sample, Problem):
            bad += 1
            example = example or str(sample)
            continue
        counts[type(sample)] = counts.get(type(sample), 0) + 1
        size = _characters(sample)
        characters, longest = characters + size, max(longest, size)
    if not counts:
        raise UserError(f"no row of {path} can be used, for example {example}; see `bottega data check {path}`")
    kind = next(iter(counts))
    if len(counts) > 1:
        held = ", ".join(f"{count:,} {NAMES[each]}" for each, count in counts.items())
        raise UserError(f"{path} holds {held}, and a stage learns from one kind: name a file or folder with one")
    if kind is Labelled:
        raise UserError(f"{path} holds labelled texts; no objective learns from labels yet: give chats, texts or pairs")
    return {
        "data": path,
        "files": len(places(path)),
        "format": format or format_of(places(path)[0]),
        "objective": OBJECTIVES[kind],
        "rows": sum(counts.values()),
        "bad": bad,
        "example": example,
        "tokens": characters // CHARACTERS_PER_TOKEN,
        "longest": longest // CHARACTERS_PER_TOKEN,
    }


def _characters(sample: Any) -> int:
    if isinstance(sample, Document | Labelled):
        return len(sample.text)
    if isinstance(sample, Preference):
        return _said(sample.prompt) + max(_said(sample.chosen), _said(sample.rejected))
    return _said(sample.turns)


def _said(turns: tuple[Turn, ...]) -> int:
    return sum(len(turn.content) for turn in turns)


def _settings(change: str, why: str) -> list[str]:
    """The method, and what else must change for it to fit, as lines of the recipe."""
    pairs = re.findall(r"(\w+): (\{[^}]*\}|[^,]+)", change or METHOD)
    first, *others = [f"      {key}: {value.strip()}" for key, value in pairs]
    said = f"      # {why}" if why else ""
    return [line for line in (said, f"{first}  # or full: every weight learns", *others) if line]


def _recipe(
    seen: dict[str, Any], data: str, model: str, format: str | None, template: str | None, change: str, why: str
) -> str:
    """The recipe as text, with a comment at what one is likely to change."""
    name = Path(os.path.abspath(seen["data"])).stem
    clean = "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "-" for c in name).strip("-") or "first"
    objective = seen["objective"]
    part = f"{{path: {_word(data)}, format: {format}}}" if format else _word(data)
    splits = seen["rows"] >= MIN_ROWS_TO_SPLIT or objective == "pretrain"
    lines = [
        f"# Written by `bottega init` after a look at {seen['data']}: {seen['rows']:,} rows ({seen['format']}), about",
        f"# {seen['tokens']:,} tokens, the longest row about {seen['longest']:,}. Run it with: bottega run FILE",
        f"name: {_word(clean)}                 # names the folder: runs/{clean}",
        f"model: {_word(model)}                # a Hub id, a folder, an adapter, a run, or garzone (the bundled model)",
        "stages:",
        f"  - {objective}:",
        f"      objective: {objective}          # {WORDS[objective]}",
        f"      data: {part}",
        *_settings(change, why),
        "      epochs: 1                       # or steps: 200",
        "      batch: 8                        # rows a step",
        _rate(model, objective),
    ]
    if splits:
        lines.append("      validation: 0.1                 # share kept out, near duplicates with it; or a file")
    else:
        lines.append("      # validation: held_out.jsonl    # too few rows here to keep some out")
    lines += _lengths(seen)
    if objective != "pretrain":
        lines.append(
            f"      template: {_word(template)}"
            if template
            else "      # template: chatml              # default: the model's own"
        )
    lines += [
        "# evaluate:                           # measured before and after",
        "#   tasks: [my_task.yaml]",
        "",
    ]
    return "\n".join(lines)


def _rate(model: str, objective: str) -> str:
    """The learning rate: written out for the bundled model, which is small and wants ten times what large ones do."""
    usual = 2e-5 if objective == "dpo" else 2e-4
    if model == "garzone":
        small = 5e-4 if objective == "dpo" else 2e-3
        return f"      lr: {small:.0e}                       # for garzone; large models want {usual:.0e}"
    return f"      # lr: {usual:.0e}                     # peak learning rate; this is the default for LoRA"


def _lengths(seen: dict[str, Any]) -> list[str]:
    if seen["objective"] == "pretrain":
        return ["      # max_tokens: 2048              # length of the windows that texts are cut into"]
    policy = "      over_length: drop               # longer rows: error, drop or truncate; counted in the report"
    return ["      # max_tokens: 2048              # longest row", policy]


def _word(text: str) -> str:
    """A text as a YAML scalar."""
    return dump_yaml([text]).strip().removeprefix("[").removesuffix("]").removeprefix("- ")
