"""The blocks of flows that ask nobody: functions of streams of rows, and the table of all blocks.

Left out: blocks that ask a teacher (blocks_teacher.py). A block is made by a function whose keyword-only parameters are its
options in a flow file; it takes rows one by one, in order, so that memory does not grow with their number.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from bottega.core.errors import UserError
from bottega.synth.pipeline_account import Account, Row, Step
from bottega.synth.teacher import Asker

Stream = AsyncIterator[Row]


@dataclass(kw_only=True, slots=True)
class Context:
    """What a block may use: its step in the leaf's account, the teacher, and how many rows the leaf still needs."""

    account: Account
    step: Step
    asker: Asker
    language: str
    wanted: Callable[[], int]
    prompts: Any = None

    def reject(self, row: Row, reason: str, *, score: Any = None, detail: str = "") -> None:
        self.account.reject(self.step, row, reason, score=score, detail=detail)


Block = Callable[[Stream, Context], Stream]

BLOCKS = {
    "generate": "bottega.synth.blocks_teacher:generate",
    "judge": "bottega.synth.blocks_teacher:judge",
    "agree": "bottega.synth.blocks_teacher:agree",
    "first_message": "bottega.synth.blocks_opening:first_message",
    "dialogue": "bottega.synth.blocks_dialogue:dialogue",
    "continue": "bottega.synth.blocks_reading:continue_text",
    "confirm": "bottega.synth.blocks_reading:confirm",
    "sentence": "bottega.synth.blocks_reading:sentence",
    "stands": "bottega.synth.blocks_reading:stands",
    "names": "bottega.synth.blocks_reading:names",
    "iterate": "bottega.synth.blocks_teacher:iterate",
    "filter": "bottega.synth.blocks:filter_rows",
    "dedupe": "bottega.synth.blocks:dedupe",
    "combine": "bottega.synth.blocks:combine",
    "flatten": "bottega.synth.blocks:flatten",
    "rename": "bottega.synth.blocks:rename",
    "duplicate": "bottega.synth.blocks:duplicate",
    "drop": "bottega.synth.blocks:drop",
    "constant": "bottega.synth.blocks:constant",
    "sample": "bottega.synth.blocks:sample",
    "select": "bottega.synth.blocks:select",
    "majority": "bottega.synth.blocks:majority",
    "populate": "bottega.synth.blocks:populate",
    "parse": "bottega.synth.blocks:parse",
    "pair": "bottega.synth.blocks:pair",
    "options": "bottega.synth.blocks:options",
    "arithmetic": "bottega.synth.blocks_reject:arithmetic",
    "language": "bottega.synth.blocks_reject:language",
    "reworded": "bottega.synth.blocks_reject:reworded",
    "program": "bottega.synth.blocks_code:program_passes",
}


def text_of(value: Any) -> str:
    """A column's value as text."""
    return value if isinstance(value, str) else "" if value is None else str(value)


def column(row: Row, name: str) -> Any:
    """A column's value.

    Raises:
        UserError: the row has no such column.
    """
    if name not in row:
        there = ", ".join(sorted(one for one in row if not one.startswith("_")))
        raise UserError(f"a block of the flow needs the column {name!r}, but rows have {there}; name one of these")
    return row[name]


COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "eq": lambda a, b: a == b,
    "ne": lambda a, b: a != b,
    "gt": lambda a, b: a > b,
    "ge": lambda a, b: a >= b,
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
    "contains": lambda a, b: b in a,
}
Operation = Literal["eq", "ne", "gt", "ge", "lt", "le", "contains"]


def filter_rows(
    *, column: str, value: str | float | list[Any], operation: Operation = "eq", convert: str = "", default: Any = None
) -> Block:
    """Keep rows whose column compares with a value, or with any of a list.

    Args:
        convert: float, int or bool, first; a value that cannot be converted becomes `default`, or rejects the row.
    """
    name, values = column, value if isinstance(value, list) else [value]

    async def block(rows: Stream, context: Context) -> Stream:
        async for row in rows:
            found = converted(row.get(name), convert)
            found = default if found is None else found
            try:
                keeps = found is not None and any(COMPARE[operation](found, one) for one in values)
            except TypeError:
                keeps = False
            if keeps:
                yield row
            else:
                context.reject(row, f"{name} is not {operation} {value}", score=found)

    return block


