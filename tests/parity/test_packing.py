"""Packed or padded, whole or adapted, checkpointed or not: losses and gradients are those of one sequence at a time
through plain transformers.

Left out: several ranks (tests/train) and half precision.
"""

import pytest
import torch

from bottega.core.types import Row, Tokens
from bottega.models import layout
from bottega.models.load import load, load_weights
from bottega.models.methods import method
from bottega.models.score import Scorer

PACKED = ("llama", "qwen3", "mistral", "granite", "gpt2", "gpt_neox", "gemma2", "phi", "mixtral")
BUCKETED = ("bloom", "mpt", "gptj", "falcon")
LENGTHS = (7, 1, 12, 5, 2)


def sequences():
    """Five sequences with their loss weights: prompts without, answers with."""
    generator = torch.Generator().manual_seed(11)
    out = []
    for length in LENGTHS:
        ids = torch.randint(5, 320, (length,), generator=generator).tolist()
        out.append((ids, [float(i >= length // 3) for i in range(length)]))
    return out


def rows():
    return [Row(index=i, branches=(Tokens(ids, trains),)) for i, (ids, trains) in enumerate(sequences())]


def one_at_a_time(model):
    """log p of each trained token, by the plain formula on plain logits."""
    parts = []
    for ids, trains in sequences():
        logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].float()
        logp = torch.log_softmax(logits[:-1], -1).gather(1, torch.tensor(ids[1:])[:, None])[:, 0]
        parts.append(logp[torch.tensor(trains[1:], dtype=torch.bool)])
    return torch.cat(parts)


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def compare(attached, plain, *, packed):
    """Both losses and gradients; `plain` is a model with the same weights that never saw us."""
    laid, targets = layout.lay(rows(), packed=packed, pad_id=0)
    scorer = Scorer(attached, vocabulary=320, head_chunk=4)
    wanted = one_at_a_time(plain)
    assert torch.allclose(scorer(laid, targets, ["logp"])["logp"], wanted, atol=1e-5)
    nll = scorer(laid, targets, ["nll"])["nll"]
    assert nll.item() == pytest.approx(-wanted.sum().item(), rel=1e-5)
    nll.backward()
    (-wanted.sum()).backward()
    mine, theirs = gradients(attached.model), gradients(plain)
    assert set(mine) == set(theirs) and mine
    for name, gradient in theirs.items():
        scale = max(1.0, float(gradient.abs().max()))
        assert torch.allclose(mine[name], gradient, atol=1e-5 * scale), name


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("family", PACKED)
def test_packed_losses_and_gradients_are_those_of_single_sequences(saved, family, tied):
    folder = saved(family, tie_word_embeddings=tied)
    attached = method("full").attach(load(folder).model)
    compare(attached, load_weights(folder).eval(), packed=True)


@pytest.mark.parametrize("family", BUCKETED)
def test_padded_losses_and_gradients_are_those_of_single_sequences(saved, family):
    loaded = load(saved(family))
    assert not loaded.packs
    compare(method("full").attach(loaded.model), load_weights(saved(family)).eval(), packed=False)


@pytest.mark.parametrize("options", [{}, {"dora": True}])
@pytest.mark.parametrize("family", ["llama", "qwen3", "mistral", "granite", "gpt2", "gpt_neox"])
def test_an_adapters_gradients_are_those_of_plain_peft_layers_one_sequence_at_a_time(saved, family, options):
    torch.manual_seed(3)
    attached = method("lora", rank=4, init="gaussian", **options).attach(load(saved(family)).model)
    torch.manual_seed(3)
    plain = method("lora", rank=4, init="gaussian", **options).attach(load_weights(saved(family)))
    compare(attached, plain.model.eval(), packed=True)


@pytest.mark.parametrize("name", ["full", "lora"])
@pytest.mark.parametrize("family", ["llama", "mistral", "granite", "gpt2", "gpt_neox"])
def test_checkpointing_changes_no_gradient(saved, family, name):
    grads = []
    for checkpointing in (False, True):
        torch.manual_seed(3)
        model = load(saved(family, **DRY.get(family, {}))).model
        attached = method(name, **({"rank": 4, "init": "gaussian"} if name == "lora" else {})).attach(model)
        if checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        attached.model.train()
        laid, targets = layout.lay(rows(), packed=True)
        Scorer(attached, vocabulary=320)(laid, targets, ["nll"])["nll"].backward()
        grads.append(gradients(attached.model))
    assert set(grads[0]) == set(grads[1]) and grads[0]
    assert all(torch.allclose(grads[0][n], grads[1][n], atol=1e-5 * max(1, grads[0][n].abs().max())) for n in grads[0])


DRY = {"gpt2": {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}}
"""Families whose default config drops out."""


@pytest.mark.parametrize("family", ["llama", "qwen3", "mistral", "granite", "gpt2", "gpt_neox", "gemma2"])
def test_branches_that_share_a_prompt_score_and_learn_as_if_each_had_its_own(saved, family):
    prompt, first, second = [5, 60, 70, 80, 90], [100, 110, 120], [130, 140]
    together = Row(
        index=0, prefix=Tokens(prompt, [0.0] * 5), branches=(Tokens(first, [1.0] * 3), Tokens(second, [1.0] * 2))
    )
    apart = [
        Row(index=i, branches=(Tokens([*prompt, *answer], [0.0] * 5 + [1.0] * len(answer)),))
        for i, answer in enumerate((first, second))
    ]
    results = []
    for some in ([together], apart):
        attached = method("full").attach(load(saved(family)).model)
        laid, targets = layout.lay(some, packed=True)
        logp = Scorer(attached, vocabulary=320)(laid, targets, ["logp"])["logp"]
        (logp * torch.arange(1.0, 6.0)).sum().backward()
        results.append((logp, gradients(attached.model)))
    assert torch.allclose(results[0][0], results[1][0], atol=1e-5)
    for name, gradient in results[1][1].items():
        assert torch.allclose(results[0][1][name], gradient, atol=2e-5 * max(1.0, float(gradient.abs().max()))), name
