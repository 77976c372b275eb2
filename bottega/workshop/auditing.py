"""`bottega audit forgetting | privacy MODEL`: the risks of a model, each measured against its base, with a verdict.

Left out: the measures themselves (evals/forgetting.py, evals/privacy.py). The audit of a run's model lies in the run folder, where the
report and the card of an export read it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bottega.core import rundir
from bottega.core.errors import UserError
from bottega.core.textio import progress

if TYPE_CHECKING:
    from bottega.data.chat import Template
    from bottega.evals.audit import Audit
    from bottega.evals.engine import Engine
    from bottega.evals.privacy import Probed
    from bottega.evals.runner import Scorecard
    from bottega.models.load import Loaded

FOLDER = "audits"
KL_TEXTS, KL_TOKENS = 32, 256


def forgetting(
    model: str,
    *,
    base: str | None = None,
    tasks: Sequence[str] = (),
    max_drop: float = 0.02,
    max_rise: float = 0.05,
    limit: int | None = None,
    seed: int = 0,
    template: str | None = None,
    device: str = "auto",
    out: str | None = None,
    quiet: bool = False,
) -> Audit:
    """What MODEL lost against its base, on tasks and held-out text.

    Args:
        base: None takes what a run or an adapter says it began from. tasks: as in `bottega eval`; held-out text is
            `bits_per_byte=FILE`; none: the scorecards of a run that was evaluated before and after. max_drop, max_rise: see
            evals/forgetting.py. out: also write the audit there.

    Raises:
        UserError: no base, or nothing to measure on.
    """
    from bottega.evals import forgetting as measure
    from bottega.workshop.evaluating import evaluate, read_task

    run = run_of(model)
    if not tasks:
        before, after = _cards(run, model)
        kl = None
    else:
        start = base or base_of(model)
        read = [read_task(task) for task in tasks]
        how: dict[str, Any] = {"limit": limit, "seed": seed, "template": template, "device": device, "quiet": quiet}
        before, after = (evaluate(one, tasks, **how) for one in (start, model))
        texts = [item.record for task in read if task.kind == "perplexity" for item in _some(task, seed)]
        kl = _kl(start, model, [str(text.get("text") or text.get("answer") or "") for text in texts], device)
    audit = measure.judge(before, after, max_drop=max_drop, max_rise=max_rise, kl=kl, seed=seed)
    return _kept(audit, run, out)


def privacy(
    model: str,
    data: Sequence[str],
    *,
    held_out: Sequence[str] = (),
    base: str | None = None,
    prefix: int = 32,
    length: int = 32,
    max_extracted: float = 0.01,
    max_auc: float = 0.6,
    limit: int = 1000,
    seed: int = 0,
    **more: Any,
) -> Audit:
    """What MODEL gives away of the rows that it was trained on.

    Args:
        data: files of those rows. held_out: files of rows of the same kind that it was not trained on, for membership. base: None
            takes what a run or an adapter says it began from; "none" compares with nothing. prefix, length: tokens given, and
            compared. limit: rows of each, drawn by seed. more: template, device, out and quiet, as in `forgetting`.

    Raises:
        UserError: a file that cannot be read, or no row long enough.
    """
    from bottega.evals import privacy as measure

    template, device, quiet = more.pop("template", None), more.pop("device", "auto"), more.pop("quiet", False)
    out = more.pop("out", None)
    if more:
        raise TypeError(f"privacy has no option {next(iter(more))!r}")
    run = run_of(model)
    start = None if base == "none" else base or base_of(model)
    rows, others = (drawn(files, limit, seed) for files in (data, held_out))
    with progress(None, "audit", quiet=quiet) as shown:
        probed: list[Probed] = []
        for name in (model, *([start] if start is not None else [])):
            engine, chosen = _engine(name, template, device, shown.note)
            ids = [encoded(some, engine.tokenizer, chosen) for some in (rows, others)]
            if not probed:
                own, tokenizer = ids[0], engine.tokenizer
                tokens = int(engine.limit())
            elif ids[0] != own:
                shown.note(f"{name} reads the rows as other tokens: it is left out of the comparison")
                continue
            probed.append(measure.probe(engine, *ids, prefix=prefix, length=length, tokens=min(512, tokens)))
            shown.note(f"asked {name}: {len(probed[-1].matched):,} rows")
            del engine
    bounds: dict[str, Any] = {"prefix": prefix, "length": length, "max_extracted": max_extracted, "max_auc": max_auc}
    audit = measure.judge(
        model,
        probed[0],
        probed[1] if len(probed) > 1 else None,
        base_name=start or "",
        rows=own,
        seed=seed,
        text=lambda some: tokenizer.decode(list(some)),
        **bounds,
    )
    return _kept(audit, run, out)


def audit_text(audit: Audit) -> str:
    """The verdict and what it rests on."""
    from bottega.core.textio import printable

    lines = [audit.summary()]
    for one in audit.examples[:3]:
        lines += ["", *(f"  {key}: {' '.join(str(printable(text)).split())[:200]}" for key, text in one.items())]
    return "\n".join(lines)


forgetting_text = privacy_text = audit_text


def run_of(model: str) -> Path | None:
    """The run folder that a model lies in, or is."""
    place = Path(model)
    return next((one for one in (place, *list(place.parents)[:3]) if (one / "run.json").is_file()), None)


def base_of(model: str) -> str:
    """What a model was made from: a run's or an adapter's own word.

    Raises:
        UserError: neither knows.
    """
    from bottega.models.locate import locate

    run = run_of(model)
    recorded = rundir.read_json(run / "run.json").get("model") if run is not None else None
    if isinstance(recorded, str) and recorded:
        return recorded
    place = locate(model)
    if place.adapters:
        return str(place.adapters[-2]) if len(place.adapters) > 1 else place.base_id
    raise UserError(f"nothing says what {model} was made from: name it with --base")


def _cards(run: Path | None, model: str) -> tuple[Scorecard, Scorecard]:
    from bottega.evals.runner import Scorecard

    paths = sorted((run / "scorecards").glob("*.json")) if run is not None else []
    if len(paths) < 2:
        raise UserError(
            f"{model} has no scorecards from before and after its training: name tasks, --tasks T, or held-out text, --tasks "
            "bits_per_byte=FILE"
        )
    first, last = (Scorecard.from_json(rundir.read_json(path)) for path in (paths[0], paths[-1]))
    return first, last


def _some(task: Any, seed: int) -> Iterator[Any]:
    from bottega.evals.tasks import items

    yield from items(task, seed=seed)[:KL_TEXTS]


def _kl(base: str, model: str, texts: Sequence[str], device: str) -> tuple[float, int] | None:
    """KL(base || model) on held-out texts (ours where the tasks have none); None where the two have other tokens."""
    from bottega.models.load import load
    from bottega.models.place import spot_for
    from bottega.models.quant import mean_kl
    from bottega.workshop.held import SAMPLE, module_of

    one, other = (load(name, **spot_for(name, device, note=lambda line: None)) for name in (base, model))
    read = [
        [tool(text)["input_ids"][:KL_TOKENS] for text in (texts or SAMPLE)] for tool in (one.tokenizer, other.tokenizer)
    ]
    sizes = {module.get_input_embeddings().num_embeddings for module in (one.model, other.model)}
    if read[0] != read[1] or len(sizes) > 1:
        return None
    return mean_kl(module_of(one), module_of(other), [ids for ids in read[0] if ids])


def _engine(name: str, template: str | None, device: str, note: Any) -> tuple[Engine, Template]:
    from bottega.evals.engine import Engine
    from bottega.workshop.held import Held, module_of
    from bottega.workshop.use import open_writer

    loaded: Loaded
    loaded, chosen = open_writer(name, template, note, Held.of("full"), device)
    inputs = loaded.attached.inputs if loaded.attached else None
    return Engine(module_of(loaded), loaded.tokenizer, template=chosen, inputs=inputs), chosen


def drawn(files: Sequence[str], limit: int, seed: int) -> list[Any]:
    """At most `limit` samples of files of any format, drawn by seed, in the files' order.

    Raises:
        UserError: a row that cannot be read.
    """
    import numpy as np

    from bottega.data.formats import samples
    from bottega.data.sources import Problem

    found = []
    for file in files:
        for sample in samples(file):
            if isinstance(sample, Problem):
                raise UserError(f"{sample}; mend the row, or leave it out")
            found.append(sample)
    if len(found) > limit:
        chosen = np.random.default_rng(seed).choice(len(found), limit, replace=False)
        found = [found[at] for at in sorted(chosen.tolist())]
    return found


def encoded(samples: Sequence[Any], tokenizer: Any, template: Template) -> list[list[int]]:
    """Token ids of whole samples: texts as they are, chats and preferred answers through the template.

    Raises:
        UserError: a chat that the template refuses.
    """
    from bottega.core.types import Conversation, Preference
    from bottega.data.chat import tokenize

    texts = []
    for sample in samples:
        if isinstance(sample, Preference):
            sample = Conversation(turns=(*sample.prompt, *sample.chosen), tools=sample.tools)
        bound = template.bind(tokenizer)
        texts.append(bound.render(sample) if isinstance(sample, Conversation) else sample.text)
    return [list(ids) for ids, _ in tokenize(texts, tokenizer)] if texts else []


def _kept(audit: Audit, run: Path | None, out: str | None) -> Audit:
    """The audit, written into the run folder and its report, and to `out`."""
    from bottega.workshop import report

    if out is not None:
        rundir.write_json(out, audit.to_json())
    if run is not None:
        rundir.write_json(run / FOLDER / f"{audit.risk}.json", audit.to_json())
        if (run / "report.html").is_file():
            report.write(run)
    return audit
