"""Remote sources: SQLite and SQLAlchemy, a Hub data set's folder, an object store in memory; what goes wrong, in one line."""

from __future__ import annotations

import json
import sqlite3
from importlib.util import find_spec

import pytest

from bottega.core.errors import UserError
from bottega.core.types import Conversation, Document
from bottega.data.formats import samples
from bottega.data.remote import check, fingerprint, masked, places, records, remote
from bottega.data.report import check as check_data
from bottega.data.sources import Problem, read

needs_sql = pytest.mark.skipif(find_spec("sqlalchemy") is None, reason="needs the extra sql")
needs_hub = pytest.mark.skipif(find_spec("datasets") is None, reason="needs the extra hub")
TURNS = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yo"}]


@pytest.fixture
def base(tmp_path):
    """notes(id, text, day) of two rows, chats(messages) of one, an empty table and one with a broken text."""
    path = tmp_path / "no tes.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE notes (id INTEGER, text TEXT, price REAL)")
        connection.executemany("INSERT INTO notes VALUES (?, ?, ?)", [(1, "first: ä", 0.5), (2, "second", None)])
        connection.execute("CREATE TABLE chats (messages TEXT)")
        connection.execute("INSERT INTO chats VALUES (?)", [json.dumps(TURNS)])
        connection.execute("CREATE TABLE void (text TEXT)")
        connection.execute("CREATE TABLE broken (id INTEGER, text TEXT)")
        connection.execute("INSERT INTO broken VALUES (1, 'fine'), (2, CAST(x'61ff62' AS TEXT))")
    connection.close()
    return path


SCHEMES = ["sqlite", pytest.param("sqlite+pysqlite", marks=needs_sql)]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_query_and_a_table_give_samples(base, scheme):
    found = list(samples(f"{scheme}:///{base}#SELECT text, id FROM notes WHERE id > 0 ORDER BY id DESC -- all"))
    assert [sample.text for sample in found] == ["second", "first: ä"] and isinstance(found[0], Document)
    assert found[0].meta == {"id": 2} and found[1].where.row == 2
    (talk,) = samples(f"{scheme}:///{base}#chats")
    assert isinstance(talk, Conversation) and talk.turns[1].content == "Yo"
    assert [r["price"] for _, r in read(f"{scheme}:///{base}#notes")] == [0.5, None]


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("DELETE FROM notes", "begins with 'DELETE'; only SELECT"),
        ("PRAGMA table_info(notes)", "begins with 'PRAGMA'"),
        ("/* SELECT */ UPDATE notes SET id = 3", "begins with 'UPDATE'"),
        ("WITH x AS (SELECT 1) DELETE FROM notes", "only SELECT is run|cannot be read: attempt to write a readonly"),
        ("SELECT 1; DELETE FROM notes", "several statements|one statement at a time"),
        ("nots", "there is no table 'nots' in .*; it has broken, chats, notes, void"),
        ("SELECT * FROM nots", "no table 'nots'|no such table: nots"),
        ("SELECT txt FROM notes", "no column 'txt'|no such column: txt"),
        ("SELECT text FROM", "incomplete input"),
        ("SELECT id, id FROM notes", "two columns named 'id'"),
        ("SELECT text FROM notes WHERE id > 9", "holds no row"),
        ("void", "holds no row"),
        ("", "say which rows"),
    ],
)
def test_a_query_that_cannot_be_run_is_one_clear_line_and_changes_nothing(base, scheme, query, said):
    before = base.read_bytes()
    with pytest.raises(UserError, match=said) as caught:
        list(read(remote(f"{scheme}:///{base}", query=query)))
    assert "\n" not in str(caught.value) and base.read_bytes() == before


def test_a_text_that_is_no_utf8_is_a_problem_of_its_row(base):
    good, bad = (record for _, record in read(f"sqlite:///{base}#broken"))
    assert good == {"id": 1, "text": "fine"}
    assert isinstance(bad, Problem) and (bad.where.row, bad.where.column) == (2, "text")
    assert bad.reason == "byte 0xff at 2 is not utf-8 text"
    assert check_data(f"sqlite:///{base}#broken")["num_problems"] == 1


def test_a_missing_column_is_named_by_the_mapping_as_for_files(base):
    _, first = next(read(f"sqlite:///{base}#notes", columns={"text": "body"}))
    assert isinstance(first, Problem) and "there is no column 'body'" in first.reason


def test_a_file_that_is_no_database_or_not_there_is_said(tmp_path):
    (tmp_path / "x.db").write_text("this is no database, but long enough to be looked at as one" * 20)
    with pytest.raises(UserError, match="not a database"):
        list(read(f"sqlite:///{tmp_path / 'x.db'}#t"))
    with pytest.raises(UserError, match="there is no database file"):
        check(remote(f"sqlite:///{tmp_path / 'none.db'}#t"))
    assert not (tmp_path / "none.db").exists()


def test_a_changed_row_changes_the_fingerprint_and_an_equal_one_does_not(base):
    url = remote(f"sqlite:///{base}#notes")
    first = fingerprint(url)
    with sqlite3.connect(base) as connection:
        connection.execute("UPDATE notes SET text = text")
    assert fingerprint(url) == first
    with sqlite3.connect(base) as connection:
        connection.execute("UPDATE notes SET text = 'other' WHERE id = 2")
    assert fingerprint(url)[0][2] != first[0][2]


