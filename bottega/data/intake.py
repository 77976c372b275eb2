"""The account of what came in: rows taken, dropped and cut, with reasons, and the rule for how many may be lost.

Left out: making the rows (prepare.py) and printing (report.py, the verbs).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from bottega.core.errors import UserError
from bottega.core.types import Where
from bottega.data.sources import Problem

BIG_FILE = 1_000
SHARE = 0.01
MAX_EXAMPLES = 5
COUNTS = ("read", "cut", "windows", "tokens_lost", "answers_cut")


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
    """Counts while rows are made; `close` applies the loss policy and gives the Intake. `hear` is told every problem."""

    def __init__(self, allow_loss: int | None = None, *, hear: Callable[[Problem], None] | None = None) -> None:
        self.allow_loss, self.hear = allow_loss, hear
        self.read = self.cut = self.windows = self.tokens_lost = self.answers_cut = 0
        self.bad: dict[str, int] = {}
        self.dropped: dict[str, int] = {}
        self.files: dict[str, int] = {}
        self.notes: dict[str, None] = {}
        self.examples: list[str] = []
        self._first: dict[str, Problem] = {}
        self._lost: dict[str, int] = {}
        self._last: tuple[str, int] | None = None

    def saw(self, where: Where) -> None:
        """One sample or problem was read; samples of one row follow one another and count as one row of their file."""
        self.read += 1
        if (where.file, where.row) != self._last or where.row == 0:
            self._last = (where.file, where.row)
            self.files[where.file] = self.files.get(where.file, 0) + 1

    def problem(self, problem: Problem) -> None:
        """A row that cannot be used.

        Raises:
            UserError: more rows than `allow_loss` are lost.
        """
        self.bad[problem.reason] = self.bad.get(problem.reason, 0) + 1
        self._example(str(problem))
        if self.hear is not None:
            self.hear(problem)
        self._first.setdefault(problem.where.file, problem)
        self._lost[problem.where.file] = self._lost.get(problem.where.file, 0) + 1
        self._within_limit()

    def _within_limit(self) -> None:
        if self.allow_loss is not None and sum(self._lost.values()) > self.allow_loss:
            first = next(iter(self._first.values()))
            raise UserError(
                f"{first}; {self.allow_loss + 1} rows are lost and --allow-loss is {self.allow_loss}: "
                "mend them or raise it"
            )

    def drop(self, where: Where, reason: str) -> None:
        """A row that a named policy leaves out; it does not count as lost."""
        self.dropped[reason] = self.dropped.get(reason, 0) + 1
        self._example(f"{where}: {reason}")

    def note(self, text: str) -> None:
        """A sentence that the reader of the account should see, once."""
        self.notes.setdefault(text)

    def to_json(self) -> dict[str, Any]:
        """Everything counted so far, so that another ledger can `absorb` it."""
        names = (*COUNTS, "bad", "dropped", "files", "examples")
        first = {
            file: [problem.where.row, problem.where.column, problem.reason] for file, problem in self._first.items()
        }
        return {name: getattr(self, name) for name in names} | {
            "notes": list(self.notes),
            "first": first,
            "lost": self._lost,
        }

    def absorb(self, counted: Mapping[str, Any]) -> None:
        """Count on from what another ledger counted behind this one's rows (`to_json`).

        Raises:
            UserError: more rows than `allow_loss` are lost.
        """
        for name in COUNTS:
            setattr(self, name, getattr(self, name) + counted[name])
        for name in ("bad", "dropped", "files"):
            into = getattr(self, name)
            into.update({key: into.get(key, 0) + count for key, count in counted[name].items()})
        for text in counted["examples"]:
            self._example(text)
        for note in counted["notes"]:
            self.note(note)
        for file, (row, column, reason) in counted["first"].items():
            self._first.setdefault(file, Problem(Where(file, row, column), reason))
            self._lost[file] = self._lost.get(file, 0) + counted["lost"][file]
        self._within_limit()

    def _example(self, text: str) -> None:
        if len(self.examples) < MAX_EXAMPLES:
            self.examples.append(text)

    def close(self, *, taken: int, tokens: int, trained: int) -> Intake:
        """The finished account.

        Raises:
            UserError: without --allow-loss, a file of at most 1,000 rows lost one, or a bigger one more than 1 percent.
        """
        if self.allow_loss is None:
            for file, lost in self._lost.items():
                rows = self.files.get(file, 0)
                if rows <= BIG_FILE or lost > SHARE * rows:
                    raise UserError(
                        f"{self._first[file]}; {lost:,} of {rows:,} rows of this file cannot be used: mend them or "
                        f"pass --allow-loss {sum(self._lost.values())}"
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
