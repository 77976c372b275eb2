"""The last layer at the supervised positions alone: the same losses and gradients, fewer rows multiplied (rows T1, P1).

Left out: packed against plain transformers, which tests/parity/test_packing.py does with the tail in use; speed (benchmarks/cpu.py).
"""

import pytest
import torch

from bottega.core.types import Row, Tokens
from bottega.models import layers, layout, tail
from bottega.models.heads import causal_model
from bottega.models.load import load
from bottega.models.methods import method
from bottega.models.score import Scorer

FAMILIES = (
    "llama",
    "qwen3",
    "mistral",
    "granite",
    "gpt2",
    "gpt_neox",
    "gemma2",
    "gemma3_text",
    "phi",
    "phi3",
    "cohere",
    "olmo2",
)
EXPERTS = ("mixtral", "qwen2_moe")


def rows():
    """Two chats with long prompts, and a prompt with two answers, whose last token predicts the first of both."""
    ids = torch.randint(5, 320, (60,), generator=torch.Generator().manual_seed(3)).tolist()

    def part(start, length, trained):
        return Tokens(ids[start : start + length], [float(i >= length - trained) for i in range(length)])

    return [
        Row(index=0, branches=(part(0, 14, 3),)),
        Row(index=1, branches=(part(14, 17, 5),)),
        Row(index=2, prefix=part(31, 12, 0), branches=(part(43, 4, 4), part(47, 6, 6))),
    ]


def scored(attached, *, on, need="nll"):
    """Scores and gradients with the tail or without it."""
    scorer = Scorer(attached, vocabulary=320, head_chunk=4)
    assert scorer.tail
    scorer.tail = on
    laid, targets = layout.lay(rows(), packed=True)
    scorer.zero_grad(set_to_none=True)
    score = scorer(laid, targets, [need])[need]
    (score * torch.linspace(1, 2, score.numel()).view_as(score)).sum().backward()
    return score.detach(), {n: p.grad.clone() for n, p in scorer.named_parameters() if p.grad is not None}


def equal(attached, need="nll"):
    (one, mine), (other, theirs) = scored(attached, on=True, need=need), scored(attached, on=False, need=need)
    assert torch.allclose(one, other, rtol=1e-6, atol=1e-6) and set(mine) == set(theirs) and mine
    for name, gradient in theirs.items():
        assert torch.allclose(mine[name], gradient, atol=1e-5 * max(1.0, float(gradient.abs().max()))), name


@pytest.mark.parametrize("family", (*FAMILIES, *EXPERTS))
def test_losses_and_gradients_are_those_of_a_whole_last_layer(saved, family):
    equal(method("full").attach(load(saved(family)).model), "logp")


@pytest.mark.parametrize("options", [{"rank": 4}, {"rank": 4, "dora": True}])
def test_adapters_learn_the_same(saved, options):
    equal(method("lora", **options).attach(load(saved("llama")).model))


def test_a_prefix_is_seen_by_the_part_too(saved):
    equal(method("prefix", length=3).attach(load(saved("llama")).model))


def test_the_part_is_computed_again_under_checkpointing(saved):
    attached = method("full").attach(load(saved("llama")).model)
    plain = scored(attached, on=True)
    attached.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    attached.model.train()
    again = scored(attached, on=True)
    assert torch.equal(plain[0], again[0]) and all(torch.equal(plain[1][n], again[1][n]) for n in plain[1])


def test_the_last_layer_multiplies_the_supervised_rows_alone(saved):
    """27 of 53 positions predict nothing that is learned; each of those that do is computed once, though one predicts twice."""
    attached = method("full").attach(load(saved("llama")).model)
    scorer = Scorer(attached, vocabulary=320)
    last = layers.decoder_layers(causal_model(attached.model))[-1]
    seen = {}
    for name in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.o_proj", "mlp.up_proj"):
        hook = lambda _, given, __, name=name: seen.setdefault(name, []).append(given[0].shape[1])  # noqa: E731
        last.get_submodule(name).register_forward_hook(hook)
    laid, targets = layout.lay(rows(), packed=True)
    wanted = len(set(laid.at_S.tolist()))
    assert wanted == len(laid.at_S) - 1
    scorer(laid, targets, ["nll"])
    scorer(laid, targets, ["embedding"])
    whole = laid.ids_BT.shape[1]
    assert seen == {name: [whole if "k_proj" in name else wanted, whole] for name in seen} and len(seen) == 4


def test_nearly_everything_asked_for_is_computed_as_a_whole():
    assert tail.part_of(torch.arange(81), 100) is None
    assert tail.part_of(torch.tensor([5, 3, 3]), 100).tolist() == [3, 5]


def test_a_method_that_works_within_the_layer_sees_all_of_it(saved):
    attached = method("adapter", width=4).attach(load(saved("llama")).model)
    assert not Scorer(attached, vocabulary=320).tail


def test_hooks_are_given_once_and_change_nothing_by_themselves(saved):
    model = load(saved("llama")).model
    ids = torch.arange(9)[None]
    before = model(input_ids=ids).logits
    for _ in range(2):
        assert tail.install(model)
    hooks = sum(len(one._forward_hooks) + len(one._forward_pre_hooks) for one in model.modules())
    assert hooks == 7 and torch.equal(model(input_ids=ids).logits, before)
