"""The reward `judge`: another model is asked what an answer is worth; a model of this machine, or one behind an endpoint.

Left out: what a verdict's words mean (grade/judge.py), judging two answers against each other.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bottega.core.errors import Unanswered, UserError
from bottega.core.types import Reply, Turn
from bottega.grade.judge import verdict
from bottega.grade.rewards import Answer
from bottega.models.remote import ask_all
from bottega.workshop.endpoints import Reach, is_endpoint, opened
from bottega.workshop.teachers import TeacherOptions, open_teacher

ASK = (
    "Here are a question and an answer. How good is the answer, from {{ low }} (useless) to {{ high }} (right and well said)? "
    "Say the number alone.\n\nQuestion:\n{{ prompt }}\n\nAnswer:\n{{ reply }}"
)
HOLE = re.compile(r"\{\{ *(\w+) *\}\}")


def reward_judge(
    *,
    model: str,
    ask: str = ASK,
    low: float = 0.0,
    high: float = 10.0,
    max_tokens: int = 16,
    key_env: str = "",
    concurrency: int = 32,
) -> Callable[[Sequence[Answer]], list[float | None]]:
    """What a model says an answer is worth, 0 to 1: (said - low) / (high - low); YES is 1, NO is 0; no opinion where it says neither.

    model: a folder, a Hub id, garzone, or an endpoint, http://HOST/v1#NAME. ask: what it is asked, with {{ prompt }}, {{ reply }},
    {{ answer }} (the truth), {{ low }}, {{ high }} and the row's other columns. It is asked once about each answer, greedily.

    Raises:
        UserError: bounds that are none, a text that does not show the reply, or a model that cannot be opened.
    """
    if not low < high:
        raise UserError(f"the reward judge goes from low {low:g} to high {high:g}: low must be below high")
    if "reply" not in HOLE.findall(ask):
        raise UserError(
            f"the reward judge asks {ask[:60]!r}, which does not show the answer: put {{{{ reply }}}} into `ask`"
        )
    reach = Reach(key_env=key_env, concurrency=concurrency)
    remote = is_endpoint(model)
    here: Any = None if remote else open_teacher(model, TeacherOptions())[0]
    if remote:
        opened(model, reach)  # what is wrong with the address is said now
    said: dict[str, float | None] = {}
    sampling = {"max_tokens": max_tokens, "temperature": 0.0}

    def score(answers: Sequence[Answer]) -> list[float | None]:
        asked = [_question(ask, answer, low, high) for answer in answers]
        new = [text for text in dict.fromkeys(asked) if text not in said]
        responder = opened(model, reach) if remote else here  # a client belongs to one event loop
        found = asyncio.run(ask_all(responder, [([Turn(role="user", content=text)], sampling) for text in new]))
        lost = [one for one in found if isinstance(one, Unanswered)]
        if lost and len(lost) == len(new):
            raise UserError(
                f"the judge {model} answered none of {len(lost)} questions, the first for this reason: {lost[0]}"
            )
        for text, one in zip(new, found, strict=True):
            value = verdict(one.text, low=low, high=high) if isinstance(one, Reply) else None
            said[text] = None if value is None else (value - low) / (high - low)
        return [said[text] for text in asked]

    return score


def _question(ask: str, answer: Answer, low: float, high: float) -> str:
    known: Mapping[str, Any] = {
        **answer.row,
        "prompt": answer.prompt,
        "reply": answer.reply,
        "answer": answer.truth,
        "low": f"{low:g}",
        "high": f"{high:g}",
    }
    missing = [name for name in HOLE.findall(ask) if known.get(name) is None]
    if missing:
        raise UserError(
            f"the reward judge asks with {{{{ {missing[0]} }}}}, which the row of {answer.prompt[:60]!r} does not have: "
            "add the column, or change `ask`"
        )
    return HOLE.sub(lambda hole: str(known[hole[1]]), ask)
