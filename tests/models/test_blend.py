"""Merging tensors, files and adapters: the paper's equations on numbers worked out by hand, and PEFT."""

import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from bottega.core.errors import Mismatch, Unsafe, UserError
from bottega.models import blend, spec
from bottega.models.blend_adapters import combine, cut, read_lora
from bottega.models.blend_files import merge_files
from bottega.models.load import load, load_weights
from bottega.models.methods import attach_saved, method
from bottega.models.tensorfiles import TensorFiles
from tests.models.test_lora import logits, stir
from tests.models.tiny import tiny_model


def t(*values):
    return torch.tensor(values)


def test_linear_and_task_arithmetic_are_their_sums():
    """0.25 * (1, 2) + 0.75 * (5, -2) = (4, -1); base (1, 1) + 0.5 * (2, 0) - 1 * (0, 3) = (2, -2)."""
    assert blend.linear([t(1.0, 2.0), t(5.0, -2.0)], [0.25, 0.75]).tolist() == [4.0, -1.0]
    assert blend.task_arithmetic(t(1.0, 1.0), [t(3.0, 1.0), t(1.0, 4.0)], [0.5, -1.0]).tolist() == [2.0, -2.0]


def test_slerp_stays_on_the_circle_where_the_straight_line_sags():
    """From (1, 0) to (0, 1), a right angle: at t = 1/3 it is 30 degrees, (cos 30, sin 30) = (0.8660, 0.5)."""
    assert torch.allclose(blend.slerp(t(1.0, 0.0), t(0.0, 1.0), 1 / 3), t(math.sqrt(3) / 2, 0.5))
    assert blend.slerp(t(1.0, 0.0), t(0.0, 1.0), 0.0).tolist() == [1.0, 0.0]
    assert blend.slerp(t(2.0, 0.0), t(4.0, 0.0), 0.5).tolist() == [3.0, 0.0]
    assert blend.slerp(t(0.0, 0.0), t(4.0, 2.0), 0.5).tolist() == [2.0, 1.0]


def test_ties_trims_elects_and_averages_what_agrees():
    """Base 0, density 3/4: of (3, -2, 1, 0.1) the 0.1 goes, of (1, 4, -0.2, 2) the -0.2 goes.

    Signs of the sums (4, 2, 1, 2): all +. Means of those that agree: (3 + 1) / 2 = 2; only 4; only 1; only 2.
    With weights (3, 1) the second sum is -6 + 4 = -2: -, so -2; the first (9 + 1) / 4 = 2.5.
    """
    one, two, zero = t(3.0, -2.0, 1.0, 0.1), t(1.0, 4.0, -0.2, 2.0), torch.zeros(4)
    least = [blend.least_kept(lambda one=one: [one], 0.75) for one in (one, two)]
    assert least == [1.0, 1.0]
    assert blend.ties(zero, [one, two], [1.0, 1.0], least=least).tolist() == [2.0, 4.0, 1.0, 2.0]
    assert blend.ties(zero, [one, two], [3.0, 1.0], least=least).tolist() == [2.5, -2.0, 1.0, 2.0]
    assert blend.ties(zero + 5, [one + 5, one + 5], [1.0, 1.0], least=[0.0, 0.0]).tolist() == (one + 5).tolist()
    opposite = blend.ties(zero, [one, -one], [1.0, 1.0], least=[0.0, 0.0])
    assert opposite.tolist() == [0.0] * 4  # no sign wins


