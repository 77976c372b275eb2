"""Writes the example data of the recipes in this folder: rows to learn from, held-out rows, and a task for `bottega eval`.

Left out: anything real. Names and facts are drawn from small lists, so that the bundled model can learn a use in a minute; with a model
and rows of your own the same recipes do the same work. Held-out rows are other combinations than those that are learned from.

    python recipes/uses/make.py          # writes recipes/uses/data, the same bytes every time
"""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "data"
Row = dict[str, Any]
WHO = (
    "Agata Beata Celia Delia Edith Fiona Gilda Helga Aldo Bruno Cesare Dino Ernst Fabio Gino Harald Igor Jonas".split()
)
SHOPS = "bakery smithy mill inn school library harbour market chapel station".split()
THINGS = "lamp door stove pump clock ladder window cart bench kettle".split()
FAULTS = "broken loud cold loose dirty slow stuck late".split()
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
FILLERS = (
    "I hope this finds you well.", "The weather was fine again.", "My sister sends her regards.", "We had many guests this week.",
    "The road was wet in the morning.", "I write this in a hurry.", "Thank you for the last time.", "The children are back at school.",
    "There is news from the harbour, too.", "I have been here since spring.",
)  # fmt: skip


def chat(request: str, answer: str) -> Row:
    return {"messages": [{"role": "user", "content": request}, {"role": "assistant", "content": answer}]}


# ---- one function a use: draws (request, answer) pairs


def summary(rng: random.Random) -> tuple[str, str]:
    """A letter with what matters somewhere in it, and the one line that says it."""
    who, shop, thing, fault, day = (rng.choice(one) for one in (WHO, SHOPS, THINGS, FAULTS, DAYS))
    matter = rng.choice(
        (
            f"The {thing} at the {shop} is {fault}, and it should be seen to by {day}.",
            f"Please come to the {shop} by {day}, for the {thing} is {fault}.",
            f"At the {shop} we have a {thing} that is {fault}; {day} would be the latest.",
        )
    )
    letter = rng.sample(FILLERS, rng.randint(3, 5))
    letter.insert(rng.randint(1, len(letter)), matter)
    return f"Sum up in one line.\n{' '.join(letter)} {who}", f"{who}: {thing} {fault} at the {shop}, by {day}"


def question(rng: random.Random) -> tuple[str, str]:
    """Three lines on three things, and a question on one of them; the answer quotes the line it stands in."""
    things, shops, owners = rng.sample(THINGS, 3), rng.sample(SHOPS, 3), rng.sample(WHO, 3)
    lines = [f"The {t} of {o} stands in the {s}." for t, o, s in zip(things, owners, shops)]
    pick = rng.randrange(3)
    asks = (
        (f"Where is the {things[pick]}?", f"In the {shops[pick]}"),
        (f"Whose is the {things[pick]}?", owners[pick]),
        (f"What stands in the {shops[pick]}?", f"The {things[pick]}"),
    )
    asked, answer = rng.choice(asks)
    return "\n".join([*lines, asked]), f"{lines[pick]} {answer}"


NOUNS = {  # English: Italian, article, plural with article
    "bread": ("il", "pane"),
    "cheese": ("il", "formaggio"),
    "wine": ("il", "vino"),
    "book": ("il", "libro"),
    "fish": ("il", "pesce"),
    "house": ("la", "casa"),
    "chair": ("la", "sedia"),
    "lamp": ("la", "lampada"),
    "key": ("la", "chiave"),
    "letter": ("la", "lettera"),
    "water": ("l'", "acqua"),
    "tree": ("l'", "albero"),
    "mirror": ("lo", "specchio"),
    "backpack": ("lo", "zaino"),
    "oil": ("l'", "olio"),
}
PEOPLE = {
    "baker": ("il", "fornaio"),
    "doctor": ("il", "medico"),
    "girl": ("la", "ragazza"),
    "woman": ("la", "donna"),
    "uncle": ("lo", "zio"),
    "pupil": ("l'", "alunno"),
    "teacher": ("la", "maestra"),
    "boy": ("il", "ragazzo"),
    "student": ("lo", "studente"),
    "aunt": ("la", "zia"),
}
VERBS = {
    "buys": "compra",
    "sells": "vende",
    "sees": "vede",
    "looks for": "cerca",
    "has": "ha",
    "wants": "vuole",
    "finds": "trova",
}


