"""An entry of a table and its options, as a recipe writes them: every part of a recipe that names one is of this class.

Left out: which names and options there are (each table's own functions say).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bottega.core.config import option


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """An entry of a table and its options: `dpo`, or `{name: dpo, beta: 0.1}`."""

    name: str
    options: dict[str, Any] = option(factory=dict)

    @staticmethod
    def shorthand(value: Any) -> Any:
        """`dpo` -> {name: dpo}; {name: dpo, beta: 0.1} -> {name: dpo, options: {beta: 0.1}}."""
        if isinstance(value, str):
            return {"name": value}
        if isinstance(value, Mapping) and "options" not in value:
            rest = {key: item for key, item in value.items() if key != "name"}
            return {**({"name": value["name"]} if "name" in value else {}), "options": rest}
        return value
