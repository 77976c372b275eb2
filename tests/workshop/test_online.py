"""Stages that learn from their own answers: GRPO and PPO from a recipe, guards, kills, and what is refused (rows A3 to A7, T8).

Left out: the advantages' numbers (their doctests, tests/train/test_advantages.py).
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bottega.core import rundir
from bottega.core.errors import Diverged, UserError
from bottega.workshop.stages import run
from tests.workshop.made import jsonl, workshop

ROOT = Path(__file__).resolve().parents[2]
EVEN = "def reward(prompt, reply, answer=None):\n    return float(sum(map(ord, reply)) % 5)\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = workshop(tmp_path_factory.mktemp("online"))
    (made / "even.py").write_text(EVEN)
    jsonl(made / "ask.jsonl", [{"prompt": f"What is {i} plus 1?", "completion": str(i + 1)} for i in range(12)])
    return made


def recipe(folder: Path, objective: str = "grpo", **more) -> dict:
    stage = {
        "objective": objective, "data": str(folder / "ask.jsonl"), "method": {"name": "lora", "rank": 4}, "steps": 4, "batch": 2,
        "rewards": [{"name": "python", "path": str(folder / "even.py")}], "rollout": {"prompts": 4, "max_tokens": 6},
        "save_every": 1, "lr": 1e-3, **more,
    }  # fmt: skip
    return {"name": "o", "model": str(folder / "model"), "seed": 1, "stages": [{"learn": stage}]}


def lines(out: Path, name: str = "metrics.jsonl") -> list[dict]:
    return rundir.read_jsonl(next(out.glob(f"stages/*/{name}")))


@pytest.mark.parametrize(
    "objective", ["grpo", "dr_grpo", "dapo", "gspo", "rloo", "reinforce_pp", "ppo", "raft", "online_dpo"]
)
def test_each_objective_learns_from_answers_of_its_own(folder, tmp_path, objective):
    """Sampler and trainer agree at the first step of a round: approx_kl is 0 but for roundings."""
    run(recipe(folder, objective), out=tmp_path / "run", quiet=True)
    log = lines(tmp_path / "run")
    assert len(log) == 4 and all("reward" in line and "kl" in line for line in log)
    assert log[0]["approx_kl"] < 1e-6 and log[0]["kl"] < 1e-6
    rounds = lines(tmp_path / "run", "rounds.jsonl")
    assert [one["round"] for one in rounds] == [0, 1]


def test_dropout_is_off_where_answers_of_its_own_are_learned_from(folder, tmp_path, capsys):
    """With dropout of 0.5 in the adapter, round after round: sampler and trainer would be some tenths of a nat apart."""
    method = {"name": "lora", "rank": 4, "dropout": 0.5}
    run(recipe(folder, "ppo", method=method, lr=3e-2, steps=6), out=tmp_path / "run")
    assert "dropout is off here (14 places)" in capsys.readouterr().err
    assert lines(tmp_path / "run")[4]["approx_kl"] < 1e-6, "the first step of the third round"


KILLER = """
import os, pathlib, signal, threading, time
calls, checkpoint = 0, pathlib.Path(os.environ.get("DIE_AFTER", "/nowhere"))

def watch():
    while not checkpoint.exists():
        time.sleep(0.001)
    os.kill(os.getpid(), signal.SIGKILL)

def reward(prompt, reply):
    global calls
    calls += 1
    if calls == int(os.environ.get("DIE_AT", 0)):
        os.kill(os.getpid(), signal.SIGKILL)
    if calls == 1 and "DIE_AFTER" in os.environ:
        threading.Thread(target=watch, daemon=True).start()
    return float(sum(map(ord, reply)) % 5)
