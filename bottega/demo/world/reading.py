"""Passages about invented things, with questions whose answers stand in the passage: how the model learns to read.

Left out: answers that must be computed (see `stories.py` for counting) and questions that have no answer.
"""

from collections.abc import Callable
from random import Random
from typing import NamedTuple

from . import words
from .phrase import article, bucket, capital, code, pick, place, say, surname
from .themes import Attribute, attributes


class Ask(NamedTuple):
    """One question with its exact answer; `held` is a wording that no training document uses."""

    question: str
    answer: str
    held: str


class Passage(NamedTuple):
    """A text and everything that can be asked about it."""

    text: str
    asks: list[Ask]
    title: str = ""


def person(rng: Random, split: str) -> str:
    """Invent a person's full name; the surname is owned by the split."""
    return f"{pick(rng, words.WOMEN if rng.random() < 0.5 else words.MEN)} {surname(rng, split)}"


def _hour(rng: Random) -> str:
    hour = rng.randrange(1, 13)
    return str(hour) if rng.random() < 0.6 else f"{hour}:{pick(rng, ('15', '30', '45'))}"


# Each maker takes (rng, split) and returns the value as it stands in the passage and in the answer.
VALUES: dict[str, Callable[[Random, str], str]] = {
    "hour": lambda r, s: _hour(r),
    "person": person,
    "count": lambda r, s: str(r.randrange(3, 100)) if r.random() < 0.8 else str(r.randrange(100, 1000)),
    "place": place,
    "name": surname,
    "code": lambda r, s: code(r),
    "price": lambda r, s: f"{r.randrange(2, 100)} coins",
    "years": lambda r, s: f"{r.randrange(2, 100)} years",
    "kilos": lambda r, s: f"{r.randrange(2, 100)} kilos",
    "minutes": lambda r, s: f"{r.randrange(2, 100)} minutes",
    "cm": lambda r, s: f"{r.randrange(2, 100)} centimetres",
    "floor": lambda r, s: str(r.randrange(1, 10)),
    "product": lambda r, s: pick(r, words.PRODUCTS),
    "product2": lambda r, s: pick(r, words.FODDER),
    "day": lambda r, s: pick(r, words.DAYS),
    "month": lambda r, s: pick(r, words.MONTHS),
    "season": lambda r, s: pick(r, words.SEASONS),
    "colour": lambda r, s: pick(r, words.COLOURS),
    "room": lambda r, s: pick(r, words.ROOMS),
    "animal": lambda r, s: article(pick(r, tuple(words.ANIMALS))),
    "thing": lambda r, s: article(pick(r, words.THINGS)),
    "dish": lambda r, s: pick(r, words.DISHES),
    "vehicle": lambda r, s: pick(r, words.VEHICLES),
    "material": lambda r, s: pick(r, words.MATERIALS),
    "hobby": lambda r, s: pick(r, words.HOBBIES),
    "weather": lambda r, s: pick(r, words.WEATHER),
    "trait": lambda r, s: pick(r, words.TRAITS),
    "ailment": lambda r, s: pick(r, words.AILMENTS),
    "job": lambda r, s: article(pick(r, tuple(words.JOBS))),
    "kind": lambda r, s: pick(r, words.BREEDS if r.random() < 0.6 else words.PLANTS),
}


def _subject(rng: Random, theme: str, split: str) -> tuple[str, str]:
    """Make a subject and its short form: ("the Gelnov mill", "the mill")."""
    if theme == "person":
        name = person(rng, split)
        return name, name.split()[0]
    if theme == "place":
        name = place(rng, split)
        return name, name
    nouns = (
        words.ORGS if theme == "organisation" else words.THINGS if theme == "machine" else words.BREEDS + words.PLANTS
    )
    noun = pick(rng, nouns)
    name = (place if theme == "species" and rng.random() < 0.4 else surname)(rng, split)
    return f"the {name} {noun}", f"the {noun}"


def _state(rng: Random, attribute: Attribute, subject: str, value: str) -> str:
    return capital(say(rng, pick(rng, attribute.statements), s=subject, S=capital(subject), v=value))


def _ask(rng: Random, attribute: Attribute, subject: str, value: str) -> Ask:
    question = say(rng, pick(rng, attribute.questions), s=subject)
    held = say(rng, pick(rng, attribute.held), s=subject)
    return Ask(question, value, held)


def _about(rng: Random, theme: str, num_facts: int, split: str) -> tuple[str, list[str], list[Ask]]:
    """Say `num_facts` things about one new subject; a value is never used twice within a subject."""
    subject, short = _subject(rng, theme, split)
    chosen = rng.sample(attributes(theme), min(num_facts, len(attributes(theme))))
    lines, asks, used = [], [], set()
    for i, attribute in enumerate(chosen):
        value = VALUES[attribute.value](rng, split)
        while value in used:
            value = VALUES[attribute.value](rng, split)
        used.add(value)
        lines.append(_state(rng, attribute, short if i and rng.random() < 0.4 else subject, value))
        asks.append(_ask(rng, attribute, subject, value))
    return subject, lines, asks


_HEADINGS = ("{s}", "Handbook of {s}", "About {s}", "{s}: a short guide", "Notes on {s}", "Welcome to {s}")


