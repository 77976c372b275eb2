"""Every tensor where the model lies: training and using models on a device that is no CPU gives a CPU's numbers."""

import math
import shutil

import pytest
import torch

from bottega.core import devices, rundir
from bottega.core.errors import UserError
from bottega.core.strictyaml import load_yaml
from bottega.models import layout
from bottega.models.load import load
from bottega.models.methods import method
from bottega.models.place import choose_for, count
from bottega.models.score import Scorer
from bottega.models.stream import is_streamed
from bottega.train import checkpoint, settings
from bottega.workshop import evaluating, use
from bottega.workshop.predict import embed
from bottega.workshop.stages import run
from tests.device import standin
from tests.models.tiny import tiny_model
from tests.train import clients
from tests.workshop.made import RECIPE, jsonl, workshop

FP32 = [f"{stage}.precision=fp32" for stage in ("adapt", "instruct", "align")]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with a model, data and a recipe of three stages: pretrain by LoRA, SFT of all weights, DPO by LoRA."""
    return workshop(tmp_path_factory.mktemp("placed"))


def test_the_stand_in_refuses_tensors_of_two_places_and_draws_from_a_generator_of_its_own(device):
    with pytest.raises(RuntimeError, match="on the same device"):
        torch.ones(2, device=device) + torch.ones(2)
    with pytest.raises(RuntimeError, match="on the same device"):
        torch.ones(2, device="standin:0") + torch.ones(2, device="standin:1")
    torch.manual_seed(3)
    first = torch.rand(2, device=device).cpu()
    torch.manual_seed(3)
    torch.rand(5)
    assert torch.equal(torch.rand(2, device=device).cpu(), first)


def test_a_device_is_chosen_by_room_or_by_name_and_one_that_is_not_there_is_one_sentence(device, built):
    assert devices.choose("auto").name.startswith("standin:")
    held = torch.empty(2**20, device="standin:0")
    assert devices.choose("auto").name == "standin:1", "the one with more free memory"
    del held
    assert devices.choose("standin:1").name == "standin:1" and devices.choose("cpu").name == "cpu"
    too_large = devices.choose("auto", need_bytes=2**40)
    assert too_large.name == "cpu" and "GB free, and the weights take 1099.5" in too_large.why
    with pytest.raises(UserError, match="device standin:2 is not here: there are standin:0, standin:1"):
        devices.choose("standin:2")


def test_of_several_processes_each_has_a_device_of_its_own(device, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert devices.choose("auto").name == "standin:1"
    with pytest.raises(UserError, match="device standin:0 would be shared by 2 processes; write standin"):
        devices.choose("standin:0")
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(UserError, match="4 processes on this machine share 2 standin devices; start 2"):
        devices.choose("auto")


def test_auto_takes_a_device_only_if_the_weights_fit(device, made, monkeypatch):
    """The tiny model's numbers at 4 bytes each; a device with one byte less is passed over, and 4 bits fit again."""
    need = 4 * count(str(made / "model"))
    said = []
    monkeypatch.setattr(devices, "free_of", lambda name: need - 1)
    assert choose_for(str(made / "model"), "auto", note=said.append) == "cpu" and "device cpu: standin" in said[0]
    assert choose_for(str(made / "model"), "auto", weights="nf4", note=said.append).startswith("standin")


def test_three_stages_on_a_device_give_the_losses_of_a_cpu(device, made, monkeypatch):
    monkeypatch.chdir(made)
    there = run("r.yaml", ["device=standin:1", *FP32], out=made / "runs" / "there", quiet=True)
    here = run("r.yaml", ["device=cpu"], out=made / "runs" / "here", quiet=True)
    for name, facts in here.stages.items():
        for key in ("loss", "eval.loss"):
            if key in facts:
                assert there.stages[name][key] == pytest.approx(facts[key], rel=2e-5), (name, key)
    replies = [
        rundir.read_jsonl(made / "runs" / one / "stages" / "02-instruct" / "samples.jsonl") for one in ("there", "here")
    ]
    assert replies[0] == replies[1]
    random = made / "runs" / "there" / "stages" / "02-instruct" / "checkpoints"
    from safetensors.torch import load_file

    state = load_file(next(random.glob("step-*")) / "state" / "random.safetensors")
    assert {"cpu", "standin0", "standin1"} <= set(state)


