"""The beginning of a user's message, as a chat template writes it: for models that play the user.

Left out: answers (chat.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bottega.core.errors import UserError
from bottega.core.types import Turn
from bottega.data.chat import Template, encode_prompt


def encode_opening(turns: Sequence[Turn], tokenizer: Any, template: Template) -> list[int]:
    """Ids of `turns` and of the template's words before a user's message: what goes on from there is what a user would say next.

    Raises:
        UserError: the template refuses the turns, or gives nothing before a message.
    """
    ways = [encode_prompt([*turns, Turn(role="user", content=text)], tokenizer, template) for text in ("One?", "2 no.")]
    shared = next((at for at, (one, other) in enumerate(zip(*ways)) if one != other), 0)
    if not shared:
        raise UserError(
            "the chat template has no words before a user's message, so that none can be begun: use another flow"
        )
    return ways[0][:shared]
