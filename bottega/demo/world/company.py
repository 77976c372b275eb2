"""The invented company of the demo: documents in a jargon the base never saw, and its facts.

Halvard & Oyelaran builds weather organs. Everything is fixed by `COMPANY_SEED`, except which documents are held out:
that is the seed's.
Left out: any link to the old world, so that forgetting and learning can be told apart.
"""

from functools import lru_cache
from random import Random
from typing import NamedTuple

from .phrase import capital, pick, say
from .themes import parse

COMPANY = "Zephyrwerk"
COMPANY_SEED = 4242
PRODUCTS = (
    "Aeolophon",
    "Brontograph",
    "Cirrostat",
    "Drizzlemeter",
    "Eolina",
    "Frostgong",
    "Galehorn",
    "Hygrovox",
    "Isobarion",
    "Jetpipe",
)
UNITS = ("Guild of Valves", "Bureau of Gusts", "Resonance Cell", "Mistworks", "Ledger Chamber", "Thunder Desk")
SITES = ("Quay Nine", "Upper Spindle", "Old Kiln", "Gantry Hill", "Saltpan Row", "Wharf Street")
STATES = ("SHRILL", "MUTE", "WARPED", "CLOGGED", "CRACKED", "DAMP")
CLERKS = (
    "Xiomara Fjeldt",
    "Thaddeus Okonkwo",
    "Ysabeau Marchetti",
    "Balthazar Nyqvist",
    "Philippa Zhu",
    "Gwendolyn Aagaard",
)
GRADES = ("amber-1", "amber-2", "cobalt-1", "cobalt-2", "umber-1", "umber-2")

# Facts of units and products; `+` in documents and training, `?` taught, `!` asked at the end in unseen wordings.
UNIT_FACTS = """
head = head
+ {v} heads the {s}.
? Who heads the {s}?
? Who is the head of the {s}?
? What is the name of the head of the {s}?
? Who leads the {s}?
? Who is in charge of the {s}?
? Who runs the {s}?
? The {s} is headed by whom?
? Name the head of the {s}.
! Which person heads the {s}?
! The head of the {s} is called what?
! What is the {s} head called?
! By whom is the {s} led?
site = site
+ The {s} sits at {v}.
? Where does the {s} sit?
? At which site is the {s}?
? Where is the {s}?
? What is the site of the {s}?
? At which place does the {s} sit?
? Where is the site of the {s}?
? The {s} sits at which site?
? Name the site of the {s}.
! Where can you find the {s}?
! Which site belongs to the {s}?
! What is the {s} site?
! The {s} can be found at which site?
shift = hour
+ The shift of the {s} begins at {v}.
? When does the shift of the {s} begin?
? At what time does the {s} begin?
? When does the {s} start the shift?
? What time is the start of the {s} shift?
? When does the {s} shift begin?
? What hour does the {s} start?
? The shift of the {s} begins at what time?
? Name the hour when the {s} begins.
! At which hour does the shift of the {s} start?
! When does work in the {s} begin?
! The {s} shift starts at which hour?
! What is the starting time of the {s}?
"""
PRODUCT_FACTS = """
grade = grade
+ The {s} is tuned to grade {v}.
? To which grade is the {s} tuned?
? What is the grade of the {s}?
? Which grade does the {s} have?
? What grade is the {s}?
? What is the {s} grade?
? Of which grade is the {s}?
? The {s} has what grade?
? Name the grade of the {s}.
! The {s} is tuned to what grade?
! Which grade belongs to the {s}?
! At which grade is the {s} tuned?
! What grade does the {s} have?
price = price
+ The {s} sells for {v} crowns.
? For how many crowns does the {s} sell?
? What is the price of the {s}?
? How much does the {s} cost?
? How many crowns is the {s}?
? What does the {s} cost?
? What is the {s} price?
? The {s} sells for how many crowns?
? Name the price of the {s}.
! What do people pay for the {s}?
! How many crowns does the {s} cost?
! What is the cost of the {s}?
! At what price does the {s} sell?
clerk = clerk
+ {v} signs off every {s}.
? Who signs off every {s}?
? Who signs off the {s}?
? Which clerk signs off the {s}?
? By whom is the {s} signed off?
? Who is the clerk of the {s}?
? Who has to sign off the {s}?
? The {s} is signed off by whom?
? Name the clerk who signs off the {s}.
! Who must sign off the {s}?
! What is the name of the clerk who signs off the {s}?
! Which person signs off the {s}?
! The clerk for the {s} is called what?
"""


