"""The store keeps what people say: once each, in order, for good; bad inputs are refused with their reason.

Left out: PostgreSQL (test_postgres.py), the pages (tests/studio).
"""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import textwrap
import threading

import pytest

from bottega.core.errors import Mismatch, Unsafe, UserError
from bottega.core.types import Conversation, Labelled, Preference
from bottega.data.formats import samples
from bottega.store import feedback, people, queue
from bottega.store.backup import backup, is_backup, restore
from bottega.store.kinds import Settings
from bottega.store.rows import export
from bottega.store.schema import open_store
from bottega.workshop.feedback import export_rows, import_items, priority
from bottega.workshop.feedback_stats import project_stats, stats, stats_text
from tests.studio.served import a_project, key, pair, somebody

ITEMS = {
    "rate": {"prompt": [{"role": "user", "content": "q"}], "answers": ["fine"]},
    "edit": {"prompt": [{"role": "user", "content": "q"}], "answers": ["was"]},
    "class": {"text": "buy now"},
    "span": {"words": ["Anna", "Rossi", "sang"]},
    "write": {"prompt": [{"role": "user", "content": "q"}]},
    "compare": pair(),
}
SETTINGS = {"class": {"labels": ("spam", "ham")}, "span": {"labels": ("person",)}}
SAID = {
    "rate": {"score": 5},
    "edit": {"text": "is"},
    "class": {"labels": ["spam"]},
    "span": {"spans": [[0, 1, "person"]]},
    "write": {"text": "an answer"},
    "compare": {"choice": 1},
}


@pytest.fixture
def db(tmp_path):
    store = open_store(tmp_path / "kept" / "feedback.db")
    yield store
    store.close()


def asked(db, kind="compare", count=1, **settings):
    of = a_project(db, kind, **(SETTINGS.get(kind, {}) | settings))
    items = [pair(n) for n in range(count)] if kind == "compare" else [ITEMS[kind]]
    return of, queue.put(db, of, items)


def test_a_double_click_is_one_row_and_another_answer_under_the_same_key_is_refused(db):
    of, (item,) = asked(db)
    anna, _ = somebody(db)
    again = key()
    assert feedback.answer(db, of, anna, item, {"choice": 0, "seconds": 1}, again)
    assert not feedback.answer(db, of, anna, item, {"choice": 0, "seconds": 1.4}, again)
    with pytest.raises(Mismatch, match="already there"):
        feedback.answer(db, of, anna, item, {"choice": 1}, again)
    assert len(feedback.since(db, of)[0]) == 1


def test_the_log_is_append_only_by_the_database_itself(db):
    of, (item,) = asked(db)
    feedback.answer(db, of, somebody(db)[0], item, {"choice": 0}, key())
    for change in ("DELETE FROM events", "UPDATE events SET body = '{}'"):
        with pytest.raises(sqlite3.IntegrityError, match="append-only"), db.write() as run:
            run(change)
    assert len(feedback.since(db, of)[0]) == 1


def test_undo_brings_the_item_back_with_what_was_said_and_both_events_stay(db):
    of, items = asked(db, count=2)
    anna, _ = somebody(db)
    first = queue.ask(db, of, anna).item
    feedback.answer(db, of, anna, first, {"choice": 1, "reason": "clear"}, key())
    assert queue.ask(db, of, anna).item != first
    once = key()
    assert feedback.undo(db, of, anna, once) == feedback.undo(db, of, anna, once) == first
    again = queue.ask(db, of, anna)
    assert again.item == first and again.before == {"choice": 1, "reason": "clear"}
    assert [event.kind for event in feedback.since(db, of)[0]] == ["answer", "undo"]
    assert feedback.undo(db, of, anna, key()) is None


def test_one_answer_an_item_means_that_two_people_see_different_items(db):
    of, items = asked(db, count=3)
    people_here = [somebody(db, name)[0] for name in ("anna", "ben", "cleo", "dora")]
    seen = [queue.ask(db, of, who) for who in people_here]
    assert sorted(one.item for one in seen[:3]) == sorted(items) and seen[3] is None
    assert queue.ask(db, of, people_here[0]).item == seen[0].item  # reloading shows the same
    feedback.skip(db, of, people_here[0], seen[0].item, key(), reason="not for me")
    assert queue.ask(db, of, people_here[3]).item == seen[0].item and queue.ask(db, of, people_here[0]) is None


