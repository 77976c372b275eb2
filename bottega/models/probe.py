"""What a loaded model can do, found by numbers on a few tokens: whether sequences may share a row, and which head is
its own.

Left out: speed. A name or "the function was called" proves nothing (some families call it and still mix sequences), so
packed rows are compared with separate ones, and whatever differs takes the length-bucketed way.

Shapes: T positions, V vocabulary.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bottega.core.types import Row, Tokens
from bottega.models import attention, heads, kinds, layers, layout
from bottega.models.layers import Model

TOLERANCE = 2e-5
WINDOW = 4
_LENGTHS = (5, 9, 3)
_CANNOT = (ValueError, KeyError, AttributeError, TypeError, RuntimeError, IndexError, NotImplementedError)
"""What architectures without an attention interface raise, in one family or another."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Probe:
    """The verdict. packs: rows may be packed; difference: largest |packed - separate| relative to the largest logit."""

    packs: bool
    difference: float
    why: str
    head: str

    def notes(self) -> tuple[str, str]:
        """Two lines for a run's report."""
        return f"{'packed' if self.packs else 'length-bucketed'}: {self.why}", f"head: {self.head}"


def probe(model: Model) -> Probe:
    """Try packing on the real module and leave the packed attention installed where, and only where, it is exact.

    Three sequences of 5, 9 and 3 tokens and two that share a prefix are run alone and in one row; what these cannot
    show (a longer sliding window, half precision) is tried on a twin of two layers.
    """
    vocabulary = layers.text_config(model).vocab_size
    if why_apart := _why_apart(model):
        return Probe(
            packs=False, difference=float("inf"), why=why_apart, head=heads.find_head(model, vocabulary).describe()
        )
    before = model.config._attn_implementation
    with heads.undisturbed(model):
        packs, difference, why = _try_packing(model, vocabulary)
        if packs:
            packs, difference, why = _try_twin(model, difference, why)
        if not packs and model.config._attn_implementation != before:
            model.set_attn_implementation(before)
        head = heads.find_head(model, vocabulary).describe()
    return Probe(packs=packs, difference=difference, why=why, head=head)


def _why_apart(model: Model) -> str:
    """Why sequences cannot share a row whatever the attention does; empty where they may."""
    if kinds.is_labeller(model):
        return "its head reads one vector a row, so every sequence has a row of its own"
    if kinds.kind_of(model.config) == "encoder-decoder":
        return "an encoder-decoder reads one sequence a row and writes beside it"
    return ""


def _try_packing(model: Model, vocabulary: int) -> tuple[bool, float, str]:
    encoder = kinds.kind_of(model.config) == "encoder"
    rows = rows_of(vocabulary)[
        : len(_LENGTHS) if encoder else None
    ]  # where all see all, a prefix would see its branches
    device = next(model.parameters()).device
    alone = torch.cat([_separate(model, ids, device) for ids in _whole(rows)])
    try:
        attention.install(model)
        laid, _ = layout.lay(rows, packed=True)
        together = kinds.outputs_of(
            model(
                **kinds.plain_call(model, laid.ids_BT.to(device)),
                position_ids=laid.positions_BT.to(device) + (kinds.first_position(model) if encoder else 0),
                layout=laid.geometry,
            )
        )[0]
    except _CANNOT as error:
        reason = (str(error).splitlines() or [""])[0][:100]
        return (
            False,
            float("inf"),
            f"this architecture takes no attention function of ours ({type(error).__name__}: {reason})",
        )
    difference = _difference(alone, _reorder(together, rows))
    said = f"sequences in one row differ from the same alone by {difference:.0e} of the largest logit"
    return difference <= _tolerance(model), difference, said


