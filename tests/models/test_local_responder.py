"""A model on this machine behind the interface of endpoints."""

from __future__ import annotations

import asyncio

import pytest

from bottega.core.errors import Unanswered
from bottega.core.types import Turn
from bottega.models.generate import Generator
from bottega.models.load import load
from bottega.models.local import Local
from tests.models.tiny import tiny_model


@pytest.fixture(scope="module")
def generator(tmp_path_factory):
    loaded = load(str(tiny_model("llama", tmp_path_factory.mktemp("m") / "model")))
    return Generator(loaded.model, loaded.tokenizer)


def said(generator, questions, **more):
    def encode(turns):
        return list(generator.tokenizer(turns[-1].content)["input_ids"])

    async def ask():
        async with Local(generator, identity="tiny", encode=encode, **more) as local:
            asked = [local.respond([Turn(role="user", content=text)], **how) for text, how in questions]
            return await asyncio.gather(*asked, return_exceptions=True)

    return asyncio.run(ask())


def test_a_reply_does_not_depend_on_who_else_asks(generator):
    how = {"max_tokens": 6, "temperature": 1.0}
    questions = [("The workshop", {**how, "seed": 1}), ("Anna keeps the keys and the plane", {**how, "seed": 2}),
                 ("The workshop", {**how, "seed": 3}), ("Puu", {"max_tokens": 2, "seed": 1})]  # fmt: skip
    together = said(generator, questions)
    alone = [said(generator, [one])[0] for one in questions]
    assert [reply.text for reply in together] == [reply.text for reply in alone]
    assert together[0].text != together[2].text
    assert together[3].usage == {"prompt_tokens": len(generator.tokenizer("Puu")["input_ids"]), "completion_tokens": 2}


def test_one_question_that_does_not_fit_leaves_the_others_answered(generator):
    short, long, again = said(
        generator, [("a", {"max_tokens": 4}), ("word " * 200, {"max_tokens": 4}), ("b", {"max_tokens": 4})]
    )
    assert short.text is not None and again.usage["completion_tokens"] <= 4
    assert isinstance(long, Unanswered) and long.reason == "does not fit"


def test_an_error_of_the_sampler_reaches_everybody_who_waits(generator):
    class Broken:
        version = 0

        def sample(self, prompts, **_):
            raise ValueError("broken")

    async def ask():
        async with Local(Broken(), identity="x", encode=lambda turns: [1]) as local:
            asked = [local.respond([Turn(role="user", content="q")]) for _ in range(3)]
            return await asyncio.gather(*asked, return_exceptions=True)

    assert [str(error) for error in asyncio.run(ask())] == ["broken"] * 3