def test_a_run_that_began_on_a_device_goes_on_on_a_cpu(device, made, monkeypatch):
    """Four of eight steps there, the rest here: the last loss is that of eight steps here; batches, optimizer and precision go on."""
    monkeypatch.chdir(made)
    only = ["device=standin", "instruct.save_every=4", "instruct.keep=3", *FP32]
    recipe = load_yaml(RECIPE, file="r.yaml")[0]
    recipe["stages"] = recipe["stages"][1:2]
    only = [word for word in only if "adapt" not in word and "align" not in word]
    whole = run(recipe, ["device=cpu", *only[1:]], out=made / "runs" / "whole", quiet=True)
    run(recipe, only, out=made / "runs" / "moved", quiet=True)
    stage = made / "runs" / "moved" / "stages" / "01-instruct"
    (stage / "stage.json").unlink()
    for gone in (stage / "result", checkpoint.path_of(stage / "checkpoints", 8)):
        shutil.rmtree(gone)
    moved = run(recipe, ["device=cpu", *only[1:]], out=made / "runs" / "moved", quiet=True)
    assert [line["step"] for line in rundir.read_jsonl(stage / "metrics.jsonl")] == list(range(1, 9))
    assert moved.stages["instruct"]["eval.loss"] == pytest.approx(whole.stages["instruct"]["eval.loss"], rel=1e-5)
    recorded = rundir.read_json(made / "runs" / "moved" / "run.json")["stages"]["instruct"]
    assert recorded["precision"] == "fp32" and recorded["micro_tokens"] == settings.CUDA_TOKENS


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_layers_that_stay_on_disk_visit_the_device_and_give_a_resident_models_gradients(device, tmp_path, dtype):
    """In bfloat16 the file's numbers are cast on their way; dropout draws from the device's generator twice alike."""
    folder = tiny_model("llama", tmp_path / "m", num_hidden_layers=4)
    lines = []
    for streamed in (False, True):
        loaded = load(folder, stream=streamed, device="standin:1", dtype=dtype)
        assert is_streamed(loaded.model) == streamed
        torch.manual_seed(5)
        attached = method("lora", rank=4, init="gaussian", dropout=0.2).attach(loaded.model)
        attached.model.train()
        laid, targets = layout.lay(clients.rows("single"), packed=True)
        where = "standin:1"
        loss = Scorer(attached, vocabulary=320)(layout.placed(laid, where), layout.placed(targets, where), ["nll"])[
            "nll"
        ]
        loss.backward()
        learning = [p for p in attached.model.parameters() if p.requires_grad]
        assert all(p.device == torch.device(where) and p.grad is not None for p in learning)
        lines.append([loss.item(), *(p.grad.cpu() for p in learning)])
    assert lines[0][0] == pytest.approx(lines[1][0], rel=1e-6 if dtype == "float32" else 1e-2)
    for resident, streamed in zip(lines[0][1:], lines[1][1:], strict=True):  # kernels for 16 bits heed alignment
        near = 1e-6 if dtype == "float32" else 2e-2
        assert (resident - streamed).abs().max() <= near * resident.abs().max(), (resident, streamed)


@pytest.mark.parametrize(("half", "said"), [(True, ["bf16-true", "bf16"]), (False, ["fp16", "fp16"])])
def test_the_usual_precision_is_the_devices_and_training_works_in_it(device, made, monkeypatch, half, said):
    """LoRA's frozen base lies in bfloat16, weights that all learn stay float32; without bfloat16 products are fp16, scaled."""
    monkeypatch.chdir(made)
    monkeypatch.setattr(standin, "BF16", half)
    recipe = load_yaml(RECIPE, file="r.yaml")[0]
    recipe["stages"] = [dict(stage) for stage in recipe["stages"][:2]]
    out = made / "runs" / f"usual-{half}"
    result = run(recipe, ["device=standin"], out=out, quiet=True)
    record = rundir.read_json(out / "run.json")["stages"]
    assert [record[name]["precision"] for name in ("adapt", "instruct")] == said
    assert result.stages["instruct"]["loss"] == pytest.approx(4.704, abs=0.05)


LEARNERS = {
    "reward": "{objective: reward, data: prefs.jsonl, steps: 2, batch: 4}",
    "ppo": "{objective: ppo, data: prefs.jsonl, steps: 2, batch: 4, rewards: [{name: length, target: 5}], "
    "rollout: {max_tokens: 6, prompts: 4}}",
    "grpo": "{objective: grpo, data: prefs.jsonl, steps: 2, batch: 2, rewards: [{name: length, target: 5}], "
    "rollout: {max_tokens: 6, prompts: 2, group: 2}}",
    "labels": "{objective: classification, data: labels.jsonl, steps: 2, batch: 4, validation: 0.2}",
    "vectors": "{objective: contrastive, data: pairs.jsonl, steps: 2, batch: 4, method: full}",
    "distil": "{objective: distil, teacher: teacher, data: chats.jsonl, steps: 2, batch: 4}",
    "prefix": "{objective: sft, data: chats.jsonl, steps: 2, batch: 4, method: {name: prefix, length: 3}}",
    "lisa": "{objective: sft, data: chats.jsonl, steps: 2, batch: 4, method: {name: lisa, active: 1, every: 1}}",
    "qlora": "{objective: sft, data: chats.jsonl, steps: 2, batch: 4, method: {name: qlora, base: int8}}",
    "checkpointing": "{objective: sft, data: chats.jsonl, steps: 2, batch: 4, checkpointing: true, optimizer_states: host, "
    "saved_activations: host}",
    "blocks": "{objective: pretrain, data: docs, blocks: true, max_tokens: 32, steps: 2, batch: 4, optimizer: muon, method: full}",
}


