"""Short stories made of scenes, with questions that the story answers: reading where names, places and things move.

A scene is one line of slots, then `+` ways to tell it, `? question -> answer` lines, and `!` wordings kept for probes.
`{h}` is the hero, `{f}` a friend, `{p} {o} {z}` the hero's he/him/his. Left out: plots longer than five scenes.
"""

import re
from collections import Counter
from functools import cache
from random import Random
from typing import NamedTuple

from . import words
from .phrase import capital, pick, place, plural, say, surname
from .reading import VALUES, Ask, Passage

OPENINGS = """
day=day weather=weather place=spot
+ (One|On a) {weather} {day}, {h} (walked|went|ran) to the {place}.
+ It was {day}, and the weather was {weather}. {h} (set out for|went to) the {place}.
+ {h} woke up early on {day}. The sky was {weather}. {p} (hurried|walked) to the {place}.
? Where did {h} go (first|that day)? -> {place}
? (On which day|When) did the story begin? -> {day}
? (How was the weather|What was the weather like)? -> {weather}
! To which place did {h} go? -> {place}
! What day was it? -> {day}
! What kind of weather was it? -> {weather}

town=place job=trade trait=trait
+ (Once|Long ago|Many years ago) there lived {job} (called|named) {h} in {town}. {h} had a {trait} house.
+ {h} was {job} in {town}. The house of {h} was {trait}.
+ In {town} lived {h}, {job} with a {trait} house.
? (Where|In which town) did {h} live? -> {town}
? What was the (job|trade) of {h}? -> {job}
? What was the house of {h} like? -> {trait}
! What was the name of the town where {h} lived? -> {town}
! Which trade did {h} have? -> {job}
! How would you describe the house of {h}? -> {trait}

friend=f2 town=place season=season
+ {h} and {f} were (good|old) friends. In {season} they visited {town}.
+ Every {season}, {h} travelled to {town} with {f}.
+ In {season} {h} came to {town} to see {f}.
? (Which town|What town) did {h} (visit|see)? -> {town}
? When did {h} visit {town}? -> {season}
? Who was the friend of {h}? -> {f}
! To which town did {h} travel? -> {town}
! In which part of the year did {h} visit {town}? -> {season}
! With whom was {h} friends? -> {f}
"""

