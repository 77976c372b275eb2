"""Learning vocabularies: byte for byte round trips, the same file every time, and growing a model for new tokens."""

import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bottega.core.errors import UserError
from bottega.models.load import load_tokenizer, load_weights
from bottega.models.tokenizer import Specials, extend_model, num_rows, train
from bottega.models.unigram import learn_pieces
from tests.models.tiny import CHATML, SENTENCES

TEXTS = [
    *SENTENCES,
    "the bench and the beech, the bench of 1881 and 42 chisels",
    "low lower lowest new newer newest",
] * 3
KINDS = ("bpe", "unigram")
MADE = {}


def made(kind):
    """One vocabulary a kind for the tests that only read it."""
    if kind not in MADE:
        MADE[kind] = train(TEXTS, vocab=400, kind=kind, specials=Specials(bos="<|begin|>"), chat_template=CHATML)
    return MADE[kind]


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60, deadline=None)
@given(text=st.text(max_size=60))
def test_every_text_comes_back_byte_for_byte(kind, text):
    ids = made(kind)(text, add_special_tokens=False).input_ids
    assert made(kind).decode(ids, skip_special_tokens=False) == text


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_texts_give_the_same_file_however_often_and_unigram_in_any_order(tmp_path, kind):
    files = set()
    for number, texts in enumerate((TEXTS, iter(TEXTS), TEXTS[::-1] if kind == "unigram" else TEXTS)):
        train(texts, vocab=380, kind=kind).save_pretrained(tmp_path / str(number))
        files.add((tmp_path / str(number) / "tokenizer.json").read_bytes())
    assert len(files) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_vocabulary_reloads_with_its_specials_and_template(tmp_path, kind):
    made(kind).save_pretrained(tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    assert len(tokenizer) == len(made(kind)) <= 400
    assert tokenizer.convert_ids_to_tokens(range(5)) == [
        "<|pad|>",
        "<|begin|>",
        "<|end|>",
        "<|im_start|>",
        "<|im_end|>",
    ]
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == ("<|begin|>", "<|end|>", "<|pad|>")
    assert tokenizer.chat_template == CHATML
    ids = tokenizer("the <|im_end|> bench").input_ids
    assert ids.count(1) == 1 and ids[0] == 1 and 4 in ids
    assert ids == made(kind)("the <|im_end|> bench").input_ids


@pytest.mark.parametrize("kind", KINDS)
def test_digits_are_single_tokens_only_when_asked_for(kind):
    assert made(kind).tokenize("1881") == ["1", "8", "8", "1"]
    joined = train(["1881 1881 1881 the the"] * 20, vocab=300, kind=kind, digits=False)
    assert "1881" in joined.tokenize("1881")


def test_frequent_words_become_tokens_and_fewer_tokens_than_bytes_are_needed():
    text = "the bench of the workshop"
    for kind in KINDS:
        assert len(made(kind)(text, add_special_tokens=False).input_ids) < len(text) / 2


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"vocab": 259}, "256 bytes and 4 special tokens need 260"),
        ({"vocab": 300, "kind": "wordpiece"}, "not one of bpe, unigram"),
    ],
)
def test_what_cannot_be_learnt_is_refused(options, said):
    with pytest.raises(UserError, match=said):
        train(TEXTS, **options)
    for kind in KINDS:
        with pytest.raises(UserError, match="no text"):
            train(["", ""], vocab=300, kind=kind)


def test_unigram_chances_of_a_corpus_that_can_be_worked_out():
    """Words ab (4 times) and c (2 times), three pieces beyond the alphabet allowed: a, b, c and ab are the candidates.

    With ab whole, it explains every ab: counts ab 4, c 2, and a and b fall to nothing, so p(ab) = 4/6, p(c) = 2/6.
    """
    pieces = dict(learn_pieces({"ab": 4, "c": 2}, size=4, alphabet=["a", "b", "c"]))
    assert set(pieces) == {"a", "b", "c", "ab"}
    assert sum(math.exp(value) for value in pieces.values()) == pytest.approx(1.0)
    many = dict(learn_pieces({"ab": 4, "c": 2}, size=3, alphabet=["a", "b", "c"]))
    assert set(many) == {"a", "b", "c"}
    assert math.exp(many["a"]) == pytest.approx(4 / 10) and math.exp(many["c"]) == pytest.approx(2 / 10)


def test_unigram_keeps_the_pieces_that_explain_most():
    words = {"lowest": 10, "newest": 10, "lower": 10, "newer": 10, "xyxyxyxy": 1}
    pieces = [piece for piece, _ in learn_pieces(words, size=10 + 4, alphabet=sorted(set("lowestnr") | set("xy")))]
    assert {"low", "new", "est", "er"} <= set(pieces) or {"lowest", "newest", "lower", "newer"} <= set(pieces)


def test_a_grown_vocabulary_leaves_old_text_as_it_was(saved):
    model, tokenizer = load_weights(saved("llama")), load_tokenizer(saved("llama"))
    ids = torch.tensor([tokenizer("Anna keeps 12 keys").input_ids])
    before = model(ids).logits
    mean = model.get_input_embeddings().weight.mean(0)
    tokenizer.add_tokens(["<|tool|>"])
    assert num_rows(tokenizer) == 384
    assert extend_model(model, tokenizer) == [320]
    assert torch.equal(torch.tensor([tokenizer("Anna keeps 12 keys").input_ids]), ids)
    assert torch.equal(model(ids).logits[..., :320], before)
    assert torch.allclose(model.get_input_embeddings().weight[320], mean, atol=1e-7)
    assert model.config.vocab_size == 384
    assert extend_model(model, tokenizer) == []


def test_a_real_corpus_gives_both_kinds_in_seconds(shared_data):
    lines = [json.loads(line)["question"] for line in shared_data("gsm8k/train.jsonl").read_text().splitlines()[:300]]
    sizes = {kind: sum(map(len, train(lines, vocab=1000, kind=kind)(lines).input_ids)) for kind in KINDS}
    assert sizes["unigram"] < 1.1 * sizes["bpe"] < 0.5 * sum(map(len, lines))
