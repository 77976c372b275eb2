"""The methods beside LoRA: what each trains, that it starts at the model it found, what it saves, and what it refuses.

Left out: whole runs (tests/journey/test_families.py).
"""

import json

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from bottega.core.errors import UserError
from bottega.models import merge as merging
from bottega.models import sites
from bottega.models.generate import Generator
from bottega.models.load import load, load_weights
from bottega.models.methods import attach_saved, method
from bottega.models.reference import frozen_copy
from tests.models.test_lisa_prefix import rows, score
from tests.models.test_lora import logits, stir
from tests.models.tiny import FAMILIES

# llama: width 32, keys and values 16, feed-forward 48, 2 layers; gpt2: width 32, fused 96, feed-forward 128
LINEAR = ("ia3", "oft", "vera", "adalora")
OPTIONS = {"oft": {"block": 8}, "vera": {"rank": 6}, "adapter": {"width": 4}, "bitfit": {"norms": True}}
COUNTS = [
    ("freeze", {"last": 1}, "llama", 32 * 32 * 2 + 2 * 16 * 32 + 3 * 32 * 48 + 2 * 32),
    ("freeze", {"layers": [0, -1]}, "gpt2", 2 * (32 * 96 + 96 + 32 * 32 + 32 + 2 * 32 * 128 + 128 + 32 + 4 * 32)),
    ("freeze", {"last": 0, "also": ["norm", "lm_head"]}, "llama", 32 + 320 * 32),
    ("bitfit", {}, "gpt2", 2 * (96 + 32 + 128 + 32 + 2 * 32) + 32),
    ("bitfit", {"norms": True}, "llama", 2 * 2 * 32 + 32),
    # factors for outputs 32 + 16 + 16 + 32 + 48 + 48, and for the 48 inputs of down_proj
    ("ia3", {}, "llama", 2 * (32 + 16 + 16 + 32 + 48 + 48 + 48)),
    ("ia3", {"targets": ["k_proj", "v_proj", "down_proj"]}, "llama", 2 * (16 + 16 + 48)),
    ("ia3", {}, "gpt2", 2 * (96 + 32 + 128 + 128)),
    # a block of 8 has 28 numbers; 4 blocks in each of six layers of 32 inputs, 6 in down_proj's 48
    ("oft", {"block": 8}, "llama", 2 * 28 * (6 * 4 + 6)),
    ("oft", {"block": 8}, "gpt_neox", 2 * 28 * (4 + 4 + 4 + 6)),
    ("vera", {"rank": 6}, "llama", 2 * (7 * 6 + 32 + 16 + 16 + 32 + 48 + 48 + 32)),
    ("vera", {"rank": 6, "targets": "c_attn"}, "gpt2", 2 * (6 + 96)),
    # rank 12: A, B and E of seven layers
    ("adalora", {}, "llama", 2 * 12 * ((32 + 32) * 2 + (32 + 16) * 2 + (32 + 48) * 3 + 7)),
    ("prompt", {"length": 5}, "llama", 5 * 32),
    # h: 5 x 32; W1: 32 x 8 and 8; W2: 8 x 8 and 8; W3: 8 x 32 and 32
    ("p_tuning", {"length": 5, "width": 8}, "gpt2", 5 * 32 + 32 * 8 + 8 + 8 * 8 + 8 + 8 * 32 + 32),
    # h: 5 x 32; LSTM, two directions of 4 gates, two biases each, twice: 32 and then 16 inputs; 16 x 16 and 16; 16 x 32 and 32
    (
        "p_tuning",
        {"length": 5, "width": 8, "encoder": "lstm"},
        "gpt2",
        5 * 32 + 2 * 4 * 8 * (32 + 8 + 2) + 2 * 4 * 8 * (16 + 8 + 2) + 16 * 16 + 16 + 16 * 32 + 32,
    ),
    # D: 4 x 32 and 4; U: 32 x 4 and 32
    ("adapter", {"width": 4}, "llama", 2 * (2 * 32 * 4 + 4 + 32)),
    ("adapter", {"width": 4, "kind": "parallel"}, "gpt2", 2 * (2 * 32 * 4 + 4 + 32)),
    ("adapter", {"width": 4, "kind": "houlsby"}, "gpt2", 4 * (2 * 32 * 4 + 4 + 32)),
]


def options(name, **more):
    return {**OPTIONS.get(name, {}), **more}


def plain(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)


