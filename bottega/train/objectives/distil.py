"""Distillation: a student learns a teacher's whole distribution of the next token, not only the token that was written.

Left out: learning from a teacher's text alone (sft does that); sampling the student's own answers (train/rollout.py).
"""

from __future__ import annotations

from bottega.core.errors import UserError
from bottega.core.types import Scores, Sums, Targets, Term
from bottega.train.objectives.told import told


def distil(
    scores: Scores, targets: Targets, *, beta: float = 0.0, temperature: float = 1.0, nll_weight: float = 0.0
) -> tuple[dict[str, Term], Sums]:
    """Come near the teacher at every trained token: sum_s w_s D(teacher, student), and a part of the usual loss.

    D is the generalised Jensen-Shannon divergence of Agarwal et al. 2023 (arXiv 2306.13649) eq. 1, with the logits of both divided by
    the temperature (Hinton et al. 2015, arXiv 1503.02531; without their factor T^2). The Scorer computes it, with `beta` and
    `temperature` as they stand here.

    Args:
        scores: `divergence` (S,) in nats; `nll` ().
        beta: 0 forward KL, 1 reverse KL, between them Jensen-Shannon. temperature: 1 to 4. nll_weight: of the tokens' own loss, 0 to 1.

    Returns:
        Terms in tokens; metrics per token: loss (the divergence), nll.
    """
    assert 0.0 <= beta <= 1.0 and temperature > 0, "models/teacher.py has checked them"
    if nll_weight < 0:
        raise UserError(f"distil nll_weight {nll_weight} is below 0; 0 learns from the teacher alone")
    total = (targets.weights_S * scores["divergence"]).sum()
    terms = {"divergence": Term(total, "tokens")}
    if nll_weight:
        terms["nll"] = Term(scores["nll"], "tokens", nll_weight)
    return terms, {"loss/tokens": total.detach(), "nll/tokens": scores["nll"].detach()}


def gkd(
    scores: Scores, targets: Targets, *, beta: float = 0.5, temperature: float = 1.0
) -> tuple[dict[str, Term], Sums]:
    """Come near the teacher where the student itself goes: the divergence at every token of its own answers (on-policy distillation).

    Agarwal et al. 2023 (arXiv 2306.13649) algorithm 1 with lambda 1: the answers are sampled, and no gradient goes through sampling.
    Beside `distil` it unlearns what the student says and the teacher would not.

    Args:
        scores: `divergence` (S,) in nats, `logp` (S,). targets: tokens `old.logp`.
        beta: 0 forward KL, 1 reverse KL, between them Jensen-Shannon. temperature: of the distributions that are compared, 1 to 4.

    Returns:
        One term in tokens; metrics per token: loss (the divergence), and what is told of sampled answers.
    """
    assert 0.0 <= beta <= 1.0 and temperature > 0, "models/teacher.py has checked them"
    total = (targets.weights_S * scores["divergence"]).sum()
    return {"divergence": Term(total, "tokens")}, {"loss/tokens": total.detach()} | told(
        scores["logp"].detach(), targets
    )