def test_higher_priority_comes_first_and_can_change_while_people_answer(db):
    of = a_project(db)
    ids = queue.put(db, of, [pair(0), pair(1), pair(2)], priorities=[0.1, 0.9, 0.5])
    assert [item for item, _ in queue.open_items(db, of)] == [ids[1], ids[2], ids[0]]
    queue.prioritise(db, {ids[0]: 2.0})
    assert queue.ask(db, of, somebody(db)[0]).item == ids[0]
    with pytest.raises(UserError, match="finite"):
        queue.prioritise(db, {ids[0]: float("nan")})


def test_priority_is_what_a_choice_would_tell():
    """Margin 0: ln 2 = 0.6931; margin ln 3: shares 3/4, 1/4: 0.5623; two models at +-ln 3: 0.6931 - 0.5623 = 0.1308."""
    assert round(priority({"scores": [1.0, 1.0]}), 4) == 0.6931
    assert round(priority({"scores": [1.0986123, 0]}), 4) == 0.5623
    assert round(priority({"scores": [[1.0986123, 0], [0, 1.0986123]]}), 4) == 0.1308
    assert priority({"text": "x"}) is None
    with pytest.raises(UserError, match="two numbers"):
        priority({"scores": ["high", "low"]})


def test_sides_are_blind_half_are_swapped_and_a_person_always_sees_the_same():
    swapped = [queue.is_swapped(f"item{n}", "anna") for n in range(400)]
    assert 160 < sum(swapped) < 240 and swapped == [queue.is_swapped(f"item{n}", "anna") for n in range(400)]


def test_gold_questions_come_at_their_rate_and_count_only_for_the_person(db):
    of = a_project(db, gold_every=3)
    queue.put(db, of, [pair(n) for n in range(20)])
    gold = queue.put(db, of, [pair(n) | {"gold": {"choice": 0}} for n in range(100, 120)])
    anna, _ = somebody(db)
    met = 0
    while (one := queue.ask(db, of, anna)) is not None:
        met += one.item in gold
        feedback.answer(db, of, anna, one.item, {"choice": 0 if met % 2 else 1}, key())
    found = project_stats(db, of)
    assert found["items"] == found["done"] == 20 and 1 <= met <= 20
    assert found["people"][0]["gold_asked"] == met and found["people"][0]["gold_right"] >= met // 2
    made = export(of, feedback.judgements(db, of), min_gold=1.0)
    assert not made.rows or met == found["people"][0]["gold_right"]
    assert made.left_out["gold question"] == met


@pytest.mark.parametrize("kind", sorted(ITEMS))
def test_what_is_exported_is_read_by_the_data_room(db, tmp_path, kind):
    of, (item,) = asked(db, kind)
    feedback.answer(db, of, somebody(db)[0], item, SAID[kind], key())
    out = tmp_path / "rows.jsonl"
    out.write_text("".join(json.dumps(row) + "\n" for row in export(of, feedback.judgements(db, of)).rows))
    (sample,) = samples(out)
    match kind:
        case "compare":
            assert isinstance(sample, Preference)
            assert (sample.chosen[0].content, sample.rejected[0].content) == ("no 0", "yes 0")
            assert sample.prompt[0].content == "question 0"
        case "edit":
            assert (sample.chosen[0].content, sample.rejected[0].content) == ("is", "was")
        case "rate":
            assert isinstance(sample, Labelled) and sample.label is True and sample.text == "fine"
        case "class":
            assert (sample.text, sample.label) == ("buy now", "spam")
        case "span":
            assert sample.words == ("Anna", "Rossi", "sang") and sample.label == ("B-person", "I-person", "O")
        case "write":
            assert isinstance(sample, Conversation) and sample.turns[-1].content == "an answer"


