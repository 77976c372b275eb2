"""The table of cleaning steps, and samples through a chain of them.

Left out: files (clean/files.py), what each step does. To add a step, write a class whose keyword-only parameters are its
options and whose call takes items and its account, and register it here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol

from bottega.core import table
from bottega.core.config import closest, convert, plain
from bottega.core.errors import UserError
from bottega.data.clean.account import Account, Item, Rejected

STEPS: dict[str, str] = {
    "exact": "bottega.data.clean.duplicates:exact",
    "near": "bottega.data.clean.duplicates:near",
    "length": "bottega.data.clean.quality:length",
    "language": "bottega.data.clean.quality:language",
    "repetition": "bottega.data.clean.quality:repetition",
    "quality": "bottega.data.clean.quality:quality",
    "c4": "bottega.data.clean.quality:c4",
    "decontaminate": "bottega.data.clean.duplicates:decontaminate",
    "personal": "bottega.data.clean.personal:personal",
}


class Step(Protocol):
    """Items in, the items that stay out; what goes is told to the account."""

    def __call__(self, items: Iterator[Item], account: Account) -> Iterator[Item]: ...


def step(name: str, options: Mapping[str, Any]) -> tuple[Step, dict[str, Any]]:
    """A step of the table with its options, and all of its options as written to the account.

    Raises:
        UserError: an unknown step or option, a value of the wrong type or out of range, a missing file or package.
    """
    if name not in STEPS:
        raise UserError(f"there is no cleaning step {name!r}{closest(name, STEPS)}")
    known = table.options(STEPS[name])
    full = {option.name: option.default for option in known.values() if option.default is not table.REQUIRED}
    for key, value in options.items():
        if key not in known:
            raise UserError(f"{name} has no option {key!r}{closest(key, known)}")
        full[key], wrong = convert(known[key].kind, value, path=(name, key))
        if wrong:
            raise UserError(wrong[0].removeprefix(": "))
    missing = [key for key, option in known.items() if option.default is table.REQUIRED and key not in full]
    if missing:
        raise UserError(f"the cleaning step {name} needs the option {missing[0]!r}")
    return table.resolve(STEPS[name])(**full), plain(full)


def cleaned(
    items: Iterable[Item],
    choices: Iterable[tuple[str, Mapping[str, Any]]],
    *,
    seed: int = 0,
    sink: Callable[[Rejected], None] = lambda rejected: None,
) -> tuple[Iterator[Item], list[Account]]:
    """The items that pass every step, rewritten where a step rewrites, and each step's account.

    The accounts are complete when the items have been taken. Steps run one behind the other, a sample at a time; `near`
    waits for all of them. The same items, steps and seed give the same items.

    Args:
        choices: (name of a step, its options), in order. sink: hears of every sample that is left out.

    Raises:
        UserError: see `step`; in the course of the iteration, what a step needs is missing.
    """
    stream: Iterator[Item] = iter(items)
    accounts = []
    for name, options in choices:
        function, full = step(name, options)
        account = Account(name=name, options=full, seed=seed, sink=sink)
        stream = through(stream, function, account)
        accounts.append(account)
    return stream, accounts


def through(items: Iterator[Item], function: Step, account: Account) -> Iterator[Item]:
    """The items that pass one step, counted."""
    return _kept(function(account.counted(items), account), account)


def _kept(items: Iterator[Item], account: Account) -> Iterator[Item]:
    for item in items:
        account.kept += 1
        yield item
