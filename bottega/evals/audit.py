"""An audit: what was measured of a risk, each finding with its interval and its bound, a verdict, and ways to lower it.

Left out: the measuring (forgetting.py, privacy.py).

A finding passes when the whole interval keeps the bound, fails when none of it does, and is unclear between: what was not shown is
not passed, and more items narrow the interval.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

from bottega.core.config import build
from bottega.core.errors import UserError

SCHEMA = 1
Verdict = Literal["passed", "failed", "unclear", "measured"]
FEW = 1000
"""Fewer items than this leave a drop of a few points open."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One measured number. low, high: its 95 percent interval, None where unbounded. bound: at most this; None: only measured."""

    what: str
    value: float
    low: float | None
    high: float | None
    n: int
    bound: float | None = None
    unit: str = ""

    @property
    def verdict(self) -> Verdict:
        """Against the bound."""
        if self.bound is None:
            return "measured"
        if self.high is not None and self.high <= self.bound:
            return "passed"
        return "failed" if self.low is not None and self.low > self.bound else "unclear"

    def line(self) -> str:
        """For people."""
        ends = "" if self.low is None or self.high is None else f" [{self.low:.3f}, {self.high:.3f}]"
        bound = "" if self.bound is None else f", at most {self.bound:g}"
        unit = f" {self.unit}" if self.unit else ""
        return f"{self.what}: {self.value:.3f}{unit}{ends}{bound} (n={self.n:,}): {self.verdict}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Audit:
    """The findings on one risk of a model. base: what it was compared with, "" where nothing. examples: what was seen, as text."""

    risk: str
    model: str
    base: str
    seed: int
    findings: tuple[Finding, ...]
    notes: tuple[str, ...] = ()
    remedies: tuple[str, ...] = ()
    examples: tuple[dict[str, str], ...] = ()
    schema: int = SCHEMA

    @property
    def verdict(self) -> Verdict:
        """The worst of its findings."""
        found = {finding.verdict for finding in self.findings}
        return next((word for word in ("failed", "unclear", "passed") if word in found), "measured")  # type: ignore[return-value]

    @property
    def exit_code(self) -> int:
        """1 unless every bound was shown to be kept."""
        return 0 if self.verdict in ("passed", "measured") else 1

    def to_json(self) -> dict[str, Any]:
        """As written to audits/*.json."""
        found = asdict(self)
        for one, finding in zip(found["findings"], self.findings):
            one["verdict"] = finding.verdict
        return found | {"verdict": self.verdict}

    @staticmethod
    def from_json(data: dict[str, Any]) -> Audit:
        """Read back what `to_json` wrote.

        Raises:
            UserError: it is none, or of a later version.
        """
        if isinstance(data, dict) and isinstance(data.get("schema"), int) and data["schema"] > SCHEMA:
            raise UserError(
                f"the audit has schema {data['schema']}, and this version reads up to {SCHEMA}: update bottega"
            )
        plain = {key: value for key, value in dict(data).items() if key != "verdict"}
        findings = plain.get("findings")
        if isinstance(findings, list):
            plain["findings"] = [{k: v for k, v in one.items() if k != "verdict"} for one in findings]
        return build(Audit, plain)

    def summary(self) -> str:
        """For people: the verdict, each finding, what to do."""
        lines = [f"{self.risk} of {self.model}: {self.verdict}" + (f", against {self.base}" if self.base else "")]
        lines += [f"  {finding.line()}" for finding in self.findings]
        lines += [f"  note: {note}" for note in self.notes]
        if self.exit_code:
            lines += [f"  to lower it: {remedy}" for remedy in self.remedies]
        return "\n".join(lines)


def finding(what: str, found: Any, bound: float | None = None, unit: str = "") -> Finding:
    """From anything with value, low, high and n (grade/intervals.py)."""
    low, high = (float(end) if end is not None and math.isfinite(end) else None for end in (found.low, found.high))
    return Finding(what=what, value=float(found.value), low=low, high=high, n=int(found.n), bound=bound, unit=unit)


def few(findings: Iterable[Finding]) -> tuple[str, ...]:
    """Which findings rest on too few items to show a small change."""
    return tuple(
        f"{one.what}: {one.n:,} items are few; {FEW:,} or more narrow the interval"
        for one in findings
        if one.verdict == "unclear" and one.n < FEW
    )