@pytest.mark.parametrize(("name", "chosen", "family", "trainable"), COUNTS)
def test_what_each_method_trains_is_counted_by_hand(saved, name, chosen, family, trainable):
    attached = method(name, **chosen).attach(load(saved(family)).model)
    assert attached.facts["trainable"] == trainable
    held = [*attached.model.parameters(), *(attached.inputs.parameters() if attached.inputs else ())]
    assert trainable == sum(p.numel() for p in held if p.requires_grad)
    assert trainable == sum(p.numel() for group in attached.groups for p in group["params"])


WALKED = [
    (f, n) for f in ("llama", "gpt2") for n in (*LINEAR, "adapter", "bitfit", "freeze") if (f, n) != ("gpt2", "oft")
]


@pytest.mark.parametrize(("family", "name"), WALKED)
def test_every_method_starts_at_the_model_it_found(saved, family, name):
    model = load_weights(saved(family))
    before = logits(model)
    attached = method(name, **options(name)).attach(model)
    assert torch.allclose(logits(attached.model), before, atol=1e-6)


@pytest.mark.parametrize(
    ("family", "name"),
    [(f, n) for f in ("llama", "gpt2", "gpt_neox") for n in LINEAR if (f, n) != ("gpt2", "oft")],
)
def test_what_sits_on_linear_layers_reloads_in_plain_peft_and_merges(saved, tmp_path, family, name):
    attached = stir(method(name, **options(name)).attach(load(saved(family)).model))
    wanted = logits(attached.model)
    assert not torch.allclose(wanted, logits(plain(saved(family))), atol=1e-3)
    attached.save(tmp_path)
    assert torch.allclose(logits(PeftModel.from_pretrained(plain(saved(family)), tmp_path)), wanted, atol=1e-5)
    again = load(tmp_path)
    assert again.attached.name == name and again.attached.reference_kind == "copy"
    assert torch.allclose(logits(again.model), wanted, atol=1e-5)
    merged, facts = merging.merge(again.attached)
    assert facts["merge_difference"] <= 1e-5 and type(merged).__name__ == type(plain(saved(family))).__name__
    cast = merging.cast(merged, torch.bfloat16)
    assert cast["merge_kl"] <= 1e-3 and cast["merge_equal"] >= 0.95
    with attached.model.disable_adapter():
        assert torch.allclose(logits(attached.model), logits(plain(saved(family))), atol=1e-5)


@pytest.mark.parametrize("name", LINEAR)
def test_gradients_are_those_of_finite_differences(saved, name):
    """(loss(w + e) - loss(w - e)) / 2e in double precision, for the first number of every fourth tensor."""
    attached = stir(method(name, **options(name)).attach(load_weights(saved("gpt_neox"), dtype="float64")))
    attached.model.double()
    check_gradients(attached)


@pytest.mark.parametrize("kind", ["houlsby", "pfeiffer", "parallel"])
def test_gradients_of_bottlenecks_are_those_of_finite_differences(saved, kind):
    model = load_weights(saved("gpt2"), dtype="float64")
    attached = stir(method("adapter", width=4, kind=kind, scale=2.0).attach(model))
    attached.model.double()
    check_gradients(attached)


def check_gradients(attached, step=1e-6):
    ids = torch.tensor([[1, 44, 70, 80, 90]])

    def loss():
        return torch.log_softmax(attached.model(ids).logits, -1)[0, torch.arange(4), ids[0, 1:]].sum()

    attached.model.eval()
    loss().backward()
    learn = [p for p in attached.model.parameters() if p.requires_grad]
    for parameter in learn[::4]:
        with torch.no_grad():
            flat = parameter.view(-1)
            flat[0] += step
            above = float(loss())
            flat[0] -= 2 * step
            below = float(loss())
            flat[0] += step
        assert float(parameter.grad.view(-1)[0]) == pytest.approx((above - below) / (2 * step), rel=1e-4, abs=1e-7)


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - {"mixtral", "qwen2_moe"}))
def test_the_ends_of_a_layers_blocks_are_found_in_every_family(saved, family):
    """Both projections write into the residual stream, so that they give vectors of the model's width."""
    model = load_weights(saved(family))
    found = sites.find_sites(model)
    assert len(found) == 2
    for site in found:
        for name in (site.mix, site.leave):
            assert model.get_submodule(name).weight.shape[0 if family != "gpt2" else 1] == 32
        assert len({site.mix, site.enter, site.leave}) == 3


