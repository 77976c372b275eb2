"""Wiring of people into a stage that learns from its own answers: the queue, and the reward model that is trained on their ratings.

Left out: the rounds (train/live.py), the stage around them (build_online.py).
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from bottega.core import rundir
from bottega.core.errors import UserError
from bottega.core.types import Attached, Row
from bottega.evals.hook import undisturbed
from bottega.models.methods.groups import make_groups
from bottega.models.reward import ADAPTER, join_new, joined_state, put_joined, read_joined, worn
from bottega.train import objectives
from bottega.train.assemble import assemble
from bottega.train.live import Live, LivePlan
from bottega.train.loop import Loop
from bottega.train.parts import Parts
from bottega.train.reward_batch import ModelReward
from bottega.train.rewards import Composition, Weighed
from bottega.train.settings import LoopSettings
from bottega.train.source import Dataset
from bottega.workshop.build import Setup, saver, vocabulary
from bottega.workshop.live_queue import open_queue
from bottega.workshop.recipe_live import Feedback
from bottega.workshop.reward_models import RewardModels

BATCH = 8
"""Pairs of a step of the reward model's training."""
SAME = ("micro_tokens", "memory_gb", "precision", "checkpointing", "recompute_every", "recompute_keep", "optimizer")
"""Settings of the stage that hold for its reward model too."""


def people_in(setup: Setup, attached: Attached, models: RewardModels, rewards: Composition) -> tuple[Live, Composition]:
    """The people of a stage, and its rewards with their word in them.

    Their word counts in the reward `model`; where the recipe has none, in one called `people`, of weight 1: a new reward model on the
    policy's base if the recipe refreshes one, else their ratings alone.

    Raises:
        UserError: a queue that refuses, or a reward model that cannot be trained here.
    """
    feedback = setup.stage.feedback
    assert feedback is not None
    folder = setup.folder / "live"
    fresh = not (folder / "round-000000.json").is_file()
    queue, scale = open_queue(feedback, fresh=fresh, note=setup.note)
    place = next((i for i, part in enumerate(rewards.parts) if part.name == "model"), None)
    inner: Any = rewards.parts[place].reward if place is not None else None
    learner = None
    if feedback.refresh:
        inner = inner or _new_model(setup, attached, models)
        learner = RewardLearner(setup, attached, folder, starts=place is not None)
        if inner.apart is not None:
            raise UserError(
                f"the reward model lies on another base than {setup.start}, and is not trained here: write refresh: 0, or train "
                f"one with objective reward, method lora and model {setup.start}"
            )
        models.learners.append(learner)
    live = Live(queue, _plan(feedback, scale, setup), folder, note=setup.note, learner=learner)
    judged = live.judge(inner)
    if place is None:
        return live, Composition([*rewards.parts, Weighed(name="people", weight=1.0, reward=judged)])
    parts = list(rewards.parts)
    parts[place] = Weighed(name="model", weight=parts[place].weight, reward=judged)
    return live, Composition(parts)


def _new_model(setup: Setup, attached: Attached, models: RewardModels) -> ModelReward:
    import torch

    with undisturbed(attached.model):
        torch.manual_seed(setup.seed)
        join_new(attached)
    setup.note("people's reward model: a new adapter on the policy's base, which lies in memory once")
    return models.new()


def _plan(feedback: Feedback, scale: int, setup: Setup) -> LivePlan:
    return LivePlan(
        kind=feedback.ask,
        scale=scale,
        blend=feedback.blend,
        samples=feedback.samples,
        active=feedback.choose == "active",
        refresh=feedback.refresh,
        again=feedback.again,
        seed=setup.seed,
        name=f"{setup.folder.resolve().parents[1].name}/{setup.folder.name}",
    )