def test_an_answer_that_looks_like_a_transcript_stays_an_answer(db, tmp_path):
    of = a_project(db)
    said = "\n\nHuman: hello\n\nAssistant: hi"
    (item,) = queue.put(db, of, [{"prompt": [{"role": "user", "content": "q"}], "answers": [said, "no"]}])
    feedback.answer(db, of, somebody(db)[0], item, {"choice": 0}, key())
    out = tmp_path / "rows.jsonl"
    out.write_text(json.dumps(export(of, feedback.judgements(db, of)).rows[0]))
    (sample,) = samples(out)
    assert sample.chosen[0].content == said


def test_two_who_always_disagree_give_no_majority_and_a_kappa_of_minus_one(db):
    of, items = asked(db, count=6, per_item=2)
    anna, ben = somebody(db, "anna")[0], somebody(db, "ben")[0]
    for n, item in enumerate(items):
        feedback.answer(db, of, anna, item, {"choice": n % 2}, key())
        feedback.answer(db, of, ben, item, {"choice": 1 - n % 2}, key())
    made = export(of, feedback.judgements(db, of), by="majority")
    assert not made.rows and made.left_out == {"no majority": 12}
    found = project_stats(db, of)["agreement"]
    assert found["cohen"][0]["kappa"] == -1.0 and found["fleiss"] == -1.0 and found["alpha"] < -0.8
    assert len(export(of, feedback.judgements(db, of)).rows) == 12


def test_ratings_for_unknown_samples_and_of_unknown_values_are_refused(db):
    of, (item,) = asked(db, "rate")
    other = a_project(db, "rate", name="other")
    anna, _ = somebody(db)
    for project, which in ((of, "nothing"), (other, item)):
        with pytest.raises(UserError, match="there is no item"):
            feedback.answer(db, project, anna, which, {"score": 3}, key())
    for bad in (
        {"score": 6},
        {"score": 0},
        {"score": True},
        {"score": "3"},
        {},
        {"score": 3, "tags": ["?"]},
        "five",
        None,
    ):
        with pytest.raises(UserError):
            feedback.answer(db, of, anna, item, bad, key())
    with pytest.raises(UserError, match="no key"):
        feedback.answer(db, of, anna, item, {"score": 3}, "short")
    assert feedback.since(db, of) == ([], 0)


@pytest.mark.parametrize(
    "kind, item, words",
    [
        ("compare", {"answers": ["same", "same"]}, "nothing to compare"),
        ("compare", {"answers": ["one"]}, "list of 2"),
        ("class", {"text": "   "}, "empty"),
        ("class", {"text": "x" * 100_001}, "at most 100,000"),
        ("span", {"words": []}, "list of 1"),
        ("span", {"words": ["a"], "given": {"spans": [[0, 1, "person"]]}}, "from 0 to 0"),
        ("write", {"prompt": [{"role": "user"}]}, "content"),
        ("rate", {"answers": [7]}, "object with text"),
    ],
)
def test_items_that_cannot_be_asked_are_refused_by_name(db, kind, item, words):
    of = a_project(db, kind, **SETTINGS.get(kind, {}))
    with pytest.raises(UserError, match=words):
        queue.put(db, of, [item])


def test_an_id_names_one_text_for_good(db):
    of = a_project(db, "class", **SETTINGS["class"])
    first = queue.put(db, of, [{"id": 7, "text": "a"}])
    assert queue.put(db, of, [{"id": 7, "text": "a"}]) == first
    with pytest.raises(Mismatch, match="used before"):
        queue.put(db, of, [{"id": 7, "text": "b"}])


def test_a_backup_comes_back_whole_and_a_changed_one_is_refused(db, tmp_path):
    of, items = asked(db, count=3)
    anna, token = somebody(db)
    feedback.answer(db, of, anna, items[0], {"choice": 0, "reason": "ä \u2028 \x00"}, key())
    path = tmp_path / "backup.jsonl"
    counts = backup(db, path)
    assert is_backup(path) and counts["events"] == 1 and stat.S_IMODE(path.stat().st_mode) == 0o600
    fresh = open_store(tmp_path / "fresh.db")
    assert restore(fresh, path) == counts
    assert feedback.judgements(fresh, of) == feedback.judgements(db, of)
    assert people.by_token(fresh, token) == anna
    feedback.answer(fresh, of, anna, items[1], {"choice": 0}, key())  # numbers go on
    with pytest.raises(Mismatch, match="not empty"):
        restore(fresh, path)
    for broken in (path.read_bytes()[:-200], path.read_bytes().replace(b"clear", b"CLEAR").replace(b"yes 0", b"yEs 0")):
        path.write_bytes(broken)
        with pytest.raises(Unsafe, match="sha256"):
            restore(open_store(tmp_path / "third.db"), path)