"""


@pytest.mark.parametrize(
    ("objective", "where"),
    [
        ("grpo", "rollout"),
        *(
            pytest.param(name, where, marks=pytest.mark.slow)
            for name, where in (
                ("grpo", "update"), ("ppo", "rollout"), ("ppo", "update"), ("online_dpo", "update"), ("raft", "update"),
                ("gkd", "update"), ("dapo", "update"), ("gspo", "update"), ("dr_grpo", "update"), ("rloo", "update"),
                ("reinforce_pp", "update"),
                ("grpo", "evaluation"), ("ppo", "evaluation"), ("online_dpo", "evaluation"), ("raft", "evaluation"),
            )
        ),
    ],
)  # fmt: skip
def test_a_run_killed_in_a_rollout_or_an_update_ends_in_the_same_bytes(folder, tmp_path, objective, where):
    """32 answers a round, two steps each: killed at the 40th answer, or once the third step's checkpoint is there, in the middle of
    the second round; or at the 34th, of the evaluation after the first step (3 held-out prompts)."""
    killer = tmp_path / "killer.py"
    killer.write_text(KILLER)
    plan = recipe(
        folder,
        objective,
        steps=6,
        rewards=[{"name": "python", "path": str(killer)}],
        rollout={"prompts": 4, "group": 8, "max_tokens": 6},
        **({"teacher": str(folder / "model")} if objective == "gkd" else {}),
        **({"validation": 0.25, "eval_every": 1} if where == "evaluation" else {}),
    )
    (tmp_path / "r.json").write_text(json.dumps(plan))
    words = [sys.executable, "-m", "bottega.cli", "run", str(tmp_path / "r.json"), "--quiet", "--out"]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    third = tmp_path / "cut" / "stages" / "01-learn" / "checkpoints" / "step-0000003"
    death = {"DIE_AFTER": str(third)} if where == "update" else {"DIE_AT": "40" if where == "rollout" else "34"}
    done = subprocess.run([*words, str(tmp_path / "cut")], env=env | death, cwd=ROOT, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]
    assert where != "evaluation" or len(list((tmp_path / "cut").glob("stages/*/rounds.jsonl"))) == 1
    for name in ("cut", "whole"):
        done = subprocess.run([*words, str(tmp_path / name)], env=env, cwd=ROOT, capture_output=True)
        assert done.returncode == 0, done.stderr[-2000:]

    def left(name: str) -> dict[str, str]:
        found = {}
        for path in sorted((tmp_path / name).glob("stages/**/*")):
            if path.is_file() and path.name in ("metrics.jsonl", "rounds.jsonl") or path.suffix == ".safetensors":
                found[str(path.relative_to(tmp_path / name))] = rundir.sha256(path)
        return found

    assert left("cut") == left("whole")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (
            {"steps": 30, "rewards": [{"name": "length", "target": 500, "width": 1.0}],
             "rollout": {"prompts": 2, "max_tokens": 4, "flat_steps": 5}},
            "nothing to learn from",
        ),
        ({"steps": 30, "lr": 0.5, "rollout": {"prompts": 2, "max_tokens": 4, "max_kl": 0.01}}, "nats a token from the reference"),
        ({"steps": 30, "rollout": {"prompts": 2, "max_tokens": 2, "cut_steps": 4}}, "cut"),
    ],
    ids=["flat", "kl", "cut"],
)  # fmt: skip
def test_a_run_that_deserves_it_is_stopped_with_the_number_and_the_remedy(folder, tmp_path, more, said):
    with pytest.raises(Diverged, match=said) as caught:
        run(recipe(folder, **more), out=tmp_path / "run", quiet=True)
    assert caught.value.exit_code == 5


def test_ppo_with_a_reward_model_on_its_own_base_adapts_the_price_of_distance(folder, tmp_path):
    """Two stages' worth: pairs make a judge, an adapter on the base; PPO scores with it, and loads no second model."""
    pairs = [{"prompt": f"What is {i}?", "chosen": f"It is {i}.", "rejected": "No."} for i in range(12)]
    judge = {
        "objective": "reward",
        "data": str(jsonl(tmp_path / "pairs.jsonl", pairs)),
        "method": {"name": "lora", "rank": 4},
    }
    run(
        {"name": "j", "model": str(folder / "model"), "stages": [{"judge": {**judge, "steps": 4}}]},
        out=tmp_path / "j",
        quiet=True,
    )
    plan = recipe(
        folder, "ppo", rewards=[{"name": "model", "path": str(tmp_path / "j" / "stages" / "01-judge" / "result")}],
        rollout={"prompts": 4, "max_tokens": 6, "epochs": 2, "kl_target": 1e-6, "stop_kl": 10.0,
                 "advantage": {"name": "gae", "kl": 0.1}},
        steps=8,
    )  # fmt: skip
    run(plan, out=tmp_path / "run", quiet=True)
    log = lines(tmp_path / "run")
    assert len(log) == 8 and len({line["reward"] for line in log}) > 1
    costs = [line["kl_cost"] for line in log]
    assert costs[0] == pytest.approx(0.1) and costs[-1] != costs[0]
    assert list((tmp_path / "run").glob("stages/01-learn/result/adapter_model.safetensors"))


