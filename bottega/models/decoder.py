"""Our decoder, as a transformers model: MPT's parts (ALiBi, no biases, clipped queries, low-precision norms) and LLaMA's
(RoPE, RMSNorm, SwiGLU, grouped heads), chosen by config.

Left out: dropout, mixtures of experts, and kernels of its own: attention goes through the registered function
(models/attention.py), so packed rows, prefixes, caches, methods and sampling work as on any other model. Nothing is
registered when this is imported: `register()` is called where models load.

Shapes: B rows, T positions, S keys, D width, N heads, N_kv key/value heads, H head size, V vocabulary.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.cache_utils import DynamicCache
from transformers.masking_utils import create_causal_mask, create_sliding_window_causal_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, slice_logits_to_keep
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from bottega.core.errors import UserError
from bottega.models.attention import alibi_bias, alibi_slopes, packed_attention
from bottega.models.shape import Shape, check, inner_size

YARN_FAST, YARN_SLOW = 32.0, 1.0
"""Turns over the trained length above which YaRN leaves a frequency as it is, and below which it stretches it fully."""


class DecoderConfig(Shape, PreTrainedConfig):
    """The fields of `Shape` as a transformers config, with the ids of special tokens."""

    model_type = "bottega_decoder"
    keys_to_ignore_at_inference = ["past_key_values"]

    use_cache: bool = True
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        check(self)
        self.num_key_value_heads = self.num_key_value_heads or self.num_attention_heads
        self.head_dim = self.head_dim or self.hidden_size // self.num_attention_heads
        self.intermediate_size = inner_size(self)
        super().__post_init__(**kwargs)


def rope_frequencies(config: Any) -> tuple[Tensor, float]:
    """Angle per position of each pair of a head's numbers, (H/2,) float32, and the factor on cosines and sines.

    Plain: base^(-2i/H) (Su et al. 2021, arXiv 2104.09864, section 3.2). linear: divided by the factor s (Chen et al. 2023,
    arXiv 2306.15595, section 2.3). ntk: base * s^(H/(H-2)), so that the slowest is divided by s and the fastest is kept
    (Peng et al. 2023, arXiv 2309.00071, section 3.1). yarn: a ramp between both by turns over the trained length, and
    scores scaled by (0.1 ln s + 1)^2 (the same, sections 3.2 and 3.4).
    """
    size, base, factor = config.head_dim, config.rope_base, config.rope_factor
    if config.rope_scaling == "ntk":
        base = base * factor ** (size / (size - 2))
    plain = 1.0 / (base ** (torch.arange(0, size, 2, dtype=torch.float32) / size))
    if config.rope_scaling == "linear":
        return plain / factor, 1.0
    if config.rope_scaling != "yarn":
        return plain, 1.0

    def pair_with(turns: float) -> float:
        """The (fractional) pair that makes so many turns over the trained length."""
        return size * math.log(config.rope_original / (turns * 2 * math.pi)) / (2 * math.log(base))

    low = max(math.floor(pair_with(YARN_FAST)), 0)
    high = min(math.ceil(pair_with(YARN_SLOW)), size - 1)
    stretched = ((torch.arange(size // 2, dtype=torch.float32) - low) / max(high - low, 0.001)).clamp(0, 1)
    return plain / factor * stretched + plain * (1 - stretched), 0.1 * math.log(factor) + 1.0


def rope_tables(config: Any, positions_BT: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosines and sines (B, 1, T, H) for the positions."""
    frequencies, factor = rope_frequencies(config)
    angles = positions_BT[:, None, :, None].float() * frequencies.to(positions_BT.device)
    both = torch.cat([angles, angles], -1)
    return (both.cos() * factor).to(dtype), (both.sin() * factor).to(dtype)


def rotate(x_BNTH: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the pairs (i, i + H/2) of each head by the position's angles."""
    first, second = x_BNTH.chunk(2, -1)
    return x_BNTH * cos + torch.cat([-second, first], -1) * sin


class Norm(nn.Module):
    """LayerNorm or RMSNorm; low precision computes in the autocast type (MPT), else in float32 whatever comes in."""

    def __init__(self, config: Any, size: int) -> None:
        super().__init__()
        self.rms, self.eps, self.low = config.norm == "rmsnorm", config.norm_eps, config.low_precision_norm
        self.weight = nn.Parameter(torch.ones(size))
        self.bias = nn.Parameter(torch.zeros(size)) if config.bias and not self.rms else None

    def forward(self, x: Tensor) -> Tensor:
        kind, dtype = x.device.type, x.dtype
        autocast = torch.is_autocast_enabled(kind)
        inner = (torch.get_autocast_dtype(kind) if autocast else dtype) if self.low else torch.float32
        with torch.autocast(kind, enabled=False):
            x = x.to(inner)
            if self.rms:
                out = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps)
                return self.weight.to(inner) * out if self.low else self.weight * out.to(dtype)
            bias = self.bias.to(inner) if self.bias is not None else None
            out = F.layer_norm(x, x.shape[-1:], self.weight.to(inner), bias, self.eps)
            return out if self.low else out.to(dtype)


