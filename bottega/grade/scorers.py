"""Text to a number: how good a reply is, given what was wanted. Rewards, evaluations and judges of synthetic data are
this code.

Left out: judges (another model's opinion), code execution. Every scorer is pure: (reply, truth, options) -> a number,
0 worst and 1 best.

`truth` is a string, or a list of strings of which the best counts. Options are the keyword-only parameters.
"""

from __future__ import annotations

import inspect
import json
import re
import string
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from typing import Any

from bottega.core.errors import UserError
from bottega.core.types import Reply

Truth = Any
Scorer = Callable[..., float]

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans(dict.fromkeys(string.punctuation, " "))
_SIGN = r"(?:(?<![\w.)])[-+])?"  # the minus of 12-5 is no sign
_NUMBER = re.compile(rf"{_SIGN}(?:\d{{1,3}}(?:,\d{{3}})+|\d+)(?:\.\d+)?(?:[eE][-+]?\d+)?|{_SIGN}\.\d+")
MAX_JSON_STARTS = 100


def truths(truth: Truth) -> list[str]:
    """The accepted answers as strings.

    Raises:
        UserError: there is none.
    """
    found = [str(one) for one in truth] if isinstance(truth, Sequence) and not isinstance(truth, str) else [str(truth)]
    if not found:
        raise UserError("an item has 0 accepted answers, but needs at least 1: add one or drop the item")
    return found


def normalise(text: str, *, articles: bool = True, case: bool = False) -> str:
    """NFKC, lower case, punctuation to spaces, English articles dropped, white space single (as in SQuAD's own script).

    Args:
        articles: drop a, an, the. case: keep upper and lower case apart.

    Example: "The  Keys, please." -> "keys please"
    """
    text = unicodedata.normalize("NFKC", text)
    text = (text if case else text.lower()).translate(_PUNCTUATION)
    return " ".join((_ARTICLES.sub(" ", text) if articles else text).split())


def exact(reply: str, truth: Truth, *, normal: bool = True) -> float:
    """1 if the reply is an accepted answer, after normalising both (`normal`) or just stripping them."""
    tidy = normalise if normal else str.strip
    return float(any(tidy(reply) == tidy(one) for one in truths(truth)))


def contains(reply: str, truth: Truth, *, every: bool = False) -> float:
    """1 if an accepted answer stands in the reply as whole words; with `every`, the share of the answers that do."""
    words = f" {normalise(reply)} "
    found = [f" {normalise(one)} " in words for one in truths(truth)]
    return sum(found) / len(found) if every else float(any(found))


def starts(reply: str, truth: Truth) -> float:
    """1 if the reply begins with an accepted answer (whole words, normalised)."""
    words = f"{normalise(reply)} "
    return float(any(words.startswith(f"{normalise(one)} ") for one in truths(truth)))


def last_number(text: str) -> Decimal | None:
    """The number after the last `####` (GSM8K), else the last number of the text; thousands separators are dropped.

    Example: "so 1,200 + 34 = 1,234.0" -> 1234.0
    """
    after = text.rsplit("####", 1)[-1] if "####" in text else text
    found = _NUMBER.findall(after)
    if not found:
        return None
    try:
        return Decimal((found[0] if "####" in text else found[-1]).replace(",", ""))
    except InvalidOperation:
        return None


def number(reply: str, truth: Truth, *, tolerance: float = 0.0) -> float:
    """1 if the reply's number (see `last_number`) is within `tolerance` of the truth's."""
    said = last_number(reply)
    wanted = [last_number(one) for one in truths(truth)]
    if said is None:
        return 0.0
    return float(any(one is not None and abs(said - one) <= Decimal(str(tolerance)) for one in wanted))


def f1(reply: str, truth: Truth) -> float:
    """Harmonic mean of precision and recall over words, as multisets (SQuAD). Two empty texts agree: 1.

    Example: "the red barn" against "a barn": words {red, barn} and {barn}: precision 1/2, recall 1, so 2/3.
    """
    return max(_overlap(normalise(reply).split(), normalise(one).split()) for one in truths(truth))


def _overlap(said: list[str], wanted: list[str]) -> float:
    if not said or not wanted:
        return float(said == wanted)
    common = sum((Counter(said) & Counter(wanted)).values())
    return 2 * common / (len(said) + len(wanted))


def rouge_l(reply: str, truth: Truth) -> float:
    """F1 over the longest common subsequence of words (ROUGE-L; Lin 2004, section 3, beta 1), normalised without
    articles dropped."""
    said = normalise(reply, articles=False).split()
    best = 0.0
    for one in truths(truth):
        wanted = normalise(one, articles=False).split()
        if not said or not wanted:
            best = max(best, float(said == wanted))
            continue
        best = max(best, 2 * _common_subsequence(said, wanted) / (len(said) + len(wanted)))
    return best


