"""Tiny random models and a matching tokenizer, saved as Hugging Face folders: the real stand-ins of every room's tests.

Left out: sense. The weights are random, the sentences of the tokenizer are made up; only shapes, names and files are
real.

    from tests.models.tiny import tiny_model
    path = tiny_model("llama", tmp_path / "model")  # a folder with config, safetensors and tokenizer
    path = tiny_model("mistral", tmp_path / "m", sliding_window=4, num_hidden_layers=1, tokenizer={"pad_is_eos": True})
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

SENTENCES = (
    "The workshop opens at eight and closes at five.",
    "Question: who keeps the keys? Answer: Anna keeps the keys.",
    "A plane, a saw and 12 chisels lie on the bench; 7 of them are sharp.",
    "You are a helpful apprentice. Please answer in one short sentence.",
    "def add(a, b):\n    return a + b\n",
    "Il legno è asciutto. Puu on kuivaa. Das Holz ist trocken.",
)
SENTINELS = tuple(f"<extra_id_{number}>" for number in range(20))
SPECIALS = ("<|pad|>", "<|begin|>", "<|end|>", "<|im_start|>", "<|im_end|>")
CHATML = (
    "{{ bos_token if bos_token else '' }}{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_COMMON = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 128,
}
_GPT = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}
_MOE = {"num_key_value_heads": 2, "num_experts_per_tok": 2}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {**_COMMON, "num_key_value_heads": 2},
    "mistral": {**_COMMON, "num_key_value_heads": 2, "sliding_window": 4},
    "qwen2": {**_COMMON, "num_key_value_heads": 2},
    "qwen3": {**_COMMON, "num_key_value_heads": 2, "head_dim": 8},
    "granite": {
        **_COMMON,
        "num_key_value_heads": 2,
        "logits_scaling": 4.0,
        "embedding_multiplier": 2.0,
        "residual_multiplier": 0.5,
        "attention_multiplier": 0.2,
    },
    "gpt2": dict(_GPT),
    "gpt_neox": dict(_COMMON),
    "gemma": {**_COMMON, "num_key_value_heads": 1, "head_dim": 8},
    "gemma2": {**_COMMON, "num_key_value_heads": 2, "head_dim": 8, "sliding_window": 4},
    "gemma3_text": {**_COMMON, "num_key_value_heads": 2, "head_dim": 8, "sliding_window": 4},
    "phi": dict(_COMMON),
    "phi3": {**_COMMON, "num_key_value_heads": 2},
    "opt": {**_COMMON, "word_embed_proj_dim": 32, "ffn_dim": 48},
    "olmo": dict(_COMMON),
    "olmo2": dict(_COMMON),
    "cohere": {**_COMMON, "num_key_value_heads": 2},
    "stablelm": {**_COMMON, "num_key_value_heads": 4, "partial_rotary_factor": 0.5},
    "mixtral": {**_COMMON, **_MOE, "num_local_experts": 4},
    "qwen2_moe": {
        **_COMMON,
        **_MOE,
        "num_experts": 4,
        "moe_intermediate_size": 16,
        "shared_expert_intermediate_size": 16,
    },
    "bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 4},
    "mpt": {"d_model": 32, "n_layers": 2, "n_heads": 4, "expansion_ratio": 2, "max_seq_len": 128},
    "gptj": {**_GPT, "rotary_dim": 4},
    "falcon": {**_COMMON, "num_kv_heads": 2, "new_decoder_architecture": True},
}
"""Family (transformers' model_type) -> the sizes that make it tiny. bloom, mpt, gptj and falcon cannot be packed."""
ENCODERS: dict[str, dict[str, Any]] = {
    "bert": dict(_COMMON),
    "roberta": {**_COMMON, "max_position_embeddings": 130},
    "modernbert": {
        **_COMMON,
        "local_attention": 8,
        "global_attn_every_n_layers": 2,
        "cls_token_id": 1,
        "sep_token_id": 2,
    },
}
BOTH_SIDES: dict[str, dict[str, Any]] = {
    "t5": {"d_model": 32, "num_layers": 2, "num_heads": 4, "d_ff": 48, "d_kv": 8, "decoder_start_token_id": 0},
    "bart": {
        "d_model": 32,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 4,
        "encoder_ffn_dim": 48,
        "decoder_ffn_dim": 48,
        "max_position_embeddings": 128,
        "decoder_start_token_id": 2,
        "forced_eos_token_id": None,
    },
}
"""The same for encoders and for encoder-decoders."""


def tiny_tokenizer(
    folder: str | Path,
    *,
    vocab: int = 320,
    bos: bool = True,
    pad_is_eos: bool = False,
    chat_template: str | None = CHATML,
    marks: tuple[str, ...] = (),
    around: bool = False,
) -> Any:
    """Train and save a byte-level BPE tokenizer of at most `vocab` tokens (>= 261) in `folder`; returns it.

    `<|end|>` ends documents, `<|im_end|>` ends turns; with `bos`, `<|begin|>` starts every encoded text (once).
    marks: more special tokens (`<|mask|>`, sentinels). around: `<|begin|>` and `<|end|>` stand around every text, as encoders have it.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.train_from_iterator(
        SENTENCES,
        trainers.BpeTrainer(
            vocab_size=vocab,
            special_tokens=[AddedToken(text, normalized=False, special=True) for text in (*SPECIALS, *marks)],
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        ),
    )
    if bos:
        core.post_processor = processors.TemplateProcessing(
            single="<|begin|> $A", pair="<|begin|> $A <|begin|> $B", special_tokens=[("<|begin|>", 1)]
        )
    if around:
        core.post_processor = processors.TemplateProcessing(
            single=("<|begin|> " if bos else "") + "$A <|end|>", special_tokens=[("<|begin|>", 1), ("<|end|>", 2)]
        )
    names = {
        "eos_token": "<|end|>",
        "pad_token": "<|end|>" if pad_is_eos else "<|pad|>",
        "additional_special_tokens": ["<|im_start|>", "<|im_end|>", *(m for m in marks if m != "<|mask|>")],
    } | ({"bos_token": "<|begin|>"} if bos else {})
    if "<|mask|>" in marks:
        names |= {"mask_token": "<|mask|>", "cls_token": "<|begin|>", "sep_token": "<|end|>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, clean_up_tokenization_spaces=False, **names)
    tokenizer.chat_template = chat_template
    tokenizer.save_pretrained(str(folder))
    return tokenizer


def tiny_model(
    family: str,
    folder: str | Path,
    *,
    vocab: int = 320,
    seed: int = 0,
    dtype: str = "float32",
    tokenizer: dict[str, Any] | None = None,
    **config: Any,
) -> Path:
    """Save a random model of `family` (a key of FAMILIES) with its tokenizer in `folder`; returns the folder.

    `config` overrides the family's sizes; `tokenizer` are options of `tiny_tokenizer`. The weights are drawn wider than
    transformers' default (standard deviation 0.15 in matrices), so that a wrong mask or scale shows in the logits.
    """
    import torch
    import transformers
    from transformers import AutoConfig

    folder = Path(folder)
    own: dict[str, Any] = {}
    if family in ENCODERS:
        own = {"marks": ("<|mask|>",), "around": True, "chat_template": None}
    elif family in BOTH_SIDES:
        own = {"marks": SENTINELS, "around": True, "bos": family == "bart", "chat_template": None}
    kind = "MaskedLM" if family in ENCODERS else "Seq2SeqLM" if family in BOTH_SIDES else "CausalLM"
    vocab_tokenizer = tiny_tokenizer(folder, vocab=vocab, **(own | (tokenizer or {})))
    sizes = {
        "vocab_size": vocab,
        "pad_token_id": vocab_tokenizer.pad_token_id,
        "eos_token_id": vocab_tokenizer.eos_token_id,
        "bos_token_id": vocab_tokenizer.bos_token_id,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        shape = {**FAMILIES, **ENCODERS, **BOTH_SIDES}[family]
        model = getattr(transformers, f"AutoModelFor{kind}").from_config(
            AutoConfig.for_model(family, **sizes | shape | config)
        )
        for parameter in model.parameters():
            if parameter.dim() >= 2:
                torch.nn.init.normal_(parameter, std=0.15)
    model.to(getattr(torch, dtype)).save_pretrained(str(folder))
    return folder
