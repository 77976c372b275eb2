"""LISA's swaps and prefix tuning's inputs, on tiny models."""

import pytest
import torch

from bottega.core.errors import UserError
from bottega.core.types import Row, Tokens
from bottega.models import heads, layout
from bottega.models.load import load, load_weights
from bottega.models.methods import attach_saved, method
from bottega.models.methods.lisa import draw
from bottega.models.score import Scorer


def learning_layers(model):
    return [i for i, layer in enumerate(model.model.layers) if any(p.requires_grad for p in layer.parameters())]


def test_lisa_trains_embeddings_head_and_the_drawn_layers_and_swaps_every_so_many_steps(saved):
    attached = method("lisa", active=1, every=3, seed=1).attach(load_weights(saved("llama", num_hidden_layers=4)))
    drawn = [draw(4, 1, 1, interval) for interval in range(4)]
    assert len({tuple(d) for d in drawn}) > 1
    swaps = []
    for step in range(1, 13):
        before = attached.before_step(step)
        assert not before
        assert learning_layers(attached.model) == drawn[(step - 1) // 3]
        if attached.after_step(step):
            swaps.append(step)
    assert swaps == [3 * i for i in (1, 2, 3) if drawn[i] != drawn[i - 1]] + (
        [12] if draw(4, 1, 1, 4) != drawn[3] else []
    )
    names = [name for group in attached.groups for name in group["names"]]
    assert "model.embed_tokens.weight" in names and "lm_head.weight" in names and "model.norm.weight" in names
    assert sum(p.numel() for group in attached.groups for p in group["params"]) == attached.facts["trainable"]


def test_a_resumed_lisa_draws_the_layers_of_the_step_it_resumes_at(saved):
    attached = method("lisa", active=2, every=5, seed=3).attach(load_weights(saved("llama", num_hidden_layers=4)))
    attached.before_step(12)
    assert learning_layers(attached.model) == draw(4, 2, 3, 2)


def test_lisa_drops_gradients_of_layers_that_stop_learning(saved):
    model = load_weights(saved("llama", num_hidden_layers=4))
    attached = method("lisa", active=1, every=1, seed=0).attach(model)
    model(torch.tensor([[1, 2, 3]])).logits.sum().backward()
    step = next(step for step in range(1, 20) if attached.after_step(step))
    assert step
    frozen = [p for p in model.parameters() if not p.requires_grad]
    assert frozen and all(p.grad is None for p in frozen)


def test_lisa_says_when_it_asks_for_more_layers_than_there_are(saved):
    with pytest.raises(UserError, match="more than the model's 2 layers"):
        method("lisa", active=3).attach(load_weights(saved("llama")))


def rows():
    texts = ([1, 44, 70, 80], [1, 90, 91, 92, 93, 94, 95, 96, 97], [1, 200, 201])
    return [Row(index=i, branches=(Tokens(ids, [1.0] * len(ids)),)) for i, ids in enumerate(texts)]


def score(attached, some, view="policy"):
    laid, targets = layout.lay(some, packed=True, num_prefix=attached.inputs.num_prefix if attached.inputs else 0)
    return Scorer(attached, vocabulary=320)(laid, targets, ["logp"], view)["logp"]


@pytest.mark.parametrize("family", ["llama", "qwen3", "mistral", "gpt2", "gpt_neox"])
def test_packed_sequences_with_prefixes_score_as_they_do_alone(saved, family):
    attached = method("prefix", length=5).attach(load(saved(family)).model)
    together = score(attached, rows())
    alone = torch.cat([score(attached, [row]) for row in rows()])
    assert torch.allclose(together, alone, atol=2e-5)
    assert attached.facts["trainable"] == 2 * attached.inputs.values.shape[2] * 5 * attached.inputs.values.shape[4] * 2


def test_a_prefix_starts_from_the_models_own_keys_and_is_the_only_thing_that_learns(saved):
    model = load(saved("llama")).model
    attached = method("prefix", length=4, seed=5).attach(model)
    ids = torch.randint(320, (1, 4), generator=torch.Generator().manual_seed(5))
    asked = torch.tensor([[1, 44, 70]])
    wanted = model(torch.cat([ids, asked], 1)).logits[0, 4:]
    laid, _ = layout.lay([Row(index=0, branches=(Tokens(asked[0].tolist(), [0.0] * 3),))], packed=True, num_prefix=4)
    laid.geometry.prefix_kv = attached.inputs.prefix_kv
    got = model(laid.ids_BT, position_ids=laid.positions_BT, layout=laid.geometry, use_cache=False).logits[0]
    assert torch.allclose(got, wanted, atol=2e-5)
    score(attached, rows()).sum().backward()
    assert [p for p in model.parameters() if p.requires_grad] == []
    assert attached.inputs.values.grad.abs().amax(dim=(1, 2, 3, 4)).min() > 0


def test_prefixes_learn_under_gradient_checkpointing_with_the_same_gradient(saved):
    grads = []
    for checkpointing in (False, True):
        model = load(saved("llama")).model.train()
        attached = method("prefix", length=3).attach(model)
        if checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            model.enable_input_require_grads()
        score(attached, rows()).sum().backward()
        grads.append(attached.inputs.values.grad)
    assert torch.allclose(grads[0], grads[1], atol=1e-5) and grads[0].abs().max() > 0


def test_the_reference_of_a_prefix_is_the_model_without_it(saved):
    loaded = load(saved("llama"))
    plain = method("full").attach(load(saved("llama")).model)
    attached = method("prefix", length=3).attach(loaded.model)
    assert attached.reference_kind == "off"
    assert torch.allclose(score(attached, rows(), "reference"), score(plain, rows()), atol=2e-5)


def test_a_prefix_is_saved_reloaded_and_refused_on_another_shape_or_a_bucketed_family(saved, tmp_path):
    attached = method("prefix", length=3).attach(load(saved("llama")).model)
    attached.save(tmp_path)
    loaded = load(tmp_path)
    assert torch.equal(loaded.attached.inputs.values, attached.inputs.values)
    assert loaded.attached.merge is None and loaded.attached.reference_kind == "copy"
    assert not loaded.attached.inputs.values.requires_grad
    with pytest.raises(UserError, match="shape"):
        attach_saved(load(saved("gpt2")).model, tmp_path, trainable=False)
    with pytest.raises(UserError, match="needs packed attention"):
        method("prefix").attach(load(saved("bloom")).model)
    for wrong in ({"length": 0}, {"init": "zeros"}):
        with pytest.raises(UserError, match="prefix"):
            method("prefix", **wrong)


def test_the_head_of_an_adapted_model_is_found(saved):
    attached = method("lora", rank=2, targets=["q_proj"]).attach(load(saved("granite")).model)
    assert heads.find_head(attached.model, 320).scale == 0.25