def test_files_are_for_their_owner_only_whatever_the_umask(tmp_path):
    before = os.umask(0)
    try:
        db = open_store(tmp_path / "new" / "feedback.db")
        somebody(db)
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "new").iterdir()}
        assert set(modes.values()) == {0o600} and stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o700
        db.close()
    finally:
        os.umask(before)


def test_tokens_are_nowhere_in_the_database(db, tmp_path):
    _, token = somebody(db)
    cookie = people.enter(db, token)
    assert people.session(db, cookie).who.name == "anna" and people.enter(db, "wrong") is None
    everything = b"".join(path.read_bytes() for path in (tmp_path / "kept").iterdir())
    assert token.encode() not in everything and cookie.encode() not in everything
    people.revoke(db, people.by_token(db, token).id)
    assert people.by_token(db, token) is None and people.session(db, cookie) is None


def test_a_file_that_is_no_store_and_a_newer_store_are_named(tmp_path):
    (tmp_path / "text.db").write_text("not a database, " * 100)
    with pytest.raises(Unsafe, match="damaged or no SQLite file"):
        open_store(tmp_path / "text.db")
    db = open_store(tmp_path / "new.db")
    with db.write() as run:
        run("INSERT INTO versions VALUES (99, 0)")
    with pytest.raises(Mismatch, match="update bottega"):
        open_store(tmp_path / "new.db")
    with pytest.raises(UserError, match="no store"):
        open_store("mysql://host/name")


