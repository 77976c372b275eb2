"""The order of rows: a function of (seed, epoch, number of rows) alone, the same for any number of ranks and workers.

Left out: mixtures and curricula.
"""

import numpy as np


def order(num_rows: int, seed: int, epoch: int) -> np.ndarray:
    """A permutation of range(num_rows), int64, drawn for this epoch.

    The generator is seeded with the pair, so that epoch 3 can be had without drawing epochs 0 to 2.
    """
    return np.random.default_rng([seed, epoch]).permutation(num_rows)
