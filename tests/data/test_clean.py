"""Cleaning: duplicates, length, language, repetition, quality, evaluation items; counts, examples, files, bad input."""

from __future__ import annotations

import json
import random
import tracemalloc
from importlib.util import find_spec

import pytest

from bottega.core.errors import UserError
from bottega.core.types import Conversation, Document, Labelled, Preference, Turn, Where
from bottega.data.clean.account import Item
from bottega.data.clean.files import clean
from bottega.data.clean.quality import duplicate_shares, repeated_share, repetition, top_share
from bottega.data.clean.steps import STEPS, cleaned, step
from bottega.data.near import Index, groups, jaccard, shingles
from bottega.data.pieces import dumps, loads, rewritten, texts

WORDS = [f"word{i}" for i in range(500)]


def words(seed: int, size: int = 40) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=size))


def documents(*found: str) -> list[Item]:
    return [Item(0, Document(text=text, where=Where("d.txt", i))) for i, text in enumerate(found, 1)]


def run(items, *choices, seed=0):
    stream, accounts = cleaned(items, [(c, {}) if isinstance(c, str) else c for c in choices], seed=seed)
    return [item.sample for item in stream], accounts


def samples():
    call = {"id": "c1", "type": "function", "function": {"name": "find", "arguments": {"who": "x", "n": 3}}}
    ask, say = (
        Turn(role="user", content="Who?"),
        Turn(role="assistant", content="Me.", thinking="Hm.", tool_calls=(call,)),
    )
    return [
        Document(text="A text.", where=Where("a", 1), meta={"url": "u"}),
        Conversation(turns=(ask, say), tools=({"type": "function"},), where=Where("a", 2)),
        Preference(prompt=(ask,), chosen=(say,), rejected=(ask,), margin=0.5, where=Where("a", 3)),
        Labelled(text="Fine", label=("a", "b"), where=Where("a", 4)),
        Labelled(text="Call Anna", words=("Call", "Anna"), label=("O", "NAME"), where=Where("a", 6)),
        Labelled(text="Fine", label=True, prompt=(ask,), where=Where("a", 5)),
    ]


@pytest.mark.parametrize("sample", samples(), ids=lambda s: type(s).__name__)
def test_a_sample_survives_the_spool_and_a_rewriting_that_changes_nothing(sample):
    assert loads(dumps(sample)) == sample
    assert rewritten(sample, lambda text: text) == sample


def test_a_rewriting_reaches_every_text_and_leaves_the_structure():
    _, talk, *_ = samples()
    loud = rewritten(talk, str.upper)
    assert texts(talk) == ["Who?", "Me.", "Hm.", "x"]
    assert [turn.role for turn in loud.turns] == ["user", "assistant"]
    assert loud.turns[1].tool_calls[0]["function"] == {"name": "find", "arguments": {"who": "X", "n": 3}}
    assert loud.turns[1].tool_calls[0]["id"] == "c1" and loud.tools == talk.tools


def test_equal_rows_are_kept_once_and_other_columns_are_not_compared():
    one = Document(text="the same", where=Where("f", 1), meta={"id": 1})
    two = Document(text="the same", where=Where("f", 2), meta={"id": 2})
    other = Labelled(text="the same", label="x", where=Where("f", 3))
    kept, (account,) = run([Item(0, s) for s in (one, two, other)], "exact")
    assert kept == [one, other]
    assert (account.read, account.kept, dict(account.rejected)) == (3, 2, {"equal to an earlier row": 1})
    assert account.examples == ["f:2: equal to an earlier row: 'the same'"]


def test_near_rows_go_and_say_whose_copy_they_are():
    text = words(1, 100)
    changed = text.replace(text.split()[50], "another", 1)
    assert jaccard(shingles(text), shingles(changed)) > 0.8
    kept, (account,) = run(documents(text, words(2), changed, words(3)), "near")
    assert [s.where.row for s in kept] == [1, 2, 4]
    assert account.examples[0].startswith("d.txt:3: near to an earlier row (d.txt:1)")


def test_near_compares_what_was_said_not_the_system_turn():
    system = Turn(role="system", content=words(9, 200))
    talks = [
        Conversation(turns=(system, Turn(role="user", content=words(n)), Turn(role="assistant", content=words(n + 50))))
        for n in range(3)
    ]
    assert len(run([Item(0, talk) for talk in talks], "near")[0]) == 3


def test_groups_do_not_depend_on_how_texts_lie_in_memory():
    """Every pair above the threshold is joined: 30 texts, each with a copy in which one of 60 words differs.

    One changed word changes at most 5 of 56 shingles: Jaccard is at least 51 / 61 = 0.836.
    """
    base = [words(n, 60) for n in range(30)]
    copies = [" ".join(["changed", *text.split()[1:]]) for text in base]
    assert groups([*base, *copies]) == [*range(30), *range(30)]
    assert groups(["", "", "!", "a", "A."]) == [0, 0, 2, 3, 3]


