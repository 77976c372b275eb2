"""The table of rewards: an answer to a number, or to nothing where nobody has judged it yet.

Left out: how rewards are weighed together (train/rewards.py), judges that are models (workshop/reward_judge.py). To add one, write
a function (Answer, options) -> number and register it here; every scorer of grade/scorers.py is a reward too.
"""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import math
import re
import sys
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from bottega.core.errors import UserError
from bottega.core.table import REQUIRED, Option, resolve
from bottega.core.table import options as options_of
from bottega.core.types import Reply
from bottega.grade import scorers
from bottega.grade.schema import fits, read_schema
from bottega.grade.scorers import SCORERS, find_scorer


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What is judged. prompt: as a person reads it; truth: the data's own answer, if it has one; row: its other columns.
    prompt_ids, reply_ids: as the policy's tokenizer has them."""

    prompt: str
    reply: str
    finish: str = "stop"
    num_tokens: int = 0
    truth: Any = None
    row: Mapping[str, Any] = field(default_factory=dict)
    prompt_ids: Sequence[int] = ()
    reply_ids: Sequence[int] = ()


Batch = Callable[[Sequence[Answer]], list[float | None]]
"""Answers to numbers, one each."""
LARGEST = 1e9
"""No reward, and no weight of one, is beyond it either way: the square of their product still is a 32-bit number."""
Script = Literal[
    "latin", "cyrillic", "greek", "arabic", "hebrew", "armenian", "georgian", "ethiopic", "devanagari", "bengali", "gurmukhi",
    "gujarati", "tamil", "telugu", "kannada", "malayalam", "sinhala", "thai", "lao", "tibetan", "myanmar", "khmer", "mongolian",
    "han", "hiragana", "katakana", "hangul",
]  # fmt: skip
"""As Unicode's names of letters begin, but for han."""


def length(answer: Answer, *, target: int, unit: str = "words", width: float | None = None) -> float:
    """1 at `target` words (or characters, or tokens), falling in a straight line to 0 at `width` away (default: the target)."""
    counts = {"words": len(answer.reply.split()), "characters": len(answer.reply), "tokens": answer.num_tokens}
    if unit not in counts:
        raise UserError(f"the reward length counts {', '.join(counts)}, not {unit!r}: write one of them")
    if target < 0 or (width is not None and width <= 0) or (target == 0 and width is None):
        raise UserError(f"the reward length needs a width above 0, and target is {target}: give both")
    return max(0.0, 1.0 - abs(counts[unit] - target) / (width or float(target)))


def overlong(answer: Answer, *, max_tokens: int, soft: int) -> float:
    """0 up to max_tokens - soft tokens, then down to -1 at max_tokens: DAPO's soft overlong punishment (arXiv 2503.14476, eq. 13)."""
    over = answer.num_tokens - (max_tokens - soft)
    return 0.0 if over <= 0 else max(-1.0, -over / soft)


def language(answer: Answer, *, script: Script = "latin") -> float:
    """The share of the reply's letters that belong to a script."""
    letters = [one for one in answer.reply if one.isalpha()]
    wanted = {"han": "CJK"}.get(script.lower(), script.upper())
    return sum(unicodedata.name(one, "").startswith(wanted) for one in letters) / len(letters) if letters else 0.0


def pattern(answer: Answer, *, regex: str, whole: bool = False) -> float:
    """1 if the regular expression is found in the reply (or, with `whole`, matches all of it)."""
    compiled = scorers.compiled(regex)
    found = compiled.fullmatch(answer.reply.strip()) if whole else compiled.search(answer.reply)
    return float(found is not None)


def distinct(answer: Answer, *, n: int = 2) -> float:
    """The share of different n-grams of words among all: 1 says nothing is said twice."""
    words = answer.reply.split()
    grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 0.0


REWARDS: dict[str, str] = {
    "length": "bottega.grade.rewards:length",
    "overlong": "bottega.grade.rewards:overlong",
    "language": "bottega.grade.rewards:language",
    "pattern": "bottega.grade.rewards:pattern",
    "distinct": "bottega.grade.rewards:distinct",
}
MADE: dict[str, str] = {
    "python": "bottega.grade.rewards:from_file",
    "json_schema": "bottega.grade.rewards:json_schema",
    "unit_tests": "bottega.grade.unit_tests:unit_tests",
}
"""Functions of their options alone that give the reward, a `Batch`."""


def known(name: str) -> dict[str, Option] | None:
    """The options of a reward; None where there is none of this name."""
    if name in SCORERS:
        return {key: one for key, one in options_of(f"bottega.grade.scorers:{name}").items() if key != "finish"}
    target = REWARDS.get(name) or MADE.get(name)
    return None if target is None else options_of(target)


def names() -> list[str]:
    """All rewards there are."""
    return [*MADE, *REWARDS, *SCORERS]


