"""Lint of a leaf's YAML: the findings of yamllint's set "relaxed" (or of a rule file), without that program.

Left out: rules about comments, quoting, key order, octal and empty values; a rule file that asks for one is told so by name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from bottega.core.errors import UserError
from bottega.core.strictyaml import load_yaml
from bottega.synth.taxonomy_indent import indentation
from bottega.synth.taxonomy_spacing import anchors, braces, brackets, colons, commas, hyphens, key_duplicates, truthy
from bottega.synth.taxonomy_yaml import Problem


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """Where a rule found what, and what mends it; line and column from 1."""

    line: int
    column: int
    message: str
    fix: str
    rule: str = ""
    level: str = "error"


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """A rule that is on: its level and its options."""

    level: str
    options: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    """A text with what rules look at: lines (without their ends), tokens and events."""

    text: str
    lines: Sequence[str]
    tokens: Sequence[yaml.Token]
    events: Sequence[yaml.Event]


def trailing_spaces(page: Page) -> Iterator[Finding]:
    """White space before the end of a line."""
    for number, line in enumerate(page.lines, 1):
        bare, whole = line.rstrip(" \t\r\n\x0b\x0c"), line.removesuffix("\r")
        if len(bare) < len(whole) and whole[len(bare)] in " \t":
            yield Finding(line=number, column=len(bare) + 1, message="trailing spaces", fix="remove them")


def new_line_at_end_of_file(page: Page) -> Iterator[Finding]:
    """A last line without its end."""
    if page.lines[-1]:
        message = "no new line character at the end of file"
        yield Finding(line=len(page.lines), column=len(page.lines[-1]) + 1, message=message, fix="end the last line")


def new_lines(page: Page, *, type: str = "unix") -> Iterator[Finding]:
    """The first line's end, which stands for all."""
    if len(page.lines) < 2:
        return
    is_dos = page.lines[0].endswith("\r")
    if is_dos != (type == "dos"):
        expected = "\\r\\n" if type == "dos" else "\\n"
        column = len(page.lines[0].removesuffix("\r")) + 1
        message = f"wrong new line character: expected {expected}"
        yield Finding(line=1, column=column, message=message, fix=f"save the file with {type} line ends")


def empty_lines(page: Page, *, max: int = 2, max_start: int = 0, max_end: int = 0) -> Iterator[Finding]:
    """Runs of empty lines longer than allowed in the middle, at the start or at the end; told at a run's last line."""
    if page.text in ("\n", "\r\n"):
        return
    run = 0
    last = len(page.lines) - 1  # what follows the last line's end is no line
    for number, line in enumerate(page.lines[:last], 1):
        run = run + 1 if line in ("", "\r") else 0
        more = number < last and page.lines[number] in ("", "\r")
        if not run or more:
            continue
        most = max_end if number == last and not page.lines[-1] else max_start if run == number else max
        if run > most:
            message = f"too many blank lines ({run} > {most})"
            yield Finding(line=number, column=1, message=message, fix=f"leave at most {most}")


def line_length(page: Page, *, max: int = 80, allow_non_breakable_words: bool = True) -> Iterator[Finding]:
    """Lines longer than `max` characters, but for those of one word that cannot be broken."""
    for number, raw in enumerate(page.lines, 1):
        line = raw.removesuffix("\r")
        if len(line) <= max:
            continue
        word = re.sub(r"^ *(#+ |- )?", "", line)
        if allow_non_breakable_words and " " not in word:
            continue
        message = f"line too long ({len(line)} > {max} characters)"
        yield Finding(line=number, column=max + 1, message=message, fix="break the line")


def document_start(page: Page, *, present: bool = True) -> Iterator[Finding]:
    """The line `---` in front of the data."""
    starts = [token for token in page.tokens if isinstance(token, yaml.DocumentStartToken)]
    content = [
        t for t in page.tokens if not isinstance(t, yaml.StreamStartToken | yaml.StreamEndToken | yaml.DirectiveToken)
    ]
    if present and not starts and content:
        mark = content[0].start_mark
        yield Finding(line=mark.line + 1, column=1, message='missing document start "---"', fix="begin with ---")
    elif not present and starts:
        mark = starts[0].start_mark
        yield Finding(
            line=mark.line + 1, column=mark.column + 1, message='found forbidden document start "---"', fix="remove it"
        )


