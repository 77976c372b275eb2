"""One global batch, one gradient: however it is cut, packed or padded (rows T1, T2, D10)."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from bottega.models.attention import install
from bottega.models.heads import Head
from bottega.models.layout import lay
from bottega.models.load import load
from bottega.models.methods import method
from bottega.models.score import Scorer
from tests.models.tiny import tiny_model
from tests.train.clients import VOCABULARY, make_loop, rows, weights

FAMILIES = ["llama", "qwen3", "mistral", "granite", "gpt2", "gpt_neox"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Mistral's window is shorter than the rows."""
    extra = {"mistral": {"sliding_window": 4}}
    return {f: tiny_model(f, tmp_path_factory.mktemp(f), vocab=VOCABULARY, **extra.get(f, {})) for f in FAMILIES}


def one_by_one(model, batch):
    """Token losses and the gradient of their mean, by the plain formula: one unpacked forward a row, the model's own logits."""
    losses, count = [], 0
    for row in batch:
        (branch,) = row.branches
        ids = torch.tensor([list(branch.ids)])
        logp = model(input_ids=ids, use_cache=False).logits.float().log_softmax(-1)[0]
        at = [k for k in range(1, len(branch.ids)) if branch.trains[k]]
        losses.append(-logp[[k - 1 for k in at], ids[0, at]])
        count += len(at)
    flat = torch.cat(losses)
    (flat.sum() / count).backward()
    return flat.detach(), count


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("packed", [True, False], ids=["packed", "padded"])
def test_token_losses_and_gradients_equal_separate_runs_of_the_models_own_code(folders, family, packed):
    from transformers import AutoModelForCausalLM

    plain = AutoModelForCausalLM.from_pretrained(folders[family], attn_implementation="eager")
    wanted, count = one_by_one(plain, rows("single"))
    ours = load(folders[family]).model
    install(ours)
    scorer = Scorer(method("full").attach(ours), vocabulary=VOCABULARY, head_chunk=16)
    layout, targets = lay(rows("single"), packed=packed)
    assert layout.packed is packed
    found = scorer(layout, targets, ("nll", "logp"))
    assert (-found["logp"].detach() - wanted).abs().max() < 1e-5 * wanted.abs().max()
    (found["nll"] / count).backward()
    theirs = dict(plain.named_parameters())
    for name, parameter in scorer.model.named_parameters():
        assert (parameter.grad - theirs[name].grad).abs().max() < 1e-5 * max(
            1.0, float(theirs[name].grad.abs().max())
        ), name


@pytest.mark.parametrize(
    "cut", [{"micro_tokens": 10}, {"micro_tokens": 40}, {"packed": False}, {"packed": False, "micro_tokens": 40}]
)
def test_a_batch_of_8_is_one_gradient_however_it_is_cut(folders, tmp_path, cut):
    """8 rows at once, in micro-batches of one row (10 tokens), of a few (40), padded, padded and cut."""
    whole = make_loop(folders["llama"], tmp_path, micro_tokens=10_000)
    whole.one_step()
    other = make_loop(folders["llama"], tmp_path, **cut)
    other.one_step()
    for name, value in weights(whole).items():
        assert (weights(other)[name] - value).abs().max() < 1e-5, name


@pytest.mark.parametrize("family", ["llama", "granite", "gpt2"])
def test_weights_of_turns_scale_their_losses(folders, family):
    """A row whose targets weigh 0.5 gives half the summed loss; the average is over the sum of weights."""
    ours = load(folders[family]).model
    install(ours)
    scorer = Scorer(method("full").attach(ours), vocabulary=VOCABULARY)
    batch = rows("single", count=2)
    layout, targets = lay(batch, packed=True)
    full = scorer(layout, targets, ("nll",))["nll"]
    targets.weights_S.mul_(0.5)
    half = scorer(layout, targets, ("nll",))["nll"]
    torch.testing.assert_close(half * 2, full)


def test_the_twin_of_linear_cross_entropy_gives_the_same_loss_and_gradient(folders):
    """Weights that are not all 1 take the twin; at 1 + 1e-7 it must agree with torch's own chunked function."""
    assert hasattr(F, "linear_cross_entropy")
    ours = load(folders["llama"]).model
    install(ours)
    scorer = Scorer(method("full").attach(ours), vocabulary=VOCABULARY, head_chunk=8)
    gradients = []
    for nudge in (0.0, 1e-7):
        layout, targets = lay(rows("single"), packed=True)
        targets.weights_S.add_(nudge)
        scorer.zero_grad()
        scorer(layout, targets, ("nll",))["nll"].backward()
        gradients.append({n: p.grad.clone() for n, p in scorer.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-4, atol=1e-5)


def test_checkpointing_changes_no_gradient(folders, tmp_path):
    for tune in ("full", "lora"):
        results = []
        for checkpointing in (False, True):
            loop = make_loop(folders["llama"], tmp_path, tune=tune, checkpointing=checkpointing, lr=0.5)
            loop.parts.wrapped.train()  # in evaluation mode nothing is checkpointed
            loop.one_step()
            results.append(weights(loop))
        for name, value in results[0].items():
            assert (results[1][name] - value).abs().max() < 1e-6, name


@pytest.mark.parametrize("packed", [True, False], ids=["packed", "padded"])
def test_a_head_that_nothing_simple_equals_is_left_to_the_model(folders, packed):
    """Granite divides its logits by 8; told that no candidate fits, the Scorer asks the model and finds the same."""
    ours = load(folders["granite"]).model
    install(ours)
    scorer = Scorer(method("full").attach(ours), vocabulary=VOCABULARY)
    layout, targets = lay(rows("single"), packed=packed)
    wanted = scorer(layout, targets, ("nll", "logp", "entropy"))
    scorer.head = Head(kind="own")
    for need, value in scorer(layout, targets, ("nll", "logp", "entropy")).items():
        torch.testing.assert_close(value, wanted[need], rtol=1e-5, atol=1e-5)
