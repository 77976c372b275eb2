"""Other tools' configurations become recipes that load; no key is lost in silence."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pytest

from bottega.cli import door
from bottega.core.errors import UserError
from bottega.workshop import importers, recipe
from bottega.workshop.importers.keys import Keys
from tests.workshop.made import chat, jsonl

REAL = {
    "LLaMA-Factory": "rival_configs/qwen3_lora_sft.yaml",
    "Axolotl": "rival_configs/axolotl-lora-1b.yml",
    "LLM Foundry": "rival_configs/mpt-7b_dolly_sft.yaml",
    "InstructLab": "instructlab/default_config.yaml",
}


@pytest.fixture
def chats(tmp_path: Path) -> Path:
    return jsonl(tmp_path / "chats.jsonl", [chat(f"What is {i}?", f"It is {i}.") for i in range(40)])


def written(folder: Path, text: str, name: str = "theirs.yaml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


@pytest.mark.parametrize("tool", REAL)
def test_a_real_file_becomes_a_recipe_that_a_dry_run_accepts_and_every_key_is_accounted_for(
    tool, shared_data, chats, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert door(["init", str(chats), "--from", str(shared_data(REAL[tool])), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["tool"] == tool
    text = Path("recipe.yaml").read_text()
    lost = {one["key"] for one in said["not_carried"]}
    assert not lost & set(said["carried"])
    assert all(f"#   {key}: " in text for key in lost) and all(one["why"] for one in said["not_carried"])
    assert door(["run", "recipe.yaml", "--dry-run", "--json"]) == 0
    planned = json.loads(capsys.readouterr().out)
    assert planned["stages"][0]["files"] == ["chats.jsonl"]


def test_llama_factory_says_the_same_here(tmp_path, chats):
    """Batch 2 x 8 accumulated = 16 rows a step; warm-up of 0.1 of the run; alpha 2 x rank there and here."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "dataset_info.json").write_text(
        json.dumps({"mine": {"file_name": "../chats.jsonl", "formatting": "sharegpt"}})
    )
    found = importers.read(
        written(
            tmp_path,
            """
            model_name_or_path: some/model
            stage: sft
            finetuning_type: lora
            lora_rank: 4
            lora_target: q_proj, v_proj
            loraplus_lr_ratio: 16.0
            quantization_bit: 4
            dataset: mine
            template: llama3
            cutoff_len: 128
            per_device_train_batch_size: 2
            gradient_accumulation_steps: 8
            learning_rate: 1.0e-4
            max_steps: 30
            num_train_epochs: 3.0
            lr_scheduler_type: inverse_sqrt
            warmup_ratio: 0.1
            train_on_prompt: true
            optim: paged_adamw_8bit
            bf16: true
            val_size: 0.1
            eval_strategy: steps
            eval_steps: 5
            neftune_noise_alpha: 5
            """.replace("\n            ", "\n"),
        )
    )
    ((name, stage),) = found.recipe["stages"][0].items()
    assert name == "sft"
    assert stage["batch"] == 16 and stage["lr"] == 1e-4 and stage["steps"] == 30 and "epochs" not in stage
    assert stage["method"] == {
        "name": "qlora",
        "rank": 4,
        "lr_ratio": 16.0,
        "base": "nf4",
        "targets": ["q_proj", "v_proj"],
    }
    assert stage["mask"] == "all" and stage["template"] == "llama3" and stage["max_tokens"] == 128
    assert stage["optimizer"] == "adamw8bit" and stage["schedule"] == "inverse_root" and stage["precision"] == "bf16"
    assert stage["validation"] == 0.1 and stage["eval_every"] == 5
    assert Path(stage["data"][0]["path"]).resolve() == chats and stage["data"][0]["format"] == "sharegpt"
    assert [lost.key for lost in found.lost] == ["neftune_noise_alpha"]


def test_llm_foundry_counts_in_batches_epochs_and_shares_and_its_decay_is_per_step(tmp_path, chats):
    """Composer's decoupled decay of 1e-6 per step at a rate of 1e-4 is 0.01 times the rate here."""
    found = importers.read(
        written(
            tmp_path,
            """
            variables: {length: 64}
            max_seq_len: ${variables.length}
            model: {name: hf_causal_lm, pretrained_model_name_or_path: some/model}
            train_loader: {name: finetuning, dataset: {hf_name: chats.jsonl, max_seq_len: "${variables.length}"}}
            scheduler: {name: cosine_with_warmup, t_warmup: 0.05dur, alpha_f: 0.1}
            optimizer: {name: decoupled_adamw, lr: 1.0e-4, betas: [0.9, 0.95], weight_decay: 1.0e-6}
            max_duration: 200ba
            save_interval: 50ba
            eval_interval: 1ep
            global_train_batch_size: 12
            """.replace("\n            ", "\n"),
        )
    )
    stage = found.recipe["stages"][0]["tune"]
    assert stage["steps"] == 200 and stage["save_every"] == 50 and stage["warmup"] == 0.05 and stage["floor"] == 0.1
    assert stage["max_tokens"] == 64 and stage["beta2"] == 0.95 and stage["weight_decay"] == pytest.approx(0.01)
    assert stage["clip"] == 0.0  # no gradient clipping there: none here
    assert {lost.key for lost in found.lost} == {"eval_interval"}


