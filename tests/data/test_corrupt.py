"""Hidden texts: what is asked for is what was hidden, in the shares and spans of the papers."""

import numpy as np
import pytest

from bottega.core.errors import UserError
from bottega.core.types import Row, Tokens
from bottega.data.corrupt import Marks, corruption, infilled, masked, spans_hidden
from bottega.train.corrupted import Corrupted, hidden_once
from bottega.train.source import Dataset
from tests.models.tiny import SENTINELS, tiny_tokenizer


def marks(mask=None, sentinels=(), start=()):
    return Marks(
        front=(1,), back=(2,), start=start, mask=mask, sentinels=sentinels, plain=np.arange(10, 300, dtype=np.int32)
    )


def row(length, index=0):
    ids = np.arange(100, 100 + length, dtype=np.int32)
    return Row(index=index, branches=(Tokens(np.concatenate([[1], ids, [2]]), np.ones(length + 2)),))


@pytest.mark.parametrize("length", [1, 2, 3, 7, 40, 173])
@pytest.mark.parametrize("seed", range(4))
def test_sentinels_and_what_stands_behind_them_put_the_text_together_again(length, seed):
    sentinels = tuple(range(5000, 5100))
    made = spans_hidden(row(length), np.random.default_rng(seed), marks(sentinels=sentinels, start=(0,)), 0.15)
    read, written = list(map(int, made.prefix.ids)), list(map(int, made.branches[0].ids))
    assert read[0] == 1 and read[-1] == 2 and written[0] == 0 and written[-1] == 2
    assert list(made.branches[0].trains) == [0.0] + [1.0] * (len(written) - 1)
    behind, last = {}, None
    for token in written[1:-1]:
        if token >= 5000:
            last = token
            behind[last] = []
        else:
            behind[last].append(token)
    assert behind.pop(last) == [], "the last sentinel ends the list"
    whole = [t for token in read[1:-1] for t in (behind[token] if token >= 5000 else [token])]
    assert whole == list(range(100, 100 + length))
    hidden = sum(map(len, behind.values()))
    assert hidden == min(max(1, round(0.15 * length)), max(1, length - 1))
    assert all(behind.values()), "no span is empty"


def test_infilling_hides_spans_behind_one_mask_each_and_asks_for_the_whole_text():
    made = infilled(row(60), np.random.default_rng(0), marks(mask=4, start=(2,)), 0.3)
    read = list(map(int, made.prefix.ids))
    assert read.count(4) == 6, "18 of 60 tokens in spans of 3"
    assert list(made.branches[0].ids) == [2, *range(100, 160), 2]


def test_masked_tokens_are_asked_for_in_place_and_eight_in_ten_are_masked():
    """2,000 tokens: 300 chosen; 80, 10 and 10 percent within four standard deviations (sqrt(300 * 0.8 * 0.2) = 6.9)."""
    made = masked(row(2000), np.random.default_rng(3), marks(mask=4), 0.15)
    ids, trains = np.asarray(made.branches[0].ids), np.asarray(made.branches[0].trains)
    where = np.flatnonzero(trains)
    asked = np.asarray(made.tokens["label"]).astype(int)
    assert len(where) == 300 == len(asked)
    original = np.asarray(row(2000).branches[0].ids)
    assert np.array_equal(asked, original[where]) and trains[0] == trains[-1] == 0
    same = ids == original
    assert same[trains == 0].all()
    hidden = int((ids[where] == 4).sum())
    assert abs(hidden - 240) < 28 and abs(int(same[where].sum()) - 30) < 22


def test_every_visit_hides_other_tokens_and_a_resumed_source_hides_the_same(tmp_path):
    def source():
        corrupt = corruption("encoder", marks(mask=4))
        return Corrupted(Dataset([row(30, index=i) for i in range(6)], batch=4, seed=1), corrupt, seed=5)

    first = source()
    batches, states = zip(*[first.next() for _ in range(6)])
    seen = {tuple(map(int, one.branches[0].ids)) for rows in batches for one in rows if one.index == 0}
    assert len(seen) == 3, "row 0 came three times, hidden in three ways"
    again = source()
    again.restore(states[2])
    assert [[tuple(r.branches[0].ids) for r in rows] for rows in again.ahead(2)] == [
        [tuple(r.branches[0].ids) for r in rows] for rows in batches[3:5]
    ]
    assert [tuple(r.branches[0].ids) for r in again.next()[0]] == [tuple(r.branches[0].ids) for r in batches[3]]
    corrupt = corruption("encoder", marks(mask=4))
    held, same = (hidden_once([row(30)], corrupt, seed=5)[0].branches[0].ids for _ in range(2))
    assert np.array_equal(held, same)


def test_marks_are_found_by_tokenising_and_a_tokenizer_without_any_is_refused(tmp_path):
    tokenizer = tiny_tokenizer(tmp_path, marks=("<|mask|>", *SENTINELS), around=True)
    found = Marks.of(tokenizer, (0,))
    assert (found.front, found.back, found.start) == ((1,), (2,), (0,))
    assert len(found.sentinels) == 20 and found.mask == tokenizer.mask_token_id
    assert not set(found.sentinels) & set(found.plain.tolist())
    with pytest.raises(UserError, match="no mask token"):
        corruption("encoder", marks())
    with pytest.raises(UserError, match="neither sentinels"):
        corruption("encoder-decoder", marks())
