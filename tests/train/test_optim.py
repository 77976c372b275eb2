"""Each optimizer against a reference: torch's, transformers' and bitsandbytes' own, or the paper's formula in float64 (row T4)."""

from __future__ import annotations

import math
import sys

import pytest
import torch

from bottega.core.errors import UserError
from bottega.train import optim, rules
from bottega.train.offload import make_store
from bottega.train.rules import Hyper

SHAPES = [(2, 7, 33), (7, 33), (33, 7), (5,), (1, 1)]
STEPS = 5
LR, DECAY = 3e-3, 0.1
EVERY = list(optim.OPTIMIZERS)
MATRIX = "muon"
"""Takes matrices; other shapes are AdamW's there."""


def start(shapes=SHAPES, dtype=torch.float32, seed=0):
    """Weights and, for each step, their gradients; the first step has a gradient of exact zeros in a row, as LoRA has."""
    draw = torch.Generator().manual_seed(seed)
    weights = [torch.randn(shape, generator=draw, dtype=torch.float64) for shape in shapes]
    gradients = [[torch.randn(s, generator=draw, dtype=torch.float64) * 0.1 for s in shapes] for _ in range(STEPS)]
    gradients[0][1][3] = 0.0
    return [w.to(dtype) for w in weights], [[g.to(dtype) for g in step] for step in gradients]


def run(name, weights, gradients, hyper=None, *, lr=LR, decay=DECAY, **options):
    """The parameters and their optimizer after the steps; the second tensor has no decay and a rate ten times lower."""
    params = [torch.nn.Parameter(w.clone()) for w in weights]
    hidden = {id(p) for p in params if p.ndim == 2}
    groups = [{"params": params[:1] + params[2:]}, {"params": params[1:2], "weight_decay": 0.0, "lr_scale": 0.1}]
    optimizer = optim.make(
        name, groups, lr=lr, weight_decay=decay, hyper=hyper or Hyper(beta1=0.9, beta2=0.95), hidden=hidden, **options
    )
    for step in gradients:
        take(optimizer, params, step, lr)
    return params, optimizer


def take(optimizer, params, step, lr=LR):
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]
    for p, g in zip(params, step, strict=True):
        p.grad = g.clone()
    optimizer.step()
    optimizer.zero_grad()


def theirs(make, weights, gradients):
    """What another library's optimizer makes of the same."""
    params = [torch.nn.Parameter(w.clone()) for w in weights]
    groups = [
        {"params": params[:1] + params[2:], "weight_decay": DECAY, "lr": LR},
        {"params": params[1:2], "weight_decay": 0.0, "lr": LR * 0.1},
    ]
    optimizer = make(groups)
    for step in gradients:
        for p, g in zip(params, step, strict=True):
            p.grad = g.clone()
        optimizer.step()
    return params


def test_adamw_and_sgd_are_torchs_bit_for_bit():
    weights, gradients = start()
    adamw = theirs(
        lambda groups: torch.optim.AdamW(groups, betas=(0.9, 0.95), eps=1e-8, fused=True), weights, gradients
    )
    sgd = theirs(lambda groups: torch.optim.SGD(groups, lr=LR, momentum=0.9), weights, gradients)
    for name, wanted in (("adamw", adamw), ("sgd", sgd)):
        found, _ = run(name, weights, gradients)
        assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True)), name


def test_adafactor_is_that_of_transformers():
    from transformers.optimization import Adafactor

    weights, gradients = start()
    gradients[0][1][3] = 1e-3  # a whole row of zeros divides by 1e-15 there and here: nothing to compare
    wanted = theirs(
        lambda groups: Adafactor(groups, lr=LR, scale_parameter=False, relative_step=False), weights, gradients
    )
    found, _ = run("adafactor", weights, gradients)
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=2e-6, atol=2e-6)


