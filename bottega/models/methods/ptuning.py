"""P-tuning: virtual tokens before every sequence, written by a small network that learns with them.

Left out: anchor words among the virtual tokens. (Liu et al. 2021, arXiv 2103.10385, section 3.) The network is a perceptron, PEFT's
default, or the paper's LSTM with a perceptron behind it, in PEFT's shapes. Saved in PEFT's format, which keeps the tokens and not
the network: an adapter that is continued goes on as prompt tuning.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from bottega.core.errors import UserError
from bottega.core.types import Attached
from bottega.models.methods.prompt import check_start

if TYPE_CHECKING:
    from torch import nn


class PTuning:
    """Train h_i and a network, whose outputs e_i are the embeddings of `length` virtual tokens.

    mlp: e_i = W3 relu(W2 relu(W1 h_i + b1) + b2) + b3. lstm: e_i = W2 relu(W1 [forward_i : backward_i] + b1) + b2, of an LSTM that
    reads h_1 ... h_P in both directions, so that neighbours know of each other.

    Args:
        length: P, 1 to 1024. encoder: mlp or lstm. width: of the hidden layers, or of each direction; default: the model's own.
        depth: layers of the LSTM, 1 to 8. init, seed: the start of h, as in prompt tuning.
    """

    name = "p_tuning"

    def __init__(
        self,
        *,
        length: int = 20,
        encoder: Literal["mlp", "lstm"] = "mlp",
        width: int | None = None,
        depth: int = 2,
        init: Literal["tokens", "random"] = "tokens",
        seed: int = 0,
    ) -> None:
        check_start("p_tuning", length, init)
        if encoder not in ("mlp", "lstm"):
            raise UserError(f"p_tuning encoder {encoder!r} is not mlp or lstm")
        if not 1 <= depth <= 8:
            raise UserError(f"p_tuning depth {depth} is outside 1 to 8; 2 is usual")
        if width is not None and not 1 <= width <= 65536:
            raise UserError(f"p_tuning width {width} is outside 1 to 65536; leave it out for the model's own")
        self.length, self.width, self.init, self.seed = length, width, init, seed
        self.encoder, self.depth = encoder, depth

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
            encoder: nn.Module
            if self.encoder == "lstm":
                encoder = virtual.Recurrent(size, width, self.depth)
            else:
                encoder = nn.Sequential(
                    nn.Linear(size, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, size)
                )
        inputs = virtual.VirtualTokens(virtual.start(model, self.length, self.seed, self.init), encoder=encoder)
        config = peft_config(model, self.length, width, lstm=self.encoder == "lstm", depth=self.depth)
        attached = virtual.attach_tokens(
            model, inputs, self.name, lambda folder: virtual.save_tokens(model, inputs, config, folder)
        )
        expected = self.length * size + self._network(size, width)
        assert attached.facts["trainable"] == expected, "P-tuning trains other numbers than its formula says"
        return attached

    def _network(self, size: int, width: int) -> int:
        """Numbers of the network: of an LSTM, four gates in each direction and layer with two biases, and the perceptron behind it."""
        if self.encoder == "mlp":
            return 2 * size * width + width * width + 2 * width + size
        inputs = [size, *([2 * width] * (self.depth - 1))]
        gates = sum(2 * 4 * width * (entering + width + 2) for entering in inputs)
        return gates + 2 * width * 2 * width + 2 * width + 2 * width * size + size


def peft_config(model: Any, length: int, width: int | None = None, *, lstm: bool = False, depth: int = 2) -> Any:
    """PEFT's config of P-tuning."""
    from peft import PromptEncoderConfig

    from bottega.models.methods import virtual

    return PromptEncoderConfig(
        **virtual.common(model, length),
        encoder_reparameterization_type="LSTM" if lstm else "MLP",
        encoder_num_layers=depth,
        encoder_hidden_size=width or virtual.common(model, length)["token_dim"],
    )