def test_instructlab_s_accelerated_pipeline_becomes_its_two_phases(tmp_path):
    data = tmp_path / "datasets"
    data.mkdir()
    for name in ("knowledge_train_msgs.jsonl", "skills_train_msgs.jsonl"):
        jsonl(data / name, [chat("a?", "b.")])
    found = importers.read(
        written(
            tmp_path,
            """
            general: {log_level: INFO}
            generate: {pipeline: full}
            serve: {model_path: x}
            train:
              pipeline: accelerated
              model_path: some/model
              data_path: datasets
              lora_rank: 0
              phased_phase1_num_epochs: 7
              phased_phase1_effective_batch_size: 128
              phased_phase1_samples_per_save: 1280
              phased_phase2_num_epochs: 10
              phased_phase2_learning_rate: 6e-06
              num_epochs: 3
            """.replace("\n            ", "\n"),
        )
    )
    (first,), (second,) = [entry.items() for entry in found.recipe["stages"]]
    assert first[0] == "knowledge" and first[1]["epochs"] == 7 and first[1]["save_every"] == 10
    assert second[0] == "skills" and second[1]["lr"] == 6e-6
    assert first[1]["data"][0]["path"].endswith("knowledge_train_msgs.jsonl")
    assert {"train.num_epochs", "serve.model_path"} <= {lost.key for lost in found.lost}


def test_axolotl_keeps_its_preferences_and_says_what_a_batch_is(tmp_path):
    jsonl(tmp_path / "prefs.jsonl", [{"prompt": "a", "chosen": "b", "rejected": "c"}])
    found = importers.read(
        written(
            tmp_path,
            """
            base_model: some/model
            rl: dpo
            rl_beta: 0.2
            datasets: [{path: prefs.jsonl, type: chat_template, field_messages: talk}]
            adapter: qlora
            load_in_4bit: true
            lora_r: 8
            lora_target_linear: true
            micro_batch_size: 3
            gradient_accumulation_steps: 2
            sample_packing: true
            wandb_project: mine
            """.replace("\n            ", "\n"),
        )
    )
    stage = found.recipe["stages"][0]["tune"]
    assert stage["objective"] == {"name": "dpo", "beta": 0.2} and stage["batch"] == 6
    assert stage["method"] == {"name": "qlora", "rank": 8, "base": "nf4"}
    assert any("field_messages" in note for note in found.notes) and any("packed rows" in note for note in found.notes)
    assert found.recipe["track"] == ["wandb"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 1\n", "of no tool that is known"),
        ("[1, 2]\n", "holds no mapping"),
        ("base_model: m\ndatasets: [{path: x, type: alpaca}]\nrl: kto\n", "rl 'kto' has no counterpart; there is dpo"),
        ("base_model: m\ndatasets: x\n", "datasets is not a list of mappings"),
        ("model_name_or_path: m\nfinetuning_type: lora\nstage: ppo\n", "stage 'ppo' has no counterpart"),
        ("model_name_or_path: m\nfinetuning_type: oft\n", "finetuning_type 'oft' is not carried over"),
        (
            "model_name_or_path: m\nfinetuning_type: full\nlearning_rate: fast\n",
            "learning_rate is 'fast', but needs a number",
        ),
        ("model_name_or_path: m\nfinetuning_type: full\ndataset: a\n", "the data of sft is not here (a (in no data/"),
        ("max_duration: 1ep\ntrain_loader: {name: text}\nmodel: {name: mpt_causal_lm}\n", "names no pretrained_model"),
    ],
)
def test_what_has_no_counterpart_is_one_clear_line(text, said, tmp_path):
    with pytest.raises(UserError, match="^[^\n]+$") as error:
        importers.read(written(tmp_path, text))
    assert said in str(error.value)


def test_a_hub_data_set_is_named_by_its_url_and_what_the_recipe_still_needs_is_said(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    theirs = "base_model: m/m\ndatasets: [{path: some/set, type: alpaca, split: validation}]\nadapter: lora\n"
    assert door(["init", "--from", str(written(tmp_path, theirs)), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert "hub://some/set?split=validation" in Path("recipe.yaml").read_text()
    if find_spec("datasets"):
        assert recipe.load("recipe.yaml").stages[0].data[0].path == "hub://some/set?split=validation"
    else:
        assert "pip install 'bottega[hub]'" in said["to_mend"][0]


def test_variables_resolve_and_unset_keys_do_not_count():
    keys = Keys({"variables": {"a": 3}, "b": "${variables.a}", "c": None, "d": "x-${variables.a}", "e": {}}, "f")
    assert keys.values == {"variables.a": 3, "b": 3, "d": "x-3"}
    assert keys.take("b") == 3 and [lost.key for lost in keys.left()] == ["d"]  # a served b


def test_init_needs_data_or_a_file(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert door(["init"]) == 2
    assert "init needs DATA" in capsys.readouterr().err
