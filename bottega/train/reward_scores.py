"""Rewards of many rows, one number a branch, without gradient: of the model in training, or of a reward model joined to it.

Left out: what the numbers are used for, and combining several rewards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bottega.core.types import Attached, Row
from bottega.data.pack import micro_batches
from bottega.models.layout import lay
from bottega.models.load import load, packs
from bottega.models.reward import load_head
from bottega.models.score import Scorer, View
from bottega.train import parallel


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class RewardModel:
    """A saved reward model, ready to score. rows are laid packed where the model can."""

    scorer: Scorer
    tokenizer: Any
    packed: bool

    def score(self, rows: Sequence[Row], *, micro_tokens: int = 8192) -> list[np.ndarray]:
        """Per row, the reward of each branch; see `reward_rows`."""
        pad = self.tokenizer.pad_token_id or 0
        return reward_rows(self.scorer, rows, packed=self.packed, pad_id=pad, micro_tokens=micro_tokens)

    def steps(self, rows: Sequence[Row]) -> list[np.ndarray]:
        """Per row of data/steps.py, the log-odds that each step is right."""
        pad, found = self.tokenizer.pad_token_id or 0, []
        for row in rows:
            layout, targets = lay([row], packed=self.packed, pad_id=pad)
            with torch.no_grad():
                found.append(self.scorer(layout, targets, ("step_reward",))["step_reward"].float().cpu().numpy())
        return found


def load_reward(name: str | Path, **how: Any) -> RewardModel:
    """The reward model of a stage's result, a run or a model folder. how: of models/load.py's `load`.

    To score with it inside a policy's model, without a second base, see models/reward.py's `join`.

    Raises:
        UserError: it is not there, or no reward model. Unsafe: a damaged file.
    """
    loaded = load(name, **how)
    attached = loaded.attached or Attached(
        name="none", model=loaded.model, groups=[], save=lambda folder: None, merge=None, packs=True
    )
    attached.reward = load_head(loaded.folder, loaded.model).requires_grad_(False)
    scorer = Scorer(attached, vocabulary=len(loaded.tokenizer)).eval()
    return RewardModel(
        scorer=scorer, tokenizer=loaded.tokenizer, packed=packs(loaded, branches=True) and attached.packs
    )


def reward_rows(
    scorer: Scorer,
    rows: Sequence[Row],
    *,
    packed: bool,
    pad_id: int,
    view: View = "policy",
    micro_tokens: int = 8192,
    world: parallel.World | None = None,
) -> list[np.ndarray]:
    """Per row, the reward of each branch at its last token, float32, in evaluation mode; the same on every rank.

    Args:
        rows: a prompt as the prefix (computed once when packed) and its replies as branches, or whole texts as one branch each.
        view: `policy`: the scorer's own model is the reward model; `reward`: the one that models/reward.py's `join` put in.
    """
    world = world or parallel.World()
    num_prefix = scorer.inputs.num_prefix if scorer.inputs is not None and view == "policy" else 0
    counts = [len(row.branches) for row in rows]
    ends = np.cumsum(counts, dtype=np.int64)
    flat = torch.zeros(int(ends[-1]) if len(ends) else 0)
    sizes = [
        row.num_tokens if packed else len(row.branches) * max(len(row.prefix.ids) + len(b.ids) for b in row.branches)
        for row in rows
    ]
    was_training = scorer.training
    scorer.eval()
    try:
        with torch.no_grad():
            for members in parallel.mine(world, micro_batches(sizes, max_tokens=micro_tokens, packed=packed)):
                chosen = [rows[i] for i in members]
                layout, targets = lay(chosen, packed=packed, pad_id=pad_id, num_prefix=num_prefix)
                found = scorer(layout, targets, ("reward",), view)["reward"].float().cpu()
                for i, values in zip(members, found.split([counts[i] for i in members]), strict=True):
                    flat[int(ends[i]) - len(values) : int(ends[i])] = values
    finally:
        scorer.train(was_training)
    return np.split(parallel.together(world, flat).numpy(), ends[:-1])
