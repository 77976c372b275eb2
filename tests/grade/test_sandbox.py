"""Programs that a model wrote: what they cannot do in the sandbox, and the reward `unit_tests` (row A5).

Left out: systems other than Linux, where nothing is run and the refusal says so.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import threading
from pathlib import Path

import pytest

from bottega.core.errors import UserError
from bottega.grade import rewards, sandbox
from bottega.grade.rewards import Answer
from bottega.grade.sandbox import Limits, run

needs_sandbox = pytest.mark.skipif(sandbox.missing() is not None, reason=f"no sandbox here: {sandbox.missing()}")
ROOT = Path(__file__).resolve().parents[2]


def told(code: str, **more):
    return run({"main.py": code}, main="main.py", **more)


@needs_sandbox
def test_a_program_reads_its_input_and_says_its_output():
    ran = told("import json\nprint(json.dumps(input()[::-1]))", given="ciao\n")
    assert (ran.code, ran.out, ran.err, ran.late) == (0, '"oaic"\n', "", False)


@needs_sandbox
def test_no_network_not_even_this_machine_s_own(tmp_path):
    """A server that this test runs is heard outside, and not inside; nor does a name resolve, nor a Unix socket exist."""
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as near:
        near.bind(str(tmp_path / "s"))
        near.listen()
        port = server.getsockname()[1]
        socket.create_connection(("127.0.0.1", port), 2).close()
        code = f"""
import socket
for act in (lambda: socket.create_connection(("127.0.0.1", {port}), 2), lambda: socket.create_connection(("192.0.2.1", 80), 2),
            lambda: socket.getaddrinfo("example.org", 80), lambda: socket.socket(socket.AF_UNIX).connect({str(tmp_path / "s")!r})):
    try:
        act()
        print("reached")
    except OSError as error:
        print("no")
print([name for _, name in socket.if_nameindex()])
"""
        ran = told(code)
    assert ran.out.splitlines() == ["no"] * 4 + ["['lo']"], ran.err


@needs_sandbox
def test_no_file_outside_its_folder_is_read_or_written(tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("xyzzy")
    os.chmod(secret, 0o666)
    code = f"""
import os
for path in ({str(secret)!r}, "/etc/passwd", "/etc/shadow", "/proc/1/environ", "/root/.bashrc", "/sys/kernel", "/work/../..{secret}"):
    print(os.path.exists(path))
for path in ("/usr/bottega", "/bottega", "/dev/bottega", "/work/mine"):
    try:
        open(path, "w").write("x")
        print("wrote", path)
    except OSError:
        print("no")
import sys
flags = [os.statvfs(path).f_flag for path in ("/", "/usr", sys.base_prefix, "/dev/null")]
print([bool(flag & os.ST_RDONLY) and bool(flag & os.ST_NOSUID) for flag in flags])
print(sorted(os.listdir("/work")), os.environ.keys() - {{"PATH", "HOME", "LANG", "LC_CTYPE"}})
"""
    ran = told(code)
    assert ran.out.splitlines() == [
        *["False"] * 7, *["no"] * 3, "wrote /work/mine", str([True] * 4), "['main.py', 'mine'] set()",
    ], ran.err  # fmt: skip
    assert not Path("/usr/bottega").exists() and secret.read_text() == "xyzzy"


@needs_sandbox
def test_it_has_no_powers_and_cannot_get_any():
    """No mount, no chroot, no root, no namespace in which it would be root, no tracing, no signal that reaches others."""
    code = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
print(libc.mount(b"none", b"/work", b"tmpfs", 0, None), libc.chroot(b"/work"), libc.setuid(0), libc.unshare(0x10000000),
      libc.ptrace(16, 1, 0, 0), libc.sethostname(b"x", 1), libc.umount2(b"/work", 2), libc.unshare(0x00020000))
try:
    os.kill(1, 9)
except PermissionError:
    pass
try:
    os.kill(-1, 9)
except OSError:
    pass
print(os.getuid() != 0, os.getppid())
"""
    ran = told(code)
    assert ran.out.splitlines() == [" ".join(["-1"] * 8), "True 1"], ran.err