def with_article(article: str, noun: str) -> str:
    return f"{article}{noun}" if article.endswith("'") else f"{article} {noun}"


def translation(rng: random.Random) -> tuple[str, str]:
    """An English sentence and its Italian, whose articles go by gender and first sound."""
    who, verb, what = rng.choice(list(PEOPLE)), rng.choice(list(VERBS)), rng.choice(list(NOUNS))
    said = f"{with_article(*PEOPLE[who])} {VERBS[verb]} {with_article(*NOUNS[what])}"
    negated = rng.random() < 0.3
    if negated:
        subject, rest = with_article(*PEOPLE[who]), f"{VERBS[verb]} {with_article(*NOUNS[what])}"
        base = {"looks for": "look for", "has": "have"}.get(verb, verb.removesuffix("s"))
        return f"Italian: The {who} does not {base} the {what}.", f"{subject[0].upper()}{subject[1:]} non {rest}."
    return f"Italian: The {who} {verb} the {what}.", f"{said[0].upper()}{said[1:]}."


def writing(rng: random.Random) -> tuple[str, str]:
    """Notes, and the notice in the house's style that says all of them."""
    shop, day, who = rng.choice(SHOPS), rng.choice(DAYS), rng.choice(WHO)
    reason, until = rng.choice(("repairs", "a wedding", "the harvest", "cleaning", "a fair")), rng.randint(8, 12)
    notes = [f"shop {shop}", f"closed {day}", f"why {reason}", f"opens {until}", f"from {who}"]
    rng.shuffle(notes)
    notice = (
        f"Dear guests, the {shop} stays closed on {day} because of {reason}. "
        f"We open again the day after at {until}. Yours, {who}"
    )
    return f"Write the notice.\n{'; '.join(notes)}", notice


DOSES = ("one spoon", "two spoons", "half a spoon", "three drops", "five drops")
TIMES, DRINKS = ("in the morning", "at noon", "in the evening"), ("water", "milk", "tea", "bread")
SYRUPS = "Balsamo Calmol Dorminal Fervex Gastrin Lenitol Mentolin Pectoral Respirol Sanatol".split()
UNSURE = "The leaflet does not say. Please ask your doctor"


def patient(rng: random.Random) -> tuple[str, str]:
    """A leaflet and a question on it; where the leaflet does not say, the answer says so and sends to the doctor."""
    name, dose, when, drink = rng.choice(SYRUPS), rng.choice(DOSES), rng.choice(TIMES), rng.choice(DRINKS)
    facts = {
        "How much {n} do I take?": (f"Take {dose}.", dose),
        "When do I take {n}?": (f"Take it {when}.", when),
        "What do I take {n} with?": (f"Take it with {drink}.", f"with {drink}"),
        "May children take {n}?": ("Children may take it.", "yes"),
        "How long can I keep {n}?": ("Keep it for a year.", "for a year"),
    }
    there = rng.sample(list(facts), 3)
    asked = rng.choice(list(facts))
    text = " ".join([f"{name}.", *(facts[one][0] for one in there)])
    answer = f"{facts[asked][1][0].upper()}{facts[asked][1][1:]}" if asked in there else UNSURE
    return f"{text}\n{asked.format(n=name)}", answer


LIKES = "bread cheese music walks books gardens fish tea stories dogs".split()


def companion(rng: random.Random) -> Row:
    """A talk in which something was said that is asked for later; the last answer is the row's."""
    who, like, town = rng.choice(WHO), rng.choice(LIKES), rng.choice(SHOPS)
    told = [
        (f"Hello, I am {who}.", f"Good to meet you, {who}."),
        (f"I like {like}.", f"I like {like} too."),
        (f"Today I was at the {town}.", f"How was it at the {town}?"),
    ]
    rng.shuffle(told)
    asked = rng.choice(
        (
            ("What is my name?", f"You are {who}."),
            ("What do I like?", f"You like {like}."),
            ("Where was I?", f"At the {town}."),
        )
    )
    turns = [{"role": role, "content": text} for pair in told for role, text in zip(("user", "assistant"), pair)]
    return {"messages": [*turns, {"role": "user", "content": asked[0]}], "answer": asked[1]}


