"""The alignment journey, recipes/manners: tuned on answers, a reward model, then DPO, PPO and GRPO from one start (rows A12, A4).

Left out: people in the loop (test_live.py). On the bundled model, three seeds (slow): each way raises the held-out share
of polite endings and the held-out reward, near its start, and keeps what was known; on a tiny model, that every stage runs.
"""

from __future__ import annotations

import json
import runpy
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from bottega.core import rundir
from bottega.core.types import Row, Tokens, Turn
from bottega.grade import intervals
from bottega.workshop.stages import run
from tests.models.tiny import tiny_model

RECIPE = Path(__file__).resolve().parents[2] / "recipes" / "manners"
WAYS = ("dpo", "ppo", "grpo")
CHOOSING = ("raft", "best-of-n", "online-dpo", "iterative-dpo")
OLD = ("old_world_questions", "old_world_reading")
SMALL = [
    "tune.steps=4", "tune.batch=8", "judge.steps=3", "judge.batch=4", "dpo.steps=3", "dpo.batch=4", "ppo.steps=4", "ppo.batch=4",
    "ppo.rollout.prompts=4", "ppo.rollout.max_tokens=4", "grpo.steps=3", "grpo.batch=2", "grpo.rollout.prompts=2",
    "grpo.rollout.max_tokens=4", "grpo.validation=0.01", "ppo.validation=0.01", "judge.validation=0.03", "dpo.validation=0.03",
]  # fmt: skip


@pytest.fixture(scope="module")
def manners(tmp_path_factory):
    """The recipe beside the data that its make.py writes."""
    folder = tmp_path_factory.mktemp("manners")
    for path in RECIPE.glob("*.yaml"):
        shutil.copy(path, folder)
    runpy.run_path(str(RECIPE / "make.py"))["write"](folder / "data")
    return folder


def stage(out: Path, name: str) -> Path:
    (found,) = (out / "stages").glob(f"*-{name}")
    return found


def test_every_stage_starts_from_the_tuned_model_and_both_online_ones_are_judged_on_one_base(
    manners, tmp_path, tmp_path_factory, capfd
):
    tiny = tiny_model("llama", tmp_path_factory.mktemp("tiny"), max_position_embeddings=1024)
    result = run(manners / "manners.yaml", [f"model={tiny}", *SMALL], out=tmp_path / "run")
    said = "".join(capfd.readouterr())
    assert said.count("an adapter on the policy's base, which lies in memory once") == 2
    bases = {rundir.read_json(tmp_path / "run" / "run.json")["stages"][name]["base"] for name in ("judge", *WAYS)}
    assert len(bases) == 1 and result.stages["judge"]["eval.accuracy_low"] is not None
    for name in WAYS:
        config = rundir.read_json(stage(tmp_path / "run", name) / "result" / "adapter_config.json")
        assert Path(config["base_model_name_or_path"]).parent.name == "01-tune"
    page = (tmp_path / "run" / "report.html").read_text()
    assert "grpo (from tune)" in page


@dataclass
class Stands:
    """A model on the held-out prompts: polite or not, reward of a sampled answer, nats from the start, old questions right."""

    polite: list[float]
    reward: list[float]
    sampled: list[tuple[list[int], list[int]]]
    old: list[float]


def sampled_on(model: Path, tasks: Path, seed: int) -> Stands:
    """How a model stands, but for the reward."""
    from bottega.demo.world.journey import is_polite
    from bottega.evals.engine import Engine, end_of_turn
    from bottega.evals.runner import evaluate
    from bottega.models.load import load

    loaded = load(str(model))
    module = loaded.attached.model if loaded.attached else loaded.model
    engine = Engine(module, loaded.tokenizer)
    asked = [json.loads(line)["request"] for line in (tasks / "polite_endings.jsonl").read_text().splitlines()]
    prompts = [engine.chat([Turn(role="user", content=text)]) for text in asked]
    more, strings = end_of_turn(engine.tokenizer, engine.chat_template())
    stops = {"stop_ids": (*engine.generator.stop_ids(), *more), "stop": strings}
    replies = engine.generator.sample(prompts, max_tokens=24, temperature=1.0, seed=seed, logps=False, **stops)
    card = evaluate(loaded.attached or module, loaded.tokenizer, [tasks / f"{name}.yaml" for name in OLD], seed=seed)
    return Stands(
        polite=[float(is_polite(reply.text)) for reply in replies],
        reward=[],
        sampled=[(list(prompt), list(reply.ids)) for prompt, reply in zip(prompts, replies)],
        old=[item.value for score in card.scores for item in score.items],
    )


def stands(model: Path, judge: Path, tasks: Path, seed: int) -> Stands:
    from bottega.train.reward_scores import load_reward

    found = sampled_on(model, tasks, seed)
    rows = [
        Row(index=at, prefix=Tokens(prompt, [0.0] * len(prompt)), branches=(Tokens(reply, [1.0] * len(reply)),))
        for at, (prompt, reply) in enumerate(found.sampled)
    ]
    found.reward = [float(value) for value in np.concatenate(load_reward(judge).score(rows))]
    return found


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_dpo_ppo_and_grpo_each_raise_what_people_prefer_near_their_start_and_keep_what_was_known(
    manners, tmp_path, seed
):
    began, out = time.process_time(), tmp_path / "run"
    result = run(manners / "manners.yaml", [f"seed={seed}"], out=out, quiet=True)
    judged = result.stages["judge"]
    print(
        f"seed {seed}: judge {judged['eval.accuracy']:.3f} [{judged['eval.accuracy_low']:.3f}, {judged['eval.accuracy_high']:.3f}]"
    )
    assert judged["eval.accuracy_low"] > 0.7, "of 300 held-out pairs, of which 15 in 100 were chosen against the rule"
    gains(out, WAYS, manners / "data" / "tasks", seed)
    print(f"  {time.process_time() - began:.0f} CPU s")
    assert time.process_time() - began < 600


@pytest.mark.slow
def test_chosen_answers_raise_it_too_by_raft_best_of_n_online_and_iterative_dpo(manners, tmp_path):
    run(manners / "choose.yaml", ["seed=1"], out=tmp_path / "run", quiet=True)
    gains(tmp_path / "run", CHOOSING, manners / "data" / "tasks", 1)


def gains(out: Path, ways: tuple[str, ...], tasks: Path, seed: int) -> None:
    """What each way gained on held-out prompts over the model it started from, printed with its interval and held to the bounds."""
    from bottega.demo.checks import divergence

    judge, start = stage(out, "judge") / "result", stage(out, "tune") / "result"
    before = stands(start, judge, tasks, seed)
    for way in ways:
        model = stage(out, way) / "result"
        after = stands(model, judge, tasks, seed)
        polite = intervals.paired(before.polite, after.polite, seed=seed)
        reward = intervals.paired(before.reward, after.reward, seed=seed)
        lost = intervals.paired(after.old, before.old, seed=seed)
        away = divergence(str(model), str(start), after.sampled, seed=seed)
        shown = {"polite": polite, "reward": reward, "nats an answer": away, "old questions lost": lost}
        for name, one in shown.items():
            print(f"  {way} {name}: {one.value:.3f} [{one.low:.3f}, {one.high:.3f}]")
        assert polite.low > 0.3 and reward.low > 0, way
        assert away.high < 6.0, way
        assert lost.high < 0.1, way