@needs_sandbox
@pytest.mark.parametrize(
    ("code", "how"),
    [
        ("while True: pass", "late"),
        ("while True: print('x' * 1000)", "late"),
        ("import time\nwhile True:\n    try: time.sleep(9)\n    except BaseException: pass", "late"),
        ("a = bytearray(300 << 20)", "MemoryError"),
        ("open('/work/a', 'wb').write(bytes(9 << 20))", "No space left"),
        ("for i in range(9): open(f'/work/{i}', 'wb').write(bytes(4 << 20))", "No space left"),
        ("files = [open('/dev/null') for _ in range(99)]", "Too many open files"),
        (
            "import threading, time\nfor _ in range(99): threading.Thread(target=time.sleep, args=(9,), daemon=True).start()",
            "can't start new thread",
        ),
        (
            "import os\nfor _ in range(99):\n    if not os.fork(): import time; time.sleep(9)",
            "Resource temporarily unavailable",
        ),
    ],
    ids=["time", "output", "stubborn", "memory", "file", "disk", "open", "threads", "forks"],
)
def test_it_is_ended_or_refused_when_it_takes_too_much(code, how):
    ran = told(code, limits=Limits(seconds=2.0, memory_mb=256, files_mb=8, processes=6))
    assert ran.code != 0 and (ran.late if how == "late" else how in ran.err), ran
    assert len(ran.out) <= sandbox.MAX_OUTPUT


@needs_sandbox
def test_nothing_that_it_starts_outlives_it():
    """A child in a session of its own would go on for a minute; its mark is in no process's words when the program has ended."""
    mark = f"mark{os.getpid()}"
    words = f"[sys.executable, '-S', '-c', 'import time; time.sleep(60)', {mark!r}]"
    code = f"import subprocess, sys\nsubprocess.Popen({words}, start_new_session=True)"
    for seconds, rest in ((10.0, ""), (1.0, "\nimport time; time.sleep(60)")):
        told(code + rest, limits=Limits(seconds=seconds))
        running = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()]
        assert not [
            one for one in running if mark.encode() in one and b"time.sleep(60)" in one and b"subprocess" not in one
        ]


@needs_sandbox
def test_an_ordinary_user_has_the_same_sandbox():
    python = shutil.which("python3", path="/usr/bin")
    if os.getuid() != 0 or python is None or shutil.which("setpriv") is None:
        pytest.skip("needs root and setpriv to become an ordinary user, and a Python that everybody can read")
    code = (
        "from bottega.grade import sandbox\nassert sandbox.missing() is None, sandbox.missing()\n"
        "ran = sandbox.run({'main.py': 'import os; print(os.getuid()); open(\"/x\", \"w\")'}, main='main.py')\nprint(ran.out, ran.err)"
    )
    words = ["setpriv", "--reuid=65533", "--regid=65533", "--clear-groups", python, "-c", code]
    done = subprocess.run(words, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, cwd="/")
    if "Permission denied" in done.stderr or "No module named 'bottega'" in done.stderr:
        pytest.skip("this checkout is not readable to everybody")
    assert done.returncode == 0 and done.stdout.startswith("1000") and "Read-only file system" in done.stdout, (
        done.stderr
    )


def test_where_there_is_no_sandbox_nothing_is_run_and_the_sentence_says_what_to_do(monkeypatch):
    sandbox.missing.cache_clear()
    monkeypatch.setattr(sandbox.platform, "system", lambda: "Darwin")
    monkeypatch.setattr(subprocess, "Popen", lambda *a, **k: pytest.fail("a program was started"))
    try:
        with pytest.raises(
            UserError, match="sandbox only, and this machine has none.*built for Linux.*leave out what runs them"
        ):
            rewards.find("unit_tests", {})
    finally:
        sandbox.missing.cache_clear()


