"""Our decoder: parity with transformers' llama and mpt, the published slopes and sizes, and life on it unchanged."""

import dataclasses
import json
import math

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, MptConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from bottega.core.errors import UserError
from bottega.models import decoder
from bottega.models.attention import alibi_bias, alibi_slopes
from bottega.models.convert import from_transformers, to_transformers
from bottega.models.decode import Forward, choose_way
from bottega.models.decoder import DecoderConfig, DecoderForCausalLM, rope_frequencies
from bottega.models.generate import Generator
from bottega.models.layers import count_parameters, linear_layers
from bottega.models.load import load, load_weights
from bottega.models.locate import GARZONE
from bottega.models.methods import method
from bottega.models.plain import save_plain
from bottega.models.probe import probe
from bottega.models.shape import FIELDS, PRESETS, Shape, shape
from tests.models.tiny import tiny_tokenizer

TINY = {"vocab_size": 320, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
VARIANTS = {
    "alibi": {},
    "alibi, window, soft cap, qk-norm, one key head": {
        "sliding_window": 4, "attention_softcap": 5.0, "qk_norm": True, "num_key_value_heads": 1,
    },
    "rope, grouped, swiglu, biases, clip, window, scales": {
        "positions": "rope", "max_position_embeddings": 64, "sliding_window": 4, "num_key_value_heads": 2, "mlp": "swiglu",
        "norm": "rmsnorm", "bias": True, "clip_qkv": 1.0, "logit_scale": 0.5, "final_logit_softcapping": 3.0,
        "tie_word_embeddings": False,
    },
    "yarn": {
        "positions": "rope", "max_position_embeddings": 64, "rope_scaling": "yarn", "rope_factor": 4.0, "rope_original": 16,
    },
    "learned": {"positions": "learned", "max_position_embeddings": 24},
    "none": {"positions": "none", "embedding_fraction": 0.1},
}  # fmt: skip


def made(wide=True, **config):
    """A tiny decoder with weights drawn wide, so that a wrong mask or scale shows."""
    torch.manual_seed(0)
    model = DecoderForCausalLM(DecoderConfig(**dataclasses.asdict(shape(None, TINY | config)))).eval()
    if wide:
        for parameter in model.parameters():
            if parameter.dim() >= 2:
                torch.nn.init.normal_(parameter, std=0.15)
    return model


def widened(model):
    torch.manual_seed(1)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, mean=float(parameter.dim() < 2), std=0.15)
    return model.eval()


def random_ids(rows=2, length=33, vocab=320):
    return torch.randint(vocab, (rows, length), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"num_key_value_heads": 1, "attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True},
        {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 500.0}, "head_dim": 12},
        {
            "rope_parameters": {
                "rope_type": "yarn", "factor": 4.0, "rope_theta": 10000.0, "original_max_position_embeddings": 32,
            }
        },
    ],
    ids=["plain", "one key head, biases, tied", "linear", "yarn"],
)  # fmt: skip
def test_logits_equal_transformers_llama_and_the_way_back_gives_the_same_model(config):
    sizes = {"vocab_size": 320, "hidden_size": 64, "intermediate_size": 48, "num_hidden_layers": 2}
    theirs = widened(
        AutoModelForCausalLM.from_config(
            LlamaConfig(**sizes, **{"num_attention_heads": 4, "num_key_value_heads": 2} | config)
        )
    )
    ours = from_transformers(theirs)
    ids = random_ids()
    assert (ours(ids).logits - theirs(ids).logits).abs().max() < 1e-4
    back = to_transformers(ours, "llama")
    assert torch.equal(back(ids).logits, theirs(ids).logits)
    assert back.config.to_diff_dict() == theirs.config.to_diff_dict() | {
        key: back.config.to_diff_dict()[key] for key in ("architectures", "dtype") if key in back.config.to_diff_dict()
    }


@pytest.mark.parametrize(("heads", "clip", "scale"), [(4, None, None), (3, 0.5, 0.3)])
def test_logits_equal_transformers_mpt_and_the_way_back_gives_the_same_model(heads, clip, scale):
    config = MptConfig(
        vocab_size=320, d_model=48, n_heads=heads, n_layers=2, max_seq_len=64,
        attn_config={"clip_qkv": clip, "softmax_scale": scale},
    )  # fmt: skip
    theirs = widened(AutoModelForCausalLM.from_config(config))
    ours = from_transformers(theirs)
    ids = random_ids()
    assert (ours(ids).logits - theirs(ids).logits).abs().max() < 1e-4
    mask = torch.ones_like(ids)
    mask[0, :5] = 0
    padded = (ours(ids, attention_mask=mask).logits - theirs(ids, attention_mask=mask).logits)[0, 5:]
    assert padded.abs().max() < 1e-4
    back = to_transformers(ours, "mpt", max_seq_len=64)
    assert torch.equal(back(ids).logits, theirs(ids).logits)
    assert count_parameters(back)[1] == count_parameters(ours)[1]


