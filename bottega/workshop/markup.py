"""The small parts of a page: tables, numbers, marks; each returns HTML in which every text is escaped.

Left out: what stands on the page (report.py) and how it looks (report.css).
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from html import escape
from typing import Any

MAX_TEXT = 1200


def section(title: str, body: str, words: str = "") -> str:
    """A part of the page with its heading; nothing where there is no body. `body` is HTML, the rest text."""
    said = f'<p class="soft">{escape(words)}</p>' if words else ""
    return f"<section><h2>{escape(title)}</h2>{said}{body}</section>" if body else ""


def table(
    head: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: Sequence[int] = (), stacks: bool = False
) -> str:
    """A table from cells that are HTML already; the first column names the row.

    Args:
        numbers: right-aligned columns. stacks: on a phone every row becomes a block, its cells under each other.
    """

    def cell(at: int, html: str, tag: str) -> str:
        kind = ' class="num"' if at in numbers else ""
        name = f' data-name="{escape(head[at])}"' if stacks and tag == "td" and head[at] else ""
        return f"<{tag}{kind}{name}>{html}</{tag}>"

    top = "".join(cell(at, escape(name), "th") for at, name in enumerate(head))
    body = "".join(
        f"<tr>{''.join(cell(at, html, 'th' if at == 0 else 'td') for at, html in enumerate(row))}</tr>" for row in rows
    )
    kind = ' class="stacks"' if stacks else ""
    inside = f"<table{kind}><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div class="scroll">{inside}</div>' if rows else ""


def number(value: Any) -> str:
    """A number in at most four digits; a dash where there is none."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return "–"
    if isinstance(value, int) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.4g}"


def duration(seconds: float) -> str:
    """Seconds as a person says them: 4.2 s, 3 min 20 s, 2 h 05 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def file_size(num_bytes: float) -> str:
    """Bytes as a person says them: 812 bytes, 4.7 kB, 1.25 MB."""
    if num_bytes < 1000:
        return f"{num_bytes:.0f} bytes"
    return f"{num_bytes / 1e3:.3g} kB" if num_bytes < 1e6 else f"{num_bytes / 1e6:,.3g} MB"


def chip(kind: str, words: str) -> str:
    """A coloured mark; kind: good, bad or flat."""
    return f'<span class="chip {kind}">{escape(words)}</span>'


def small(text: str) -> str:
    """A second line in a cell."""
    return f'<span class="bounds">{escape(text)}</span>'


def bounds(low: Any, high: Any) -> str:
    """An interval in small; nothing where it is unbounded."""
    known = isinstance(low, int | float) and isinstance(high, int | float)
    return f'<span class="bounds">{number(low)} to {number(high)}</span>' if known else ""


def whisker(value: Any, low: Any, high: Any) -> str:
    """A share with its interval on a rail from 0 to 1."""
    if not all(isinstance(one, int | float) and 0 <= one <= 1 for one in (value, low, high)):
        return ""
    return (
        '<svg class="whisker" viewBox="-3 0 106 12" aria-hidden="true">'
        '<line class="rail" x1="0" x2="100" y1="6" y2="6"/>'
        f'<line class="span" x1="{100 * low:.1f}" x2="{100 * high:.1f}" y1="6" y2="6"/>'
        f'<circle class="point" cx="{100 * value:.1f}" cy="6" r="3"/></svg>'
    )


def clip(text: Any) -> str:
    """A text of a run, escaped and cut to MAX_TEXT characters."""
    text = str(text)
    return escape(text if len(text) <= MAX_TEXT else text[:MAX_TEXT] + " …")


def plain_name(name: str) -> str:
    """A name without the number in front: 01-adapt -> adapt."""
    return re.sub(r"^\d+[-_]", "", name)
