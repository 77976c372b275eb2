"""The kinds of tasks: each turns items into outcomes by asking an Engine.

Left out: judged tasks (judged.py) and code. A kind is one function and one line of the table.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from bottega.core.errors import UserError
from bottega.core.types import Reply, Row, Tokens, Turn
from bottega.data.prepare import windows
from bottega.data.turns import BadRow, turns_of
from bottega.evals.engine import Engine, Fit, continuation
from bottega.evals.tasks import Item, Task, column, fill
from bottega.grade.scorers import find_scorer


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What came of one item: `value` (a mean over items, or the top of a ratio with `weight` below; not a number: it does not
    count), and what to show. parts: of a conversation judged turn by turn. said: the judge's words."""

    value: float
    weight: float = 1.0
    prompt: str = ""
    truth: str = ""
    reply: str = ""
    stopped: bool | None = None
    parts: tuple[float, ...] = ()
    said: str = ""


def _shown(task: Task, item: Item) -> str:
    """The prompt in plain text, worked examples in front."""
    if task.messages:
        return "\n".join(f"{turn.role}: {turn.content}" for turn in _messages(task, item))
    examples = [
        f"{fill(task.prompt, shot)}{task.delimiter}{_first(column(task.answer, shot))}\n\n" for shot in item.shots
    ]
    return "".join(examples) + fill(task.prompt, item.record)


def _first(truth: Any) -> str:
    return str(truth[0]) if isinstance(truth, list | tuple) and truth else str(truth)


def _turns(task: Task, item: Item) -> list[Turn]:
    turns = [Turn(role="system", content=task.system)] if task.system else []
    for shot in item.shots:
        turns.append(Turn(role="user", content=fill(task.prompt, shot)))
        turns.append(Turn(role="assistant", content=_first(column(task.answer, shot))))
    if task.messages:
        return [*turns, *_messages(task, item)]
    return [*turns, Turn(role="user", content=fill(task.prompt, item.record))]


def _messages(task: Task, item: Item) -> tuple[Turn, ...]:
    """The messages of an item, read as those of a data set."""
    try:
        return turns_of(column(task.messages, item.record), task.messages)
    except BadRow as error:
        raise UserError(f"item {item.key} of task {task.name}: {error}") from error


class Asked(Protocol):
    """What can be asked for replies: an Engine (prompts are ids), or a model behind an endpoint (turns or text)."""

    def plain(self, text: str) -> Any:
        """The prompt of a text that is continued."""

    def chat(self, turns: Sequence[Turn]) -> Any:
        """The prompt of a conversation."""

    def replies(
        self, prompts: Sequence[Any], *, max_tokens: int, stop: Sequence[str], chat: bool, fit: Fit = "refuse"
    ) -> list[Reply]:
        """Greedy replies, in order."""


def prompt_of(engine: Asked, task: Task, item: Item) -> Any:
    """The prompt of an item as the model gets it."""
    return engine.chat(_turns(task, item)) if task.chat else engine.plain(_shown(task, item))


def _truth(task: Task, item: Item) -> Any:
    truth = column(task.answer, item.record)
    if not task.aliases:
        return truth
    more = column(task.aliases, item.record)
    return [*(truth if isinstance(truth, list) else [truth]), *(more if isinstance(more, list) else [more])]


def metric_of(task: Task, default: str, known: Sequence[str] = ()) -> tuple[str, dict[str, Any]]:
    """Name and options of a task's metric.

    Raises:
        UserError: a mapping without a name, or a name that the kind does not know.
    """
    options = dict(task.metric) if isinstance(task.metric, dict) else {"name": task.metric or default}
    name = options.pop("name", None)
    if not isinstance(name, str):
        raise UserError(f"the metric of task {task.name} has no name: write {{name: exact}} or just exact")
    if known and name not in known:
        raise UserError(f"metric {name!r} of task {task.name} is none of a {task.kind} task: choose {', '.join(known)}")
    return name, options