RULES: dict[str, Callable[..., Iterator[Any]]] = {
    "anchors": anchors,
    "braces": braces,
    "brackets": brackets,
    "colons": colons,
    "commas": commas,
    "document-start": document_start,
    "empty-lines": empty_lines,
    "hyphens": hyphens,
    "indentation": indentation,
    "key-duplicates": key_duplicates,
    "line-length": line_length,
    "new-line-at-end-of-file": new_line_at_end_of_file,
    "new-lines": new_lines,
    "trailing-spaces": trailing_spaces,
    "truthy": truthy,
}

_INSIDE = {"min-spaces-inside": 0, "max-spaces-inside": 0}
DEFAULT: dict[str, Rule] = {
    "anchors": Rule(level="error", options={}),
    "braces": Rule(level="error", options=_INSIDE),
    "brackets": Rule(level="error", options=_INSIDE),
    "colons": Rule(level="error", options={"max-spaces-before": 0, "max-spaces-after": 1}),
    "commas": Rule(level="error", options={"max-spaces-before": 0, "min-spaces-after": 1, "max-spaces-after": 1}),
    "document-start": Rule(level="warning", options={"present": True}),
    "empty-lines": Rule(level="error", options={"max": 2, "max-start": 0, "max-end": 0}),
    "hyphens": Rule(level="error", options={"max-spaces-after": 1}),
    "indentation": Rule(level="error", options={"spaces": "consistent", "indent-sequences": True}),
    "key-duplicates": Rule(level="error", options={}),
    "line-length": Rule(level="error", options={"max": 80, "allow-non-breakable-words": True}),
    "new-line-at-end-of-file": Rule(level="error", options={}),
    "new-lines": Rule(level="error", options={"type": "unix"}),
    "trailing-spaces": Rule(level="error", options={}),
    "truthy": Rule(level="warning", options={}),
}
NOT_OURS = (
    "comments",
    "comments-indentation",
    "document-end",
    "empty-values",
    "float-values",
    "key-ordering",
    "octal-values",
    "quoted-strings",
)
"""Rules of yamllint that are named as unsupported when a rule file turns them on."""


def _relaxed() -> dict[str, Rule]:
    calm = ("braces", "brackets", "colons", "commas", "empty-lines", "hyphens", "indentation", "line-length")
    rules = {name: replace(rule, level="warning") if name in calm else rule for name, rule in DEFAULT.items()}
    for name in ("braces", "brackets"):
        rules[name] = Rule(level="warning", options={**_INSIDE, "max-spaces-inside": 1})
    rules["indentation"] = Rule(level="warning", options={"spaces": "consistent", "indent-sequences": "consistent"})
    del rules["document-start"], rules["truthy"]
    return rules


RELAXED = _relaxed()
TAXONOMY = {name: rule for name, rule in RELAXED.items() if name != "line-length"}
"""What leaves are held to: relaxed, lines of any length."""


