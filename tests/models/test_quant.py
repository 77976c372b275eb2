"""Bases in 4 and 8 bits: the numbers of bitsandbytes, exact gradients, PEFT's files, merges measured by KL (rows F1, F3, G4)."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from bottega.core.errors import CheckFailed, UserError
from bottega.models import merge, quant
from bottega.models.layers import count_parameters
from bottega.models.load import load
from bottega.models.methods import method

pytest.importorskip("bitsandbytes")
IDS = torch.arange(5, 35).view(2, 15)


def layer_of(kind, *, inputs=96, outputs=40, bias=True):
    torch.manual_seed(0)
    plain = nn.Linear(inputs, outputs, bias=bias)
    made = quant.QuantLinear(inputs, outputs, kind, bias=plain.bias, transposed=False)
    return plain, made.fill(quant.quantise(plain.weight.detach(), kind))


def test_int8_is_one_scale_a_row():
    """Row (1, -2, 0.5): scale 2; q = round(127 w / 2) = (64 (63.5 to even), -127, 32 (31.75)); w ~ 2 q / 127."""
    parts = quant.quantise(torch.tensor([[1.0, -2.0, 0.5]]), "int8")
    assert parts["weight"].tolist() == [[64, -127, 32]] and parts["scale"].tolist() == [2.0]
    back = quant.dequantise(parts, "int8", (1, 3), torch.float32)
    torch.testing.assert_close(back, torch.tensor([[128 / 127, -2.0, 64 / 127]]))


def test_nf4_keeps_its_sixteen_levels_times_a_scale():
    """Weights that are levels of NF4 already (arXiv 2305.14314, appendix E), times 3, come back; only the 8-bit scale errs."""
    levels = torch.tensor([-1.0, -0.6961928, -0.5250731, -0.3949175, -0.2844414, -0.1847734, -0.0910500, 0.0])
    levels = torch.cat(
        [levels, torch.tensor([0.0795803, 0.1609302, 0.2461123, 0.3379152, 0.4407098, 0.5626170, 0.7229568, 1.0])]
    )
    matrix = 3.0 * levels.repeat(16).view(2, 128)
    parts = quant.quantise(matrix, "nf4")
    assert parts["weight"].numel() == 128 and parts["scale"].numel() == 4, "half a byte a weight, a scale for 64"
    torch.testing.assert_close(quant.dequantise(parts, "nf4", (2, 128), torch.float32), matrix, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(40, 96), (3, 5), (7, 33), (130, 129)])
@pytest.mark.parametrize("kind", quant.KINDS)
def test_shapes_are_foretold_and_the_error_is_bounded(kind, shape):
    """int8: at most half a step, scale / 254. NF4: at most half the widest gap (0.3 of the largest weight) and a little."""
    torch.manual_seed(1)
    matrix = torch.randn(shape)
    parts = quant.quantise(matrix, kind)
    told = quant.shapes(kind, *shape)
    assert {name: (tuple(t.shape), t.dtype) for name, t in parts.items()} == told
    error = (quant.dequantise(parts, kind, shape, torch.float32) - matrix).abs()
    bound = parts["scale"][:, None] / 254 * 1.001 if kind == "int8" else matrix.abs().max() * 0.2
    assert bool((error <= bound).all())


def test_nf4_equals_the_layer_of_bitsandbytes():
    import bitsandbytes as bnb

    plain, ours = layer_of("nf4", inputs=128)
    theirs = bnb.nn.Linear4bit(128, 40, compute_dtype=torch.float32, compress_statistics=True, quant_type="nf4")
    theirs.load_state_dict(plain.state_dict())
    theirs = theirs.to("cpu")
    weight = bnb.functional.dequantize_4bit(theirs.weight.data, theirs.weight.quant_state)
    torch.testing.assert_close(ours.matrix(), weight.view(40, 128), rtol=0, atol=0)


@pytest.mark.parametrize("kind", quant.KINDS)
def test_output_and_gradient_are_those_of_the_dequantised_matrix_which_is_not_kept(kind):
    _, made = layer_of(kind)
    kept: list[tuple[int, ...]] = []
    x = torch.randn(2, 7, 96, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(tuple(t.shape)) or t, lambda t: t):
        out = made(x)
    out.square().sum().backward()
    y = x.detach().clone().requires_grad_()
    wanted = nn.functional.linear(y, made.matrix(), made.bias)
    wanted.square().sum().backward()
    torch.testing.assert_close(out, wanted)
    torch.testing.assert_close(x.grad, y.grad)
    assert (40, 96) not in kept and (96, 40) not in kept
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert made(x).dtype == torch.bfloat16


@pytest.mark.parametrize("kind", quant.KINDS)
@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen2_moe"])
def test_a_base_loaded_quantised_is_close_and_counts_its_real_numbers(saved, family, kind):
    full, held = load(saved(family)), load(saved(family), weights=kind)
    assert held.packs == full.packs and len(quant.quantised_layers(held.model)) >= 8
    assert count_parameters(held.model)[1] == count_parameters(full.model)[1]
    kl, count = quant.mean_kl(full.model, held.model, IDS.tolist())
    assert count == 30 and 0 < kl < {"nf4": 0.3, "int8": 1e-3}[kind]
    assert quant.mean_kl(full.model, full.model, IDS.tolist())[0] == 0.0


def test_kl_is_the_formulas():
    """p = (3/4, 1/4), q = (1/2, 1/2): KL = 3/4 ln 3/2 + 1/4 ln 1/2 = 0.1308 nats, at each of three positions."""

    class Fixed(nn.Module):
        def __init__(self, p):
            super().__init__()
            self.logits = torch.tensor(p).log()

        def forward(self, input_ids, use_cache):
            return type("Out", (), {"logits": self.logits.expand(1, input_ids.shape[1], 2)})

    kl, count = quant.mean_kl(Fixed([0.75, 0.25]), Fixed([0.5, 0.5]), [[1, 2], [3]])
    assert count == 3 and math.isclose(kl, 0.75 * math.log(1.5) + 0.25 * math.log(0.5), rel_tol=1e-6)


def trained(loaded, tune, **options):
    torch.manual_seed(0)
    attached = method(tune, rank=4, **options).attach(loaded.model)
    for name, parameter in attached.model.named_parameters():
        if ".lora_B." in name:
            nn.init.normal_(parameter, std=0.1)
    return attached


@pytest.mark.parametrize("kind", quant.KINDS)
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_merge_dequantises_is_measured_and_loads_as_plain_transformers(saved, tmp_path, family, kind):
    from transformers import AutoModelForCausalLM

    loaded = load(saved(family), weights=kind)
    attached = trained(loaded, "qlora", base=kind)
    assert attached.facts["trainable"] < attached.facts["total"]
    merged, facts = merge.merge(attached, IDS.tolist())
    assert facts["merge_kl"] < 1e-9 and not quant.quantised_layers(merged)
    assert quant.quantised_layers(attached.model), "the attached model is left as it is"
    merge.save_model(merged, loaded.tokenizer, tmp_path)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        torch.testing.assert_close(plain(IDS).logits, attached.model.eval()(IDS).logits, rtol=1e-4, atol=1e-4)


def test_a_merge_above_the_bound_is_refused_unless_allowed(saved):
    attached = trained(load(saved("llama"), weights="nf4"), "qlora", merge_kl=0.0)
    with pytest.raises(CheckFailed, match=r"by KL .* nats a token over 30 tokens \(limit 0e\+00\).*merge_kl"):
        merge.merge(attached, IDS.tolist())


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_plain_peft_loads_the_adapter_on_the_full_base_and_we_on_the_quantised_one(saved, tmp_path, family):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    attached = trained(load(saved(family), weights="int8"), "qlora", base="int8")
    attached.save(str(tmp_path))
    theirs = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(saved(family)), tmp_path).eval()
    ours = load(tmp_path, weights="int8").attached
    with torch.no_grad():
        wanted = attached.model.eval()(IDS).logits
        torch.testing.assert_close(ours.model.eval()(IDS).logits, wanted, rtol=0, atol=0)
    assert quant.mean_kl(theirs, attached.model, IDS.tolist())[0] < 1e-3, "apart by the base's rounding to 8 bits"


def test_qlora_quantises_what_a_stage_before_left_plain_and_refuses_another_kind(saved):
    plain = load(saved("llama"))
    trained(plain, "qlora")
    assert {layer.kind for _, layer in quant.quantised_layers(plain.model)} == {"nf4"}
    with pytest.raises(UserError, match="wants a base in nf4, and this one is in int8"):
        trained(load(saved("llama"), weights="int8"), "qlora")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"base": "int3"}, "base 'int3'"),
        ({"init": "pissa"}, "init 'pissa'"),
        ({"rank": 0}, "rank 0"),
        ({"merge_kl": -1}, "merge_kl -1"),
    ],
)
def test_options_out_of_range_are_refused(options, reason):
    with pytest.raises(UserError, match=reason):
        method("qlora", **options)


def test_without_the_package_there_is_one_hint(saved, monkeypatch):
    monkeypatch.setattr(quant.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"need the package bitsandbytes; pip install 'bottega\[quant\]'"):
        load(saved("llama"), weights="nf4")


def test_unknown_weights_are_refused(saved):
    with pytest.raises(UserError, match="weights 'int3' is not one of full, nf4, int8"):
        load(saved("llama"), weights="int3")
