"""`bottega init DATA`: a look at the data, and a commented recipe that runs as it is; `--from FILE`: another tool's, carried over.

Left out: looking (init_look.py), choosing a model (init_model.py) and a method (plan_brief.py), other tools' keys (importers/).
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from bottega.core import rundir
from bottega.core.config import dump_yaml
from bottega.core.errors import UserError
from bottega.workshop.init_look import look

WORDS = {
    "pretrain": "go on reading: the model learns the language and the facts of these texts",
    "sft": "learn the answers of these conversations",
    "dpo": "prefer the chosen answers to the rejected ones",
    "kto": "more of what was liked, less of what was not",
    "classification": "one label a text; use the result with bottega predict",
    "multilabel": "any number of labels a text; use the result with bottega predict",
    "regression": "a number a text; use the result with bottega predict",
    "tagging": "a tag a word; use the result with bottega predict",
}
LABELS = ("classification", "multilabel", "regression", "tagging")
MIN_ROWS_TO_SPLIT = 20
METHOD = "method: {name: lora, rank: 16}"
UNEVEN = 3
"""So many times as many rows of the commonest label as of the rarest: then rare labels weigh more."""


def init(
    path: str | None = None,
    *,
    out: str = "recipe.yaml",
    model: str | None = None,
    format: str | None = None,
    template: str | None = None,
    source: str | None = None,
    device: str | None = None,
    force: bool = False,
) -> dict[str, Any]:
    """Look at `path` and write a recipe for it, or carry over another tool's configuration.

    Args:
        model: default: what `plan` finds to fit (init_model.py), or with `source` the model that it names. device: where the
            recipe will run, a name of the table of devices; default: this machine. source: a training YAML of LLaMA-Factory, Axolotl or
            LLM Foundry, or InstructLab's config.yaml; `path` then stands for the data that it names.

    Returns: what was seen (format, rows, an estimate of tokens, bad rows) or carried over, and the recipe's file.

    Raises:
        UserError: the data cannot be read, nothing can be learnt from its kind yet, or `out` is there already.
    """
    target = Path(out)
    if target.exists() and not force:
        raise UserError(f"{out} is there already; choose another --out, or overwrite it with --force")
    from bottega.workshop import init_model, plan_brief, recipe

    if source is not None:
        if device is not None:
            raise UserError(
                "--device chooses for data that init looks at, and --from carries a file over: leave one out"
            )
        return _import(source, path, target, model, format, template)
    if path is None:
        raise UserError("init needs DATA to look at, or another tool's configuration: bottega init --from FILE")
    init_model.check_name(device)
    seen = look(path, format)
    data = os.path.relpath(os.path.abspath(path), target.absolute().parent)

    def trial(name: str, **more: str) -> Path:
        own = template or (None if model or name == "garzone" else "chatml")
        rundir.atomic_write(target, _recipe(seen, data, name, format, own, **more))
        return target

    if model is None:
        choice = init_model.choose(trial, device)
    else:
        choice = init_model.Choice(model, *plan_brief.choose(trial(model), device), "named")
    trial(choice.model, change=choice.change, why=choice.why, said=choice.said)
    recipe.load(target)  # our own promise: what init writes, run reads
    chosen = {"model": choice.model, "chosen": choice.said, "method": choice.change or METHOD, "why": choice.why}
    return {"recipe": out, **seen, **chosen, "next": f"bottega run {out}"}


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
    if "labels" in result:
        lines.append(_counts(result["labels"]))
    if result["bad"]:
        lines.append(f"{result['bad']} rows cannot be used, for example {result['example']}; see `bottega data check`")
    lines.append(f"{result['model']}: {result['chosen']}")
    lines.append(f"{result['method']}: {result['why']}")
    return "\n".join([*lines, f"wrote {result['recipe']}; next: {result['next']}"])


def _settings(change: str, why: str) -> list[str]:
    """The method, and what else must change for it to fit, as lines of the recipe."""
    pairs = re.findall(r"(\w+): (\{[^}]*\}|[^,]+)", change or METHOD)
    first, *others = [f"      {key}: {value.strip()}" for key, value in pairs]
    said = f"      # {why}" if why else ""
    return [line for line in (said, f"{first}  # or full: every weight learns", *others) if line]


def _counts(labels: dict[str, int]) -> str:
    """The commonest labels with their numbers of rows."""
    order = sorted(labels, key=lambda name: -labels[name])
    more = f", and {len(order) - 8} more" if len(order) > 8 else ""
    return "labels: " + ", ".join(f"{' '.join(name.split())[:40]} {labels[name]:,}" for name in order[:8]) + more


def _recipe(
    seen: dict[str, Any],
    data: str,
    model: str,
    format: str | None,
    template: str | None,
    *,
    change: str = "",
    why: str = "",
    said: str = "",
) -> str:
    """The recipe as text, with a comment at what one is likely to change."""
    name = Path(os.path.abspath(seen["data"])).stem
    clean = "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "-" for c in name).strip("-") or "first"
    objective = seen["objective"]
    part = f"{{path: {_word(data)}, format: {format}}}" if format else _word(data)
    lines = [
        f"# Written by `bottega init` after a look at {seen['data']}: {seen['rows']:,} rows ({seen['format']}), about",
        f"# {seen['tokens']:,} tokens, the longest row about {seen['longest']:,}. Run it with: bottega run FILE",
        *([f"# {_counts(seen['labels'])}"] if "labels" in seen else []),
        f"name: {_word(clean)}                 # names the folder: runs/{clean}",
        *([f"# the model: {said}"] if said and said != "named" else []),
        f"model: {_word(model)}                # a Hub id, a folder, an adapter, a run, or garzone (the bundled model)",
        "stages:",
        f"  - {objective}:",
        f"      objective: {_objective(seen)}          # {WORDS[objective]}",
        f"      data: {part}",
        *_settings(change, why),
        "      epochs: 1                       # or steps: 200",
        "      batch: 8                        # rows a step",
        _rate(model, objective),
        *_kept_out(seen),
        *_lengths(seen),
    ]
    if objective not in ("pretrain", *LABELS):
        own = "      # template: chatml              # default: the model's own"
        lines.append(f"      template: {_word(template)}" if template else own)
    lines += [
        "# evaluate:                           # measured before and after",
        "#   tasks: [my_task.yaml]",
        "",
    ]
    return "\n".join(lines)


def _objective(seen: dict[str, Any]) -> str:
    """The objective's name; with weights where some labels are much rarer than others."""
    name, counts = seen["objective"], list(seen.get("labels", {}).values())
    if name in ("classification", "tagging") and min(counts) >= 10 and max(counts) >= UNEVEN * min(counts):
        return f"{{name: {name}, class_weights: balanced}}"
    return str(name)


