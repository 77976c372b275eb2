"""What `synth` made, as sums and in words: the funnel of every leaf.

Left out: making it (synthesis.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from bottega.core.textio import printable
from bottega.core.textio import table as as_table

if TYPE_CHECKING:
    from bottega.synth.pipeline_account import Account


def funnel_of(accounts: Sequence[Account]) -> dict[str, Any]:
    """funnel.json: each leaf's account, and the sums over all."""
    leaves = [account.to_json() for account in accounts]
    total = {name: sum(leaf[name] for leaf in leaves) for name in ("asked", "kept", "rejected", "unused", "calls")}
    return {"leaves": leaves, "total": total}


def synth_text(result: dict[str, Any]) -> str:
    """The funnel, a line a leaf; then what ended early, and the sums."""
    if "funnel" not in result:
        return ""
    rows = [
        [leaf["leaf"], leaf["asked"], sum(step["made"] for step in leaf["steps"])]
        + [leaf[name] for name in ("rejected", "unused", "kept")]
        + [_most(leaf)]
        for leaf in result["funnel"]["leaves"]
    ]
    lines = [as_table(rows, ("leaf", "asked", "made", "rejected", "unused", "kept", "most rejected by"))]
    lines += [f"{leaf}: {printable(why)}" for leaf, why in result["ended"].items()]
    calls = f"{result['calls']:,} calls ({result['from_journal']:,} answers from the journal)"
    lines.append(f"{result['kept']:,} rows kept, {result['rejected']:,} rejected, {calls}; written to {result['out']}")
    return "\n".join(lines)


def _most(leaf: dict[str, Any]) -> str:
    """Where a leaf lost most: stage, reason, number."""
    lost = [(count, step["step"], why) for step in leaf["steps"] for why, count in step["rejected"].items()]
    count, step, why = max(lost, default=(0, "", ""))
    return f"{step}: {why} ({count})" if count else ""
