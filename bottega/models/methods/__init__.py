"""The table of tuning methods, and how one is made from its name and options.

Left out: what each does (one file each). A method's options are the keyword-only parameters of its class; reading them
imports neither torch nor peft.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bottega.core.errors import UserError
from bottega.core.types import Attached, Method

if TYPE_CHECKING:
    from torch import nn

METHODS: dict[str, str] = {
    "full": "bottega.models.methods.full:Full",
    "lora": "bottega.models.methods.lora:Lora",
    "adalora": "bottega.models.methods.adalora:AdaLora",
    "qlora": "bottega.models.methods.qlora:QLora",
    "lisa": "bottega.models.methods.lisa:Lisa",
    "prefix": "bottega.models.methods.prefix:Prefix",
    "prompt": "bottega.models.methods.prompt:Prompt",
    "p_tuning": "bottega.models.methods.ptuning:PTuning",
    "freeze": "bottega.models.methods.freeze:Freeze",
    "bitfit": "bottega.models.methods.bitfit:BitFit",
    "ia3": "bottega.models.methods.ia3:Ia3",
    "oft": "bottega.models.methods.oft:Oft",
    "vera": "bottega.models.methods.vera:Vera",
    "adapter": "bottega.models.methods.bottleneck:Bottleneck",
    "gate": "bottega.models.methods.gate:Gate",
}
"""Name in a recipe -> "module:Class"; a new method is one file and one line here."""

SAVED: dict[str, str] = {
    "LORA": "bottega.models.methods.lora:attach_saved",
    "PREFIX_TUNING": "bottega.models.methods.keyvalues:attach_saved",
    "PROMPT_TUNING": "bottega.models.methods.virtual:attach_saved",
    "P_TUNING": "bottega.models.methods.virtual:attach_saved",
    "IA3": "bottega.models.methods.peftlayers:attach_saved",
    "OFT": "bottega.models.methods.peftlayers:attach_saved",
    "VERA": "bottega.models.methods.peftlayers:attach_saved",
    "ADALORA": "bottega.models.methods.peftlayers:attach_saved",
    "BOTTEGA_BOTTLENECK": "bottega.models.methods.bottlenecks:attach_saved",
    "BOTTEGA_GATE": "bottega.models.methods.gates:attach_saved",
}
"""`peft_type` of a saved adapter -> the function that attaches it again."""


def method(name: str, **options: Any) -> Method:
    """The method `name` with its options.

    Raises:
        UserError: no such method or option (with the nearest one), or a value out of range.
    """
    maker = _maker(name)
    known = list(options_of(name))
    for option in options:
        if option not in known:
            raise UserError(
                f"method {name!r} has no option {option!r}{_nearest(option, known)}; it has: "
                f"{', '.join(known) or 'none'}"
            )
    return maker(**options)


def options_of(name: str) -> dict[str, inspect.Parameter]:
    """Option name -> parameter (annotation and default) of a method.

    Raises:
        UserError: no such method.
    """
    parameters = inspect.signature(_maker(name)).parameters.values()
    return {p.name: p for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}


def attach_saved(model: nn.Module, folder: str | Path, *, trainable: bool) -> Attached:
    """Attach the adapter saved in `folder` to its base, to go on training or only to use it.

    Its reference is a copy: with the adapter off the model is not the one at this stage's start.

    Raises:
        UserError: a kind of adapter that is not known here, or it does not fit the base.
    """
    from bottega.models import safety

    kind = safety.check_adapter(folder).get("peft_type")
    if kind not in SAVED:
        raise UserError(f"{folder} holds a {kind} adapter; known here are {', '.join(SAVED)}")
    return _resolve(SAVED[kind])(model, Path(folder), trainable=trainable)


def _maker(name: str) -> Any:
    if name not in METHODS:
        raise UserError(f"there is no method {name!r}{_nearest(name, list(METHODS))}; there are: {', '.join(METHODS)}")
    return _resolve(METHODS[name])


def _resolve(path: str) -> Any:
    module, _, attribute = path.partition(":")
    return getattr(importlib.import_module(module), attribute)


def _nearest(word: str, known: list[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
