"""Bottega: documents, tables and examples go in; a tuned, aligned, measured model comes out.

`import bottega` is free: the functions below are loaded when they are first used.
"""

from importlib import import_module

__version__ = "0.1.0"

# name -> "module:function"; every verb of the command line is one of these functions.
_FUNCTIONS = {
    "run": "bottega.workshop.stages:run",
    "load": "bottega.models.load:load",
    "generate": "bottega.workshop.use:generate",
    "evaluate": "bottega.workshop.evaluating:evaluate",
    "demo": "bottega.demo.journey:demo",
    "doctor": "bottega.workshop.doctor:doctor",
    "init": "bottega.workshop.init:init",
}
__all__ = sorted(_FUNCTIONS)


def __getattr__(name: str) -> object:
    if name not in _FUNCTIONS:
        raise AttributeError(f"module 'bottega' has no attribute {name!r}")
    module, _, attribute = _FUNCTIONS[name].partition(":")
    return getattr(import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted([*globals(), *_FUNCTIONS])