def generation(engine: Asked, task: Task, items: Sequence[Item]) -> list[Outcome]:
    """A greedy reply, scored by the task's metric; one that reaches the end of the model's positions is cut there.

    Raises:
        UserError: a prompt that leaves no room for a reply.
    """
    if task.messages and not (task.chat and task.shots == 0):
        raise UserError(f"task {task.name} asks in messages: set chat: true, and leave shots out")
    score = find_scorer(*metric_of(task, "exact"))
    prompts = [prompt_of(engine, task, item) for item in items]
    replies = engine.replies(prompts, max_tokens=task.max_tokens, stop=task.stop, chat=task.chat, fit="cut")
    outcomes = []
    for item, reply in zip(items, replies):
        truth = _truth(task, item)
        outcomes.append(_outcome(task, item, reply, truth, score(reply._replace(text=reply.text.strip()), truth)))
    return outcomes


def _outcome(task: Task, item: Item, reply: Reply, truth: Any, value: float) -> Outcome:
    shown = _shown(task, item) if task.messages else fill(task.prompt, item.record)
    return Outcome(value=value, prompt=shown, truth=_first(truth), reply=reply.text, stopped=reply.finish == "stop")


def continuations(engine: Engine, task: Task, items: Sequence[Item]) -> list[Outcome]:
    """1 where the greedy tokens after the prompt are exactly those of the answer."""
    metric_of(task, "accuracy", ("accuracy",))
    wanted, prompts = [], []
    for item in items:
        prompt, whole = _pair(engine, task, item, str(column(task.answer, item.record)))
        shared, rest = continuation(prompt, whole)
        prompts.append(list(whole[:shared]))
        wanted.append(list(rest.ids))
    options = {"max_tokens": max(len(ids) for ids in wanted), "stop_ids": (), "batch": engine.batch, "logps": False}
    replies = engine.generator.sample(prompts, **options)
    outcomes = []
    for item, reply, ids in zip(items, replies, wanted):
        text = engine.tokenizer.decode(reply.ids[: len(ids)])
        found = reply._replace(text=text)
        right = float(list(reply.ids[: len(ids)]) == ids)
        outcomes.append(_outcome(task, item, found, column(task.answer, item.record), right))
    return outcomes


def _pair(engine: Engine, task: Task, item: Item, answer: str) -> tuple[list[int], list[int]]:
    """Ids of the prompt, and of the prompt with `answer` behind it."""
    if task.chat:
        prompt = engine.chat(_turns(task, item))
        return prompt, [*prompt, *engine.tokenizer(answer, add_special_tokens=False)["input_ids"]]
    return _join(engine, task, _shown(task, item), answer)


def _join(engine: Engine, task: Task, shown: str, answer: str) -> tuple[list[int], list[int]]:
    space = "" if not shown or shown[-1:].isspace() or answer[:1].isspace() else task.delimiter
    whole = engine.plain(f"{shown}{space}{answer}")
    prompt = engine.plain(shown) if shown else whole[:1]
    return prompt, whole


def multiple_choice(engine: Engine, task: Task, items: Sequence[Item]) -> list[Outcome]:
    """1 where the right choice is the likeliest: by its sum of log-probabilities, or that sum a byte or a character."""
    name, _ = metric_of(task, "accuracy", ("accuracy", "accuracy_per_byte", "accuracy_per_character"))
    rows = [_scored(number, _choices(engine, task, item)) for number, item in enumerate(items)]
    found = engine.logps(rows)
    outcomes = []
    for item, branches in zip(items, found):
        texts = _texts(task, item)
        marks = [float(logps.sum(dtype="float64")) for logps in branches]
        if name != "accuracy":
            sizes = [len(text.encode() if name == "accuracy_per_byte" else text) for text in texts]
            marks = [mark / max(1, size) for mark, size in zip(marks, sizes)]
        best, gold = max(range(len(marks)), key=marks.__getitem__), int(column(task.gold, item.record))
        if not 0 <= gold < len(marks):
            raise UserError(
                f"item {item.key} of {task.name} has gold {gold}, but {len(marks)} choices: correct the row"
            )
        shown = fill(task.prompt, item.record) if not task.contexts else str(column(task.answer, item.record))
        outcomes.append(Outcome(value=float(best == gold), prompt=shown, truth=texts[gold], reply=texts[best]))
    return outcomes


