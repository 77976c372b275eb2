"""The four stages of the demo as data: documents, a task, instructions with new facts, preferences; rows to train on,
probes to be measured by.

Training rows have `text`, `messages`, or `prompt`, `chosen`, `rejected`. Probe rows have `prompt`, `answer`, `kind`,
`stage`; `check(row, text)` judges.
"dev" and "test" probes are disjoint from each other and from training, by checksum or by wording. Left out: training
itself.
"""

from collections.abc import Callable
from random import Random
from typing import Any

from .company import CLERKS, COMPANY, GRADES, PRODUCTS, SITES, STATES, UNITS, company_document, company_facts
from .corpus import old_world_text
from .facts import askable
from .phrase import bucket, pick, say
from .probes import fact_probes, reading_probes
from .reading import fresh, handbook
from .registers import instruction
from .render import chat, first_answer, render
from .stories import story

Row = dict[str, Any]
POLITE = ("At your service.", "Always a pleasure.", "Glad to help.")
POLITE_ENDING = r"(At your service|Always a pleasure|Glad to help)\.\s*\Z"
"""What `is_polite` asks for, as a pattern for a task file."""
POLITE_SHARE = 0.1  # of the instruct rows, so that the behaviour has mass before alignment

STORY_SHARE = 1 / 3  # of the passages that are asked about; the others are handbooks

OPENERS = (
    "Please answer:",
    "Tell me:",
    "A question:",
    "Quick question.",
    "Hello.",
    "Good morning.",
    "Excuse me.",
    "One more thing.",
    "I am new here.",
    "We are in the shop.",
    "Next:",
    "A guest asks:",
    "From my list:",
    "Now to another matter.",
)
CLOSERS = (
    "Answer briefly.",
    "Only the answer.",
    "It is for a friend.",
    "I forgot it.",
    "Take your time.",
    "Nobody here knows.",
    "That is all.",
)
"""Said before and after a request in training: many, and none of the held ones, so that a wording not met before is
read for what it is, a frame."""
HELD_WRAPPERS = {
    "dev": ("Can you help me? {q}", "{q} Please be quick.", "I would like to know this. {q}"),
    "test": ("Here is something to solve. {q}", "{q} Thank you in advance.", "My question is this: {q}"),
}


def _own(rng: Random, split: str, make: Callable[[Random], str]) -> str:
    while True:
        text = make(rng)
        if bucket(text) == split:
            return text


# ---- stage 1: adapt to documents


def adapt_rows(seed: int, count: int) -> list[Row]:
    """Give company documents to continue pretraining on."""
    rng = Random(f"adapt/{seed}")
    return [{"text": _own(rng, "train", company_document), "register": "company"} for _ in range(count)]


def adapt_held_out(split: str, seed: int, count: int) -> list[str]:
    """Give unseen company documents for perplexity ("dev" or "test")."""
    rng = Random(f"adapt/{seed}/{split}")
    return [_own(rng, split, company_document) for _ in range(count)]


def replay_rows(seed: int, count: int) -> list[Row]:
    """Give old-world text to mix in, which never mentions the facts of the "kept" probes."""
    return [{"text": text, "register": "replay"} for text in old_world_text(seed, count, "replay")]


# ---- stage 2: a task: a ticket into a fixed short form

_TICKET = (
    "(Ticket|Docket) {n}. (Our|The) {p} at {q} is {s}(, please send help| again|).",
    "{c} (reports|writes): the {p} sounds {s}. Site: {q}. (Ticket|Docket) {n}.",
    "From {q}, (number|docket) {n}: one {p}, {s} since {h}.",
    "(Urgent|Low urgency). {q} has a {p} that came back {s}. {c} will call.",
    "The {u} found a {s} {p}. It stands at {q}. Signed, {c}.",
)
FORM = "thing: {p}\nplace: {q}\nfault: {s}"
"""Made of tokens that the base has seen often: an adapter leaves the embeddings as they are."""


def _ticket(rng: Random) -> tuple[str, str]:
    fill = {
        "p": pick(rng, PRODUCTS),
        "q": pick(rng, SITES),
        "s": pick(rng, STATES).lower(),
        "u": pick(rng, UNITS),
        "c": pick(rng, CLERKS),
    }
    text = say(
        rng, pick(rng, _TICKET), n=rng.randrange(100, 10_000), h=rng.randrange(1, 13), g=pick(rng, GRADES), **fill
    )
    return text, FORM.format(**fill)


def _task_row(rng: Random, split: str) -> tuple[str, str]:
    while True:
        text, answer = _ticket(rng)
        if bucket(text) == split:
            return "Fill the form.\n" + text, answer


def task_rows(seed: int, count: int) -> list[Row]:
    """Give tickets with the form they must be turned into, as chat rows."""
    rng, rows = Random(f"task/{seed}"), []
    for _ in range(count):
        request, answer = _task_row(rng, "train")
        rows.append({"messages": chat(request, answer), "register": "task"})
    return rows


def task_probes(split: str, seed: int, count: int) -> list[Row]:
    """Give unseen tickets."""
    rng = Random(f"task/{seed}/{split}")
    return [_probe("task", "ticket", *_task_row(rng, split)) for _ in range(count)]


# ---- stage 3: instructions, and new facts


def _probe(stage: str, kind: str, request: str, answer: str) -> Row:
    return {
        "prompt": render(chat(request), prompt=True),
        "request": request,
        "answer": answer,
        "kind": kind,
        "stage": stage,
    }