def converted(value: Any, kind: str) -> Any:
    """A value as `kind`, from the first number in a text; None where there is none.

    >>> [converted(" 2 ", "float"), converted("Score: 3/3", "int"), converted("good", "float"), converted(True, "")]
    [2.0, 3, None, True]
    """
    if not kind:
        return value.strip() if isinstance(value, str) else value
    if kind == "bool":
        return {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}.get(
            text_of(value).strip().lower()
        )
    import re

    found = re.search(r"-?\d+(?:\.\d+)?", text_of(value))
    if found is None:
        return None
    return float(found[0]) if kind == "float" else int(float(found[0]))


class Seen:
    """Which texts were seen, by hash, on disk: a million take no memory to speak of."""

    def __init__(self) -> None:
        self._db = sqlite3.connect("", isolation_level=None)  # a temporary file of SQLite's own
        self._db.execute("PRAGMA synchronous=OFF")
        self._db.execute("PRAGMA journal_mode=OFF")
        self._db.execute("CREATE TABLE seen (hash BLOB PRIMARY KEY) WITHOUT ROWID")

    def add(self, text: str) -> bool:
        """True the first time."""
        name = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=12).digest()
        return self._db.execute("INSERT OR IGNORE INTO seen VALUES (?)", (name,)).rowcount == 1

    def close(self) -> None:
        self._db.close()


def dedupe(*, columns: list[str]) -> Block:
    """Keep the first of rows that are equal in `columns`, up to case and white space."""

    async def block(rows: Stream, context: Context) -> Stream:
        seen = Seen()
        try:
            async for row in rows:
                words = [" ".join(text_of(column(row, name)).lower().split()) for name in columns]
                if seen.add("\x1f".join(words)):
                    yield row
                else:
                    context.reject(row, "the same again")
        finally:
            seen.close()

    return block


def combine(*, columns: list[str], output: str, between: str = "\n\n") -> Block:
    """One column of several, their texts one after the other."""

    async def block(rows: Stream, context: Context) -> Stream:
        async for row in rows:
            yield {**row, output: between.join(text_of(column(row, name)) for name in columns)}

    return block


def flatten(*, columns: list[str], value: str, label: str) -> Block:
    """A row for each of `columns`: its text in the column `value`, its name in the column `label`."""

    async def block(rows: Stream, context: Context) -> Stream:
        async for row in rows:
            rest = {key: one for key, one in row.items() if key not in columns}
            for key in columns:
                yield {**rest, label: key, value: column(row, key)}

    return block


def rename(*, columns: dict[str, str]) -> Block:
    """Columns under other names, all at once."""

    async def block(rows: Stream, context: Context) -> Stream:
        async for row in rows:
            for name in columns:
                column(row, name)
            yield {columns.get(name, name): value for name, value in row.items()}

    return block


def duplicate(*, columns: dict[str, str]) -> Block:
    """Columns a second time, under another name."""

    async def block(rows: Stream, context: Context) -> Stream:
        async for row in rows:
            yield {**row, **{copy: column(row, name) for name, copy in columns.items()}}

    return block


def drop(*, columns: list[str]) -> Block:
    """Leave columns out; one that is not there is no mistake."""

    async def block(rows: Stream, context: Context) -> Stream:
        async for row in rows:
            yield {name: value for name, value in row.items() if name not in columns}

    return block


def constant(*, columns: dict[str, Any]) -> Block:
    """Columns with the same value in every row."""

    async def block(rows: Stream, context: Context) -> Stream:
        async for row in rows:
            yield {**row, **columns}

    return block