def test_a_reward_that_rises_while_the_judge_falls_is_told_and_the_judges_best_checkpoint_is_the_result(
    folder, tmp_path, capfd
):
    """The judge is minus the reward, so whatever is learned is over-optimised: the first evaluation was the judge's best."""
    for name, sign in (("judge", "-"), ("more", "")):
        code = f"def reward(prompt, reply):\n    return {sign}sum(map(ord, reply)) / 1000\n"
        (tmp_path / f"{name}.py").write_text(code)
    asked = jsonl(tmp_path / "q.jsonl", [{"prompt": f"What is {i} plus 1?"} for i in range(24)])
    plan = recipe(
        folder, rewards=[{"name": "python", "path": str(tmp_path / "more.py")}], steps=18, lr=5e-3, validation=0.4, save_every=6,
        judge=[{"name": "python", "path": str(tmp_path / "judge.py")}], eval_every=6, batch=8, data=str(asked),
        rollout={"max_tokens": 12, "cut_steps": 999, "max_kl": 1e9},
    )  # fmt: skip
    result = run(plan, out=tmp_path / "run")
    log = [line for line in lines(tmp_path / "run") if "eval.judge" in line]
    assert len(log) == 3 and log[0]["eval.reward"] < log[1]["eval.reward"] < log[2]["eval.reward"]
    assert "while the judge fell" in "".join(capfd.readouterr())
    assert result.stages["learn"]["best_step"] == 6
    kept = tmp_path / "run" / "stages" / "01-learn"
    weights = "adapter_model.safetensors"
    first = kept / "checkpoints" / "step-0000006" / "model" / weights
    assert rundir.sha256(kept / "result" / weights) == rundir.sha256(first)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("def reward(prompt, reply):\n    raise ValueError('no idea')\n", "raised ValueError"),
        ("def reward(prompt, reply):\n    return float('nan')\n", "gave nan"),
        ("def reward(prompt, reply):\n    return 'good'\n", "gave 'good'"),
        ("def other(prompt, reply):\n    return 1\n", "has no function 'reward'"),
        ("def reward(prompt, reply:\n", "cannot be loaded"),
    ],
    ids=["raises", "nan", "text", "name", "syntax"],
)
def test_a_reward_that_cannot_be_used_is_named(folder, tmp_path, code, said):
    (tmp_path / "bad.py").write_text(code)
    with pytest.raises(UserError, match=said):
        run(
            recipe(folder, rewards=[{"name": "python", "path": str(tmp_path / "bad.py")}]),
            out=tmp_path / "run",
            quiet=True,
        )


