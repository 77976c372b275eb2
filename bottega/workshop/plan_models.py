"""Open models that a plan can name without a network: size, licence, languages, and the shape that decides what fits.

Left out: quality. What a model is good at is measured (`bottega eval`), not read in a table.

From the models' public cards and config files as known on the date below; licences change, so read the card before you train.
"""

from __future__ import annotations

from typing import Any, NamedTuple

DATE = "2026-11-25"
BASED_ON = "public model cards and config.json files, as known on this date"


class Open(NamedTuple):
    """One model. billions: parameters, in 1e9; active: those a token uses; shape: the keys of its config that count."""

    name: str
    billions: float
    licence: str
    languages: str
    context: int
    shape: dict[str, Any]
    active: float | None = None


def _llama(width: int, layers: int, ffn: int, heads: int, kv: int, vocabulary: int, **more: Any) -> dict[str, Any]:
    return {
        "hidden_size": width,
        "num_hidden_layers": layers,
        "intermediate_size": ffn,
        "num_attention_heads": heads,
        "num_key_value_heads": kv,
        "vocab_size": vocabulary,
        "model_type": "llama",
        "tie_word_embeddings": False,
        **more,
    }


def _tied(*shape: int, **more: Any) -> dict[str, Any]:
    return _llama(*shape, tie_word_embeddings=True, **more)  # type: ignore[arg-type]


QWEN3 = {"model_type": "qwen3", "head_dim": 128}
OPEN_MODELS = (
    Open("HuggingFaceTB/SmolLM2-135M", 0.135, "Apache-2.0", "English", 8192, _tied(576, 30, 1536, 9, 3, 49152)),
    Open("HuggingFaceTB/SmolLM2-360M", 0.362, "Apache-2.0", "English", 8192, _tied(960, 32, 2560, 15, 5, 49152)),
    Open("HuggingFaceTB/SmolLM2-1.7B", 1.71, "Apache-2.0", "English", 8192, _tied(2048, 24, 8192, 32, 32, 49152)),
    Open("Qwen/Qwen3-0.6B", 0.596, "Apache-2.0", "100+ languages", 40960, _tied(1024, 28, 3072, 16, 8, 151936, **QWEN3)),
    Open("Qwen/Qwen3-1.7B", 1.72, "Apache-2.0", "100+ languages", 40960, _tied(2048, 28, 6144, 16, 8, 151936, **QWEN3)),
    Open("Qwen/Qwen3-4B", 4.02, "Apache-2.0", "100+ languages", 40960, _tied(2560, 36, 9728, 32, 8, 151936, **QWEN3)),
    Open("Qwen/Qwen3-8B", 8.19, "Apache-2.0", "100+ languages", 40960, _llama(4096, 36, 12288, 32, 8, 151936, **QWEN3)),
    Open("Qwen/Qwen3-14B", 14.8, "Apache-2.0", "100+ languages", 40960, _llama(5120, 40, 17408, 40, 8, 151936, **QWEN3)),
    Open("Qwen/Qwen3-32B", 32.8, "Apache-2.0", "100+ languages", 40960, _llama(5120, 64, 25600, 64, 8, 151936, **QWEN3)),
    Open("mistralai/Mistral-7B-v0.3", 7.25, "Apache-2.0", "English", 32768, _llama(4096, 32, 14336, 32, 8, 32768)),
    Open("meta-llama/Llama-3.2-1B", 1.24, "Llama 3.2 Community", "8 languages, Italian among them", 131072,
         _tied(2048, 16, 8192, 32, 8, 128256, head_dim=64)),
    Open("meta-llama/Llama-3.2-3B", 3.21, "Llama 3.2 Community", "8 languages, Italian among them", 131072,
         _tied(3072, 28, 8192, 24, 8, 128256, head_dim=128)),
    Open("meta-llama/Llama-3.1-8B", 8.03, "Llama 3.1 Community", "8 languages, Italian among them", 131072,
         _llama(4096, 32, 14336, 32, 8, 128256)),
    Open("meta-llama/Llama-3.1-70B", 70.6, "Llama 3.1 Community", "8 languages, Italian among them", 131072,
         _llama(8192, 80, 28672, 64, 8, 128256)),
    Open("ibm-granite/granite-3.3-2b-base", 2.53, "Apache-2.0", "12 languages, Italian among them", 131072,
         _tied(2048, 40, 8192, 32, 8, 49152, model_type="granite")),
    Open("microsoft/phi-4", 14.7, "MIT", "mostly English", 16384, _llama(5120, 40, 17920, 40, 10, 100352, model_type="phi3")),
    Open("allenai/OLMo-2-1124-7B", 7.30, "Apache-2.0", "English", 4096,
         _llama(4096, 32, 11008, 32, 32, 100352, model_type="olmo2")),
    Open("utter-project/EuroLLM-1.7B", 1.66, "Apache-2.0", "35 languages, Italian and Finnish among them", 4096,
         _llama(2048, 24, 5632, 16, 8, 128000)),
    Open("utter-project/EuroLLM-9B", 9.15, "Apache-2.0", "35 languages, Italian and Finnish among them", 4096,
         _llama(4096, 42, 12288, 32, 8, 128000)),
)  # fmt: skip


def known(name: str) -> Open | None:
    """The table's entry of a Hub id, whatever its case."""
    return next((model for model in OPEN_MODELS if model.name.lower() == name.lower()), None)
