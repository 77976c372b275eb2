"""Each peer's own virtual environment, made once under benchmarks/.venvs, with the same CPU build of torch in each.

Left out: upgrading an environment that exists (delete its folder to make it anew).
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

TORCH = "torch==2.13.0"
"""Installed first and held: an unpinned torch brings gigabytes of CUDA packages."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Peer:
    """A side of the comparison.

    packages: what pip installs after torch. without: installed as dependencies, then removed (their wheels on the
    package index want CUDA, and text does not need them). script: run by the peer's Python; home: the environment's
    folder, where two sides share one.
    """

    title: str
    script: str
    home: str = ""
    packages: tuple[str, ...] = ()
    without: tuple[str, ...] = ()


OURS = "bottega"
PEERS = {
    OURS: Peer(title="Bottega", script="side_bottega.py"),
    "litgpt": Peer(title="litgpt", script="side_litgpt.py", packages=("litgpt==0.5.13", "requests")),
    "llamafactory": Peer(
        title="LLaMA-Factory",
        script="side_llamafactory.py",
        packages=("llamafactory==0.9.5",),
        without=("torchvision", "torchaudio"),
    ),
    "trl": Peer(title="TRL", script="side_trl.py", packages=("trl==1.16.0", "peft")),
    "trl-flat": Peer(title="TRL flat", script="side_trl.py", packages=("trl==1.16.0", "peft"), home="trl"),
    "trl-padded": Peer(title="TRL padded", script="side_trl.py", packages=("trl==1.16.0", "peft"), home="trl"),
    "hf": Peer(title="transformers", script="side_hf.py", packages=("trl==1.16.0", "peft"), home="trl"),
    "torchtune": Peer(title="torchtune", script="side_torchtune.py", packages=("torchtune==0.6.1", "torchao==0.10.0")),
}


class SetupFailed(Exception):
    """An environment could not be made; says what pip said."""


def python_of(name: str, folder: Path) -> Path:
    """The Python that runs a side: our own for ours, else that of the peer's environment, made now if it is not there.

    Raises:
        SetupFailed: pip could not install the peer.
    """
    peer = PEERS[name]
    if not peer.packages:
        return Path(sys.executable)
    home = folder / (peer.home or name)
    wanted = hashlib.sha256(repr((TORCH, peer.packages, peer.without)).encode()).hexdigest()[:12]
    stamp = home / f".ready-{wanted}"
    python = home / "bin" / "python"
    if stamp.exists():
        return python
    print(f"setting up {peer.title} in {home} (once) ...", file=sys.stderr, flush=True)
    shutil.rmtree(home, ignore_errors=True)
    _run([sys.executable, "-m", "venv", str(home)])
    constraints = home / "constraints.txt"
    constraints.write_text(TORCH + "\n")
    pip = [str(python), "-m", "pip", "--disable-pip-version-check"]
    _run([*pip, "install", "--quiet", TORCH, "numpy<3"])
    _run([*pip, "install", "--quiet", "--constraint", str(constraints), *peer.packages])
    if peer.without:
        _run([*pip, "uninstall", "--quiet", "--yes", *peer.without])
    stamp.touch()
    return python


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        said = [line for line in done.stderr.splitlines() if line.strip() and not line.startswith("WARNING")]
        raise SetupFailed(" ".join(command[-4:]) + ": " + (said[-1] if said else f"exit code {done.returncode}"))