def test_8_bit_adamw_is_that_of_bitsandbytes_bit_for_bit_and_its_first_step_is_adamws():
    """5,003 weights fill 20 blocks of 256, the last one in part; (7, 33) is under 4,096 and stays in 32 bits."""
    bitsandbytes = pytest.importorskip("bitsandbytes")
    weights, gradients = start([(5003,), (7, 33), (71, 64)])
    for steps in (1, STEPS):
        wanted = theirs(
            lambda groups: bitsandbytes.optim.AdamW8bit(groups, lr=LR, betas=(0.9, 0.95)), weights, gradients[:steps]
        )
        found, optimizer = run("adamw8bit", weights, gradients[:steps])
        for i in (0, 2):
            assert torch.equal(found[i], wanted[i])
        torch.testing.assert_close(found[1], wanted[1], rtol=1e-6, atol=1e-7)
    full, _ = run("adamw", weights, gradients[:1])
    first, _ = run("adamw8bit", weights, gradients[:1])
    torch.testing.assert_close(first[0], full[0], rtol=1e-6, atol=1e-7)
    assert optimizer.state[found[0]]["state1"].dtype == torch.uint8 and "exp_avg" in optimizer.state[found[1]]


def test_without_bitsandbytes_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes.functional", None)
    with pytest.raises(UserError, match=r"needs bitsandbytes.*bottega\[quant\]"):
        run("adamw8bit", *start())


def lion(w, gradients, lr, decay):
    """Chen et al. 2023, algorithm 2."""
    m = torch.zeros_like(w)
    for g in gradients:
        c = 0.9 * m + 0.1 * g
        w = w - lr * (torch.sign(c) + decay * w)
        m = 0.99 * m + 0.01 * g
    return w


def muon(w, gradients, lr, decay):
    """The exact polar factor's stand-in: five steps of the quintic in float64; then the step of the paper."""
    m, (a, b, c) = torch.zeros_like(w), (3.4445, -4.7750, 2.0315)
    for g in gradients:
        m = 0.95 * m + 0.05 * g
        x = 0.95 * m + 0.05 * g
        u, s, vh = torch.linalg.svd(x, full_matrices=False)
        s = s / s.square().sum().sqrt()
        for _ in range(5):
            s = a * s + b * s**3 + c * s**5
        w = w * (1 - lr * decay) - lr * 0.2 * math.sqrt(max(w.shape)) * (u * s) @ vh
    return w


def schedule_free(w, gradients, lr, decay):
    """Defazio et al. 2024, algorithm 1: z, x and y kept apart; at a constant rate c is 1 / t. Returns (y, x)."""
    x = z = y = w
    v = torch.zeros_like(w)
    for t, g in enumerate(gradients, 1):
        v = 0.95 * v + 0.05 * g * g
        z = z - lr * (g / ((v / (1 - 0.95**t)).sqrt() + 1e-8) + decay * y)
        x = (1 - 1 / t) * x + z / t
        y = 0.1 * z + 0.9 * x
    return y, x


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("name", ["lion", "muon", "schedule_free"])
def test_the_others_are_their_papers_formulas(name, dtype):
    """The formula in float64 on every shape (Muon's matrices), decay and rate as each group says."""
    formula = {"lion": lion, "muon": muon, "schedule_free": lambda *a: schedule_free(*a)[0]}[name]
    shapes = [(33, 7), (7, 33), (5, 5)] if name == MATRIX else SHAPES
    weights, gradients = start(shapes, dtype)
    hyper = Hyper(beta1=0.9, beta2=0.99 if name == "lion" else 0.95)
    found, _ = run(name, weights, gradients, hyper)
    exact = [[g.double() for g in step] for step in gradients]
    tolerance = 1e-12 if dtype == torch.float64 else 2e-6
    for i, w in enumerate(weights):
        lr, decay = (LR * 0.1, 0.0) if i == 1 else (LR, DECAY)
        wanted = formula(w.double(), [step[i] for step in exact], lr, decay)
        torch.testing.assert_close(found[i].double(), wanted, rtol=tolerance, atol=tolerance)


