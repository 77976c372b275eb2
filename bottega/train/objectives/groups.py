"""Policy-gradient objectives without a value head: several answers to a prompt are each other's measure.

Left out: how good each answer was (train/advantages.py), which comes with the rows as `advantage`, one number a token.

Shapes: S sampled tokens, Q answers of the micro-batch. A row is a prompt with its answers; `old.logp` (S,) is what the sampler
drew each token at, `ref.logp` (S,) what the reference thinks of it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bottega.core.types import Scores, Sums, Targets, Term
from bottega.train.objectives.told import told


def grpo(
    scores: Scores, targets: Targets, *, clip: float = 0.2, clip_high: float | None = None, kl: float = 0.04
) -> tuple[dict[str, Term], Sums]:
    """Make answers likelier that were better than their siblings, within a trust region around the policy that sampled.

    -1/G sum_i 1/|o_i| sum_t [min(r A, clip(r, 1 - e, 1 + e_high) A) - kl D], r = exp(logp - old.logp), D = exp(ref - logp) - (ref -
    logp) - 1; DeepSeekMath (arXiv 2402.03300) eq. 3 and 4.

    Args:
        scores: `logp` (S,). targets: tokens `old.logp`, `advantage`, and `ref.logp` where kl is not 0.
        clip, clip_high: the trust region, 0.1 to 0.3; above 1 `clip_high` holds (default: as below). kl: 0 to 0.1.

    Returns:
        Terms in rows (prompts).
    """
    loss_S, ratio_S = clipped(scores["logp"], targets, clip, clip_high)
    loss_S = loss_S + kl * away(scores["logp"], targets) if kl else loss_S
    return _terms(_mean_of_answers(loss_S, targets), "rows", targets, scores["logp"], ratio_S, clip, clip_high)


def dr_grpo(
    scores: Scores, targets: Targets, *, clip: float = 0.2, clip_high: float | None = None, kl: float = 0.0
) -> tuple[dict[str, Term], Sums]:
    """GRPO without its two biases: an answer's tokens are not weighed by its length, nor a prompt by its spread.

    As `grpo` with sum_t / max_tokens in the place of the mean over |o_i|; Liu et al. 2025 (arXiv 2503.20783), section 3.2. Its
    advantage is `group` with scale false.
    """
    loss_S, ratio_S = clipped(scores["logp"], targets, clip, clip_high)
    loss_S = loss_S + kl * away(scores["logp"], targets) if kl else loss_S
    per_Q = _per_answer(targets.weights_S * loss_S, targets) / targets.extras_Q["max_tokens"]
    return _terms(per_Q / _answers(targets), "rows", targets, scores["logp"], ratio_S, clip, clip_high)


def dapo(
    scores: Scores, targets: Targets, *, clip: float = 0.2, clip_high: float = 0.28, kl: float = 0.0
) -> tuple[dict[str, Term], Sums]:
    """GRPO whose every token counts alike and whose unlikely tokens may grow: the mean is over all tokens of the batch.

    Yu et al. 2025 (arXiv 2503.14476) eq. 8: clip-higher (3.1), token-level loss (3.3). Dynamic sampling (3.2) is rollout.resample;
    overlong shaping (3.4) the reward `overlong`.
    """
    loss_S, ratio_S = clipped(scores["logp"], targets, clip, clip_high)
    loss_S = loss_S + kl * away(scores["logp"], targets) if kl else loss_S
    return _terms(targets.weights_S * loss_S, "tokens", targets, scores["logp"], ratio_S, clip, clip_high)


def gspo(
    scores: Scores, targets: Targets, *, clip: float = 3e-4, clip_high: float = 4e-4, kl: float = 0.0
) -> tuple[dict[str, Term], Sums]:
    """One ratio for the whole answer, as the reward is one for the whole answer.

    s_i = exp(1/|o_i| sum_t (logp - old.logp)); -1/G sum_i min(s A, clip(s, 1 - e, 1 + e_high) A); Zheng et al. 2025
    (arXiv 2507.18071) eq. 5 to 7; the clips are those of its section 5.1.
    """
    logp, weights = scores["logp"], targets.weights_S
    lengths_Q = _per_answer(weights, targets).clamp_min(1.0)
    shift_Q = _per_answer(weights * (logp - targets.tokens["old.logp"]), targets) / lengths_Q
    ratio_S = shift_Q.exp()[targets.sequence_S]
    loss_S = _lower(ratio_S, targets.tokens["advantage"], clip, clip_high)
    loss_S = loss_S + kl * away(logp, targets) if kl else loss_S
    return _terms(_mean_of_answers(loss_S, targets), "rows", targets, logp, ratio_S, clip, clip_high)


def rloo(scores: Scores, targets: Targets, *, clip: float | None = None) -> tuple[dict[str, Term], Sums]:
    """Plain REINFORCE on whole answers; the baseline is the mean reward of the siblings (leave one out).

    -1/G sum_i A_i sum_t logp; Ahmadian et al. 2024 (arXiv 2402.14740) eq. 6. The distance from the reference is in the reward. Its
    gradient is r grad logp with r = 1 on the policy's own answers; with `clip` (several epochs) r is the answer's ratio, clipped.
    """
    logp, weights = scores["logp"], targets.weights_S
    shift_Q = _per_answer(weights * (logp - targets.tokens["old.logp"]), targets)
    advantage_Q = _per_answer(weights * targets.tokens["advantage"], targets) / _per_answer(weights, targets).clamp_min(
        1.0
    )
    ratio_Q = shift_Q.exp()
    if clip is None:
        loss_Q = -advantage_Q * _per_answer(weights * logp, targets)
    else:
        loss_Q = _lower(ratio_Q, advantage_Q, clip, None)
    return _terms(
        loss_Q / _answers(targets), "rows", targets, logp, ratio_Q.detach()[targets.sequence_S], clip or 0.2, None
    )


def reinforce_pp(scores: Scores, targets: Targets, *, clip: float = 0.2) -> tuple[dict[str, Term], Sums]:
    """PPO's clipped loss with advantages whitened over the batch instead of a value head (REINFORCE++).

    Hu 2025 (arXiv 2501.03262) eq. 4; the advantage is `batch`, with the distance from the reference in the reward.
    """
    loss_S, ratio_S = clipped(scores["logp"], targets, clip, None)
    return _terms(targets.weights_S * loss_S, "tokens", targets, scores["logp"], ratio_S, clip, None)


def clipped(logp_S: Tensor, targets: Targets, clip: float, clip_high: float | None) -> tuple[Tensor, Tensor]:
    """-min(r A, clip(r) A) per token and the ratios r, Schulman et al. 2017 (arXiv 1707.06347) eq. 7."""
    ratio_S = (logp_S - targets.tokens["old.logp"]).exp()
    return _lower(ratio_S, targets.tokens["advantage"], clip, clip_high), ratio_S


def _lower(ratio: Tensor, advantage: Tensor, clip: float, clip_high: float | None) -> Tensor:
    held = ratio.clamp(1 - clip, 1 + (clip if clip_high is None else clip_high))
    return -torch.minimum(ratio * advantage, held * advantage)


def away(logp_S: Tensor, targets: Targets) -> Tensor:
    """How far the policy is from the reference, per token in nats: exp(d) - d - 1 with d = ref - logp, never negative
    (Schulman 2020, Approximating KL Divergence, k3)."""
    shift_S = targets.tokens["ref.logp"] - logp_S
    return shift_S.exp() - shift_S - 1


def _per_answer(numbers_S: Tensor, targets: Targets) -> Tensor:
    """Sums over the tokens of each answer, (Q,)."""
    return numbers_S.new_zeros(len(targets.row_Q)).index_add(0, targets.sequence_S, numbers_S)


def _answers(targets: Targets) -> Tensor:
    """How many answers the row of each answer has, (Q,)."""
    return torch.bincount(targets.row_Q)[targets.row_Q].to(targets.weights_S.dtype)


def _mean_of_answers(loss_S: Tensor, targets: Targets) -> Tensor:
    """1/G of the mean over its tokens of each answer, (Q,): summed, the mean of the means of each row."""
    weights = targets.weights_S
    means_Q = _per_answer(weights * loss_S, targets) / _per_answer(weights, targets).clamp_min(1.0)
    return means_Q / _answers(targets)


def _terms(
    loss: Tensor, unit: str, targets: Targets, logp: Tensor, ratio_S: Tensor, clip: float, high: float | None
) -> tuple[dict[str, Term], Sums]:
    term = Term(loss.sum(), unit)  # type: ignore[arg-type]
    with torch.no_grad():
        outside_S = (ratio_S > 1 + (clip if high is None else high)) | (ratio_S < 1 - clip)
        sums = {f"loss/{unit}": term.total.detach(), "clipped/tokens": (targets.weights_S * outside_S).sum()}
    return {"policy": term}, sums | told(logp.detach(), targets)
