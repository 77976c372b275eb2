"""Registers besides reading: dialogues, how-tos, lists, reviews, sums, instructions, and a little Italian and Finnish.

Every maker takes (rng, split) and returns one text, except `instruction` and `arithmetic_pair`, which return a
request and its answer.
Left out: long forms; nothing here is meant to exceed some 150 tokens.
"""

import zlib
from random import Random

from . import words
from .facts import askable
from .howtos import HOWTOS
from .phrase import article, capital, code, join, pick, place, plural, say, some, surname
from .reading import person

CATEGORIES = {
    "fruits": [f for f, v in words.FOODS.items() if v[0] == "fruit"],
    "vegetables": [f for f, v in words.FOODS.items() if v[0] == "vegetable"],
    "birds": [a for a, v in words.ANIMALS.items() if v[0] == "bird"],
    "insects": [a for a, v in words.ANIMALS.items() if v[0] == "insect"],
    "fish": [a for a, v in words.ANIMALS.items() if v[0] == "fish"],
    "reptiles": [a for a, v in words.ANIMALS.items() if v[0] == "reptile"],
    "iron tools": [t for t, v in words.TOOLS.items() if v[0] == "iron"],
    "trades": list(words.JOBS),
    "colours": list(words.COLOURS),
    "metals": list(words.METALS),
    "dishes": list(words.DISHES),
    "rooms": list(words.ROOMS),
    "vehicles": list(words.VEHICLES),
    "hobbies": list(words.HOBBIES),
    "illnesses": list(words.AILMENTS),
    "minerals": list(words.MINERALS),
}
ITALIAN = (
    ("Il (gatto|cane|cavallo|gallo) (dorme|mangia|corre) nel (giardino|cortile|prato).", ""),
    ("Buongiorno, {h}. Come (stai|va) oggi? (Bene, grazie|Molto bene|Così così).", ""),
    ("{h} abita a {t} e lavora (in bottega|al mercato|nella scuola).", "Dove abita {h}?={t}"),
    ("La (casa|porta|chiave) di {h} è {c}.", "Di che colore è?={c}"),
    ("A {t} il mercato apre alle {n}. Si vende (pane|vino|formaggio|olio).", "Quando apre il mercato?={n}"),
    ("{h} compra {n} (mele|pere|uova|noci) e torna a casa (contento|stanco|presto).", "Quante ne compra {h}?={n}"),
    ("La sera il maestro racconta una storia a {h}. Poi tutti (cantano|ridono|dormono).", ""),
    ("In (primavera|estate|autunno|inverno) {h} va a {t} con (la nonna|il fratello|gli amici).", "Dove va {h}?={t}"),
)
FINNISH = (
    ("(Kissa|Koira|Hevonen|Lintu) (nukkuu|syö|juoksee) (pihalla|metsässä|talossa).", ""),
    ("Hyvää huomenta, {h}. Mitä kuuluu? (Kiitos, hyvää|Ihan hyvää|Ei mitään erityistä).", ""),
    ("{h} asuu kylässä. Kylän nimi on {t}.", "Mikä on kylän nimi?={t}"),
    ("Talon ovi on {c}. Talossa asuu {h}.", "Minkä värinen ovi on?={c}"),
    ("{h} ostaa {n} (omenaa|leipää|kalaa|munaa) torilta.", "Kuinka monta {h} ostaa?={n}"),
    ("Kauppa aukeaa kello {n}. Myyjän nimi on {h}.", "Milloin kauppa aukeaa?={n}"),
    ("(Talvella|Kesällä|Syksyllä|Keväällä) {h} (hiihtää|kalastaa|laulaa|lukee) järven rannalla.", ""),
    ("Illalla vanha mestari kertoo tarinan. {h} kuuntelee ja (nauraa|nukahtaa|kiittää).", ""),
)
COLORI = ("rossa", "blu", "verde", "gialla", "bianca", "nera", "grigia")
VARIT = ("punainen", "sininen", "vihreä", "keltainen", "valkoinen", "musta", "harmaa")


def foreign(rng: Random, split: str) -> str:
    """Write two or three lines of Italian or Finnish, some with a question and its answer."""
    italian = rng.random() < 0.5
    lines = []
    for wording, ask in some(rng, ITALIAN if italian else FINNISH, rng.randint(2, 3)):
        values = {
            "h": surname(rng, split),
            "t": place(rng, split),
            "c": pick(rng, COLORI if italian else VARIT),
            "n": rng.randrange(2, 13),
        }
        lines.append(say(rng, wording, **values))
        if ask and rng.random() < 0.5:
            question, answer = ask.format(**values).split("=")
            lines.append(f"Q: {question} A: {answer}")
    return "\n".join(lines)


