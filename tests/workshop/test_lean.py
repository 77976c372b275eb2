"""Streamed and quantised bases through recipes and verbs: the same result, what is refused, what is said (F1, F6, G4)."""

from __future__ import annotations

import json

import pytest
import torch

from bottega import cli
from bottega.core import rundir
from bottega.core.errors import Unsafe, UserError
from bottega.workshop import evaluating, recipe, use
from bottega.workshop.stages import run
from tests.models.tiny import tiny_model
from tests.workshop.made import chat, jsonl

pytest.importorskip("bitsandbytes")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    here = tmp_path_factory.mktemp("lean")
    tiny_model("llama", here / "model", num_hidden_layers=4)
    jsonl(here / "chats.jsonl", [chat(f"What is {i} plus {i % 7}?", f"It is {i + i % 7}.") for i in range(24)])
    (here / "prompts.txt").write_text("Who keeps the keys?\nWhat is 3 plus 4?\n")
    return here


def written(folder, method, *, stages=None, **stage):
    whole = {"objective": "sft", "data": str(folder / "chats.jsonl"), "method": method, "steps": 4, "batch": 4} | stage
    plan = {"name": "lean", "model": str(folder / "model"), "stages": stages or [{"tune": whole}]}
    return plan


def trained(folder, out, method, **stage):
    torch.set_num_threads(1)
    result = run(written(folder, method, **stage), out=out, quiet=True)
    return result, out / "stages" / "01-tune"


@pytest.mark.parametrize("method", [{"name": "lora", "rank": 4, "dropout": 0.1}, {"name": "qlora", "rank": 4}])
def test_a_stage_with_stream_gives_the_adapter_of_one_without(folder, tmp_path, method):
    _, plain = trained(folder, tmp_path / "plain", method)
    _, lean = trained(folder, tmp_path / "lean", method, stream=True)
    for name in ("metrics.jsonl", "result/adapter_model.safetensors"):
        assert (lean / name).read_bytes() == (plain / name).read_bytes(), name
    assert bool(list((lean / "cache").glob("layers-nf4-*"))) == (method["name"] == "qlora")


def test_a_damaged_layer_file_stops_a_streamed_stage_by_its_name(folder, tmp_path):
    plan = written(folder, {"name": "qlora", "rank": 4}, stream=True)
    run(plan, out=tmp_path / "out", quiet=True)
    stage = tmp_path / "out" / "stages" / "01-tune"
    (stage / "stage.json").unlink()
    (file,) = stage.glob("cache/layers-nf4-*/layer-00002.safetensors")
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(Unsafe, match=r"layer-00002\.safetensors has changed"):
        run(plan, out=tmp_path / "out", quiet=True)


def test_qlora_merges_between_stages_and_the_kl_is_in_the_record(folder, tmp_path):
    one = {"objective": "sft", "data": str(folder / "chats.jsonl"), "method": {"name": "qlora", "rank": 4}}
    one |= {"steps": 2, "batch": 4}
    plan = written(
        folder, None, stages=[{"a": one}, {"b": one | {"method": {"name": "qlora", "rank": 4, "base": "int8"}}}]
    )
    run(plan, out=tmp_path / "out", quiet=True)
    first = rundir.read_json(tmp_path / "out" / "stages" / "01-a" / "stage.json")
    assert 0 <= first["merge_kl"] < 1e-9 and first["method"]["base"] == "nf4"
    assert (tmp_path / "out" / "stages" / "02-b" / "result" / "adapter_config.json").is_file()


@pytest.mark.parametrize(
    ("stage", "reason"),
    [
        ({"method": "full"}, "stream leaves the base on disk, and full trains it"),
        ({"method": {"name": "lora", "dora": True}}, "dora reads or changes the base's matrices"),
        ({"method": {"name": "lora", "init": "pissa"}}, "init pissa reads or changes"),
        ({"method": "lora", "checkpointing": True}, "computes each layer again in the backward pass already"),
        ({"method": "lora", "compile": True}, "a streamed model cannot be compiled"),
        ({"method": "lora", "then": "merge"}, "merging holds the whole model; write then: continue"),
    ],
)
def test_what_stream_cannot_do_is_refused_before_anything_is_loaded(folder, stage, reason):
    with pytest.raises(UserError, match=reason):
        recipe.load(written(folder, **({"stream": True} | stage)))


def test_generate_says_what_the_weights_cost_and_streaming_changes_no_word(folder, capsys):
    how = {"max_tokens": 6, "quiet": True}
    prompts = str(folder / "prompts.txt")
    plain = use.generate(str(folder / "model"), prompts, **how)
    assert "weights" not in plain[0]
    streamed = use.generate(str(folder / "model"), prompts, weights="stream", **how)
    assert [row["reply"] for row in streamed] == [row["reply"] for row in plain]
    assert streamed[0]["weights"] == "stream" and "kl" not in streamed[0] and streamed[0]["tokens_per_s"] > 0
    nf4 = use.generate(str(folder / "model"), prompts, weights="nf4", **how)
    both = use.generate(str(folder / "model"), prompts, weights="nf4+stream", **how)
    assert [row["reply"] for row in both] == [row["reply"] for row in nf4] and both[0]["kl"] == nf4[0]["kl"]
    assert 0 < nf4[0]["kl"] < 1 and nf4[0]["kl_tokens"] > 10
    use.generate(str(folder / "model"), prompts, weights="int8", max_tokens=6)
    assert "int8 weights; KL to full precision" in capsys.readouterr().err
    with pytest.raises(UserError, match="weights 'int3' is not one of full, nf4"):
        use.generate(str(folder / "model"), prompts, weights="int3", **how)


def test_eval_and_chat_take_weights_too(folder, tmp_path, capsys, monkeypatch):
    data = jsonl(tmp_path / "qa.jsonl", [{"prompt": "What is 1 plus 1?", "answer": "It is 2."}])
    task = tmp_path / "t.yaml"
    task.write_text(f"name: sums\ndata: {data}\nkind: perplexity\n")
    plain = evaluating.evaluate(str(folder / "model"), [str(task)], quiet=True).to_json()
    assert evaluating.evaluate(str(folder / "model"), [str(task)], weights="stream").to_json() == plain
    assert "full weights, layers streamed from disk; " in capsys.readouterr().err
    lines = iter(["Hello\n", "/exit\n"])
    monkeypatch.setattr("sys.stdin", type("In", (), {"isatty": lambda s: False, "readline": lambda s: next(lines)})())
    assert cli.door(["chat", str(folder / "model"), "--weights", "int8", "--max-tokens", "4"]) == 0
    said = capsys.readouterr().err
    assert "int8 weights; KL to full precision" in said and "tokens/s" in said


def test_the_command_line_prints_the_numbers_as_json(folder, capsys):
    words = ["generate", str(folder / "model"), "--prompts", str(folder / "prompts.txt"), "--max-tokens", "4"]
    assert cli.door([*words, "--weights", "int8", "--json", "--quiet"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert rows[0]["weights"] == "int8" and rows[0]["kl"] < 1e-2 and rows[0]["tokens_per_s"] > 0