HALF = ("reward", "ppo", "labels", "prefix", "qlora", "lisa")


@pytest.mark.parametrize(
    ("name", "precision"), [*((name, "fp32") for name in LEARNERS), *((name, "usual") for name in HALF)]
)
def test_every_way_to_learn_keeps_its_tensors_on_the_device(device, made, monkeypatch, name, precision):
    monkeypatch.chdir(made)
    if name == "distil":
        tiny_model("llama", made / "teacher", num_hidden_layers=1)
    jsonl(made / "labels.jsonl", [{"text": f"it is {i}", "label": ["good", "bad"][i % 2]} for i in range(20)])
    jsonl(made / "pairs.jsonl", [{"prompt": f"number {i}", "completion": f"it is {i}"} for i in range(20)])
    text = f"name: x\nmodel: model\nstages:\n  - one: {LEARNERS[name]}\n"
    (made / "one.yaml").write_text(text)
    result = run(
        "one.yaml",
        ["device=standin:1", f"one.precision={precision}"],
        out=made / "runs" / f"{name}-{precision}",
        quiet=True,
    )
    assert math.isfinite(result.stages["one"]["loss"])
    if precision == "fp32" and name not in (
        "checkpointing",
        "ppo",
        "grpo",
    ):  # sampling draws, host memory is beside a device
        here = run("one.yaml", ["device=cpu"], out=made / "runs" / f"{name}-here", quiet=True)
        assert result.stages["one"]["loss"] == pytest.approx(here.stages["one"]["loss"], rel=1e-4)


def test_generate_eval_and_embed_run_where_they_are_told(device, made, tmp_path):
    prompts = ["What is 3 plus 4?", "Who keeps the keys?", "One"]
    model = str(made / "model")
    for how in ({}, {"temperature": 1.0, "seed": 5, "n": 2}, {"beams": 2}, {"lookup": True}, {"draft": model}):
        options = {"max_tokens": 6, "quiet": True, **how}
        there = use.generate(model, prompts, device=device, **options)
        here = use.generate(model, prompts, device="cpu", **options)
        assert [row["reply"] for row in there] == [row["reply"] for row in here], how
    rows = jsonl(tmp_path / "rows.jsonl", [{"prompt": f"{i} plus 1?", "answer": str(i + 1)} for i in range(4)])
    texts = jsonl(tmp_path / "texts.jsonl", [{"text": prompt * 3} for prompt in prompts])
    tasks = [f"answers={rows}", f"perplexity={texts}"]
    scores = [evaluating.evaluate(model, tasks, device=one, quiet=True).to_json()["scores"] for one in (device, "cpu")]
    assert [s["value"] for s in scores[0]] == pytest.approx([s["value"] for s in scores[1]], rel=1e-5)
    vectors = [embed(model, prompts, device=one, quiet=True)["vectors"] for one in (device, "cpu")]
    assert torch.allclose(*map(torch.tensor, vectors), atol=1e-5)


@pytest.mark.parametrize("family", ["gpt2", "gemma2", "qwen3", "bloom", "mpt", "mixtral", "falcon", "bert", "t5"])
def test_families_load_and_answer_on_a_device(device, family, tmp_path):
    """The probe at load says the same of packing there, and the logits are a CPU's."""
    folder = tiny_model(family, tmp_path / family)
    there, here = load(folder, device="standin:1"), load(folder)
    assert there.packs == here.packs
    ids = torch.arange(5, 15)[None]
    sides = {"decoder_input_ids": ids} if family == "t5" else {}
    with torch.no_grad():
        wanted = here.model(input_ids=ids, **sides).logits
        got = there.model(
            input_ids=ids.to("standin:1"), **{name: value.to("standin:1") for name, value in sides.items()}
        ).logits
    assert torch.allclose(got.cpu(), wanted, atol=1e-5)
