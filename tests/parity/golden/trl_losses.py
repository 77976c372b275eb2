"""Makes trl_losses.json: TRL's losses on pairs of token ids, from the tiny models of tests/models/tiny.py.

Run in an environment that has trl (1.16.0 made the file), from the root of the project:
    python -m tests.parity.golden.trl_losses
Left out: our side (tests/parity/test_trl_losses.py). DPO, KTO and the reward are whole trainers' losses on a model; CPO, SimPO,
ORPO and the divergences are TRL's loss functions on that model's log-probabilities.
"""

from __future__ import annotations

import json
import random
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import trl
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer, RewardConfig, RewardTrainer
from trl.experimental.cpo import CPOTrainer
from trl.experimental.gkd import GKDTrainer
from trl.experimental.orpo import ORPOTrainer

from tests.models.tiny import tiny_model

OUT = Path(__file__).with_suffix(".json")
DPO: dict[str, dict[str, Any]] = {
    "sigmoid": {"loss_type": ["sigmoid"]},
    "hinge": {"loss_type": ["hinge"]},
    "ipo": {"loss_type": ["ipo"]},
    "robust": {"loss_type": ["robust"], "label_smoothing": 0.2},
    "length_normalised": {"loss_type": ["sigmoid_norm"]},
}


def rows() -> list[dict[str, list[int]]]:
    """Four pairs of uneven lengths."""
    draw = random.Random(7)

    def ids(low: int, high: int) -> list[int]:
        return [draw.randrange(5, 320) for _ in range(draw.randint(low, high))]

    return [{"prompt": ids(3, 8), "chosen": ids(2, 9), "rejected": ids(2, 9)} for _ in range(4)]


def padded(sequences: list[list[int]], fill: int = 0) -> torch.Tensor:
    width = max(map(len, sequences))
    return torch.tensor([s + [fill] * (width - len(s)) for s in sequences])


def batch_of(pairs: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
    """All chosen, then all rejected, as the collator lays them."""
    both = [(p["prompt"], p[side]) for side in ("chosen", "rejected") for p in pairs]
    return {
        "input_ids": padded([a + b for a, b in both]),
        "attention_mask": padded([[1] * len(a + b) for a, b in both]),
        "completion_mask": padded([[0] * len(a) + [1] * len(b) for a, b in both]),
    }


def sums(model: Any, batch: dict[str, torch.Tensor], *, mean: bool) -> torch.Tensor:
    with torch.no_grad():
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1]
    mask = batch["completion_mask"][:, 1:]
    logp = logits.log_softmax(-1).gather(2, batch["input_ids"][:, 1:, None])[..., 0] * mask
    return logp.sum(1) / (mask.sum(1) if mean else 1)


def dpo(folder: Path, text: Dataset, batch: dict[str, torch.Tensor], how: dict[str, Any]) -> float:
    args = DPOConfig(output_dir=str(folder / "out"), beta=0.5, use_cpu=True, report_to=[], bf16=False, **how)
    trainer = DPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(folder / "policy"),
        ref_model=AutoModelForCausalLM.from_pretrained(folder / "reference"),
        args=args,
        train_dataset=text,
        processing_class=AutoTokenizer.from_pretrained(folder / "policy"),
    )
    return float(trainer.compute_loss(trainer.model.eval(), dict(batch)))


def kto(folder: Path, pairs: list[dict[str, list[int]]], policy: str, reference: str) -> dict[str, float]:
    """Chosen answers are liked, rejected ones not; each row's mismatched answer is the next row's."""
    both = [(p["prompt"], p[side]) for p in pairs for side in ("chosen", "rejected")]
    others = [(a, both[(i + 1) % len(both)][1]) for i, (a, _) in enumerate(both)]
    batch: dict[str, Any] = {"label": torch.tensor([True, False] * len(pairs))}
    for front, those in (("", both), ("KL_", others)):
        batch |= {
            f"{front}input_ids": padded([a + b for a, b in those]),
            f"{front}attention_mask": padded([[1] * len(a + b) for a, b in those]),
            f"{front}completion_mask": padded([[0] * len(a) + [1] * len(b) for a, b in those]),
        }
    text = Dataset.from_list([{"prompt": "keys", "completion": " Anna", "label": i % 2 == 0} for i in range(4)])
    args = KTOConfig(
        output_dir=str(folder / "out"),
        beta=0.5,
        desirable_weight=1.5,
        undesirable_weight=0.5,
        use_cpu=True,
        report_to=[],
        bf16=False,
    )
    trainer = KTOTrainer(
        model=AutoModelForCausalLM.from_pretrained(folder / policy),
        ref_model=AutoModelForCausalLM.from_pretrained(folder / reference),
        args=args,
        train_dataset=text,
        processing_class=AutoTokenizer.from_pretrained(folder / "policy"),
    )
    loss = float(trainer.compute_loss(trainer.model.eval(), batch))
    return {"loss": loss, "kl": float(trainer._metrics["eval"]["kl"][0])}


