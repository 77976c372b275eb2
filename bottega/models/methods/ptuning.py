"""P-tuning: virtual tokens before every sequence, written by a small network that learns with them.

Left out: the LSTM of the paper's first version; PEFT's multilayer perceptron takes its place. (Liu et al. 2021, arXiv 2103.10385,
section 3.) Saved in PEFT's format, which keeps the tokens and not the network: an adapter that is continued goes on as prompt
tuning.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from bottega.core.errors import UserError
from bottega.core.types import Attached
from bottega.models.methods.prompt import check_start

if TYPE_CHECKING:
    from torch import nn


class PTuning:
    """Train h_i and W: e_i = W3 relu(W2 relu(W1 h_i + b1) + b2) + b3, the embeddings of `length` virtual tokens.

    Args:
        length: P, 1 to 1024. width: of the two hidden layers; default: the model's own. init, seed: the start of h, as in prompt
            tuning.
    """

    name = "p_tuning"

    def __init__(
        self, *, length: int = 20, width: int | None = None, init: Literal["tokens", "random"] = "tokens", seed: int = 0
    ) -> None:
        check_start("p_tuning", length, init)
        if width is not None and not 1 <= width <= 65536:
            raise UserError(f"p_tuning width {width} is outside 1 to 65536; leave it out for the model's own")
        self.length, self.width, self.init, self.seed = length, width, init, seed

    def load_options(self) -> dict[str, Any]:
        """Nothing special."""
        return {}

    def attach(self, model: nn.Module) -> Attached:
        """Freeze `model` and make the network and its tokens.

        Raises:
            UserError: the family does not take our attention, or would see virtual tokens otherwise than tokens.
        """
        import torch
        from torch import nn

        from bottega.models import layers
        from bottega.models.methods import virtual

        size = layers.text_config(model).hidden_size
        width = self.width or size
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            encoder = nn.Sequential(
                nn.Linear(size, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, size)
            )
        inputs = virtual.VirtualTokens(virtual.start(model, self.length, self.seed, self.init), encoder=encoder)
        config = peft_config(model, self.length, width)
        attached = virtual.attach_tokens(
            model, inputs, self.name, lambda folder: virtual.save_tokens(model, inputs, config, folder)
        )
        expected = self.length * size + 2 * size * width + width * width + 2 * width + size
        assert attached.facts["trainable"] == expected, "P-tuning trains other numbers than its formula says"
        return attached


def peft_config(model: Any, length: int, width: int | None = None) -> Any:
    """PEFT's config of P-tuning."""
    from peft import PromptEncoderConfig

    from bottega.models.methods import virtual

    return PromptEncoderConfig(
        **virtual.common(model, length), encoder_hidden_size=width or virtual.common(model, length)["token_dim"]
    )
