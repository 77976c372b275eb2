"""A reward model: one vector reads the state behind a reply and says how good it is; kept beside the weights it was trained with.

Left out: its objectives (train/objectives/reward.py) and files of scores (workshop/scores.py). Policy and reward can share one
base: the reward's adapter then lies in the policy's model and is switched on while it scores.

Shapes: Q replies, D width.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from bottega.core.errors import UserError
from bottega.core.types import Attached
from bottega.models import heads, layers, locate, safety
from bottega.models.load import identity

FILE = "reward_head.safetensors"
ADAPTER = "reward"
"""What the reward's adapter is called in a model that carries the policy's adapter too."""


BY_REPLY, BY_STEPS = "reply", "steps"
"""What a head reads: the end of a whole reply, or that of each step."""


class RewardHead(nn.Module):
    """r = w . h, with h the state of a reply's last token (or of a step's, `reads`), or, in an encoder, the mean of its states.

    The start is N(0, 1 / (D + 1)), as in Stiennon et al. 2020 (arXiv 2009.01325) and its released code: rewards begin near 1 in
    size, and the first gradient reaches the trunk. There is no bias, for differences of rewards do not depend on one.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.reads = BY_REPLY
        self.weight = nn.Parameter(torch.randn(width) / (width + 1) ** 0.5)

    def forward(self, hidden_QD: Tensor) -> Tensor:
        """Rewards (Q,), in float32 whatever the states are."""
        return (hidden_QD.float() * self.weight.float()).sum(-1)

    def save(self, folder: str | Path) -> None:
        """Write it beside a model's weights or an adapter's."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        save_file(
            {"score.weight": self.weight.detach().cpu()[None].contiguous()},
            Path(folder) / FILE,
            metadata={"format": "pt"} | ({"reads": self.reads} if self.reads != BY_REPLY else {}),
        )


def new_head(model: nn.Module) -> RewardHead:
    """A fresh head for a model of this width."""
    return RewardHead(layers.text_config(heads.causal_model(model)).hidden_size)


def rest_language_head(attached: Attached) -> None:
    """Freeze what an encoder guesses hidden tokens with, which no reward is read from, and take it from what is trained."""
    whole: Any = heads.causal_model(attached.model)
    outside = [name for name, _ in whole.named_children() if name != whole.base_model_prefix]
    resting = set()
    for name, parameter in attached.model.named_parameters():
        if any(f".{part}." in f".{name}" for part in outside):
            parameter.requires_grad_(False)
            resting.add(id(parameter))
    for group in attached.groups:
        kept = [at for at, parameter in enumerate(group["params"]) if id(parameter) not in resting]
        group |= {key: [group[key][at] for at in kept] for key in ("params", "names")}
    attached.groups = [group for group in attached.groups if group["params"]]


def save_head(attached: Attached, folder: str | Path) -> None:
    """Write the head that was trained with `attached` into its folder; nothing where there is none, or another's."""
    head = attached.reward
    if head is not None and any(p.requires_grad for p in head.parameters()):
        cast(RewardHead, head).save(folder)


def has_head(folder: str | Path | None) -> bool:
    """Whether a model folder holds a reward model."""
    return folder is not None and (Path(folder) / FILE).is_file()


def load_head(folder: str | Path, model: nn.Module) -> RewardHead:
    """The head saved in `folder`, for `model`.

    Raises:
        UserError: there is none, or it is of another width. Unsafe: the file is damaged.
    """
    if not has_head(folder):
        raise UserError(f"{folder} has no reward head ({FILE}); train one with objective reward")
    path, head = Path(folder) / FILE, new_head(model)
    safety.check_safetensors(path)
    weight = load_file(path).get("score.weight")
    if weight is None or weight.shape != (1, len(head.weight)):
        found = "no tensor score.weight" if weight is None else f"shape {tuple(weight.shape)}"
        raise UserError(f"{path} has {found}, where the model needs (1, {len(head.weight)}); use the one it came with")
    with torch.no_grad():
        head.weight.copy_(weight[0])
    with safe_open(path, "pt") as file:
        head.reads = (file.metadata() or {}).get("reads", BY_REPLY)
    return head


