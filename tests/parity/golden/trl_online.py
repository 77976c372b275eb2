"""Makes trl_online.json: TRL's losses on sampled answers, their gradients, and the advantages it gives them.

Run in an environment that has trl (1.16.0 made the file), from the root of the project:
    python -m tests.parity.golden.trl_online
Left out: our side (tests/parity/test_trl_online.py); PPO, which TRL 1.16.0 no longer has. Losses are `_compute_loss` of whole trainers
on the tiny models of tests/models/tiny.py; advantages are what the trainers make of fixed answers and rewards.
"""

from __future__ import annotations

import json
import random
import tempfile
from pathlib import Path
from typing import Any

import torch
import trl
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

from tests.models.tiny import tiny_model
from tests.parity.golden.trl_losses import padded

OUT = Path(__file__).with_suffix(".json")
GROUP, MAX_TOKENS = 4, 9
REWARDS = [0.0, 1.0, 3.0, 0.5, 2.0, 2.0, 2.0, 5.0]
GRPO: dict[str, dict[str, Any]] = {
    "grpo": {"loss_type": "grpo", "epsilon": 0.2, "beta": 0.04, "use_bias_correction_kl": False},
    "grpo_high": {"loss_type": "grpo", "epsilon": 0.1, "epsilon_high": 0.28, "beta": 0.0},
    "dr_grpo": {"loss_type": "dr_grpo", "epsilon": 0.2, "beta": 0.0},
    "dapo": {"loss_type": "dapo", "epsilon": 0.2, "epsilon_high": 0.28, "beta": 0.0},
    "gspo": {
        "loss_type": "grpo",
        "importance_sampling_level": "sequence",
        "epsilon": 0.03,
        "epsilon_high": 0.04,
        "beta": 0.0,
    },
}


def groups() -> list[dict[str, Any]]:
    """Two prompts with four answers of uneven lengths each, an advantage an answer, and what sampler and reference thought."""
    draw = random.Random(11)

    def ids(low: int, high: int) -> list[int]:
        return [draw.randrange(5, 320) for _ in range(draw.randint(low, high))]

    found = []
    for _ in range(2):
        answers = [ids(2, MAX_TOKENS) for _ in range(GROUP)]
        shifts = {name: [[draw.gauss(0, 0.3) for _ in one] for one in answers] for name in ("old", "ref")}
        advantages = [round(draw.gauss(0, 1), 3) for _ in answers]
        found.append({"prompt": ids(3, 7), "answers": answers, "advantages": advantages, "shifts": shifts})
    return found


def batch_of(made: list[dict[str, Any]], model: Any) -> dict[str, torch.Tensor]:
    """TRL's inputs: prompts padded on the left; the sampler's and the reference's numbers are the model's own, shifted."""
    prompts = [one["prompt"] for one in made for _ in one["answers"]]
    answers = [answer for one in made for answer in one["answers"]]
    width = max(map(len, prompts))
    inputs = {
        "prompt_ids": torch.tensor([[0] * (width - len(p)) + p for p in prompts]),
        "prompt_mask": torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts]),
        "completion_ids": padded(answers),
        "completion_mask": padded([[1] * len(one) for one in answers]),
        "advantages": torch.tensor([value for one in made for value in one["advantages"]]),
        "num_items_in_batch": torch.tensor(float(sum(map(len, answers)))),
    }
    own = logps(model, inputs)
    for name, key in (("old", "old_per_token_logps"), ("ref", "ref_per_token_logps")):
        shifts = [shift for one in made for shift in one["shifts"][name]]
        inputs[key] = own + torch.tensor([s + [0.0] * (own.shape[1] - len(s)) for s in shifts])
    inputs["old_logps"] = (inputs["old_per_token_logps"] * inputs["completion_mask"]).sum(1)
    return inputs


def logps(model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1)
    mask = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], 1)
    places = (mask.cumsum(1) - 1).clamp_min(0)
    kept = inputs["completion_ids"].shape[1]
    with torch.no_grad():
        logits = model(input_ids=ids, attention_mask=mask, position_ids=places).logits[:, -kept - 1 : -1]
    return logits.log_softmax(-1).gather(2, inputs["completion_ids"][..., None])[..., 0]


def trainer_of(kind: type, config: type, folder: Path, **how: Any) -> Any:
    args = config(
        output_dir=str(folder / "out"), num_generations=GROUP, per_device_train_batch_size=len(REWARDS), temperature=1.0,
        max_completion_length=MAX_TOKENS, use_cpu=True, report_to=[], bf16=False, **how,
    )  # fmt: skip
    return kind(
        model=AutoModelForCausalLM.from_pretrained(folder / "policy"),
        reward_funcs=lambda completions, **_: REWARDS[: len(completions)],
        args=args,
        train_dataset=Dataset.from_list([{"prompt": "keys"}, {"prompt": "Anna"}] * 4),
        processing_class=AutoTokenizer.from_pretrained(folder / "policy"),
    )


def measured(trainer: Any, made: list[dict[str, Any]]) -> dict[str, float]:
    """The loss, and the norm of its gradient over all weights."""
    model = trainer.model.eval()
    loss = trainer._compute_loss(model, batch_of(made, model))
    model.zero_grad()
    loss.backward()
    squares = sum(float((p.grad.double() ** 2).sum()) for p in model.parameters() if p.grad is not None)
    return {"loss": float(loss), "gradient": squares**0.5}


def advantages(trainer: Any) -> list[float]:
    """What the trainer makes of REWARDS, two groups of four."""
    prompts = [{"prompt": word} for word in ("keys", "Anna") for _ in range(GROUP)]
    trainer.model.train()
    return [float(value) for value in trainer._generate_and_score_completions(prompts)["advantages"]]


def main() -> None:
    """Write the file."""
    made = groups()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tiny_model("llama", folder / "policy", seed=0)
        found: dict[str, Any] = {"trl": trl.__version__, "groups": made, "max_tokens": MAX_TOKENS, "rewards": REWARDS}
        for key, how in GRPO.items():
            found[key] = measured(trainer_of(GRPOTrainer, GRPOConfig, folder, **how), made)
        rloo = {"epsilon": 0.2, "beta": 0.0, "normalize_advantages": False}
        found["rloo"] = measured(trainer_of(RLOOTrainer, RLOOConfig, folder, **rloo), made)
        for key, scaled in (("group", "group"), ("group_unscaled", "none")):
            trainer = trainer_of(GRPOTrainer, GRPOConfig, folder, beta=0.0, scale_rewards=scaled)
            found[f"advantages_{key}"] = advantages(trainer)
        found["advantages_leave_one_out"] = advantages(trainer_of(RLOOTrainer, RLOOConfig, folder, **rloo))
    OUT.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
