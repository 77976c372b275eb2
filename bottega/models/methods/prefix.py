"""Prefix tuning: keys and values of a few positions before every sequence learn, in every layer; the model stays as it
is.

Left out: the two-layer reparametrisation of the paper. (Li and Liang 2021, arXiv 2101.00190, section 4.) The prefixes
enter through the packed attention (core.types.Inputs), since PEFT serves one prefix a row; saved in PEFT's format.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from bottega.core.errors import UserError
from bottega.core.types import Attached

if TYPE_CHECKING:
    from torch import nn


class Prefix:
    """Train `length` key/value positions before every sequence.

    Args:
        length: P, 1 to 1024. init: `tokens` starts from the model's own keys and values of random token ids, `random`
            from a normal distribution of standard deviation 0.02. seed: of that start.
    """

    name = "prefix"

    def __init__(self, *, length: int = 16, init: Literal["tokens", "random"] = "tokens", seed: int = 0) -> None:
        if not 1 <= length <= 1024:
            raise UserError(f"prefix length {length} is outside 1 to 1024; 16 is usual")
        if init not in ("tokens", "random"):
            raise UserError(f"prefix init {init!r} is not one of tokens, random")
        self.length, self.init, self.seed = length, init, seed

    def load_options(self) -> dict[str, Any]:
        """Nothing special."""
        return {}

    def attach(self, model: nn.Module) -> Attached:
        """Freeze `model` and make its prefixes.

        Raises:
            UserError: the architecture does not take our attention function.
        """
        from bottega.models.methods import keyvalues

        keyvalues.require_packed_attention(model)
        start = keyvalues.from_tokens if self.init == "tokens" else keyvalues.normal
        return keyvalues.attach_values(model, keyvalues.KeyValuePrefix(start(model, self.length, self.seed)))
