"""Micro-batches: no row lost, none too long, little padding (row D10)."""

from hypothesis import given
from hypothesis import strategies as st

from bottega.data.pack import micro_batches

SIZES = st.lists(st.integers(1, 300), min_size=1, max_size=60)


@given(SIZES, st.integers(50, 2000), st.booleans(), st.integers(1, 5))
def test_every_row_is_in_one_micro_batch_and_none_is_over_the_limit(sizes, limit, packed, at_least):
    plan = micro_batches(sizes, max_tokens=limit, packed=packed, at_least=at_least)
    assert sorted(i for members in plan for i in members) == list(range(len(sizes)))
    assert len(plan) >= min(at_least, len(sizes)) or not packed
    for members in plan:
        cost = sum(sizes[i] for i in members) if packed else len(members) * max(sizes[i] for i in members)
        assert cost <= limit or len(members) == 1


@given(st.lists(st.integers(20, 60), min_size=200, max_size=200))
def test_packed_micro_batches_are_balanced(sizes):
    loads = [sum(sizes[i] for i in members) for members in micro_batches(sizes, max_tokens=1000, packed=True)]
    assert max(loads) - min(loads) <= max(sizes)


def test_length_buckets_pad_at_most_5_percent_of_a_long_tailed_set():
    """4,000 rows, lengths 20 * 1.001^i up to 1,090: neighbours in length share a micro-batch. Packed rows pad nothing."""
    sizes = [int(20 * 1.001**i) for i in range(4000)]
    plan = micro_batches(sizes, max_tokens=8192, packed=False)
    cells = sum(len(members) * max(sizes[i] for i in members) for members in plan)
    assert cells <= 1.05 * sum(sizes)
