"""Every tensor where the model lies: training and using models on a device that is no CPU gives a CPU's numbers."""

import pytest
import torch

from bottega.core import devices, rundir
from bottega.core.errors import UserError
from bottega.models.load import load
from bottega.models.place import choose_for, count
from bottega.workshop import use
from bottega.workshop.predict import embed
from bottega.workshop.stages import run
from tests.models.tiny import tiny_model
from tests.workshop.made import jsonl, workshop


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
    there = run("r.yaml", ["device=standin:1"], out=made / "runs" / "there", quiet=True)
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
    scores = [use.evaluate(model, tasks, device=one, quiet=True).to_json()["scores"] for one in (device, "cpu")]
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
