"""`bottega merge`: fold an adapter into its base, several adapters into one, several models into one; what it cost in scores.

Left out: the arithmetic (models/blend*.py, models/merge.py).
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bottega.core import rundir
from bottega.core.errors import CheckFailed, UserError
from bottega.core.textio import progress
from bottega.models import spec

if TYPE_CHECKING:
    from bottega.models.locate import Place

DTYPES = ("float32", "bfloat16", "float16")


def merge(
    models: Sequence[str],
    out: str,
    *,
    method: str | None = None,
    base: str | None = None,
    density: float | None = None,
    seed: int = 0,
    rank: int | None = None,
    dtype: str = "float32",
    tasks: Sequence[str] = (),
    against: str | None = None,
    limit: int | None = None,
    quiet: bool = False,
    **how: bool,
) -> dict[str, Any]:
    """Merge models into the folder `out`, which appears only when all checks have passed.

    Args:
        models: one adapter or run: folded into its base, in float32, asserted equal. Several, each NAME or NAME:WEIGHT:
            LoRA adapters of one base become one adapter, whole models of one architecture one model. Without weights,
            linear over models takes the mean; everything else takes 1.
        method: linear, slerp, task_arithmetic, ties or dare (models/blend.py); default linear.
        base: the common start of whole models, for methods that work on differences. density: TIES 0.2, DARE 0.5.
        rank: of a combined adapter; default the sum. dtype: of a folded model; below float32 what it costs is measured.
        how: stream: fold an adapter tensor by tensor, for a base that does not fit into memory.
        tasks: score every model and the result on them. against: what the result may not be worse than; default the
            base, or the first model. limit, seed: as in `bottega eval`.

    Returns:
        {"out", "kind", "method", ...figures, "reports"}.

    Raises:
        UserError: models that cannot be merged with each other. CheckFailed: the result is worse than `against`.
    """
    from bottega.models.locate import locate

    if not models:
        raise UserError("name at least one model to merge")
    if dtype not in DTYPES:
        raise UserError(f"dtype {dtype!r} is not one of {', '.join(DTYPES)}")
    parts = [spec.parse(one) for one in models]
    fold = _folder(len(parts), **how)
    with progress(None, "merge", quiet=quiet) as shown, draft(out) as folder:
        places = [locate(part.name) for part in parts]
        if len(places) == 1:
            if method is not None or parts[0].weight is not None:
                raise UserError(f"{parts[0].name} is one model: a method and weights are for several")
            facts = fold(parts[0].name, places[0], folder, dtype)
        else:
            chosen = method or "linear"
            own = {"ties": 0.2}.get(chosen, 0.5) if density is None else density
            facts = _several(parts, places, folder, base, rank, dtype, {"method": chosen, "density": own, "seed": seed})
        shown.note(f"{facts['kind']}: {facts['method']} of {len(parts)}")
        reports: list[dict[str, Any]] = []
        if tasks:
            start = against or base or (places[0].base_id if places[0].adapters else parts[0].name)
            names = [start, *(part.name for part in parts if part.name != start)]
            reports = _regressions(names, str(folder), out, tasks, limit, seed, quiet)
    return {"out": out, **facts, "reports": reports}


@contextmanager
def draft(out: str) -> Iterator[Path]:
    """A folder beside `out` that is published as `out`, with a manifest, when the block ends without an error.

    Raises:
        UserError: there is something at `out` already.
    """
    target = Path(out)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"{out} is there already; name a folder that is not")
    folder = target.with_name(f".{target.name}.draft")
    shutil.rmtree(folder, ignore_errors=True)
    try:
        with rundir.disk_errors(target):
            folder.mkdir(parents=True)
            yield folder
            rundir.write_manifest(folder)
            rundir.publish(folder, target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _folder(count: int, *, stream: bool = False) -> Callable[..., dict[str, Any]]:
    """The way in which one adapter is folded."""
    if stream and count > 1:
        raise UserError("stream is for folding one adapter; several models are merged tensor by tensor anyway")
    return _fold_streamed if stream else _fold


def _fold(name: str, place: Place, folder: Path, dtype: str) -> dict[str, Any]:
    """An adapter into its base."""
    from bottega.data.chat import Template
    from bottega.models import merge as merging
    from bottega.models.load import DTYPES as KINDS
    from bottega.models.load import load
    from bottega.workshop.build import beside

    if not place.adapters:
        raise UserError(f"{name} is a whole model: there is no adapter to fold; name several to merge them")
    loaded = load(name)
    assert loaded.attached is not None
    merged, facts = merging.merge(loaded.attached)
    if dtype != "float32":
        facts |= merging.cast(merged, KINDS[dtype])
    merging.save_model(merged, loaded.tokenizer, folder)
    beside(folder, loaded, Template.of(loaded.tokenizer))
    return {"kind": "model", "method": "fold", **facts}


def _fold_streamed(name: str, place: Place, folder: Path, dtype: str) -> dict[str, Any]:
    """An adapter into a base whose layers are never all in memory."""
    from bottega.data.chat import Template
    from bottega.models import merge_stream
    from bottega.models.load import DTYPES as KINDS
    from bottega.models.load import load
    from bottega.workshop.build import beside

    if len(place.adapters) != 1:
        what = "a whole model" if not place.adapters else "an adapter on an adapter"
        raise UserError(f"{name} is {what}; stream folds one adapter that lies right on its base")
    facts = merge_stream.fold(place.base, place.folder, folder, KINDS[dtype])
    _copy(place.base, folder)
    config = rundir.read_json(folder / "config.json")
    rundir.write_json(folder / "config.json", {**config, "dtype": dtype})
    loaded = load(name, stream=True)
    loaded.tokenizer.save_pretrained(str(folder))
    assert loaded.attached is not None
    facts |= merge_stream.proven(loaded.attached.model, load(folder, stream=True).model, exact=dtype == "float32")
    beside(folder, loaded, Template.of(loaded.tokenizer))
    return {"kind": "model", "method": "fold", **facts}


def _several(
    parts: Sequence[spec.Part],
    places: Sequence[Place],
    folder: Path,
    base: str | None,
    rank: int | None,
    dtype: str,
    options: dict[str, Any],
) -> dict[str, Any]:
    if dtype != "float32":
        raise UserError(f"dtype {dtype} is for folding one adapter; several keep the dtype of the first")
    if all(place.adapters for place in places):
        if base is not None:
            raise UserError("adapters bring their base: leave --base out")
        return _adapters(parts, places, folder, rank, options)
    if any(place.adapters for place in places):
        adapted = next(part.name for part, place in zip(parts, places) if place.adapters)
        raise UserError(f"{adapted} is an adapter and others are whole models; fold it first: bottega merge {adapted}")
    if rank is not None:
        raise UserError("rank is for adapters; leave it out")
    return _models(parts, places, folder, base, options)


def _adapters(
    parts: Sequence[spec.Part], places: Sequence[Place], folder: Path, rank: int | None, options: dict[str, Any]
) -> dict[str, Any]:
    from bottega.models.blend_adapters import combine

    _, name = spec.shared_base(places)
    weights = [part.weight_or(1.0) for part in parts]
    facts = combine([p.folder for p in places], folder, weights=weights, rank=rank, base=name, **options)
    _copy(places[0].folder, folder)
    return {"kind": "adapter", **options, "weights": weights, **facts}


def _models(
    parts: Sequence[spec.Part], places: Sequence[Place], folder: Path, base: str | None, options: dict[str, Any]
) -> dict[str, Any]:
    from bottega.models.blend import NEED_BASE
    from bottega.models.blend_files import merge_files
    from bottega.models.locate import locate
    from bottega.models.safety import check_configs

    method = options["method"]
    if (base is None) == (method in NEED_BASE):
        raise UserError(
            f"{method} needs the common start of the models: --base MODEL"
            if base is None
            else f"{method} takes no base; leave --base out, or use {', '.join(NEED_BASE)}"
        )
    start = None if base is None else locate(base)
    if start is not None and start.adapters:
        raise UserError(f"the base {base} is an adapter; name a whole model")
    usual = 1.0 / len(parts) if method == "linear" else 1.0
    weights = [part.weight_or(usual) for part in parts]
    for place in places:
        check_configs(place.base)
    under = None if start is None else start.base
    count = merge_files([place.base for place in places], folder, weights=weights, base=under, **options)
    _copy(places[0].base, folder)
    return {"kind": "model", **options, "weights": weights, "tensors": count}


def _copy(source: Path, folder: Path) -> None:
    """Configs, tokenizer and template of the first one; never weights, manifests or code."""
    skip = ("adapter_config.json", rundir.MANIFEST, "model.safetensors.index.json", "README.md")
    for path in sorted(source.iterdir()):
        wanted = path.suffix in (".json", ".jinja", ".txt", ".model") and path.name not in skip
        if wanted and path.is_file() and not (folder / path.name).exists():
            shutil.copyfile(path, folder / path.name)


def _regressions(
    names: Sequence[str], merged: str, out: str, tasks: Sequence[str], limit: int | None, seed: int, quiet: bool
) -> list[dict[str, Any]]:
    """The result against each of `names`, the first of which it may not be worse than."""
    from dataclasses import replace

    from bottega.evals.compare import compare
    from bottega.workshop.evaluating import evaluate

    after = replace(evaluate(merged, tasks, limit=limit, seed=seed, quiet=quiet), model=out)
    reports = []
    for name in names:
        report = compare(evaluate(name, tasks, limit=limit, seed=seed, quiet=quiet), after, seed=seed)
        worse = [one for one in report.tasks if one.verdict == "worse"]
        if name == names[0] and worse:
            one = worse[0]
            raise CheckFailed(
                f"the merged model is worse than {name} on {one.task} ({one.metric} {one.before:.3f} -> {one.after:.3f}, "
                f"p {one.p_corrected:.2g}); it was not kept: change weights or method, or compare --against another"
            )
        reports.append(report.to_json())
    return reports


def merge_text(facts: dict[str, Any]) -> str:
    """What was made and how it scores, for people."""
    skip = ("out", "kind", "method", "reports")
    figures = ", ".join(f"{key} {_short(value)}" for key, value in facts.items() if key not in skip)
    lines = [f"{facts['out']}: {facts['kind']}, {facts['method']}" + (f" ({figures})" if figures else "")]
    for report in facts["reports"]:
        lines.append(f"against {report['before']}:")
        for one in report["tasks"]:
            lines.append(
                f"  {one['task']}: {one['metric']} {one['before']:.3f} -> {one['after']:.3f} "
                f"(difference {one['difference']['value']:+.3f}, n={one['difference']['n']}): {one['verdict']}"
            )
    return "\n".join(lines)


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