def test_a_stretched_ntk_decoder_becomes_a_llama_of_a_larger_base():
    ours = made(**VARIANTS["yarn"] | {"rope_scaling": "ntk", "rope_original": None, "norm": "rmsnorm", "mlp": "swiglu"})
    theirs = to_transformers(ours, "llama")
    assert theirs.config.rope_parameters["rope_theta"] == pytest.approx(10000 * 4 ** (8 / 6))
    assert (ours(random_ids()).logits - theirs(random_ids()).logits).abs().max() < 1e-4


def test_what_the_other_architecture_lacks_is_named_all_at_once():
    with pytest.raises(UserError, match=r"to mpt.*qk_norm; positions: rope is not alibi"):
        to_transformers(made(qk_norm=True, positions="rope", max_position_embeddings=8), "mpt")
    with pytest.raises(UserError, match="rope_type llama3 is not one of"):
        rope = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "rope_theta": 1e4,
                "original_max_position_embeddings": 64}  # fmt: skip
        sizes = {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 32, "num_hidden_layers": 1}
        from_transformers(AutoModelForCausalLM.from_config(LlamaConfig(**sizes, vocab_size=64, rope_parameters=rope)))
    with pytest.raises(UserError, match="gpt2 is not converted"):
        gpt = AutoConfig.for_model("gpt2", n_embd=8, n_layer=1, n_head=2, vocab_size=16)
        from_transformers(AutoModelForCausalLM.from_config(gpt))


def test_alibi_slopes_are_the_published_ones():
    """Press et al., section 3: for 8 heads 1/2, 1/4 ... 1/2^8. For 12: the 8, then the 1st, 3rd, 5th and 7th of 16 heads'
    2^-0.5, 2^-1 ...: 2^-0.5, 2^-1.5, 2^-2.5, 2^-3.5. For 56: the 32 of 2^(-8/32 i), then every other one of 64 heads'
    2^(-8/64 i), i = 1, 3 ... 47. For 64: 2^(-i/8)."""
    assert alibi_slopes(8) == (1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32, 1 / 64, 1 / 128, 1 / 256)
    assert alibi_slopes(12)[:8] == alibi_slopes(8)
    assert alibi_slopes(12)[8:] == pytest.approx([0.70710678, 0.35355339, 0.17677670, 0.08838835])
    assert alibi_slopes(56)[:4] == pytest.approx([0.84089642, 0.70710678, 0.59460356, 0.5])
    assert alibi_slopes(56)[31:34] == pytest.approx([1 / 256, 2**-0.125, 2**-0.375])
    assert alibi_slopes(56)[55] == pytest.approx(2 ** (-47 / 8))
    assert alibi_slopes(64) == pytest.approx([2 ** (-i / 8) for i in range(1, 65)])


def test_alibi_through_sdpa_equals_the_formula_written_out():
    """softmax(q k^T / sqrt(H) - m (i - j)) v over j <= i, head by head."""
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 4, 33, 7)
    slopes = torch.tensor(alibi_slopes(4))
    bias = alibi_bias(slopes, 33, 33, past=0)
    got = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=bias)
    for head in range(4):
        scores = q[:, head] @ k[:, head].transpose(1, 2) / math.sqrt(7)
        for i in range(33):
            for j in range(33):
                scores[:, i, j] = scores[:, i, j] - slopes[head] * (i - j) if j <= i else -math.inf
        assert torch.allclose(got[:, head], scores.softmax(-1) @ v[:, head], atol=1e-5)


def test_alibi_gives_the_same_through_the_plain_and_the_fused_kernel():
    from torch.nn.attention import SDPBackend, sdpa_kernel

    model, ids = made(**VARIANTS["alibi"]), random_ids(2, 12)
    found = []
    for kernel in (SDPBackend.MATH, SDPBackend.FLASH_ATTENTION):
        with sdpa_kernel([kernel]), torch.no_grad():
            found.append(model(ids).logits)
    assert torch.allclose(*found, atol=1e-5)


