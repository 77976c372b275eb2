"""The part of a report that shows the audits of a run: each finding with its interval, its bound and its verdict.

Left out: the audits themselves (auditing.py).
"""

from __future__ import annotations

from html import escape

from bottega.evals.audit import Audit
from bottega.workshop.markup import bounds, chip, clip, number, section, table, whisker
from bottega.workshop.report_files import Run

MARKS = {
    "passed": ("good", "✓ passed"),
    "failed": ("bad", "✗ failed"),
    "unclear": ("flat", "? not shown"),
    "measured": ("flat", "● measured"),
}
MAX_EXAMPLES = 3


def audits(run: Run) -> str:
    """The section; nothing where no audit was made."""
    if not run.audits:
        return ""
    body = "".join(_one(audit) for audit in run.audits)
    words = "A bound is kept when the whole 95 percent interval keeps it; what was not shown is not passed."
    return section("Risks", body, words)


def _one(audit: Audit) -> str:
    rows = [
        [
            escape(one.what),
            f"{number(one.value)} {escape(one.unit)}{bounds(one.low, one.high)}{whisker(one.value, one.low, one.high)}",
            "–" if one.bound is None else f"≤ {number(one.bound)}",
            number(one.n),
            chip(*MARKS[one.verdict]),
        ]
        for one in audit.findings
    ]
    head = ("Finding", "Measured", "Bound", "n", "Verdict")
    against = f", against {escape(audit.base.rsplit('/', 1)[-1])}" if audit.base else ""
    title = f"<h3>{escape(audit.risk.capitalize())}{against}: {chip(*MARKS[audit.verdict])}</h3>"
    notes = [*audit.notes, *(f"To lower it: {one}" for one in audit.remedies if audit.exit_code)]
    told = "".join(f"<li>{escape(note)}</li>" for note in notes)
    examples = "".join(
        f"<li>{'; '.join(f'<b>{escape(key)}</b>: {clip(text)}' for key, text in one.items())}</li>"
        for one in audit.examples[:MAX_EXAMPLES]
    )
    listed = f"<ul>{told}{examples}</ul>" if told or examples else ""
    return title + table(head, rows, numbers=(1, 2, 3), stacks=True) + listed