def rows_of(vocabulary: int) -> list[Row]:
    """Three sequences, and a prefix of 4 tokens with two branches of 3; ids spread over the vocabulary."""
    ids = [3 + (7 * i * i + 5 * i) % (vocabulary - 3) for i in range(sum(_LENGTHS) + 10)]
    rows = []
    for number, length in enumerate(_LENGTHS):
        own, ids = ids[:length], ids[length:]
        rows.append(Row(index=number, branches=(Tokens(own, [1.0] * length),)))
    prefix, first, second = (Tokens(part, [0.0] * len(part)) for part in (ids[:4], ids[4:7], ids[7:10]))
    return [*rows, Row(index=len(rows), prefix=prefix, branches=(first, second))]


def _whole(rows: list[Row]) -> list[list[int]]:
    return [[*row.prefix.ids, *branch.ids] for row in rows for branch in row.branches]


def _reorder(together_TV: Tensor, rows: list[Row]) -> Tensor:
    """Packed logits in the order of `_whole`: a shared prefix is repeated for every branch."""
    parts, here = [], 0
    for row in rows:
        shared = together_TV[here : here + len(row.prefix.ids)]
        here += len(row.prefix.ids)
        for branch in row.branches:
            parts += [shared, together_TV[here : here + len(branch.ids)]]
            here += len(branch.ids)
    return torch.cat(parts)


def _separate(model: Model, ids: list[int], device: torch.device) -> Tensor:
    return kinds.outputs_of(model(**kinds.plain_call(model, torch.tensor([ids], device=device))))[0]


def _difference(wanted: Tensor, got: Tensor) -> float:
    """Largest difference over the largest logit; infinite where one is not finite."""
    wanted, got = wanted.double(), got.double()
    largest = float((wanted - got).abs().max() / wanted.abs().max().clamp_min(1e-6))
    return largest if largest == largest else float("inf")


def _tolerance(model: Model) -> float:
    """2e-5 in float32; in half precision, a few roundings."""
    return {torch.float32: TOLERANCE, torch.float64: TOLERANCE, torch.float16: 5e-3}.get(model.dtype, 4e-2)


def _try_twin(model: Model, difference: float, why: str) -> tuple[bool, float, str]:
    """What the real module cannot show on a few tokens, a float32 twin of two layers with a window of 4 shows.

    That is a sliding window longer than the probe's sequences, and in half precision a small contamination.
    """
    window = getattr(layers.text_config(model), "sliding_window", None) or 0
    if window < max(_LENGTHS) and model.dtype in (torch.float32, torch.float64):
        return True, difference, why
    try:
        packs, twin_difference, _ = _try_packing(short_twin(model), 128)
    except _CANNOT as error:
        return False, float("inf"), f"a small twin of it could not be tried ({type(error).__name__})"
    tried = f"its sliding window of {window}" if window else "its float32 twin"
    if not packs:
        return False, twin_difference, f"{tried} is not kept apart in one row (differs by {twin_difference:.0e})"
    return True, max(difference, twin_difference), f"{why}, {tried} tried on a twin of two layers"


def short_twin(model: Model) -> Model:
    """The same class in float32 with at most two layers, 128 token ids and a window of 4; random weights."""
    config = copy.deepcopy(model.config)
    text = getattr(config, "get_text_config", lambda: config)()
    text.vocab_size, text.num_hidden_layers = 128, min(2, text.num_hidden_layers)
    if getattr(text, "sliding_window", None):
        text.sliding_window = WINDOW
    if getattr(text, "intermediate_size", None):
        text.intermediate_size = min(64, text.intermediate_size)
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        setattr(text, name, 0)
    kinds = getattr(text, "layer_types", None)
    if kinds:
        text.layer_types = sorted(set(kinds), key=kinds.index)[: text.num_hidden_layers]
        text.num_hidden_layers = len(text.layer_types)
    config._attn_implementation = "eager"
    twin = type(model)(config).float().eval()
    for parameter in twin.parameters():
        if parameter.dim() >= 2:
            nn.init.normal_(parameter, std=0.15)
    return twin
