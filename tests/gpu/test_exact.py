"""On a GPU the same is computed as on a CPU: packed rows, masks, quantised weights, generation, whole runs.

Left out: speed (benchmarks/gpu) and several GPUs.
"""

import json

import pytest
import torch

from bottega.core.errors import DoesNotFit
from bottega.models import attention, layout, varlen
from bottega.models.generate import Generator
from bottega.models.load import load, load_weights
from bottega.models.methods import method
from bottega.models.score import Scorer
from bottega.workshop.stages import run
from tests.models.tiny import tiny_model
from tests.parity import test_packing
from tests.train.clients import make_loop, weights
from tests.workshop.made import chat, jsonl

FAMILIES = ("llama", "qwen3", "mistral", "granite", "gpt2", "gpt_neox", "gemma2")


@pytest.fixture(autouse=True)
def exact():
    """No TF32: 32 bits are 32 bits."""
    torch.backends.cuda.matmul.allow_tf32 = False


@pytest.mark.parametrize("family", FAMILIES)
def test_packed_losses_and_gradients_are_those_of_single_sequences(saved, gpu, family):
    attached = method("full").attach(load(saved(family)).model.to(gpu))
    plain = load_weights(saved(family)).eval()
    laid, targets = layout.lay(test_packing.rows(), packed=True, pad_id=0)
    scorer = Scorer(attached, vocabulary=320, head_chunk=4)
    loss = scorer(layout.placed(laid, gpu), layout.placed(targets, gpu), ["nll"])["nll"]
    wanted = -test_packing.one_at_a_time(plain).sum()
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-5)
    loss.backward()
    wanted.backward()
    mine, theirs = test_packing.gradients(attached.model), test_packing.gradients(plain)
    assert set(mine) == set(theirs) and mine
    for name, gradient in theirs.items():
        scale = max(1.0, float(gradient.abs().max()))
        assert torch.allclose(mine[name].cpu(), gradient, atol=2e-5 * scale), name


BLOCKS = {
    "alone": (attention.Block(0, 70), attention.Block(70, 71), attention.Block(71, 200)),
    "shared": (attention.Block(0, 40), attention.Block(40, 90, 0, 40), attention.Block(90, 200, 0, 40)),
}


@pytest.mark.parametrize("window", [None, 16])
@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize("blocks", BLOCKS)
def test_the_variable_length_kernel_computes_what_every_block_does_by_itself(
    gpu, blocks, kv_heads, window, monkeypatch
):
    torch.manual_seed(0)
    layer = torch.nn.Module()
    found = []
    made = [torch.randn(1, heads, 200, 64, device=gpu, dtype=torch.bfloat16) for heads in (4, kv_heads, kv_heads)]
    weight = torch.randn(1, 200, 4, 64, device=gpu)
    for fused in (True, False):
        if not fused:
            monkeypatch.setattr(varlen, "fits", lambda *_: False)
        q, k, v = (x.float().to(torch.bfloat16 if fused else torch.float32).requires_grad_() for x in made)
        geometry = attention.Geometry(blocks=BLOCKS[blocks])
        out, _ = attention.packed_attention(layer, q, k, v, None, layout=geometry, sliding_window=window)
        assert bool(geometry.lengths) == fused
        (out.float() * weight).sum().backward()
        found.append([x.detach().float() for x in (out, q.grad, k.grad, v.grad)])
    for fast, plain in zip(*found, strict=True):
        assert (fast - plain).abs().max() <= 0.02 * plain.abs().max(), (fast - plain).abs().max()


def test_half_precision_trains_through_the_kernel(saved, gpu, tmp_path):
    loops = []
    for precision in ("fp32", "bf16"):
        loop = make_loop(
            saved("llama"), tmp_path / precision, precision=precision, steps=6, lr=1e-2, optimizer="adamw", device=gpu
        )
        loops.append([loop.one_step()["loss"] for _ in range(6)])
    assert loops[1][-1] < loops[1][0]
    assert loops[1] == pytest.approx(loops[0], rel=0.05)  # six steps of AdamW at 0.01 spread the rounding


