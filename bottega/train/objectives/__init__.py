"""The table of objectives: name -> function, layout, needs and units.

An objective is one pure function of (scores, targets); its keyword-only parameters are its options, and their
signature, default and docstring are the schema, the check and the help text.
"""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Mapping
from importlib import import_module
from typing import Any, NamedTuple

from bottega.core.errors import UserError
from bottega.core.types import Spec


class Entry(NamedTuple):
    """One line of the table.

    data: the kind of sample it learns from. advantage: the usual one, of those that learn from their own answers.
    """

    function: str
    data: str
    layout: str
    needs: tuple[str, ...]
    units: tuple[str, ...]
    coupled: bool = False
    prepare: str = ""
    advantage: Mapping[str, Any] = {}


OBJECTIVES: dict[str, Entry] = {
    "pretrain": Entry("bottega.train.objectives.language:language_model", "text", "single", ("nll",), ("tokens",)),
    "sft": Entry("bottega.train.objectives.language:language_model", "chat", "single", ("nll",), ("tokens",)),
    "dpo": Entry("bottega.train.objectives.preference:dpo", "preference", "branches", ("logp", "ref.logp"), ("pairs",)),
    "distil": Entry("bottega.train.objectives.distil:distil", "chat", "single", ("divergence", "nll"), ("tokens",)),
    "kto": Entry(
        "bottega.train.objectives.unpaired:kto",
        "unpaired",
        "branches",
        ("logp", "ref.logp"),
        ("rows",),
        prepare="bottega.train.objectives.unpaired:mismatch",
    ),
    "orpo": Entry("bottega.train.objectives.pairs:orpo", "preference", "branches", ("logp",), ("pairs",)),
    "simpo": Entry("bottega.train.objectives.pairs:simpo", "preference", "branches", ("logp",), ("pairs",)),
    "cpo": Entry("bottega.train.objectives.pairs:cpo", "preference", "branches", ("logp",), ("pairs",)),
    "reward": Entry("bottega.train.objectives.reward:bradley_terry", "preference", "branches", ("reward",), ("pairs",)),
    "process_reward": Entry(
        "bottega.train.objectives.reward:process_reward", "steps", "branches", ("step_reward",), ("tokens",)
    ),
    "ppo": Entry(
        "bottega.train.objectives.policy:ppo",
        "prompt",
        "branches",
        ("logp", "value", "entropy"),
        ("tokens",),
        advantage={"name": "gae"},
    ),
    "grpo": Entry(
        "bottega.train.objectives.groups:grpo", "prompt", "branches", ("logp",), ("rows",), advantage={"name": "group"}
    ),
    "dr_grpo": Entry(
        "bottega.train.objectives.groups:dr_grpo",
        "prompt",
        "branches",
        ("logp",),
        ("rows",),
        advantage={"name": "group", "scale": False},
    ),
    "dapo": Entry(
        "bottega.train.objectives.groups:dapo",
        "prompt",
        "branches",
        ("logp",),
        ("tokens",),
        advantage={"name": "group"},
    ),
    "gspo": Entry(
        "bottega.train.objectives.groups:gspo", "prompt", "branches", ("logp",), ("rows",), advantage={"name": "group"}
    ),
    "rloo": Entry(
        "bottega.train.objectives.groups:rloo",
        "prompt",
        "branches",
        ("logp",),
        ("rows",),
        advantage={"name": "leave_one_out"},
    ),
    "reinforce_pp": Entry(
        "bottega.train.objectives.groups:reinforce_pp",
        "prompt",
        "branches",
        ("logp",),
        ("tokens",),
        advantage={"name": "batch"},
    ),
    "raft": Entry(
        "bottega.train.objectives.chosen:raft",
        "prompt",
        "branches",
        ("logp",),
        ("tokens",),
        advantage={"name": "group"},
    ),
    "online_dpo": Entry(
        "bottega.train.objectives.chosen:online_dpo",
        "prompt",
        "branches",
        ("logp", "ref.logp"),
        ("pairs",),
        advantage={"name": "group"},
    ),
    "gkd": Entry(
        "bottega.train.objectives.distil:gkd",
        "prompt",
        "branches",
        ("divergence", "logp"),
        ("tokens",),
        advantage={"name": "group"},
    ),
    "classification": Entry(
        "bottega.train.objectives.labels:classification", "labelled", "pooled", ("labels",), ("rows",)
    ),
    "multilabel": Entry("bottega.train.objectives.labels:multilabel", "labelled", "pooled", ("labels",), ("rows",)),
    "regression": Entry("bottega.train.objectives.labels:regression", "labelled", "pooled", ("labels",), ("rows",)),
    "tagging": Entry("bottega.train.objectives.labels:tagging", "tagged", "single", ("tags",), ("tokens",)),
    "contrastive": Entry(
        "bottega.train.objectives.contrastive:info_nce", "pairs", "pooled", ("embedding",), ("rows",), coupled=True
    ),
}


def spec(name: str, **options: Any) -> Spec:
    """The Spec of objective `name` with its options bound.

    Raises:
        UserError: unknown objective or option, with the nearest name.
    """
    if name not in OBJECTIVES:
        raise UserError(f"objective {name!r} is not known{_nearest(name, OBJECTIVES)}")
    entry = OBJECTIVES[name]
    function = _resolve(entry.function)
    known = [p.name for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY]
    for option in options:
        if option not in known:
            raise UserError(f"objective {name} has no option {option!r}{_nearest(option, known)}")
    return Spec(
        objective=functools.partial(function, **options) if options else function,
        layout=entry.layout,  # type: ignore[arg-type]
        needs=entry.needs,
        units=entry.units,
        coupled=entry.coupled,
        prepare=_resolve(entry.prepare) if entry.prepare else None,
        signed=entry.data == "prompt",
    )


def _resolve(path: str) -> Any:
    module, _, attribute = path.partition(":")
    return getattr(import_module(module), attribute)


def _nearest(word: str, names: Any) -> str:
    near = difflib.get_close_matches(word, list(names), n=1)
    return f": did you mean {near[0]!r}?" if near else f": it has {', '.join(names) or 'none'}"