def shares_base(folder: str | Path, base: str) -> bool:
    """Whether the reward model in `folder` is one adapter on the very weights whose identity is `base` (models/load.py)."""
    place = locate.locate(str(folder))
    return len(place.adapters) == 1 and identity(replace(place, name=place.base_id, adapters=())) == base


def join(attached: Attached, folder: str | Path) -> None:
    """Put the reward model of `folder` into the policy's model as a second adapter, and its head beside it, both frozen.

    The base is there once. Ask `shares_base` first. The policy's adapter stays the one that is switched on; `worn` switches.

    Raises:
        UserError: the policy is no PEFT model, or the adapter does not fit.
    """
    from peft import PeftModel

    from bottega.models.methods.adapter import check_fits

    model: Any = attached.model
    if not isinstance(model, PeftModel):
        raise UserError(
            f"the policy is tuned by {attached.name}, which carries no second adapter; use lora, or load the reward apart"
        )
    adapter = locate.locate(str(folder)).adapters[-1]
    config = check_fits(model.get_base_model(), adapter)
    flags = {name: p.requires_grad for name, p in model.named_parameters()}
    model.load_adapter(
        str(adapter), ADAPTER, is_trainable=False, peft_config=config, torch_device="cpu", local_files_only=True
    )
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(flags.get(name, False))
    head = load_head(adapter, model)
    device = next(model.parameters()).device
    attached.reward = head.to(device).requires_grad_(False)


def join_new(attached: Attached) -> None:
    """As `join`, with a reward model that has learned nothing yet: an adapter of the policy's own form, which changes nothing, and a
    fresh head (drawn from torch's random numbers)."""
    model: Any = attached.model
    config = copy.deepcopy(model.peft_config["default"])
    config.init_lora_weights, config.trainable_token_indices, config.inference_mode = True, None, False
    flags = {name: p.requires_grad for name, p in model.named_parameters()}
    model.add_adapter(ADAPTER, config)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(flags.get(name, False))
    attached.reward = new_head(model).to(next(model.parameters()).device).requires_grad_(False)


def joined_state(attached: Attached) -> dict[str, Tensor]:
    """Copies of the joined reward model's own tensors, by name: its adapter's, and its head's as `score.weight`."""
    found = {n: p.detach().clone() for n, p in attached.model.named_parameters() if f".{ADAPTER}." in n}
    return found | {"score.weight": cast(RewardHead, attached.reward).weight.detach().clone()}


def joined_names(attached: Attached, within: nn.Module) -> frozenset[str]:
    """What the joined reward model's own parameters are called in `within`, which holds them."""
    own = {id(p) for name, p in attached.model.named_parameters() if f".{ADAPTER}." in name}
    own |= {id(p) for p in cast(RewardHead, attached.reward).parameters()}
    return frozenset(name for name, p in within.named_parameters() if id(p) in own)


def put_joined(attached: Attached, state: Mapping[str, Tensor]) -> None:
    """Make the joined reward model what `joined_state` gave."""
    named = dict(attached.model.named_parameters()) | {"score.weight": cast(RewardHead, attached.reward).weight}
    with torch.no_grad():
        for name, tensor in state.items():
            named[name].copy_(tensor)


def read_joined(attached: Attached, folder: str | Path) -> None:
    """Make the joined reward model the one in `folder`, which was saved from it.

    Raises:
        UserError, Unsafe: see `load_head`.
    """
    from peft import set_peft_model_state_dict

    model: Any = attached.model
    file = Path(folder) / "adapter_model.safetensors"
    safety.check_safetensors(file)
    set_peft_model_state_dict(model, load_file(file), adapter_name=ADAPTER)
    put_joined(attached, {"score.weight": load_head(folder, attached.model).weight})


@contextlib.contextmanager
def worn(model: nn.Module, adapter: str) -> Iterator[None]:
    """Inside, `adapter` is the one that is switched on; which parameters learn is put back after it (PEFT turns that too)."""
    peft: Any = model
    before, flags = peft.active_adapter, [(p, p.requires_grad) for p in model.parameters()]
    peft.set_adapter(adapter)
    try:
        yield
    finally:
        peft.set_adapter(before)
        for parameter, learns in flags:
            parameter.requires_grad_(learns)
