"""Objectives on the chosen ones of the model's own answers: imitate the best, or prefer the better to the worse.

Left out: choosing them (train/pairing.py), pairs that people made (preference.py).

Shapes: S sampled tokens.
"""

from __future__ import annotations

from bottega.core.types import Scores, Sums, Targets, Term
from bottega.train.objectives.preference import dpo
from bottega.train.objectives.told import told


def raft(scores: Scores, targets: Targets) -> tuple[dict[str, Term], Sums]:
    """Imitate the best of one's own answers: the likelihood of those that `rollout.keep` left, token by token.

    Reward-ranked tuning, Dong et al. 2023 (arXiv 2304.06767) section 3; with one long round it is best-of-n distillation.

    Args:
        scores: `logp` (S,).

    Returns:
        One term in tokens: -sum logp.
    """
    nll = -(targets.weights_S * scores["logp"]).sum()
    return {"raft": Term(nll, "tokens")}, {"loss/tokens": nll.detach()} | told(scores["logp"].detach(), targets)


def online_dpo(
    scores: Scores,
    targets: Targets,
    *,
    beta: float = 0.1,
    loss: str = "sigmoid",
    label_smoothing: float = 0.0,
    length_normalised: bool = False,
    sft_weight: float = 0.0,
) -> tuple[dict[str, Term], Sums]:
    """DPO on pairs of one's own answers, ordered by their rewards; see `dpo` for the equation and the options.

    Guo et al. 2024 (arXiv 2402.04792); with many prompts a round it is iterative DPO (Xu et al. 2023, arXiv 2312.16682). A pair that
    no reward tells apart trains nothing.
    """
    terms, sums = dpo(
        scores,
        targets,
        beta=beta,
        loss=loss,
        label_smoothing=label_smoothing,
        length_normalised=length_normalised,
        sft_weight=sft_weight,
    )
    return terms, sums | told(scores["logp"].detach(), targets)