@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt2", "gemma2"])
def test_greedy_replies_are_the_cpus(saved, gpu, family):
    prompts = [[5, 60, 70], [5, 9, 10, 200, 7], [8]]
    replies = []
    for device in ("cpu", gpu):
        loaded = load(saved(family))
        attached = method("full").attach(loaded.model.to(device).eval())
        generator = Generator(attached.model, loaded.tokenizer, inputs=attached.inputs)
        replies.append(generator.sample(prompts, max_tokens=12, logps=True))
    for cpu, cuda in zip(*replies, strict=True):
        assert cuda.ids == cpu.ids and cuda.logps == pytest.approx(cpu.logps, abs=1e-4)


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_quantised_weights_are_the_cpus(saved, gpu, kind):
    pytest.importorskip("bitsandbytes")
    ids = torch.randint(5, 320, (2, 24), generator=torch.Generator().manual_seed(3))
    here, there = (load(saved("llama"), weights=kind, device=device).model for device in ("cpu", gpu))
    with torch.no_grad():
        wanted, found = here(ids).logits, there(ids.to(gpu)).logits.cpu()
    assert (found - wanted).abs().max() <= 1e-3 * wanted.abs().max()


def test_a_batch_that_runs_out_of_the_devices_memory_is_halved_with_the_same_gradient(tmp_path, gpu):
    folder = tiny_model(
        "llama", tmp_path / "m", vocab=320, hidden_size=256, num_hidden_layers=4, intermediate_size=1024
    )
    settings = {"precision": "fp32", "steps": 1, "micro_tokens": 4096, "device": gpu}
    whole = make_loop(folder, tmp_path / "whole", **settings)
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    held = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    whole.one_step()
    peak = torch.cuda.max_memory_allocated()
    wanted = {name: value.cpu() for name, value in weights(whole).items()}
    del whole
    torch.cuda.empty_cache()
    notes = []
    tight = make_loop(folder, tmp_path / "tight", **settings)
    tight.progress.note = notes.append
    total = torch.cuda.get_device_properties(0).total_memory
    reserved = torch.cuda.memory_reserved()
    try:
        torch.cuda.set_per_process_memory_fraction((max(held, reserved) + 0.6 * (peak - held)) / total)
        try:
            tight.one_step()
        except DoesNotFit as error:
            assert error.exit_code == 6
        else:
            assert any("tried again with micro_tokens" in note for note in notes) or not notes
            for name, value in weights(tight).items():
                assert torch.allclose(value.cpu(), wanted[name], atol=1e-5 * max(1.0, float(wanted[name].abs().max())))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def test_a_layer_waits_in_pinned_memory_and_gives_the_resident_gradient(saved, gpu, tmp_path):
    folder = saved("llama", num_hidden_layers=4)
    found = []
    for streamed in (False, True):
        options = {"rank": 4, "init": "gaussian"}
        place = tmp_path / str(streamed)
        loop = make_loop(folder, place, tune="lora", method_options=options, stream=streamed, steps=3, device=gpu)
        line = [loop.one_step() for _ in range(3)][-1]
        found.append(
            (line["loss"], {n: p.detach().cpu() for n, p in loop.parts.scorer.named_parameters() if p.requires_grad})
        )
    assert found[1][0] == pytest.approx(found[0][0], rel=1e-5)
    for name, value in found[0][1].items():
        assert torch.allclose(found[1][1][name], value, atol=1e-5), name


@pytest.mark.parametrize(
    "stage", [{}, {"method": {"name": "lora", "rank": 4}}, {"precision": "bf16"}, {"compile": True}]
)
def test_a_recipe_runs_on_the_gpu_resumes_and_gives_nearly_the_cpus_losses(tmp_path, gpu, stage):
    tiny_model("llama", tmp_path / "model")
    jsonl(tmp_path / "chats.jsonl", [chat(f"What is {i} plus {i % 7}?", f"It is {i + i % 7}.") for i in range(24)])
    whole = {"objective": "sft", "data": str(tmp_path / "chats.jsonl"), "steps": 6, "batch": 4, "save_every": 2}
    whole |= {"precision": "fp32"}
    losses = {}
    for device, own in (("cpu", {k: v for k, v in stage.items() if k == "method"}), ("cuda", stage)):
        plan = {"name": "g", "model": str(tmp_path / "model"), "device": device, "stages": [{"tune": whole | own}]}
        run(plan, out=tmp_path / device, quiet=True)
        lines = (tmp_path / device / "stages" / "01-tune" / "metrics.jsonl").read_text().splitlines()
        losses[device] = [line["loss"] for line in map(json.loads, lines) if "loss" in line]
    assert len(losses["cuda"]) == len(losses["cpu"]) >= 6
    assert losses["cuda"] == pytest.approx(losses["cpu"], rel=0.03 if "precision" in stage else 1e-3)
