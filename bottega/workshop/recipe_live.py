"""`feedback: live` of a recipe: where people are asked while it trains, what their word counts; its checks, and it in a sentence.

Left out: asking (live_queue.py) and learning from it (train/live.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlsplit

from bottega.core.config import Secret, option
from bottega.data.remote import holds_password, masked

NEAR = ("localhost", "127.0.0.1", "::1")
ELSEWHERE = ("store", "url", "token", "timeout_s")
"""Keys that say where people are, and change nothing of what is trained: a server may move while a run stands still."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Feedback:
    """People are asked about samples while it trains; nothing waits for them."""

    store: str | None = option(None, "a feedback store: a file, or postgresql://...; default: feedback.db")
    url: str | None = option(None, "a server of `bottega feedback serve` instead of a store")
    token: Secret | None = option(None, "of a lead on that server; write ${env:NAME}")
    project: str = option("live", "the project people see; made if it is not there")
    ask: Literal["compare", "rate"] = option("compare", "which of two answers is better, or how good one is")
    scale: int = option(5, "of ratings, in a project that is made", low=2, high=10)
    per_item: int = option(1, "people a question, in a project that is made", low=1, high=100)
    blend: float = option(0.5, "weight of people's word where they spoke; 1: it replaces the reward", low=0, high=1)
    samples: int = option(8, "questions a round, at most one a prompt", low=1, high=1000)
    choose: Literal["active", "random"] = option("active", "those whose answers tell most, or by lot")
    again: int = option(4, "prompts a round that are learned from once more when ratings of them come back", low=0)
    refresh: int = option(4, "rounds between trainings of the reward model on all ratings; 0: never", low=0)
    refresh_steps: int = option(40, "steps of such a training", low=1)
    refresh_lr: float = option(2e-4, "its learning rate", above=0)
    timeout_s: float = option(5.0, "the longest wait for the server", above=0, high=60)

    @staticmethod
    def shorthand(value: Any) -> Any:
        """`live` -> {}: a store feedback.db, a project live."""
        return {} if value == "live" else value


def where(feedback: Feedback) -> Feedback:
    """The feedback with its place written out."""
    import dataclasses

    return feedback if feedback.store or feedback.url else dataclasses.replace(feedback, store="feedback.db")


def check(stage: Any, group: int) -> list[str]:
    """Mistakes in a stage's `feedback`. group: answers to a prompt."""
    asked: Feedback = stage.feedback
    found = []
    if asked.store is not None and asked.url is not None:
        found.append("feedback has a store and a url: people are in one place; leave one out")
    if asked.store is not None and holds_password(asked.store):
        found.append(f"{masked(asked.store)} holds a password; take it out and set PGPASSWORD")
    if (asked.url is None) != (asked.token is None):
        found.append("a feedback server needs url and token: write token: ${env:NAME}, the token of a lead")
    if asked.url is not None:
        parts = urlsplit(asked.url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.password:
            found.append("feedback.url is no plain http(s) address; write https://HOST, and the token in `token`")
        elif parts.scheme == "http" and parts.hostname not in NEAR:
            found.append(f"the token would go to {parts.hostname} readable; write https://")
    if asked.ask == "compare" and group == 1:
        found.append("ask: compare needs two answers to a prompt; write rollout: {group: 2}, or ask: rate")
    if asked.refresh and stage.method.name not in ("lora", "qlora"):
        found.append(
            f"refresh trains an adapter beside the policy's, and {stage.method.name} has none; use lora, or write refresh: 0"
        )
    if asked.refresh and stage.method.options.get("init") in ("pissa", "olora"):
        found.append("refresh trains an adapter on the untouched base, which pissa and olora change; drop one of them")
    if stage.loop.get("stream"):
        found.append("feedback and stream are not built together; leave one out")
    return found


def record(kept: dict[str, Any]) -> None:
    """Take out of a stage's record what changes nothing of what is trained."""
    if kept.get("feedback"):
        kept["feedback"] = {key: value for key, value in kept["feedback"].items() if key not in ELSEWHERE}


def sentence(feedback: Feedback | Mapping[str, Any] | None) -> str:
    """What a dry run and a plan say of it; nothing without feedback."""
    if feedback is None:
        return ""
    assert isinstance(feedback, Feedback)
    what = "pairs to compare" if feedback.ask == "compare" else "answers to rate"
    learns = (
        f"the reward model is trained on them every {feedback.refresh} rounds ({feedback.refresh_steps} steps, not in the plan's time)"
        if feedback.refresh
        else "the reward model is not trained on them"
    )
    weight = "replaces the reward" if feedback.blend == 1 else f"counts {feedback.blend:g} of the reward"
    return (
        f"asks people about up to {feedback.samples} {what} a round, in the project {feedback.project} of "
        f"{feedback.url or feedback.store or 'feedback.db'}; their word {weight} where they spoke; {learns}; nothing waits for them"
    )