def how_to(rng: Random, split: str) -> str:
    """Write the steps of a how-to, numbered or told."""
    goal = pick(rng, tuple(HOWTOS))
    steps = HOWTOS[goal]
    head = say(rng, "(How to {g}|This is how to {g}|To {g}, do this|A short guide: how to {g})", g=goal)
    if rng.random() < 0.5:
        return head + ":\n" + "\n".join(f"{i}. {capital(step)}." for i, step in enumerate(steps, 1))
    links = ["First", pick(rng, ("Then", "Next")), "After that", pick(rng, ("Then", "Now")), "Finally"]
    return head + ". " + " ".join(f"{link}, {step}." for link, step in zip(links, steps, strict=True))


def listing(rng: Random, split: str) -> str:
    """Write a list of one category, the days or the months."""
    draw = rng.random()
    if draw < 0.25:
        names = words.DAYS if rng.random() < 0.5 else words.MONTHS
        i = rng.randrange(len(names))
        return say(
            rng,
            "(After {a} comes {b}.|The one before {b} is {a}.|{b} follows {a}.)",
            a=names[i],
            b=names[(i + 1) % len(names)],
        )
    name = pick(rng, tuple(CATEGORIES))
    items = some(rng, CATEGORIES[name], rng.randint(3, 6))
    if draw < 0.6:
        return f"{capital(name)}:\n" + "\n".join(f"- {item}" for item in items)
    return say(rng, "(Some {c} are|Among the {c} we know are|Examples of {c}:) {l}.", c=name, l=join(items))


def review(rng: Random, split: str, good: bool | None = None) -> tuple[str, bool]:
    """Write a review of an invented place and say whether it is good."""
    good = rng.random() < 0.5 if good is None else good
    one, two = rng.sample(words.GOOD if good else words.BAD, 2)
    name, org = surname(rng, split), pick(rng, words.ORGS)
    text = say(
        rng,
        "(Last {d} we went to|I have been to|On {d} I visited) the {n} {o}. "
        "(The {x} was {a}.|Everything was {a} and {b}.|The staff were {a}, the {x} was {b}.|What {y} {x}!) ",
        d=pick(rng, words.DAYS),
        n=name,
        o=org,
        x=pick(rng, words.DISHES + ("room", "tour", "music", "view")),
        a=one,
        b=two,
        y=article(two),
    )
    end = (
        "(We shall come back soon.|I can only praise it.|A real joy.|)"
        if good
        else "(Never again.|I want my money back.|What a pity.|)"
    )
    return (text + say(rng, end)).strip(), good


def held_sum(a: int, b: int) -> bool:
    """Say whether a pair of numbers is kept for arithmetic probes (one pair in ten)."""
    return zlib.crc32(f"{a}+{b}".encode()) % 10 == 0


def arithmetic_pair(rng: Random, *, held: bool = False) -> tuple[int, str, int, int]:
    """Draw (a, sign, b, result) up to two digits; `held` pairs occur in no training text."""
    while True:
        top = 10 if rng.random() < 0.25 else 100
        a, b, sign = rng.randrange(top), rng.randrange(top), pick(rng, "++-")
        if sign == "-" and b > a:
            a, b = b, a
        if held_sum(a, b) == held:
            return a, sign, b, a + b if sign == "+" else a - b


def sums(rng: Random, split: str) -> str:
    """Write a sheet of sums in one style."""
    style = pick(
        rng, ("{a} {s} {b} = {c}", "{a} {s} {b} = {c}", "Q: What is {a} {w} {b}? A: {c}", "{a} {w} {b} is {c}")
    )
    lines = []
    for _ in range(rng.randint(4, 10)):
        a, sign, b, c = arithmetic_pair(rng)
        lines.append(style.format(a=a, s=sign, b=b, c=c, w="plus" if sign == "+" else "minus"))
    return "\n".join(lines)


def dialogue(rng: Random, split: str) -> str:
    """Write a short talk of two people, with a known fact, an appointment or a lost thing in it."""
    one, two = surname(rng, split), pick(rng, words.WOMEN + words.MEN)
    feel = pick(rng, words.FEELINGS)
    lines = [say(rng, "{a}: (Hello|Good morning|Good evening), {b}. (How are you?|Are you well?)", a=one, b=two)]
    lines.append(say(rng, "{b}: I am {f}(, thank you| today).", b=two, f=feel))
    for _ in range(rng.randint(1, 2)):
        draw = rng.random()
        if draw < 0.4:
            fact = pick(rng, askable(split))
            lines += [f"{one}: {pick(rng, fact.questions)}", f"{two}: {pick(rng, fact.statements)}"]
            lines.append(say(rng, "{a}: (Thank you|I did not know that|Now I remember).", a=one))
        elif draw < 0.7:
            thing, room = pick(rng, words.THINGS), pick(rng, words.ROOMS)
            lines.append(say(rng, "{a}: (Where is|Have you seen) the {t}?", a=one, t=thing))
            lines.append(say(rng, "{b}: The {t} is in the {r}.", b=two, t=thing, r=room))
            lines.append(say(rng, "{a}: (Then I go to the {r}|Good, I look in the {r}).", a=one, r=room))
        else:
            day, hour = pick(rng, words.DAYS), rng.randrange(1, 13)
            lines.append(say(rng, "{a}: (Can|Shall) we meet on {d}?", a=one, d=day))
            lines.append(say(rng, "{b}: (Yes|Gladly), on {d} at {h}.", b=two, d=day, h=hour))
            lines.append(say(rng, "{a}: (Until {d}, then|{d} at {h}, good).", a=one, d=day, h=hour))
    return "\n".join(lines)


