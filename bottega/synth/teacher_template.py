"""A teacher without a model: it answers our prompts by rules, from the tags in them, and says so in every row.

Left out: knowledge. Its questions are sentences of the document turned round, its verdicts the share of words in common,
its answers to tasks those of the seeds. For machines without a model, for tests, and as the floor that a real teacher must beat.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Sequence
from typing import Any

from bottega.core.types import Reply, Turn
from bottega.data.near import words_of
from bottega.synth.blocks_language import WORDS, language_of
from bottega.synth.blocks_parse import Parse

IDENTITY = "template"
_SECTION = re.compile(r"\[Start of ([^\]]+)\]\n(.*?)\n?\[End of \1\]", re.DOTALL)
_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-ZÀ-ÖØ-Þ\"“«])")
_REFERS = re.compile(
    r"\b(the (text|document|passage|paragraph|article|context)|above|il (testo|documento)|il paragrafo|"
    r"teksti\w*|asiakirja\w*|kappale\w*)\b",
    re.I,
)
_PRONOUN = re.compile(
    r"^(it|he|she|they|this|these|that|there|in|on|as|however|but|and|when|if|esso|essa|questo|questa|se|hän|ne|tämä)\b",
    re.I,
)
_VERBS = {
    "en": r"is|are|was|were|has|have|had|can|will|became|contains?|includes?|gained|lives?|uses?|won|makes?",
    "it": r"è|sono|era|erano|fu|ha|hanno|può|contiene|vive|diventò",
    "fi": r"on|ovat|oli|olivat|voi|sisältää|elää|kuuluu",
}
_ASKS = {
    "en": ("What do you know about {0}?", "What can be said of {0}?", "Tell me something about {0}.", "How would you describe {0}?"),
    "it": ("Che cosa sai di {0}?", "Che cosa si può dire di {0}?", "Dimmi qualcosa su {0}.", "Come descriveresti {0}?"),
    "fi": ("Mitä tiedät aiheesta {0}?", "Mitä voi sanoa aiheesta {0}?", "Kerro jotain aiheesta {0}.", "Miten kuvailisit aihetta {0}?"),
}  # fmt: skip
_GAPS = {
    "en": ("Which number is missing: {0}", "Fill in the number: {0}"),
    "it": ("Quale numero manca: {0}", "Completa con il numero: {0}"),
    "fi": ("Mikä luku puuttuu: {0}", "Täydennä luku: {0}"),
}
_LEADS = {
    "en": ("Please help me with this. {0}", "I have a task for you. {0}", "{0} Thank you.", "A question: {0}"),
    "it": ("Aiutami, per favore. {0}", "Ho un compito per te. {0}", "{0} Grazie.", "Una domanda: {0}"),
    "fi": ("Auta minua tässä. {0}", "Minulla on sinulle tehtävä. {0}", "{0} Kiitos.", "Kysymys: {0}"),
}
_ARTICLES = frozenset("the a an its her his il la lo i le un una".split())
_YES = {"en": ("YES", "NO"), "it": ("SÌ", "NO"), "fi": ("KYLLÄ", "EI")}


class Template:
    """A Responder by rule. Use it in an `async with`, like the others."""

    identity = IDENTITY

    async def __aenter__(self) -> Template:
        return self

    async def __aexit__(self, *_: object) -> None:
        """Nothing is held."""

    async def respond(self, turns: Sequence[Turn], **sampling: Any) -> Reply:
        """The reply that the rules give; the seed chooses among wordings."""
        text = reply(turns[-1].content, int(sampling.get("seed", 0)))
        usage = {
            "prompt_tokens": sum(len(turn.content.split()) for turn in turns),
            "completion_tokens": len(text.split()),
        }
        return Reply(text=text, usage=usage)


def reply(asked: str, seed: int) -> str:
    """The reply to one prompt: inputs are the sections that hold something, what is wanted those that hold `...`."""
    sections = _SECTION.findall(asked)
    given = {name: body for name, body in sections if body.strip() != "..."}
    seeds = [body for name, body in sections if name == "Seed Question"]
    wanted = [name.lower().replace(" ", "_") for name, body in sections if body.strip() == "..."]
    if not wanted:
        return "ready"
    rng = random.Random(hashlib.sha256(f"{seed}|{asked}".encode("utf-8", "replace")).digest())
    code = language_of(" ".join(given.values()))
    code = code if code in _ASKS else "en"
    rows = _rows(wanted, given, seeds, [body for name, body in sections if name == "Seed Response"], code, rng)
    if wanted[-1] in ("verdict", "score"):
        rows = [_judged(given, wanted[-1], asked, code)]
    return "\n".join(Parse.tags(wanted).write(row) for row in rows if all(row.get(name) for name in wanted))


def _rows(
    wanted: list[str], given: dict[str, str], seeds: list[str], replies: list[str], code: str, rng: random.Random
) -> list[dict[str, str]]:
    document = given.get("Document", given.get("Context", ""))
    if wanted == ["question", "response"]:
        return _questions(document, code, rng)
    if wanted == ["question", "answer"]:
        return _choices(document, code, rng)
    if wanted == ["context"]:
        return [{"context": given.get("Seed Context", "")}]
    if wanted == ["response"]:
        return [{"response": _answer(given, seeds, replies)}]
    if wanted == ["question"]:
        known = seeds or [given[name] for name in ("Question", "Task") if name in given]
        if not known and document:
            return [{"question": row["question"]} for row in _questions(document, code, rng)[:1]]
        return (
            [{"question": rng.choice(_LEADS[code]).format(rng.choice(known))} for _ in range(3 if seeds else 1)]
            if known
            else []
        )
    body = {
        "cleaned": lambda: "\n\n".join(" ".join(part.split()) for part in document.split("\n\n")),
        "summary": lambda: " ".join(_sentences(part)[0] for part in document.split("\n\n") if _sentences(part)),
        "facts": lambda: "\n".join(_sentences(document)),
        "extract": lambda: " ".join(sorted(_sentences(document), key=len)[-4:]),
    }.get(wanted[0])
    return [{wanted[0]: body()}] if body else []


def _sentences(text: str) -> list[str]:
    lines = [line for line in text.splitlines() if not re.match(r"\s*(#|\||```|[-*] )", line)]
    joined = " ".join(" ".join(lines).split())
    return [
        one.strip()
        for one in _SENTENCE.split(joined)
        if 5 <= len(one.split()) <= 60 and one.strip().endswith((".", "!", "?"))
    ]


def _questions(document: str, code: str, rng: random.Random) -> list[dict[str, str]]:
    """Sentences turned round: what stands before the verb is asked about; a number is left out and asked for."""
    subject = re.compile(rf"^(.{{3,70}}?)\s(?:{_VERBS[code]})\s")
    rows = []
    for sentence in _sentences(document):
        found = subject.match(sentence)
        number = re.search(r"(?<![\w.,])\d[\d,.]*(?<=\d)(?![\w.]*\d)", sentence)
        if number and not _PRONOUN.match(sentence) and rng.random() < 0.5:
            gap = sentence[: number.start()] + "___" + sentence[number.end() :]
            rows.append({"question": rng.choice(_GAPS[code]).format(gap), "response": f"{number[0]}. {sentence}"})
        elif found and not _PRONOUN.match(sentence) and len(found[1].split()) <= 9 and "," not in found[1]:
            rows.append({"question": rng.choice(_ASKS[code]).format(_inside(found[1])), "response": sentence})
    rng.shuffle(rows)
    return rows[:6]


def _inside(name: str) -> str:
    """A sentence's first words within another sentence: an article is written small."""
    first, _, rest = name.partition(" ")
    return (
        f"{first.lower()} {rest}"
        if first.lower() in {"the", "a", "an", "its", "her", "his", "il", "la", "lo", "i", "le", "un", "una"}
        else name
    )


