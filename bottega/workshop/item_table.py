"""Every item of an evaluation as a row of a table: csv for a spreadsheet, jsonl for a program, xlsx for both.

Left out: charts and formulas; a cell that begins like a formula is written as text.
"""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bottega.core import rundir
from bottega.core.errors import UserError

if TYPE_CHECKING:
    from bottega.evals.kinds import Outcome
    from bottega.evals.tasks import Item, Task

COLUMNS = ("task", "key", "group", "prompt", "answer", "reply", "value", "verdict", "stopped")
KINDS = (".csv", ".jsonl", ".xlsx")
LONGEST_CELL = 32_767
"""Characters that a cell of a spreadsheet holds."""
FORMULAS = ("=", "+", "-", "@", "\t", "\r")
"""How a cell begins that a spreadsheet would compute."""


class ItemTable:
    """Rows in the order in which they come, written whole at the end of a `with` that no error ended; nothing without a path."""

    def __init__(self, path: str) -> None:
        self.path = Path(path) if path else None
        self.rows: list[dict[str, Any]] = []
        if self.path is None:
            return
        if self.path.suffix not in KINDS:
            raise UserError(
                f"--table {path} ends with {self.path.suffix or 'nothing'}: name a file with {', '.join(KINDS)}"
            )
        if self.path.suffix == ".xlsx":
            _openpyxl()

    def __enter__(self) -> ItemTable:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None and self.path is not None:
            {".csv": _as_csv, ".jsonl": _as_jsonl, ".xlsx": _as_xlsx}[self.path.suffix](self.path, self.rows)

    def add(self, task: Task, item: Item, outcome: Outcome) -> None:
        """One item; `value` is None where a judge said nothing clear."""
        if self.path is None:
            return
        group = str(item.record.get(task.group, "")) if task.group else ""
        value = outcome.value / outcome.weight if outcome.weight else outcome.value
        self.rows.append(
            {
                "task": task.name, "key": item.key, "group": group, "prompt": outcome.prompt, "answer": outcome.truth,
                "reply": outcome.reply, "value": value if math.isfinite(value) else None, "verdict": outcome.said,
                "stopped": outcome.stopped,
            }
        )  # fmt: skip


def _openpyxl() -> Any:
    try:
        import openpyxl
    except ImportError:
        raise UserError(
            "an .xlsx table needs openpyxl: pip install 'bottega[office]', or name a .csv or .jsonl file"
        ) from None
    return openpyxl


def _as_jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    rundir.atomic_write(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def _as_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS)
    writer.writeheader()
    writer.writerows({name: _plain(value) for name, value in row.items()} for row in rows)
    rundir.atomic_write(path, text.getvalue())


def _plain(value: Any) -> Any:
    """A text that no spreadsheet computes: an apostrophe in front of what would be a formula."""
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULAS) else value


def _as_xlsx(path: Path, rows: list[dict[str, Any]]) -> None:
    openpyxl = _openpyxl()
    book = openpyxl.Workbook(write_only=True)
    sheet = book.create_sheet("items")
    sheet.append(list(COLUMNS))
    for row in rows:
        cells = []
        for name in COLUMNS:
            value = row[name]
            if isinstance(value, str):
                cell = openpyxl.cell.WriteOnlyCell(sheet, value=_printable(value)[:LONGEST_CELL])
                cell.data_type = "s"  # never a formula
                value = cell
            cells.append(value)
        sheet.append(cells)
    held = io.BytesIO()
    book.save(held)
    rundir.atomic_write(path, held.getvalue())


def _printable(text: str) -> str:
    """Without the control characters that the format cannot hold."""
    return "".join(one for one in text if one in "\n\r\t" or ord(one) >= 32)
