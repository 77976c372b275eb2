"""merge and compare through the door: what appears, what it says, what is refused and leaves nothing behind."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from bottega import cli
from bottega.core import rundir
from bottega.core.errors import CheckFailed
from bottega.models.load import load, load_weights
from bottega.models.methods import method
from bottega.workshop import evaluating, merging, use
from tests.models.test_lora import logits, stir
from tests.models.tiny import tiny_model
from tests.workshop.made import jsonl


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """A base, two adapters on it, a second model, a task of twelve items."""
    here = tmp_path_factory.mktemp("give")
    tiny_model("llama", here / "base")
    tiny_model("llama", here / "other", seed=1)
    for seed, name in enumerate(("a", "b")):
        loaded = load(here / "base")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            attached = stir(method("lora", rank=4).attach(loaded.model))
        attached.save(str(here / name))
        loaded.tokenizer.save_pretrained(str(here / name))
    jsonl(here / "items.jsonl", [{"prompt": f"{i} and", "answer": f" {i + 1}"} for i in range(12)])
    (here / "task.yaml").write_text("name: next\nkind: perplexity\ndata: items.jsonl\nmetric: loss\n")
    (here / "prompts.txt").write_text("Who keeps the keys?\n")
    return here


def door(*words):
    return cli.door([str(word) for word in words])


def test_a_folded_adapter_is_a_plain_model_with_the_same_logits(here, tmp_path, capsys):
    assert door("merge", here / "a", "--out", tmp_path / "m", "--json", "--quiet") == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["kind"] == "model" and facts["merge_difference"] <= 1e-5
    folded, adapted = load_weights(tmp_path / "m"), load(here / "a").attached.model
    assert torch.allclose(logits(folded), logits(adapted), atol=1e-4)
    assert rundir.verify_manifest(tmp_path / "m") == []


def test_a_mixture_chosen_at_request_time_answers_as_the_merged_adapter(here, tmp_path, capsys):
    assert door("merge", here / "a", f"{here / 'b'}:0.6", "--out", tmp_path / "ab", "--quiet") == 0
    capsys.readouterr()
    mixed = use.generate(f"{here / 'a'}+{here / 'b'}:0.6", str(here / "prompts.txt"), max_tokens=12, quiet=True)
    written = use.generate(str(tmp_path / "ab"), str(here / "prompts.txt"), max_tokens=12, quiet=True)
    assert mixed == written
    assert mixed != use.generate(str(here / "a"), str(here / "prompts.txt"), max_tokens=12, quiet=True)


def test_whole_models_merge_and_what_cannot_is_one_line(here, tmp_path, capsys):
    assert door("merge", here / "base", here / "other", "--out", tmp_path / "m", "--quiet") == 0
    assert load(tmp_path / "m").model is not None
    for words, said in (
        (["merge", here / "base", "--out", tmp_path / "x"], "no adapter to fold"),
        (["merge", here / "base", here / "a", "--out", tmp_path / "x"], "fold it first"),
        (["merge", here / "base", here / "other", "--method", "ties", "--out", tmp_path / "x"], "--base"),
        (["merge", here / "a", here / "b", "--out", tmp_path / "m"], "there already"),
        (["merge", here / "a", "--method", "ties", "--out", tmp_path / "x"], "for several"),
    ):
        capsys.readouterr()
        assert door(*words, "--quiet") == 2
        assert said in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m"]


def test_contributions_are_merged_with_a_regression_report_and_a_worse_result_is_not_kept(here, tmp_path):
    facts = merging.merge(
        [str(here / "a"), f"{here / 'b'}:0"], str(tmp_path / "ok"), tasks=[str(here / "task.yaml")],
        against=str(here / "a"), quiet=True,
    )  # fmt: skip
    assert [report["before"] for report in facts["reports"]] == [str(here / "a"), str(here / "b")]
    assert facts["reports"][0]["tasks"][0]["verdict"] == "no difference"
    assert "no difference" in merging.merge_text(facts)
    loud = load_weights(here / "base")
    with torch.no_grad():
        loud.lm_head.weight.mul_(30)
    shutil.copytree(here / "base", tmp_path / "loud")
    loud.save_pretrained(str(tmp_path / "loud"))
    with pytest.raises(CheckFailed, match="worse than"):
        merging.merge(
            [str(here / "base"), str(tmp_path / "loud")],
            str(tmp_path / "bad"),
            tasks=[str(here / "task.yaml")],
            quiet=True,
        )
    assert not (tmp_path / "bad").exists() and not list(tmp_path.glob(".*"))


def test_two_models_and_two_scorecards_are_compared_alike(here, tmp_path, capsys):
    task = str(here / "task.yaml")
    assert door("compare", here / "base", here / "a", "--tasks", task, "--json", "--quiet") == 0
    direct = json.loads(capsys.readouterr().out)
    for name in ("base", "a"):
        evaluating.evaluate(str(here / name), [task], out=str(tmp_path / f"{name}.json"), quiet=True)
    assert door("compare", tmp_path / "base.json", tmp_path / "a.json", "--json") == 0
    assert json.loads(capsys.readouterr().out) == direct
    one = direct["tasks"][0]
    assert one["difference"]["n"] == 12 and one["difference"]["improved"] + one["difference"]["regressed"] <= 12
    assert door("compare", here / "base", here / "a", "--tasks", task, "--quiet") == 0
    shown = capsys.readouterr().out
    assert "| next | loss |" in shown and "p (Holm)" in shown
    assert door("compare", here / "base", here / "a") == 2 and "--tasks" in capsys.readouterr().err


def test_a_recipe_learns_a_gate_over_two_adapters_and_every_verb_takes_it(here, tmp_path, capsys):
    jsonl(tmp_path / "chats.jsonl", [{"prompt": f"{i} and", "response": f"{i + 1}"} for i in range(12)])
    (tmp_path / "mix.yaml").write_text(
        f"name: mix\nmodel: {here / 'base'}\nstages:\n"
        "  - mix:\n      {objective: sft, data: chats.jsonl, steps: 3, batch: 4,\n"
        f"       method: {{name: gate, adapters: [{here / 'a'}, {here / 'b'}]}}}}\n"
    )
    assert door("run", tmp_path / "mix.yaml", "--dry-run", "--quiet") == 0
    assert door("run", tmp_path / "mix.yaml", "--quiet", "--out", tmp_path / "mixed") == 0
    result = tmp_path / "mixed" / "stages" / "01-mix" / "result"
    assert json.loads((result / "adapter_config.json").read_text())["adapters"] == ["a", "b"]
    for verb in (
        ("eval", tmp_path / "mixed", "--tasks", here / "task.yaml"),
        ("generate", result, "--prompts", here / "prompts.txt", "--max-tokens", "8"),
    ):
        assert door(*verb, "--json", "--quiet") == 0
    capsys.readouterr()
    assert door("merge", result, "--out", tmp_path / "no", "--quiet") == 2
    assert "cannot be merged" in capsys.readouterr().err
    assert door("run", tmp_path / "mix.yaml", "method={name: gate}", "--quiet", "--out", tmp_path / "none") == 2
    assert "needs adapters" in capsys.readouterr().err


@pytest.mark.parametrize("family", ["llama", "gpt2", "mixtral"])
def test_an_adapter_is_folded_tensor_by_tensor_into_what_folding_in_memory_gives(family, tmp_path, capsys):
    tiny_model(family, tmp_path / "base")
    stir(method("lora", rank=4, rslora=True).attach(load(tmp_path / "base").model)).save(str(tmp_path / "a"))
    assert door("merge", tmp_path / "a", "--out", tmp_path / "whole", "--quiet") == 0
    assert door("merge", tmp_path / "a", "--out", tmp_path / "streamed", "--stream", "--json", "--quiet") == 0
    said = capsys.readouterr().out
    facts = json.loads(said[said.index("{") :])
    whole, streamed = load_weights(tmp_path / "whole"), load_weights(tmp_path / "streamed")
    for (name, one), (_, other) in zip(whole.named_parameters(), streamed.named_parameters(), strict=True):
        assert torch.allclose(one, other, atol=1e-6), name
    assert rundir.verify_manifest(tmp_path / "streamed") == []
    assert facts["merge_difference"] <= 1e-5 and 0 < facts["folded"] < facts["tensors"]
    assert door("merge", tmp_path / "a", "--out", tmp_path / "half", "--stream", "--dtype", "bfloat16", "--quiet") == 0
    assert json.loads((tmp_path / "half" / "config.json").read_text())["dtype"] == "bfloat16"
    assert (tmp_path / "half" / "model.safetensors").stat().st_size < 0.6 * (
        tmp_path / "whole" / "model.safetensors"
    ).stat().st_size
    assert use.generate(str(tmp_path / "half"), ["Anna"], max_tokens=4, quiet=True)


def test_what_cannot_be_folded_tensor_by_tensor_is_one_line(here, tmp_path, capsys):
    stir(method("lora", rank=4, dora=True).attach(load(here / "base").model)).save(str(tmp_path / "dora"))
    for words, says in (
        ((here / "base",), "is a whole model"),
        ((here / "a", here / "b"), "for folding one adapter"),
        ((tmp_path / "dora",), "use_dora"),
    ):
        assert door("merge", *words, "--out", tmp_path / "no", "--stream", "--quiet") == 2
        assert says in capsys.readouterr().err and not (tmp_path / "no").exists()