def reward(folder: Path, batch: dict[str, torch.Tensor], margin: list[float], centring: float) -> float:
    """A head of ones over the policy's trunk."""
    model = AutoModelForSequenceClassification.from_pretrained(folder / "policy", num_labels=1)
    with torch.no_grad():
        model.score.weight.fill_(0.1)
    text = Dataset.from_list([{"prompt": "keys", "chosen": " Anna", "rejected": " Bob"}] * 4)
    args = RewardConfig(
        output_dir=str(folder / "out"), center_rewards_coefficient=centring, use_cpu=True, report_to=[], bf16=False
    )
    tokenizer = AutoTokenizer.from_pretrained(folder / "policy")
    trainer = RewardTrainer(model=model, args=args, train_dataset=text, processing_class=tokenizer)
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")} | {"margin": torch.tensor(margin)}
    return float(trainer.compute_loss(trainer.model.eval(), inputs))


def functions(folder: Path, batch: dict[str, torch.Tensor]) -> dict[str, float]:
    """CPO, SimPO, the odds ratio of ORPO."""
    policy = AutoModelForCausalLM.from_pretrained(folder / "policy").eval()
    whole, mean = sums(policy, batch, mean=False).chunk(2), sums(policy, batch, mean=True).chunk(2)
    self: Any = SimpleNamespace(
        alpha=0.0, beta=0.5, label_smoothing=0.1, simpo_gamma=0.3, accelerator=SimpleNamespace(device="cpu")
    )
    self.loss_type = "sigmoid"
    found = {"cpo": float(CPOTrainer.cpo_loss(self, *whole)[0].mean())}
    self.loss_type = "simpo"
    found["simpo"] = float(CPOTrainer.cpo_loss(self, *mean)[0].mean())
    found["orpo_ratio"] = float(-ORPOTrainer.odds_ratio_loss(self, *mean)[0].mean())
    found["nll"] = float(-mean[0].mean())
    return found


def divergences(folder: Path, batch: dict[str, torch.Tensor]) -> dict[str, float]:
    """TRL's generalised Jensen-Shannon divergence of the reference (as teacher) and the policy, a mean over answers' tokens."""
    found = {}
    both = [AutoModelForCausalLM.from_pretrained(folder / name).eval() for name in ("policy", "reference")]
    with torch.no_grad():
        student, teacher = (
            model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1] for model in both
        )
    labels = batch["input_ids"][:, 1:].masked_fill(batch["completion_mask"][:, 1:] == 0, -100)
    for beta in (0.0, 0.3, 1.0):
        for temperature in (1.0, 2.0):
            value = GKDTrainer.generalized_jsd_loss(student, teacher, labels, beta=beta, temperature=temperature)
            found[f"{beta}/{temperature}"] = float(value)
    return found


def main() -> None:
    """Write the file."""
    pairs, margin = rows(), [0.5, 1.0, 0.0, 2.0]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tiny_model("llama", folder / "policy", seed=0)
        tiny_model("llama", folder / "reference", seed=1)
        batch = batch_of(pairs)
        text = Dataset.from_list([{"prompt": "keys", "chosen": " Anna", "rejected": " Bob"}] * 4)
        made = {
            "trl": trl.__version__,
            "rows": pairs,
            "margin": margin,
            "dpo": {name: dpo(folder, text, batch, how) for name, how in DPO.items()},
            "kto": kto(folder, pairs, "policy", "reference"),
            "kto_swapped": kto(folder, pairs, "reference", "policy"),
            "reward": reward(folder, batch, margin, 0.05),
            **functions(folder, batch),
            "divergence": divergences(folder, batch),
        }
    OUT.write_text(json.dumps(made, indent=1) + "\n")


if __name__ == "__main__":
    main()