@given(st.integers(0, 2**31), st.floats(1e-6, 1.0), st.integers(1, 4))
def test_what_ties_keeps_is_the_largest_share_of_the_whole_vector_exactly(seed, density, parts):
    """Against a sort of all entries together, over tensors of different size and scale, equal magnitudes and zeros among them."""
    torch.manual_seed(seed)
    tensors = [torch.randn(7 * 3**n) * 10.0 ** (3 * n - 4) for n in range(parts)]
    tensors[0][::2] = tensors[0][0].abs() * (-1) ** (seed % 2)
    tensors[-1][: len(tensors[-1]) // 3] = 0.0
    whole = torch.cat(tensors).abs().sort(descending=True).values
    keep = max(1, round(density * len(whole)))
    least = blend.least_kept(lambda: tensors, density)
    assert least == (0.0 if keep >= len(whole) else float(whole[keep - 1]))
    kept = sum(int((blend.trim(one, least) != 0).sum()) for one in tensors)
    assert kept == int(((whole >= least) & (whole > 0)).sum())


def test_ties_merges_files_and_adapters_over_the_whole_vector(tmp_path):
    """One tensor moved a lot, the other a little: at density 1/2 the whole vector keeps the first alone."""
    base = {"a": torch.zeros(4), "b": torch.zeros(4)}
    tuned = {"a": t(4.0, 5.0, 6.0, 7.0), "b": t(0.1, 0.2, 0.3, 0.4)}
    for name, tensors in (("base", base), ("one", tuned)):
        (tmp_path / name).mkdir()
        save_file(tensors, tmp_path / name / "model.safetensors")
    (tmp_path / "out").mkdir()
    merge_files([tmp_path / "one"], tmp_path / "out", method="ties", weights=[1.0], base=tmp_path / "base", density=0.5)
    found = load_file(tmp_path / "out" / "model.safetensors")
    assert torch.equal(found["a"], tuned["a"]) and torch.equal(found["b"], base["b"])


def test_dare_keeps_or_drops_and_rescales_and_its_mean_is_the_task_vector():
    """density 1/4: every entry of the difference 2 becomes 0 or 8; over 40000 of them the mean is 2 within 0.1 (sd 0.017)."""
    base, tuned = torch.zeros(200, 200), torch.full((200, 200), 2.0)
    merged = blend.dare(base, [tuned], [1.0], density=0.25, seed=3)
    assert set(merged.flatten().tolist()) == {0.0, 8.0} and abs(float(merged.mean()) - 2) < 0.1
    assert torch.equal(merged, blend.dare(base, [tuned], [1.0], density=0.25, seed=3))
    assert torch.equal(blend.dare(base, [tuned], [1.0], density=1.0), tuned)


@pytest.mark.parametrize(
    ("name", "weights", "density", "said"),
    [
        ("mean", [1.0], 0.5, "there is no merge method"),
        ("slerp", [1.0, 1.0, 1.0], 0.5, "between two"),
        ("ties", [1.0, 0.0], 0.5, "above 0"),
        ("dare", [1.0], 0.0, "outside 0 to 1"),
        ("linear", [float("nan")], 0.5, "finite"),
    ],
)
def test_what_has_no_meaning_is_refused(name, weights, density, said):
    with pytest.raises(UserError, match=said):
        blend.check(name, weights, density)


def test_models_merge_tensor_by_tensor_and_load_as_one(tmp_path):
    a, b = (
        tiny_model("llama", tmp_path / n, seed=i, dtype=d)
        for i, (n, d) in enumerate([("a", "float32"), ("b", "bfloat16")])
    )
    (out := tmp_path / "out").mkdir()
    merge_files([a, b], out, weights=[0.25, 0.75])
    (out / "config.json").write_text((a / "config.json").read_text())
    one, two, merged = (dict(load_weights(folder).named_parameters()) for folder in (a, b, out))
    for name, got in merged.items():
        assert torch.equal(got, 0.25 * one[name] + 0.75 * two[name]), name


def test_a_model_merged_with_its_base_by_task_arithmetic_is_itself_and_others_are_refused(tmp_path):
    a, b = (tiny_model("llama", tmp_path / str(i), seed=i) for i in (0, 1))
    (out := tmp_path / "out").mkdir()
    merge_files([b], out, method="task_arithmetic", weights=[1.0], base=a)
    files, wanted = TensorFiles([out / "model.safetensors"]), TensorFiles([b / "model.safetensors"])
    assert all(torch.allclose(files.read(name), wanted.read(name), atol=1e-6) for name in wanted)
    other = tiny_model("llama", tmp_path / "wide", intermediate_size=64)
    with pytest.raises(Mismatch, match="gate_proj|down_proj|up_proj"):
        merge_files([a, other], out, weights=[0.5, 0.5])
    with pytest.raises(Mismatch, match="only in one"):
        merge_files([a, tiny_model("qwen3", tmp_path / "q")], out, weights=[0.5, 0.5])


@pytest.fixture(scope="module")
def adapters(tmp_path_factory):
    """A base and two adapters on it: ranks 4 and 2, the second rsLoRA on fewer layers."""
    here = tmp_path_factory.mktemp("adapters")
    base = tiny_model("llama", here / "base")
    for name, options in (
        ("a", {"rank": 4}),
        ("b", {"rank": 2, "alpha": 3.0, "rslora": True, "targets": ["q_proj", "up_proj"]}),
    ):
        loaded = load(base)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(ord(name))
            attached = stir(method("lora", **options).attach(loaded.model))
        attached.save(str(here / name))
    return base, here / "a", here / "b"


def deltas(folder):
    return {name: up @ down for name, (down, up) in read_lora(folder).layers.items()}


def test_a_weighted_sum_of_adapters_is_exact_and_equals_peft_s_cat(adapters, tmp_path):
    base, a, b = adapters
    facts = combine([a, b], tmp_path / "sum", weights=[1.0, 0.6], base=str(base))
    assert facts["rank"] == 6 and facts["lost"] == 0
    one, two, got = deltas(a), deltas(b), deltas(tmp_path / "sum")
    for name, delta in got.items():
        wanted = one.get(name, 0) + 0.6 * two.get(name, torch.zeros_like(delta))
        assert torch.allclose(delta, wanted, atol=1e-6), name
    from peft import PeftModel

    peft = PeftModel.from_pretrained(load_weights(base), str(a), adapter_name="a")
    peft.load_adapter(str(b), adapter_name="b")
    peft.add_weighted_adapter(["a", "b"], [1.0, 0.6], "mix", combination_type="cat")
    peft.set_adapter("mix")
    ours = attach_saved(load_weights(base), tmp_path / "sum", trainable=False).model
    assert torch.allclose(logits(ours), logits(peft.eval()), atol=1e-4)


def test_cut_to_a_rank_the_result_is_the_best_of_that_rank(adapters, tmp_path):
    """Eckart-Young: what is lost is the sum of the squares of the singular values left out. diag(3, 2, 1) at rank 2 loses 1 of 14."""
    down, up, kept, whole = cut(torch.diag(t(3.0, 2.0, 1.0)), 2)
    assert torch.allclose(up @ down, torch.diag(t(3.0, 2.0, 0.0)), atol=1e-6)
    assert (round(kept, 6), round(whole, 6)) == (13, 14)
    base, a, b = adapters
    facts = combine([a, b], tmp_path / "svd", weights=[1.0, 1.0], rank=3, base=str(base))
    assert facts["rank"] == 3 and 0 < facts["lost"] < 1
    assert all(down.shape[0] == 3 for down, _ in read_lora(tmp_path / "svd").layers.values())


@pytest.mark.parametrize("name", ["slerp", "ties", "dare", "task_arithmetic"])
def test_the_other_methods_act_on_what_adapters_add(adapters, tmp_path, name):
    base, a, b = adapters
    combine([a, b], tmp_path / name, weights=[1.0, 1.0], method=name, rank=32, density=0.5, base=str(base))
    one, two, got = deltas(a), deltas(b), deltas(tmp_path / name)
    least = [blend.least_kept(lambda side=side: side.values(), 0.5) for side in (one, two)]
    for number, (layer, delta) in enumerate(sorted(got.items())):
        x, y, zero = one[layer], two.get(layer, torch.zeros_like(delta)), torch.zeros_like(delta)
        wanted = blend.blend(name, zero, [x, y], [1.0, 1.0], density=0.5, seed=number, least=least)
        assert torch.allclose(delta, wanted, atol=1e-4), layer
    assert load(tmp_path / name).attached is not None


def test_adapters_that_cannot_be_combined_say_why(adapters, tmp_path, saved):
    base, a, b = adapters
    method("lora", rank=2, dora=True).attach(load(base).model).save(str(tmp_path / "dora"))
    with pytest.raises(UserError, match="use_dora"):
        combine([a, tmp_path / "dora"], tmp_path / "x", weights=[1.0, 1.0])
    method("lora", rank=2).attach(load(saved("llama")).model).save(str(tmp_path / "elsewhere"))
    with pytest.raises(Mismatch, match="base_model_name_or_path"):
        combine([a, tmp_path / "elsewhere"], tmp_path / "x", weights=[1.0, 1.0])
    raw = bytearray((a / "adapter_model.safetensors").read_bytes())
    raw[8:9] = b"x"
    (broken := tmp_path / "broken").mkdir()
    (broken / "adapter_config.json").write_text((a / "adapter_config.json").read_text())
    (broken / "adapter_model.safetensors").write_bytes(raw)
    with pytest.raises(Unsafe):
        combine([a, broken], tmp_path / "x", weights=[1.0, 1.0])


def test_a_mixture_is_named_by_its_parts_and_weights(adapters, tmp_path):
    base, a, b = adapters
    assert spec.parse("runs/a:0.5") == ("runs/a", 0.5) and spec.parse("runs/a") == ("runs/a", None)
    place = spec.mix(f"{a}+{b}:0.6", tmp_path / "mix")
    assert place.base.samefile(base) and json.loads((tmp_path / "mix/adapter_config.json").read_text())["r"] == 6
    (odd := tmp_path / "a+b:1").mkdir()
    assert spec.parse(str(odd)).weight is None and not spec.is_mixture(str(odd))
    for text, said in ((f"{a}+{base}", "whole model"), (f"{a}+{b}:much", "no weight"), (f"{a}+", "no two")):
        with pytest.raises(UserError, match=said):
            spec.mix(text, tmp_path / "no")