def test_muon_is_torchs_within_bf16_and_makes_singular_values_about_one():
    weights, gradients = start([(33, 7), (7, 33)])
    wanted = theirs(lambda groups: torch.optim.Muon(groups, adjust_lr_fn="match_rms_adamw"), weights, gradients)
    found, _ = run("muon", weights, gradients)
    for a, b, w in zip(found, wanted, weights, strict=True):
        assert (a - b).norm() < 0.05 * (b - w).norm()
    values = torch.linalg.svdvals(rules.orthogonal(gradients[0][1][4:]))
    assert 0.6 < float(values.min()) and float(values.max()) < 1.3


def test_muon_leaves_what_is_no_hidden_matrix_to_adamw():
    weights, gradients = start()
    found, _ = run("muon", weights, gradients)
    adamw, _ = run("adamw", weights, gradients)
    same = [torch.equal(a, b) for a, b in zip(found, adamw, strict=True)]
    assert same == [True, False, False, True, False]  # (2, 7, 33) and (5,) are AdamW's


def test_schedule_free_evaluates_the_average_and_puts_its_weights_back_bit_for_bit():
    """Warm-up: rates 1/3, 2/3, 1 of lr weigh 1, 4 and 9 of 14 in the average of z."""
    weights, gradients = start(dtype=torch.float64)
    found, optimizer = run("schedule_free", weights, gradients)
    before = [p.detach().clone() for p in found]
    with optimizer.averaged():
        _, wanted = schedule_free(weights[0], [step[0] for step in gradients], LR, DECAY)
        torch.testing.assert_close(found[0].detach(), wanted, rtol=1e-12, atol=1e-12)
    assert all(torch.equal(p, b) for p, b in zip(found, before, strict=True))
    parameter = torch.nn.Parameter(torch.tensor([1.0], dtype=torch.float64))
    optimizer = optim.make("schedule_free", [{"params": [parameter]}], lr=1, weight_decay=0, hyper=Hyper())
    zs = []
    for rate in (1 / 3, 2 / 3, 1.0):
        take(optimizer, [parameter], [torch.tensor([0.5], dtype=torch.float64)], rate)
        zs.append(float(optimizer.state[parameter]["z"]))
    with optimizer.averaged():
        assert math.isclose(parameter.item(), (zs[0] + 4 * zs[1] + 9 * zs[2]) / 14, rel_tol=1e-12)


@pytest.mark.parametrize("name", EVERY)
def test_no_decay_where_the_group_says_none(name):
    """Zero gradients and a zero state move nothing: only decay can, and it shrinks by (1 - lr d) a step (SGD's joins the momentum)."""
    if name == "adamw8bit":
        pytest.importorskip("bitsandbytes")
    weights, gradients = start()
    still = [[torch.zeros_like(g) for g in step] for step in gradients[:1]]
    found, _ = run(name, weights, still)
    assert torch.equal(found[1], weights[1])
    torch.testing.assert_close(found[0], weights[0] * (1 - LR * DECAY), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", EVERY)
def test_states_in_a_file_step_as_states_in_memory_do(name, tmp_path):
    if name == "adamw8bit":
        pytest.importorskip("bitsandbytes")
    weights, gradients = start([*SHAPES, (71, 64)])
    wanted, one = run(name, weights, gradients)
    for place in ("file", "host"):
        found, other = run(name, weights, gradients, store=make_store(place, tmp_path))
        assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True)), place
        for a, b in zip(wanted, found, strict=True):
            states = one.state[a], other.state[b]
            assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])
    assert not list(tmp_path.iterdir()), "scratch files have no names"


