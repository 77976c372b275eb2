"""Files that survive: atomic writes, manifests, publishing, locks, full disks, torn lines."""

import json
import os
import subprocess
import sys

import pytest

from bottega.core import rundir
from bottega.core.errors import DiskFull, FolderInUse, Unsafe


def test_an_atomic_write_leaves_the_new_content_and_nothing_else(tmp_path):
    rundir.atomic_write(tmp_path / "a" / "b.txt", "old")
    rundir.atomic_write(tmp_path / "a" / "b.txt", b"new")
    assert (tmp_path / "a" / "b.txt").read_text() == "new"
    assert os.listdir(tmp_path / "a") == ["b.txt"]


LIMITED = """
import resource, sys
from bottega.core import rundir
from bottega.core.errors import DiskFull
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    rundir.atomic_write(sys.argv[1], b"x" * 1_000_000)
except DiskFull as full:
    print(full)
    sys.exit(full.exit_code)
"""


def test_a_disk_that_takes_no_more_is_exit_7_and_the_old_file_stays(tmp_path):
    path = tmp_path / "state.bin"
    path.write_bytes(b"old")
    done = subprocess.run([sys.executable, "-c", LIMITED, str(path)], capture_output=True, text=True)
    assert done.returncode == 7 and "free some space" in done.stdout
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["state.bin"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
def test_no_space_left_is_a_full_disk():
    with (
        pytest.raises(DiskFull, match="No space left"),
        rundir.disk_errors("/dev/full"),
        open("/dev/full", "w") as file,
    ):
        file.write("x")


def test_a_manifest_names_what_changed_with_both_hashes_and_what_is_missing(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "w.bin").write_bytes(b"\x00" * 100)
    (tmp_path / "c.json").write_text("{}")
    rundir.write_manifest(tmp_path)
    assert rundir.verify_manifest(tmp_path) == []
    before = rundir.sha256(tmp_path / "model" / "w.bin")
    (tmp_path / "model" / "w.bin").write_bytes(b"\x00" * 99 + b"\x01")
    (tmp_path / "c.json").unlink()
    problems = rundir.verify_manifest(tmp_path)
    assert len(problems) == 2 and "c.json is missing" in problems[0]
    assert before in problems[1] and rundir.sha256(tmp_path / "model" / "w.bin") in problems[1]


def test_a_folder_without_a_manifest_was_never_finished(tmp_path):
    assert "never finished" in rundir.verify_manifest(tmp_path)[0]


def test_a_manifest_cannot_point_outside_its_folder(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "secret").write_text("x")
    manifest = {"schema": 1, "files": {"../secret": {"bytes": 1, "sha256": rundir.sha256(tmp_path / "secret")}}}
    rundir.write_json(tmp_path / "in" / rundir.MANIFEST, manifest)
    assert "outside" in rundir.verify_manifest(tmp_path / "in")[0]


def test_publishing_replaces_a_folder_whole(tmp_path):
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_text(name)
    rundir.publish(tmp_path / "new", tmp_path / "old")
    assert os.listdir(tmp_path) == ["old"] and os.listdir(tmp_path / "old") == ["new"]


def test_what_a_killed_process_left_is_swept_and_a_folder_moved_aside_comes_back(tmp_path):
    """A process that has ended; this one's number (a container gives the same again); process 1, which lives."""
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    for name in (f".run.json.{dead.pid}.tmp", f".run.json.{os.getpid()}.tmp", ".run.json.1.tmp", ".hidden"):
        (tmp_path / name).write_text("half")
    for name in (f".result.{dead.pid}.old", ".step-0000002.draft", ".cache.gone", f".there.{dead.pid}.old", "there"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "w").write_text(name)
    rundir.sweep(tmp_path)
    assert sorted(os.listdir(tmp_path)) == [".hidden", ".run.json.1.tmp", "result", "there"]
    assert (tmp_path / "there" / "w").read_text() == "there"


def test_a_folder_that_cannot_be_replaced_comes_back(tmp_path):
    """A folder cannot be renamed into itself: the rename fails after the old one has been moved aside."""
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "w").write_text("old")
    with pytest.raises(OSError, match="Invalid argument"):
        rundir.publish(tmp_path / "a", tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b" / "w").read_text() == "old" and os.listdir(tmp_path / "a") == ["b"]


HOLD = """
import sys, time
from bottega.core import rundir
with rundir.lock(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.readline()
"""


def test_a_second_process_is_told_who_holds_the_folder_and_a_dead_holder_is_replaced(tmp_path):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(FolderInUse, match=f"process {holder.pid} "), rundir.lock(tmp_path):
        pass
    holder.kill()
    holder.wait()
    with rundir.lock(tmp_path):
        pass


def test_a_torn_last_line_is_dropped_before_more_is_appended(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"st')
    assert rundir.read_jsonl(path) == [{"step": 1}, {"step": 2}]
    with rundir.append_jsonl(path) as log:
        log.write({"step": 3, "loss": float("nan")})
    assert rundir.read_jsonl(path)[-1] == {"step": 3, "loss": None}
    rundir.trim_jsonl(path, lambda line: line["step"] <= 2)
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2]


def test_json_that_is_no_longer_json_is_damage_and_not_a_traceback(tmp_path):
    (tmp_path / "x.json").write_text('{"a": ')
    with pytest.raises(Unsafe, match="damaged"):
        rundir.read_json(tmp_path / "x.json")
