"""Lint rules about what stands beside a token: spaces at colons, commas, dashes, brackets; keys, aliases, words.

Left out: rules about whole lines (taxonomy_lint.py), indentation (taxonomy_indent.py). A rule yields (line, column, message, fix),
both from 1; the column of too many spaces is that of the last one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import yaml


class Tokens(Protocol):
    """A text and its tokens."""

    @property
    def text(self) -> str: ...

    @property
    def tokens(self) -> Sequence[yaml.Token]: ...


Found = tuple[int, int, str, str]


def _after(page: Tokens, place: int, least: int, most: int, where: str) -> Iterator[Found]:
    """Spaces between a token and the next one of its line."""
    token, following = page.tokens[place], page.tokens[place + 1]
    if token.end_mark.line != following.start_mark.line or isinstance(following, yaml.StreamEndToken):
        return
    spaces = following.start_mark.index - token.end_mark.index
    line, column = following.start_mark.line + 1, following.start_mark.column
    if 0 <= most < spaces:
        yield line, column, f"too many spaces {where}", f"leave at most {most}"
    elif spaces < least:
        yield line, column + 1, f"too few spaces {where}", f"leave at least {least}"


def _before(page: Tokens, place: int, least: int, most: int, where: str) -> Iterator[Found]:
    """Spaces between a token and the one in front of it in its line."""
    token, before = page.tokens[place], page.tokens[place - 1]
    end = before.end_mark
    if end.line != token.start_mark.line or (end.index and page.text[end.index - 1] == "\n"):
        return
    spaces = token.start_mark.index - end.index
    line, column = token.start_mark.line + 1, token.start_mark.column
    if 0 <= most < spaces:
        yield line, column, f"too many spaces {where}", f"leave at most {most}"
    elif spaces < least:
        yield line, column + 1, f"too few spaces {where}", f"leave at least {least}"


def colons(page: Tokens, *, max_spaces_before: int = 0, max_spaces_after: int = 1) -> Iterator[Found]:
    """Spaces around the colon of a key, and after the question mark of a long one."""
    for place, token in enumerate(page.tokens):
        if isinstance(token, yaml.ValueToken) and token.start_mark.index < token.end_mark.index:
            before = page.tokens[place - 1]
            gap = token.start_mark.index - before.end_mark.index
            if not (isinstance(before, yaml.AliasToken) and gap == 1):  # `*name :` needs its space
                yield from _before(page, place, 0, max_spaces_before, "before colon")
            yield from _after(page, place, 0, max_spaces_after, "after colon")
        elif isinstance(token, yaml.KeyToken) and token.start_mark.index < token.end_mark.index:
            yield from _after(page, place, 0, max_spaces_after, "after question mark")


def commas(
    page: Tokens, *, max_spaces_before: int = 0, min_spaces_after: int = 1, max_spaces_after: int = 1
) -> Iterator[Found]:
    """Spaces around the comma of a list or mapping in one line."""
    for place, token in enumerate(page.tokens):
        if not isinstance(token, yaml.FlowEntryToken):
            continue
        mark = token.start_mark
        if page.tokens[place - 1].end_mark.line < mark.line and max_spaces_before >= 0:
            yield (
                mark.line + 1,
                max(1, mark.column),
                "too many spaces before comma",
                "put it at the end of the line before",
            )
        else:
            yield from _before(page, place, 0, max_spaces_before, "before comma")
        yield from _after(page, place, min_spaces_after, max_spaces_after, "after comma")


def hyphens(page: Tokens, *, max_spaces_after: int = 1) -> Iterator[Found]:
    """Spaces after the dash of a list's item."""
    for place, token in enumerate(page.tokens):
        if isinstance(token, yaml.BlockEntryToken):
            yield from _after(page, place, 0, max_spaces_after, "after hyphen")


def braces(page: Tokens, *, min_spaces_inside: int = 0, max_spaces_inside: int = 0) -> Iterator[Found]:
    """Spaces inside { }."""
    yield from _inside(
        page, yaml.FlowMappingStartToken, yaml.FlowMappingEndToken, min_spaces_inside, max_spaces_inside, "braces"
    )


def brackets(page: Tokens, *, min_spaces_inside: int = 0, max_spaces_inside: int = 0) -> Iterator[Found]:
    """Spaces inside [ ]."""
    yield from _inside(
        page, yaml.FlowSequenceStartToken, yaml.FlowSequenceEndToken, min_spaces_inside, max_spaces_inside, "brackets"
    )


def _inside(page: Tokens, first: type, last: type, least: int, most: int, name: str) -> Iterator[Found]:
    for place, token in enumerate(page.tokens):
        if isinstance(token, first):
            empty = "empty " if isinstance(page.tokens[place + 1], last) else ""
            yield from _after(page, place, least, most, f"inside {empty}{name}")
        elif isinstance(token, last) and not isinstance(page.tokens[place - 1], first):
            yield from _before(page, place, least, most, f"inside {name}")


def key_duplicates(page: Tokens) -> Iterator[Found]:
    """A key that stands twice in one mapping."""
    open_: list[set[str] | None] = []
    for token, following in zip(page.tokens, page.tokens[1:]):
        if isinstance(token, yaml.BlockMappingStartToken | yaml.FlowMappingStartToken):
            open_.append(set())
        elif isinstance(token, yaml.BlockSequenceStartToken | yaml.FlowSequenceStartToken):
            open_.append(None)
        elif isinstance(token, yaml.BlockEndToken | yaml.FlowMappingEndToken | yaml.FlowSequenceEndToken):
            open_.pop()
        elif isinstance(token, yaml.KeyToken) and isinstance(following, yaml.ScalarToken) and open_:
            keys = open_[-1]
            if keys is None:
                continue
            if following.value in keys and following.value != "<<":
                mark = following.start_mark
                message = f'duplication of key "{following.value}" in mapping'
                yield mark.line + 1, mark.column + 1, message, "remove or rename one of the two"
            keys.add(following.value)


def anchors(page: Tokens) -> Iterator[Found]:
    """An alias whose anchor does not stand before it."""
    known: set[Any] = set()
    for token in page.tokens:
        if isinstance(token, yaml.DocumentStartToken | yaml.DocumentEndToken):
            known.clear()
        elif isinstance(token, yaml.AnchorToken):
            known.add(token.value)
        elif isinstance(token, yaml.AliasToken) and token.value not in known:
            mark = token.start_mark
            yield mark.line + 1, mark.column + 1, f'found undeclared alias "{token.value}"', "write the value out"


_TRUTHY = {
    form for word in ("yes", "no", "true", "false", "on", "off") for form in (word, word.upper(), word.capitalize())
}
_TRUTHY -= {"true", "false"}


def truthy(page: Tokens) -> Iterator[Found]:
    """Words without quotes that YAML 1.1 takes for a boolean, other than true and false."""
    for place, token in enumerate(page.tokens):
        tagged = place and isinstance(page.tokens[place - 1], yaml.TagToken)
        if isinstance(token, yaml.ScalarToken) and token.plain and token.value in _TRUTHY and not tagged:
            mark = token.start_mark
            message = "truthy value should be one of [false, true]"
            yield mark.line + 1, mark.column + 1, message, f'put it in quotes: "{token.value}"'
