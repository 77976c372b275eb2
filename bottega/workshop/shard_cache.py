"""The cache of tokenised corpora, and the processes that fill it: `python -m bottega.workshop.shard_cache FOLDER NUMBER...`.

Left out: what a part is and how it is written (data/tokenise.py), emptying the cache (it is a folder: remove it).

Processes get nothing but a folder and numbers: each opens the tokenizer that lies there, reads its stretches of the files and
writes its shards. Nothing travels between processes, and none of them knows a process group.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bottega.core.errors import UserError
from bottega.core.rundir import CACHE as CACHE
from bottega.core.rundir import disk_errors, user_cache
from bottega.data import tokenise
from bottega.models.load import load_tokenizer

TOKENIZER = "tokenizer"


def cache_folder() -> Path:
    """Where tokenised corpora are kept: $BOTTEGA_CACHE/rows, else bottega/rows in the user's cache folder."""
    return user_cache("rows")


def num_workers() -> int:
    """Processes that may run at once: the processors that this one may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def tokenizer_identity(tokenizer: Any) -> str:
    """A hash over the vocabulary, the merges and the special tokens of a tokenizer."""
    core = getattr(tokenizer, "backend_tokenizer", None)
    text = core.to_str() if core is not None else repr(sorted(tokenizer.get_vocab().items()))
    return hashlib.sha256(f"{text}\0{sorted(tokenizer.special_tokens_map.items())}".encode()).hexdigest()


def runner(workers: int, note: Callable[[str], None]) -> tokenise.RunJobs:
    """Does parts in up to `workers` processes; in this one where there is one worker or one part.

    Raises:
        UserError: a process ended before its parts were done.
    """

    def run_jobs(folder: Path, numbers: Sequence[int], tokenizer: Any) -> None:
        count = min(workers, len(numbers))
        if count < 2:
            tokenise.here(folder, numbers, tokenizer)
            return
        with disk_errors(folder):
            tokenizer.save_pretrained(str(folder / TOKENIZER))
        if tokenizer_identity(load_tokenizer(folder / TOKENIZER)) != tokenizer_identity(tokenizer):
            note("this tokenizer does not come back from disk as it is, so one process does all the tokenising")
            tokenise.here(folder, numbers, tokenizer)
            return
        note(f"tokenising {len(numbers)} parts in {count} processes")
        started = [_start(folder, numbers[i::count]) for i in range(count)]
        try:
            failed = [said for process in started if (said := process.communicate()[1]) and process.returncode]
        finally:
            for process in started:
                process.terminate()
        codes = [process.returncode for process in started if process.returncode]
        if codes:
            last = failed[0].strip().splitlines()[-1] if failed else f"exit code {codes[0]}"
            raise UserError(f"a tokenising process ended early ({last}); run again: the parts that are done stay done")

    return run_jobs


def _start(folder: Path, numbers: Sequence[int]) -> subprocess.Popen[str]:
    root = str(Path(__file__).resolve().parents[2])
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    alone = {"PYTHONPATH": os.pathsep.join(paths), "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "bottega.workshop.shard_cache", str(folder), *map(str, numbers)]
    return subprocess.Popen(
        command, env=os.environ | alone, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def main(arguments: Sequence[str]) -> None:
    """One process' parts."""
    folder, *numbers = arguments
    tokenizer = load_tokenizer(Path(folder) / TOKENIZER)
    tokenise.here(Path(folder), [int(number) for number in numbers], tokenizer)


if __name__ == "__main__":
    main(sys.argv[1:])
