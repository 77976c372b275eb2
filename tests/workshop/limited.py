"""A training over more shards than memory may hold: `python -m tests.workshop.limited MODEL FOLDER` prints what it took.

RLIMIT_DATA covers the heap and every private writable mapping; mapped shards are neither, their pages can go at any time.
"""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path

import numpy as np
import torch

from bottega.core.textio import progress
from bottega.core.types import Row, Tokens
from bottega.data import shards
from bottega.data.blocks import blocks
from bottega.models.load import load
from bottega.models.methods import method
from bottega.train.assemble import assemble
from bottega.train.loop import Loop
from bottega.train.objectives import spec
from bottega.train.settings import LoopSettings
from bottega.train.source import Dataset

LIMIT = 8_000_000
TOKENS = 33_000_000


def status(name: str) -> int:
    """A line of /proc/self/status, in bytes."""
    text = Path("/proc/self/status").read_text()
    return int(next(line for line in text.splitlines() if line.startswith(name)).split()[1]) * 1024


def main(model: str, folder: str) -> None:
    """Write the corpus, take three steps, set the limit, read an epoch with a step here and there."""
    torch.set_num_threads(1)
    draw = np.random.default_rng(0)
    ids = draw.integers(5, 300, 100_000).astype(np.int32)
    weights = np.ones(len(ids), dtype=np.float32)
    rows = (Row(index=i, branches=(Tokens(ids, weights),)) for i in range(TOKENS // len(ids)))
    shards.write(Path(folder) / "rows", rows, ids="uint32")
    corpus = sum(path.stat().st_size for path in (Path(folder) / "rows").iterdir())
    loaded = load(model)
    vocabulary = int(loaded.model.get_input_embeddings().weight.shape[0])
    data = blocks(shards.ShardRows(Path(folder) / "rows"), length=2048)
    settings = LoopSettings(steps=40, lr=1e-4, self_check=0)
    source = Dataset(data, batch=64, seed=0)
    attached = method("full").attach(loaded.model)
    parts = assemble(attached, spec("pretrain"), source, settings, vocabulary=vocabulary, pad_id=0, packed=loaded.packs)
    loop = Loop(parts, settings, Path(folder), progress(40, "limited", quiet=True))
    loop.parts.wrapped.train()
    small = Dataset([row for row in blocks(list(data[:1]), length=64)], batch=4, seed=0)

    def step() -> None:
        parts.source = small
        loop.one_step()

    for _ in range(3):
        step()
        source.next()
    before, seen, most = status("RssAnon"), 3 * 64, 0
    resource.setrlimit(resource.RLIMIT_DATA, (status("VmData") + LIMIT, resource.RLIM_INFINITY))
    while seen < len(data):
        seen += len(source.next()[0])
        most = max(most, status("RssAnon"))
        if seen % 4096 == 0:
            step()
    facts = {"limit": LIMIT, "corpus": corpus, "rows": len(data), "seen": seen, "grown": most - before}
    print(json.dumps(facts | {"losses": loop.step}))


if __name__ == "__main__":
    main(*sys.argv[1:])
