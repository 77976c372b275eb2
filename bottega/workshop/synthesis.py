"""The verb `synth`: a taxonomy, a teacher and a folder become rows to train on, rejects, a funnel and a manifest.

Left out: blocks, flows and teachers themselves (the synth room, models/remote.py); this is their wiring.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bottega import __version__
from bottega.core import rundir
from bottega.core.config import build, plain
from bottega.core.errors import UserError
from bottega.core.textio import progress
from bottega.workshop.synthesis_text import funnel_of
from bottega.workshop.synthesis_text import synth_text as synth_text
from bottega.workshop.teachers import TeacherOptions, can_continue, open_teacher

if TYPE_CHECKING:
    from bottega.core.types import Leaf
    from bottega.synth.flow import Flow
    from bottega.synth.pipeline import Job
    from bottega.synth.pipeline_account import Account
    from bottega.synth.teacher import Asker

USUAL = {"knowledge": "knowledge", "grounded_skill": "grounded_skill", "freeform_skill": "freeform_skill"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """What is made, and from what.

    language: of all leaves; empty: each leaf's own. documents: a folder for the knowledge leaves, `fetch` for the sources that they
    name themselves (git, a path), or `contexts` for their seeds' own. chunk: characters. held_out: share of seeds for test.jsonl.
    paraphrases: other wordings of each of those, 0 to 4. against: evaluation files.
    """

    language: str = ""
    documents: str = ""
    chunk: int = 4000
    held_out: float = 0.2
    paraphrases: int = 2
    against: tuple[str, ...] = ()
    budget_calls: int | None = None
    budget_tokens: int | None = None
    budget_minutes: float | None = None
    budget_cost: float | None = None
    price_in: float = 0.0
    price_out: float = 0.0
    estimate: bool = False


def synth(
    taxonomy: str,
    *,
    teacher: str,
    out: str,
    flow: str | None = None,
    base: str | None = None,
    samples: int = 30,
    seed: int = 0,
    layout: str | None = None,
    only: Sequence[str] = (),
    exclude: Sequence[str] = (),
    quiet: bool = False,
    **more: Any,
) -> dict[str, Any]:
    """Make training data from a taxonomy with a teacher; the same command goes on where it was stopped.

    Args:
        taxonomy: a folder of leaves, one leaf, or a plain folder of documents.
        teacher: `template`, an endpoint's address, or a model of this machine.
        flow: a flow's name or file; default: the one for the leaf's kind. base: only leaves changed since this git reference.
        samples: rows wanted of each leaf. layout: `instructlab` for its file names and recipes too.
        only, exclude: globs of leaf paths. more: fields of `Work` and `TeacherOptions`.

    Returns: {"exit_code", "out", "leaves", "kept", "rejected", "calls", "estimate", "failed", "notes"}; exit code 9: some leaf has
        no row, or a budget ended.

    Raises:
        UserError: nothing to do, a teacher that does not answer, or options that do not go together.
    """
    from bottega.synth.pipeline_held import check_count

    work = build(Work, {name: value for name, value in more.items() if name in {f.name for f in fields(Work)}})
    options = build(
        TeacherOptions,
        {k.removeprefix("teacher_"): v for k, v in more.items() if k not in {f.name for f in fields(Work)}},
    )
    if samples < 1:
        raise UserError(f"samples is {samples}, but must be at least 1")
    check_count(work.paraphrases)
    leaves = chosen_leaves(taxonomy, base=base, only=only, exclude=exclude)
    responder, revision = open_teacher(teacher, options)
    folder = Path(out)
    with rundir.lock(folder), progress(len(leaves), "synth", quiet=quiet) as shown:
        rundir.sweep(folder)
        jobs, broken = jobs_of(taxonomy, leaves, flow, work, samples=samples, seed=seed)
        _need_continuing(jobs, teacher, options)
        for note in dict.fromkeys(note for job in jobs for note in job.flow.notes):
            shown.note(f"{note}: the endpoint's own template and settings are used")
        facts = {"teacher": responder.identity, "revision": revision, "seed": seed, "samples": samples}
        run = _Run(folder=folder, jobs=jobs, broken=broken, facts=facts, work=work, layout=layout, shown=shown)
        return asyncio.run(run.go(responder, revision))


def _need_continuing(jobs: Sequence[Job], teacher: str, options: TeacherOptions) -> None:
    """Raises UserError where a flow lets the teacher go on with a text and the teacher can only be talked to."""
    flows = [job.flow.name for job in jobs if any(stage.kind == "continue" for stage in job.flow.stages)]
    if flows and not can_continue(teacher, options):
        raise UserError(
            f"the flow {flows[0]} lets the teacher go on with a text, which {teacher} does not do by chat: give a model of this "
            "machine, an endpoint with --api completions, or another --flow"
        )


def chosen_leaves(
    taxonomy: str, *, base: str | None = None, only: Sequence[str] = (), exclude: Sequence[str] = ()
) -> list[Leaf]:
    """The leaves to work on, sound ones, in the order of their paths.

    Raises:
        UserError: none is left. CheckFailed: one has an error.
    """
    from bottega.synth.taxonomy import read_taxonomy

    paths = None
    if base is not None:
        from bottega.synth.taxonomy_git import diff

        paths = diff(taxonomy, base=base)["changed"]
        if not paths:
            raise UserError(
                f"no leaf of {taxonomy} changed since {base}; give another --base, or leave it out for all leaves"
            )

    def matches(path: str, globs: Sequence[str]) -> bool:
        return any(fnmatchcase(path, one) or path.startswith(one.rstrip("/") + "/") for one in globs)

    found = read_taxonomy(taxonomy, paths=paths) or ([_of_documents(Path(taxonomy))] if base is None else [])
    kept = [leaf for leaf in found if (not only or matches(leaf.path, only)) and not matches(leaf.path, exclude)]
    if not kept:
        raise UserError(
            f"of {len(found)} leaves in {taxonomy} none is left; see `bottega taxonomy tree`, loosen --only or --exclude"
        )
    return kept


def _of_documents(folder: Path) -> Leaf:
    """A folder without leaves as one: what is asked about its documents needs nobody's seeds.

    Raises:
        UserError: it holds no documents.
    """
    from bottega.core.types import Leaf
    from bottega.data.documents import SUFFIXES

    if not folder.is_dir() or not any(path.suffix.lower() in SUFFIXES for path in folder.rglob("*") if path.is_file()):
        raise UserError(
            f"{folder} holds neither leaves (qna.yaml) nor documents ({' '.join(SUFFIXES)}); name another folder"
        )
    name = folder.resolve().name
    return Leaf(path=name, kind="knowledge", version=3, created_by="", about="", seeds=(), patterns=("*",))


def jobs_of(
    taxonomy: str, leaves: Sequence[Leaf], flow: str | None, work: Work, *, samples: int, seed: int
) -> tuple[list[Job], dict[str, str]]:
    """A job a leaf, and why some leaves have none (documents that cannot be read)."""
    from bottega.data.clean.duplicates import evaluation_texts
    from bottega.synth.flow import read_flow
    from bottega.synth.pipeline import Job, hold_out
    from bottega.synth.pipeline_leaks import Known
    from bottega.synth.pipeline_rows import language_of_leaf

    flows: dict[str, Flow] = {}
    missing = [path for path in work.against if not Path(path).exists()]
    if missing:
        raise UserError(f"there is no evaluation file {missing[0]}; check --against")
    known = {Path(path).name: Known(evaluation_texts(Path(path))) for path in work.against}
    jobs, broken = [], {}
    for leaf in leaves:
        name = flow or USUAL[leaf.kind]
        if name not in flows:
            flows[name] = read_flow(name, samples=samples)
        if leaf.kind not in flows[name].kinds:
            broken[leaf.path] = f"the flow {flows[name].name} is not for leaves of the kind {leaf.kind}"
            continue
        shown, held = hold_out(leaf, work.held_out, seed)
        try:
            chunks = tuple(documents(Path(taxonomy), leaf, work)) if leaf.kind == "knowledge" else ()
        except UserError as error:
            broken[leaf.path] = str(error).removeprefix(f"{leaf.path}: ")
            continue
        job = Job(
            leaf=shown, flow=flows[name], samples=samples, seed=seed, language=work.language or language_of_leaf(leaf), chunks=chunks,
            held=held, evaluations=known,
        )  # fmt: skip
        jobs.append(job)
    if not jobs:
        raise UserError("; ".join(f"{path}: {why}" for path, why in list(broken.items())[:3]))
    return jobs, broken


def documents(taxonomy: Path, leaf: Leaf, work: Work) -> list[str]:
    """The chunks of a knowledge leaf's documents, headings in front.

    Raises:
        UserError: none can be read.
    """
    from bottega.data.chunk import chunk
    from bottega.synth.leafdocs import gather

    if work.documents == "contexts" and not leaf.seeds:
        raise UserError("there are no seeds whose contexts could be read; leave --documents contexts out")
    if work.documents == "contexts":
        texts = [seed.context for seed in leaf.seeds]
    elif not leaf.repo and not work.documents:
        texts = _folder_texts(taxonomy, leaf)
    elif work.documents == "fetch":
        texts = [one.text for one in gather(leaf, root=taxonomy).documents]
    elif work.documents:
        texts = _folder_texts(Path(work.documents), leaf)
    else:
        raise UserError(
            f"the documents of {leaf.path} lie at {leaf.repo}; --documents fetch reads them there, --documents FOLDER a copy, "
            "--documents contexts takes the seeds' own"
        )
    return [piece.titled() for text in texts for piece in chunk(text, size=work.chunk) if len(piece.text.split()) >= 5]


def _folder_texts(folder: Path, leaf: Leaf) -> list[str]:
    from bottega.data.documents import SUFFIXES, Unreadable, read_text

    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix.lower() in SUFFIXES)
    named = [p for p in paths if any(fnmatchcase(p.relative_to(folder).as_posix(), one) for one in leaf.patterns)]
    if not named:
        raise UserError(
            f"{folder} holds no document that the patterns of {leaf.path} name ({', '.join(leaf.patterns)})"
        )
    try:
        return [read_text(path) for path in named]
    except Unreadable as error:
        raise UserError(str(error)) from error


@dataclass(kw_only=True)
class _Run:
    """One call of the verb, from the first question to the files."""

    folder: Path
    jobs: Sequence[Job]
    broken: dict[str, str]
    facts: dict[str, Any]
    work: Work
    layout: str | None
    shown: Any

    async def go(self, responder: Any, revision: str) -> dict[str, Any]:
        from bottega.core.journal import Journal
        from bottega.synth.pipeline_estimate import estimate, pilot
        from bottega.synth.teacher import Asker, Budget, smoke

        work = self.work
        budget = Budget(
            calls=work.budget_calls, tokens=work.budget_tokens, minutes=work.budget_minutes, cost=work.budget_cost,
            price_in=work.price_in, price_out=work.price_out,
        )  # fmt: skip
        with Journal(self.folder / "journal.sqlite") as journal:
            async with responder:
                asker = Asker(responder, journal, budget=budget, revision=revision, seed=self.facts["seed"])
                self.shown.note(estimate(self.jobs, asker, paraphrases=work.paraphrases).line())
                await smoke(asker)
                expected = await pilot(self.jobs, asker, paraphrases=work.paraphrases)
                self.shown.note(expected.line())
                if work.estimate:
                    await asker.finish()
                    return {"exit_code": 0, "out": str(self.folder), "estimate": plain(expected)}
                return await self.make(asker, expected)

    async def make(self, asker: Asker, expected: Any) -> dict[str, Any]:
        from bottega.synth.pipeline import run_all
        from bottega.synth.pipeline_account import Account
        from bottega.synth.pipeline_files import Part, assemble, remove_parts, write_rejects
        from bottega.synth.pipeline_held import paraphrased

        began = time.time()
        done: list[Account] = []

        def told(account: Account) -> None:
            done.append(account)
            self.shown.update(len(done), {})

        refused: list[dict[str, Any]] = []
        self.jobs, reworded = await paraphrased(self.jobs, asker, self.work.paraphrases, rejected=refused.append)
        write_rejects(self.folder / "test_rejects.jsonl", refused)
        parts = [Part(self.folder, number) for number in range(len(self.jobs))]
        accounts = await run_all(self.jobs, asker, lambda number: parts[number], told=told)
        rows = assemble(self.folder, self.jobs, accounts, parts)
        remove_parts(self.folder)
        accounts += [Account(leaf=leaf, sink=_never, failed=why) for leaf, why in self.broken.items()]
        return self.finish(asker, expected, accounts, rows, began, reworded)

    def finish(
        self,
        asker: Asker,
        expected: Any,
        accounts: Sequence[Account],
        rows: dict[str, int],
        began: float,
        reworded: Sequence[Account],
    ) -> dict[str, Any]:
        from bottega.synth.pipeline_files import lines, write_manifest
        from bottega.synth.pipeline_report import report

        funnel = funnel_of(accounts)
        rundir.write_json(self.folder / "funnel.json", funnel)
        train = lines([self.folder / "train.jsonl"])
        numbers = report(train, self.jobs, accounts[: len(self.jobs)])
        other_words = {one.leaf: {"asked": one.asked, "kept": one.kept, "rejected": one.reasons()} for one in reworded}
        rundir.write_json(self.folder / "report.json", numbers | {"paraphrases": other_words})
        names = [f"{name}.jsonl" for name in ("train", "test", "rejects", "test_rejects", "auxiliary", "documents")]
        names += ["funnel.json", "report.json"]
        if self.layout == "instructlab":
            from bottega.synth.pipeline_layout import write_layout

            names += write_layout(
                self.folder, self.jobs, teacher=self.facts["teacher"], stamp=asker.journal.fact("began", _stamp())
            )
        spent = asker.journal.spent()
        cost = asker.budget.price(spent.prompt_tokens, spent.completion_tokens)
        circumstances = {
            "began": began, "seconds": round(time.time() - began, 1), "host": socket.gethostname(), "calls": spent.calls,
            "prompt_tokens": spent.prompt_tokens, "completion_tokens": spent.completion_tokens, "cost": cost,
            "from_journal": asker.usage.from_journal, "estimate": plain(expected),
            "unanswered": dict(sorted(asker.usage.unanswered.items())),
        }  # fmt: skip
        write_manifest(self.folder, {**self.facts, **self.inputs(), "rows": rows}, names, circumstances)
        ended = [account for account in accounts if account.failed or account.why]
        return {
            "exit_code": 9 if any(account.partial for account in accounts) else 0,
            "out": str(self.folder),
            "leaves": len(accounts),
            **{name: funnel["total"][name] for name in ("kept", "rejected")},
            "calls": asker.usage.calls,
            "from_journal": asker.usage.from_journal,
            "estimate": plain(expected),
            "ended": {account.leaf: account.failed or account.why for account in ended},
            "funnel": funnel,
        }

    def inputs(self) -> dict[str, Any]:
        """What the rows depend on, by hash."""
        from bottega.synth.flow_prompts import FOLDER, LANGUAGES

        prompts = {code: rundir.sha256(FOLDER / f"{code}.yaml") for code in LANGUAGES}
        return {
            "bottega": __version__,
            "flows": {job.flow.name: job.flow.digest for job in self.jobs},
            "prompts": prompts,
            "leaves": {
                job.leaf.path: _digest([plain(job.leaf), list(job.chunks), list(job.held)]) for job in self.jobs
            },
        }


def _never(row: dict[str, Any]) -> None:
    raise AssertionError(f"a leaf without a flow rejects nothing: {row}")


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(plain(value), sort_keys=True).encode()).hexdigest()


def _stamp() -> str:
    return time.strftime("%Y-%m-%dT%H_%M_%S", time.gmtime())
