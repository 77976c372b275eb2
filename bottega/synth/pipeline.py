"""A taxonomy's leaves through their flows: each leaf on its own, in order, whatever happens to the others.

Left out: files on disk (pipeline_files.py), the estimate (pipeline_estimate.py), who the teacher is (the workshop).
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any, Protocol

from bottega.core.errors import UserError
from bottega.core.types import Leaf
from bottega.synth.blocks import Context, Stream
from bottega.synth.flow import Flow, Stage, running
from bottega.synth.flow_prompts import Prompts
from bottega.synth.pipeline_account import Account, Row, Step
from bottega.synth.pipeline_leaks import Known, contamination
from bottega.synth.pipeline_rows import PER_SAMPLE, about_row, first_rows, rounds
from bottega.synth.teacher import Asker, BudgetEnds, TeacherGone

AT_ONCE = 4
"""Leaves in work at once: the last rows of one need not wait for their turn alone."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One leaf with all that its rows depend on. held: seeds that nobody is shown; paraphrases: those in other words; chunks: its
    documents, cut."""

    leaf: Leaf
    flow: Flow
    samples: int
    seed: int
    language: str
    chunks: tuple[str, ...] = ()
    held: tuple[tuple[str, str, str], ...] = ()
    paraphrases: tuple[tuple[str, str, str], ...] = ()
    evaluations: Mapping[str, Known] = field(default_factory=dict)

    def prompts(self) -> Prompts:
        return Prompts(language=self.language, own=self.flow.prompts)


class Writer(Protocol):
    """Where a leaf's rows go."""

    def __enter__(self) -> Writer:
        """Open."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""

    def row(self, row: dict[str, Any]) -> None:
        """A row that is kept."""

    def reject(self, row: dict[str, Any]) -> None:
        """A row that is not."""

    def auxiliary(self, row: dict[str, Any]) -> None:
        """A rewriting task that came of the documents' views."""


def hold_out(leaf: Leaf, share: float, seed: int) -> tuple[Leaf, tuple[tuple[str, str, str], ...]]:
    """The leaf without a share of its seeds, and the (question, answer, context) of those; one seed always stays.

    Which ones is drawn by a hash of each seed's own text, so that another seed beside it changes little.
    """
    count = min(round(len(leaf.seeds) * share + 1e-9), len(leaf.seeds) - 1) if leaf.seeds else 0
    if share > 0 and len(leaf.seeds) > 1:
        count = max(count, 1)
    draws = sorted(
        leaf.seeds,
        key=lambda one: hashlib.sha256(f"{seed}|{one.context}|{one.pairs}".encode("utf-8", "replace")).digest(),
    )
    out = draws[:count]
    held = tuple((question, answer, one.context) for one in leaf.seeds if one in out for question, answer in one.pairs)
    rest = tuple(one for one in leaf.seeds if one not in out)
    return replace(leaf, seeds=rest), held


async def run_leaf(job: Job, asker: Any, writer: Writer, *, narrow: bool = False) -> Account:
    """One leaf's rows: until enough are kept, or nothing new comes, or a budget ends. Its failure is its own.

    `narrow`: one row at a time, to its end.

    Returns: its account; `failed` says what broke, `why` what ended it before it had all its rows.
    """
    account = Account(leaf=job.leaf.path, sink=writer.reject)
    stages = (*job.flow.stages, guard(job))
    seen: set[str] = set()

    async def counted() -> Stream:
        first, most = first_rows(job.leaf, job.chunks, seed=job.seed), PER_SAMPLE * job.samples
        async for row in rounds(first, lambda: account.kept, most):
            account.asked += 1
            yield row

    context = Context(
        account=account, step=Step(name=""), asker=asker, language=job.language,
        wanted=lambda: 1 if narrow else job.samples - account.kept, prompts=job.prompts(),
    )  # fmt: skip
    try:
        async with running(stages, counted(), context) as stream:
            async for row in stream:
                writer.row(finished(job, row, asker.teacher.identity))
                account.kept += 1
                for task in rewritings(job, row, seen):
                    writer.auxiliary(task)
                if account.kept >= job.samples:
                    break
    except (BudgetEnds, TeacherGone) as error:
        account.why, account.cut = str(error), True
    except UserError as error:
        account.failed = str(error)
    if not account.why and not account.failed and account.kept < job.samples:
        account.why = "nothing new came any more" if account.kept else "every row was rejected"
    assert account.sums(), f"the funnel of {account.leaf} does not sum: {account.to_json()}"
    return account