def test_the_index_keeps_no_text_in_memory():
    """39 texts of 2,000 words are 0.6 MB; what stays in memory is 16 bytes of each."""

    def text(n: int) -> str:
        return " ".join(random.Random(n).choices(WORDS, k=2000))

    with Index() as index:
        index.add(text(0))
        tracemalloc.start()
        for n in range(1, 40):
            index.add(text(n))
        kept, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert kept < 20_000
        assert list(index.leaders()) == list(range(40))


def test_lengths_count_what_is_learned():
    talk = Conversation(turns=(Turn(role="user", content="a b c d e"), Turn(role="assistant", content="yes")))
    kept, (account,) = run([Item(0, talk)], ("length", {"min_words": 2}))
    assert not kept and dict(account.rejected) == {"fewer than 2 words": 1}


def test_shares_of_repetition_are_those_of_the_formulas():
    """'a\\na\\nb': 1 of 3 lines again, 1 of 5 characters. 'to be to be or': 'to be' is 4 characters, twice, of 10.

    'a b c a b c d', size 3: the run 'a b c' comes again and marks words 4 to 6: 3 of 7 characters.
    """
    assert duplicate_shares("a\na\nb")["lines"] == pytest.approx(1 / 3)
    assert duplicate_shares("a\na\nb")["lines_characters"] == pytest.approx(1 / 5)
    assert top_share("to be to be or".split(), 2) == pytest.approx(0.8)
    assert repeated_share("a b c a b c d".split(), 3) == pytest.approx(3 / 7)


def test_repetition_rejects_loops_and_keeps_prose_and_short_answers():
    judge = repetition().judge
    assert judge("I am a model. " * 30)
    assert judge("\n".join(["one line", "another"] * 4)).startswith("repeated lines")
    assert not judge(words(4, 300))
    assert not judge("no no")


ENGLISH = "The keeper of the tower said that it was time to leave, and he walked with me to the gate of the garden. "


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (" ".join([ENGLISH, words(1, 60)]), ""),
        ("short", "not 50 to 100,000 words"),
        ("a b " * 40, "words are not 3 to 10 characters long on average"),
        (ENGLISH * 6 + "# " * 30, "more than one # or ... to ten words"),
        ("\n".join(f"- the item and that of {words(n, 4)}" for n in range(12)), "more than 90 percent of lines begin with a bullet"),
        ("\n".join(f"the item and that of {words(n, 8)}..." for n in range(12)), "more than 30 percent of lines end in an ellipsis"),
        ("the and " + "12345 " * 60, "fewer than 80 percent of words have a letter"),
        (words(5, 80), "fewer than 2 stop words of any of the languages"),
    ],
)  # fmt: skip
def test_each_rule_of_gopher_rejects_its_example(text, reason):
    _, (account,) = run(documents(text), "quality")
    assert list(account.rejected) == ([reason] if reason else [])


def test_c4_keeps_sentences_and_drops_code_and_thin_pages():
    page = (
        "Home | About\n"
        + "".join(f"This is sentence number {n} of it.\n" for n in range(6))
        + "Enable Javascript to go on.\n"
    )
    kept, (account,) = run(
        documents(page, "function() { return 1. }" * 9, "Too short.", "Lorem ipsum dolor sit amet. " * 6), "c4"
    )
    assert [s.text.count("\n") for s in kept] == [5] and "Home" not in kept[0].text and "Javascript" not in kept[0].text
    assert account.changed == 1
    assert dict(account.rejected) == {"a curly bracket (code)": 1, "fewer than 5 sentences": 1, "lorem ipsum": 1}


@pytest.mark.skipif(find_spec("py3langid") is None, reason="needs the extra lang")
def test_languages_are_told_apart():
    english, italian = (
        ENGLISH,
        "Il custode della torre disse che era ora di andare e mi accompagnò al cancello del giardino.",
    )
    finnish = "Tornin vartija sanoi, että oli aika lähteä, ja hän käveli kanssani puutarhan portille asti illalla."
    kept, (account,) = run(documents(english, italian, finnish, "Ok."), ("language", {"keep": ["en", "it"]}))
    assert [s.where.row for s in kept] == [1, 2, 4]
    assert dict(account.rejected) == {"language fi": 1} and account.found["too short to tell the language"] == 1