SCENES = """
thing=object colour=colour spot=spot
+ Near the {spot} {h} found a {colour} {thing}. ("What luck!"|"Whose is this?"|"How pretty!") (said|cried) {h}.
+ {p} saw something {colour} (behind|beside) the {spot}. It was a {thing}.
? What did {h} (find|see)? -> {thing}
? What colour was the {thing}? -> {colour}
? Where was the {thing}? -> {spot}
! Which thing did {h} come upon? -> {thing}
! In which colour was the {thing}? -> {colour}

thing=object room=room
+ {h} (hid|put|locked) the {thing} in the {room}. Nobody saw it.
+ "The {thing} must be safe," (said|thought) {h}, and put it in the {room}.
? Where did {h} (put|hide) the {thing}? -> {room}
? What did {h} (put|hide) in the {room}? -> {thing}
! In which room was the {thing} at the end? -> {room}

thing=object who=friend
+ {h} gave the {thing} to {who}. {who} (smiled|was delighted|said thank you).
+ {who} asked for the {thing}, and {h} (gladly |)gave it away.
? Who got the {thing}? -> {who}
? What did {h} give to {who}? -> {thing}
! To whom did {h} give the {thing}? -> {who}

who=friend feel=feeling why=reason
+ On the (way|road) {h} met {who}. {who} was {feel}, because {why}.
+ There stood {who}, who was {feel}. "It is because {why}," said {who}.
? Whom did {h} meet? -> {who}
? How was {who}? -> {feel}
? Why was {who} {feel}? -> because {why}
! Which person did {h} meet? -> {who}
! How did {who} feel? -> {feel}

animal=beast name=name food=dish
+ A (little |hungry |)(stray |){animal} followed {h}. {p} called it {name} and gave it some {food}.
+ {h} saw a lonely {animal}, fed it some {food}, and named it {name}.
? Which animal (followed|was with) {h}? -> {animal}
? What was the name of the {animal}? -> {name}
? What did the {animal} get to eat? -> {food}
! What kind of animal did {h} see? -> {animal}
! How was the {animal} called? -> {name}

one=room two=room2 thing=object
+ {h} had lost the {thing}. It was not in the {one}. At last {p} found it in the {two}.
+ Where was the {thing}? {h} searched the {one}, but it lay in the {two}.
? Where did {h} find the {thing}? -> {two}
? Where did {h} (look|search) first? -> {one}
? What had {h} lost? -> {thing}
! In what room was the {thing} at last? -> {two}

thing=object price=price seller=friend
+ {h} bought a {thing} from {seller} for {price}.
+ {seller} sold a {thing} to {h}. It cost {price}.
? What did {h} buy? -> {thing}
? Who sold the {thing}? -> {seller}
? How much did the {thing} cost? -> {price}
! From whom did {h} buy the {thing}? -> {seller}
! What was the price of the {thing}? -> {price}

who=person day=day town=place
+ A letter (came|arrived) from {who}. It said: "Come to {town} on {day}."
+ {h} read a letter by {who}, who was waiting in {town} until {day}.
? Who wrote the letter? -> {who}
? Which town was in the letter? -> {town}
? Which day was in the letter? -> {day}
! From whom did the letter come? -> {who}

ride=vehicle town=place hour=hour
+ Then {h} took the {ride} to {town} and arrived at {hour}.
+ The {ride} to {town} left at {hour}, and {h} was on it.
? How did {h} travel? -> {ride}
? Where did the {ride} go? -> {town}
? At what time was that? -> {hour}
! By what did {h} travel? -> {ride}

dish=dish who=friend room=room
+ In the {room} {h} (cooked|made|prepared) {dish} for {who}.
+ {who} was hungry, so {h} (cooked|made) {dish} in the {room}.
? What did {h} (cook|make)? -> {dish}
? For whom did {h} cook? -> {who}
? Where did {h} cook? -> {room}
! Which dish did {h} make? -> {dish}

word=name thing=object who=friend
+ {who} whispered a secret word: {word}. With it {h} opened the {thing}.
+ The magic word was {word}. {h} said it to the {thing}, and {who} laughed.
? What was the (secret|magic) word? -> {word}
? Who was with {h}? -> {who}
! Which word did {h} learn? -> {word}

a=hobby b=hobby2 who=friend
+ {h} wanted to try {a}, but {who} wanted {b}.
+ "Let us try {a}!" said {h}. "No, {b} is better," said {who}.
? What did {h} want? -> {a}
? What did {who} want? -> {b}
! Which wish did {h} have? -> {a}
! Which wish did {who} have? -> {b}
"""

ENDINGS = (
    "(In the evening|At night|Soon) everyone went home.",
    "It was a day to remember.",
    "(And so|So) the story ends.",
    "{h} (slept well|was content) that night.",
    "From then on {h} was (wiser|more careful|happier).",
    "{h} told the story again and again.",
    "Everybody laughed, and {h} (laughed too|bowed).",
    "That is how it was.",
)
REASONS = (
    "the bridge was closed",
    "the bread was gone",
    "a wheel was broken",
    "the dog had run away",
    "there was no letter",
    "the lamp was out",
    "the exam was near",
    "the music was loud",
    "a tooth hurt",
    "the train was late",
    "the roof was leaking",
    "a friend had come",
    "the sun was shining",
    "the race was won",
    "the shop was empty",
)
_ARTICLE = re.compile(r"\b([Aa]) (?=[aeioAEIO]|umb)")


class Scene(NamedTuple):
    """One scene: its slots (name, value kind), ways to tell it, and (question, answer) templates."""

    slots: tuple[tuple[str, str], ...]
    tellings: tuple[str, ...]
    asks: tuple[tuple[str, str], ...]
    held: tuple[tuple[str, str], ...]


@cache
def scenes(text: str) -> tuple[Scene, ...]:
    """Read scenes from blocks of lines."""
    result = []
    for block in text.strip().split("\n\n"):
        head, *rest = block.splitlines()
        slots = tuple((part.split("=")[0], part.split("=")[1]) for part in head.split())
        lines: dict[str, list] = {"+": [], "?": [], "!": []}
        for line in rest:
            body = line[2:]
            lines[line[0]].append(tuple(body.split(" -> ")) if " -> " in body else body)
        result.append(Scene(slots, tuple(lines["+"]), tuple(lines["?"]), tuple(lines["!"])))
    return tuple(result)


