"""What a teacher wrote, taken apart into columns: by tags, or by a pattern. InstructLab's rules, with its loose ends kept.

Left out: JSON replies. Patterns of flow files are a stranger's: they run with a limit on time.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import regex

from bottega.core.errors import UserError

PATTERN_S = 2.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Parse:
    """How replies become columns.

    columns: their names. starts, ends: the tags around each (("",), ("",): the whole reply is the one column).
    pattern: instead of tags, an expression with a group a column. cleanup: texts taken out of what the pattern found.
    """

    columns: tuple[str, ...]
    starts: tuple[str, ...] = ()
    ends: tuple[str, ...] = ()
    pattern: str = ""
    cleanup: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.pattern:
            groups = compiled(self.pattern).groups
            if max(groups, 1) != len(self.columns):
                raise UserError(
                    f"the pattern {self.pattern!r} has {groups} groups for {len(self.columns)} columns; make them equal"
                )
        elif not len(self.columns) == len(self.starts) == len(self.ends):
            raise UserError(
                f"{len(self.columns)} columns, {len(self.starts)} start tags and {len(self.ends)} end tags: give one of each "
                "for every column"
            )

    @classmethod
    def tags(cls, columns: Sequence[str]) -> Parse:
        """The tags of our own prompts: [Start of Question] ... [End of Question] for the column `question`."""
        names = [column.replace("_", " ").title() for column in columns]
        starts, ends = (tuple(f"[{word} of {name}]" for name in names) for word in ("Start", "End"))
        return cls(columns=tuple(columns), starts=starts, ends=ends)

    def form(self) -> str:
        """The tags as a prompt shows them."""
        return "\n".join(f"{start}\n...\n{end}" for start, end in zip(self.starts, self.ends))

    def write(self, values: dict[str, Any]) -> str:
        """The reply that `read` reads back as `values`."""
        parts = zip(self.columns, self.starts, self.ends)
        return "\n".join(f"{start}\n{str(values[column]).strip()}\n{end}" for column, start, end in parts)

    def read(self, text: str, *, cut: bool = False) -> list[dict[str, str]]:
        """The rows that a reply holds, in order; empty where it holds none. `cut`: it ended in the middle."""
        if self.pattern:
            return self._by_pattern(text)
        found = [_between(text, start, end, cut=cut) for start, end in zip(self.starts, self.ends)]
        return [dict(zip(self.columns, values)) for values in zip(*found) if all(values)]

    def _by_pattern(self, text: str) -> list[dict[str, str]]:
        try:
            found = compiled(self.pattern).findall(text, timeout=PATTERN_S)
        except TimeoutError:
            return []
        rows = []
        for match in found:
            values = [match] if isinstance(match, str) else list(match)
            for tag in self.cleanup:
                values = [value.replace(tag, "") for value in values]
            values = [value.strip() for value in values]
            if all(values):
                rows.append(dict(zip(self.columns, values)))
        return rows


def compiled(pattern: str) -> Any:
    """The pattern as the `regex` package compiles it (it knows time limits).

    Raises:
        UserError: it is no regular expression.
    """
    try:
        return regex.compile(pattern, regex.DOTALL)
    except regex.error as error:
        raise UserError(f"{pattern!r} is no regular expression ({error}); correct the pattern") from None


def _between(text: str, start: str, end: str, *, cut: bool) -> list[str]:
    """Texts between two tags; the last one may lack its end, unless the reply was cut in it."""
    if not start and not end:
        return [text.strip()]
    stop = re.escape(end) if end else r"\Z"
    if end and not cut:
        stop = f"(?:{stop}|\\Z)"
    return [found.strip() for found in re.findall(re.escape(start) + r"(.*?)" + stop, text, re.DOTALL)]
