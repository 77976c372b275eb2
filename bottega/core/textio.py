"""What people and scripts see: progress on stderr, JSON and tables on stdout.

Left out: colours of masked tokens (data room), the report (workshop/report.py).
"""

from __future__ import annotations

import json
import sys
import time
import unicodedata
from collections.abc import Mapping, Sequence
from typing import IO, Any

PLAIN_EVERY_S = 5.0
_SHOWN = {
    "loss": "loss {:.4g}",
    "eval.loss": "validation loss {:.4g}",
    "accuracy": "accuracy {:.4g}",
    "lr": "lr {:.4g}",
    "tokens/s": "{:,.0f} tokens/s",
    "mfu": "{:.0%} MFU",
    "GB": "{:.2g} GB",
}
"""Metrics that go into one line, and how they are written there."""


class PlainProgress:
    """One plain line every few seconds: for logs and pipes."""

    def __init__(
        self, total: int | None, label: str, *, stream: IO[str] | None = None, every_s: float = PLAIN_EVERY_S
    ) -> None:
        self.total, self.label, self.every_s = total, label, every_s
        self.stream = stream or sys.stderr
        self.start = self.last = time.monotonic()
        self.first: int | None = None
        self.step = 0
        self.shown_step = -1
        self.metrics: Mapping[str, float] = {}

    def update(self, step: int, metrics: Mapping[str, float] | None = None) -> None:
        """`step` of `total` is done; a line is printed when the last one is old enough."""
        now = time.monotonic()
        if self.first is None:
            self.first, self.start = step, now  # what came before the first step (a reference pass) is not its rate
        self.step, self.metrics = step, metrics or {}
        if now - self.last >= self.every_s:
            self.print_line(now)

    def print_line(self, now: float) -> None:
        """Print where things stand."""
        self.last, self.shown_step = now, self.step
        parts = [f"{self.label}: {self.step}" + (f"/{self.total}" if self.total else "")]
        parts += describe(self.metrics)
        rate = (self.step - (self.first or 0)) / max(now - self.start, 1e-9)
        if rate > 0:
            parts.append(f"{rate:.3g}/s")
        if self.total and rate > 0:
            parts.append(f"{clock((self.total - self.step) / rate)} left")
        print("  ".join(parts), file=self.stream, flush=True)

    def note(self, line: str) -> None:
        """One line for a person to read."""
        print(line, file=self.stream, flush=True)

    def close(self) -> None:
        """Print the last line, if it was not."""
        if self.first is not None and self.shown_step != self.step:
            self.print_line(time.monotonic())

    def __enter__(self) -> PlainProgress:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class BarProgress:
    """A live bar with rate and time left: for terminals."""

    def __init__(self, total: int | None, label: str) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[facts]}"),
            TimeRemainingColumn(compact=True),
            TextColumn("left"),
        )
        self.bar = Progress(*columns, console=Console(stderr=True), refresh_per_second=4)
        self.bar.start()
        self.task = self.bar.add_task(label, total=total, facts="")
        self.start = time.monotonic()
        self.first: int | None = None

    def update(self, step: int, metrics: Mapping[str, float] | None = None) -> None:
        """`step` of the total is done."""
        if self.first is None:
            self.first, self.start = step, time.monotonic()
            self.bar.reset(self.task, completed=step)
        rate = (step - self.first) / max(time.monotonic() - self.start, 1e-9)
        facts = "  ".join([*describe(metrics or {}), *([f"{rate:.3g}/s"] if rate else [])])
        self.bar.update(self.task, completed=step, facts=facts)

    def note(self, line: str) -> None:
        """One line above the bar."""
        self.bar.console.print(line, markup=False, highlight=False)

    def close(self) -> None:
        """Stop drawing."""
        self.bar.stop()

    def __enter__(self) -> BarProgress:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class NoProgress:
    """Shows nothing: for tests and for library use without a screen."""

    def update(self, step: int, metrics: Mapping[str, float] | None = None) -> None:
        """Nothing."""

    def note(self, line: str) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""

    def __enter__(self) -> NoProgress:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def progress(total: int | None, label: str, *, quiet: bool = False) -> PlainProgress | BarProgress | NoProgress:
    """A live bar on a terminal, plain lines elsewhere, on stderr. Use it in a `with`."""
    if quiet:
        return NoProgress()
    return BarProgress(total, label) if sys.stderr.isatty() else PlainProgress(total, label)


def describe(metrics: Mapping[str, float]) -> list[str]:
    """The numbers worth a place in one line.

    >>> describe({"loss": 2.34567, "lr": 0.0001, "tokens/s": 812.3})
    ['loss 2.346', 'lr 0.0001', '812 tokens/s']
    """
    words = []
    for name, form in _SHOWN.items():
        value = metrics.get(name)
        if value is not None:
            words.append(form.format(value))
    return words


def clock(seconds: float) -> str:
    """Seconds as people say them.

    >>> [clock(s) for s in (5, 65, 3700)]
    ['5 s', '1:05 min', '1:01 h']
    """
    whole = int(seconds + 0.5)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02d} min"
    return f"{whole // 3600}:{whole % 3600 // 60:02d} h"


def print_json(obj: Any, *, stream: IO[str] | None = None) -> None:
    """One JSON document on stdout, and nothing else."""
    print(json.dumps(obj, indent=1, ensure_ascii=False, allow_nan=False), file=stream or sys.stdout, flush=True)


def width(text: str) -> int:
    """Columns that `text` takes on a terminal (wide characters take two, combining ones none)."""
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def table(rows: Sequence[Sequence[Any]], headers: Sequence[str] = ()) -> str:
    """Rows as aligned text; numbers stand on the right."""
    cells = [[printable(cell) for cell in row] for row in rows]
    everything = [list(headers), *cells] if headers else cells
    if not everything:
        return ""
    numbers = [
        bool(rows) and all(isinstance(row[i], int | float) or row[i] is None for row in rows)
        for i in range(len(everything[0]))
    ]
    widths = [max(width(row[i]) for row in everything) for i in range(len(everything[0]))]
    lines = []
    for row in everything:
        padded = [
            " " * (w - width(c)) + c if number else c + " " * (w - width(c))
            for c, w, number in zip(row, widths, numbers)
        ]
        lines.append("  ".join(padded).rstrip())
    if headers:
        lines.insert(1, "  ".join("-" * w for w in widths))
    return "\n".join(lines)


def printable(value: Any) -> str:
    """A value for one cell: control characters escaped, so that data cannot move the cursor or hide text."""
    if value is None:
        return ""
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)