def test_two_hundred_writers_at_once_lose_nothing_and_see_no_lock(db):
    of, items = asked(db, count=200, per_item=100)
    crowd = [somebody(db, f"p{n}")[0] for n in range(20)]
    errors = []
    gate = threading.Barrier(200)

    def write(n):
        gate.wait()
        try:
            feedback.answer(db, of, crowd[n % 20], items[n], {"choice": n % 2}, f"writer-{n:04d}")
        except Exception as error:  # noqa: BLE001  whatever it is, the test names it
            errors.append(error)

    threads = [threading.Thread(target=write, args=(n,)) for n in range(200)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    events, _ = feedback.since(db, of)
    assert {event.id for event in events} == {f"writer-{n:04d}" for n in range(200)}


def test_who_polls_while_others_write_sees_every_event_once_and_in_order(db):
    of, items = asked(db, count=60, per_item=2)
    crowd = [somebody(db, f"p{n}")[0] for n in range(4)]

    def write(who):
        for item in items[:30]:
            feedback.answer(db, of, who, item, {"choice": 0}, key())

    threads = [threading.Thread(target=write, args=(who,)) for who in crowd]
    for thread in threads:
        thread.start()
    seen, cursor = [], 0
    while any(thread.is_alive() for thread in threads) or len(seen) < 120:
        events, cursor = feedback.since(db, of, cursor, limit=7)
        seen += [event.seq for event in events]
        assert len(seen) <= 120
    assert seen == sorted(set(seen)) and len(seen) == 120


def test_processes_write_into_one_file_and_a_killed_one_keeps_what_it_said_it_kept(tmp_path):
    """Eight processes of 25 answers each; one is killed with SIGKILL as soon as it has said `kept` for the first time."""
    store = tmp_path / "f.db"
    db = open_store(store)
    of, items = asked(db, count=25, per_item=100)
    for n in range(8):
        somebody(db, f"p{n}")
    script = textwrap.dedent(
        """
        import sys
        from bottega.store import feedback, people, queue
        from bottega.store.schema import open_store
        db = open_store(sys.argv[1])
        of = queue.project(db, "p")
        who = next(one for one in people.everybody(db) if one.name == sys.argv[2])
        for n, (item, _) in enumerate(queue.open_items(db, of)):
            feedback.answer(db, of, who, item, {"choice": 0}, f"{who.name}-event-{n}")
            print(f"{who.name}-event-{n}", flush=True)
        """
    )
    started = [
        subprocess.Popen([sys.executable, "-c", script, str(store), f"p{n}"], stdout=subprocess.PIPE, text=True)
        for n in range(8)
    ]
    said = [started[0].stdout.readline().strip()]
    started[0].send_signal(signal.SIGKILL)
    for process in started:
        said += process.communicate(timeout=120)[0].split()
    assert [process.returncode for process in started[1:]] == [0] * 7
    kept = {event.id for event in feedback.since(db, of)[0]}
    assert set(said) <= kept and len(kept) >= 7 * 25 + 1


def test_pairs_go_in_and_come_out_by_the_verbs(tmp_path):
    store, data, out = str(tmp_path / "f.db"), tmp_path / "pairs.jsonl", tmp_path / "out.jsonl"
    rows = [{"prompt": f"q{n}", "chosen": "good", "rejected": "bad"} for n in range(3)]
    data.write_text("".join(json.dumps(row) + "\n" for row in [*rows, {"prompt": "q", "chosen": "x", "rejected": "x"}]))
    done = import_items([str(data)], store=store, project="p", kind="compare", reasons=("polite",))
    assert (done["added"], done["problems"], done["exit_code"]) == (3, 1, 9) and "nothing to prefer" in done[
        "first_problems"
    ][0]
    assert import_items([str(data)], store=store, project="p")["added"] == 0
    with pytest.raises(UserError, match="nobody answered yet"):
        export_rows(store=store, project="p", out=str(out))
    db = open_store(store)
    of, (anna, _) = queue.project(db, "p"), somebody(db)
    for item, _ in queue.open_items(db, of):
        feedback.answer(db, of, anna, item, {"choice": 0, "tags": ["polite"]}, key())
    assert export_rows(store=store, project="p", out=str(out))["rows"] == 3
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    assert all(sample.chosen[0].content == "good" for sample in samples(out))
    text = stats_text(stats(store=store))
    assert "3 of 3 items" in text and "chosen: 3" in text and "anna" in text
    copy = tmp_path / "copy.jsonl"
    export_rows(store=store, out=str(copy), whole=True)
    assert import_items([str(copy)], store=str(tmp_path / "g.db"))["restored"]["events"] == 3


def test_labelled_rows_bring_their_labels_as_proposals(tmp_path):
    data = tmp_path / "mails.jsonl"
    data.write_text('{"text": "buy", "label": "spam"}\n{"text": "hello", "label": "ham"}\n')
    import_items([str(data)], store=str(tmp_path / "f.db"), project="mails", kind="class")
    db = open_store(tmp_path / "f.db")
    of = queue.project(db, "mails")
    assert of.settings.labels == ("ham", "spam")
    assert queue.open_items(db, of)[0][1]["given"] == {"labels": ["spam"]}


def test_ratings_become_pairs_of_the_best_against_the_lower(db):
    of = a_project(db, "rate")
    prompt = [{"role": "user", "content": "q"}]
    items = queue.put(db, of, [{"prompt": prompt, "answers": [text]} for text in ("a", "b", "c")])
    anna, _ = somebody(db)
    for item, score in zip(items, (5, 2, 5)):
        feedback.answer(db, of, anna, item, {"score": score}, key())
    (row,) = export(of, feedback.judgements(db, of), shape="pairs").rows
    assert (row["chosen"][0]["content"], row["rejected"][0]["content"], row["margin"]) == ("a", "b", 3)


def test_a_project_keeps_its_kind_and_settings_are_checked(db):
    a_project(db, "rate")
    with pytest.raises(Mismatch, match="asks for rate"):
        a_project(db, "edit")
    for settings in ({"scale": 1}, {"per_item": 0}, {"tags": ("a", "a")}, {"instructions": "x" * 200_000}):
        with pytest.raises(UserError):
            a_project(db, "rate", name="other", **settings)
    with pytest.raises(UserError, match="needs labels"):
        queue.open_project(db, "other", "class", Settings())
