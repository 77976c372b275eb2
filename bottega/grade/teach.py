"""Which question teaches most: how unsure a model, or a group of models, is of the answer people would give.

Left out: the queue (store/queue.py) and the models; only their scores come here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence


def entropy(shares: Sequence[float]) -> float:
    """-sum p ln p, in nats.

    >>> round(entropy([0.5, 0.5]), 4)
    0.6931
    """
    return -sum(share * math.log(share) for share in shares if share > 0)


def _chance(margin: float) -> float:
    return 1 / (1 + math.exp(-max(-700.0, min(700.0, margin))))


def pair_information(margins: Sequence[float]) -> float:
    """What a person's choice between two answers would tell, in nats, from reward margins r_a - r_b under Bradley-Terry.

    One model: the entropy of sigmoid(margin), highest where it is undecided (uncertainty sampling, Lewis and Gale 1994).
    Several: the entropy of their mean less their mean entropy, which is high only
    where they are sure of different things (BALD, Houlsby et al. 2011, eq. 2).

    Example: margins +ln 3 and -ln 3 say 3/4 and 1/4: ln 2 - (ln 4 - 3/4 ln 3) = 0.6931 - 0.5623 = 0.1308; twice 0: 0.

    >>> round(pair_information([math.log(3), -math.log(3)]), 4), pair_information([0.0, 0.0])
    (0.1308, 0.0)
    """
    chances = [_chance(margin) for margin in margins]
    mean = sum(chances) / len(chances)
    whole = entropy([mean, 1 - mean])
    if len(chances) == 1:
        return whole
    return whole - sum(entropy([chance, 1 - chance]) for chance in chances) / len(chances)


def label_information(shares: Sequence[float]) -> float:
    """The entropy of a model's label probabilities, in nats; they are brought to sum 1.

    >>> round(label_information([1, 1]), 4)
    0.6931
    """
    total = sum(shares)
    return entropy([share / total for share in shares])
