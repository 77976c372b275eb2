"""The calibration table: runs that were measured, the factors fitted to them, and how far each run is from what the others say.

Left out: measuring (benchmarks/plan_calibration.py). Everything here is arithmetic on the table.

Held out: every run is predicted with factors fitted to all other runs, and the errors of these predictions are the plan's
error bars.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bottega.core.textio import table as columns
from bottega.workshop.plan_memory import MOST_CHURNING, Fit
from bottega.workshop.plan_rehearsal import Work
from bottega.workshop.plan_time import TERMS, Rates, fit, seconds, terms

Run = Mapping[str, Any]
KINDS = ("memory", "process", "time")
PARTS = ("constant", "factor", "churn")


def fitted(table: Mapping[str, Any]) -> dict[str, Any]:
    """The table with factors fitted to all its runs, and the held-out error of each run."""
    runs: Sequence[Run] = table["runs"]
    kept = {key: table[key] for key in ("date", "machine")}
    factors = {"memory": _memory(runs), "time": _time(runs, table["machine"])}
    errors = [held_out(runs, i, table["machine"]) for i in range(len(runs))]
    summary = {key: spread([error[key] for error in errors]) for key in KINDS}
    named = [{"name": run["name"], **error} for run, error in zip(runs, errors, strict=True)]
    return {**kept, "factors": factors, "held_out": {**summary, "runs": named}, "runs": list(runs)}


def held_out(runs: Sequence[Run], number: int, machine: Mapping[str, Any]) -> dict[str, float]:
    """Relative errors (predicted over measured, minus 1) of one run, predicted from all others.

    memory: what the run took above an interpreter with everything imported; process: the peak of the whole process, which is
    what must fit in a machine.
    """
    run, others = runs[number], [other for i, other in enumerate(runs) if i != number]
    bytes_said = Fit(**_memory(others)).of(*_held(run))
    time_said = seconds(_terms(run, machine), _time(others, machine))
    bare, took = float(machine["interpreter"]), run["measured"]["bytes"]
    return {
        "memory": bytes_said / took - 1,
        "process": (bare + bytes_said) / (bare + took) - 1,
        "time": time_said / run["measured"]["step_s"] - 1,
    }


def spread(errors: Sequence[float]) -> dict[str, float]:
    """Median, 90th percentile (nearest rank) and largest of absolute errors, and the share within 10 and 20 percent."""
    sizes = sorted(abs(error) for error in errors)
    return {
        "median": sizes[len(sizes) // 2],
        "p90": sizes[min(len(sizes) - 1, -(-9 * len(sizes) // 10) - 1)],
        "worst": sizes[-1],
        "within_10": sum(size <= 0.10 for size in sizes) / len(sizes),
        "within_20": sum(size <= 0.20 for size in sizes) / len(sizes),
    }


def _held(run: Run) -> tuple[float, float]:
    """Bytes of tensors, and bytes allocated in a step."""
    seen = run["predicted"]
    return seen["tensors"], seen["needs"]["churn"] * min(MOST_CHURNING, max(1.0, seen["micro_batches"]))


def _memory(runs: Sequence[Run]) -> dict[str, float]:
    rows = [dict(zip(PARTS, (1e8, *_held(run)), strict=True)) for run in runs]
    found = fit(rows, [run["measured"]["bytes"] for run in runs], PARTS)
    return {**found, "constant": found["constant"] * 1e8}


def _time(runs: Sequence[Run], machine: Mapping[str, Any]) -> dict[str, float]:
    return fit([_terms(run, machine) for run in runs], [run["measured"]["step_s"] for run in runs], TERMS)


def _terms(run: Run, machine: Mapping[str, Any]) -> dict[str, float]:
    return terms(Work.from_json(run["predicted"]["work"]), Rates.from_json(machine["rates"]))


def text(table: Mapping[str, Any]) -> str:
    """The table for people."""
    rows = []
    for run, error in zip(table["runs"], table["held_out"]["runs"], strict=True):
        found = run["measured"]
        rows.append(
            (
                run["name"],
                f"{found['bytes'] / 1e6:.0f}",
                f"{error['memory']:+.1%}",
                f"{error['process']:+.1%}",
                f"{found['step_s']:.3f}",
                f"{error['time']:+.1%}",
            )
        )
    lines = [columns(rows, ("run", "MB", "held-out error", "of the process", "s a step", "held-out error"))]
    for key in KINDS:
        facts = table["held_out"][key]
        factors = f"; factors {table['factors'][key]}" if key in table["factors"] else ""
        lines.append(
            f"{key}: median {facts['median']:.1%}, 90th percentile {facts['p90']:.1%}, worst {facts['worst']:.1%}; within 10 "
            f"percent {facts['within_10']:.0%}, within 20 percent {facts['within_20']:.0%}{factors}"
        )
    return "\n".join(lines)