def test_a_mixture_of_experts_is_one_block(saved):
    for family in ("mixtral", "qwen2_moe"):
        model = load_weights(saved(family))
        assert {(s.enter, s.leave) for s in sites.find_sites(model)} == {(f"model.layers.{i}.mlp",) * 2 for i in (0, 1)}


@pytest.mark.parametrize("kind", ["houlsby", "pfeiffer", "parallel"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "opt", "bloom", "mixtral", "gptj"])
def test_bottlenecks_compute_what_their_formula_says(saved, family, kind):
    """A layer's blocks computed by hand around the hooks: what leaves a block is h + s U f(D x + d) + s u."""
    model = load_weights(saved(family))
    attached = stir(method("adapter", width=4, kind=kind, scale=2.0, activation="relu").attach(model), 0.3)
    seen = {}
    site = sites.find_sites(load_weights(saved(family)))[1]
    leave, enter = model.get_submodule(site.leave), model.get_submodule(site.enter)
    enter.register_forward_pre_hook(lambda module, given: seen.update(x=given[0]))
    leave.register_forward_hook(lambda module, given, out: seen.update(out=out[0] if isinstance(out, tuple) else out))
    own, hooks = leave.bottleneck, dict(leave._forward_hooks)
    attached.model.eval()(torch.tensor([[1, 44, 70]]))
    with torch.no_grad():
        after, x = seen["out"], seen["x"]
        for key, hook in hooks.items():  # the same block without its adapter
            if getattr(hook, "__self__", None) is own:
                del leave._forward_hooks[key]
        seen.clear()
        attached.model(torch.tensor([[1, 44, 70]]))
        before = seen["out"]
        given = x if kind == "parallel" else before
        hidden = torch.relu(given @ own.down.weight.T + own.down.bias)
        assert torch.allclose(after, before + (2 * (hidden @ own.up.weight.T + own.up.bias)).view_as(before), atol=1e-5)
    assert (kind == "houlsby") == hasattr(model.get_submodule(site.mix), "bottleneck")