def guard(job: Job) -> Stage:
    """The last stage: nothing of the held-out seeds or of an evaluation set gets through."""
    sets = {"held-out seeds": Known(question for question, _, _ in (*job.held, *job.paraphrases)), **job.evaluations}
    columns = (job.flow.user, job.flow.assistant, "chosen", "question", "stem")
    return Stage(name="held out", kind="contamination", block=contamination(sets, columns))


def finished(job: Job, row: Row, teacher: str) -> dict[str, Any]:
    """A row as it is written: what it teaches in the flow's form, and its metadata."""
    leaf = job.leaf
    metadata = {
        "leaf": leaf.path,
        "kind": leaf.kind,
        "domain": leaf.domain,
        "contributor": leaf.created_by,
        "licences": list(leaf.licences),
        "teacher": teacher,
        "flow": job.flow.name,
        "language": job.language,
        **about_row(row),
    }
    about = {"leaf": leaf.path} if job.flow.form == "choices" else {}  # an evaluation tells its items apart by it
    return {
        **form_of(job.flow, row),
        **about,
        "metadata": {name: value for name, value in metadata.items() if value not in ("", [])},
    }


def rewritings(job: Job, row: Row, seen: set[str]) -> Iterator[dict[str, Any]]:
    """The task to make the view of the document from which this row came, once a document and view."""
    view = str(row.get("view", row.get("dataset_type", "")))
    original = row.get("base_document", row.get("raw_document", row.get("document")))
    written = row.get("seen_document", row.get("document"))
    name = f"{view}|{hashlib.sha256(str(written).encode('utf-8', 'replace')).hexdigest()}"
    if view in job.flow.auxiliary and name not in seen:
        seen.add(name)
        choices = job.flow.auxiliary[view]
        asked = f"{choices[len(seen) % len(choices)]}\n\n{original}"
        messages = [{"role": "user", "content": asked}, {"role": "assistant", "content": str(written)}]
        yield {
            "messages": messages,
            "unmask": False,
            "metadata": {"leaf": job.leaf.path, "kind": "auxiliary", "view": view},
        }


def form_of(flow: Flow, row: Row) -> dict[str, Any]:
    """The flow's form of a row.

    Raises:
        UserError: the flow ends without the columns that its form needs.
    """
    needed = {
        "conversation": ("messages",),
        "choices": ("stem", "choices", "gold"),
        "preference": (flow.user, "chosen", "rejected"),
    }
    missing = [name for name in needed.get(flow.form, (flow.user, flow.assistant)) if name not in row]
    if missing:
        raise UserError(
            f"the flow {flow.name} ends without the column {missing[0]!r}, which its form {flow.form} needs"
        )
    if flow.form == "conversation":
        return {"messages": row["messages"], "unmask": False}
    if flow.form == "choices":
        return {"query": row["stem"], "choices": row["choices"], "gold": row["gold"]}
    user = {"role": "user", "content": str(row[flow.user]).strip()}
    if flow.form == "preference":
        chosen, rejected = ({"role": "assistant", "content": str(row[name]).strip()} for name in ("chosen", "rejected"))
        return {"prompt": [user], "chosen": [chosen], "rejected": [rejected], "margin": row["margin"]}
    return {"messages": [user, {"role": "assistant", "content": str(row[flow.assistant]).strip()}], "unmask": False}


async def run_all(
    jobs: Sequence[Job],
    asker: Asker,
    writers: Callable[[int], Writer],
    *,
    told: Callable[[Account], None] | None = None,
) -> list[Account]:
    """All leaves, a few at once; the accounts in the order of the jobs. A budget that ends stops those not begun."""
    places = asyncio.Semaphore(AT_ONCE)

    async def one(number: int, job: Job) -> Account:
        async with places:
            with writers(number) as writer:
                account = await run_leaf(job, asker, writer)
            if told is not None:
                told(account)
            return account

    accounts = await asyncio.gather(*(one(number, job) for number, job in enumerate(jobs)))
    await asker.finish()
    return list(accounts)
