"""Writes bottega/workshop/open_models.json: what a micro-batch of each open model needs, for `bottega plan --suggest`.

Left out: weights; everything is rehearsed from the configs of bottega/workshop/plan_models.py (a minute or two).

    python benchmarks/plan_open_models.py
"""

from __future__ import annotations

import json

from bottega.workshop import plan_models, suggest


def main() -> None:
    """Rehearse every model in every way and write the file."""
    models = {}
    for entry in plan_models.OPEN_MODELS:
        models[entry.name] = {way: suggest.needs_to(found) for way, found in suggest.rehearse_model(entry)}
        print(entry.name, {way: round(one["weights"] / 1e9, 1) for way, one in models[entry.name].items()}, flush=True)
    suggest.FILE.write_text(json.dumps({"date": plan_models.DATE, "models": models}) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
