"""Policy-gradient objectives on sampled answers; rollouts and advantages come with the rows (train/rollout.py, advantages.py).

Left out: the group-relative family (groups.py).

Shapes: S supervised positions (the sampled tokens).
"""

from __future__ import annotations

import torch

from bottega.core.types import Scores, Sums, Targets, Term
from bottega.train.objectives.told import told


def ppo(
    scores: Scores,
    targets: Targets,
    *,
    clip: float = 0.2,
    value_clip: float = 0.2,
    value_weight: float = 0.1,
    entropy_weight: float = 0.0,
) -> tuple[dict[str, Term], Sums]:
    """Take the steps the advantages ask for, but not far from the policy that sampled.

    Policy: -min(r A, clip(r, 1-e, 1+e) A) with r = exp(logp - old.logp), Schulman et al. 2017 (arXiv 1707.06347) eq. 7. Value:
    0.5 max((v - R)^2, (clip(v, v_old +- e_v) - R)^2), as in the authors' released code. Policy, value and entropy are separate
    terms over tokens.

    Args:
        scores: `logp`, `value`, `entropy` (S,).
        targets: tokens `old.logp`, `old.value`, `advantage`, `return` (S,).
        clip, value_clip: trust regions; 0.1 to 0.3. value_weight, entropy_weight: weights of the other two terms.

    Returns:
        Terms in tokens; metrics per token: approx_kl ((r - 1) - log r), clipped share, value error.
    """
    old, advantage, returns = targets.tokens["old.logp"], targets.tokens["advantage"], targets.tokens["return"]
    weights = targets.weights_S
    log_ratio = scores["logp"] - old
    ratio = log_ratio.exp()
    policy = -torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage)
    old_value = targets.tokens["old.value"]
    near = old_value + (scores["value"] - old_value).clamp(-value_clip, value_clip)
    value = 0.5 * torch.maximum((scores["value"] - returns) ** 2, (near - returns) ** 2)
    terms = {
        "policy": Term((weights * policy).sum(), "tokens"),
        "value": Term((weights * value).sum(), "tokens", value_weight),
    }
    if entropy_weight:
        terms["entropy"] = Term(-(weights * scores["entropy"]).sum(), "tokens", entropy_weight)
    with torch.no_grad():
        sums = {
            "loss/tokens": terms["policy"].total.detach(),
            "value_loss/tokens": terms["value"].total.detach(),
            "entropy/tokens": (weights * scores["entropy"]).sum().detach(),
            "clipped/tokens": (weights * ((ratio - 1).abs() > clip)).sum(),
        }
    return terms, sums | told(scores["logp"].detach(), targets)
