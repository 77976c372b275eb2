"""The model card (README.md) of an export, filled from what the run wrote down.

Left out: what nobody measured; the card says so. Paths of this machine, hosts and the recipe's text stay out, and so do example texts.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bottega.core import rundir
from bottega.core.textio import clock, printable
from bottega.workshop import report_files

_LIBRARY = {"hf": "transformers", "peft": "peft", "gguf": "gguf", "onnx": "onnx"}
_SETTINGS = ("steps", "batch", "lr", "schedule", "optimizer", "precision", "seed")


def card(name: str, kind: str, base: str, facts: Mapping[str, Any], *, run: Path | None, licence: str | None) -> str:
    """The text of README.md.

    Args:
        name: what the model is called. kind: hf, peft, gguf or onnx. base: what it was made from, as the user named it. facts: the
            figures of the export. run: the run folder it comes from, if it does. licence: of the result, if the user said.
    """
    own = public_name(base)
    head: dict[str, Any] = {"library_name": _LIBRARY[kind], "tags": ["bottega", kind]}
    head |= {"license": licence} if licence else {}
    head |= {"base_model": own} if "/" in own else {}
    lines = ["---", *(f"{key}: {json.dumps(value)}" for key, value in head.items()), "---", "", f"# {_text(name)}", ""]
    lines += [f"Made from `{_code(own)}` with bottega; format {kind}.", ""]
    lines += (
        _run_parts(run)
        if run is not None
        else ["There is no run folder: nothing is known of data, recipe and scores.", ""]
    )
    figures = [
        f"| {_text(key)} | {_text(_short(value))} |"
        for key, value in facts.items()
        if not isinstance(value, dict | list)
    ]
    lines += ["## The export, read back", "", *_table(("figure", "value"), figures), ""]
    lines += ["## Limits", "", *_limits(run, licence)]
    return "\n".join(lines).rstrip() + "\n"


def public_name(model: str) -> str:
    """What others may read of a model's name: a Hub id as it is, of a path only its last part."""
    local = Path(model).expanduser()
    if local.is_absolute() or model.startswith((".", "~")) or local.exists() or model.count("/") > 1:
        return local.resolve().name or "model"
    return model


def _run_parts(run: Path) -> list[str]:
    read = report_files.read(run)
    stages = read.run.get("stages") or {}
    data, recipe = [], []
    for name, stage in stages.items():
        for source in stage.get("data") or []:
            for file in source.get("files") or []:
                cells = (name, public_name(str(file["name"])), file["bytes"], f"sha256:{file['sha256']}")
                data.append(_row(*cells))
        settings = ", ".join(f"{key} {stage[key]}" for key in _SETTINGS if key in stage)
        kinds = [(stage.get(part) or {}).get("name", "") for part in ("objective", "method")]
        recipe.append(_row(name, *kinds, settings))
    lines = ["## Data", "", *_table(("stage", "file", "bytes", "fingerprint"), data), ""]
    lines += [*_origins(read), ""]
    lines += ["## Recipe", "", *_table(("stage", "objective", "method", "settings"), recipe), ""]
    lines += ["## Scores", "", *_scores(read), ""]
    lines += ["## Audits", "", *_audits(read), ""]
    sessions = read.host.get("sessions") or []
    seconds, cpu = (sum(one.get(key, 0) for one in sessions) for key in ("seconds", "cpu_seconds"))
    tokens = sum(line.get("tokens", 0) for stage in read.stages for line in stage.metrics)
    lines += ["## Cost and lineage", ""]
    lines += [f"- {clock(seconds)}, {clock(cpu)} of CPU time, {tokens:,.0f} tokens; {_text(_versions(read))}"]
    for name, stage in stages.items():
        lines.append(f"- stage {_text(name)} started from `{_code(str(stage.get('base', 'unknown')))}`")
    lineage = run / "lineage.json"
    if lineage.is_file():
        lines += [f"- version: {_text(public_name(str(one['run'])))}" for one in rundir.read_json(lineage)]
    return [*lines, ""]


def _origins(read: report_files.Run) -> list[str]:
    """Whose leaves the rows come from, summed over the stages; what is known of licences."""
    found: Counter[tuple[str, str, str]] = Counter()
    for stage in read.stages:
        for one in stage.intake.get("origins") or []:
            found[one["leaf"], one["contributor"], ", ".join(one["licences"]) or "none named"] += one["rows"]
    if not found:
        return ["The licences of these files are not recorded by the run; whoever gives the model away checks them."]
    who = len({contributor for _, contributor, _ in found})
    rows = [_row(*key, count) for key, count in sorted(found.items())]
    leaves = len({leaf for leaf, _, _ in found})
    said = f"Rows made from {leaves} leaves of a taxonomy by {who} contributors; other files name no licence."
    return [said, "", *_table(("leaf", "contributor", "licences", "rows"), rows)]


def _versions(read: report_files.Run) -> str:
    packages = read.environment.get("packages") or {}
    return ", ".join(
        f"{key} {packages[key]}" for key in ("bottega", "torch", "transformers", "peft") if key in packages
    )


def _scores(read: report_files.Run) -> list[str]:
    rows = []
    for label, one in read.cards.items():
        for score in one.scores:
            known = score.low is not None and score.high is not None
            bounds = f"{score.low:.3f} to {score.high:.3f}" if known else "unbounded"
            rows.append(_row(label, score.task, score.metric, f"{score.value:.3f}", bounds, score.n))
    head = ("scorecard", "task", "metric", "value", "95% interval", "n")
    return _table(head, rows) if rows else ["The run was not evaluated: nothing is known of how good this model is."]


def _audits(read: report_files.Run) -> list[str]:
    rows = []
    for audit in read.audits:
        for one in audit.findings:
            known = one.low is not None and one.high is not None
            ends = f"{one.low:.3f} to {one.high:.3f}" if known else "unbounded"
            bound = "none" if one.bound is None else f"at most {one.bound:g}"
            rows.append(_row(audit.risk, one.what, f"{one.value:.3f}", ends, bound, one.n, one.verdict))
    head = ("risk", "finding", "value", "95% interval", "bound", "n", "verdict")
    return (
        _table(head, rows) if rows else ["The model was not audited: nothing is known of what it forgot or gives away."]
    )


def _limits(run: Path | None, licence: str | None) -> list[str]:
    lines = [
        "- What was not measured above is not known: other tasks, other languages than the data's, longer texts than were trained.",
        "- It can state wrong things with confidence, and repeat what its data says of people; check before anything depends on it.",
        "- Risks that no audit above names (bias, safety and others) were not measured.",
    ]
    if not licence:
        lines.append(
            "- No licence was stated: the base model's and the data's licences decide what may be done with it."
        )
    if run is not None and (changes := report_files.read(run).run.get("changes")):
        keys = ", ".join(sorted({_text(str(one.get("key"))) for one in changes}))
        lines.append(f"- Recorded inputs changed while the run went on, with permission: {keys}.")
    return lines


def _table(head: Sequence[str], rows: Sequence[str]) -> list[str]:
    if not rows:
        return ["None recorded."]
    return [_row(*head), "|" + "---|" * len(head), *rows]


def _row(*cells: Any) -> str:
    return f"| {' | '.join(_text(cell) for cell in cells)} |"


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _text(value: Any) -> str:
    """One line of text in which nothing is markup: neither Markdown nor HTML."""
    plain = " ".join(str(printable(value)).split())
    plain = plain.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|#!])", r"\\\1", plain)


def _code(value: str) -> str:
    return " ".join(str(printable(value)).split()).replace("`", "'")