@pytest.mark.parametrize("name", EVERY)
def test_a_state_that_is_put_back_goes_on_bit_for_bit(name):
    """Three steps, the tensors copied as a checkpoint holds them, two more: the weights of five steps."""
    if name == "adamw8bit":
        pytest.importorskip("bitsandbytes")
    weights, gradients = start([*SHAPES, (71, 64)])
    for dtype in (torch.float32, torch.bfloat16):
        own = [w.to(dtype) for w in weights]
        grads = [[g.to(dtype) for g in step] for step in gradients]
        wanted, _ = run(name, own, grads)
        first, optimizer = run(name, own, grads[:3])
        again, other = run(name, [p.detach() for p in first], [])
        for p, q in zip(first, again, strict=True):
            other.load(q, {k: v.clone() for k, v in optimizer.state[p].items()})
        for step in grads[3:]:
            take(other, again, step)
        assert all(torch.equal(a, b) for a, b in zip(again, wanted, strict=True)), dtype


@pytest.mark.parametrize("name", EVERY)
def test_weights_in_bf16_have_a_copy_in_fp32_that_moves_as_fp32_weights_do(name):
    """The gradients are bf16 numbers, the copy starts at the bf16 weight: the same steps as in fp32, rounded at the end of each."""
    if name == "adamw8bit":
        pytest.importorskip("bitsandbytes")
    weights, gradients = start()
    low = [w.bfloat16() for w in weights]
    rough = [[g.bfloat16() for g in step] for step in gradients]
    found, optimizer = run(name, low, rough, lr=1e-4)
    wanted, _ = run(name, [w.float() for w in low], [[g.float() for g in step] for step in rough], lr=1e-4)
    for a, b in zip(found, wanted, strict=True):
        assert torch.equal(optimizer.state[a]["master"], b.detach())
        assert a.dtype == torch.bfloat16 and torch.equal(a, b.bfloat16())
    assert optimizer.state[found[0]]["master"].dtype == torch.float32


@pytest.mark.parametrize("name", EVERY)
def test_a_step_in_the_backward_pass_is_the_ordinary_step_and_frees_the_gradient(name):
    """Two micro-batches add up before the parameters step in the second one."""
    if name == "adamw8bit":
        pytest.importorskip("bitsandbytes")
    results, norms = [], {False: [], True: []}
    for inside in (False, True):
        torch.manual_seed(0)
        net = torch.nn.Sequential(torch.nn.Linear(7, 33), torch.nn.Tanh(), torch.nn.Linear(33, 5))
        groups = [{"params": list(net.parameters())}]
        hidden = {id(p) for p in net.parameters() if p.ndim == 2}
        optimizer = optim.make(
            name, groups, lr=LR, weight_decay=DECAY, hyper=Hyper(), hidden=hidden, in_backward=inside
        )
        batch = torch.randn(2, 4, 7)
        for _ in range(3):
            for number, part in enumerate(batch):
                with optimizer.stepping(number == 1):
                    net(part).square().sum().backward()
            gradients = [p.grad for p in net.parameters()]
            if inside:
                assert gradients == [None] * 4
                norms[inside].append(optimizer.norm_in_backward())
            else:
                norms[inside].append(float(torch.stack([g.norm() for g in gradients]).norm()))
            optimizer.step()
            optimizer.zero_grad()
        results.append([p.detach().clone() for p in net.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    assert norms[True] == pytest.approx(norms[False], rel=1e-5)


def test_a_gradient_that_is_not_finite_stops_the_steps_inside_the_backward_pass():
    net = torch.nn.Linear(3, 2)
    before = [p.detach().clone() for p in net.parameters()]
    optimizer = optim.make(
        "adamw", [{"params": list(net.parameters())}], lr=LR, weight_decay=0, hyper=Hyper(), in_backward=True
    )
    with optimizer.stepping(True):
        (net(torch.full((1, 3), float("inf"))).sum() * 0).backward()
    assert not math.isfinite(optimizer.norm_in_backward())
    assert any(torch.equal(p, b) for p, b in zip(net.parameters(), before, strict=True))
    assert all(bool(torch.isfinite(p).all()) for p in net.parameters())


def test_an_unknown_name_lists_the_table():
    with pytest.raises(UserError, match="use one of adamw, adamw8bit, lion, muon, adafactor, schedule_free, sgd"):
        run("adm", *start())
