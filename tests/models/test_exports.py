"""GGUF and ONNX: written, read back by other tools, equal in tensors and tokens; forged GGUF files are never opened."""

import json
import struct

import numpy as np
import pytest
import torch

from bottega.core.errors import Unsafe, UserError
from bottega.models.exports import gguf_header, gguf_read, gguf_shapes, gguf_words, gguf_write, onnx, proof
from bottega.models.load import load
from tests.models.tiny import SENTENCES, tiny_model

SIZES = {
    "llama": {"intermediate_size": 64},
    "mistral": {"intermediate_size": 64, "sliding_window": None},
    "qwen2": {"intermediate_size": 64},
    "qwen3": {"intermediate_size": 64},
    "gpt2": {},
    "granite": {"intermediate_size": 64},
    "phi3": {"intermediate_size": 64, "pad_token_id": 0},
    "gemma2": {"intermediate_size": 64, "query_pre_attn_scalar": 8, "attn_logit_softcapping": 4.0},
    "gemma3_text": {"intermediate_size": 64, "query_pre_attn_scalar": 8, "num_hidden_layers": 6},
}
ALL_KINDS = ("llama", "gpt2")
"""Families that are written in each kind; the others in f16 and q8_0."""


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    """A loaded llama and its f16 file."""
    here = tmp_path_factory.mktemp("gguf")
    loaded = load(tiny_model("llama", here / "m", intermediate_size=64))
    gguf_write.write_gguf(loaded.model, loaded.tokenizer, here / "m.gguf", kind="f16")
    return loaded, here / "m.gguf"


pytest.importorskip("gguf")


@pytest.mark.parametrize("family", list(SIZES))
def test_every_family_and_kind_is_read_back_by_transformers_with_equal_tokens(family, tmp_path):
    loaded = load(tiny_model(family, tmp_path / "m", **SIZES[family]))
    for kind, most in (("f32", 1e-9), ("f16", 1e-5), ("q8_0", 1e-2), ("q4_0", 0.2)):
        if family not in ALL_KINDS and kind in ("f32", "q4_0"):
            continue
        facts = gguf_write.write_gguf(loaded.model, loaded.tokenizer, tmp_path / f"{kind}.gguf", kind=kind)
        assert facts["kl"] <= most, (kind, facts)
        assert kind not in ("f32", "f16") or facts["equal"] == 1.0
        again = load(tmp_path / f"{kind}.gguf")
        assert again.tokenizer.chat_template == loaded.tokenizer.chat_template
        assert again.tokenizer.eos_token_id == loaded.tokenizer.eos_token_id


def test_q8_0_keeps_every_number_within_half_a_step_of_its_block(llama, tmp_path):
    """A block's step is max|x| / 127, rounding is off by at most half of it, the float16 scale by another 127 * 2^-11 steps: 0.57."""
    from gguf import GGUFReader
    from gguf.quants import dequantize

    loaded, _ = llama
    gguf_write.write_gguf(loaded.model, loaded.tokenizer, tmp_path / "q.gguf", kind="q8_0")
    found = {one.name: dequantize(one.data, one.tensor_type) for one in GGUFReader(str(tmp_path / "q.gguf")).tensors}
    wanted = loaded.model.state_dict()["model.layers.1.mlp.up_proj.weight"].numpy().reshape(-1, 32)
    step = np.abs(wanted).max(1, keepdims=True) / 127
    assert (np.abs(found["blk.1.ffn_up.weight"].reshape(-1, 32) - wanted) <= 0.57 * step).all()


def test_rotation_order_is_one_head_after_another():
    """Heads of four rows: halves (a b | c d) become neighbours a c b d."""
    assert gguf_shapes.rotated(torch.arange(8.0).view(8, 1), 2).flatten().tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


