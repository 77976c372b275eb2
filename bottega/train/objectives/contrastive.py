"""In-batch contrastive learning of embeddings: a coupled loss, which needs all rows of the global batch at once.

Left out: hard negatives and margins.

Shapes: Q sequences (the two views of a row are neighbours), P rows, D width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from bottega.core.types import Scores, Sums, Targets, Term


def info_nce(scores: Scores, targets: Targets, *, temperature: float = 0.05) -> tuple[dict[str, Term], Sums]:
    """Each text must find its own partner among all partners of the batch.

    -log softmax_j(a_i . b_j / t)[i], summed over i, both ways; van den Oord et al. 2018 (arXiv 1807.03748) eq. 4 with in-batch
    negatives.

    Args:
        scores: `embedding` (Q, D) unit vectors of the WHOLE global batch (the loop gathers them).
        temperature: 0.01 to 0.2.

    Returns:
        One term in rows; metrics per row: loss, accuracy.
    """
    first_PD, second_PD = scores["embedding"][0::2], scores["embedding"][1::2]
    similarity_PP = first_PD @ second_PD.T / temperature
    own = torch.arange(len(first_PD), device=first_PD.device)
    total = 0.5 * (
        F.cross_entropy(similarity_PP, own, reduction="sum") + F.cross_entropy(similarity_PP.T, own, reduction="sum")
    )
    right = (similarity_PP.argmax(1) == own).float().sum()
    return {"info_nce": Term(total, "rows")}, {"loss/rows": total.detach(), "accuracy/rows": right}
