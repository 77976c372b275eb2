"""Rows of `synth` as they are trained on: with or without their documents, so many a leaf, none below its share.

Left out: how phases follow each other (workshop/phases.py) and writing files. A row's form is drawn from the row itself and the
seed, so that another row more or less changes no other.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from bottega.core.errors import UserError

Row = dict[str, Any]
FORMS = ("closed", "grounded", "raft")


@dataclass(frozen=True, kw_only=True, slots=True)
class Mix:
    """How rows are mixed.

    forms: share of each form among rows that have a document: closed (the question alone), grounded (the document, then the
    question), raft (the document among `distractors` others of its source, or with probability 1 - `golden` the others alone:
    Zhang et al. 2024, arXiv 2403.10131, section 3). per_leaf: most rows of a leaf (0: all). least: share of the rows that every
    leaf gets at least; what lacks is repeated.
    """

    forms: Mapping[str, float] = field(default_factory=lambda: {"closed": 1.0})
    distractors: int = 3
    golden: float = 0.8
    per_leaf: int = 0
    least: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        unknown = [name for name in self.forms if name not in FORMS]
        if unknown:
            raise UserError(f"the form {unknown[0]!r} is not known; there are {', '.join(FORMS)}")
        if any(not 0 <= share < math.inf for share in self.forms.values()) or not sum(self.forms.values()) > 0:
            told = ", ".join(f"{name}={share:g}" for name, share in self.forms.items())
            raise UserError(f"the forms {told or '(none)'} draw nothing; give each 0 or more, and one of them more")
        if not 0 <= self.golden <= 1:
            raise UserError(f"golden is {self.golden:g}, a probability from 0 to 1; 0.8 is usual")
        if not 0 <= self.least < 1:
            raise UserError(f"the least share of a leaf is {self.least:g}, but must be 0 to below 1; 0.05 is usual")
        if self.distractors < 1 and self.forms.get("raft", 0) > 0:
            raise UserError("raft puts the document among others; distractors is 0, give it 1 or more")


def leaf_of(row: Mapping[str, Any]) -> str:
    """The leaf of a row; `?` where it names none."""
    return str((row.get("metadata") or {}).get("leaf") or "?")


def mixed(rows: Iterable[Row], documents: Mapping[str, str], mix: Mix) -> list[Row]:
    """The rows in their forms, capped and filled up by leaf, in an order of their own.

    Args:
        documents: text of each document by the id in the rows' metadata.

    Raises:
        UserError: leaves with a least share each are more than fit into the whole.
    """
    by_leaf: dict[str, list[Row]] = {}
    for row in rows:
        by_leaf.setdefault(leaf_of(row), []).append(row)
    if mix.least * len(by_leaf) > 1:
        raise UserError(
            f"{len(by_leaf)} leaves of at least {mix.least:g} each are more than all rows; at most {1 / len(by_leaf):.3g} each fits"
        )
    for leaf, own in by_leaf.items():
        Random(f"{mix.seed}|leaf|{leaf}").shuffle(own)
        if mix.per_leaf:
            del own[mix.per_leaf :]
    kept = [in_form(row, documents, mix) for leaf in sorted(by_leaf) for row in _filled(by_leaf, leaf, mix.least)]
    Random(f"{mix.seed}|order").shuffle(kept)
    return kept


def _filled(by_leaf: Mapping[str, Sequence[Row]], leaf: str, least: float) -> list[Row]:
    """A leaf's rows, repeated in turn where they would be less than `least` of the whole (as the other leaves are)."""
    own, others = list(by_leaf[leaf]), sum(len(rows) for name, rows in by_leaf.items() if name != leaf)
    wanted = math.ceil(least * others / (1 - least)) if own else 0
    return own + [own[at % len(own)] for at in range(max(0, wanted - len(own)))]


def in_form(row: Row, documents: Mapping[str, str], mix: Mix) -> Row:
    """The row with what its form puts before the first question; `metadata.form` names it. One without a document stays as it is."""
    known = str((row.get("metadata") or {}).get("document"))
    messages = row.get("messages") or []
    at = next((number for number, turn in enumerate(messages) if turn["role"] == "user"), None)
    if known not in documents or at is None:
        return row
    draw = Random(f"{mix.seed}|{hashlib.sha256(repr(messages).encode()).hexdigest()}")
    names = [name for name in FORMS if mix.forms.get(name, 0) > 0]
    form = draw.choices(names, [mix.forms[name] for name in names])[0]
    shown: list[str] = []
    if form == "grounded":
        shown = [documents[known]]
    elif form == "raft":
        others = [text for name, text in documents.items() if name != known]
        shown = draw.sample(others, min(mix.distractors, len(others)))
        if draw.random() < mix.golden or not shown:
            shown.insert(draw.randrange(len(shown) + 1), documents[known])
    asked = {**messages[at], "content": "\n\n".join([*shown, messages[at]["content"]])}
    return {
        **row,
        "messages": [*messages[:at], asked, *messages[at + 1 :]],
        "metadata": {**row["metadata"], "form": form},
    }


def counts(rows: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, int]]:
    """Rows by leaf and form, for the plan that is shown first."""
    found: dict[str, Counter[str]] = {}
    for row in rows:
        form = (row.get("metadata") or {}).get("form") or "as made"
        found.setdefault(leaf_of(row), Counter())[form] += 1
    return {leaf: dict(sorted(forms.items())) for leaf, forms in sorted(found.items())}
