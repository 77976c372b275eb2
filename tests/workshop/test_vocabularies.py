"""`bottega tokenizer train` and `extend`: files to a vocabulary, a vocabulary that grows without losing a piece."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bottega import cli
from bottega.core.errors import UserError
from bottega.models import tokenizer as tokenizers
from bottega.models.load import load, load_tokenizer
from bottega.models.tokenizer import Specials
from bottega.models.vocabulary import grow
from bottega.workshop.vocabularies import extend, train
from tests.models.tiny import SENTENCES, tiny_model

NEW = "il falegname pialla il faggio; la falegnameria odora di faggio e di larice piallato. " * 4
OLD = "the bench and the beech, the bench of 1881 and 42 chisels. "
MADE = {}


def grown(kind, folder):
    """An old tokenizer, the grown one and what was added, made once a kind."""
    if kind not in MADE:
        old = tokenizers.train([*SENTENCES, OLD] * 3, vocab=300, kind=kind, specials=Specials())
        new = grow(old, [NEW, NEW.title()], add=40, keep=[OLD], folder=folder / kind)
        MADE[kind] = old, load_tokenizer(folder / kind), new
    return MADE[kind]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("grown")


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_new_text_gets_shorter_kept_text_stays_and_every_byte_comes_back(kind, place):
    old, new, added = grown(kind, place)
    assert len(added) > 20 and len(new) == len(old) + len(added)
    assert len(new(NEW).input_ids) < 0.7 * len(old(NEW).input_ids)
    assert new(OLD).input_ids == old(OLD).input_ids
    assert new.decode(new(NEW).input_ids) == NEW


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
@settings(max_examples=40, deadline=None)
@given(
    words=st.lists(st.sampled_from((NEW + OLD + " ".join(SENTENCES)).split() + ["è", "\n", "  ", "zq9"]), max_size=12)
)
def test_new_tokens_taken_apart_are_the_old_encoding_of_any_text(kind, place, words):
    old, new, added = grown(kind, place)
    text = " ".join(words)
    apart = {len(old) + i: ids for i, (_, ids) in enumerate(added)}
    assert [one for i in new(text).input_ids for one in apart.get(i, [i])] == old(text).input_ids


def test_pairs_are_merged_by_how_often_they_occur_and_ties_by_their_text(tmp_path):
    """Nothing but bytes is known. "abab abab": words `abab` and `Ġabab`, so ab 4 times, ba twice, Ġa once. First ab; then
    (ab, ab) twice; then Ġabab once, which is too rare."""
    old = tokenizers.train([OLD], vocab=261, specials=Specials())
    added = grow(old, ["abab abab"], add=5, folder=tmp_path)
    assert [token for token, _ in added] == ["ab", "abab"]
    assert added[1][1] == old("abab").input_ids


def test_train_and_extend_from_the_command_line(tmp_path, capsys):
    corpus = tmp_path / "corpus.txt"
    corpus.write_text(NEW)
    (tmp_path / "old.jsonl").write_text(json.dumps({"text": OLD}) + "\n")
    words = ["tokenizer", "train", str(corpus), "--vocab", "300", "--out", str(tmp_path / "made"), "--json"]
    assert cli.door(words) == 0
    said = json.loads(capsys.readouterr().out)
    assert 290 < said["tokens"] <= 300 and said["rows"] == 384 and said["characters_per_token"] > 1.5
    made = load_tokenizer(tmp_path / "made")
    assert made.chat_template and made.decode(made(NEW).input_ids) == NEW
    base, out = tiny_model("llama", tmp_path / "base"), tmp_path / "plus"
    words = ["tokenizer", "extend", str(base), str(corpus), "--add", "30", "--keep", str(tmp_path / "old.jsonl")]
    assert cli.door([*words, "--out", str(out)]) == 0
    assert "30 tokens added" in capsys.readouterr().out
    before, after = load(base), load(out)
    ids = before.tokenizer(OLD, return_tensors="pt").input_ids
    assert torch.equal(after.tokenizer(OLD, return_tensors="pt").input_ids, ids)
    rows = before.model.get_input_embeddings().weight.shape[0]
    assert torch.equal(after.model(ids).logits[..., :rows], before.model(ids).logits)
    assert after.model.get_input_embeddings().weight.shape[0] % 128 == 0
    token = after.tokenizer.convert_ids_to_tokens(len(before.tokenizer))
    parts = before.tokenizer.backend_tokenizer.model.tokenize(token)
    table, old_table = after.model.get_input_embeddings().weight, before.model.get_input_embeddings().weight
    assert torch.allclose(table[len(before.tokenizer)], old_table[[part.id for part in parts]].mean(0), atol=1e-6)
    assert cli.door([*words, "--out", str(out)]) == 2
    assert "holds something already" in capsys.readouterr().err


def test_what_cannot_grow_says_so(tmp_path):
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordPiece({"a": 0, "[UNK]": 1})))
    with pytest.raises(UserError, match="WordPiece tokenizer without a word splitter"):
        grow(words, ["a"], add=1, folder=tmp_path / "x")
    empty = tmp_path / "empty.txt"
    empty.write_text("")
    with pytest.raises(UserError, match="is empty"):
        train([str(empty)], out=str(tmp_path / "y"))
    with pytest.raises(UserError, match="add is 0"):
        extend("garzone", [str(empty)], out=str(tmp_path / "z"), add=0)