def test_without_its_package_the_language_step_is_refused(monkeypatch):
    monkeypatch.setattr("bottega.data.clean.quality.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"py3langid; install it with: pip install 'bottega\[lang\]'"):
        step("language", {"keep": ["en"]})


def test_rows_that_hold_13_words_of_an_evaluation_item_go(write):
    """An item of 20 words gives 8 runs of 13; 12 words in common are not enough. A 9-word item counts as a whole."""
    item, short = words(1, 20).split(), words(2, 9)
    tasks = write(
        "task.yaml",
        f"name: t\nkind: generation\nrows:\n  - {{prompt: '{' '.join(item)}', answer: '{short}'}}\n  - {{prompt: too short}}\n",
    )
    data = write("items.jsonl", [{"question": words(3, 15), "answer": 4}])
    rows = documents(
        "Before. " + ", ".join(item[2:15]).title() + "!",
        " ".join(item[:12]),
        f"and {short} and",
        words(3, 15),
        words(4, 50),
    )
    kept, (account,) = run(rows, ("decontaminate", {"against": [str(tasks), str(data)]}))
    assert [s.where.row for s in kept] == [2, 5]
    assert account.found == {"evaluation texts compared": 3, "evaluation texts too short to compare": 1}


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("naer", {}, "no cleaning step 'naer'; did you mean near"),
        ("near", {"treshold": 1}, "no option 'treshold'; did you mean threshold"),
        ("near", {"threshold": "high"}, "threshold"),
        ("near", {"threshold": 1.5}, "above 0 and at most 1"),
        ("decontaminate", {}, "needs the option 'against'"),
        ("decontaminate", {"against": ["nowhere.jsonl"]}, "no evaluation file nowhere.jsonl"),
        ("length", {"min_words": 9, "max_words": 3}, "least"),
        ("quality", {"languages": ["xx"]}, "no stop words for 'xx'"),
        ("language", {"keep": []}, "keep is empty"),
        ("repetition", {"slack": 0}, "above 0"),
        ("personal", {"kinds": ["shoe size"]}, "no kind 'shoe size'"),
        ("personal", {"action": "hide"}, "action"),
    ],
)  # fmt: skip
def test_a_wrong_step_is_named_with_what_is_right(name, options, said):
    with pytest.raises(UserError, match=said):
        step(name, options)


def test_every_step_says_what_it_is():
    for name in STEPS:
        module, _, cls = STEPS[name].partition(":")
        assert getattr(__import__(module, fromlist=[cls]), cls).__doc__


def test_a_file_is_cleaned_into_a_folder_with_all_that_went(write, tmp_path):
    rows = [{"text": words(n)} for n in (1, 2, 1)] + [{"text": None}]
    path = write("d.jsonl", rows)
    report = clean(path, [("exact", {}), ("near", {})], out=tmp_path / "out", allow_loss=1)
    kept = [json.loads(line) for line in (tmp_path / "out" / "cleaned.jsonl").read_text().splitlines()]
    gone = [json.loads(line) for line in (tmp_path / "out" / "rejects.jsonl").read_text().splitlines()]
    assert kept == rows[:2]
    assert sorted((g["step"], g["row"]) for g in gone) == [("exact", 3), ("read", 4)]
    assert (report["read"], report["kept"], [s["read"] for s in report["steps"]]) == (4, 2, [3, 2])
    again = clean(path, [("exact", {}), ("near", {})], out=tmp_path / "again", allow_loss=1)
    for name in ("cleaned.jsonl", "rejects.jsonl", "clean.json"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    assert {**again, "out": ""} == {**report, "out": ""}


def test_every_kind_of_rows_keeps_its_structure(write, tmp_path):
    talk = {
        "messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yo", "weight": 0.5}],
        "id": 3,
    }
    pair = {"prompt": "Hi", "chosen": "Yes", "rejected": "No", "margin": 2}
    kto = {"prompt": "Hi", "completion": "Yes", "label": True}
    cls = {"text": "Fine", "label": "good"}
    for name, row, key in (
        ("a", talk, "messages"),
        ("b", pair, "chosen"),
        ("c", kto, "completion"),
        ("d", cls, "label"),
    ):
        clean(write(f"{name}.jsonl", [row, row]), [("exact", {})], out=tmp_path / name)
        (line,) = (tmp_path / name / "cleaned.jsonl").read_text().splitlines()
        assert key in json.loads(line)
        again = clean(tmp_path / name / "cleaned.jsonl", [("exact", {})], out=tmp_path / f"{name}2")
        assert again["kept"] == 1 and (tmp_path / f"{name}2" / "cleaned.jsonl").read_text() == line + "\n"


def test_nothing_is_written_where_no_row_is_left_or_a_row_cannot_be_used(write, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(UserError, match=r"no row is left after cleaning \(length 1; e.g. .*fewer than 9 words"):
        clean(write("d.jsonl", [{"text": "few"}]), [("length", {"min_words": 9})], out=out)
    with pytest.raises(UserError, match="cannot be used"):
        clean(write("e.jsonl", [{"text": "a"}, {"text": None}]), [("exact", {})], out=out)
    with pytest.raises(UserError, match="one kind at a time"):
        clean(
            [write("f.jsonl", [{"text": "a"}]), write("g.jsonl", [{"text": "b", "label": "x"}])],
            [("exact", {})],
            out=out,
        )
    assert list(out.iterdir()) == []