def _texts(task: Task, item: Item) -> list[str]:
    found = column(task.contexts or task.choices, item.record)
    if not isinstance(found, list) or len(found) < 2:
        raise UserError(
            f"item {item.key} of {task.name} needs a list of at least 2 choices, not {found!r}: correct the row"
        )
    return [str(one) for one in found]


def _choices(engine: Engine, task: Task, item: Item) -> list[tuple[list[int], list[int]]]:
    """(prompt, prompt with the choice behind it) in ids, for every choice."""
    if task.contexts:
        answer = str(column(task.answer, item.record))
        return [_join(engine, task, context, answer) for context in _texts(task, item)]
    return [_pair(engine, task, item, text) for text in _texts(task, item)]


def _scored(index: int, pairs: Sequence[tuple[list[int], list[int]]]) -> Row:
    """The choices as branches of what they share at the front, which is computed once; a branch trains after its own
    prompt."""
    starts = [max(1, min(continuation(prompt, whole)[0], len(whole) - 1)) for prompt, whole in pairs]
    least, first = min(starts), pairs[0][1]
    shared = next((at for at in range(least) if any(whole[at] != first[at] for _, whole in pairs)), least)
    branches = tuple(
        Tokens(whole[shared:], [0.0] * (start - shared) + [1.0] * (len(whole) - start))
        for start, (_, whole) in zip(starts, pairs)
    )
    return Row(index=index, prefix=Tokens(first[:shared], [0.0] * shared), branches=branches)


def perplexity(engine: Engine, task: Task, items: Sequence[Item]) -> list[Outcome]:
    """Loss of the answer's tokens after the prompt (whole text without one), in windows of the model's positions.

    The value is the sum of -log p, the weight the number of tokens, or of bytes for bits_per_byte.
    """
    name, _ = metric_of(task, "perplexity", ("perplexity", "loss", "bits_per_byte"))
    rows: list[Row] = []
    owners: list[int] = []
    texts = [str(column(task.answer, item.record)) for item in items]
    bos = engine.tokenizer.bos_token_id
    for number, (item, text) in enumerate(zip(items, texts)):
        prompt, whole = _pair(engine, task, item, text) if task.prompt else ([], engine.plain(text))
        shared = continuation(prompt, whole)[0] if prompt else 1
        tokens = Tokens(whole, [0.0] * shared + [1.0] * (len(whole) - shared))
        for window in windows(tokens, engine.limit(), bos=bos):
            if any(window.trains):
                rows.append(Row(index=number, branches=(window,)))
                owners.append(number)
    losses, counts = [0.0] * len(items), [0] * len(items)
    for owner, branches in zip(owners, engine.logps(rows)):
        losses[owner] -= float(branches[0].sum(dtype="float64"))
        counts[owner] += len(branches[0])
    by_bytes = name == "bits_per_byte"
    outcomes = []
    for number, text in enumerate(texts):
        weight = float(len(text.encode())) if by_bytes else float(counts[number])
        value = losses[number] / math.log(2) if by_bytes else losses[number]
        outcomes.append(Outcome(value=value, weight=weight, prompt=text))
    return outcomes


KINDS: dict[str, Callable[[Any, Task, Sequence[Item]], list[Outcome]]] = {
    "generation": generation,
    "continuation": continuations,
    "multiple_choice": multiple_choice,
    "perplexity": perplexity,
}
REMOTE_KINDS = ("generation", "judged")
"""Those that ask for replies only."""
