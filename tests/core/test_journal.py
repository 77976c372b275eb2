"""The journal: an answer is there whole or not at all, and a damaged file is said."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys

import pytest

from bottega.core.errors import DiskFull, Unsafe
from bottega.core.journal import Answer, Journal, Spent, key


def test_an_answer_comes_back_and_the_sums_are_kept(tmp_path):
    with Journal(tmp_path / "j.sqlite") as journal:
        name = key("m", "r", [["user", "hi"]], {"temperature": 0.5}, 7)
        assert journal.get(name) is None
        journal.put(name, Answer("hello ä \x00", "stop", 5, 3))
        journal.put(key("m", "r", "x", {}, 0), Answer("other", "length", 1, 2))
        assert journal.spent() == Spent(2, 6, 5)
    with Journal(tmp_path / "j.sqlite") as journal:
        assert journal.get(name) == Answer("hello ä \x00", "stop", 5, 3)


def test_a_key_depends_on_each_of_its_parts_and_on_no_order_of_names():
    parts = dict(model="m", revision="r", prompt=["p"], sampling={"a": 1, "b": 2.0}, seed=1)
    base = key(**parts)
    others = [{"model": "n"}, {"revision": "s"}, {"prompt": ["q"]}, {"sampling": {"a": 1}}, {"seed": 2}]
    assert len({base, *(key(**{**parts, **other}) for other in others)}) == 6
    assert key(**{**parts, "sampling": {"b": 2.0, "a": 1}}) == base


def test_a_fact_is_written_once(tmp_path):
    with Journal(tmp_path / "j.sqlite") as journal:
        assert journal.fact("began", "2026-01-01") == journal.fact("began", "2027-01-01") == "2026-01-01"


def test_what_was_put_survives_a_kill(tmp_path):
    """The child is killed right after its third `put` returned: three answers are there."""
    script = (
        "import os, sys\nfrom bottega.core.journal import Answer, Journal\n"
        "journal = Journal(sys.argv[1])\n"
        "for number in range(3): journal.put(bytes([number]), Answer(f'answer {number}'))\n"
        f"os.kill(os.getpid(), {int(signal.SIGKILL)})"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path / "j.sqlite")], env=os.environ)
    assert done.returncode == -signal.SIGKILL
    with Journal(tmp_path / "j.sqlite") as journal:
        assert [journal.get(bytes([n])).text for n in range(3)] == ["answer 0", "answer 1", "answer 2"]


def test_damage_and_later_versions_are_refused(tmp_path):
    path = tmp_path / "j.sqlite"
    path.write_bytes(b"this is no database, but text that is long enough to be read as one" * 20)
    with pytest.raises(Unsafe, match="damaged"):
        Journal(path)
    path.unlink()
    Journal(path).close()
    with sqlite3.connect(path) as db:
        db.execute("UPDATE facts SET value = '9' WHERE name = 'schema'")
    db.close()
    with pytest.raises(Unsafe, match="schema 9"):
        Journal(path)


def test_a_folder_that_is_a_file_is_said(tmp_path):
    (tmp_path / "j.sqlite").mkdir()
    with pytest.raises(DiskFull, match="unable to open"):
        Journal(tmp_path / "j.sqlite")