_OWN = {
    "spot": lambda r, s: pick(r, words.PLACES),
    "object": lambda r, s: pick(r, words.THINGS),
    "beast": lambda r, s: pick(r, words.BREEDS),
    "feeling": lambda r, s: pick(r, words.FEELINGS),
    "reason": lambda r, s: pick(r, REASONS),
    "trade": lambda r, s: VALUES["job"](r, s),
    "room2": VALUES["room"],
    "hobby2": VALUES["hobby"],
    "friend": lambda r, s: _first_name(r, s)[0],
    "f2": lambda r, s: "",
}


def _first_name(rng: Random, split: str) -> tuple[str, bool]:
    """Give a first name (half of them invented) and whether it is a woman's."""
    woman = rng.random() < 0.5
    if rng.random() < 0.5:
        return surname(rng, split), woman
    return pick(rng, words.WOMEN if woman else words.MEN), woman


def _tell(rng: Random, scene: Scene, cast: dict[str, str], used: set[str], split: str) -> tuple[str, list[Ask]]:
    values = dict(cast)
    for name, kind in scene.slots:
        value = (_OWN.get(kind) or VALUES[kind])(rng, split)
        while value in used:
            value = (_OWN.get(kind) or VALUES[kind])(rng, split)
        if value:
            used.add(value)
        values[name] = value
    text = ". ".join(capital(part) for part in say(rng, pick(rng, scene.tellings), **values).split(". "))
    held = [(say(rng, q, **values), a.format(**values)) for q, a in scene.held]
    asks = []
    for question, answer in scene.asks:
        right = answer.format(**values)
        other = next((q for q, a in held if a == right), "")
        asks.append(Ask(say(rng, question, **values), right, other))
    return _ARTICLE.sub(r"\1n ", text), asks


def story(rng: Random, split: str, low: int = 1, high: int = 3) -> Passage:
    """Tell a story of an opening, `low` to `high` scenes and perhaps an ending; every name belongs to one person."""
    hero, woman = _first_name(rng, split)
    friend, _ = _first_name(rng, split)
    while friend == hero:
        friend, _ = _first_name(rng, split)
    he, him, his = ("she", "her", "her") if woman else ("he", "him", "his")
    cast, used = {"h": hero, "f": friend, "p": he, "o": him, "z": his}, {hero, friend}
    lines: list[str] = []
    asks: list[Ask] = []
    plan = [pick(rng, scenes(OPENINGS))] + rng.sample(scenes(SCENES), rng.randint(low, high))
    for scene in plan:
        text, more = _tell(rng, scene, cast, used, split)
        lines.append(text)
        asks += more
    if rng.random() < 0.4:
        lines.append(say(rng, pick(rng, ENDINGS), h=hero))
    counts = Counter(ask.question for ask in asks)  # a question that two scenes could answer is not asked
    asks = [ask for ask in asks if counts[ask.question] == 1]
    return Passage(" ".join(lines), asks)


def counting(rng: Random, split: str) -> Passage:
    """Tell of things that come and go, and ask how many there are: the answer is computed, not copied."""
    hero, _ = _first_name(rng, split)
    friend = hero
    while friend == hero:
        friend, _ = _first_name(rng, split)
    noun, have, change = plural(pick(rng, words.THINGS)), rng.randrange(2, 30), rng.randrange(1, 20)
    town = place(rng, split)
    if rng.random() < 0.5 and have > change:
        line, total = "{h} of {t} had {n} {x}. {h} (gave|sold) {m} of them to {f}.", have - change
    else:
        line, total = "{h} of {t} had {n} {x}. {f} brought {m} more.", have + change
    text = say(rng, line, h=hero, t=town, n=have, m=change, x=noun, f=friend)
    question = say(rng, "How many {x} (does|did) {h} have (in the end|now)?", x=noun, h=hero)
    return Passage(text, [Ask(question, str(total), f"Count the {noun} of {hero}. How many are there?")])
