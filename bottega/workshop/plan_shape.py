"""The model of a plan: its config, found without loading weights, and the module it describes on the meta device, with a method.

Left out: what it needs (plan_rehearsal.py). A Hub id's config comes from the local cache, or (unless offline) from the
Hub, or from the dated table of open models; nothing but small files is ever fetched.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bottega.core.errors import UserError
from bottega.core.types import Attached
from bottega.models import attention, layers, locate, safety
from bottega.models.load import has_tokenizer, load_tokenizer
from bottega.models.methods import method
from bottega.workshop import plan_models

FULL_DEPTH = 8
"""Up to so many layers a model is rehearsed as it is; a deeper one at two depths, and the line through both is followed."""
TOKENIZER_FILES = [
    "tokenizer*.json",
    "vocab.json",
    "merges.txt",
    "special_tokens_map.json",
    "*.jinja",
    "tokenizer.model",
]
_NO_INTERFACE = (ValueError, KeyError, AttributeError)


@dataclass(frozen=True, kw_only=True, eq=False)
class Shape:
    """What is known of a model before it is loaded. tokenizer: None where it is not here; file_bytes: of its weights on
    disk (None: not here); source: where the config came from, for the report."""

    name: str
    config: Any
    tokenizer: Any
    folder: Path | None
    file_bytes: int | None
    source: str

    @functools.cached_property
    def numbers(self) -> float:
        """How many parameters the model has (from two depths of it)."""
        at = depths(self.config)
        if at is None:
            return float(_count(self.config))
        low, high = (_count(at_depth(self.config, depth)) for depth in at)
        return low + (high - low) * (self.num_layers - at[0]) / (at[1] - at[0])

    @property
    def num_layers(self) -> int:
        return int(_text(self.config).num_hidden_layers)


def find_shape(name: str, *, revision: str | None = None) -> Shape:
    """Config and tokenizer of what the user calls `name`.

    Raises:
        UserError: no folder, not in the cache, not in the table, and not to be reached.
    """
    if name in locate.BUNDLED or Path(name).expanduser().is_dir():
        place = locate.locate(name)
        kept = place.folder if has_tokenizer(place.folder) else place.base
        size = sum(path.stat().st_size for path in safety.weight_files(place.base))
        tokenizer = load_tokenizer(kept) if has_tokenizer(kept) else None
        return Shape(
            name=name,
            config=_read(place.base),
            tokenizer=tokenizer,
            folder=place.base,
            file_bytes=size,
            source="its config.json",
        )
    return _from_hub(name, revision)


def _from_hub(name: str, revision: str | None) -> Shape:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, HTTPError, LocalEntryNotFoundError

    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise UserError(f"there is no folder {name!r}, and it is no Hub id (owner/name); check the path")
    wanted = ["config.json", *TOKENIZER_FILES]
    try:
        folder = Path(
            snapshot_download(name, revision=revision, allow_patterns=wanted, local_files_only=locate.is_offline())
        )
        tokenizer = load_tokenizer(folder) if has_tokenizer(folder) else None
        source = "its config.json, from the Hub or its cache"
        return Shape(
            name=name, config=_read(folder), tokenizer=tokenizer, folder=folder, file_bytes=None, source=source
        )
    except (LocalEntryNotFoundError, HTTPError, HFValidationError, OSError):
        entry = plan_models.known(name)
        if entry is None:
            why = "offline is set" if locate.is_offline() else "the Hub cannot be reached, or does not have it"
            raise UserError(
                f"{name!r} is no local folder, its config is not in the local cache, and {why}; name a folder, or one "
                f"of the models that `bottega plan --suggest` lists"
            ) from None
        return Shape(
            name=name,
            config=table_config(entry),
            tokenizer=None,
            folder=None,
            file_bytes=round(entry.billions * 2e9),
            source=f"the table of open models of {plan_models.DATE}",
        )


def table_config(entry: plan_models.Open) -> Any:
    """The config of an entry of the table of open models."""
    from transformers import AutoConfig

    keys = dict(entry.shape)
    return AutoConfig.for_model(keys.pop("model_type"), max_position_embeddings=entry.context, **keys)


def _read(folder: Path) -> Any:
    from transformers import AutoConfig

    safety.check_configs(folder, trust=False)
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
    except (ValueError, KeyError, OSError, TypeError) as error:
        raise UserError(f"{folder / 'config.json'} does not load: {' '.join(str(error).split())[:200]}") from error
    if getattr(config, "is_encoder_decoder", False):
        raise UserError(f"{folder} holds an encoder-decoder ({config.model_type}); only decoders train here so far")
    return config


def depths(config: Any, *, least: int = 0) -> tuple[int, int] | None:
    """Two depths at which to rehearse instead of the whole one, a period of the layers' pattern apart; None: as it is.

    Args:
        least: layers that the smaller depth must have (those that LISA lets learn).
    """
    text = _text(config)
    total = int(text.num_hidden_layers)
    period = _period([getattr(text, name) for name in _per_layer(text)], total)
    low = max(2, least + 1, int(getattr(text, "first_k_dense_replace", 0) or 0) + 1)
    low = -(-low // period) * period
    return (low, low + period) if total > FULL_DEPTH and low + period < total else None


def at_depth(config: Any, depth: int) -> Any:
    """A copy of the config with so many layers, lists of one entry a layer cut to them."""
    fresh = copy.deepcopy(config)
    text = _text(fresh)
    lists = {name: getattr(text, name)[:depth] for name in _per_layer(text)}
    text.num_hidden_layers = depth
    for name, values in lists.items():
        setattr(text, name, values)
    return fresh


def _text(config: Any) -> Any:
    return config.get_text_config() if hasattr(config, "get_text_config") else config


def _per_layer(text: Any) -> list[str]:
    total = text.num_hidden_layers
    return [name for name, value in vars(text).items() if isinstance(value, list) and len(value) == total > 1]


def _period(lists: list[list[Any]], total: int) -> int:
    """The shortest distance after which every list repeats itself."""
    for period in range(1, total // 2 + 1):
        if all(values[i] == values[i - period] for values in lists for i in range(period, total)):
            return period
    return total


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class OnMeta:
    """A model without content. packs: it takes our attention (whether it keeps rows apart, only the probe at load can tell);
    linear: numbers in the linear layers of the decoder, largest_linear: in the largest; stack: in the decoder's layers."""

    attached: Attached
    packs: bool
    linear: int
    largest_linear: int
    stack: int