def test_mistakes_are_found_before_anything_is_trained(folder, tmp_path):
    for more, said in (
        ({"rollout": {"group": 1}}, "a group of 1 has nothing to compare"),
        ({"rewards": [{"name": "lenght", "target": 3}]}, "did you mean length"),
        ({"rewards": None}, "grpo needs a reward"),
        ({"rollout": {"prompts": 1}}, "does not fill a batch"),
        ({"rollout": {"advantage": "gae"}}, "gae is for ppo"),
        ({"max_tokens": 8, "rollout": {"max_tokens": 6}}, "a prompt may have"),
        ({"rollout": {"max_tokens": 5000}}, r"max_tokens 5,000 leaves a prompt no room in a row of \d+ tokens"),
        ({"rollout": {"advantage": {"name": "group", "kl": "banana"}}}, "advantage group: kl is 'banana', but needs a number"),
        ({"rewards": [{"name": "overlong", "max_tokens": 6, "soft": 0}]}, "overlong has soft: 0, which must be at least 1"),
        ({"rewards": [{"name": "language", "script": "klingon"}]}, "script is 'klingon'"),
        ({"rewards": [{"name": "distinct", "n": 0}]}, "distinct has n: 0"),
        ({"rewards": [{"name": "stops", "weight": 1e12}]}, "weight: 1000000000000.0, beyond 1e\\+09"),
        ({"objective": {"name": "grpo", "clip": -1}}, r"grpo has clip: -1(\.0)?, which must be above 0"),
        ({"objective": {"name": "ppo", "value_clip": -1}}, "value_clip"),
        ({"objective": {"name": "ppo", "entropy_weight": -1}}, "entropy_weight"),
        ({"objective": "ppo", "rollout": {"advantage": {"name": "gae", "gamma": 7}}}, "gae has gamma: 7.0, which must be at least 0"),
        ({"objective": "ppo", "rollout": {"advantage": {"name": "gae", "lam": -3}}}, "gae has lam: -3.0"),
        ({"objective": "reinforce_pp", "rollout": {"group": 1, "advantage": "leave_one_out"}}, "leave_one_out compares answers"),
        (
            {"objective": "reinforce_pp", "rollout": {"group": 1, "advantage": {"name": "batch", "baseline": True}}},
            "batch compares answers to one prompt",
        ),
        ({"objective": "raft", "rollout": {"advantage": "leave_one_out"}}, "raft chooses among answers by their rewards alone"),
        ({"objective": "online_dpo", "rollout": {"advantage": "batch"}}, "leave rollout.advantage out"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=said):
            run(recipe(folder, **more), out=tmp_path / "run", quiet=True)
    with pytest.raises(UserError, match="rewards is for objectives that learn from their own answers"):
        run(recipe(folder, "sft", rollout=None), out=tmp_path / "run", quiet=True)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_grpo_raises_the_held_out_reward_of_the_bundled_model_with_its_distance_bounded(tmp_path, seed):
    """Answers that begin with a letter of the first half: their share on prompts kept out rises, within 1 nat a token."""
    from bottega.demo.world import journey

    asked = [{"messages": row["prompt"]} for row in journey.align_rows(3, 300)]
    plan = recipe(
        tmp_path, save_every=50, objective={"name": "grpo", "kl": 0.2}, rewards=[{"name": "pattern", "regex": "^[a-mA-M]"}],
        batch=8, steps=50, lr=5e-4,
        validation=0.2, rollout={"prompts": 8, "group": 8, "max_tokens": 16}, data=str(jsonl(tmp_path / "q.jsonl", asked)),
        method={"name": "lora", "rank": 16},
    )  # fmt: skip
    run({**plan, "model": "garzone", "seed": seed}, out=tmp_path / "run", quiet=True)
    log = lines(tmp_path / "run")
    evals = [line["eval.reward"] for line in log if "eval.reward" in line]
    print(seed, evals, max(line["kl"] for line in log))
    assert evals[-1] > evals[0] + 0.1 and max(line["kl"] for line in log) < 1.0


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_ppo_raises_the_held_out_reward_of_the_bundled_model_with_its_distance_bounded(tmp_path, seed):
    """The same letters by PPO: rounds of 64 answers, two epochs of minibatches, value and reference on the policy's base."""
    from bottega.demo.world import journey

    asked = [{"messages": row["prompt"]} for row in journey.align_rows(3, 300)]
    plan = recipe(
        tmp_path, "ppo", data=str(jsonl(tmp_path / "q.jsonl", asked)), method={"name": "lora", "rank": 16}, steps=64, batch=16,
        rewards=[{"name": "pattern", "regex": "^[a-mA-M]"}], save_every=50, lr=3e-4, validation=0.2,
        rollout={"prompts": 64, "epochs": 2, "max_tokens": 16, "advantage": {"name": "gae", "kl": 0.05}},
    )  # fmt: skip
    run({**plan, "model": "garzone", "seed": seed}, out=tmp_path / "run", quiet=True)
    log = lines(tmp_path / "run")
    evals = [line["eval.reward"] for line in log if "eval.reward" in line]
    assert evals[-1] > evals[0] + 0.05 and max(line["kl"] for line in log) < 1.0
