"""Flows: which blocks a leaf's rows go through, as YAML, checked before anything is asked, and run as one stream.

Left out: the blocks (blocks*.py), InstructLab's files (flow_instructlab.py), the leaves' rows (pipeline_rows.py).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from bottega.core.config import Marks, build, closest, convert, load_yaml
from bottega.core.errors import UserError
from bottega.core.table import REQUIRED, options, resolve
from bottega.synth.blocks import BLOCKS, Block, Context, Stream

FOLDER = Path(__file__).parent / "flows"
Form = Literal["messages", "conversation", "preference", "choices"]
KINDS = ("knowledge", "grounded_skill", "freeform_skill")


@dataclass(frozen=True, kw_only=True, slots=True)
class FlowFile:
    """A flow as it is written. form: what a row becomes; user, assistant: the columns of its turns.

    auxiliary: for each document view (a value of the column `view`) the instructions that ask to make it.
    """

    name: str
    about: str
    blocks: list[dict[str, Any]]
    kinds: tuple[str, ...] = KINDS
    form: Form = "messages"
    user: str = "question"
    assistant: str = "response"
    prompts: Path | None = None
    auxiliary: dict[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """One block of a flow, ready to run."""

    name: str
    kind: str
    block: Block
    calls: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Flow:
    """A flow that was read and checked. `digest` names its content; notes: what of a foreign file was not carried over."""

    name: str
    about: str
    stages: tuple[Stage, ...]
    kinds: tuple[str, ...]
    form: Form = "messages"
    user: str = "question"
    assistant: str = "response"
    prompts: Path | None = None
    auxiliary: dict[str, tuple[str, ...]] = field(default_factory=dict)
    digest: str = ""
    notes: tuple[str, ...] = ()
    trusted: bool = True


def built_in() -> dict[str, Path]:
    """The package's flows by name."""
    return {path.stem: path for path in sorted(FOLDER.glob("*.yaml"))}


def read_flow(source: str | Path, *, samples: int = 30) -> Flow:
    """A flow by name, or from a file (ours, or a pipeline of InstructLab).

    Args:
        samples: rows wanted of a leaf, for pipelines that ask for as many at once.

    Raises:
        UserError: no such flow, or mistakes in it, each with its place.
    """
    known = built_in()
    path = known.get(str(source), Path(source))
    if not path.is_file():
        raise UserError(f"there is no flow {str(source)!r}{closest(str(source), known)}; or give a YAML file")
    raw = path.read_bytes()
    data, marks = load_yaml(raw, file=str(path))
    digest = hashlib.sha256(raw).hexdigest()
    if isinstance(data, dict) and "version" in data:
        from bottega.synth.flow_instructlab import read_pipeline

        return replace(read_pipeline(data, path, samples=samples), digest=digest)
    file = build(FlowFile, data, marks=marks)
    wrong = [kind for kind in file.kinds if kind not in KINDS]
    if wrong:
        raise UserError(f"{path}: kinds has {wrong[0]!r}{closest(wrong[0], KINDS)}")
    stages, mistakes = [], []
    for number, one in enumerate(file.blocks):
        try:
            stages.append(make_stage(dict(one), marks, ("blocks", number)))
        except UserError as error:
            mistakes.append(str(error))
    if mistakes:
        raise UserError("\n".join(mistakes))
    own = path.parent / file.prompts if file.prompts else None
    return Flow(
        name=file.name, about=file.about, stages=tuple(stages), kinds=file.kinds, form=file.form, user=file.user,
        assistant=file.assistant, prompts=own, auxiliary=file.auxiliary, digest=digest, trusted=path in known.values(),
    )  # fmt: skip


def make_stage(given: dict[str, Any], marks: Marks, path: tuple[Any, ...]) -> Stage:
    """A block of a flow file: `block`, `name` and the block's options.

    Raises:
        UserError: no such block, or options that it does not take; with the place.
    """
    place = marks.at(path)
    kind = given.pop("block", None)
    if kind not in BLOCKS:
        raise UserError(f"{place}: block is {kind!r}{closest(str(kind), BLOCKS)}")
    name = given.pop("name", kind)
    known = {key: one for key, one in options(BLOCKS[kind]).items() if (kind, key) != ("generate", "parse")}
    mistakes = [
        f"{marks.at_key((*path, key))}: {kind} has no option {key!r}{closest(key, known)}"
        for key in given
        if key not in known
    ]
    mistakes += [
        f"{place}: {kind} needs {key!r}" for key, one in known.items() if one.default is REQUIRED and key not in given
    ]
    values = {}
    for key, value in given.items():
        if key in known:
            values[key], wrong = convert(known[key].kind, value, marks=marks, path=(*path, key))
            mistakes += wrong
    if mistakes:
        raise UserError("\n".join(mistakes))
    try:
        return stage(name, kind, values)
    except UserError as error:
        raise UserError(f"{place}: {error}") from error


def stage(name: str, kind: str, values: dict[str, Any]) -> Stage:
    """A block with its options, and how many questions it asks about a row."""
    calls = {
        "generate": values.get("n", 1) * max(1, len(values.get("personas", ()))),
        "judge": values.get("votes", 1),
        "agree": values.get("n", 2),
        "continue": values.get("n", 1),
        "confirm": 1,
        "first_message": 1,
        "dialogue": 2 * values.get("turns", 2) - bool(values.get("opening")),
    }.get(kind, 0)
    return Stage(name=name, kind=kind, block=resolve(BLOCKS[kind])(**values), calls=calls)


@asynccontextmanager
async def running(stages: Sequence[Stage], rows: Stream, context: Context):  # type: ignore[no-untyped-def]
    """The stream that comes out of all stages; leaving early closes every one, so that nothing waits in vain."""
    opened: list[Any] = [rows]
    stream = rows
    for one in stages:
        step = context.account.step(one.name)
        taken = _counted(stream, step, "taken")
        made = one.block(taken, replace(context, step=step))
        stream = _counted(made, step, "given")
        opened += [taken, made, stream]
    try:
        yield stream
    finally:
        for generator in reversed(opened):
            await generator.aclose()


async def _counted(rows: Stream, step: Any, what: str) -> Stream:
    async for row in rows:
        setattr(step, what, getattr(step, what) + 1)
        yield row
