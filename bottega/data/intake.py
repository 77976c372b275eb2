"""The account of what came in: rows taken, dropped and cut, with reasons, and the rule for how many may be lost.

Left out: making the rows (prepare.py) and printing (report.py, the verbs).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bottega.core.errors import UserError
from bottega.core.types import Where
from bottega.data.sources import Problem

BIG_FILE = 1_000
SHARE = 0.01
MAX_EXAMPLES = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class Intake:
    """What became of the rows that were read.

    read: samples and problems; taken: rows to train on; tokens, trained: ids in them, and how many are targets. bad:
        reason -> rows that could not be used; dropped: reason -> rows that a named policy left out. cut: rows
        shortened; windows: extra rows that splitting made; tokens_lost: ids that no row holds; answers_cut: trained
        turns that lost their end.
    """

    read: int = 0
    taken: int = 0
    tokens: int = 0
    trained: int = 0
    bad: Mapping[str, int] = field(default_factory=dict)
    dropped: Mapping[str, int] = field(default_factory=dict)
    cut: int = 0
    windows: int = 0
    tokens_lost: int = 0
    answers_cut: int = 0
    files: Mapping[str, int] = field(default_factory=dict)
    examples: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """A plain object, as written to intake.json."""
        names = ("read", "taken", "tokens", "trained", "cut", "windows", "tokens_lost", "answers_cut")
        numbers: dict[str, Any] = {name: getattr(self, name) for name in names}
        maps = {name: dict(getattr(self, name)) for name in ("bad", "dropped", "files")}
        return numbers | maps | {"examples": list(self.examples), "notes": list(self.notes)}

    def render(self) -> str:
        """A few lines for a person."""
        lines = [f"rows: {self.read:,} read, {self.taken:,} taken ({self.tokens:,} tokens, {self.trained:,} trained)"]
        lines += [f"  not usable  {count:>8,}  {reason}" for reason, count in self.bad.items()]
        lines += [f"  dropped     {count:>8,}  {reason}" for reason, count in self.dropped.items()]
        if self.cut or self.windows:
            lines.append(
                f"  cut         {self.cut:>8,}  rows; {self.tokens_lost:,} tokens lost, "
                f"{self.answers_cut:,} answers cut, {self.windows:,} windows added"
            )
        elif self.tokens_lost:
            lines.append(f"  lost        {self.tokens_lost:>8,}  tokens of the dropped rows")
        lines += [f"  e.g. {example}" for example in self.examples]
        return "\n".join([*lines, *(f"  note: {note}" for note in self.notes)])


class Ledger:
    """Counts while rows are made; `close` applies the loss policy and gives the Intake."""

    def __init__(self, allow_loss: int | None = None) -> None:
        self.allow_loss = allow_loss
        self.read = self.cut = self.windows = self.tokens_lost = self.answers_cut = 0
        self.bad: dict[str, int] = {}
        self.dropped: dict[str, int] = {}
        self.files: dict[str, int] = {}
        self.notes: dict[str, None] = {}
        self.examples: list[str] = []
        self._problems: dict[str, list[Problem]] = {}
        self._rows: set[tuple[str, int]] = set()

    def saw(self, where: Where) -> None:
        """One sample or problem was read."""
        self.read += 1
        if (where.file, where.row) not in self._rows or where.row == 0:
            self._rows.add((where.file, where.row))
            self.files[where.file] = self.files.get(where.file, 0) + 1

    def problem(self, problem: Problem) -> None:
        """A row that cannot be used.

        Raises:
            UserError: more rows than `allow_loss` are lost.
        """
        self.bad[problem.reason] = self.bad.get(problem.reason, 0) + 1
        self._example(str(problem))
        self._problems.setdefault(problem.where.file, []).append(problem)
        lost = sum(map(len, self._problems.values()))
        if self.allow_loss is not None and lost > self.allow_loss:
            first = next(iter(self._problems.values()))[0]
            raise UserError(
                f"{first}; {lost} rows are lost and --allow-loss is {self.allow_loss}: mend them or raise it"
            )

    def drop(self, where: Where, reason: str) -> None:
        """A row that a named policy leaves out; it does not count as lost."""
        self.dropped[reason] = self.dropped.get(reason, 0) + 1
        self._example(f"{where}: {reason}")

    def note(self, text: str) -> None:
        """A sentence that the reader of the account should see, once."""
        self.notes.setdefault(text)

    def problems(self) -> list[Problem]:
        """Every row that could not be used, file by file."""
        return [problem for problems in self._problems.values() for problem in problems]

    def _example(self, text: str) -> None:
        if len(self.examples) < MAX_EXAMPLES:
            self.examples.append(text)

    def close(self, *, taken: int, tokens: int, trained: int) -> Intake:
        """The finished account.

        Raises:
            UserError: without --allow-loss, a file of at most 1,000 rows lost one, or a bigger one more than 1 percent.
        """
        if self.allow_loss is None:
            for file, problems in self._problems.items():
                rows, lost = self.files.get(file, 0), len(problems)
                if rows <= BIG_FILE or lost > SHARE * rows:
                    raise UserError(
                        f"{problems[0]}; {lost:,} of {rows:,} rows of this file cannot be used: mend them or "
                        f"pass --allow-loss {sum(map(len, self._problems.values()))}"
                    )
        if taken == 0:
            why = ", ".join({**self.bad, **self.dropped}) or "there are none"
            raise UserError(f"no row is left to train on ({why})")
        return Intake(
            read=self.read,
            taken=taken,
            tokens=tokens,
            trained=trained,
            bad=self.bad,
            dropped=self.dropped,
            cut=self.cut,
            windows=self.windows,
            tokens_lost=self.tokens_lost,
            answers_cut=self.answers_cut,
            files=self.files,
            examples=tuple(self.examples),
            notes=tuple(self.notes),
        )
