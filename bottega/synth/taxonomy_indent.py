"""The lint rule about indentation: what begins a line stands where its parent puts it.

Left out: lines inside texts of several lines (what they hold is text), comments.

A value on a line of its own stands one step inside its parent; the first step seen is that of the file ("consistent").
A list under a key may stand at the key's column or a step inside, everywhere alike. Inside [ ] and { } later lines
follow the first item, and a closing bracket stands where the line of its opening begins.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import yaml

from bottega.synth.taxonomy_yaml import Mark, begin, finish


class Events(Protocol):
    """A text as lines, its tokens and its parser events."""

    @property
    def lines(self) -> Sequence[str]: ...

    @property
    def tokens(self) -> Sequence[yaml.Token]: ...

    @property
    def events(self) -> Sequence[yaml.Event]: ...


Found = tuple[int, int, str, str]


class _Frame:
    """An open collection: its kind, the column of what it holds (None: not known yet), the indentation of its line."""

    __slots__ = ("flow", "indent", "is_key", "is_map", "line_indent", "bracket")

    def __init__(self, *, is_map: bool, flow: bool, indent: int | None, line_indent: int, bracket: bool) -> None:
        self.is_map, self.flow, self.indent, self.line_indent, self.bracket = is_map, flow, indent, line_indent, bracket
        self.is_key = True


class _Walk:
    """Goes through the events once; `step` and `sequences` are learned on the way when they are to be consistent."""

    def __init__(self, page: Events, spaces: int | str, indent_sequences: bool | str) -> None:
        self.page = page
        self.step = spaces if isinstance(spaces, int) else None
        self.sequences = indent_sequences
        self.stack: list[_Frame] = []

    def begins(self, mark: Mark) -> bool:
        """Whether nothing but white space stands before it in its line."""
        return not self.page.lines[mark.line][: mark.column].strip()

    def inside(self, base: int, column: int) -> int:
        """A step inside `base`; the first one seen sets the step."""
        if self.step is None:
            self.step = column - base
        return base + self.step

    def expected(self, event: yaml.Event, frame: _Frame | None) -> int | str | None:
        """The column where this should stand if it begins its line (None: anywhere)."""
        column = begin(event).column
        if frame is None:
            return 0
        if frame.flow:
            if frame.is_map and not frame.is_key:
                return self.inside(column if frame.indent is None else frame.indent, column)
            if frame.indent is None:
                frame.indent = self.inside(frame.line_indent, column)
            return frame.indent
        assert frame.indent is not None
        if frame.is_map and frame.is_key:
            return frame.indent
        if frame.is_map and isinstance(event, yaml.SequenceStartEvent) and not event.flow_style:
            return self.under_key(frame.indent, column)
        return self.inside(frame.indent, column)

    def under_key(self, base: int, column: int) -> int | str | None:
        """Where a block list under a key at `base` should stand."""
        if self.sequences == "whatever":
            return None if column == base else self.inside(base, column)
        if self.sequences == "consistent":
            self.sequences = column != base
        if not self.sequences:
            return base
        if column == base and self.step is None:
            return f"at least {base + 1}"
        return self.inside(base, column)

    def take(self, event: yaml.Event) -> Iterator[Found]:
        if isinstance(event, yaml.MappingEndEvent | yaml.SequenceEndEvent):
            frame = self.stack.pop()
            mark = begin(event)
            if frame.bracket and self.begins(mark) and mark.column != frame.line_indent:
                yield _wrong(mark, frame.line_indent)
            self.advance()
            return
        if not isinstance(event, yaml.NodeEvent):
            return
        mark, parent = begin(event), self.stack[-1] if self.stack else None
        empty = isinstance(event, yaml.ScalarEvent) and begin(event).index == finish(event).index
        if not empty:
            if self.begins(mark):
                expected = self.expected(event, parent)
                if isinstance(expected, int) and expected < 0:  # a step that leads outwards was learned
                    expected = f"at least {mark.column + 1}"
                if expected is not None and expected != mark.column:
                    yield _wrong(mark, expected)
            if parent is not None and parent.flow and parent.indent is None:
                parent.indent = mark.column
        if isinstance(event, yaml.MappingStartEvent | yaml.SequenceStartEvent):
            self.open(event)
        else:
            self.advance()

    def comma(self, mark: Mark) -> Iterator[Found]:
        """A comma that begins its line stands with the items."""
        indent = self.stack[-1].indent
        if self.begins(mark) and indent is not None and indent != mark.column:
            yield _wrong(mark, indent)

    def open(self, event: yaml.CollectionStartEvent) -> None:
        mark = begin(event)
        line = self.page.lines[mark.line]
        flow = bool(event.flow_style)
        is_map = isinstance(event, yaml.MappingStartEvent)
        bracket = flow and finish(event).index > mark.index
        indent = None if bracket else mark.column
        if flow and not bracket and self.stack:
            indent = self.stack[-1].indent  # a pair without braces in a list
        line_indent = len(line) - len(line.lstrip(" "))
        self.stack.append(_Frame(is_map=is_map, flow=flow, indent=indent, line_indent=line_indent, bracket=bracket))

    def advance(self) -> None:
        """A node of the collection that is open now is complete."""
        if self.stack and self.stack[-1].is_map:
            self.stack[-1].is_key = not self.stack[-1].is_key


def _wrong(mark: Mark, expected: int | str) -> Found:
    found = f" but found {mark.column}" if isinstance(expected, int) else ""
    message = f"wrong indentation: expected {expected}{found}"
    return mark.line + 1, mark.column + 1, message, f"begin the line with {expected} spaces"


def indentation(
    page: Events, *, spaces: int | str = "consistent", indent_sequences: bool | str = True
) -> Iterator[Found]:
    """Lines that begin at a column where their parent does not put them.

    Args:
        spaces: the step, or "consistent".
        indent_sequences: lists under keys stand a step inside (True), at the key's column (False), alike everywhere
            ("consistent") or anyhow ("whatever").
    """
    walk = _Walk(page, spaces, indent_sequences)
    commas = [token.start_mark for token in page.tokens if isinstance(token, yaml.FlowEntryToken)][::-1]
    for event in page.events:
        while commas and commas[-1].index < begin(event).index:
            yield from walk.comma(commas.pop())
        yield from walk.take(event)