@pytest.mark.parametrize("kind", ["houlsby", "pfeiffer", "parallel"])
def test_bottlenecks_are_saved_reloaded_and_never_merged(saved, tmp_path, kind):
    attached = stir(method("adapter", width=4, kind=kind).attach(load(saved("llama")).model))
    attached.save(tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["peft_type"] == "BOTTEGA_BOTTLENECK" and config["kind"] == kind
    again = load(tmp_path, trainable=True)
    assert torch.allclose(logits(again.model), logits(attached.model), atol=1e-6)
    assert again.attached.facts["trainable"] == attached.facts["trainable"]
    with pytest.raises(UserError, match="cannot be merged") as caught:
        merging.merge(again.attached)
    assert caught.value.exit_code == 2
    with pytest.raises(UserError, match="does not fit"):
        attach_saved(load_weights(saved("llama", num_hidden_layers=1)), tmp_path, trainable=False)
    (tmp_path / "adapter_config.json").write_text(json.dumps({**config, "width": "4"}))
    with pytest.raises(UserError, match="width"):
        load(tmp_path)
    with pytest.raises(UserError, match="already"):
        method("adapter").attach(attached.model)


def test_a_frozen_copy_of_bottlenecks_keeps_its_own_weights(saved):
    attached = stir(method("adapter", width=4).attach(load(saved("llama")).model))
    before = logits(attached.model)
    reference = frozen_copy(attached)
    stir(attached)
    assert torch.allclose(logits(reference), before, atol=1e-6)
    assert not torch.allclose(logits(attached.model), before, atol=1e-3)


@pytest.mark.parametrize(("family", "name"), [pair for pair in WALKED if pair[1] != "freeze"])
def test_packed_rows_score_as_they_do_alone(saved, family, name):
    attached = stir(method(name, **options(name)).attach(load(saved(family)).model))
    alone = torch.cat([score(attached, [row]) for row in rows()])
    assert torch.allclose(score(attached, rows()), alone, atol=5e-5)


@pytest.mark.parametrize("name", [*LINEAR, "adapter"])
def test_checkpointing_does_not_change_the_gradient(saved, name):
    grads = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        chosen = options(name, kind="parallel") if name == "adapter" else options(name)
        attached = stir(method(name, **chosen).attach(load(saved("llama")).model.train()))
        if checkpointing:
            base = attached.model.get_base_model() if hasattr(attached.model, "get_base_model") else attached.model
            base.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            base.enable_input_require_grads()
        score(attached, rows()).sum().backward()
        grads.append([p.grad for p in attached.model.parameters() if p.requires_grad])
    assert all(torch.allclose(a, b, atol=1e-5) and a.abs().max() > 0 for a, b in zip(*grads, strict=True))


VIRTUAL = [("prompt", {}), ("p_tuning", {}), ("p_tuning", {"encoder": "lstm", "width": 8})]


@pytest.mark.parametrize(("name", "more"), VIRTUAL)
@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox"])
def test_virtual_tokens_are_those_of_peft_alone_packed_saved_and_reloaded(saved, tmp_path, family, name, more):
    """Logits of packed rows are those of plain PEFT, which puts the same embeddings before each sequence."""
    attached = method(name, length=4, seed=2, **more).attach(load(saved(family)).model)
    with torch.no_grad():
        attached.inputs.table.add_(0.1)
    alone = torch.cat([score(attached, [row]) for row in rows()])
    assert torch.allclose(score(attached, rows()), alone, atol=5e-5)
    attached.save(tmp_path)
    theirs = PeftModel.from_pretrained(plain(saved(family)), tmp_path)
    wanted = []
    for row in rows():
        for branch in row.branches:
            ids = [*row.prefix.ids, *branch.ids]
            with torch.no_grad():
                table = torch.log_softmax(theirs(torch.tensor([ids])).logits[0, 4:], -1)
            wanted += [
                table[at - 1, ids[at]] for at in range(1, len(ids)) if ([*row.prefix.trains, *branch.trains])[at]
            ]
    assert torch.allclose(alone.sort().values, torch.stack(wanted).sort().values, atol=5e-5)
    again = load(tmp_path)
    assert again.attached.name == name and again.attached.reference_kind == "copy"
    assert torch.allclose(score(again.attached, rows()), alone, atol=5e-5)


@pytest.mark.parametrize(("name", "more"), VIRTUAL)
def test_virtual_tokens_learn_with_the_gradient_of_real_embeddings_also_under_checkpointing(saved, name, more):
    grads = []
    for way in ("plain", "checkpointed"):
        attached = method(name, length=3, seed=2, **more).attach(load(saved("llama")).model.train())
        if way == "checkpointed":
            attached.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        score(attached, rows()).sum().backward()
        grads.append(attached.inputs.table.grad)
    assert torch.allclose(*grads, atol=1e-5) and grads[0].abs().max() > 0
    model = load(saved("llama")).model
    inputs = method(name, length=3, seed=2, **more).attach(model).inputs
    total = 0.0
    for row in rows():
        for branch in row.branches:
            ids = torch.tensor([[*row.prefix.ids, *branch.ids]])
            trains = torch.tensor([*row.prefix.trains, *branch.trains])
            whole = torch.cat([inputs.embeddings()[None], model.get_input_embeddings()(ids)], 1)
            table = torch.log_softmax(model(inputs_embeds=whole).logits[0, 3:], -1)
            said = table[:-1].gather(1, ids[0, 1:, None])[:, 0]
            total = total + said[trains[1:] > 0].sum()
    total.backward()
    assert torch.allclose(inputs.table.grad, grads[0], atol=1e-4)


@pytest.mark.parametrize("name", ["prompt", "p_tuning"])
def test_virtual_tokens_are_served_by_our_decoding(saved, name):
    """Greedy tokens with the static cache, in a batch, are those of the whole sequence computed anew."""
    model = load(saved("llama")).model
    attached = method(name, length=3, seed=2).attach(model)
    prompts = [[1, 44, 70, 80], [1, 9]]
    replies = Generator(model, inputs=attached.inputs).sample(prompts, max_tokens=5, stop_ids=())
    for prompt, reply in zip(prompts, replies):
        ids = list(prompt)
        for _ in range(5):
            with torch.no_grad():
                whole = torch.cat(
                    [attached.inputs.embeddings()[None], model.get_input_embeddings()(torch.tensor([ids]))], 1
                )
                ids.append(int(model(inputs_embeds=whole).logits[0, -1].argmax()))
        assert list(reply.ids) == ids[len(prompt) :]


def test_what_sees_virtual_tokens_otherwise_than_tokens_is_refused(saved):
    with pytest.raises(UserError, match="use prefix or lora|needs packed attention"):
        method("prompt", length=12).attach(load(saved("bloom")).model)
    with pytest.raises(UserError, match="cannot be merged"):
        merging.merge(method("prompt").attach(load(saved("llama")).model))


@pytest.mark.parametrize(
    ("name", "chosen", "family", "said"),
    [
        ("freeze", {"last": 3}, "llama", "more than the model's 2 layers"),
        ("freeze", {"layers": [2]}, "llama", "layer 2 does not exist"),
        ("freeze", {"also": ["hed"]}, "llama", "lm_head"),
        ("freeze", {"also": ["("]}, "llama", "neither a name nor a regular expression"),
        ("bitfit", {}, "llama", "LlamaForCausalLM has none; write norms: true"),
        ("ia3", {"targets": "q_porj"}, "llama", "ia3 target 'q_porj' matches no linear layer; there are: q_proj"),
        ("vera", {"targets": []}, "llama", "vera has no targets"),
        ("oft", {"block": 8}, "gpt2", "PEFT rotates nn.Linear alone, and transformer.h.0.attn.c_attn is a Conv1D"),
        (
            "oft",
            {"block": 32},
            "llama",
            "does not divide the 48 inputs of model.layers.0.mlp.down_proj; 16 divides all",
        ),
    ],
)
def test_what_does_not_fit_a_model_is_said_in_one_sentence(saved, name, chosen, family, said):
    with pytest.raises(UserError, match=said.replace("(", r"\(")) as caught:
        method(name, **chosen).attach(load_weights(saved(family)))
    assert caught.value.exit_code == 2


def test_options_out_of_range_are_refused():
    for name, wrong in [
        ("freeze", {"last": -1}),
        ("freeze", {"last": 0}),
        ("oft", {"block": 1}),
        ("vera", {"rank": 0}),
        ("vera", {"start": 0.0}),
        ("vera", {"dropout": 1.0}),
        ("prompt", {"length": 0}),
        ("p_tuning", {"init": "text"}),
        ("p_tuning", {"encoder": "gru"}),
        ("p_tuning", {"depth": 0}),
        ("adalora", {"rank": 8, "target": 8}),
        ("adalora", {"warmup": 0.5, "settle": 0.5}),
        ("adalora", {"beta1": 1.0}),
        ("p_tuning", {"width": 0}),
        ("adapter", {"kind": "serial"}),
        ("adapter", {"activation": "tanh"}),
        ("adapter", {"width": 0}),
        ("adapter", {"scale": 0.0}),
    ]:
        with pytest.raises(UserError, match=name):
            method(name, **wrong)


def test_methods_on_the_base_alone_say_so_on_a_quantised_one(saved):
    loaded = load(saved("llama"), weights="int8")
    for name in ("ia3", "adapter"):
        with pytest.raises(UserError, match="use qlora on a quantised one"):
            method(name).attach(loaded.model)


class Plain:
    """AdaLoRA's allocation written out: importances, their averages, and the cut by a threshold over all layers."""

    def __init__(self, parameters, plan, steps):
        self.p = {n: p.detach().clone() for n, p in parameters.items()}
        self.mean = {n: torch.zeros_like(p) for n, p in self.p.items()}
        self.spread = {n: torch.zeros_like(p) for n, p in self.p.items()}
        self.plan, self.steps = plan, steps
        self.layers = sorted(n.replace("lora_E", "%s") for n in self.p if "lora_E" in n)

    def hear(self, weights, gradients):
        for n, g in gradients.items():
            now = (weights[n] * g).abs()
            self.mean[n] = self.plan.beta1 * self.mean[n] + (1 - self.plan.beta1) * now
            self.spread[n] = self.plan.beta2 * self.spread[n] + (1 - self.plan.beta2) * (now - self.mean[n]).abs()

    def budget(self, step):
        first, last = int(self.plan.warmup * self.steps), self.steps - int(self.plan.settle * self.steps)
        start, end = self.plan.rank * len(self.layers), self.plan.target * len(self.layers)
        return int((start - end) * (1 - (step - first) / (last - first)) ** 3 + end)

    def kept(self, step):
        scores = {}
        for layer in self.layers:
            s = {part: self.mean[layer % part] * self.spread[layer % part] for part in ("lora_A", "lora_B", "lora_E")}
            scores[layer] = s["lora_E"][:, 0] + s["lora_A"].mean(1) + s["lora_B"].mean(0)
        everything = torch.cat(list(scores.values()))
        cut = everything.sort().values[len(everything) - self.budget(step) - 1]
        return {layer: score > cut for layer, score in scores.items()}


def test_adalora_cuts_what_the_formula_says_keeps_it_cut_and_reloads_in_plain_peft(saved, tmp_path):
    plan = method("adalora", rank=4, target=2, warmup=0.1, settle=0.4, every=3)
    attached = plan.attach(load(saved("llama")).model)
    adapting, steps = attached.adapting, 20
    with pytest.raises(UserError, match="steps to cut in"):
        adapting.begin(1)
    adapting.begin(steps)
    parameters = {n: p for n, p in attached.model.named_parameters() if p.requires_grad}
    plain_one = Plain(parameters, plan, steps)
    optimizer = torch.optim.AdamW(parameters.values(), lr=3e-3)
    ids = torch.arange(3, 43).view(2, 20)
    for step in range(1, steps + 1):
        loss = attached.model(input_ids=ids, labels=ids.roll(step, 1)).loss - attached.penalty() * 0
        loss.backward()
        optimizer.step()
        before = {n: p.detach().clone() for n, p in parameters.items()}
        gradients = {n: p.grad for n, p in parameters.items()}
        adapting.after_update(step)
        if step < 12:
            plain_one.hear(before, gradients)
        if step in (3, 6, 9, 12):
            kept = plain_one.kept(step)
            for layer, mask in kept.items():
                assert torch.equal(parameters[layer % "lora_E"][:, 0] != 0, mask), f"step {step}, {layer}"
        if step == 7:  # a resume in the middle: what is remembered is all there is
            state = {name: value.clone() for name, value in adapting.remember().items()}
            adapting.tuner.rankallocator.reset_ipt()
            adapting.recall(state)
        optimizer.zero_grad()
    assert sum(int(mask.sum()) for mask in kept.values()) == 2 * 14 == round(attached.facts["rank_mean"] * 14)
    assert attached.facts["rank_least"] < attached.facts["rank_most"], "layers end with ranks of their own"
    for layer, mask in kept.items():
        assert torch.equal(parameters[layer % "lora_E"][:, 0] != 0, mask), "what was cut stays cut"
    again = {name: value.clone() for name, value in adapting.remember().items()}
    assert all(name.startswith("kept|") for name in again)
    wanted = logits(attached.model)
    attached.save(tmp_path)
    adapting.recall(again)
    assert adapting.settled and torch.allclose(logits(attached.model), wanted)
    assert torch.allclose(logits(PeftModel.from_pretrained(plain(saved("llama")), tmp_path)), wanted, atol=1e-5)
    loaded = load(tmp_path)
    assert loaded.attached.name == "adalora" and torch.allclose(logits(loaded.model), wanted, atol=1e-5)
    assert loaded.attached.facts["trainable"] < attached.facts["trainable"], "only what was kept is on the disk"
    merged, facts = merging.merge(loaded.attached)
    assert facts["merge_difference"] <= 1e-5


def test_adaloras_penalty_is_pefts(saved):
    attached = method("adalora", rank=4, target=2).attach(load(saved("llama")).model)
    stir(attached)
    ids = torch.arange(3, 43).view(2, 20)
    whole = attached.model(input_ids=ids, labels=ids).loss
    bare = attached.model.get_base_model()(input_ids=ids, labels=ids).loss
    assert float(attached.penalty()) == pytest.approx(float(whole - bare), rel=1e-4)


@pytest.mark.parametrize("kind", ["mlp", "lstm"])
def test_p_tunings_networks_are_pefts(saved, kind):
    """The same weights under PEFT's names give the same embeddings."""
    from peft import PromptEncoder, PromptEncoderConfig

    inputs = method("p_tuning", length=5, width=8, depth=3, encoder=kind).attach(load(saved("llama")).model).inputs
    config = PromptEncoderConfig(
        num_virtual_tokens=5,
        token_dim=32,
        num_transformer_submodules=1,
        encoder_hidden_size=8,
        encoder_reparameterization_type=kind.upper(),
        **({"encoder_num_layers": 3} if kind == "lstm" else {}),
    )
    theirs = PromptEncoder(config)
    ours = inputs.encoder.state_dict()
    names = (
        {name: name.replace("lstm.", "lstm_head.").replace("mlp.", "mlp_head.") for name in ours}
        if kind == "lstm"
        else {name: f"mlp_head.{name}" for name in ours}
    )
    theirs.load_state_dict({"embedding.weight": inputs.table, **{names[name]: value for name, value in ours.items()}})
    with torch.no_grad():
        assert torch.allclose(theirs(torch.arange(5)), inputs.embeddings(), atol=1e-6)