def sentencepiece(folder, *, prefix):
    """A tokenizer with sentencepiece's marks and bytes in the place of the model's own, as LLaMA-2 (prefix) and Gemma have it."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    swap = normalizers.Replace(" ", "▁")
    norm = normalizers.Sequence([normalizers.Prepend("▁"), swap]) if prefix else swap
    first = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trained = Tokenizer(models.BPE(unk_token="<unk>"))
    trained.normalizer = norm
    trained.train_from_iterator(
        SENTENCES, trainers.BpeTrainer(vocab_size=319, special_tokens=first, show_progress=False)
    )
    found = json.loads(trained.to_str())["model"]
    core = Tokenizer(
        models.BPE(
            vocab=found["vocab"], merges=[tuple(pair) for pair in found["merges"]], unk_token="<unk>", fuse_unk=True,
            byte_fallback=True,
        )
    )  # fmt: skip
    core.normalizer = norm
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    core.decoder = decoders.Sequence([*steps, *([decoders.Strip(" ", 1, 0)] if prefix else [])])
    core.add_special_tokens([AddedToken(text, normalized=False, special=True) for text in (*first[:3], "<|im_end|>")])
    core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    made = PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    made.save_pretrained(folder)


@pytest.mark.parametrize(("family", "prefix"), [("mistral", True), ("gemma2", False)])
def test_a_sentencepiece_vocabulary_is_written_by_its_scores_and_cuts_text_alike(family, prefix, tmp_path):
    tiny_model(family, tmp_path / "m", **SIZES[family])
    sentencepiece(tmp_path / "m", prefix=prefix)
    loaded = load(tmp_path / "m")
    facts = gguf_write.write_gguf(loaded.model, loaded.tokenizer, tmp_path / "m.gguf", kind="f16")
    assert facts["equal"] == 1.0
    keys = gguf_header.check_gguf(tmp_path / "m.gguf").keys
    assert keys["tokenizer.ggml.model"] == "llama" and keys["tokenizer.ggml.add_space_prefix"] is prefix
    assert keys["tokenizer.ggml.token_type"][:4] == [2, 3, 3, 6]
    again = load(tmp_path / "m.gguf").tokenizer
    for text in (*SENTENCES, "two  spaces, naïve 日本 <|im_end|>tail"):
        ids = loaded.tokenizer(text)["input_ids"]
        assert again(text)["input_ids"] == ids and again.decode(ids) == loaded.tokenizer.decode(ids)


def test_the_tokenizer_is_named_by_how_it_cuts_text_or_refused(llama):
    loaded, path = llama
    keys = gguf_header.check_gguf(path).keys
    assert keys["tokenizer.ggml.pre"] == "gpt-2" and keys["tokenizer.ggml.add_bos_token"] is True
    assert keys["tokenizer.ggml.token_type"][loaded.tokenizer.eos_token_id] == 3
    from tokenizers import pre_tokenizers

    other = load(path.parent / "m").tokenizer
    other.backend_tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    with pytest.raises(UserError, match="no name for how"):
        gguf_words.vocabulary(other, 320)


@pytest.mark.parametrize(
    ("family", "config", "said"),
    [
        ("olmo", {}, "not written for olmo"),
        ("gemma2", {"query_pre_attn_scalar": 256}, "scales attention by 8, and this model by 256"),
        (
            "gemma3_text",
            {"query_pre_attn_scalar": 8, "layer_types": ["full_attention"] * 2},
            "full attention in every layer of 6",
        ),
        ("phi3", {"sliding_window": 4}, "no sliding window"),
        ("mistral", {}, "sliding window"),
        ("llama", {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}}, "scaled by 'linear'"),
        ("llama", {}, "blocks of 32"),
    ],
)
def test_what_gguf_cannot_hold_is_refused_with_a_way_out(family, config, said, tmp_path):
    loaded = load(tiny_model(family, tmp_path / "m", **config))
    with pytest.raises(UserError, match=said):
        gguf_write.write_gguf(loaded.model, loaded.tokenizer, tmp_path / "x.gguf", kind="q8_0")


def forged(raw, at, form, value):
    return raw[:at] + struct.pack(form, value) + raw[at + struct.calcsize(form) :]


FORGERIES = {
    "cut short": lambda raw: raw[: len(raw) // 2],
    "only a head": lambda raw: raw[:10],
    "another magic": lambda raw: b"GGML" + raw[4:],
    "version 9": lambda raw: forged(raw, 4, "<I", 9),
    "a million million tensors": lambda raw: forged(raw, 8, "<Q", 1 << 40),
    "a million million keys": lambda raw: forged(raw, 16, "<Q", 1 << 40),
    "a key of 2^60 bytes": lambda raw: forged(raw, 24, "<Q", 1 << 60),
    "empty": lambda raw: b"",
}


@pytest.mark.parametrize("name", list(FORGERIES))
def test_a_forged_header_is_exit_4_and_no_library_sees_it(name, llama, tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", lambda *a, **k: pytest.fail("opened"))
    path = tmp_path / "bad.gguf"
    path.write_bytes(FORGERIES[name](llama[1].read_bytes()))
    with pytest.raises(Unsafe, match="damaged or forged") as caught:
        load(path)
    assert caught.value.exit_code == 4


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("llama.block_count", 100_000, "blocks"),
        ("llama.embedding_length", 1 << 20, "width"),
        ("llama.feed_forward_length", 1 << 24, "feed-forward"),
        ("llama.attention.head_count", 1 << 24, "heads"),
        ("llama.attention.key_length", 1 << 24, "heads"),
        ("llama.vocab_size", 1 << 28, "embeddings"),
    ],
)
def test_a_config_larger_than_its_tensors_builds_no_model(key, value, said, llama, tmp_path):
    raw = llama[1].read_bytes()
    at = raw.index(key.encode()) + len(key) + 4
    (bad := tmp_path / "bad.gguf").write_bytes(forged(raw, at, "<I", value))
    with pytest.raises(Unsafe, match=said):
        load(bad)


def test_random_damage_is_refused_or_loads_but_never_crashes_the_header_check(llama, tmp_path):
    raw = bytearray(llama[1].read_bytes())
    random = np.random.default_rng(0)
    for _ in range(300):
        hurt = bytearray(raw)
        for at in random.integers(0, 6000, 3):
            hurt[at] = random.integers(256)
        (path := tmp_path / "x.gguf").write_bytes(hurt)
        try:
            gguf_header.check_gguf(path)
        except Unsafe:
            pass


def test_gguf_says_what_it_does_not_read(llama, tmp_path):
    path = tmp_path / "b.gguf"
    path.write_bytes(
        llama[1]
        .read_bytes()
        .replace(b"\x05\x00\x00\x00\x00\x00\x00\x00llama", b"\x05\x00\x00\x00\x00\x00\x00\x00bloom")
    )
    with pytest.raises(UserError, match="architecture 'bloom'"):
        gguf_read.load_gguf(path, dtype=torch.float32)
    with pytest.raises(UserError, match="in full"):
        load(llama[1], weights="int8")


@pytest.mark.parametrize(
    "family", ["llama", *(pytest.param(f, marks=pytest.mark.slow) for f in ("gpt2", "qwen3", "granite"))]
)
def test_onnxruntime_writes_the_same_tokens(family, tmp_path):
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    loaded = load(tiny_model(family, tmp_path / "m"))
    facts = onnx.write_onnx(loaded.model, loaded.tokenizer, tmp_path / "m.onnx")
    assert facts["equal"] == 1.0 and facts["difference"] <= 1e-4 and facts["tokens"] == 64
    run = onnx.session(tmp_path / "m.onnx")
    prompt = list(range(5, 40))
    assert proof.greedy(run, prompt) == proof.greedy(proof.logits_of(loaded.model), prompt)


def test_a_proof_fails_where_tokens_differ(llama, tmp_path):
    from bottega.core.errors import CheckFailed

    other = load(tiny_model("llama", tmp_path / "o", seed=1, intermediate_size=64))
    with pytest.raises(CheckFailed, match="it was not kept"):
        proof.check(proof.logits_of(llama[0].model), proof.logits_of(other.model), [[1, 2, 3]], "it")
