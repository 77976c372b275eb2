"""The parts of a recipe that a stage has which learns from its own answers: rollouts, rewards, a judge; and their checks.

Left out: what the objectives, advantages and rewards do (train/, grade/).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from bottega.core import table
from bottega.core.config import Marks, closest, convert, option, plain
from bottega.core.errors import UserError
from bottega.core.rundir import sha256
from bottega.core.strictyaml import Path as Keys
from bottega.data.remote import holds_password, masked
from bottega.grade import rewards
from bottega.grade.rewards import LARGEST
from bottega.train.advantages import ADVANTAGES
from bottega.train.objectives import OBJECTIVES
from bottega.workshop import recipe_live
from bottega.workshop.recipe_choice import Choice
from bottega.workshop.recipe_limits import outside

ONLINE = tuple(name for name, entry in OBJECTIVES.items() if entry.data == "prompt")
"""Objectives that learn from their own answers."""
UNREWARDED = ("gkd",)
"""Those that learn from a teacher, whatever their answers are worth."""
UNWEIGHED = ("raft", "online_dpo", *UNREWARDED)
"""Those that use no advantage: they choose among answers, or look at none of their rewards."""
ASKED = {
    "model": "bottega.workshop.reward_models:reward_model",
    "steps": "bottega.workshop.reward_steps:reward_steps",
    "judge": "bottega.workshop.reward_judge:reward_judge",
}
"""Rewards that are models: `model`, a reward model (on the policy's base where it is an adapter of it), `steps`, one that judges each
step, and `judge`, which is asked."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Graded:
    """A reward and its weight in the sum: `exact`, or `{name: length, target: 20, weight: 0.5}`."""

    name: str
    weight: float = option(1.0, "in the sum of the rewards; below 0 it is a punishment")
    options: dict[str, Any] = option(factory=dict)

    @staticmethod
    def shorthand(value: Any) -> Any:
        """`exact` -> {name: exact}; {name: length, target: 20} -> {name: length, options: {target: 20}}."""
        if isinstance(value, str):
            return {"name": value}
        if isinstance(value, Mapping) and "options" not in value:
            own = {key: item for key, item in value.items() if key in ("name", "weight")}
            return {**own, "options": {key: item for key, item in value.items() if key not in own}}
        return value


@dataclass(frozen=True, kw_only=True, slots=True)
class Rollout:
    """How answers are sampled, and when learning from them stops."""

    group: int | None = option(None, "answers to each prompt; default: 8, and 1 for ppo and gkd", low=1)
    prompts: int | None = option(None, "prompts of a round; default: the stage's batch", low=1)
    max_tokens: int = option(128, "longest answer", low=1)
    temperature: float = option(1.0, "of sampling; the trainer's own numbers are of the same temperature", above=0)
    epochs: int = option(1, "times through a round", low=1)
    advantage: Choice | None = option(
        None,
        "how good an answer was beyond what was to be expected: group, leave_one_out, batch or gae; default: the objective's own",
    )
    cut: Literal["keep", "mask"] = option("keep", "answers cut at max_tokens: learned from, or left out of the loss")
    cut_penalty: float = option(0.0, "taken off the reward of answers cut at max_tokens", low=0)
    resample: int = option(0, "rounds of other prompts for those whose answers all have one reward (DAPO)", low=0)
    keep: int | None = option(None, "learn from so many best answers alone; raft: 1 where nothing is said", low=1)
    pair: Literal["best_worst", "best_random", "random_worst", "random"] | None = option(
        None, "online_dpo: which two answers make a pair; default: best_worst"
    )
    kl_target: float | None = option(
        None,
        "nats an answer at which the advantage's kl settles: it adapts from round to round; default: it is fixed",
        above=0,
    )
    rescore: bool | None = option(
        None,
        "score answers with the trainer instead of taking the sampler's numbers; default: for ppo, 16 bits and a server",
    )
    server: str | None = option(None, "a vLLM server that samples, http://HOST:8000/v1; default: this process")
    server_key_env: str = option("", "the environment variable with the server's key")
    stop_kl: float = option(0.1, "nats a token from the policy that sampled, at which a round ends early", above=0)
    max_kl: float = option(1.0, "nats a token from the reference, at which the run ends (exit 5)", above=0)
    max_drift: float = option(0.02, "nats a token between sampler and trainer, at which the run ends (exit 5)", above=0)
    flat_steps: int = option(20, "steps in a row without a difference in reward, after which the run ends", low=1)
    cut_steps: int = option(20, "steps in a row with most answers cut, after which the run ends", low=1)


def check(stage: Any, marks: Marks, place: Keys) -> list[str]:
    """Mistakes in a stage's rollout, rewards and judge."""
    mistakes: list[str] = []

    def fail(key: str, message: str) -> None:
        mistakes.append(f"{marks.at((*place, key))}: {message}")

    name = stage.objective.name
    if name not in ONLINE:
        for key in ("rollout", "rewards", "judge", "feedback"):
            if getattr(stage, key) is not None:
                fail(
                    key, f"{key} is for objectives that learn from their own answers ({', '.join(ONLINE)}), not {name}"
                )
        return mistakes
    if not stage.rewards and name not in UNREWARDED:
        fail(
            "rewards",
            f"{name} needs a reward: write rewards: [exact], or any of {', '.join((*ASKED, *rewards.names()))}",
        )
    for key in ("rewards", "judge"):
        for part in getattr(stage, key) or ():
            mistakes += [f"{marks.at((*place, key))}: {said}" for said in _check_reward(part)]
    for key in ("mixture", "curriculum", "context", "blocks", "shards"):
        if getattr(stage, key, None):
            fail(key, f"{key} orders rows that are there, and {name} makes its own: leave it out")
    if stage.over_length in ("split", "truncate"):
        fail("over_length", "a prompt that is cut asks something else; write drop or error")
    if stage.judge is not None and stage.validation is None:
        fail("judge", "a judge looks at answers to held-out prompts: add `validation: 0.1` or a file")
    rollout = stage.rollout or Rollout()
    group = rollout.group or usual_group(name)
    if group == 1 and name not in ("ppo", "reinforce_pp", *UNREWARDED):
        fail(
            "rollout", f"{name} compares answers to one prompt, and a group of 1 has nothing to compare; write group: 8"
        )
    if rollout.keep is not None and (name != "raft" or rollout.keep > group):
        fail(
            "rollout",
            f"keep: {rollout.keep} is for raft, and at most the group ({group}); {name} learns from all answers",
        )
    if rollout.pair is not None and name != "online_dpo":
        fail("rollout", f"pair is for online_dpo; {name} learns from whole groups")
    if rollout.kl_target is not None and not _usual(name, rollout).options.get("kl"):
        fail("rollout", "kl_target adapts the advantage's kl, which is 0; write advantage: {name: gae, kl: 0.05}")
    if rollout.prompts is not None and rollout.prompts < stage.batch:
        fail("rollout", f"a round of {rollout.prompts} prompts does not fill a batch of {stage.batch}; lower batch")
    if rollout.server is not None:
        mistakes += [f"{marks.at((*place, 'rollout'))}: {said}" for said in _check_server(stage, rollout)]
    if stage.feedback is not None:
        mistakes += [f"{marks.at((*place, 'feedback'))}: {said}" for said in recipe_live.check(stage, group)]
    if rollout.advantage is not None:
        mistakes += [
            f"{marks.at((*place, 'rollout'))}: {said}" for said in _check_advantage(name, rollout.advantage, group)
        ]
    return mistakes


def _check_server(stage: Any, rollout: Rollout) -> list[str]:
    """Mistakes in `rollout.server`."""
    assert rollout.server is not None
    found = []
    if not rollout.server.startswith(("http://", "https://")):
        found.append(f"rollout.server {rollout.server!r} is no http(s) address; write it up to /v1")
    elif holds_password(rollout.server):
        found.append(f"{masked(rollout.server)} holds a password; take it out and name its variable: server_key_env")
    if stage.method.name != "lora" or stage.method.options.get("init") in ("pissa", "olora"):
        found.append("a server loads LoRA adapters of the base it has; write method: lora, or leave rollout.server out")
    if rollout.server_key_env and not os.environ.get(rollout.server_key_env):
        found.append(f"the environment variable {rollout.server_key_env} is not set; set it to the server's key")
    return found


def _check_reward(part: Graded) -> list[str]:
    known = table.options(ASKED[part.name]) if part.name in ASKED else rewards.known(part.name)
    if known is None:
        return [f"there is no reward {part.name!r}{closest(part.name, [*ASKED, *rewards.names()])}"]
    found = []
    for key, value in part.options.items():
        if key not in known:
            found.append(f"the reward {part.name} has no option {key!r}{closest(key, known)}")
        else:
            found += _check_value(f"the reward {part.name}", known[key].kind, key, value)
    missing = [o.name for o in known.values() if o.default is table.REQUIRED and o.name not in part.options]
    if not abs(part.weight) <= LARGEST:
        found.append(
            f"the reward {part.name} has weight: {part.weight}, beyond {LARGEST:g} either way; scale the reward"
        )
    return found + [f"the reward {part.name} needs the option {key!r}" for key in missing]


def _check_value(owner: str, kind: Any, key: str, value: Any) -> list[str]:
    """What is wrong with the type or the size of an option's value."""
    made, wrong = convert(kind, value, path=(key,))
    if wrong:
        return [f"{owner}: {line}" for line in wrong]
    said = outside(owner.rpartition(" ")[2], key, made)
    return [said] if said else []


def _check_advantage(objective: str, chosen: Choice, group: int) -> list[str]:
    if chosen.name not in ADVANTAGES:
        return [f"there is no advantage {chosen.name!r}{closest(chosen.name, ADVANTAGES)}"]
    if (chosen.name == "gae") != (objective == "ppo"):
        return [f"the advantage {chosen.name} does not go with {objective}: gae is for ppo, which has a value head"]
    if objective in UNWEIGHED:
        if chosen == _usual(objective, Rollout()):  # as a run that goes on has it written out
            return []
        return [f"{objective} chooses among answers by their rewards alone; leave rollout.advantage out"]
    known, found = table.options(ADVANTAGES[chosen.name]), []
    for key, value in chosen.options.items():
        if key not in known:
            found.append(f"the advantage {chosen.name} has no option {key!r}{closest(key, known)}")
        else:
            found += _check_value(f"the advantage {chosen.name}", known[key].kind, key, value)
    compares = chosen.name in ("group", "leave_one_out") or chosen.options.get("baseline")
    if group == 1 and compares:
        found.append(
            f"the advantage {chosen.name} compares answers to one prompt, and a group of 1 has nothing to compare; write group: 8"
        )
    return found


def usual_group(objective: str) -> int:
    """Answers to a prompt where the recipe says nothing."""
    return 1 if objective in ("ppo", *UNREWARDED) else 8


def _usual(objective: str, rollout: Rollout) -> Choice:
    """The advantage with all its options: the recipe's, or the objective's own."""
    usual = dict(OBJECTIVES[objective].advantage)
    chosen = rollout.advantage or Choice(name=usual.pop("name"), options=usual)
    if chosen.name not in ADVANTAGES:
        return chosen  # the check says so
    defaults = {key: plain(one.default) for key, one in table.options(ADVANTAGES[chosen.name]).items()}
    return Choice(name=chosen.name, options={**defaults, **chosen.options})


def complete(stage: Any) -> dict[str, Any]:
    """The stage's fields with what depends on others written out; nothing for other objectives."""
    name = stage.objective.name
    if name not in ONLINE:
        return {}
    rollout = stage.rollout or Rollout()
    rollout = replace(
        rollout,
        keep=rollout.keep or (1 if name == "raft" else None),
        pair=rollout.pair or ("best_worst" if name == "online_dpo" else None),
        group=rollout.group or usual_group(name),
        prompts=rollout.prompts or stage.batch,
        advantage=_usual(name, rollout),
        rescore=rollout.rescore
        if rollout.rescore is not None
        else name == "ppo" or "16" in str(stage.loop.get("precision")) or rollout.server is not None,
    )
    return {"rollout": rollout, "feedback": recipe_live.where(stage.feedback) if stage.feedback else None}


def flat(stage: dict[str, Any]) -> None:
    """Rewards, judge and advantage of a stage's plain data in the form in which they are written."""
    for key in ("rewards", "judge"):
        if stage.get(key):
            stage[key] = [{**{k: v for k, v in one.items() if k != "options"}, **one["options"]} for one in stage[key]]
    rollout = stage.get("rollout")
    if rollout and rollout.get("advantage"):
        rollout["advantage"] = {"name": rollout["advantage"]["name"], **rollout["advantage"]["options"]}


def record(kept: dict[str, Any]) -> dict[str, Any]:
    """What a run remembers of the files that judge: their names in `kept` (the folder may move), and the content of code."""
    recipe_live.record(kept)
    for key in ("server", "server_key_env"):  # a server may move while a run stands still
        (kept.get("rollout") or {}).pop(key, None)
    files = {}
    for key in ("rewards", "judge"):
        for part in kept.get(key) or ():
            if "path" in part["options"]:
                path = Path(part["options"]["path"])
                part["options"] = {**part["options"], "path": path.name}
                if path.is_file():
                    files[path.name] = sha256(path)
    return {"reward_files": files} if files else {}


def refuse_processes(name: str, size: int) -> None:
    """Answers are sampled in one process.

    Raises:
        UserError: there are several.
    """
    if size > 1:
        raise UserError(f"{name} samples its answers in one process, and there are {size}: start one")
