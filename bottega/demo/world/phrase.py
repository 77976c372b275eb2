"""Small tools of the generator: wordings with alternatives, invented names, and the checksum that keeps splits apart.

Left out: a grammar engine. A wording is a flat string, `(a|b)` chooses, `{name}` fills in; nesting never paid for
itself.
"""

import re
import zlib
from collections.abc import Callable, Sequence
from functools import cache
from random import Random
from typing import TypeVar

SPLITS = ("train", "dev", "test")
NUM_BUCKETS = 16  # one sixteenth of names and texts is kept for development, one for the final test

T = TypeVar("T")

_CHOICE = re.compile(r"\(([^()]*\|[^()]*)\)")
_ONSETS = "b br c d dr f fr g gr h k kl l m n p pr qu r s sk st t th tr v vl w y z sh".split()
_VOWELS = "a e i o u a e i o ai ea ou".split()
_MIDDLES = "b d g l ll m n nd ng nt r rb rd rl rm rn rt rv s sk st t tt v z lk lv mb x".split()
_SURNAME_ENDS = "ak an ard as ek el en er eth ic ick in is ix o on or ov oss um und us y a e ini".split()
_PLACE_ENDS = (
    "bridge bury by dale den don field ford gate ham holm hurst low mere mouth ness stead ton vale wick worth".split()
)
_IRREGULAR = {
    "loaf": "loaves",
    "knife": "knives",
    "leaf": "leaves",
    "goose": "geese",
    "mouse": "mice",
    "sheep": "sheep",
    "moose": "moose",
    "reindeer": "reindeer",
    "trout": "trout",
    "salmon": "salmon",
    "pike": "pike",
    "bellows": "bellows",
    "shears": "shears",
    "scales": "scales",
    "tongs": "tongs",
    "postman": "postmen",
    "ferryman": "ferrymen",
    "mortar": "mortars",
    "thief": "thieves",
    "child": "children",
    "fish": "fish",
    "spinach": "spinach",
}


def pick(rng: Random, items: Sequence[T]) -> T:
    """Choose one item; about three times as fast as `Random.choice`, and the corpus makes some 10 million choices."""
    return items[int(rng.random() * len(items))]


@cache
def _parse(wording: str) -> tuple[str | tuple[str, ...], ...]:
    parts = _CHOICE.split(wording)
    return tuple(tuple(p.split("|")) if i % 2 else p for i, p in enumerate(parts) if p)


def say(rng: Random, wording: str, **values: object) -> str:
    """Turn a wording into a sentence: choose at each `(a|b)`, then fill each `{name}`.

    Example: `say(rng, "(Hello|Hi), {who}.", who="Ivo")` gives "Hello, Ivo." or "Hi, Ivo.".
    """
    text = "".join(p if isinstance(p, str) else p[int(rng.random() * len(p))] for p in _parse(wording))
    return text.format(**values) if values else text


def some(rng: Random, items: Sequence[T], count: int) -> list[T]:
    """Choose `count` different items in random order."""
    return rng.sample(items, min(count, len(items)))


def bucket(text: str) -> str:
    """Name the split that owns a text or a name: a checksum decides, so that two seeds can never share one.

    Example: about 1/16 of all strings are owned by "dev", 1/16 by "test", and the rest by "train".
    """
    value = zlib.crc32(text.encode("utf-8")) % NUM_BUCKETS
    return "dev" if value == 0 else "test" if value == 1 else "train"


def owned(split: str, make: Callable[[Random], str], rng: Random) -> str:
    """Call `make` until the string it returns is owned by the split; replay text lives on the training split's
    strings."""
    split = "train" if split == "replay" else split
    while True:
        text = make(rng)
        if bucket(text) == split:
            return text


def _stem(rng: Random) -> str:
    stem = pick(rng, _ONSETS) + pick(rng, _VOWELS) + pick(rng, _MIDDLES)
    if rng.random() < 0.2:
        stem += pick(rng, _VOWELS) + pick(rng, _MIDDLES)
    return stem


def _surname(rng: Random) -> str:
    return (_stem(rng) + pick(rng, _SURNAME_ENDS)).capitalize()


def _place(rng: Random) -> str:
    return (_stem(rng) + pick(rng, _PLACE_ENDS)).capitalize()


def surname(rng: Random, split: str) -> str:
    """Invent a surname (or a firm's name) owned by the split, such as "Gelnov"."""
    return owned(split, _surname, rng)


def place(rng: Random, split: str) -> str:
    """Invent a place name owned by the split, such as "Marvelford"."""
    return owned(split, _place, rng)


def code(rng: Random) -> str:
    """Invent a short code such as "K41" or "382"."""
    digits = str(rng.randrange(10, 1000))
    return pick(rng, "ABCDEFGHKLMNPRSTVWXZ") + digits if rng.random() < 0.5 else digits


def plural(noun: str) -> str:
    """Give the plural of an English noun of our lists."""
    if noun in _IRREGULAR:
        return _IRREGULAR[noun]
    if noun.endswith(("s", "x", "ch", "sh")):
        return noun + "es"
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return noun[:-1] + "ies"
    return noun + "s"


def article(noun: str) -> str:
    """Put "a" or "an" before a noun."""
    return ("an " if noun[0] in "aeiouAEIOU" and not noun.startswith(("uni", "use")) else "a ") + noun


def capital(text: str) -> str:
    """Raise the first letter, and leave the rest as it is."""
    return text[:1].upper() + text[1:]


def join(words: Sequence[str]) -> str:
    """Join words as a sentence does: "a, b and c"."""
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " and " + words[-1]