def payment(rng: random.Random) -> Row:
    """A payment; fraud is likelier for large sums abroad at night with a young card, and never certain."""
    row = {
        "amount": round(rng.lognormvariate(3.5, 1.0), 2),
        "country": rng.choice(("FI", "FI", "FI", "IT", "IT", "US", "BR")),
        "hour": rng.randrange(24),
        "card_days": rng.choice((3, 10, 40, 200, 900, 2000)),
        "shop": rng.choice(SHOPS),
    }
    odds = (
        -5.2
        + 2.2 * (row["country"] in ("US", "BR"))
        + 2.0 * (row["hour"] < 6)
        + 2.0 * (row["card_days"] < 30)
        + 1.2 * (row["amount"] > 80)
    )
    return {**row, "fraud": "yes" if rng.random() < 1 / (1 + 2.718281828**-odds) else "no"}


# ---- writing it down

CHATS: dict[str, tuple[Callable[[random.Random], tuple[str, str]], str]] = {
    "summary": (summary, "rouge_l"),
    "question-answering": (question, "exact"),
    "translation": (translation, "{name: exact, normal: false}"),
    "writing": (writing, "{name: exact, normal: false}"),
    "patient-questions": (patient, "exact"),
}
TRAIN, TEST = 1500, 200


def drawn(make: Callable[[random.Random], tuple[str, str]], name: str) -> tuple[list[Row], list[Row]]:
    """Rows to learn from and held-out ones; no request is in both."""
    rng, seen = random.Random(name), dict[str, str]()
    for _ in range(4 * TRAIN):  # a small language has fewer requests than that, and gives what it has
        seen.setdefault(*make(rng))
    pairs = list(seen.items())[: TRAIN + TEST]
    held = [{"request": request, "answer": answer} for request, answer in pairs[:TEST]]
    return [chat(*pair) for pair in pairs[TEST:]], held


def files() -> Iterator[tuple[str, str]]:
    """(path, text) of every file."""
    for name, (make, metric) in CHATS.items():
        train, held = drawn(make, name)
        yield f"{name}.jsonl", lines(train)
        yield f"{name}-held.jsonl", lines(held)
        yield f"{name}-task.yaml", (
            f"# Held-out requests of recipes/uses/{name}.yaml, and the answers wanted.\n"
            f"name: {name}\nkind: generation\ndata: {name}-held.jsonl\nprompt: \"{{{{ request }}}}\"\nanswer: answer\n"
            f"chat: true\nmetric: {metric}\nmax_tokens: 64\n"
        )  # fmt: skip
    rng = random.Random("companion")
    talks = {json.dumps(row): row for row in (companion(rng) for _ in range(TRAIN + TEST))}
    rows = list(talks.values())
    learned = [{"messages": [*r["messages"], {"role": "assistant", "content": r["answer"]}]} for r in rows[TEST:]]
    yield "companion.jsonl", lines(learned)
    yield "companion-held.jsonl", lines(rows[:TEST])
    yield (
        "companion-task.yaml",
        (
            "# Talks that end in a question on what was said, and the answers wanted.\n"
            "name: companion\nkind: generation\ndata: companion-held.jsonl\nmessages: messages\nanswer: answer\n"
            "chat: true\nmetric: exact\nmax_tokens: 32\n"
        ),
    )
    for name, count in (("fraud", 3000), ("fraud-held", 1500)):
        rng = random.Random(name)
        yield f"{name}.csv", table([payment(rng) for _ in range(count)])


def lines(rows: list[Row]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def table(rows: list[Row]) -> str:
    import io

    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name, text in files():
        (FOLDER / name).write_text(text, encoding="utf-8")
        print(f"{name}: {text.count(chr(10)):,} lines, {len(text.encode()):,} bytes")


if __name__ == "__main__":
    main()