def _common_subsequence(left: list[str], right: list[str]) -> int:
    lengths = [0] * (len(right) + 1)
    for word in left:
        corner = 0
        for at, other in enumerate(right, 1):
            corner, lengths[at] = lengths[at], corner + 1 if word == other else max(lengths[at], lengths[at - 1])
    return lengths[-1]


def regex(reply: str, truth: Truth, *, pattern: str = "", group: int = 0) -> float:
    """With `pattern`: 1 if its `group`, found in the reply, equals the truth; without: 1 if the truth, as a pattern,
    is found."""
    if not pattern:
        return float(any(compiled(one).search(reply) is not None for one in truths(truth)))
    found = compiled(pattern).search(reply)
    return float(found is not None and exact(found.group(group) or "", truth))


def compiled(pattern: str) -> re.Pattern[str]:
    """The pattern, compiled.

    Raises:
        UserError: it is no regular expression.
    """
    try:
        return re.compile(pattern, re.MULTILINE)
    except re.error as error:
        raise UserError(f"{pattern!r} is no regular expression ({error}): correct the pattern") from None


def stops(reply: str, truth: Truth = "", *, finish: str) -> float:
    """1 if the reply ended by itself, before max_tokens."""
    return float(finish == "stop")


def find_json(text: str) -> Any:
    """The first JSON object or array of a text (fences and talk around it allowed), else a bare JSON value; None if
    there is none."""
    decoder = json.JSONDecoder()
    for at in [match.start() for match in re.finditer(r"[\[{]", text)][:MAX_JSON_STARTS]:
        try:
            return decoder.raw_decode(text, at)[0]
        except (json.JSONDecodeError, RecursionError):
            continue
    try:
        return json.loads(text.strip())
    except (json.JSONDecodeError, RecursionError):
        return None


def valid_json(reply: str, truth: Truth = "") -> float:
    """1 if the reply holds a JSON value."""
    return float(find_json(reply) is not None)


def json_equal(reply: str, truth: Truth, *, partial: bool = False) -> float:
    """1 if the JSON in the reply equals the truth's (order of keys is free; strings by `normalise`; 1 and 1.0 are one
    number).

    With `partial`: the share of the truth's leaves that are there, minus nothing for what is too much.
    """
    said = find_json(reply)
    best = 0.0
    for one in [truth] if isinstance(truth, Mapping) else truths(truth):
        wanted = one if isinstance(one, Mapping) else find_json(one)
        if wanted is None:
            raise UserError(f"the truth {str(one)[:60]!r} is no JSON: correct the item, or choose another metric")
        leaves, given = dict(_leaves(wanted)), dict(_leaves(said))
        share = sum(given.get(path, ...) == value for path, value in leaves.items()) / max(1, len(leaves))
        best = max(best, share if partial else float(leaves == given))
    return best


def _leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[tuple[Any, ...], Any]]:
    if isinstance(value, Mapping) and value:
        return [leaf for key, item in value.items() for leaf in _leaves(item, (*path, str(key)))]
    if isinstance(value, list) and value:
        return [leaf for at, item in enumerate(value) for leaf in _leaves(item, (*path, at))]
    if isinstance(value, str):
        return [(path, ("text", normalise(value)))]
    return [
        (
            path,
            ("value", None if value is None else str(value) if isinstance(value, bool | dict | list) else float(value)),
        )
    ]


SCORERS: dict[str, Scorer] = {
    "exact": exact,
    "contains": contains,
    "starts": starts,
    "number": number,
    "f1": f1,
    "rouge_l": rouge_l,
    "regex": regex,
    "stops": stops,
    "valid_json": valid_json,
    "json_equal": json_equal,
}


def find_scorer(name: str, options: Mapping[str, Any] | None = None) -> Callable[[Reply, Truth], float]:
    """The scorer of the table, with its options checked and filled in: a function of a Reply and a truth.

    Raises:
        UserError: an unknown name or option.
    """
    if name not in SCORERS:
        raise UserError(f"{name!r} is no metric; there are {', '.join(SCORERS)}")
    function, options = SCORERS[name], dict(options or {})
    keywords = [p.name for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY]
    for option in options:
        if option not in keywords or option == "finish":
            allowed = [one for one in keywords if one != "finish"]
            raise UserError(f"{option!r} is no option of metric {name}; it has {', '.join(allowed) or 'none'}")

    def score(reply: Reply, truth: Truth) -> float:
        extra = {"finish": reply.finish} if "finish" in keywords else {}
        return float(function(reply.text, truth, **extra, **options))

    return score