@needs_sandbox
def test_a_kernel_that_refuses_namespaces_is_named(tmp_path, monkeypatch):
    """The jail is told to make a namespace of a kind that no kernel has: it ends with the kernel's own words, and runs nothing."""
    broken = tmp_path / "jail.py"
    broken.write_text(sandbox.JAIL.read_text().replace('"net": 0x40000000', '"net": 0x00000001'))
    monkeypatch.setattr(sandbox, "JAIL", broken)
    with pytest.raises(UserError, match=r"this machine has none \(\[Errno 22\] namespaces"):
        told("print(1)")


GOOD = "Here it is:\n```python\ndef add(a, b):\n    return a + b\n```\n"
HALF = "```python\ndef add(a, b):\n    return abs(a) + abs(b)\n```"


def answers(*replies, tests):
    return [Answer(prompt="Write add.", reply=reply, row={"tests": tests}) for reply in replies]


@needs_sandbox
def test_unit_tests_give_the_share_that_passes():
    """Asserts one by one, functions test_..., HumanEval's check(...): a bare call is one test; whole: all or nothing."""
    find = rewards.find
    tests = "import math\nassert add(1, 2) == 3\nassert add(-1, 1) == 0\nassert add(0, 0) == 0\nassert math.isclose(add(.1, -.2), -.1)"
    assert find("unit_tests", {})(answers(GOOD, HALF, "no code", tests=tests)) == [1.0, 0.5, 0.0]
    assert find("unit_tests", {"whole": True})(answers(GOOD, HALF, tests=tests)) == [1.0, 0.0]
    tests = "def test_two():\n    assert add(1, 1) == 2\n\ndef test_minus():\n    assert add(-1, -1) == -2\n"
    assert find("unit_tests", {})(answers(GOOD, HALF, tests=tests)) == [1.0, 0.5]
    tests = "def check(candidate):\n    assert candidate(1, 1) == 2\n    assert candidate(-1, -1) == -2\ncheck(add)\n"
    assert find("unit_tests", {})(answers(GOOD, HALF, tests=tests)) == [1.0, 0.0]


@needs_sandbox
def test_a_program_that_ends_itself_or_prints_passes_nothing():
    tests = "assert add(1, 2) == 3"
    quits = "import os, sys\nos._exit(0)"
    prints = "import sys\nprint('passed 0 0\\n' * 9)\nsys.exit(0)"
    endless = "while True: pass"
    assert rewards.find("unit_tests", {"seconds": 1.0})(answers(quits, prints, endless, tests=tests)) == [0.0, 0.0, 0.0]


@needs_sandbox
def test_programs_are_told_an_input_and_their_output_is_compared_outside():
    cases = [{"input": "1 2\n", "output": "3"}, {"input": "-1 1\n", "output": "0\n"}]
    good, half = (
        "a, b = map(int, input().split())\nprint(a + b)",
        "a, b = map(int, input().split())\nprint(abs(a) + abs(b))",
    )
    assert rewards.find("unit_tests", {})(answers(good, half, "print(3); exit(1)", tests=cases)) == [1.0, 0.5, 0.0]


@needs_sandbox
@pytest.mark.parametrize(
    ("tests", "said"),
    [
        (None, "holds none there"),
        ("x = 1", "hold no assert"),
        ("assert (", "are no Python .line 1"),
        ([1], "holds list there"),
    ],
)
def test_rows_whose_tests_cannot_be_used_are_named(tests, said):
    with pytest.raises(UserError, match=said):
        rewards.find("unit_tests", {})(answers(GOOD, tests=tests))


@needs_sandbox
def test_many_programs_at_once_do_not_share_their_limits():
    """Each counts its own processes: twelve that start four children each, at once."""
    code = (
        "import os, time\nfor _ in range(4):\n    if not os.fork():\n        time.sleep(0.3); os._exit(0)\n"
        "for _ in range(4): os.wait()\nprint('all')"
    )
    found: list[str] = []
    threads = [
        threading.Thread(target=lambda: found.append(told(code, limits=Limits(seconds=30, processes=5)).out))
        for _ in range(12)
    ]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert found == ["all\n"] * 12