def sample(*, share: float, seed: int = 0) -> Block:
    """Keep a share of the rows, chosen by a hash of their text: the same rows every time, wherever they stand."""
    if not 0 < share <= 1:
        raise UserError(f"sample: share is {share:g}, but must be above 0 and at most 1; change it")

    async def block(rows: Stream, context: Context) -> Stream:
        async for row in rows:
            text = repr(sorted((name, value) for name, value in row.items() if not name.startswith("_")))
            draw = (
                int.from_bytes(
                    hashlib.blake2b(f"{seed}{text}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
                )
                / 2**64
            )
            if draw < share:
                yield row
            else:
                context.reject(row, "not in the sample")

    return block


def select(*, choices: dict[str, str], choice: str, output: str) -> Block:
    """`output` is the column that `choices` names for the value of the column `choice`."""

    async def block(rows: Stream, context: Context) -> Stream:
        async for row in rows:
            found = text_of(column(row, choice))
            if found in choices:
                yield {**row, output: column(row, choices[found])}
            else:
                context.reject(row, f"{choice} is none of {', '.join(choices)}", detail=found[:80])

    return block


def majority(*, column: str) -> Block:
    """Every row gets the commonest value of the column (the first of equally common ones). It holds all rows of a leaf."""
    name = column

    async def block(rows: Stream, context: Context) -> Stream:
        held = [row async for row in rows]
        counts = Counter(text_of(row.get(name)) for row in held)
        for row in held:
            yield {**row, name: counts.most_common(1)[0][0]}

    return block


def populate(*, column: str, values: dict[str, dict[str, Any]]) -> Block:
    """The columns that `values` holds for the row's value of `column`."""
    name = column

    async def block(rows: Stream, context: Context) -> Stream:
        async for row in rows:
            found = text_of(row.get(name))
            if found in values:
                yield {**row, **values[found]}
            else:
                context.reject(row, f"{name} is none of {', '.join(values)}", detail=found[:80])

    return block


def parse(*, column: str, outputs: list[str], pattern: str = "", cleanup: Sequence[str] = ()) -> Block:
    """A row for each match in a column: by our tags, or by a pattern with a group for each output."""
    from bottega.synth.blocks_parse import Parse

    reader = Parse(columns=tuple(outputs), pattern=pattern, cleanup=tuple(cleanup)) if pattern else Parse.tags(outputs)
    name = column

    async def block(rows: Stream, context: Context) -> Stream:
        async for row in rows:
            found = reader.read(text_of(row.get(name)))
            if not found:
                context.reject(row, "not in the form asked for", detail=text_of(row.get(name))[:200])
            for values in found:
                yield {**row, **values}

    return block


def pair(*, group: list[str], text: str, score: str, least: float = 0.0) -> Block:
    """Best against worst: neighbouring rows equal in `group` become one row with `chosen`, `rejected` and `margin`.

    Args:
        text: the column of the answers. score: theirs, a number. least: a smaller margin rejects.
    """

    async def block(rows: Stream, context: Context) -> Stream:
        held: list[Row] = []
        async for row in rows:
            if held and any(held[0].get(name) != row.get(name) for name in group):
                if (made := _paired(held, text, score, least, context)) is not None:
                    yield made
                held = []
            held.append(row)
        if held and (made := _paired(held, text, score, least, context)) is not None:
            yield made

    return block


def _paired(rows: list[Row], text: str, score: str, least: float, context: Context) -> Row | None:
    ranked = sorted(rows, key=lambda row: -float(converted(column(row, score), "float") or 0))
    best, worst = ranked[0], ranked[-1]
    margin = float(converted(best[score], "float") or 0) - float(converted(worst[score], "float") or 0)
    if margin <= 0 or margin < least or best[text] == worst[text]:
        context.reject(best, "answers of equal worth", score=margin)
        return None
    return {**best, "chosen": best[text], "rejected": worst[text], "margin": margin}


def options(*, question: str, answer: str, least: int = 3) -> Block:
    """Multiple choice taken apart: lines `A) ...` of the question become `choices`, the letter of the answer `gold`."""
    import re

    line = re.compile(r"^\s*([A-Z])[).:]\s*(.+?)\s*$", re.MULTILINE)

    async def block(rows: Stream, context: Context) -> Stream:
        async for row in rows:
            asked, said = text_of(column(row, question)), text_of(column(row, answer))
            found = line.findall(asked)
            letters = [letter for letter, _ in found]
            match = re.match(r"\s*([A-Z])(?:[).:]|\s*$)", said)
            texts = [text for _, text in found]
            if len(found) < least or len(set(texts)) < len(texts) or letters != sorted(set(letters)):
                context.reject(row, "no clear choices", score=len(found))
            elif match is None or match[1] not in letters:
                context.reject(row, "the answer is none of the choices", detail=said[:80])
            else:
                stem = asked[: line.search(asked).start()].strip()  # type: ignore[union-attr]
                yield {**row, "stem": stem, "choices": texts, "gold": letters.index(match[1])}

    return block
