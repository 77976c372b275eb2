"""An ALiBi model trained at one length reads twice as much no worse (a learned table refuses: tests/models/test_decoder.py)."""

import json

import pytest
import torch

from bottega.demo import world
from bottega.models.load import load
from bottega.workshop.stages import run

LENGTH = 64


@pytest.mark.slow
def test_perplexity_at_twice_the_trained_length_is_within_five_percent(tmp_path):
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text("".join(json.dumps({"text": row["text"]}) + "\n" for row in world.documents(1, 1500)))
    stage = {
        "objective": "pretrain", "method": "full", "data": str(corpus), "blocks": True, "max_tokens": LENGTH, "steps": 250,
        "batch": 16, "lr": 3e-3, "warmup": 20, "schedule": "wsd",
    }  # fmt: skip
    init = {"preset": "garzone-mpt", "config": {"hidden_size": 64, "num_hidden_layers": 2}, "tokenizer": {"vocab": 512}}
    run({"name": "alibi", "init": init, "stages": [{"a": stage}]}, out=tmp_path / "run", quiet=True)
    loaded = load(tmp_path / "run")
    text = "\n".join(row["text"] for row in world.documents(2, 300))
    ids = torch.tensor(loaded.tokenizer(text).input_ids)
    ids = ids[: len(ids) // (2 * LENGTH) * 2 * LENGTH]
    losses = {}
    for length in (LENGTH, 2 * LENGTH):
        rows = ids.view(-1, length)
        with torch.no_grad():
            losses[length] = sum(
                float(loaded.model(part, labels=part).loss) * len(part) for part in rows.split(32)
            ) / len(rows)
    assert losses[LENGTH] < 4.0
    assert torch.tensor(losses[2 * LENGTH] - losses[LENGTH]).exp() < 1.05
