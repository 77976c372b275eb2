"""The store in PostgreSQL, against a real server that each run starts in a folder of its own and ends.

Left out: installing it (tests/servers.sh); the tests skip by name where there is none.
"""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import threading
from pathlib import Path

import pytest

from bottega.core.errors import UserError
from bottega.store import feedback, people, queue
from bottega.store.backup import backup, restore
from bottega.store.schema import open_store
from tests.studio.served import a_project, key, pair, somebody

pytestmark = pytest.mark.slow


def _tool(name):
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}")) if Path("/usr/lib/postgresql").is_dir() else []
    return str(found[-1]) if found else shutil.which(name)


@pytest.fixture(scope="module")
def server():
    """The URL of a server on a free port, and a function that makes another empty database on it."""
    pytest.importorskip("psycopg")
    initdb, pg_ctl = _tool("initdb"), _tool("pg_ctl")
    if not initdb or not pg_ctl:
        pytest.skip("PostgreSQL is not installed (tests/servers.sh installs it)")
    as_user = {}
    if os.getuid() == 0:  # the server refuses to run as root
        try:
            pwd.getpwnam("postgres")
        except KeyError:
            pytest.skip("there is no user postgres to run the server as")
        as_user = {"user": "postgres", "group": "postgres", "extra_groups": []}
    folder = Path(tempfile.mkdtemp(prefix="bottega-pg-"))
    if as_user:
        shutil.chown(folder, "postgres", "postgres")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    def run(*words):
        subprocess.run(words, check=True, cwd=folder, stdout=subprocess.DEVNULL, timeout=120, **as_user)

    run(initdb, "-D", str(folder / "data"), "-U", "bottega", "--auth=trust", "-E", "UTF8")
    options = f"-p {port} -h 127.0.0.1 -k {folder}"
    run(pg_ctl, "-D", str(folder / "data"), "-o", options, "-l", str(folder / "log"), "-w", "start")
    base = f"postgresql://bottega@127.0.0.1:{port}"
    import psycopg

    def fresh(name):
        with psycopg.connect(f"{base}/postgres", autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return f"{base}/{name}"

    try:
        yield fresh, lambda: run(pg_ctl, "-D", str(folder / "data"), "-m", "immediate", "-w", "restart")
    finally:
        run(pg_ctl, "-D", str(folder / "data"), "-m", "immediate", "stop")
        shutil.rmtree(folder)


def test_two_hundred_writers_at_once_and_a_reader_that_polls_lose_nothing(server):
    db = open_store(server[0]("crowd"))
    of = a_project(db, per_item=100)
    items = queue.put(db, of, [pair(n) for n in range(200)])
    crowd = [somebody(db, f"p{n}")[0] for n in range(20)]
    errors, gate = [], threading.Barrier(200)

    def write(n):
        gate.wait()
        try:
            feedback.answer(db, of, crowd[n % 20], items[n], {"choice": n % 2}, f"writer-{n:04d}")
        except Exception as error:  # noqa: BLE001  whatever it is, the test names it
            errors.append(error)

    threads = [threading.Thread(target=write, args=(n,)) for n in range(200)]
    for thread in threads:
        thread.start()
    seen, cursor = [], 0
    while any(thread.is_alive() for thread in threads):
        events, cursor = feedback.since(db, of, cursor)
        seen += events
    seen += feedback.since(db, of, cursor)[0]
    assert not errors
    assert [event.seq for event in seen] == sorted(event.seq for event in seen)
    assert sorted(event.id for event in seen) == [f"writer-{n:04d}" for n in range(200)]


def test_everything_a_person_does_works_as_in_sqlite(server):
    import psycopg

    db = open_store(server[0]("person"))
    assert open_store(db_url := server[0]("again")).name == db_url  # made once, opened again
    open_store(db_url)
    of = a_project(db, gold_every=1)
    queue.put(db, of, [pair(0), pair(1)], priorities=[0.0, 1.0])
    queue.put(db, of, [pair(9) | {"gold": {"choice": 0}}])
    anna, token = somebody(db)
    cookie = people.enter(db, token)
    assert people.session(db, cookie).who == anna
    again = key()
    first = queue.ask(db, of, anna)
    assert feedback.answer(db, of, anna, first.item, {"choice": 0, "reason": "ä \x00"}, again)
    assert not feedback.answer(db, of, anna, first.item, {"choice": 0, "reason": "ä \x00"}, again)
    assert feedback.judgements(db, of)[0].gold == {"choice": 0}
    assert feedback.undo(db, of, anna, key()) == first.item and queue.ask(db, of, anna).before["reason"] == "ä \x00"
    with pytest.raises(psycopg.errors.RaiseException, match="append-only"), db.write() as run:
        run("DELETE FROM events")
    people.revoke(db, anna.id)
    assert people.session(db, cookie) is None


def test_a_backup_goes_from_sqlite_to_postgresql_and_back(server, tmp_path):
    small = open_store(tmp_path / "f.db")
    of = a_project(small)
    items = queue.put(small, of, [pair(n) for n in range(3)])
    anna, _ = somebody(small)
    feedback.answer(small, of, anna, items[0], {"choice": 1}, key())
    backup(small, tmp_path / "one.jsonl")
    large = open_store(server[0]("moved"))
    restore(large, tmp_path / "one.jsonl")
    feedback.answer(large, of, anna, items[1], {"choice": 0}, key())  # its counter went on after the restored rows
    queue.put(large, of, [pair(7)])
    backup(large, tmp_path / "two.jsonl")
    back = open_store(tmp_path / "g.db")
    restore(back, tmp_path / "two.jsonl")
    assert feedback.judgements(back, of) == feedback.judgements(large, of)
    assert feedback.progress(back, of).items == 4


def test_what_was_kept_outlives_a_server_that_is_cut_off_and_the_store_goes_on(server):
    """`immediate` is PostgreSQL's own kill: nothing is written out, it recovers from its log."""
    fresh, cut_off = server
    db = open_store(fresh("cut"))
    of = a_project(db)
    items = queue.put(db, of, [pair(n) for n in range(2)])
    anna, _ = somebody(db)
    feedback.answer(db, of, anna, items[0], {"choice": 1}, "kept-for-good")
    cut_off()
    with pytest.raises(UserError, match="does not answer"):  # the connection that was open is gone; the next is new
        feedback.since(db, of)
    assert [event.id for event in feedback.since(db, of)[0]] == ["kept-for-good"]


def test_a_server_that_is_not_there_is_named_without_its_password():
    with pytest.raises(UserError, match="does not answer") as said:
        open_store("postgresql://anna:secret@127.0.0.1:1/none")
    assert "secret" not in str(said.value)