def find(name: str, options: Mapping[str, Any]) -> Batch:
    """The reward of the table with its options, for a batch of answers.

    Raises:
        UserError: an unknown name or option, a file that cannot be used; later, an answer without the truth it needs.
    """
    allowed = known(name)
    if allowed is None:
        raise UserError(f"there is no reward {name!r}; there are {', '.join(names())}")
    for option in options:
        if option not in allowed:
            raise UserError(f"{option!r} is no option of the reward {name}; it has {', '.join(allowed) or 'none'}")
    missing = [key for key, one in allowed.items() if one.default is REQUIRED and key not in options]
    if missing:
        raise UserError(f"the reward {name} needs {', '.join(missing)}: add it")
    if name in MADE:
        made: Batch = resolve(MADE[name])(**options)
        return made
    if name in REWARDS:
        function = resolve(REWARDS[name])
        return lambda answers: [float(function(answer, **options)) for answer in answers]
    scorer = find_scorer(name, options)
    truthless = name in ("stops", "valid_json")

    def score(answers: Sequence[Answer]) -> list[float | None]:
        found: list[float | None] = []
        for answer in answers:
            if answer.truth is None and not truthless:
                raise UserError(
                    f"the reward {name} compares with an answer, and the prompt {answer.prompt[:60]!r} has none: "
                    "give the data a column answer, or use another reward"
                )
            reply = Reply(text=answer.reply, finish="length" if answer.finish == "length" else "stop")
            found.append(scorer(reply, answer.truth if answer.truth is not None else ""))
        return found

    return score


def json_schema(*, schema: dict[str, Any] | None = None, path: str | None = None) -> Batch:
    """1 if the reply holds a JSON value that fits a schema, else 0: the schema itself, or the path of a JSON file with it."""
    if (schema is None) == (path is None):
        raise UserError("the reward json_schema needs a schema, or the path of one, and not both")
    wanted = read_schema(schema if schema is not None else path)

    def score(answers: Sequence[Answer]) -> list[float | None]:
        values = [scorers.find_json(answer.reply) for answer in answers]
        nothing = [value is None and "null" not in answer.reply for value, answer in zip(values, answers, strict=True)]
        return [0.0 if none else float(fits(value, wanted)) for value, none in zip(values, nothing, strict=True)]

    return score


def from_file(*, path: str, function: str = "reward") -> Batch:
    """A function of a Python file: reward(prompt, reply, **columns) -> a number, or None where it has no opinion.

    The columns of the prompt's row come by name, if the function names them (or takes **columns); `answer` is the truth. The file
    runs with your rights, as any script that you start.
    """
    call = _load(Path(path), function)
    wanted = inspect.signature(call).parameters
    takes_all = any(p.kind is p.VAR_KEYWORD for p in wanted.values())

    def score(answers: Sequence[Answer]) -> list[float | None]:
        found: list[float | None] = []
        for answer in answers:
            columns = {**answer.row, "answer": answer.truth, "finish": answer.finish, "num_tokens": answer.num_tokens}
            given = {key: value for key, value in columns.items() if takes_all or key in wanted}
            given |= {"prompt": answer.prompt, "reply": answer.reply}
            try:
                value = call(**given)
            except (Exception, SystemExit) as error:
                # the user's own code may raise anything; it is named and the run ends
                at = error.__traceback__
                while at is not None and at.tb_next is not None:
                    at = at.tb_next
                line = at.tb_lineno if at is not None else 0
                raise UserError(
                    f"the reward {path}:{function} raised {type(error).__name__} ({error}) at line {line} for the reply "
                    f"{answer.reply[:60]!r}: mend the function"
                ) from error
            found.append(_number(value, path, function, answer))
        return found

    return score


def _number(value: Any, path: str, function: str, answer: Answer) -> float | None:
    if value is None:
        return None
    made = math.nan
    if isinstance(value, int | float) or hasattr(value, "__float__"):  # arrays and tensors of one number too
        with contextlib.suppress(TypeError, ValueError, OverflowError, RuntimeError):
            made = float(value)
    if not abs(made) <= LARGEST:
        raise UserError(
            f"the reward {path}:{function} gave {repr(value)[:60]} for the reply {answer.reply[:60]!r}, and a reward is a finite "
            f"number within {LARGEST:g} either way, or None: mend the function"
        )
    return made


def _load(path: Path, function: str) -> Callable[..., Any]:
    if not path.is_file():
        raise UserError(f"there is no file {path} with a reward function: check the path")
    name = "bottega_reward_" + re.sub(r"\W", "_", path.stem)
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UserError(f"{path} is no Python file: a reward function stands in a file that ends in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and the like look themselves up there
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # as above: the user's own code
        raise UserError(f"{path} cannot be loaded: {type(error).__name__} ({error}); mend the file") from error
    call = getattr(module, function, None)
    if not callable(call):
        raise UserError(f"{path} has no function {function!r}: name it with `function:`")
    return call  # type: ignore[no-any-return]