def _choices(document: str, code: str, rng: random.Random) -> list[dict[str, str]]:
    numbers = list(dict.fromkeys(re.findall(r"(?<![\w.,])\d[\d,]*(?![\w.]*\d)", document)))
    rows = []
    for sentence in _sentences(document):
        found = [one for one in numbers if re.search(rf"(?<![\w.,]){re.escape(one)}(?![\w,]*\d)", sentence)]
        others = [one for one in numbers if one not in found]
        if not found or len(others) < 3 or _PRONOUN.match(sentence):
            continue
        choices = [found[0], *rng.sample(others, 3)]
        rng.shuffle(choices)
        gap = re.sub(rf"(?<![\w.,]){re.escape(found[0])}(?![\w,]*\d)", "___", sentence, count=1)
        lines = [f"{letter}) {choice}" for letter, choice in zip("ABCD", choices)]
        letter = "ABCD"[choices.index(found[0])]
        rows.append({"question": "\n".join([_GAPS[code][0].format(gap), *lines]), "answer": f"{letter}) {found[0]}"})
    return rows[:3]


def _content(text: str) -> set[str]:
    common = {word for words in WORDS.values() for word in words.split()}
    return {word for word in words_of(text) if word not in common}


def _share(part: str, whole: str) -> float:
    """The share of a text's own words that stand in another."""
    words = _content(part)
    return len(words & _content(whole)) / len(words) if words else 0.0


def _answer(given: dict[str, str], seeds: list[str], replies: list[str]) -> str:
    question = given.get("Question", given.get("User", ""))
    for seed, answer in zip(seeds, replies):
        if seed.strip() in question:
            return answer
    sentences = _sentences(given.get("Document", given.get("Context", "")))
    best = max(sentences, key=lambda one: _share(question, one), default="")
    return best if best and _share(question, best) >= 0.3 else "?"


def _judged(given: dict[str, str], kind: str, asked: str, code: str) -> dict[str, str]:
    """A verdict by words in common: of the response with the document, else of question and response, else of the question."""
    question, response = given.get("Question", ""), given.get("Response", "")
    grounds = given.get("Document", given.get("Context", ""))
    low, high = map(float, found.groups()) if (found := re.search(r"\[Scale (\S+) to (\S+)\]", asked)) else (0.0, 1.0)
    if response:
        share = _share(response, grounds) if grounds else float(len(words_of(response)) >= 1)
        good = share >= 0.8 and words_of(response) != words_of(question)
    else:
        good = len(_content(question)) >= 1 and not _REFERS.search(question)
        share = float(good)
    said = (
        f"{share:.2f} of the words are found"
        if response
        else "the question names its subject"
        if good
        else "it refers elsewhere"
    )
    if kind == "verdict":
        return {"explanation": said, "verdict": _YES[code][0 if good else 1]}
    return {"explanation": said, "score": f"{high if good else low:g}"}