def _kept_out(seen: dict[str, Any]) -> list[str]:
    objective = seen["objective"]
    if seen["rows"] < MIN_ROWS_TO_SPLIT and objective != "pretrain":
        return ["      # validation: held_out.jsonl    # too few rows here to keep some out"]
    lines = ["      validation: 0.1                 # share kept out, near duplicates with it; or a file"]
    if objective in ("classification", "multilabel"):
        lines.append(
            "      # false_positives: 0.05         # the threshold that is stored: at most this share of false alarms"
        )
    return lines


def _rate(model: str, objective: str) -> str:
    """The learning rate: written out for the bundled model, which is small and wants ten times what large ones do."""
    paired = objective in ("dpo", "kto")
    usual = 2e-5 if paired else 2e-4
    if model == "garzone":
        small = 5e-4 if paired else 2e-3
        return f"      lr: {small:.0e}                       # for garzone; large models want {usual:.0e}"
    return f"      # lr: {usual:.0e}                     # peak learning rate; this is the default for LoRA"


def _lengths(seen: dict[str, Any]) -> list[str]:
    if seen["objective"] == "pretrain":
        return ["      # max_tokens: 2048              # length of the windows that texts are cut into"]
    choice = "truncate" if seen["objective"] in LABELS else "drop"
    policy = f"      over_length: {choice}           # longer rows: error, drop or truncate; counted in the report"
    return ["      # max_tokens: 2048              # longest row", policy]


def _word(text: str) -> str:
    """A text as a YAML scalar."""
    return dump_yaml([text]).strip().removeprefix("[").removesuffix("]").removeprefix("- ")
