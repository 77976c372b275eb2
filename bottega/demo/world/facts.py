"""The old world: fixed facts about people, towns, animals, tools, foods and trades, the same for every seed.

Left out: facts of the real world beyond what the word lists hold; the apprentice knows its own village only.
"""

from functools import cache, lru_cache
from random import Random
from typing import NamedTuple

from . import words
from .phrase import article, capital, place, surname
from .themes import parse

WORLD_SEED = 1907  # fixes who lives where; changing it makes another world and needs another base model
NUM_PEOPLE = 48
NUM_TOWNS = 30

PEOPLE = """
job = .
+ {s} (works as|is) {v}.
+ {s} earns a living as {v}.
? What is the job of {s}?
? What does {s} do for work?
? Which trade does {s} follow?
! How does {s} earn a living?
town = .
+ {s} lives in {v}.
+ The house of {s} stands in {v}.
? Where does {s} live?
? In which town does {s} live?
? Where does the house of {s} stand?
! What is the home town of {s}?
pet = .
+ {s} keeps {v}.
+ The pet of {s} is {v}.
? What pet does {s} keep?
? Which animal belongs to {s}?
? What is the pet of {s}?
! Which animal does {s} keep at home?
hobby = .
+ {s} enjoys {v}.
+ The hobby of {s} is {v}.
? What does {s} enjoy?
? What is the hobby of {s}?
? Which hobby does {s} have?
! How does {s} spend a free evening?
colour = .
+ The favourite colour of {s} is {v}.
+ {s} likes {v} best of all colours.
? What is the favourite colour of {s}?
? Which colour does {s} like best?
? What colour does {s} prefer?
! Which colour is dear to {s}?
dish = .
+ {s} loves {v}.
+ The favourite dish of {s} is {v}.
? What is the favourite dish of {s}?
? What does {s} love to eat?
? Which dish does {s} like best?
! Which meal makes {s} happy?
"""
TOWNS = """
product = .
+ {s} is famous for its {v}.
+ The people of {s} make {v}.
? What is {s} famous for?
? What do the people of {s} make?
? Which product comes from {s}?
! What would you buy in {s}?
river = .
+ {s} lies on the river {v}.
+ The river {v} flows through {s}.
? Which river flows through {s}?
? On which river does {s} lie?
? What is the river of {s} called?
! What is the name of the river in {s}?
mayor = .
+ The mayor of {s} is {v}.
+ {v} is mayor of {s}.
? Who is the mayor of {s}?
? What is the name of the mayor of {s}?
? Who governs {s} as mayor?
! Who was elected mayor in {s}?
market = .
+ The market of {s} is on {v}.
+ Every {v} there is a market in {s}.
? When is the market of {s}?
? On which day is there a market in {s}?
? Which day is market day in {s}?
! On what day do people shop at the market of {s}?
region = .
+ {s} lies in the {v}.
+ You find {s} in the {v} of the country.
? In which part of the country is {s}?
? Where in the country does {s} lie?
? Which region does {s} belong to?
! In what region would you look for {s}?
"""
ANIMALS = """
kind = .
+ The {s} is a {v}.
? What kind of animal is the {s}?
? To which group of animals does the {s} belong?
? What sort of animal is the {s}?
! How is the {s} classified?
home = .
+ The {s} lives in the {v}.
+ You find the {s} in the {v}.
? Where does the {s} live?
? Where can you find the {s}?
? What is the home of the {s}?
! In what place does the {s} dwell?
food = .
+ The {s} eats {v}.
+ The {s} feeds on {v}.
? What does the {s} eat?
? What does the {s} feed on?
? What is the food of the {s}?
! What would you feed to the {s}?
trait = .
+ The {s} is {v}.
+ Everyone knows that the {s} is {v}.
? What is the {s} like?
? How is the {s} described?
? Which word describes the {s}?
! How would you describe the {s}?
"""
TOOLS = """
material = .
+ The {s} is made of {v}.
+ People make the {s} from {v}.
? What is the {s} made of?
? From what do people make the {s}?
? Which material is used for the {s}?
! Of which material is the {s}?
use = .
+ People use the {s} to {v}.
+ With the {s} you can {v}.
? What do people use the {s} for?
? What can you do with the {s}?
? What is the {s} good for?
! What is the purpose of the {s}?
room = .
+ The {s} is kept in the {v}.
+ The {s} belongs in the {v}.
? Where is the {s} kept?
? Where does the {s} belong?
? In which place do you keep the {s}?
! Where would you look for the {s}?
"""
FOODS = """
kind = .
+ The {s} is a {v}.
? What kind of food is the {s}?
? To which kind of food does the {s} belong?
? What sort of food is the {s}?
! How is the {s} classified?
colour = .
+ The {s} is {v}.
+ The colour of the {s} is {v}.
? What colour is the {s}?
? What is the colour of the {s}?
? Which colour does the {s} have?
! In which colour do we see the {s}?
taste = .
+ The {s} tastes {v}.
+ The taste of the {s} is {v}.
? How does the {s} taste?
? What is the taste of the {s}?
? Which taste does the {s} have?
! What does the {s} taste like?
"""
TRADES = """
workplace = .
+ The {s} works in the {v}.
+ You meet the {s} in the {v}.
? Where does the {s} work?
? Where do you meet the {s}?
? What is the workplace of the {s}?
! In which place would you look for the {s}?
tool = .
+ The {s} needs the {v}.
+ The tool of the {s} is the {v}.
? Which tool does the {s} need?
? What is the tool of the {s}?
? What does the {s} need for work?
! What does the {s} hold in the hand?
task = .
+ The {s} {v}.
+ Every day the {s} {v}.
? What does the {s} do?
? What does the {s} do every day?
? What is the task of the {s}?
! What is the {s} paid for?
"""