def test_frequencies_of_each_stretching_equal_the_formulas():
    """linear: all divided by 4. ntk: base 10000 * 4^(8/6); the fastest stays 1, the slowest becomes 10000^(-6/8) / 4.
    yarn: as transformers computes it, with cosines and sines times 0.1 ln 4 + 1."""
    rope = {"positions": "rope", "max_position_embeddings": 64, "rope_factor": 4.0}
    plain, _ = rope_frequencies(made(positions="rope", max_position_embeddings=64).config)
    linear, _ = rope_frequencies(made(**rope, rope_scaling="linear").config)
    ntk, _ = rope_frequencies(made(**rope, rope_scaling="ntk").config)
    assert torch.allclose(linear, plain / 4)
    assert ntk[0] == 1 and ntk[-1] == pytest.approx(10000 ** (-6 / 8) / 4)
    yarn, factor = rope_frequencies(made(**rope, rope_scaling="yarn", rope_original=16).config)
    theirs = LlamaConfig(hidden_size=32, num_attention_heads=4, max_position_embeddings=64, rope_parameters={
        "rope_type": "yarn", "factor": 4.0, "rope_theta": 10000.0, "original_max_position_embeddings": 16})  # fmt: skip
    wanted, wanted_factor = ROPE_INIT_FUNCTIONS["yarn"](theirs)
    assert torch.allclose(yarn, wanted) and factor == pytest.approx(wanted_factor) == pytest.approx(1.1386294)


