"""Prompts by name and language: sandboxed templates, examples as turns of a conversation, and the form of the reply.

Left out: the texts (prompts/*.yaml, one file a language, the same names in each) and InstructLab's prompts
(flow_instructlab.py). The package's templates render here; those of a user's file are a stranger's and render in the worker.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

from bottega.core.config import build, load_yaml
from bottega.core.errors import UserError
from bottega.core.templates import render
from bottega.core.types import Turn
from bottega.synth.blocks_parse import Parse

FOLDER = Path(__file__).parent / "prompts"
LANGUAGES = ("en", "it", "fi")


class Prompt(Protocol):
    """What a generating block asks with."""

    name: str

    def turns(self, row: Mapping[str, Any], persona: str) -> list[Turn]:
        """The conversation that asks about a row."""

    def parse(self, outputs: Sequence[str]) -> Parse:
        """How its reply is read into columns."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """A row's values with the reply that was wanted. `accept`: for a judge, whether this row passes."""

    given: dict[str, Any]
    reply: dict[str, str]
    accept: bool | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Text:
    """A prompt in one language. outputs: the columns of its reply; low, high, least: a judge's scale, and what passes."""

    user: str
    outputs: tuple[str, ...]
    system: str = ""
    examples: tuple[Example, ...] = ()
    low: float = 0.0
    high: float = 1.0
    least: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class File:
    """The prompts of one language: `form` asks for the tags, `personas` change who the teacher is."""

    language: str
    form: str
    prompts: dict[str, Text]
    personas: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class OurPrompt:
    """A prompt of a prompts file."""

    name: str
    text: Text
    form: str
    personas: Mapping[str, str]
    trusted: bool = True

    def turns(self, row: Mapping[str, Any], persona: str = "") -> list[Turn]:
        """System, the examples as question and reply, then the row.

        Raises:
            UserError: the template refuses the row. Unsafe: a stranger's template breaks its limits.
        """
        if persona and persona not in self.personas:
            raise UserError(f"the persona {persona!r} is not in the prompts file; known: {', '.join(self.personas)}")
        system = " ".join(filter(None, (self.personas.get(persona, ""), self.text.system.strip())))
        turns = [Turn(role="system", content=self._render(system, row))] if system else []
        for example in self.text.examples:
            reply = self.parse(self.text.outputs).write(example.reply)
            turns += [Turn(role="user", content=self._asked(example.given)), Turn(role="assistant", content=reply)]
        return [*turns, Turn(role="user", content=self._asked(row))]

    def _asked(self, row: Mapping[str, Any]) -> str:
        form = self.form.strip() + "\n" + self.parse(self.text.outputs).form()
        if self.text.outputs[-1] == "score":
            form += f"\n[Scale {self.text.low:g} to {self.text.high:g}]"
        return self._render(self.text.user, row).strip() + "\n\n" + form

    def _render(self, source: str, row: Mapping[str, Any]) -> str:
        values = {name: value for name, value in row.items() if not name.startswith("_")}
        return render(source, values, trusted=self.trusted)

    def parse(self, outputs: Sequence[str]) -> Parse:
        return Parse.tags(tuple(outputs))


@lru_cache(maxsize=16)
def read_prompts(path: Path) -> File:
    """A prompts file.

    Raises:
        UserError: it is not there, or not in form; all its mistakes.
    """
    if not path.is_file():
        raise UserError(f"there is no prompts file {path}; name one, or leave it out for those of the package")
    data, marks = load_yaml(path.read_bytes(), file=str(path))
    return build(File, data, marks=marks)


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompts:
    """The prompts of a language, the user's own file before the package's."""

    language: str
    own: Path | None = None

    def find(self, name: str) -> OurPrompt:
        """A prompt by name.

        Raises:
            UserError: no such prompt.
        """
        files = [(self.own, False)] if self.own else []
        code = self.language if self.language in LANGUAGES else "en"
        for path, trusted in [*files, (FOLDER / f"{code}.yaml", True)]:
            assert path is not None
            file = read_prompts(path)
            if name in file.prompts:
                text = file.prompts[name]
                return OurPrompt(name=name, text=text, form=file.form, personas=file.personas, trusted=trusted)
        known = ", ".join(sorted(read_prompts(FOLDER / f"{code}.yaml").prompts))
        raise UserError(f"there is no prompt {name!r}; known: {known}")
