"""The inside of the sandbox: started as a script of its own, it shuts itself in and then becomes the program that is tried.

Left out: who starts it and listens (sandbox.py); a filter of system calls. Only the standard library is imported, for nothing else is
there any more once it is shut in.

    python -I -S jail.py '{"folder": ..., "python": ..., "argv": [...], "cpu_s": ..., ...}'

The order: namespaces of its own (mount, net, pid, ipc, uts, user), a root in which everything but /work is read-only, an init that ends
with the program and takes everything else with it, an ordinary user, limits, no new privileges.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import sys
from typing import Any

CLONE = {
    "fs": 0x00020000,
    "uts": 0x04000000,
    "ipc": 0x08000000,
    "user": 0x10000000,
    "pid": 0x20000000,
    "net": 0x40000000,
}
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 1, 2, 4, 32, 4096, 16384, 1 << 18
KEPT = {"ro": 1, "nosuid": 2, "nodev": 4, "noexec": 8, "noatime": 1024, "nodiratime": 2048, "relatime": 1 << 21}
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_NO_NEW_PRIVS, MNT_DETACH = 1, 4, 38, 2
NOBODY, INSIDE = 65534, 1000
SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib64", "/lib32")
DEVICES = ("null", "zero", "urandom")
libc = ctypes.CDLL(None, use_errno=True)


def check(result: int, what: str) -> None:
    """Of a C call: as os does it."""
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")


def mount(source: str, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    words = [None if one is None else one.encode() for one in (source, target, kind, data)]
    check(libc.mount(words[0], words[1], words[2], ctypes.c_ulong(flags), words[3]), f"mount {target}")


def apart(*kinds: str) -> None:
    """Into new namespaces of these kinds."""
    check(libc.unshare(sum(CLONE[kind] for kind in kinds)), f"namespaces ({', '.join(kinds)})")


def nobody(proc: int) -> None:
    """An ordinary user in a user namespace of its own, where no further one can be made; `proc`: the folder /proc, opened before."""
    if os.getuid() == 0:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
        check(libc.prctl(PR_SET_DUMPABLE, 1, 0, 0, 0), "dumpable")  # else its own folder in /proc belongs to root
    uid, gid = os.getuid(), os.getgid()
    apart("user")
    for name, text in (
        ("self/setgroups", "deny"),
        ("self/uid_map", f"{INSIDE} {uid} 1"),
        ("self/gid_map", f"{INSIDE} {gid} 1"),
        ("sys/user/max_user_namespaces", "0"),
    ):
        file = os.open(name, os.O_WRONLY, dir_fd=proc)
        os.write(file, text.encode())
        os.close(file)


def bind(source: str, target: str) -> None:
    """The folder or device `source` at `target`, read-only; what is mounted below it, too."""
    if os.path.isdir(source):
        os.makedirs(target, exist_ok=True)
    else:
        open(target, "w").close()
    mount(source, target, None, MS_BIND | MS_REC)


def read_only(root: str) -> None:
    """Make every mount below `root` read-only, and without set-user-id; their other locks stay, as the kernel asks."""
    with open("/proc/self/mountinfo") as file:
        lines = [line.split() for line in file]
    for fields in lines:
        place = fields[4].encode().decode("unicode_escape")
        if place.startswith(root + "/"):
            kept = sum(KEPT[word] for word in fields[5].split(",") if word in KEPT)
            mount("none", place, None, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | kept)


def new_root(folder: str, prefixes: list[str], megabytes: int) -> None:
    """A root with the system's libraries and Python, both read-only, three devices, and /work, the program's own files in memory."""
    mount("none", "/", None, MS_REC | MS_PRIVATE)
    root = os.path.join(folder, "root")
    os.mkdir(root)
    mount("tmpfs", root, "tmpfs", MS_NOSUID | MS_NODEV, "size=1m,mode=755")
    for path in SYSTEM:
        if os.path.islink(path):
            os.symlink(os.readlink(path), root + path)
        elif os.path.isdir(path):
            bind(path, root + path)
    for path in prefixes:
        if not os.path.exists(root + path):
            bind(path, root + path)
    os.makedirs(root + "/dev")
    for name in DEVICES:
        bind(f"/dev/{name}", f"{root}/dev/{name}")
    read_only(root)
    os.mkdir(root + "/work")
    mount("tmpfs", root + "/work", "tmpfs", MS_NOSUID | MS_NODEV, f"size={megabytes}m,mode=1777")
    for name in os.listdir(os.path.join(folder, "files")):
        with open(os.path.join(folder, "files", name), "rb") as old, open(f"{root}/work/{name}", "wb") as new:
            new.write(old.read())
    mount("none", root, None, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV)
    os.chdir(root)
    check(libc.pivot_root(b".", b"."), "pivot_root")
    check(libc.umount2(b".", MNT_DETACH), "umount the old root")
    os.chdir("/work")


def limits(plan: dict[str, Any]) -> None:
    """What the program may use; each hard, so that it cannot ask for more."""
    megabyte = 1 << 20
    for kind, value in (
        (resource.RLIMIT_CPU, plan["cpu_s"]),
        (resource.RLIMIT_AS, plan["memory_mb"] * megabyte),
        (resource.RLIMIT_FSIZE, plan["files_mb"] * megabyte),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_NPROC, plan["processes"] + plan["ours"]),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(kind, (value, value))
    check(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no new privileges")


def ended(status: int) -> int:
    """A wait status as a shell would say it."""
    return 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def init(plan: dict[str, Any], proc: int | None) -> None:
    """Process 1 of its own world: when the program ends, so does it, and the kernel ends whatever the program left."""
    check(libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "death signal")
    check(libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0), "not dumpable")  # the program may not trace it
    program = os.fork()
    if program == 0:
        try:
            if proc is not None:
                nobody(proc)
            limits(plan)
            os.execve(plan["argv"][0], plan["argv"], {"PATH": "/usr/bin:/bin", "HOME": "/work", "LANG": "C.UTF-8"})
        except OSError as error:
            refuse(error, plan["word"])
    while True:
        done, status = os.wait()
        if done == program:
            os._exit(ended(status))


def refuse(error: OSError, word: str) -> None:
    """The kernel does not let it shut itself in: end, and say why after a word that no program knows."""
    sys.stderr.write(f"{word} {error}\n")
    sys.stderr.flush()
    os._exit(1)


def main() -> None:
    plan = json.loads(sys.argv[1])
    proc = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY)
    try:
        check(libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "death signal")
        if os.getuid() == 0:  # builds the walls as root, which can read Python wherever it lies; the program is nobody
            apart("fs", "uts", "ipc", "pid", "net")
        else:
            nobody(proc)
            apart("fs", "uts", "ipc", "pid", "net")
        new_root(plan["folder"], plan["prefixes"], plan["files_mb"])
        first = os.fork()
        if first == 0:
            init(plan, proc if os.getuid() == 0 else None)
    except OSError as error:
        refuse(error, plan["word"])
    signal.signal(signal.SIGTERM, lambda *_: os.kill(first, signal.SIGKILL))  # time is up
    _, status = os.waitpid(first, 0)  # comes back when everything in its world has ended
    os._exit(ended(status))


if __name__ == "__main__":
    main()