def read_rules(path: str | Path) -> tuple[dict[str, Rule], tuple[str, ...]]:
    """A rule file in yamllint's form: `extends: default | relaxed` and `rules:`.

    Returns: the rules that are on, and the names of what it asks for that is not checked here.
    Raises:
        UserError: no such file, no rule file, an option that a rule does not have.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"the rule file {path} is not there; give a yamllint configuration")
    data, _ = load_yaml(path.read_bytes(), file=str(path))
    if not isinstance(data, dict):
        raise UserError(f"{path} is no rule file; it begins with `extends: relaxed` or `rules:`")
    base = data.get("extends")
    bases: dict[Any, dict[str, Rule]] = {None: {}, "default": DEFAULT, "relaxed": RELAXED}
    if base not in bases:
        raise UserError(f"{path}: extends {base!r} is not known; extend default or relaxed")
    rules = dict(bases[base])
    unsupported = [name for name in ("comments", "comments-indentation") if base == "default"]
    unsupported += [str(name) for name in data if name not in ("extends", "rules")]
    changes = data.get("rules") or {}
    if not isinstance(changes, dict):
        raise UserError(f"{path}: rules must be a mapping of rule names, not {changes!r}")
    for name, value in changes.items():
        if name in NOT_OURS:
            unsupported = [one for one in unsupported if one != name]
            if value not in ("disable", False) and (value == "enable" or value is True or isinstance(value, dict)):
                unsupported.append(name)
        elif name not in RULES:
            raise UserError(f"{path}: there is no rule {name!r}; the rules are {', '.join(RULES)}")
        elif value in ("disable", False):
            rules.pop(name, None)
        else:
            rules[name] = _changed(rules.get(name, DEFAULT[name]), name, value, path, unsupported)
    return rules, tuple(unsupported)


def _changed(rule: Rule, name: str, value: Any, path: Path, unsupported: list[str]) -> Rule:
    if value in ("enable", True):
        return rule
    if not isinstance(value, dict):
        raise UserError(f"{path}: {name}: {value!r} is not enable, disable or a mapping of options")
    level = value.get("level", rule.level)
    if level not in ("error", "warning"):
        raise UserError(f"{path}: {name}.level is {level!r}; use error or warning")
    options = dict(rule.options)
    for key, setting in value.items():
        if key == "level":
            continue
        if key not in DEFAULT[name].options:
            unsupported.append(f"{name}.{key}")
            continue
        usual = DEFAULT[name].options[key]
        words = {"spaces": ("consistent",), "indent-sequences": ("consistent", "whatever")}.get(key, ())
        fits = type(setting) is type(usual) or setting in words or (key == "spaces" and type(setting) is int)
        if not fits or (key == "type" and setting not in ("unix", "dos")):
            raise UserError(f"{path}: {name}.{key} is {setting!r}; its usual value is {usual!r}")
        options[key] = setting
    return Rule(level=level, options=options)


def lint(text: str, rules: Mapping[str, Rule] = TAXONOMY) -> list[Finding]:
    """What the rules find in a text that is sound YAML, by line and column.

    Raises:
        yaml.YAMLError: it is not.
    """
    page = Page(
        text=text,
        lines=text.split("\n"),
        tokens=list(yaml.scan(text, Loader=yaml.SafeLoader)),
        events=list(yaml.parse(text, Loader=yaml.SafeLoader)),
    )
    found: list[Finding] = []
    for name, rule in rules.items():
        options = {key.replace("-", "_"): value for key, value in rule.options.items()}
        for one in RULES[name](page, **options):
            if not isinstance(one, Finding):
                line, column, message, fix = one
                one = Finding(line=line, column=column, message=message, fix=fix)
            found.append(replace(one, rule=name, level=rule.level))
    return sorted(_not_silenced(found, page.lines), key=lambda one: (one.line, one.column, one.rule))


_SAID = re.compile(r"#\s*yamllint (disable-line|disable-file|disable|enable)((?: rule:[\w-]+)*)\s*$")


def _not_silenced(found: list[Finding], lines: Sequence[str]) -> list[Finding]:
    """Without what comments `# yamllint disable ...` turn off."""
    off: list[set[str]] = []
    now: set[str] = set()
    next_line: set[str] = set()
    for number, line in enumerate(lines, 1):
        here, next_line = now | next_line, set()
        match = _SAID.search(line) if "yamllint" in line else None
        if match:
            names = set(re.findall(r"rule:([\w-]+)", match[2])) or set(RULES)
            alone = line.lstrip().startswith("#")
            if match[1] == "disable-file" and number == 1:
                return []
            if match[1] == "disable-line":
                next_line, here = (names, here) if alone else (set(), here | names)
            elif match[1] in ("disable", "enable") and alone:
                now = now | names if match[1] == "disable" else now - names
                here = now
        off.append(here)
    return [one for one in found if one.rule not in off[min(one.line, len(off)) - 1]]


def as_problem(finding: Finding, lines: Sequence[str], *, strict: bool) -> Problem:
    """A finding as a problem of a leaf; with `strict` warnings are errors."""
    line = lines[finding.line - 1] if finding.line <= len(lines) else ""
    key = re.match(r"\s*(?:- )*([\w.-]+):", line)
    return Problem(
        line=finding.line,
        column=finding.column,
        key=key[1] if key else "",
        rule=finding.rule,
        found=line.strip()[:80],
        message=finding.message,
        fix=finding.fix,
        level="error" if strict else finding.level,
    )