def handbook(rng: Random, split: str, low: int = 2, high: int = 6) -> Passage:
    """Write a handbook of one invented organisation with `low` to `high` facts."""
    subject, lines, asks = _about(rng, "organisation", rng.randint(low, high), split)
    style = rng.random()
    title = capital(pick(rng, _HEADINGS).format(s=subject)) if rng.random() < 0.35 else ""
    if style < 0.15:
        return Passage("\n".join("- " + line for line in lines), asks, title or capital(subject))
    if style < 0.22:
        return Passage("\n".join(f"{i}. {line}" for i, line in enumerate(lines, 1)), asks, title or capital(subject))
    return Passage(" ".join(lines), asks, title)


def entry(rng: Random, split: str, low: int = 2, high: int = 5) -> Passage:
    """Write an encyclopaedia-like entry about an invented machine, person, place or species."""
    theme = pick(rng, ("machine", "person", "place", "species"))
    subject, lines, asks = _about(rng, theme, rng.randint(low, high), split)
    title = capital(subject.removeprefix("the ")) if rng.random() < 0.25 else ""
    return Passage(" ".join(lines), asks, title)


def pair(rng: Random, split: str, low: int = 1, high: int = 3) -> Passage:
    """Write about two subjects of one theme, so that the question's name decides which value is meant."""
    theme = pick(rng, ("organisation", "machine", "person", "place", "species"))
    one, lines, asks = _about(rng, theme, rng.randint(low, high), split)
    two, more, others = _about(rng, theme, rng.randint(low, high), split)
    if one == two:
        return pair(rng, split, low, high)
    if rng.random() < 0.3:
        return Passage(" ".join(lines) + "\n" + " ".join(more), asks + others)
    return Passage(" ".join(lines + more), asks + others)


_COLUMNS = (
    ("town", "place"),
    ("day", "day"),
    ("colour", "colour"),
    ("room", "room"),
    ("price", "price"),
    ("number", "count"),
    ("code", "code"),
    ("leader", "person"),
    ("month", "month"),
    ("time", "hour"),
    ("food", "dish"),
    ("vehicle", "vehicle"),
)
_ROW_NOUNS = ("name", "shop", "team", "ship", "guest", "house", "route", "course")


def table(rng: Random, split: str, low: int = 2, high: int = 5) -> Passage:
    """Write a small table with bars, and ask for its cells."""
    columns = rng.sample(_COLUMNS, rng.randint(1, 3) if high > 3 else rng.randint(1, 2))
    head = pick(rng, _ROW_NOUNS)
    keys: list[str] = []
    while len(keys) < rng.randint(low, high):
        key = surname(rng, split)
        if key not in keys:
            keys.append(key)
    cells = [[VALUES[kind](rng, split) for _, kind in columns] for _ in keys]
    rows = ["| " + " | ".join([head] + [name for name, _ in columns]) + " |", "|" + " --- |" * (len(columns) + 1)]
    rows += ["| " + " | ".join([key] + row) + " |" for key, row in zip(keys, cells, strict=True)]
    asks = []
    for key, row in zip(keys, cells, strict=True):
        for (name, _), value in zip(columns, row, strict=True):
            question = say(
                rng, pick(rng, ("What is the {c} of {k}?", "(Which|What) {c} does {k} have?")), c=name, k=key
            )
            asks.append(Ask(question, value, f"In the table, what {name} stands next to {key}?"))
    return Passage("\n".join(rows), asks)


def record(rng: Random, split: str, low: int = 2, high: int = 5) -> Passage:
    """Write `name: value` lines, the shortest passage there is: the first thing a reader can learn to copy from."""
    name, kind = pick(rng, _COLUMNS)
    keys = list({surname(rng, split): None for _ in range(rng.randint(low, high))})
    values = [VALUES[kind](rng, split) for _ in keys]
    style = pick(rng, ("{k}: {v}", "{k} = {v}", "{k} has {v}", "{k} - {v}"))
    lines = [style.format(k=k, v=v) for k, v in zip(keys, values, strict=True)]
    text = "\n".join(lines) if rng.random() < 0.5 else capital(name) + " list. " + "; ".join(lines) + "."
    asks = []
    for key, value in zip(keys, values, strict=True):
        question = say(
            rng, "(What is the {c} of {k}?|Which {c} has {k}?|What does the list say about {k}?)", c=name, k=key
        )
        asks.append(Ask(question, value, f"Which {name} stands beside {key} in the list?"))
    return Passage(text, asks)


def echo(rng: Random, split: str, low: int = 2, high: int = 5) -> Passage:
    """Write a line of invented names and ordinary words to be repeated word for word."""
    makers = (
        lambda: surname(rng, split),
        lambda: place(rng, split),
        lambda: pick(rng, words.THINGS),
        lambda: pick(rng, words.COLOURS),
        lambda: code(rng),
    )
    items = list(dict.fromkeys(pick(rng, makers)() for _ in range(rng.randint(low, high))))
    line = ", ".join(items) if rng.random() < 0.6 else " ".join(items)
    asks = [
        Ask(
            pick(rng, ("Repeat the line.", "Write the line again.", "What does the line say?")),
            line,
            "Copy the line once more.",
        )
    ]
    if len(items) > 2:
        spot = rng.randrange(len(items) - 1)
        asks.append(Ask(f"What comes after {items[spot]}?", items[spot + 1], f"Which item follows {items[spot]}?"))
        asks.append(Ask("What is the first item?", items[0], "Which item stands first?"))
        asks.append(Ask("What is the last item?", items[-1], "Which item stands last?"))
    return Passage(line, asks)


def fresh(make: Callable[..., Passage], rng: Random, split: str, *size: int) -> Passage:
    """Make a passage that the split owns: its text can then occur in no other split."""
    while True:
        passage = make(rng, split, *size)
        if bucket(passage.text) == ("train" if split == "replay" else split):
            return passage
