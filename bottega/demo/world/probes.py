"""Questions with exact answers for measuring the model, none of which any training text contains.

Every row has `prompt` (ready to be continued), `answer`, `kind` and `form` ("plain" or "chat"). Left out: scoring
(`is_right` is all of it).
"""

from random import Random
from typing import Any

from .facts import Fact, facts
from .phrase import pick
from .reading import Passage, entry, fresh, handbook, pair, record, table
from .registers import arithmetic_pair
from .render import chat, first_answer, plain, render
from .sketches import sketch
from .stories import counting, story

Row = dict[str, Any]
READERS = {
    "handbook": handbook,
    "story": story,
    "entry": entry,
    "table": table,
    "pair": pair,
    "record": record,
    "counting": counting,
    "sketch": sketch,
}
FORMS = ("plain", "chat")


def is_right(generated: str, answer: str) -> bool:
    """Say whether the first line of a generation is exactly the answer (a final full stop is forgiven)."""
    return first_answer(generated) == answer


def _prompt(question: str, form: str, passage: Passage | None = None) -> str:
    body = "" if passage is None else (f"{passage.title}\n" if passage.title else "") + passage.text + "\n"
    return body + plain(question) if form == "plain" else render(chat(body + question), prompt=True)


def reading_probes(
    kind: str, seed: int, count: int, split: str = "dev", *, held: bool = False, form: str | None = None
) -> list[Row]:
    """Ask about passages that the split owns; half of the rows are plain and half are chat, unless `form` says which.

    Args:
        kind: "handbook", "story", "entry", "table", "pair", "record" or "counting".
        held: ask in wordings that no training document uses.
        split: "dev" or "test".
    """
    rng, rows = Random(f"{kind}/{seed}/{split}/{held}"), list[Row]()
    while len(rows) < count:
        passage = fresh(READERS[kind], rng, split)
        asks = [ask for ask in passage.asks if ask.held or not held]
        if asks:
            ask, how = pick(rng, asks), form or FORMS[len(rows) % 2]
            question = ask.held if held else ask.question
            rows.append(
                {
                    "prompt": _prompt(question, how, passage),
                    "answer": ask.answer,
                    "kind": kind,
                    "form": how,
                    "passage": passage.text,
                }
            )
    return rows


def _fact_pool(kind: str) -> list[tuple[Fact, str]]:
    """List (fact, wording): "kept" are known facts that replay text leaves out, "wording" new wordings, "never" facts
    never asked."""
    if kind == "kept":
        return [(f, q) for f in facts() if f.asked and not f.replayed for q in f.questions]
    if kind == "wording":
        return [(f, q) for f in facts() if f.asked for q in f.held]
    if kind == "never":
        return [(f, q) for f in facts() if not f.asked for q in f.questions]
    raise ValueError(f"kind is {kind!r}; it must be 'kept', 'wording' or 'never'")


def fact_probes(split: str, seed: int, count: int, *, kind: str = "kept", form: str | None = None) -> list[Row]:
    """Ask about the old world without a passage; no (fact, wording) of kind "kept" occurs in replay text.

    Distinct items are drawn without repetition, and the facts of "dev" and "test" are disjoint when `count` allows:
    each split has its own half of the shuffled pool. Use `split="all"` for the whole pool (more than 1,000 items of
    kind "kept").
    """
    pool = _fact_pool(kind)
    Random(f"pool/{kind}").shuffle(pool)
    half = len(pool) // 2
    pool = {"dev": pool[:half], "test": pool[half:], "all": pool}[split]
    rng = Random(f"{kind}/{seed}/{split}")
    chosen = rng.sample(pool, min(count, len(pool)))
    return [
        {
            "prompt": _prompt(q, form or FORMS[i % 2]),
            "question": q,
            "answer": f.answer,
            "kind": f"fact_{kind}",
            "form": form or FORMS[i % 2],
        }
        for i, (f, q) in enumerate(chosen)
    ]


def arithmetic_probes(seed: int, count: int, split: str = "dev") -> list[Row]:
    """Ask sums of number pairs that no training text contains; dev and test share the kept pairs by their parity."""
    rng, rows = Random(f"sums/{seed}/{split}"), list[Row]()
    while len(rows) < count:
        a, sign, b, result = arithmetic_pair(rng, held=True)
        if (a + b) % 2 == (split == "test"):
            word = "plus" if sign == "+" else "minus"
            form = FORMS[len(rows) % 2]
            rows.append(
                {
                    "prompt": _prompt(f"What is {a} {word} {b}?", form),
                    "answer": str(result),
                    "kind": "sum",
                    "form": form,
                }
            )
    return rows


def probe_files(seed: int, count: int) -> dict[str, list[Row]]:
    """Collect the probe sets that `write_corpus` writes, by file name."""
    files: dict[str, list[Row]] = {}
    for split in ("dev", "test"):
        for kind in ("handbook", "story", "entry", "table"):
            files[f"{kind}-{split}"] = reading_probes(kind, seed, count, split)
            files[f"{kind}-held-{split}"] = reading_probes(kind, seed, count, split, held=True)
        for kind in ("kept", "wording", "never"):
            files[f"fact-{kind}-{split}"] = fact_probes(split, seed, count, kind=kind)
        files[f"sums-{split}"] = arithmetic_probes(seed, count, split)
    return files