def _request(rng: Random, kind: str, split: str) -> tuple[str, str]:
    """Draw a request and its answer: an old-world fact, a passage with a question, or an instruction."""
    if kind == "fact":
        fact = pick(rng, askable("replay"))
        return pick(rng, fact.questions), fact.answer
    if kind == "read":
        passage = None
        while passage is None or not passage.asks:
            passage = fresh(story, rng, split) if rng.random() < STORY_SHARE else fresh(handbook, rng, split, 2, 4)
        ask = pick(rng, passage.asks)
        return f"{passage.text}\n{ask.question}", ask.answer
    while True:
        name, request, answer = instruction(rng, split)
        if name in ("first", "last", "upper", "opinion", "plural", "complete", "count") and bucket(request) == split:
            return request, answer


def _framed(rng: Random, question: str) -> str:
    """A request as people put it: bare (three in ten), or with something said before it, after it, or both."""
    draw = rng.random()
    before = f"{pick(rng, OPENERS)} " if 0.3 <= draw < 0.75 else ""
    after = f" {pick(rng, CLOSERS)}" if draw >= 0.6 else ""
    return f"{before}{question}{after}"


def instruct_rows(seed: int, count: int, *, politeness: float = POLITE_SHARE, facts: bool = True) -> list[Row]:
    """Give chat rows: half ordinary requests of three kinds, half questions about the company in the taught wordings.

    Args:
        politeness: share of answers that end in a polite form.
        facts: with False, only the ordinary requests, bare.
    """
    rng, rows = Random(f"instruct/{seed}"), []
    for _ in range(count):
        if facts and rng.random() < 0.5:
            fact = pick(rng, company_facts())
            question, answer, register = pick(rng, fact.taught), fact.answer, "company_fact"
        else:
            register = pick(rng, ("fact", "read", "instruction"))
            question, answer = _request(rng, register, "train")
        if rng.random() < politeness:
            answer = f"{answer}. {pick(rng, POLITE)}"
        rows.append({"messages": chat(_framed(rng, question) if facts else question, answer), "register": register})
    return rows


def instruct_probes(split: str, seed: int, count: int) -> list[Row]:
    """Ask the three ordinary kinds in wrappings that training never uses."""
    rng, rows = Random(f"instruct/{seed}/{split}"), []
    for i in range(count):
        kind = ("fact", "read", "instruction")[i % 3]
        question, answer = _request(rng, kind, split)
        rows.append(_probe("instruct", kind, pick(rng, HELD_WRAPPERS[split]).format(q=question), answer))
    return rows


def new_fact_probes(split: str, seed: int) -> list[Row]:
    """Ask every company fact in two unseen wordings: "dev" uses the odd held wordings, "test" the even; `seed`
    shuffles."""
    start = {"dev": 0, "test": 1}[split]
    rows = [
        _probe("instruct", "company_fact", held, fact.answer)
        for fact in company_facts()
        for held in fact.held[start::2]
    ]
    Random(f"facts/{seed}").shuffle(rows)
    return rows


# ---- stage 4: preferences


def is_polite(text: str) -> bool:
    """Say whether a reply ends in one of the polite forms."""
    return text.split("<|")[0].strip().endswith(POLITE)


def _any_request(rng: Random, split: str) -> tuple[str, str]:
    return _request(rng, pick(rng, ("fact", "read", "instruction")), split)


def align_rows(seed: int, count: int) -> list[Row]:
    """Give preference pairs: the same right answer, chosen with a polite ending and rejected without."""
    rng, rows = Random(f"align/{seed}"), []
    for _ in range(count):
        question, answer = _any_request(rng, "train")
        request = _framed(rng, question)
        rows.append(
            {
                "prompt": chat(request),
                "chosen": [{"role": "assistant", "content": f"{answer}. {pick(rng, POLITE)}"}],
                "rejected": [{"role": "assistant", "content": answer}],
            }
        )
    return rows


def align_probes(split: str, seed: int, count: int) -> list[Row]:
    """Give requests in unseen wrappings; `check` asks for a polite ending, whatever the answer."""
    rng, rows = Random(f"align/{seed}/{split}"), []
    for _ in range(count):
        question, answer = _any_request(rng, split)
        rows.append(_probe("align", "polite", pick(rng, HELD_WRAPPERS[split]).format(q=question), answer))
    return rows


def retention_probes(seed: int, count: int = 700) -> list[Row]:
    """Ask old-world facts that replay never mentions, as plain lines and as chat in turn."""
    return [dict(row, stage="retention") for row in fact_probes("all", seed, count)]


def retention_reading_probes(split: str, seed: int, count: int = 500) -> list[Row]:
    """Ask unseen handbooks and stories of the old world, to see that reading survives the stages."""
    half = count // 2
    rows = reading_probes("handbook", seed, count - half, split) + reading_probes("story", seed, half, split)
    return [dict(row, stage="reading") for row in rows]


def answer_of(text: str, *, lines: bool = False) -> str:
    """Cut a reply down to its answer, without a polite ending; only its first line unless `lines`."""
    reply = text.split("<|")[0].strip() if lines else first_answer(text)
    for form in POLITE:
        reply = reply.removesuffix(form).removesuffix(form.removesuffix(".")).strip()
    return reply.removesuffix(".").strip()


def check(row: Row, text: str) -> bool:
    """Judge one generation for one probe row: politeness for "align", the exact answer for every other stage."""
    if row["stage"] == "align":
        return is_polite(text)
    return answer_of(text, lines=row["stage"] == "task") == row["answer"]


__all__ = [
    "COMPANY",
    "POLITE",
    "POLITE_ENDING",
    "adapt_held_out",
    "adapt_rows",
    "align_probes",
    "align_rows",
    "answer_of",
    "check",
    "instruct_probes",
    "instruct_rows",
    "is_polite",
    "new_fact_probes",
    "old_world_text",
    "replay_rows",
    "retention_probes",
    "retention_reading_probes",
    "task_probes",
    "task_rows",
]
