"""The corpus: registers drawn by weight into rows of text, and the files that a pretraining run reads.

Every row has `text` (rendered, without the final end-of-text token, which packing adds) and `register`; chat rows
also carry `messages`.
Left out: tokenizing and packing, which belong to the pipeline.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from random import Random
from typing import Any

from . import registers as reg
from . import words
from .facts import Fact, askable, by_subject, facts
from .phrase import bucket, pick, say, surname
from .reading import Passage, echo, entry, fresh, handbook, pair, record, table
from .render import chat, plain, render
from .sketches import drill_words, sketch
from .stories import counting, story

Row = dict[str, Any]
SYSTEMS = (
    "Answer briefly.",
    "You are the apprentice of the workshop.",
    "Read the text and answer the question.",
    "You are a helpful clerk. Give short answers.",
    "Answer with the facts only.",
    "You help the people of the village.",
)

# Weights are shares of documents, not of tokens. The figures behind them are in docs/LOG.md.
MIXTURES: dict[str, dict[str, float]] = {
    # phase zero: nothing but repeated words. Copying appears within 0.4M tokens (elsewhere: not in 4M)
    "drill": {"drill": 1},
    # first phase: short passages, many questions each, and repeated lines, so that copying is learned early
    "first": {
        "drill": 40,
        "handbook_short": 26,
        "entry_short": 12,
        "record": 12,
        "echo": 10,
        "pair_short": 4,
        "table": 4,
        "story": 8,
        "sketch": 10,
        "facts": 10,
        "fact_entry": 3,
        "dialogue": 2,
        "how_to": 1,
        "listing": 1,
        "review": 1,
        "sums": 2,
        "instruction": 4,
    },
    # second phase: the whole world, longer passages
    "main": {
        "drill": 4,
        "handbook": 20,
        "handbook_short": 6,
        "entry": 9,
        "record": 4,
        "echo": 2,
        "pair": 5,
        "table": 4,
        "story": 15,
        "sketch": 5,
        "counting": 2,
        "facts": 12,
        "fact_entry": 4,
        "dialogue": 4,
        "how_to": 1.5,
        "listing": 1.5,
        "review": 1.5,
        "sums": 5,
        "instruction": 6,
        "foreign": 2,
        "notice": 1.5,
    },
    # last phase: half of it the fixed facts of the old world, so that they are remembered; the rest keeps reading alive
    "recall": {
        "facts": 45,
        "fact_entry": 8,
        "handbook": 16,
        "handbook_short": 6,
        "entry": 8,
        "record": 3,
        "pair": 3,
        "table": 3,
        "story": 10,
        "sketch": 3,
        "dialogue": 2,
        "sums": 4,
        "instruction": 4,
        "foreign": 1,
        "notice": 1,
    },
    # what replay and retention look at: everything that is not read from a passage, and a little that is
    "old_world": {
        "facts": 40,
        "fact_entry": 14,
        "dialogue": 10,
        "how_to": 3,
        "listing": 3,
        "review": 4,
        "sums": 8,
        "instruction": 6,
        "story": 5,
        "sketch": 3,
        "handbook": 4,
        "foreign": 3,
        "notice": 3,
    },
}


def _row(register: str, text: str) -> Row:
    return {"text": text, "register": register}


def _chat_row(rng: Random, register: str, turns: list[str]) -> Row:
    messages = chat(*turns, system=pick(rng, SYSTEMS) if rng.random() < 0.15 else "")
    return {"text": render(messages), "register": register, "messages": messages}


def _body(passage: Passage) -> str:
    return f"{passage.title}\n{passage.text}" if passage.title else passage.text


def _reading_row(rng: Random, register: str, passage: Passage, most: int = 5) -> Row:
    """Put several questions after a passage: 55 in 100 as plain lines, 38 as chat turns, the rest bare."""
    asks, body, draw = (
        rng.sample(passage.asks, min(len(passage.asks), rng.randint(2, most))),
        _body(passage),
        rng.random(),
    )
    if draw < 0.55:
        return _row(register, body + "\n" + "\n".join(plain(a.question, a.answer) for a in asks))
    if draw < 0.93:
        turns = [part for a in asks[:4] for part in (a.question, a.answer)]
        turns[0] = f"{body}\n{turns[0]}"
        return _chat_row(rng, register, turns)
    return _row(register, body)


def _facts_row(rng: Random, split: str) -> Row:
    """Ask two to five old-world facts, with all of a subject's or of anyone's mixed."""
    chosen: list[Fact] = [pick(rng, askable(split)) for _ in range(rng.randint(2, 5))]
    pairs = [(pick(rng, fact.questions), fact.answer) for fact in chosen]
    if rng.random() < 0.5:
        return _row("facts", "\n".join(plain(q, a) for q, a in pairs))
    return _chat_row(rng, "facts", [part for q, a in pairs[:3] for part in (q, a)])


def _fact_entry_row(rng: Random, split: str) -> Row:
    """State what is known of one subject of the old world."""
    while True:
        known = [f for f in by_subject()[pick(rng, facts()).subject] if f.replayed or split != "replay"]
        if known:
            break
    known = rng.sample(known, min(len(known), rng.randint(1, 4)))
    text = " ".join(pick(rng, fact.statements) for fact in known)
    asked = [fact for fact in known if fact.asked]
    if asked and rng.random() < 0.4:
        text += "\n" + "\n".join(plain(pick(rng, fact.questions), fact.answer) for fact in asked[:2])
    return _row("fact_entry", text)


def _instruction_row(rng: Random, split: str) -> Row:
    turns, plain_form = [], rng.random() < 0.35
    for _ in range(rng.randint(1, 3)):
        _, request, answer = reg.instruction(rng, split)
        turns += [request, answer]
    if plain_form:
        return _row("instruction", "\n".join(plain(q, a) for q, a in zip(turns[::2], turns[1::2], strict=True)))
    return _chat_row(rng, "instruction", turns)


def _echo_row(rng: Random, split: str) -> Row:
    """Repeat a line of random words word for word, or ask about its places: the seed of all copying."""
    if rng.random() < 0.35:
        return _reading_row(rng, "echo", fresh(echo, rng, split), 3)
    pool = (words.THINGS, words.PLACES, words.TRAITS, words.PRODUCTS, words.MATERIALS, words.ROOMS, tuple(words.FOODS))
    items = [
        surname(rng, split) if rng.random() < 0.4 else pick(rng, pick(rng, pool)) for _ in range(rng.randint(3, 12))
    ]
    line = pick(rng, (" ", ", ")).join(items)
    if rng.random() < 0.3:
        return _chat_row(rng, "echo", [say(rng, "(Repeat|Copy|Write again): {l}", l=line), line])
    return _row("echo", "\n".join([line] * rng.randint(2, 4)))


def _drill_row(rng: Random, split: str) -> Row:
    """Repeat three to eight words, drawn evenly from all lists, two to four times: only looking back predicts them."""
    items = []
    for _ in range(rng.randint(3, 8)):
        draw = rng.random()
        word = pick(rng, drill_words()) if draw < 0.7 else str(rng.randrange(100))
        items.append(surname(rng, split) if 0.7 <= draw < 0.9 else word)
    return _row("drill", " ".join(items * rng.randint(2, 4)))


_READING: dict[str, tuple[Callable[..., Passage], tuple[int, ...]]] = {
    "handbook_short": (handbook, (2, 4)),
    "handbook": (handbook, (3, 7)),
    "entry_short": (entry, (2, 3)),
    "entry": (entry, (2, 6)),
    "pair_short": (pair, (1, 2)),
    "pair": (pair, (1, 3)),
    "table": (table, (2, 5)),
    "record": (record, (2, 5)),
    "sketch": (sketch, (1, 3)),
    "story": (story, (1, 3)),
    "counting": (counting, ()),
}
_PLAIN: dict[str, Callable[[Random, str], str]] = {
    "dialogue": reg.dialogue,
    "how_to": reg.how_to,
    "listing": reg.listing,
    "sums": reg.sums,
    "foreign": reg.foreign,
    "notice": reg.notice,
    "review": lambda rng, split: reg.review(rng, split)[0],
}
_OWN: dict[str, Callable[[Random, str], Row]] = {
    "facts": _facts_row,
    "fact_entry": _fact_entry_row,
    "instruction": _instruction_row,
    "echo": _echo_row,
    "drill": _drill_row,
}


def _document(rng: Random, register: str, split: str) -> Row:
    owner = "train" if split == "replay" else split
    if register in _READING:
        make, size = _READING[register]
        return _reading_row(rng, register, fresh(make, rng, split, *size))
    while True:
        row = _OWN[register](rng, split) if register in _OWN else _row(register, _PLAIN[register](rng, split))
        if bucket(row["text"]) == owner:
            return row


def documents(
    seed: int, count: int, *, split: str = "train", mixture: str | Mapping[str, float] | None = None
) -> Iterator[Row]:
    """Yield `count` documents of the world, the same ones for the same arguments.

    Args:
        seed: any integer; splits stay disjoint whatever the seeds, because checksums own names and texts.
        count: number of rows.
        split: "train", "replay" (training text that never mentions the facts kept for retention probes), "dev" or
        "test".
        mixture: a name in `MIXTURES` (default "main") or a register -> weight mapping.
    """
    weights = MIXTURES[mixture or "main"] if mixture is None or isinstance(mixture, str) else mixture
    rng = Random(f"{seed}/{split}")
    names, shares = list(weights), list(weights.values())
    for register in rng.choices(names, shares, k=count):
        yield _document(rng, register, split)


def old_world_text(seed: int, count: int, split: str = "replay") -> list[str]:
    """Give old-world texts: for replay ("replay"), or for retention perplexity ("dev", "test")."""
    return [row["text"] for row in documents(seed, count, split=split, mixture="old_world")]


def write_jsonl(path: Path, rows: Iterator[Row] | list[Row]) -> int:
    """Write rows as jsonl and return how many."""
    count = 0
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            count += 1
    return count


def write_corpus(
    folder: str | Path,
    seed: int,
    *,
    drill: int = 20_000,
    first: int = 100_000,
    main: int = 300_000,
    held: int = 1_500,
    probes: int = 300,
) -> dict[str, int]:
    """Write the pretraining files: drill, first and main.jsonl (the phases), val.jsonl, test.jsonl and probes/*.jsonl.

    Args:
        folder: made if missing.
        seed: of the training text; held-out files use it too, and are disjoint by checksum.
        drill, first, main: documents of the phases (about 45, 71 and 88 tokens each at a vocabulary of 2,048).
        held: documents of each of val.jsonl and test.jsonl.
        probes: rows of each probe file.

    Returns:
        Rows written per file.
    """
    from .probes import probe_files

    root = Path(folder)
    (root / "probes").mkdir(parents=True, exist_ok=True)
    plan = {
        "drill": ("train", "drill", drill),
        "first": ("train", "first", first),
        "main": ("train", "main", main),
        "val": ("dev", "main", held),
        "test": ("test", "main", held),
    }
    written = {}
    for name, (split, mixture, count) in plan.items():
        written[f"{name}.jsonl"] = write_jsonl(
            root / f"{name}.jsonl", documents(seed, count, split=split, mixture=mixture)
        )
    for name, rows in probe_files(seed, probes).items():
        written[f"probes/{name}.jsonl"] = write_jsonl(root / "probes" / f"{name}.jsonl", rows)
    return written