SECRET = "hunter2-very-secret"


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://me:{SECRET}@db.invalid/x#SELECT 1",
        f"postgresql+psycopg://me:{SECRET}@db.invalid/x#SELECT 1",
        f"gopher://me:{SECRET}@db.invalid/x",
        f"s3://bucket/x.jsonl?token={SECRET}",
        f"memory://a/none.jsonl?password={SECRET}",
        f"sqlite:///none.db?key={SECRET}#t",
    ],
)
def test_a_password_is_in_no_message(url, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError) as caught:
        list(read(url))
    assert SECRET not in str(caught.value) and SECRET not in repr(remote(url))
    assert SECRET not in masked(url)


@needs_sql
def test_a_driver_that_is_missing_is_named_and_the_password_is_not(monkeypatch):
    if find_spec("psycopg") or find_spec("psycopg2"):
        pytest.skip("a driver is installed")
    with pytest.raises(UserError, match="needs a driver; install it with: pip install psycopg") as caught:
        list(read(f"postgresql+psycopg://me:{SECRET}@localhost/x#SELECT 1"))
    assert SECRET not in str(caught.value)


def test_offline_nothing_of_the_network_is_opened(monkeypatch, base):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for url in ("s3://bucket/rows.jsonl", "gs://bucket", "postgresql://me@db.invalid/x#t"):
        with pytest.raises(UserError, match="--offline is set"):
            check(remote(url))
    check(remote(f"sqlite:///{base}#notes"))


def test_a_package_that_is_missing_is_named_with_its_extra(monkeypatch):
    monkeypatch.setattr("bottega.data.remote.find_spec", lambda name: None)
    for url, extra in (
        ("s3://b/x.jsonl", "s3"),
        ("gs://b/x.jsonl", "gcs"),
        ("hub://a/b", "hub"),
        ("mysql://a/b#t", "sql"),
    ):
        with pytest.raises(UserError, match=rf"pip install 'bottega\[{extra}\]'"):
            check(remote(url))


@pytest.fixture
def store():
    import fsspec

    system = fsspec.filesystem("memory")
    system.pipe("/shop/a.jsonl", b'{"text": "one"}\n{"text": broken}\n')
    system.pipe("/shop/deep/b.csv", b"text,id\ntwo,2\n")
    system.pipe("/shop/.hidden/c.jsonl", b'{"text": "no"}\n')
    system.pipe("/shop/notes.bin", b"\x00")
    yield system
    system.rm("/shop", recursive=True)


def test_a_folder_of_an_object_store_is_read_file_by_file_with_its_addresses(store):
    found = list(samples("memory://shop"))
    assert [item.text for item in found if not isinstance(item, Problem)] == ["one", "two"]
    (problem,) = (item for item in found if isinstance(item, Problem))
    assert str(problem).startswith("memory://") and "a.jsonl:2: broken JSON" in str(problem)
    assert [str(place).rpartition("/")[2] for place in places(remote("memory://shop"))] == ["a.jsonl", "b.csv"]
    first = fingerprint(remote("memory://shop/a.jsonl"))
    assert first[0][1] == 33
    store.pipe("/shop/a.jsonl", b'{"text": "two"}\n{"text": broken}\n')
    assert fingerprint(remote("memory://shop/a.jsonl"))[0][2] != first[0][2]


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("memory://shop/none.jsonl", "there is nothing at this address"),
        ("memory://shop/notes.bin", "has the suffix '.bin'"),
        ("memory://shop/a.jsonl#SELECT 1", "a query is for databases"),
        ("ftp://host/x", "the scheme 'ftp', which is not read; known: sqlite://"),
    ],
)
def test_what_an_object_store_does_not_have_is_one_line(store, url, said):
    with pytest.raises(UserError, match=said):
        list(read(url))


def test_empty_files_of_an_object_store_hold_no_row(store):
    store.pipe("/shop/a.jsonl", b"")
    with pytest.raises(UserError, match="holds no row"):
        list(read("memory://shop/a.jsonl"))


@needs_hub
def test_a_folder_laid_out_like_a_hub_data_set_is_read_by_split(tmp_path):
    (tmp_path / "train.jsonl").write_text('{"text": "a"}\n{"text": "b"}\n')
    (tmp_path / "test.jsonl").write_text('{"text": "c"}\n')
    assert [s.text for s in samples(f"hub://{tmp_path}")] == ["a", "b"]
    assert [s.text for s in samples(f"hub://{tmp_path}?split=test")] == ["c"]
    first = fingerprint(remote(f"hub://{tmp_path}"))
    (tmp_path / "train.jsonl").write_text('{"text": "a"}\n{"text": "x"}\n')
    assert fingerprint(remote(f"hub://{tmp_path}"))[0][2] != first[0][2]
    for url, said in ((f"hub://{tmp_path}?split=tset", "tset"), (f"hub://{tmp_path}?splt=a", "no option 'splt'")):
        with pytest.raises(UserError, match=said):
            list(records(remote(url)))


@needs_hub
def test_a_folder_that_is_not_there_is_no_data_set():
    with pytest.raises(UserError, match="there is no folder /nowhere/at/all"):
        list(read("hub:///nowhere/at/all"))
