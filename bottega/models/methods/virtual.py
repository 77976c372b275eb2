"""Virtual tokens that learn, put before every sequence: the module that holds them, how a forward pass sees them, and PEFT's files.

Left out: what a method trains them by (methods/prompt.py, methods/ptuning.py). In a causal model nothing that stands before a
sequence depends on it, so the model's own keys and values of the virtual tokens are computed once a forward pass, with their
gradient, and enter where prefix tuning's do: packed rows, checkpointing and decoding need nothing more.

Shapes: P virtual tokens, D width of the model, E width of an encoder, V vocabulary.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from bottega.core.errors import UserError
from bottega.core.types import Attached, Row, Tokens
from bottega.models import heads, layers, layout, safety
from bottega.models.layers import Model
from bottega.models.methods.adapter import WEIGHTS, base_name
from bottega.models.methods.groups import make_groups
from bottega.models.methods.keyvalues import KEY, require_packed_attention

TOLERANCE = 1e-4


class Served:
    """Keys and values of one forward pass (core.types.Inputs)."""

    def __init__(self, pairs: list[tuple[Tensor, Tensor]], num_prefix: int) -> None:
        self.pairs, self.num_prefix = pairs, num_prefix

    def prefix_kv(self, layer: int) -> tuple[Tensor, Tensor]:
        """Keys and values (N, P, H) of a layer."""
        return self.pairs[layer]

    def served(self, model: nn.Module) -> Served:
        """Itself."""
        return self


class Recurrent(nn.Module):
    """(P, D) -> (P, D): an LSTM in both directions, and a perceptron over what they say at each place."""

    def __init__(self, size: int, width: int, depth: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(size, width, depth, bidirectional=True, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(2 * width, 2 * width), nn.ReLU(), nn.Linear(2 * width, size))

    def forward(self, table_PD: Tensor) -> Tensor:
        """The embeddings, from where they start."""
        return self.mlp(self.lstm(table_PD[None])[0])[0]


class VirtualTokens(nn.Module):
    """P embeddings (P, D); with an encoder they are its output, as in P-tuning v1."""

    def __init__(self, table_PD: Tensor, *, encoder: nn.Module | None = None, trainable: bool = True) -> None:
        super().__init__()
        self.table = nn.Parameter(table_PD.float().contiguous(), requires_grad=trainable)
        self.encoder = encoder
        self.num_prefix = table_PD.shape[0]

    def embeddings(self) -> Tensor:
        """(P, D)."""
        return self.table if self.encoder is None else self.encoder(self.table)

    def prefix_kv(self, layer: int) -> tuple[Tensor, Tensor]:
        """They depend on the model: see `served`."""
        raise AssertionError("virtual tokens are keys and values of a model: ask served(model)")

    def served(self, model: nn.Module) -> Served:
        """The model's keys and values of the virtual tokens in every layer, with their gradient."""
        from transformers import DynamicCache

        inner = heads.trunk(model)
        first = next(iter(heads.causal_model(model).get_input_embeddings().parameters()))
        seen = self.embeddings().to(first.device, first.dtype)[None]
        with _without_recompute(inner):
            out = inner(inputs_embeds=seen, past_key_values=DynamicCache(), use_cache=True)
        return Served([(layer.keys[0], layer.values[0]) for layer in out.past_key_values.layers], self.num_prefix)


@contextmanager
def _without_recompute(inner: nn.Module) -> Iterator[None]:
    """Modules in evaluation mode: a checkpointed layer gives no cache while it trains. Their modes are put back."""
    modes = {module: module.training for module in inner.modules()}
    inner.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def start(model: Model, length: int, seed: int, init: str) -> Tensor:
    """(P, D): the embeddings of random token ids, or a normal distribution of standard deviation 0.02."""
    random = torch.Generator().manual_seed(seed)
    if init == "tokens":
        table = heads.causal_model(model).get_input_embeddings()
        ids = torch.randint(layers.text_config(model).vocab_size, (length,), generator=random)
        with torch.no_grad():
            return torch.stack([table.weight[number].float().cpu() for number in ids])
    return torch.randn((length, layers.text_config(model).hidden_size), generator=random) * 0.02


