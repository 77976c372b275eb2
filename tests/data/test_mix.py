"""Mixtures: shares as asked, no row missing in a pass, the same for one seed (row D9)."""

from __future__ import annotations

import json

import numpy as np
import pytest

from bottega.core.errors import UserError
from bottega.core.types import Row, Tokens
from bottega.data.mix import Chain, next_source, rows_in_pass, shares
from bottega.data.order import Banded
from bottega.train.curriculum import ByLoss
from bottega.train.mixture import Mixture, Phase
from bottega.train.source import Dataset


def sources(*sizes: int, length: int = 4) -> list[list[Row]]:
    """Sources whose rows carry the number of their source in their ids."""
    made, at = [], 0
    for number, size in enumerate(sizes):
        tokens = Tokens([number] * length, [1.0] * length)
        made.append([Row(index=at + i, branches=(tokens,)) for i in range(size)])
        at += size
    return made


def of(row: Row) -> int:
    return int(row.branches[0].ids[0])


def drawn(source, steps: int) -> list[Row]:
    return [row for _ in range(steps) for row in source.next()[0]]


def single(*parts: float) -> list[Phase]:
    return [Phase(0, parts)]


@pytest.mark.parametrize("weights", [[1, 2, 3], [0.05, 0.05, 0.9], [0.7, 0.3, 0.0]])
def test_ten_thousand_samples_are_within_one_percent_of_the_weights(weights):
    """Within one row of n times the share, so 10,000 rows are within 0.01 percent; one percent is asked."""
    mixture = Mixture(sources(300, 40, 500), single(*shares([300, 40, 500], weights=weights)), batch=50, seed=1)
    counts = np.bincount([of(row) for row in drawn(mixture, 200)], minlength=3)
    assert counts.sum() == 10_000
    assert np.abs(counts / 10_000 - np.array(weights) / sum(weights)).max() <= 0.0002


def test_a_pass_leaves_no_row_out_and_small_sources_repeat():
    """70 rows at 0.7 and 100 at 0.3: 100 / 0.3 = 333.3, so a pass is 334 rows, 234 of the first, which each come 3 or 4 times."""
    mixture = Mixture(sources(70, 100), single(0.7, 0.3), batch=2, seed=0)
    assert rows_in_pass([70, 100], [0.7, 0.3]) == mixture.num_rows == 334 and mixture.steps_per_epoch == 167
    times = np.bincount([row.index for row in drawn(mixture, 167)], minlength=170)
    assert set(times[:70]) <= {3, 4} and set(times[70:]) == {1}


def test_every_batch_holds_every_task_in_proportion():
    mixture = Mixture(sources(30, 50, 20), single(0.5, 0.25, 0.25), batch=8, seed=0)
    for _ in range(20):
        assert np.bincount([of(row) for row in mixture.next()[0]]).tolist() == [4, 2, 2]


def test_temperature_evens_sizes_out():
    """sizes 100, 400, 2500: T = 1 gives 1/30, 4/30, 25/30; T = 2 their roots 10, 20, 50 of 80; T without end a third each."""
    assert shares([100, 400, 2500]) == pytest.approx([1 / 30, 4 / 30, 25 / 30])
    assert shares([100, 400, 2500], temperature=2) == pytest.approx([0.125, 0.25, 0.625])
    assert shares([100, 400, 2500], temperature=1e9) == pytest.approx([1 / 3] * 3)
    assert shares([10, 10], epochs=[3, None]) == pytest.approx([0.75, 0.25])


def test_a_source_comes_no_more_often_than_its_epochs_allow():
    """Ten rows, two epochs: 20 rows at half the share; then the other source fills the batches alone."""
    mixture = Mixture(sources(10, 100), single(0.5, 0.5), batch=10, seed=0, caps=[20, None])
    rows = drawn(mixture, 9)
    assert np.bincount([row.index for row in rows if of(row) == 0]).tolist() == [2] * 10
    assert [of(row) for row in rows[:40]].count(0) == 20 and all(of(row) == 1 for row in rows[40:])


def test_where_every_source_ends_the_mixture_ends_and_says_so():
    mixture = Mixture(sources(10, 6), single(0.5, 0.5), batch=4, seed=0, caps=[5, 6])
    assert mixture.num_rows == mixture.limit == 11 and mixture.steps_per_epoch == 3
    assert [len(batch) for batch in mixture.ahead(9)] == [4, 4, 3]
    assert len(drawn(mixture, 3)) == 11
    with pytest.raises(UserError, match="after 11 rows every source .* raise them"):
        mixture.next()


def test_a_schedule_changes_the_shares_at_token_counts():
    """Rows of 4 tokens: the first source alone for 80 tokens (20 rows), then one in four, then none."""
    phases = [Phase(0, (1.0, 0.0)), Phase(80, (0.25, 0.75)), Phase(160, (0.0, 1.0))]
    rows = drawn(Mixture(sources(9, 9), phases, batch=10, seed=0), 6)
    assert [sum(of(row) == 0 for row in rows[a : a + 20]) for a in (0, 20, 40)] == [20, 5, 0]


