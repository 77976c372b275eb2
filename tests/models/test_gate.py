"""A learned gate over frozen adapters: its start, its gradients, what it learns, what it saves, and what it refuses.

Left out: whole runs (tests/workshop/test_give.py).
"""

from __future__ import annotations

import pytest
import torch

from bottega.core.errors import Mismatch, UserError
from bottega.models import merge as merging
from bottega.models.blend_adapters import combine
from bottega.models.load import load, load_weights
from bottega.models.methods import method
from tests.models.test_lora import logits, stir
from tests.models.test_methods import check_gradients
from tests.models.tiny import tiny_model

FAMILIES = ["llama", "gpt2"]


@pytest.fixture(scope="module", params=FAMILIES)
def here(request, tmp_path_factory):
    """A base and two adapters on it, of other ranks and targets."""
    here = tmp_path_factory.mktemp(request.param)
    tiny_model(request.param, here / "base")
    for seed, rank in ((1, 4), (2, 6)):
        torch.manual_seed(seed)
        targets = {} if seed == 1 else {"targets": ["down_proj", "q_proj"] if request.param == "llama" else ["c_fc"]}
        stir(method("lora", rank=rank, **targets).attach(load(here / "base").model)).save(str(here / f"a{seed}"))
    return here


def gated(here, names=("a1", "a2"), **options):
    return method("gate", adapters=[str(here / name) for name in names]).attach(load_weights(here / "base", **options))


def test_it_starts_at_half_of_each_adapter_and_trains_one_row_an_adapter_and_layer(here, tmp_path):
    attached = gated(here)
    combine([here / "a1", here / "a2"], tmp_path, weights=[0.5, 0.5], base=str(here / "base"))
    assert torch.allclose(logits(attached.model), logits(load(tmp_path).model), atol=1e-5)
    counted = {name: p for name, p in attached.model.named_parameters() if p.requires_grad}
    assert all(name.endswith((".gate.gate.weight", ".gate.gate.bias")) for name in counted)
    widths = [(2 if len(m.numbers) == 2 else 1) * (m.gate.in_features + 1) for m in modules(attached.model)]
    assert attached.facts["trainable"] == sum(widths) == sum(p.numel() for p in counted.values())
    assert {m.numbers for m in modules(attached.model)} == {(0,), (0, 1)}


def modules(model):
    return [module for module in model.modules() if type(module).__name__ == "GateLayer"]


def opened(attached, *values):
    """Biases that open (30) or close (-30) each adapter."""
    with torch.no_grad():
        for layer in modules(attached.model):
            layer.gate.bias.copy_(torch.tensor([30.0 if values[number] else -30.0 for number in layer.numbers]))
    return attached


def test_open_gates_are_the_adapters_and_closed_ones_the_base(here):
    assert torch.allclose(logits(opened(gated(here), 1, 0).model), logits(load(here / "a1").model), atol=1e-5)
    assert torch.allclose(logits(opened(gated(here), 0, 1).model), logits(load(here / "a2").model), atol=1e-5)
    assert torch.allclose(logits(opened(gated(here), 0, 0).model), logits(load(here / "base").model), atol=1e-5)


def test_gradients_are_those_of_finite_differences(here):
    if here.name.startswith("llama"):
        pytest.skip("its norms compute in float32 whatever they are given")
    attached = gated(here, dtype="float64")
    attached.model.double()
    with torch.no_grad():
        for layer in modules(attached.model):
            layer.gate.weight.normal_(0, 0.1)
    check_gradients(attached)


def test_it_learns_to_choose_by_the_token_and_is_found_again_after_saving(here, tmp_path):
    """Two texts, each the favourite of one adapter: the gate does better than any fixed mixture that it starts from."""
    torch.manual_seed(0)
    attached, texts = gated(here), [torch.randint(3, 300, (1, 12)) for _ in range(2)]
    wanted = []
    for text, name in zip(texts, ("a1", "a2")):
        with torch.no_grad():
            wanted.append(torch.log_softmax(load(here / name).model(input_ids=text).logits, -1))

    def distance():
        own = [torch.log_softmax(attached.model(input_ids=text).logits, -1) for text in texts]
        return sum((w.exp() * (w - o)).sum(-1).mean() for w, o in zip(wanted, own))

    before = float(distance())
    optimizer = torch.optim.Adam([p for group in attached.groups for p in group["params"]], lr=0.05)
    for _ in range(60):
        optimizer.zero_grad()
        loss = distance()
        loss.backward()
        optimizer.step()
    assert float(distance()) < 0.2 * before
    attached.save(str(tmp_path))
    again = load(tmp_path)
    assert again.attached.name == "gate" and torch.allclose(logits(again.model), logits(attached.model), atol=1e-5)
    continued = load(tmp_path, trainable=True).attached
    assert sum(p.numel() for g in continued.groups for p in g["params"]) == attached.facts["trainable"]
    with pytest.raises(UserError, match="cannot be merged"):
        merging.merge(attached)


def test_what_cannot_be_mixed_is_refused_before_anything_is_hung_in(here, tmp_path):
    with pytest.raises(UserError, match="needs adapters"):
        gated(here, ())
    with pytest.raises(UserError, match="whole model"):
        gated(here, ("base",))
    other = load_weights(tiny_model("llama", tmp_path / "other", seed=3))
    with pytest.raises(Mismatch, match="trained on"):
        method("gate", adapters=[str(here / "a1")]).attach(other)
    with pytest.raises(UserError, match="list of 1 to"):
        method("gate", adapters="a1")
    twice = gated(here)
    with pytest.raises(UserError, match="gate already"):
        method("gate", adapters=[str(here / "a1")]).attach(twice.model)