def attach_tokens(model: nn.Module, inputs: VirtualTokens, name: str, save: Callable[[str], None]) -> Attached:
    """Freeze `model` and put the virtual tokens before its sequences.

    Raises:
        UserError: the family does not take our attention, or sees them otherwise than tokens that stand there.
    """
    require_packed_attention(model)
    model.requires_grad_(False)
    inputs.to(next(model.parameters()).device)
    if inputs.table.device.type != "meta":  # a plan counts, and has no numbers to compare
        _check(model, inputs, name)
    num, total = layers.count_parameters(inputs)[0], sum(p.numel() for p in (*model.parameters(), *inputs.parameters()))
    return Attached(
        name=name,
        model=model,
        groups=make_groups((f"inputs.{key}", parameter) for key, parameter in inputs.named_parameters()),
        save=save,
        merge=None,
        inputs=inputs,
        reference_kind="off",
        facts={"trainable": num, "total": total, "share": num / total},
    )


def _check(model: Model, inputs: VirtualTokens, name: str) -> None:
    """Compare with real embeddings in front of three tokens: a window or a distance may treat them otherwise.

    Raises:
        UserError: the logits differ.
    """
    ids = torch.arange(3, 6, device=next(model.parameters()).device)[None] % layers.text_config(model).vocab_size
    row = Row(index=0, branches=(Tokens(ids[0].tolist(), [0.0] * 3),))
    with heads.undisturbed(model):
        embedded = heads.causal_model(model).get_input_embeddings()(ids)
        whole = torch.cat([inputs.embeddings().to(embedded)[None], embedded], 1)
        wanted = heads.trunk(model)(inputs_embeds=whole, use_cache=False)[0][:, -3:].float()
        laid, _ = layout.lay([row], packed=True, num_prefix=inputs.num_prefix)
        assert laid.geometry is not None
        geometry = replace(laid.geometry, prefix_kv=inputs.served(model).prefix_kv)
        got = heads.trunk(model)(
            input_ids=laid.ids_BT.to(ids.device),
            position_ids=laid.positions_BT.to(ids.device),
            use_cache=False,
            layout=geometry,
        )[0].float()
    gap, size = float((got - wanted).abs().max()), float(wanted.abs().max())
    if not gap <= (TOLERANCE if embedded.dtype == torch.float32 else 5e-2) * max(1.0, size):
        raise UserError(
            f"method {name}: {type(model).__name__} sees {inputs.num_prefix} virtual tokens otherwise than tokens that stand there "
            f"(by {gap:.1e}), as models with ALiBi or a short sliding window do; use prefix or lora"
        )


def save_tokens(model: nn.Module, inputs: VirtualTokens, config: Any, folder: str | Path) -> None:
    """PEFT's files: `config`, and a (P, D) table of the embeddings as the model sees them."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    with torch.no_grad():
        table = inputs.embeddings().detach().cpu().float().contiguous()
    save_file({KEY: table}, Path(folder) / WEIGHTS, metadata={"format": "pt"})
    config.base_model_name_or_path = base_name(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        config.save_pretrained(str(folder))


def common(model: Model, length: int) -> dict[str, Any]:
    """What PEFT's config of either method says of the model."""
    config = layers.text_config(model)
    return {
        "task_type": "CAUSAL_LM", "num_virtual_tokens": length, "token_dim": config.hidden_size,
        "num_transformer_submodules": 1, "num_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads, "inference_mode": True,
    }  # fmt: skip


def attach_saved(model: nn.Module, folder: Path, *, trainable: bool) -> Attached:
    """Attach virtual tokens saved in PEFT's format; P-tuning's come without their encoder, which PEFT does not keep.

    Raises:
        UserError: they do not fit the model.
    """
    from bottega.models.methods.prompt import peft_config as prompt_config
    from bottega.models.methods.ptuning import peft_config as encoder_config

    raw = safety.check_adapter(folder)
    (file,) = safety.weight_files(folder)
    safety.check_safetensors(file)
    length, width = int(raw.get("num_virtual_tokens") or 0), layers.text_config(model).hidden_size
    table = load_file(file).get(KEY)
    if table is None or tuple(table.shape) != (length, width):
        found = None if table is None else tuple(table.shape)
        raise UserError(
            f"the virtual tokens in {folder} have shape {found} where their base needs {(length, width)}; check "
            "base_model_name_or_path"
        )
    inputs = VirtualTokens(table, trainable=trainable)
    name, make = ("prompt", prompt_config) if raw["peft_type"] == "PROMPT_TUNING" else ("p_tuning", encoder_config)
    config = make(model, length)
    attached = attach_tokens(model, inputs, name, lambda place: save_tokens(model, inputs, config, place))
    attached.reference_kind = "copy"
    return attached