@pytest.mark.parametrize("name", VARIANTS)
def test_packing_caches_saving_and_transformers_own_generate_work_on_every_variant(name, tmp_path):
    model = made(**VARIANTS[name])
    found = probe(model)
    assert found.packs and found.head.startswith("linear"), found
    # a common beginning computed once leaves a gap between slots, and ALiBi counts slots: it is decoded without
    assert choose_way(Forward(model)) == ("padded" if name == "alibi" else "masks")
    save_plain(model, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert "auto_map" not in config and config["model_type"] == "bottega_decoder"
    ids = random_ids(2, 12)
    again = load_weights(tmp_path)
    assert torch.equal(again(ids).logits, model(ids).logits)
    fixed = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
    assert torch.equal(again.generate(ids, **fixed), again.generate(ids, **fixed, use_cache=False))


@pytest.mark.parametrize("name", ["alibi", "yarn"])
def test_tuned_loaded_and_sampled_like_any_other_model(name, tmp_path):
    tokenizer = tiny_tokenizer(tmp_path)
    save_plain(made(**VARIANTS[name]), tmp_path)
    loaded = load(tmp_path)
    assert loaded.packs
    texts = [[5, 9, 30], [44, 8, 9, 10, 60, 61], [7]]
    for options in (("lora", {"rank": 4}), ("prefix", {"length": 3}), ("full", {})):
        attached = method(options[0], **options[1]).attach(load(tmp_path).model)
        generator = Generator(attached.model, tokenizer, inputs=attached.inputs)
        together = [reply.ids for reply in generator.sample(texts, max_tokens=6)]
        alone = [generator.sample([text], max_tokens=6)[0].ids for text in texts]
        assert together == alone
    assert len(linear_layers(loaded.model)) == 12


def test_a_learned_table_refuses_what_it_has_no_position_for():
    model = made(positions="learned", max_position_embeddings=24)
    model(random_ids(1, 24))
    with pytest.raises(UserError, match="a sequence of 25 tokens is longer than the 24 positions"):
        model(random_ids(1, 25))
    made()(random_ids(1, 500))  # ALiBi has no such limit


@pytest.mark.parametrize(("preset", "count"), [("mpt-7b", 6_649_286_656), ("mpt-30b", 29_957_200_896)])
def test_the_presets_have_the_published_numbers_of_parameters(preset, count):
    """mpt-7b: 50432 * 4096 (tied) + 32 * (12 * 4096^2 + 2 * 4096) + 4096 = 6,649,286,656; mpt-30b the same with 7168 and 48."""
    with torch.device("meta"):
        model = DecoderForCausalLM(DecoderConfig(**dataclasses.asdict(shape(preset))))
    model.tie_weights()
    assert count_parameters(model)[1] == count


def test_the_garzone_preset_is_the_bundled_base():
    bundled = load_weights(GARZONE)
    ours = DecoderForCausalLM(DecoderConfig(**dataclasses.asdict(shape("garzone"))))
    assert count_parameters(ours)[1] == count_parameters(bundled)[1]
    converted = from_transformers(bundled)
    assert {name: p.shape for name, p in ours.named_parameters()} == {
        name: p.shape for name, p in converted.named_parameters()
    }
    ids = random_ids(2, 40, vocab=2048)
    assert (converted(ids).logits - bundled(ids).logits).abs().max() < 1e-4


def test_weights_start_as_each_scheme_says():
    """D = 64, 4 D = 256, L = 8: small sqrt(2/320) = 0.0791; neox into the residual 2 / (8 * 8) = 0.03125; kaiming
    sqrt(2/64) = 0.177 and sqrt(2/256) = 0.0884; divided by sqrt(16) = 4 where they write into the residual."""
    wanted = {
        "normal": (0.02, 0.02, 0.02 / 4, 0.02 / 4),
        "small": (0.0791, 0.0791, 0.0198, 0.0198),
        "neox": (0.0791, 0.0791, 0.03125, 0.03125),
        "kaiming": (0.02, 0.1768, 0.1768 / 4, 0.0884 / 4),
    }
    for scheme, numbers in wanted.items():
        model = made(False, hidden_size=64, num_hidden_layers=8, init=scheme)
        layer = model.model.layers[0]
        parts = (model.model.embed_tokens, layer.self_attn.q_proj, layer.self_attn.o_proj, layer.mlp.down_proj)
        assert [float(part.weight.detach().std()) for part in parts] == pytest.approx(numbers, rel=0.06), scheme
    flat = made(False, hidden_size=64, num_hidden_layers=8, init_residual=False)
    assert float(flat.model.layers[0].mlp.down_proj.weight.detach().std()) == pytest.approx(0.02, rel=0.06)


def test_the_embedding_learns_a_share_of_its_gradient():
    """With a head of its own the gradient of the input embedding is the fraction of what it is with 1; the loss is the same."""
    grads, losses = [], []
    for fraction in (1.0, 0.25):
        model = made(embedding_fraction=fraction, tie_word_embeddings=False)
        loss = model(random_ids(), labels=random_ids()).loss
        loss.backward()
        grads.append(model.model.embed_tokens.weight.grad)
        losses.append(float(loss.detach()))
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    assert torch.allclose(grads[1], 0.25 * grads[0], atol=1e-6)


def test_low_precision_norms_compute_in_the_autocast_type_and_others_in_float32():
    x = torch.randn(3, 32) * 100
    for norm in ("layernorm", "rmsnorm"):
        low = made(norm=norm, low_precision_norm=True).model.norm
        high = made(norm=norm, low_precision_norm=False).model.norm
        assert torch.allclose(low(x), high(x), atol=1e-5)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert low(x).dtype == torch.bfloat16 and high(x).dtype == torch.float32
            assert torch.allclose(low(x).float(), high(x), atol=0.05)
        assert high.to(torch.bfloat16)(x.bfloat16()).dtype == torch.bfloat16


def test_activation_checkpointing_gives_the_same_gradient():
    ids, grads = random_ids(), []
    for recompute in (False, True):
        model = made().train()
        if recompute:
            model.gradient_checkpointing_enable()
        model(ids, labels=ids, use_cache=False).loss.backward()
        grads.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    assert torch.allclose(grads[0], grads[1], atol=1e-6)


def test_mistakes_in_a_shape_are_one_sentence_each():
    for config, said in (
        ({"hiden_size": 8}, "no field 'hiden_size'; did you mean"),
        ({"hidden_size": 30}, "hidden_size 30 is no multiple of 12 heads"),
        ({"num_key_value_heads": 5}, "no multiple of num_key_value_heads 5"),
        ({"positions": "rope"}, "needs max_position_embeddings"),
        ({"max_position_embeddings": 8}, "alibi has no table"),
        ({"positions": "rope", "max_position_embeddings": 8, "rope_factor": 2.0}, "give a factor above 1 with a scaling"),
        ({"rope_scaling": "linear"}, "rope_scaling linear is for positions: rope"),
        ({"embedding_fraction": 0.0}, "embedding_fraction is 0.0"),
        ({"num_hidden_layers": 0}, "num_hidden_layers is 0"),
        ({"mlp": "relu"}, "mlp: "),
    ):  # fmt: skip
        with pytest.raises(UserError, match=said):
            shape(None, config)
    with pytest.raises(UserError, match="no preset 'mpt-8b'"):
        shape("mpt-8b")


def test_the_config_has_every_field_of_a_shape_and_presets_name_no_others():
    config = DecoderConfig()
    assert all(hasattr(config, name) for name in FIELDS)
    assert all(set(preset) <= set(FIELDS) for preset in PRESETS.values())
    assert Shape().__doc__ and all(name in Shape.__doc__ for name in ("clip_qkv", "qk_norm", "embedding_fraction"))


def test_registering_twice_changes_nothing():
    decoder.register()
    decoder.register()
    assert AutoConfig.for_model("bottega_decoder").positions == "alibi"
