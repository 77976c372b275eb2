"""`generate` and `chat` with a model behind an OpenAI-compatible endpoint, `http://HOST/v1#NAME`: it has the template.

Left out: eval (evals/remote.py), the client (models/remote.py), and what needs the model's own numbers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from bottega.core.errors import Unanswered, UserError
from bottega.core.types import Reply, Turn
from bottega.workshop.endpoints import Reach, opened

USUAL_BATCH = 16
LOCAL_ONLY = {  # an option of generate -> its value where it was not given
    "template": None, "weights": "full", "device": "auto", "batch": USUAL_BATCH, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0,
    "top_logps": 0, "beams": 1, "draft": None, "lookup": False,
}  # fmt: skip
FLAGS = {"top_logps": "--logprobs"}


def local_only(options: dict[str, Any]) -> dict[str, bool]:
    """For `endpoints.refuse`: each option that no endpoint has, and whether it was given.

    >>> local_only({"top_k": 20, "max_tokens": 8, "beams": 1})
    {'--top-k': True, '--beams': False}
    """
    known = [name for name in options if name in LOCAL_ONLY]
    return {FLAGS.get(name, "--" + name.replace("_", "-")): options[name] != LOCAL_ONLY[name] for name in known}


def generate(
    name: str,
    asked: Sequence[Sequence[Turn]],
    *,
    reach: Reach | None,
    raw: bool,
    n: int = 1,
    seed: int = 0,
    told: Callable[[int], None],
    note: Callable[[str], None],
    **how: Any,
) -> list[dict[str, Any]]:
    """One {"prompt", "reply", "finish", "tokens"} a reply, in order; a prompt without an answer has "error" instead.

    Args:
        raw: continue texts as they are, by /completions. how: max_tokens, temperature, top_p, stop.

    Raises:
        UserError: no prompt got an answer.
    """
    questions = [(turns, _sampling(seed + one, **how)) for turns in asked for one in range(n)]
    found = asyncio.run(_ask(name, reach, raw, questions, told))
    rows = [_row(turns, one) for (turns, _), one in zip(questions, found)]
    lost = [row for row in rows if "error" in row]
    if len(lost) == len(rows):
        raise UserError(f"none of {len(rows):,} prompts got an answer, the first for this reason: {lost[0]['error']}")
    if lost:
        note(
            f"{len(lost):,} of {len(rows):,} prompts got no answer, the first for this reason: {lost[0]['error']}; "
            "their rows say `error`"
        )
    used = {what: sum(one.usage.get(what, 0) for one in found if isinstance(one, Reply)) for what in USED}
    note(f"{name}: {len(rows):,} questions, {used[USED[0]]:,} prompt tokens, {used[USED[1]]:,} completion tokens")
    return rows


USED = ("prompt_tokens", "completion_tokens")


async def _ask(
    name: str, reach: Reach | None, raw: bool, questions: list[tuple[Sequence[Turn], dict[str, Any]]], told: Any
) -> list[Reply | Unanswered]:
    from bottega.models.remote import ask_all

    return await ask_all(opened(name, reach, raw=raw), questions, told=told)


def _sampling(
    seed: int, *, max_tokens: int, temperature: float, top_p: float = 1.0, stop: Sequence[str] = ()
) -> dict[str, Any]:
    """What is sent: a greedy request has neither seed nor top_p, which some endpoints refuse."""
    drawn = {"seed": seed, "top_p": top_p if top_p < 1 else None} if temperature > 0 else {}
    return {"max_tokens": max_tokens, "temperature": temperature, "stop": list(stop) or None, **drawn}


def _row(turns: Sequence[Turn], found: Reply | Unanswered) -> dict[str, Any]:
    prompt = {"prompt": turns[-1].content}
    if isinstance(found, Reply):
        tokens = found.usage.get("completion_tokens", 0)
        return prompt | {"reply": found.text, "finish": found.finish, "tokens": tokens}
    if found.reason == "empty":  # what the model said was nothing
        return prompt | {"reply": "", "finish": "stop", "tokens": 0}
    return prompt | {"reply": "", "finish": "error", "tokens": 0, "error": str(found)}


@contextmanager
def speaker(name: str, reach: Reach | None, **how: Any) -> Iterator[Callable[..., Turn]]:
    """`say(turns, seed=...)`: writes the reply while it comes, returns it as a turn; one connection for the whole chat.

    Raises (from `say`):
        UserError: no answer, or one that broke off.
    """
    endpoint = opened(name, reach)

    def tell(piece: str) -> None:
        print(piece, end="", flush=True)

    def say(turns: Sequence[Turn], *, seed: int) -> Turn:
        try:
            reply = runner.run(endpoint.respond_in_pieces(turns, tell, **_sampling(seed, **how)))
        except Unanswered as error:
            if error.reason == "empty":
                return Turn(role="assistant", content="")
            raise
        finally:
            print(flush=True)
        return Turn(role="assistant", content=reply.text)

    with asyncio.Runner() as runner:
        runner.run(endpoint.__aenter__())
        try:
            yield say
        finally:
            runner.run(endpoint.__aexit__())