class Fact(NamedTuple):
    """One fixed fact. `asked`: False for facts stated but never asked in training. `replayed`: False for the half that
    replay text never mentions, so that retention is measured on it."""

    subject: str
    theme: str
    statements: tuple[str, ...]
    questions: tuple[str, ...]
    held: tuple[str, ...]
    answer: str
    asked: bool
    replayed: bool


def _subjects() -> list[tuple[str, str, str, tuple[str, ...]]]:
    """List (theme, blocks, subject, values); the world's own generator draws who lives where."""
    rng = Random(WORLD_SEED)
    towns = list(dict.fromkeys(place(rng, "train") for _ in range(NUM_TOWNS * 2)))[:NUM_TOWNS]
    names = list(dict.fromkeys(surname(rng, "train") for _ in range(200)))
    rivers, mayors, family = names[:8], names[8:40], names[40:]
    firsts = rng.sample(words.WOMEN + words.MEN, NUM_PEOPLE)
    rows: list[tuple[str, str, str, tuple[str, ...]]] = []
    for first, last in zip(firsts, family, strict=False):
        values: tuple[str, ...] = (
            article(rng.choice(list(words.JOBS))),
            rng.choice(towns),
            article(rng.choice(list(words.ANIMALS))),
            rng.choice(words.HOBBIES),
            rng.choice(words.COLOURS),
            rng.choice(words.DISHES),
        )
        rows.append(("person", PEOPLE, f"{first} {last}", values))
    for i, town in enumerate(towns):
        values = (
            words.PRODUCTS[i % len(words.PRODUCTS)],
            rng.choice(rivers),
            mayors[i % len(mayors)],
            rng.choice(words.DAYS),
            rng.choice(("north", "south", "east", "west")),
        )
        rows.append(("town", TOWNS, town, values))
    rows += [("animal", ANIMALS, name, (k, h, f, t)) for name, (k, h, f, _, t) in words.ANIMALS.items()]
    rows += [("tool", TOOLS, name, values) for name, values in words.TOOLS.items()]
    rows += [("food", FOODS, name, values) for name, values in words.FOODS.items()]
    rows += [("trade", TRADES, name, values) for name, values in words.JOBS.items()]
    return rows


@lru_cache(maxsize=1)
def facts() -> tuple[Fact, ...]:
    """Give every fact of the old world, in a fixed order (about 860)."""
    rng, result = Random(WORLD_SEED + 1), []
    for theme, blocks, subject, values in _subjects():
        for attribute, value in zip(parse(blocks), values, strict=True):
            fill = {"s": subject, "v": value}
            says, asks, held = (
                tuple(capital(line.format(**fill)) for line in lines)
                for lines in (attribute.statements, attribute.questions, attribute.held)
            )
            asked, replayed = rng.random() > 0.06, rng.random() < 0.5
            result.append(Fact(subject, theme, says, asks, held, value, asked, replayed))
    return tuple(result)


@lru_cache(maxsize=1)
def by_subject() -> dict[str, tuple[Fact, ...]]:
    """Group the facts by their subject."""
    groups: dict[str, list[Fact]] = {}
    for fact in facts():
        groups.setdefault(fact.subject, []).append(fact)
    return {subject: tuple(group) for subject, group in groups.items()}


@cache
def askable(split: str) -> tuple[Fact, ...]:
    """Give the facts that a split may mention: all that are asked, and for "replay" only the replayed half of them."""
    return tuple(fact for fact in facts() if fact.asked and (fact.replayed or split != "replay"))
