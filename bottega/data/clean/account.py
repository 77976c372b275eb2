"""What a step did: rows read, kept, changed and rejected, with reasons and examples that show no personal data.

Left out: the account of a run's rows (data/intake.py).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from bottega.core.types import Sample
from bottega.data.clean.names import hidden

MAX_EXAMPLES = 5
SHOWN = 80


class Item(NamedTuple):
    """A sample on its way through the steps, the number of the source it came from, and its hash as it was read."""

    source: int
    sample: Sample
    origin: bytes = b""


class Rejected(NamedTuple):
    """A sample that a step left out."""

    item: Item
    step: str
    reason: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.reason} {self.detail}".rstrip()


@dataclass(kw_only=True, slots=True)
class Account:
    """One step's account; `sink` hears of every rejected sample."""

    name: str
    options: dict[str, Any]
    seed: int
    sink: Callable[[Rejected], None]
    read: int = 0
    kept: int = 0
    changed: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    found: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)

    def counted(self, items: Iterator[Item]) -> Iterator[Item]:
        """The items, counted as read."""
        for item in items:
            self.read += 1
            yield item

    def reject(self, item: Item, reason: str, *, detail: str = "", shown: str = "") -> None:
        """Leave `item` out; `reason` is counted, `detail` says more, `shown` is a text to show the beginning of."""
        self.rejected[reason] += 1
        rejected = Rejected(item, self.name, reason, detail)
        self.example(f"{item.sample.where}: {rejected}" + (f": {excerpt(shown)}" if shown else ""))
        self.sink(rejected)

    def example(self, text: str) -> None:
        """Keep an example while there is room; it must not hold personal data."""
        if len(self.examples) < MAX_EXAMPLES:
            self.examples.append(text)

    def to_json(self) -> dict[str, Any]:
        """As written to clean.json and intake.json."""
        return {
            "step": self.name,
            "options": self.options,
            "read": self.read,
            "kept": self.kept,
            "changed": self.changed,
            "rejected": dict(sorted(self.rejected.items())),
            "found": dict(sorted(self.found.items())),
            "examples": list(self.examples),
        }


def excerpt(text: str) -> str:
    """The beginning of a text on one line, personal data hidden, as far as it is found without optional packages."""
    line = " ".join(hidden(text[: 4 * SHOWN]).split())
    return repr(line if len(line) <= SHOWN else line[: SHOWN - 3] + "...")


def render(account: dict[str, Any]) -> list[str]:
    """A step's account in lines for a person."""
    gone = sum(account["rejected"].values())
    changed = f", {account['changed']:,} changed" if account["changed"] else ""
    lines = [f"{account['step']}: {account['read']:,} read, {gone:,} rejected{changed}"]
    lines += [f"  {count:>8,}  {reason}" for reason, count in account["rejected"].items()]
    lines += [f"  {count:>8,}  {kind} found" for kind, count in account["found"].items()]
    return [*lines, *(f"  e.g. {example}" for example in account["examples"])]
