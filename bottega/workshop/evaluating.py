"""`bottega eval`: a model on tasks, rated by another model where a task asks for it, and every reply in a table for whoever wants it.

Left out: scores themselves (the evals room), the model behind an endpoint (endpoints.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bottega.core import rundir
from bottega.core.errors import UserError
from bottega.core.journal import Journal
from bottega.core.textio import progress
from bottega.workshop import endpoints
from bottega.workshop.held import Held, samples
from bottega.workshop.item_table import ItemTable
from bottega.workshop.use import need_writer, open_writer

if TYPE_CHECKING:
    from bottega.data.chat import Template
    from bottega.evals.judged import Judge
    from bottega.evals.runner import Scorecard
    from bottega.evals.tasks import Task
    from bottega.models.load import Loaded


@dataclass(frozen=True, kw_only=True, slots=True)
class Judging:
    """How replies are rated and kept.

    judge: the model that rates judged tasks: a folder, a Hub id, garzone, or an endpoint, http://HOST/v1#NAME. judge_key_env: the
    environment variable with its key. table: every reply with its rating goes there (.csv, .jsonl or .xlsx). base: of a taxonomy
    given as data, only the leaves that changed since this git reference.
    """

    judge: str = ""
    judge_key_env: str = ""
    table: str = ""
    base: str = ""


def score(
    loaded: Loaded,
    tasks: Sequence[Task | str],
    *,
    seed: int = 0,
    limit: int | None = None,
    template: Template | None = None,
    name: str = "",
    judge: Judge | None = None,
    told: Callable[..., None] | None = None,
) -> Scorecard:
    """The scorecard of a loaded model.

    Raises:
        UserError: it writes no text.
    """
    from bottega.evals.runner import evaluate as measure

    need_writer(loaded)
    model = loaded.attached or loaded.model
    return measure(
        model, loaded.tokenizer, list(tasks), seed=seed, limit=limit, template=template, name=name, judge=judge, told=told
    )  # fmt: skip


def evaluate(
    model: str,
    tasks: Sequence[str],
    *,
    limit: int | None = None,
    seed: int = 0,
    template: str | None = None,
    out: str | None = None,
    weights: str = "full",
    quiet: bool = False,
    reach: endpoints.Reach | None = None,
    answers: str | None = None,
    device: str = "auto",
    **more: str,
) -> Scorecard:
    """Score a model (Hub id, folder, adapter, run folder, garzone, endpoint) on tasks (names, YAML or jsonl files).

    Args:
        tasks: NAME=FILE gives a task its data; NAME=TAXONOMY asks the seed questions of its leaves.
        limit: at most so many items a task. out: also write the scorecard there.
        weights: as in `generate`; KL and speed on sample texts are shown beside the progress.
        reach: how an endpoint, `http://HOST/v1#NAME`, is reached. answers: a file that keeps its replies, and those of a judge behind
            one, so that none is asked for twice. device: auto, cpu, cuda or cuda:N (core/devices.py). more: fields of `Judging`.

    Raises:
        UserError: a mistake in a task or its data; the model is not there. Unsafe: a pickle or a damaged file.
    """
    judging = Judging(**more)
    # mistakes come before the seconds that loading a model takes
    loaded_tasks = [read_task(task, judging.base) for task in tasks]
    if judging.base and not any(_is_taxonomy(task) for task in tasks):
        raise UserError(
            "--base is for seed questions of a taxonomy, and no task was given one: write seed_answers=TAXONOMY"
        )
    with progress(None, "eval", quiet=quiet) as shown, ItemTable(judging.table) as table:
        with open_judge(judging, reach, answers, device, shown.note, wanted=loaded_tasks) as judge:
            how: dict[str, Any] = {"limit": limit, "seed": seed, "judge": judge, "told": table.add}
            if endpoints.is_endpoint(model):
                given = {
                    "--weights": weights != "full",
                    "--template": template is not None,
                    "--device": device != "auto",
                }
                endpoints.refuse(model, given)
                card = endpoints.evaluate(model, loaded_tasks, reach=reach, note=shown.note, answers=answers, **how)
            else:
                if not endpoints.is_endpoint(judging.judge):
                    endpoints.need_local(model, reach, answers)
                held = Held.of(weights)
                loaded, chosen = open_writer(model, template, shown.note, held, device)
                if not held.ordinary:
                    held.measure(model, loaded, samples(loaded), shown.note)
                    held.measure_speed(loaded, samples(loaded))
                    shown.note(held.line())
                card = score(loaded, loaded_tasks, template=chosen, name=str(model), **how)
    if out is not None:
        rundir.write_json(out, card.to_json())
    return card


def evaluate_text(card: Scorecard) -> str:
    """The scores, a line each."""
    return card.summary()


@contextmanager
def open_judge(
    judging: Judging,
    reach: endpoints.Reach | None,
    answers: str | None,
    device: str,
    note: Callable[[str], None],
    *,
    wanted: Sequence[Task],
) -> Iterator[Judge | None]:
    """Who rates the judged tasks among `wanted`; None where there is none.

    Raises:
        UserError: a judged task without a judge, a judge without a judged task, or one that cannot be opened.
    """
    from bottega.evals.engine import Engine
    from bottega.evals.judged import Judge, need
    from bottega.evals.remote import Remote

    name, key_env = judging.judge, judging.judge_key_env
    if key_env and not endpoints.is_endpoint(name):
        raise UserError(
            f"the judge's key ({key_env}) is for an endpoint, and the judge is {name or 'not named'}: leave it out"
        )
    if not need(wanted, name):
        yield None
    elif endpoints.is_endpoint(name):
        way = replace(reach or endpoints.Reach(), key_env=key_env, stream=False)
        endpoints.opened(name, way)  # what is wrong with the address is said now
        with Journal(answers) if answers is not None else nullcontext() as kept:
            far = Remote(opened=lambda raw: endpoints.opened(name, way, raw=raw), answers=kept)
            yield Judge(asked=far, name=name)
            note(f"judge {name}: {far.questions:,} questions")
    else:
        loaded, template = open_writer(name, None, note, Held.of("full"), device)
        attached = loaded.attached
        module, inputs = (attached.model, attached.inputs) if attached else (loaded.model, None)
        yield Judge(asked=Engine(module, loaded.tokenizer, template=template, inputs=inputs), name=name)


def _is_taxonomy(spec: str) -> bool:
    from bottega.synth.taxonomy import NAME

    _, _, data = spec.partition("=")
    path = Path(data)
    return bool(data) and (
        path.name == NAME and path.is_file() or path.is_dir() and next(path.rglob(NAME), None) is not None
    )


def read_task(spec: str, base: str = "") -> Task:
    """A task as `eval` names it; NAME=TAXONOMY has a row for each seed question.

    Returns: with rows {"prompt", "question", "context", "answer", "leaf", "kind"}; the prompt of a grounded skill has the context in
        front of its question, that of knowledge is the question alone.

    Raises:
        UserError: no such task, or no leaf in the taxonomy. CheckFailed: a leaf has an error.
    """
    from bottega.evals.tasks import load_task

    task = load_task(spec)
    if not _is_taxonomy(spec):
        return task
    from bottega.synth.pipeline_rows import asked_of
    from bottega.workshop.synthesis import chosen_leaves

    rows = []
    for leaf in chosen_leaves(spec.partition("=")[2], base=base or None):
        for seed in leaf.seeds:
            about = {"context": seed.context, "leaf": leaf.path, "kind": leaf.kind}
            for question, answer in seed.pairs:
                prompt = asked_of(leaf.kind, question, seed.context)
                rows.append({"prompt": prompt, "question": question, "answer": answer, **about})
    return replace(task, data=(), rows=tuple(rows), group=task.group or "leaf")