def on_meta(config: Any, name: str, options: Mapping[str, Any], *, dtype: str = "float32") -> OnMeta:
    """The model that `config` describes, on the meta device, with a method attached.

    Raises:
        UserError: the method does not fit the model.
    """
    from transformers import AutoModelForCausalLM

    module: Any
    experts = [getattr(_text(config), key, 0) for key in ("num_local_experts", "num_experts", "n_routed_experts")]
    if max(number or 0 for number in experts) > 1:
        raise UserError(
            f"a mixture of experts ({config.model_type}) cannot be planned yet, for what its experts compute depends on the text; "
            f"plan a dense model, or start the run, which measures its first batch"
        )
    with torch.device("meta"):
        module = AutoModelForCausalLM.from_config(copy.deepcopy(config), dtype=getattr(torch, dtype))
        packs = _installed(module)
    linear: list[int] = [layer.weight.numel() for layer in layers.linear_layers(module).values()]  # type: ignore[operator, union-attr]
    stack = sum(p.numel() for p in layers.decoder_layers(module).parameters())
    chosen = {**options, **SHAPES_ALONE.get(name, {})}
    with torch.device("cpu" if name in VALUES_FIRST else "meta"):
        attached = method(name, **chosen).attach(module)
    return OnMeta(
        attached=attached, packs=packs, linear=sum(linear), largest_linear=max(linear, default=0), stack=stack
    )


def _count(config: Any) -> int:
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        return sum(p.numel() for p in AutoModelForCausalLM.from_config(copy.deepcopy(config)).parameters())


def packs(config: Any) -> bool:
    """Whether a model of this config takes our attention."""
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        module = AutoModelForCausalLM.from_config(at_depth(config, min(2, int(_text(config).num_hidden_layers))))
    return _installed(module)


def _installed(module: Any) -> bool:
    try:
        attention.install(module)
    except _NO_INTERFACE:
        return False
    return True


SHAPES_ALONE: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("prefix", "prompt", "p_tuning"), {"init": "random"}),
    "lora": {"init": "zero"},
}
"""Options that decide values and not shapes, at the value that needs no weights."""
VALUES_FIRST = ("prefix", "prompt", "p_tuning")
"""Methods that draw their start with a generator of the CPU."""
