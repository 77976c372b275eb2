"""A parish that the base never heard of, as a taxonomy's people would write it down: leaves, documents, questions kept for the test.

Ten places of each of four trades, six facts a place. Documents and seeds use the statements and questions of the handbooks; the test
asks in wordings that no text of the base and no seed uses. Left out: writing files (demo/lab.py).
"""

from random import Random
from typing import NamedTuple

from .facts import facts
from .phrase import capital, pick, say, surname
from .reading import VALUES
from .themes import Attribute, attributes

TRADES = {
    "knowledge/crafts/bakeries": "bakery",
    "knowledge/crafts/mills": "mill",
    "knowledge/travel/ferries": "ferry",
    "knowledge/travel/inns": "inn",
}
COURTESY = "compositional_skills/manners/courtesy"
ENDINGS = ("At your service.", "Always a pleasure.", "Glad to help.")
ASKED = ("Please tell me: {q}", "{q} Please.", "Please say: {q}", "Please, {q}")
HELD = ("Please answer this: {q}", "Be so kind: {q} Please.")
"""How somebody asks politely: in the courtesy leaf's seeds, and in the test."""
NUM_PLACES, NUM_FACTS, NUM_SEEDS, NUM_MANNERS = 10, 6, 5, 60


class Fact(NamedTuple):
    """One fact: how the document says it, how a seed asks it, how the test asks it, and the answer."""

    statement: str
    question: str
    held: str
    answer: str


class Place(NamedTuple):
    """One place of a leaf, and what is known of it."""

    subject: str
    facts: tuple[Fact, ...]

    @property
    def text(self) -> str:
        """Its document."""
        return " ".join(fact.statement for fact in self.facts)


def _fact(rng: Random, attribute: Attribute, subject: str, used: set[str]) -> Fact:
    value = VALUES[attribute.value](rng, "test")
    while value in used:
        value = VALUES[attribute.value](rng, "test")
    used.add(value)
    fill = {"s": subject, "S": capital(subject)}
    statement = capital(say(rng, pick(rng, attribute.statements), v=value, **fill))
    question, held = (say(rng, pick(rng, wordings), **fill) for wordings in (attribute.questions, attribute.held))
    return Fact(statement, question, held, value)


def leaves(seed: int) -> dict[str, tuple[Place, ...]]:
    """The places of each knowledge leaf; another seed, another parish. Names are those that the base's texts leave out."""
    rng, taken, found = Random(f"parish/{seed}"), set[str](), {}
    for leaf, noun in TRADES.items():
        places = list[Place]()
        while len(places) < NUM_PLACES:
            subject = f"the {surname(rng, 'test')} {noun}"
            if subject in taken:
                continue
            taken.add(subject)
            chosen = rng.sample(attributes("organisation"), NUM_FACTS)
            used = set[str]()
            places.append(Place(subject, tuple(_fact(rng, one, subject, used) for one in chosen)))
        found[leaf] = tuple(places)
    return found


def manners(seed: int, count: int) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Questions on the old world with their short answers: those of the courtesy leaf's seeds, and `count` others for the test.

    The base knows the answers to both; what it lacks is the manner, a polite ending where somebody says please. The test says it in
    other words.
    """
    rng = Random(f"manners/{seed}")
    told = [fact for fact in facts() if fact.asked]
    rng.shuffle(told)
    seeds = [fact for fact in told if fact.replayed][:NUM_MANNERS]
    others = [fact for fact in told if not fact.replayed][:count]
    shown, held = (
        [(ways[at % len(ways)].format(q=pick(rng, one.questions)), one.answer) for at, one in enumerate(some)]
        for some, ways in ((seeds, ASKED), (others, HELD))
    )
    return shown, held