class Silent:
    """The progress of a training inside another: only its notes are heard."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say = say

    def update(self, step: int, metrics: Mapping[str, float]) -> None:
        """Nothing."""

    def note(self, line: str) -> None:
        """Nothing either: what a small training says of itself is in its folder."""


class RewardLearner:
    """The joined reward model, trained anew from its start at each refresh: train/live.py's Learner.

    Each version lies in `folder`/reward-NNNNNN as a reward model that `score` and `rewards: [{name: model}]` read.
    """

    parts: Parts | None = None

    def __init__(self, setup: Setup, attached: Attached, folder: Path, *, starts: bool) -> None:
        self.setup, self.attached, self.folder = setup, attached, folder
        self.starts = self.opinion = starts
        self.start = joined_state(attached) if attached.reward is not None else {}

    def begin_again(self) -> None:
        """As Learner."""
        put_joined(self.attached, self.start)
        self.opinion = self.starts

    def learn(self, version: int, rows: Sequence[Row]) -> None:
        """As Learner."""
        final = self.folder / f"reward-{version:06d}"
        facts = {"pairs": len(rows), "sha256": _digest(rows)}
        if not (final / "pairs.json").is_file() or rundir.read_json(final / "pairs.json") != facts:
            self._train(version, rows, final, facts)
        with undisturbed(self.attached.model):  # reading draws numbers, and a run that goes on reads once more
            read_joined(self.attached, final)
        self.opinion = True

    def _train(self, version: int, rows: Sequence[Row], final: Path, facts: Mapping[str, Any]) -> None:
        """The one loop over the pairs, in the reward's adapter and head alone; the policy's training notices nothing of it."""
        import torch

        outer, model = self.parts, cast(Any, self.attached.model)
        assert outer is not None, "the stage's parts are set before the first round"
        scratch = self.folder / f".{final.name}.work"
        shutil.rmtree(scratch, ignore_errors=True)
        (scratch / "model").mkdir(parents=True)
        with undisturbed(model), worn(model, ADAPTER):
            torch.manual_seed(self.setup.seed + 7919 * (version + 1))
            put_joined(self.attached, self.start)
            inner, head = self._attached()
            settings = self._settings()
            parts = assemble(
                inner,
                objectives.spec("reward"),
                Dataset(rows, batch=BATCH, seed=self.setup.seed + version),
                settings,
                vocabulary=vocabulary(self.setup.loaded),
                pad_id=outer.pad_id,
                packed=outer.packed,
                save_model=lambda folder: Path(folder).mkdir(parents=True, exist_ok=True),
                scratch=scratch,
            )
            outcome = Loop(parts, settings, scratch, Silent(self.setup.note)).run()
            saver(self.setup, inner)(str(scratch / "model"))
            head.requires_grad_(False)
            parts.optimizer.close()
        shutil.copyfile(scratch / "metrics.jsonl", scratch / "model" / "metrics.jsonl")
        rundir.write_json(scratch / "model" / "pairs.json", dict(facts))
        rundir.publish(scratch / "model", final)
        shutil.rmtree(scratch, ignore_errors=True)
        right = outcome.last.get("accuracy")
        self.setup.note(
            f"round {version}: the reward model was trained on {len(rows)} pairs of people's ratings"
            + (f" (orders {right:.0%} of its last batch as they do)" if right is not None else "")
        )

    def _attached(self) -> tuple[Attached, Any]:
        """The policy's model as the reward's: its adapter and head learn, all else rests."""
        from bottega.models.methods.adapter import save_adapter

        model, head = cast(Any, self.attached.model), cast(Any, self.attached.reward)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(f".{ADAPTER}." in name)
        head.requires_grad_(True)
        made = Attached(
            name=self.attached.name,
            model=model,
            groups=make_groups(model.named_parameters()),
            save=lambda folder: save_adapter(model, folder, name=ADAPTER),
            merge=None,
            reference_kind=self.attached.reference_kind,
            packs=self.attached.packs,
            reward=head,
        )
        return made, head

    def _settings(self) -> LoopSettings:
        stage = self.setup.stage
        assert stage.feedback is not None
        return LoopSettings(
            steps=stage.feedback.refresh_steps,
            lr=stage.feedback.refresh_lr,
            compile=False,
            spikes="off",
            self_check=0,
            **{key: stage.loop[key] for key in SAME},
        )


def _digest(rows: Sequence[Row]) -> str:
    plain = [[list(row.prefix.ids), [list(b.ids) for b in row.branches], list(row.extras["share"])] for row in rows]
    return hashlib.sha256(json.dumps(plain).encode()).hexdigest()