@pytest.mark.parametrize("at", [1, 4, 9])
def test_a_mixture_goes_on_from_its_state_without_replaying(at):
    phases = [Phase(0, (0.6, 0.3, 0.1)), Phase(100, (0.1, 0.1, 0.8))]

    def make():
        return Mixture(sources(9, 20, 4), phases, batch=7, seed=3, caps=[None, 12, None])

    whole = make()
    batches = [whole.next() for _ in range(12)]
    again = make()
    again.restore(json.loads(json.dumps(batches[at][1])))
    assert [again.next() for _ in range(12 - at - 1)] == batches[at + 1 :]
    assert [rows for rows in make().ahead(12)] == [rows for rows, _ in batches]


def test_the_draw_is_the_seed_s_alone():
    one, same, other = (
        [row.index for row in drawn(Mixture(sources(50, 9), single(0.7, 0.3), batch=5, seed=seed), 9)]
        for seed in (3, 3, 4)
    )
    assert one == same != other


def test_shares_stay_within_a_row_of_what_they_should_be():
    parts, credit, counts = [0.5, 0.3, 0.2], [0.0] * 3, np.zeros(3)
    for n in range(1, 500):
        counts[next_source(parts, credit)] += 1
        assert np.abs(counts - n * np.array(parts)).max() < 1


def test_a_chain_is_its_sources_one_after_the_other():
    parts = sources(3, 1, 4)
    chain = Chain(parts)
    assert [row.index for row in chain] == list(range(8)) and chain[-1].index == 7
    assert [row.index for row in chain[2:5]] == [2, 3, 4]


def test_bands_go_from_small_to_large_and_are_shuffled_within():
    """100 rows in 4 bands of 25: places 0 to 24 hold the 25 smallest, in an order that differs by epoch."""
    keys = np.random.default_rng(0).random(100)
    ranks = np.argsort(np.argsort(keys))
    up = [Banded(keys, 0, epoch, bands=4).take(0, 100) for epoch in (0, 1)]
    for band in range(4):
        places = up[0][25 * band : 25 * band + 25]
        assert set(ranks[places] // 25) == {band} and places != sorted(places, key=lambda i: keys[i])
    assert up[0] != up[1] and sorted(up[1]) == list(range(100))
    down = Banded(keys, 0, 0, bands=4, reverse=True).take(0, 25)
    assert set(ranks[down] // 25) == {3}


def test_a_data_set_takes_its_order_from_a_curriculum_and_then_a_plain_one():
    (rows,) = sources(20)
    data = Dataset(rows, batch=5, seed=1, ordered=lambda e: Banded(np.arange(20.0), 1, e, bands=4) if e < 1 else None)
    first, second = ([{row.index for row in data.next()[0]} for _ in range(4)] for _ in range(2))
    assert first == [set(range(a, a + 5)) for a in (0, 5, 10, 15)] and second != first


def listening(**options) -> ByLoss:
    (rows,) = sources(12)
    return ByLoss(rows, batch=4, seed=2, **{"bands": 3} | options)


def teach(source: ByLoss, steps: int):
    """The loss of row i is i in even epochs and -i in odd ones."""
    seen = []
    for _ in range(steps):
        rows, state = source.next()
        sign = 1 if state["epoch"] % 2 == 0 else -1
        source.tell([row.index for row in rows], [float(sign * row.index) for row in rows], {})
        seen.append(([row.index for row in rows], json.loads(json.dumps(state))))
    return seen


def test_a_curriculum_by_loss_orders_the_next_epoch_by_what_it_heard():
    """12 rows, 3 bands of 4, batches of 4: epoch 1 goes 0-3, 4-7, 8-11 by losses 0..11; epoch 2, having heard -i, the other way."""
    batches = [set(rows) for rows, _ in teach(listening(), 9)]
    assert batches[3:6] == [{0, 1, 2, 3}, {4, 5, 6, 7}, {8, 9, 10, 11}]
    assert batches[6:9] == [{8, 9, 10, 11}, {4, 5, 6, 7}, {0, 1, 2, 3}]
    hard = [set(rows) for rows, _ in teach(listening(hard_first=True), 6)]
    assert hard[3] == {8, 9, 10, 11}


@pytest.mark.parametrize("at", range(9))
def test_a_curriculum_by_loss_goes_on_from_its_state_at_any_step(at):
    whole = teach(listening(), 12)
    again = listening()
    again.restore(whole[at][1])
    assert teach(again, 12 - at - 1) == whole[at + 1 :]


def test_only_the_running_epoch_is_known_ahead():
    source = listening()
    assert [len(rows) for rows in source.ahead(9)] == [4, 4, 4]
    teach(source, 2)
    assert len(list(source.ahead(9))) == 1
    with pytest.raises(UserError, match="at most, and there are 100,001"):
        ByLoss([sources(1)[0][0]] * 100_001, batch=1, seed=0, bands=2)
