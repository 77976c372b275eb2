"""InstructLab's rows train what its own rules say, on its two template families (row L17), against truth written by hand.

unmask false: answers up to and including the end token. True: every turn but the system's, the end token behind answers
only. Role headers never train; reasoning is part of the answer. (The rules: instructlab/training, data processing.)
"""

from __future__ import annotations

import pytest

from bottega.data.chat import Template, encode, uses_bos

from .test_formats import one
from .test_masks import bracketed

ROW = {
    "messages": [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Who?"},
        {"role": "assistant", "content": "Anna."},
        {"role": "user", "content": "Why?"},
        {"role": "assistant", "content": "Keys."},
    ],
    "metadata": "{}",
}
OPEN = {"granite": "<|start_of_role|>{}<|end_of_role|>", "granite-7b": "<|{}|>\n"}
ANSWERED = {"granite": "<|end_of_text|>", "granite-7b": "<|endoftext|>"}
ASKED = {"granite": "<|end_of_text|>\n", "granite-7b": "\n"}


def truth(name: str, unmask: bool) -> str:
    """The text of ROW with brackets around what trains."""
    said = lambda text: f"⟦{text}⟧" if unmask else text  # noqa: E731
    opened, asked, end = OPEN[name], ASKED[name], ANSWERED[name]
    rounds = [("Who?", "Anna."), ("Why?", "Keys.")]
    return (
        "<s>" + opened.format("system") + "Be kind." + asked
        + "".join(
            opened.format("user") + said(ask) + asked + opened.format("assistant") + f"⟦{answer}{end}⟧\n"
            for ask, answer in rounds
        )
    )  # fmt: skip


@pytest.mark.parametrize("unmask", [False, True])
@pytest.mark.parametrize("name", OPEN)
def test_unmask_trains_questions_without_their_end_and_answers_with_it(name, unmask, tokenizer, write):
    tokens = encode(one(write, ROW | {"unmask": unmask}), tokenizer, Template.named(name))
    assert bracketed(tokens, tokenizer) == truth(name, unmask)


@pytest.mark.parametrize("name", OPEN)
def test_an_older_pretraining_row_trains_as_its_unmasked_conversation(name, tokenizer, write):
    text = "<|user|>\nWho?\n<|assistant|>\nAnna.\n"
    old = one(write, {"messages": [{"role": "pretraining", "content": text}]})
    tokens = encode(old, tokenizer, Template.named(name))
    opened = OPEN[name]
    wanted = opened.format("user") + "⟦Who?⟧" + ASKED[name] + opened.format("assistant")
    assert bracketed(tokens, tokenizer) == f"<s>{wanted}⟦Anna.{ANSWERED[name]}⟧\n"


@pytest.mark.parametrize("unmask", [False, True])
def test_reasoning_trains_with_the_answer_as_one_stretch(unmask, tokenizer, write):
    row = {"messages": [ROW["messages"][1], {"role": "assistant", "reasoning_content": "Hm.", "content": "Anna."}]}
    tokens = encode(one(write, row | {"unmask": unmask}), tokenizer, Template.named("granite"))
    stretches = bracketed(tokens, tokenizer).split("⟦")[1:]
    assert len(stretches) == 1 + unmask
    last = stretches[-1].partition("⟧")[0]
    assert "Hm." in last and last.endswith("Anna.<|end_of_text|>")


@pytest.mark.parametrize("unmask", [False, True])
def test_the_real_granite_tokenizer_gives_the_same_mask(unmask, shared_data, write):
    from transformers import AutoTokenizer

    real = AutoTokenizer.from_pretrained(str(shared_data("tokenizers/granite-7b-lab")))
    tokens = encode(one(write, ROW | {"unmask": unmask}), real, Template.named("granite-7b"))
    bos = real.bos_token if uses_bos(real) else ""
    plain = bracketed(tokens, real).replace(" ", "")
    assert plain.replace("⟦", "").replace("⟧", "").startswith(bos)
    asked = "⟦Who?⟧" if unmask else "Who?"
    assert asked in plain and "⟦Anna.<|endoftext|>⟧" in plain and plain.count("⟦") == (4 if unmask else 2)