class ToResidual(nn.Linear):
    """A linear layer that writes into the residual stream: it may start smaller than the others."""


class Attention(nn.Module):
    """Causal self-attention through whichever attention function the config names."""

    def __init__(self, config: Any, layer_idx: int) -> None:
        super().__init__()
        self.config, self.layer_idx, self.is_causal = config, layer_idx, True
        num_heads, num_kv, size = config.num_attention_heads, config.num_key_value_heads, config.head_dim
        self.head_dim, self.num_key_value_groups = size, num_heads // num_kv
        self.scaling = config.attention_scale or size**-0.5
        self.q_proj = nn.Linear(config.hidden_size, num_heads * size, bias=config.bias)
        self.k_proj = nn.Linear(config.hidden_size, num_kv * size, bias=config.bias)
        self.v_proj = nn.Linear(config.hidden_size, num_kv * size, bias=config.bias)
        self.o_proj = ToResidual(num_heads * size, config.hidden_size, bias=config.bias)
        self.q_norm = Norm(config, size) if config.qk_norm else None
        self.k_norm = Norm(config, size) if config.qk_norm else None

    def forward(
        self,
        hidden_BTD: Tensor,
        attention_mask: Tensor | None,
        turns: tuple[Tensor, Tensor] | None,
        past_key_values: Any = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        config, lead = self.config, hidden_BTD.shape[:-1]
        projected = [layer(hidden_BTD) for layer in (self.q_proj, self.k_proj, self.v_proj)]
        if config.clip_qkv is not None:
            projected = [x.clamp(-config.clip_qkv, config.clip_qkv) for x in projected]
        query, key, value = (x.view(*lead, -1, self.head_dim).transpose(1, 2) for x in projected)
        if self.q_norm is not None and self.k_norm is not None:
            query, key = self.q_norm(query).to(value.dtype), self.k_norm(key).to(value.dtype)
        if turns is not None:
            query, key = rotate(query, *turns), rotate(key, *turns)
        if past_key_values is not None:
            key, value = past_key_values.update(key, value, self.layer_idx)
        named = config._attn_implementation
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(named, packed_attention)
        if named == "sdpa" and (config.attention_softcap is not None or config.sliding_window is not None):
            attend = packed_attention  # transformers' own refuses soft caps, and takes no window where there is no mask
        more = {"softcap": config.attention_softcap} if config.attention_softcap is not None else {}
        if config.sliding_window is not None:
            more["sliding_window"] = config.sliding_window
        out, weights = attend(self, query, key, value, attention_mask, scaling=self.scaling, **more, **kwargs)
        return self.o_proj(out.reshape(*lead, -1).contiguous()), weights


class FeedForward(nn.Module):
    """down(gelu(up(x))), or down(silu(gate(x)) * up(x)) (Shazeer 2020, arXiv 2002.05202, equation 6)."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        wide, inner = config.hidden_size, config.intermediate_size
        self.gate_proj = nn.Linear(wide, inner, bias=config.bias) if config.mlp == "swiglu" else None
        self.up_proj = nn.Linear(wide, inner, bias=config.bias)
        self.down_proj = ToResidual(inner, wide, bias=config.bias)

    def forward(self, x: Tensor) -> Tensor:
        up = self.up_proj(x)
        return self.down_proj(F.gelu(up) if self.gate_proj is None else F.silu(self.gate_proj(x)) * up)


class DecoderLayer(GradientCheckpointingLayer):
    """Norm before attention, norm before the feed-forward block, both added to what came in."""

    def __init__(self, config: Any, layer_idx: int) -> None:
        super().__init__()
        self.input_layernorm = Norm(config, config.hidden_size)
        self.self_attn = Attention(config, layer_idx)
        self.post_attention_layernorm = Norm(config, config.hidden_size)
        self.mlp = FeedForward(config)

    def forward(self, hidden_BTD: Tensor, **kwargs: Any) -> Tensor:
        hidden_BTD = hidden_BTD + self.self_attn(self.input_layernorm(hidden_BTD), **kwargs)[0]
        return hidden_BTD + self.mlp(self.post_attention_layernorm(hidden_BTD))


class DecoderPreTrainedModel(PreTrainedModel):
    """What transformers wants to know, and how weights start."""

    config: DecoderConfig
    config_class = DecoderConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["DecoderLayer"]
    _skip_keys_device_placement = ["past_key_values"]
    _supports_sdpa = True
    _supports_attention_backend = True
    _can_record_outputs = {"hidden_states": DecoderLayer, "attentions": Attention}

    def _init_weights(self, module: nn.Module) -> None:
        """Standard deviations by `init`; what writes into the residual divided by sqrt(2 L) (Radford et al. 2019, section 2.3).

        small: Nguyen and Salazar 2019 (arXiv 1910.05895); neox: Black et al. 2022 (arXiv 2204.06745)."""
        if isinstance(module, nn.Linear | nn.Embedding):
            init.normal_(module.weight, std=self._std(module))
        elif isinstance(module, Norm):
            init.ones_(module.weight)
        bias: Any = getattr(module, "bias", None)
        if bias is not None:
            init.zeros_(bias)

    def _std(self, module: Any) -> float:
        config, width, depth = self.config, self.config.hidden_size, self.config.num_hidden_layers
        residual = isinstance(module, ToResidual)
        if config.init == "neox" and residual:
            return 2 / (depth * math.sqrt(width))
        std = config.initializer_range
        if config.init in ("small", "neox"):
            std = math.sqrt(2 / (5 * width))
        elif config.init == "kaiming" and isinstance(module, nn.Linear):
            std = math.sqrt(2 / module.in_features)
        return std / math.sqrt(2 * depth) if residual and config.init_residual else std


class Decoder(DecoderPreTrainedModel):
    """The trunk: token ids to hidden states."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        learned = config.positions == "learned"
        self.embed_positions = (
            nn.Embedding(config.max_position_embeddings or 0, config.hidden_size) if learned else None
        )
        self.layers = nn.ModuleList([DecoderLayer(config, i) for i in range(config.num_hidden_layers)])
        self.norm = Norm(config, config.hidden_size)
        self.gradient_checkpointing = False
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """Hidden states (B, T, D).

        Raises:
            UserError: a position that a learned table does not have.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give either input_ids or inputs_embeds")
        config = self.config
        hidden = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        if config.embedding_fraction != 1:
            share = config.embedding_fraction  # the value is the same, the gradient is not
            hidden = hidden * share + hidden.detach() * (1 - share)
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=config)
        num_past = past_key_values.get_seq_length() if past_key_values is not None else 0
        if position_ids is None:
            position_ids = (torch.arange(hidden.shape[1], device=hidden.device) + num_past)[None]
        masked = create_causal_mask if config.sliding_window is None else create_sliding_window_causal_mask
        mask: Any = masked(
            config=config,
            inputs_embeds=hidden,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            position_ids=position_ids,
        )
        turns = rope_tables(config, position_ids, hidden.dtype) if config.positions == "rope" else None
        if self.embed_positions is not None:
            hidden = hidden + self._learned(position_ids)
        if config.positions == "alibi":
            slopes_N = torch.tensor(alibi_slopes(config.num_attention_heads, config.alibi_max), device=hidden.device)
            if kwargs.get("layout") is not None:
                kwargs["alibi"] = slopes_N
            else:
                mask = self._with_alibi(mask, slopes_N, hidden, past_key_values, num_past)
        for layer in self.layers:
            hidden = layer(hidden, attention_mask=mask, turns=turns, past_key_values=past_key_values, **kwargs)
        return BaseModelOutputWithPast(last_hidden_state=self.norm(hidden), past_key_values=past_key_values)

    def _with_alibi(self, mask: Tensor | None, slopes_N: Tensor, hidden: Tensor, cache: Any, num_past: int) -> Tensor:
        """The mask with ALiBi in it, once for all layers; a cache says which keys there will be."""
        num_own = hidden.shape[1]
        num_keys, first_key = cache.get_mask_sizes(num_own, 0) if cache is not None else (num_own, 0)
        return alibi_bias(
            slopes_N,
            num_own,
            num_keys,
            past=num_past,
            first_key=first_key,
            num_prefix=getattr(cache, "num_prefix", 0),
            mask=mask,
            window=self.config.sliding_window,
            dtype=hidden.dtype,
        )

    def _learned(self, positions_BT: Tensor) -> Tensor:
        table: Any = self.embed_positions
        if not torch.compiler.is_compiling() and positions_BT.device.type != "meta":
            last = int(positions_BT.max())
            if last >= table.num_embeddings:
                raise UserError(
                    f"a sequence of {last + 1} tokens is longer than the {table.num_embeddings} positions that this model has "
                    "learned; shorten it, or train a model with alibi or rope"
                )
        return table(positions_BT)


class DecoderForCausalLM(DecoderPreTrainedModel, GenerationMixin):
    """The trunk with its head: logits (B, T, V), scaled, then capped."""

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__(config)
        self.model = Decoder(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Logits, and the mean loss where there are labels (shifted inside, as in every transformers model)."""
        out = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            **kwargs,
        )
        logits = self.lm_head(slice_logits_to_keep(out.last_hidden_state, logits_to_keep))
        if self.config.logit_scale is not None:
            logits = logits * self.config.logit_scale
        if (cap := self.config.final_logit_softcapping) is not None:
            logits = cap * torch.tanh(logits / cap)
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size)
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=out.past_key_values,
            hidden_states=out.hidden_states,
            attentions=out.attentions,
        )


def register() -> None:
    """Make the decoder known to transformers' Auto classes in this process; a second call changes nothing."""
    AutoConfig.register(DecoderConfig.model_type, DecoderConfig, exist_ok=True)
    AutoModel.register(DecoderConfig, Decoder, exist_ok=True)
    AutoModelForCausalLM.register(DecoderConfig, DecoderForCausalLM, exist_ok=True)
