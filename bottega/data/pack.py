"""Which rows share a micro-batch: few of them, balanced, none above the token limit, no row lost.

Left out: how the rows lie in it (models/layout.py).
"""

from collections.abc import Sequence


def micro_batches(sizes: Sequence[int], *, max_tokens: int, packed: bool, at_least: int = 1) -> list[list[int]]:
    """Split rows into micro-batches of at most `max_tokens` tokens, padding counted.

    Packed: the cost is the sum of sizes; the longest row first into the emptiest micro-batch (LPT), which leaves them within
    one row of balanced. Padded: the cost is rows x longest, so neighbours in length go together. A row longer than the limit
    has a micro-batch of its own.

    Args:
        sizes: tokens of each row. at_least: make this many micro-batches where there are rows enough.

    Returns:
        Indices into `sizes`; every index once; micro-batches and their members in a fixed order.
    """
    if not sizes:
        return []
    by_size = sorted(range(len(sizes)), key=lambda i: (-sizes[i], i))
    if packed:
        count = max(at_least, -(-sum(sizes) // max_tokens))
        while True:
            plan = _balance(by_size, sizes, min(count, len(sizes)))
            if count >= len(sizes) or all(len(m) == 1 or sum(sizes[i] for i in m) <= max_tokens for m in plan):
                return [sorted(m) for m in plan if m]
            count += 1
    plan = [[]]
    rows_each = -(-len(sizes) // at_least)
    for i in by_size:
        here = plan[-1]
        longest = sizes[here[0]] if here else sizes[i]
        if here and ((len(here) + 1) * longest > max_tokens or len(here) >= rows_each):
            plan.append([])
        plan[-1].append(i)
    return [sorted(m) for m in plan]


def _balance(by_size: Sequence[int], sizes: Sequence[int], count: int) -> list[list[int]]:
    loads = [0] * count
    plan: list[list[int]] = [[] for _ in range(count)]
    for i in by_size:
        lightest = loads.index(min(loads))
        plan[lightest].append(i)
        loads[lightest] += sizes[i]
    return plan
