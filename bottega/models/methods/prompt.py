"""Prompt tuning: a few virtual tokens before every sequence learn; the model stays as it is.

Left out: starts from a text of the user's own. (Lester et al. 2021, arXiv 2104.08691, section 2.) Saved in PEFT's format.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from bottega.core.errors import UserError
from bottega.core.types import Attached

if TYPE_CHECKING:
    from torch import nn


class Prompt:
    """Train the embeddings of `length` virtual tokens: [e_1 ... e_P; x].

    Args:
        length: P, 1 to 1024. init: `tokens` starts from the embeddings of random token ids, `random` from a normal distribution of
            standard deviation 0.02. seed: of that start.
    """

    name = "prompt"

    def __init__(self, *, length: int = 20, init: Literal["tokens", "random"] = "tokens", seed: int = 0) -> None:
        check_start("prompt", length, init)
        self.length, self.init, self.seed = length, init, seed

    def load_options(self) -> dict[str, Any]:
        """Nothing special."""
        return {}

    def attach(self, model: nn.Module) -> Attached:
        """Freeze `model` and make its virtual tokens.

        Raises:
            UserError: the family does not take our attention, or would see virtual tokens otherwise than tokens.
        """
        from bottega.models.methods import virtual

        inputs = virtual.VirtualTokens(virtual.start(model, self.length, self.seed, self.init))
        config = peft_config(model, self.length)
        return virtual.attach_tokens(
            model, inputs, self.name, lambda folder: virtual.save_tokens(model, inputs, config, folder)
        )


def check_start(name: str, length: int, init: str) -> None:
    """Refuse a length or start out of range.

    Raises:
        UserError: one of them.
    """
    if not 1 <= length <= 1024:
        raise UserError(f"{name} length {length} is outside 1 to 1024; 20 is usual")
    if init not in ("tokens", "random"):
        raise UserError(f"{name} init {init!r} is not one of tokens, random")


def peft_config(model: Any, length: int) -> Any:
    """PEFT's config of prompt tuning."""
    from peft import PromptTuningConfig

    from bottega.models.methods import virtual

    return PromptTuningConfig(**virtual.common(model, length))