def instruction(rng: Random, split: str) -> tuple[str, str, str]:
    """Write one instruction as (kind, request, answer); every answer follows from the request alone."""
    kind = pick(
        rng, ("reverse", "count", "sort", "first", "last", "upper", "sum", "opinion", "plural", "name_two", "complete")
    )
    items = [
        pick(rng, (surname(rng, split), pick(rng, words.THINGS), pick(rng, words.COLOURS)))
        for _ in range(rng.randint(2, 5))
    ]
    items = list(dict.fromkeys(items))
    if kind in ("reverse", "count", "sort", "first", "last"):
        return _list_instruction(rng, kind, items)
    return _other_instruction(rng, kind, split)


def _list_instruction(rng: Random, kind: str, items: list[str]) -> tuple[str, str, str]:
    """What can be asked of a list."""
    line = ", ".join(items)
    if kind == "reverse":
        return (
            kind,
            say(rng, "(Reverse the list: {l}|Write the list backwards: {l})", l=line),
            ", ".join(reversed(items)),
        )
    if kind == "count":
        return kind, say(rng, "(How many items are in the list: {l}?|Count the items: {l})", l=line), str(len(items))
    if kind == "sort":
        numbers = some(rng, range(1, 100), rng.randint(2, 4))
        return (
            kind,
            say(rng, "(Sort the numbers: {l}|Put in order: {l})", l=" ".join(map(str, numbers))),
            " ".join(map(str, sorted(numbers))),
        )
    return (
        kind,
        say(rng, "(Give the {k} item: {l}|What is the {k} word of the list: {l}?)", k=kind, l=line),
        items[0 if kind == "first" else -1],
    )


def _other_instruction(rng: Random, kind: str, split: str) -> tuple[str, str, str]:
    """What is asked of a word, a sum, a review, a category or a how-to."""
    if kind == "upper":
        word = pick(rng, words.THINGS + words.PLACES)
        return (
            kind,
            say(rng, "(Write {w} with a capital letter.|Make the first letter big: {w})", w=word),
            capital(word),
        )
    if kind == "sum":
        a, sign, b, c = arithmetic_pair(rng)
        return (
            kind,
            say(
                rng,
                "(What is {a} {w} {b}?|Work out {a} {s} {b}.|Calculate {a} {s} {b})",
                a=a,
                b=b,
                s=sign,
                w="plus" if sign == "+" else "minus",
            ),
            str(c),
        )
    if kind == "opinion":
        text, good = review(rng, split)
        return kind, say(rng, "(Is this review good or bad?|Good or bad?)") + "\n" + text, "good" if good else "bad"
    if kind == "plural":
        word = pick(rng, words.THINGS + words.BREEDS + tuple(words.TOOLS) + tuple(words.FOODS))
        return kind, say(rng, "(Give the plural of {w}.|What is the plural of {w}?)", w=word), plural(word)
    if kind == "name_two":
        name = pick(rng, tuple(CATEGORIES))
        return kind, say(rng, "(Name two {c}.|Give me two {c}.)", c=name), join(some(rng, CATEGORIES[name], 2))
    goal = pick(rng, tuple(HOWTOS))
    steps = HOWTOS[goal]
    i = rng.randrange(len(steps))
    return kind, say(rng, "(To {g}, what is step {i}?|Step {i} of how to {g}?)", g=goal, i=i + 1), steps[i]


def notice(rng: Random, split: str) -> str:
    """Write a note or advertisement full of odd words, for vocabulary."""
    return say(
        rng,
        "(Lost|Found|For sale|Wanted): {a} {t} of {m}, ({x} and {y}|rather {x}). "
        "(Ask {p} in {w}.|Call {n}.|Bring it to the {r}.)",
        a=pick(rng, words.COLOURS),
        t=pick(rng, words.THINGS),
        m=pick(rng, words.MATERIALS),
        x=pick(rng, words.TRAITS),
        y=pick(rng, words.TRAITS),
        p=person(rng, split),
        w=place(rng, split),
        n=code(rng),
        r=pick(rng, words.ROOMS),
    )