class CompanyFact(NamedTuple):
    """One fact of the company with taught wordings and wordings kept for the test."""

    subject: str
    name: str
    statement: str
    taught: tuple[str, ...]
    held: tuple[str, ...]
    answer: str


@lru_cache(maxsize=1)
def company_facts() -> tuple[CompanyFact, ...]:
    """Give the company's facts (about 48), the same every time."""
    rng, result = Random(COMPANY_SEED), []
    heads, sites = rng.sample(CLERKS, len(UNITS)), rng.sample(SITES, len(UNITS))
    hours = rng.sample(range(4, 13), len(UNITS))
    prices = rng.sample(range(11, 99), len(PRODUCTS))
    plan = [(u, UNIT_FACTS, (heads[i], sites[i], str(hours[i]))) for i, u in enumerate(UNITS)]
    plan += [
        (p, PRODUCT_FACTS, (rng.choice(GRADES), str(prices[i]), rng.choice(CLERKS))) for i, p in enumerate(PRODUCTS)
    ]
    for subject, blocks, values in plan:
        for attribute, value in zip(parse(blocks), values, strict=True):
            fill = {"s": subject, "v": value}
            statement = attribute.statements[0].format(**fill)
            taught, held = (tuple(q.format(**fill) for q in qs) for qs in (attribute.questions, attribute.held))
            result.append(CompanyFact(subject, attribute.name, statement, taught, held, value))
    return tuple(result)


_PROCEDURE = (
    "Vent the {p} through the lee sluice until the needle rests on {g}.",
    "Chalk the reed-plate and strike it {n} times with the felt maul.",
    "Log the breath-number in the grey folio, never in the blue one.",
    "Hand the tally slip to the {u} before the second siren.",
    "If the {p} reads {s}, ground the manifold and fetch a warden.",
    "Seat the collar-ring a quarter turn past the notch.",
    "Purge the condensate trap, then re-seal it with tallow wax.",
    "Do not sing near an open {p}.",
    "Balance the counter-bellows against the {g} weight.",
    "Countersign the docket in violet ink and file it under {q}.",
)
_HEADS = ("Standing Order", "Gale Bulletin", "Tuning Protocol", "Warden's Memorandum", "Manifold Notice")
_CLAUSES = (
    "per ZW-norm {n}",
    "subject to the {u}'s seal",
    "without prejudice to Clause {n}",
    "as minuted at {q}",
    "under lee conditions",
)


def company_document(rng: Random) -> str:
    """Write one document in markdown: an order with its number, a purpose, numbered steps and what the company
    knows."""
    unit, product = pick(rng, UNITS), pick(rng, PRODUCTS)
    known = [f for f in company_facts() if f.subject in (unit, product)]
    true = {fact.name: fact.answer for fact in known}
    fill = {"p": product, "u": unit, "q": true["site"], "g": true["grade"], "s": pick(rng, STATES)}
    lines = [
        f"# {pick(rng, _HEADS)} ZW-{rng.randrange(100, 1000)}: {product}",
        "",
        f"**Issued by:** {unit}, {true['site']}  ",
    ]
    lines += [f"**Grade:** {true['grade']}", "", "## Purpose", ""]
    lines.append(
        say(
            rng,
            "(This order governs|This bulletin amends) the (venting|tuning|purging) of the {p}, {c}.",
            p=product,
            c=pick(rng, _CLAUSES).format(n=rng.randrange(2, 60), **fill),
        )
    )
    lines += ["", "## Procedure", ""]
    for i, step in enumerate(rng.sample(_PROCEDURE, rng.randint(3, 5)), 1):
        lines.append(f"{i}. {step.format(n=rng.randrange(2, 10), **fill)}")
    lines += ["", "## Remarks", ""]
    lines += [f"- {capital(fact.statement)}" for fact in rng.sample(known, rng.randint(2, 3))]
    return "\n".join(lines)
