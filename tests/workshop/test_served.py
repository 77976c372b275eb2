"""Answers sampled by a vLLM server while a stage learns from them (row A6): a real HTTP server, the same numbers, its refusals.

Left out: vLLM itself (tests/parity/test_vllm.py).
"""

from __future__ import annotations

import pytest

from bottega.core import rundir
from bottega.core.errors import UserError
from bottega.workshop.stages import run
from tests.models.vllm_server import VllmServer
from tests.workshop.made import jsonl, workshop


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = workshop(tmp_path_factory.mktemp("served"))
    (made / "even.py").write_text("def reward(prompt, reply):\n    return float(sum(map(ord, reply)) % 5)\n")
    jsonl(made / "ask.jsonl", [{"prompt": f"What is {i} plus 1?"} for i in range(12)])
    return made


def recipe(folder, server: str, **more) -> dict:
    rollout = {"prompts": 4, "group": 3, "max_tokens": 6, "server": server, "cut_steps": 999, **more.pop("rollout", {})}
    stage = {
        "objective": "grpo", "data": str(folder / "ask.jsonl"), "method": {"name": "lora", "rank": 4}, "steps": 4, "batch": 2,
        "rewards": [{"name": "python", "path": str(folder / "even.py")}], "rollout": rollout, "save_every": 1, "lr": 1e-3, **more,
    }  # fmt: skip
    return {"name": "o", "model": str(folder / "model"), "seed": 1, "stages": [{"learn": stage}]}


def lines(out, name: str) -> list[dict]:
    return rundir.read_jsonl(next(out.glob(f"stages/*/{name}")))


def test_a_server_samples_what_this_process_would_and_follows_the_policy(folder, tmp_path):
    """Two rounds, two adapters: the second round's answers are of the policy that has learned, or the drift would say so. With the
    same draws the run ends in the bytes of one that samples by itself."""
    with VllmServer(busy=1) as server:
        run(recipe(folder, server.url), out=tmp_path / "far", quiet=True)
    paths = [path for path, _ in server.asked]
    assert paths.count("/v1/completions") == 8 and len(server.adapters) == 1
    assert len({body["lora_name"] for path, body in server.asked if path.endswith("/load_lora_adapter")}) == 2
    log = lines(tmp_path / "far", "metrics.jsonl")
    assert log[0]["approx_kl"] < 1e-6 and log[2]["approx_kl"] < 1e-6, "the first steps of both rounds"
    body = next(body for path, body in server.asked if path == "/v1/completions")
    assert body["n"] == 3 and body["top_k"] == -1 and body["return_tokens_as_token_ids"] and body["prompt"]
    near = recipe(folder, server.url, rollout={"server": None, "rescore": True})
    run(near, out=tmp_path / "near", quiet=True)
    assert [one["reward"] for one in log] == [one["reward"] for one in lines(tmp_path / "near", "metrics.jsonl")]
    results = [next((tmp_path / name).glob("stages/*/result/adapter_model.safetensors")) for name in ("far", "near")]
    assert rundir.sha256(results[0]) == rundir.sha256(results[1])


def test_held_out_prompts_are_answered_by_the_server_too_and_the_key_goes_with_every_request(
    folder, tmp_path, monkeypatch
):
    monkeypatch.setenv("SERVER_KEY", "s3cret")
    with VllmServer(key="s3cret") as server:
        plan = recipe(folder, server.url, validation=0.2, steps=2, rollout={"server_key_env": "SERVER_KEY"})
        run(plan, out=tmp_path / "run", quiet=True)
    assert "eval.reward" in lines(tmp_path / "run", "metrics.jsonl")[-1]
    assert "s3cret" not in "".join(
        path.read_text() for path in (tmp_path / "run").glob("*.*") if path.suffix in (".yaml", ".json")
    )


def test_a_server_may_move_while_a_run_stands_still(folder, tmp_path):
    with VllmServer() as server:
        run(recipe(folder, server.url, steps=2), out=tmp_path / "run", quiet=True)
    with VllmServer() as other:
        plan = recipe(folder, other.url, steps=4)
        run(plan, out=tmp_path / "run", allow_change=["learn.steps"], quiet=True)
    assert lines(tmp_path / "run", "metrics.jsonl")


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"ids": False}, "gives no token ids with their log-probabilities.*must be vLLM"),
        ({"loads": False}, "refused load_lora_adapter .HTTP 404.*--enable-lora.*VLLM_ALLOW_RUNTIME_LORA_UPDATING"),
        ({"key": "other"}, "refused load_lora_adapter .HTTP 401"),
    ],
)
def test_a_server_that_cannot_be_learned_from_is_named_with_the_remedy(folder, tmp_path, how, said):
    with VllmServer(**how) as server, pytest.raises(UserError, match=said):
        run(recipe(folder, server.url), out=tmp_path / "run", quiet=True)


def test_mistakes_are_found_before_anything_is_trained(folder, tmp_path, monkeypatch):
    for server, more, said in (
        ("localhost:8000", {}, "is no http"),
        ("http://a:b@host/v1", {}, "holds a password"),
        ("http://127.0.0.1:9/v1", {"method": "full"}, "a server loads LoRA adapters"),
        ("http://127.0.0.1:9/v1", {"rollout": {"server_key_env": "NOT_SET_HERE"}}, "NOT_SET_HERE is not set"),
    ):
        with pytest.raises(UserError, match=said):
            run(recipe(folder, server, **more), out=tmp_path / "run", quiet=True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match="--offline was given, but the endpoint is at gpu.example"):
        run(recipe(folder, "http://gpu.example/v1"), out=tmp_path / "run", quiet=True)
