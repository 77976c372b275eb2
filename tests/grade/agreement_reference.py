"""Makes agreement_reference.json: kappas by scikit-learn (Cohen) and statsmodels (Fleiss), alpha by the package krippendorff.

Left out: our own code. Run it in an environment of its own that has these three packages.
"""

import json
import random
from importlib.metadata import version
from pathlib import Path

import krippendorff
import numpy as np
from sklearn.metrics import cohen_kappa_score
from statsmodels.stats.inter_rater import aggregate_raters, fleiss_kappa

SHAPES = ((12, 2, 2, 0.3), (40, 3, 4, 0.5), (25, 5, 3, 0.2), (60, 2, 5, 1.0), (9, 4, 7, 0.6))
"""Items, people, labels, share of answers drawn at random."""


def main() -> None:
    rng = random.Random(7)
    cases = []
    for num_items, num_people, num_labels, noise in SHAPES:
        truth = [rng.randrange(num_labels) for _ in range(num_items)]
        full = [[t if rng.random() > noise else rng.randrange(num_labels) for _ in range(num_people)] for t in truth]
        holes = [[value if rng.random() > 0.25 else None for value in item] for item in full]
        units = np.array([[np.nan if v is None else float(v) for v in item] for item in holes]).T
        cases.append(
            {
                "full": full,
                "holes": holes,
                "cohen": float(cohen_kappa_score([i[0] for i in full], [i[1] for i in full])),
                "fleiss": float(fleiss_kappa(aggregate_raters(np.array(full))[0])),
                "alpha": {
                    level: float(krippendorff.alpha(reliability_data=units, level_of_measurement=level))
                    for level in ("nominal", "ordinal", "interval")
                },
            }
        )
    made_by = {name: version(name) for name in ("scikit-learn", "statsmodels", "krippendorff")}
    Path(__file__).with_suffix(".json").write_text(json.dumps({"made_by": made_by, "cases": cases}) + "\n")


if __name__ == "__main__":
    main()
