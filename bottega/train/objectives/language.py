"""Language modelling, on text (`pretrain`) and on trained turns (`sft`): the same function, other targets."""

from __future__ import annotations

from bottega.core.types import Scores, Sums, Targets, Term


def language_model(scores: Scores, targets: Targets) -> tuple[dict[str, Term], Sums]:
    """The average surprise at the tokens to be learned: sum_s w_s * -log p(y_s | y_<s), divided by sum_s w_s.

    Args:
        scores: `nll` (), the weighted sum in nats.
        targets: unused beyond what the Scorer saw.

    Returns:
        One term in tokens; the metric `loss` per token.
    """
    total = scores["nll"]
    return {"nll": Term(total, "tokens")}, {"loss/tokens": total.detach()}
