"""Steps that judge how a text is written: its length, language, repetition, and the rules of Gopher and C4.

Left out: model-based quality scores; lists of bad words.

Judged is what a model would learn to write: documents, the assistant's turns, labelled texts. Sources: Rae et al. 2021,
"Scaling language models: methods, analysis and insights from training Gopher", appendix A.1 and table A1; Raffel et al.
2020, "Exploring the limits of transfer learning with a unified text-to-text transformer", section 2.2.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

from bottega.core.errors import UserError
from bottega.core.types import Document
from bottega.data.clean.account import Account, Item
from bottega.data.pieces import learned

STOP_WORDS = {
    "en": "the be to of and that have with",
    "it": "il di che e la per un non",
    "fi": "ja on ei se että oli hän kuin",
    "de": "der die und in den von zu das",
    "fr": "de la le et les des en un",
    "es": "de la que el en y los se",
}
"""Gopher's English words, and eight of the commonest of other languages in their place."""
DUPLICATE_LIMITS = {"lines": 0.30, "paragraphs": 0.30, "lines_characters": 0.20, "paragraphs_characters": 0.20}
TOP_LIMITS = {2: 0.20, 3: 0.18, 4: 0.16}
REPEATED_LIMITS = {5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.10}
"""Table A1 of Gopher: shares of the text's characters from which an n-gram (or repeated n-grams) is too much."""
_ENDS = (".", "!", "?", '"', "”", "»", "…")
_POLICY = re.compile(r"terms of use|privacy policy|cookie policy|uses cookies|use of cookies|use cookies", re.I)
_SENTENCE = re.compile(r"[.!?…]+(?=\s|$|[\"”»)])")
_BULLETS = ("•", "-", "*", "–", "‣", "·")


def _between(name: str, low: float, high: float) -> None:
    if not 0 <= low <= high:
        raise UserError(f"{name}: the least ({low:g}) must be at least 0 and at most the most ({high:g})")


class length:
    """Leave out samples whose learned text (all of it together) is shorter or longer than asked."""

    def __init__(
        self, *, min_words: int = 1, max_words: int = 100_000, min_characters: int = 1, max_characters: int = 10_000_000
    ) -> None:
        """
        Args:
            min_words, max_words: words between white space. min_characters, max_characters: code points.

        Raises:
            UserError: a least above its most.
        """
        _between("length: words", min_words, max_words)
        _between("length: characters", min_characters, max_characters)
        self.words, self.characters = (min_words, max_words), (min_characters, max_characters)

    def __call__(self, items: Iterator[Item], account: Account) -> Iterator[Item]:
        for item in items:
            text = "\n".join(learned(item.sample))
            sizes = (("words", len(text.split()), self.words), ("characters", len(text), self.characters))
            for unit, size, (low, high) in sizes:
                if not low <= size <= high:
                    limit = f"fewer than {low:,}" if size < low else f"more than {high:,}"
                    account.reject(item, f"{limit} {unit}", detail=f"({size:,})", shown=text)
                    break
            else:
                yield item


class language:
    """Leave out samples in other languages than `keep`, by the n-gram classifier langid (Lui and Baldwin 2012).

    Texts of fewer than `min_words` words are too short to tell and stay; the account says how many.
    """

    def __init__(self, *, keep: tuple[str, ...], min_words: int = 5, min_probability: float = 0.5) -> None:
        """
        Args:
            keep: two-letter codes (ISO 639-1), such as en, it, fi. min_words: words from which a text is judged.
            min_probability: of the language found, from which a row in another language is left out; 0 to 1.

        Raises:
            UserError: no language, no such code, or the optional package is missing.
        """
        if find_spec("py3langid") is None:
            raise UserError("the step language needs py3langid; install it with: pip install 'bottega[lang]'")
        if not keep:
            raise UserError("language: keep is empty; name the languages to keep, such as [en, it]")
        wrong = [code for code in keep if not (isinstance(code, str) and re.fullmatch("[a-z]{2,3}", code))]
        if wrong:
            raise UserError(f"language: {wrong[0]!r} is no two-letter code; write for example en, it or fi")
        if not 0 <= min_probability <= 1:
            raise UserError(f"language: min_probability is {min_probability:g}, but must be 0 to 1")
        self.keep, self.min_words, self.min_probability = keep, min_words, min_probability

    def __call__(self, items: Iterator[Item], account: Account) -> Iterator[Item]:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier

        identifier: Any = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
        unknown = [code for code in self.keep if code not in identifier.nb_classes]
        if unknown:
            raise UserError(f"language: {unknown[0]!r} is not among the languages that langid knows")
        for item in items:
            text = "\n".join(learned(item.sample))
            if len(text.split()) < self.min_words:
                account.found["too short to tell the language"] += 1
                yield item
                continue
            found, probability = identifier.classify(text)
            if found in self.keep or probability < self.min_probability:
                account.found[f"language {found}"] += 1
                yield item
            else:
                account.reject(item, f"language {found}", detail=f"({probability:.2f})", shown=text)


def _judged(items: Iterator[Item], account: Account, judge: Any) -> Iterator[Item]:
    """The items all of whose learned texts pass; `judge(text)` says what is wrong, or nothing."""
    for item in items:
        for text in learned(item.sample):
            reason = judge(text)
            if reason:
                account.reject(item, reason, shown=text)
                break
        else:
            yield item


class repetition:
    """Leave out texts that say the same again and again: Gopher's limits on repeated lines, paragraphs and n-grams.

    Shares of n-grams are of characters in words; a run of words that comes again counts its words once, wherever it
    overlaps. Texts of fewer than `min_words` words are judged by lines and paragraphs only: two words are always a
    large share of a short text (Gopher drops texts under 50 words first).
    """

    def __init__(self, *, min_words: int = 50, slack: float = 1.0) -> None:
        """
        Args:
            min_words: words from which n-grams are judged. slack: factor on every limit; 1 is Gopher's own, above 0.

        Raises:
            UserError: slack is not above 0.
        """
        if slack <= 0:
            raise UserError(f"repetition: slack is {slack:g}, but must be above 0 (1 is Gopher's own limits)")
        self.min_words, self.slack = min_words, slack

    def __call__(self, items: Iterator[Item], account: Account) -> Iterator[Item]:
        return _judged(items, account, self.judge)

    def judge(self, text: str) -> str:
        """What repeats too much; nothing if all is well."""
        for what, share in duplicate_shares(text).items():
            if share > DUPLICATE_LIMITS[what] * self.slack:
                return f"repeated {what.replace('_', ': ')}"
        words = text.split()
        if len(words) < self.min_words:
            return ""
        for size, limit in TOP_LIMITS.items():
            if top_share(words, size) > limit * self.slack:
                return f"one run of {size} words is too large a share"
        for size, limit in REPEATED_LIMITS.items():
            if repeated_share(words, size) > limit * self.slack:
                return f"repeated runs of {size} words"
        return ""


def duplicate_shares(text: str) -> dict[str, float]:
    """Shares of lines and of paragraphs that are repeats, by number and by characters.

    'a\\na\\nb' -> one of three lines is a repeat of an earlier one: lines 1/3, lines_characters 1/5.
    """
    shares: dict[str, float] = {}
    for name, parts in (("lines", text.split("\n")), ("paragraphs", re.split(r"\n\s*\n", text))):
        stripped = [part.strip() for part in parts if part.strip()]
        seen: set[str] = set()
        again = [part for part in stripped if part in seen or seen.add(part)]  # type: ignore[func-returns-value]
        shares[name] = len(again) / max(1, len(stripped))
        shares[f"{name}_characters"] = sum(map(len, again)) / max(1, len(text))
    return shares


def top_share(words: Sequence[str], size: int) -> float:
    """The commonest run of `size` words, its characters times its count, as a share of the characters of all words.

    'to be to be or', size 2: 'to be' twice -> 2 * 4 / 10 = 0.8
    """
    runs = Counter(tuple(words[i : i + size]) for i in range(len(words) - size + 1))
    if not runs:
        return 0.0
    top = max(runs.values())
    if top == 1:
        return 0.0
    longest = max(sum(map(len, run)) for run, count in runs.items() if count == top)
    return top * longest / max(1, sum(map(len, words)))


def repeated_share(words: Sequence[str], size: int) -> float:
    """Characters of the words that lie in a run of `size` words seen before, as a share of all words' characters."""
    seen: set[tuple[str, ...]] = set()
    marked = bytearray(len(words))
    for i in range(len(words) - size + 1):
        run = tuple(words[i : i + size])
        if run in seen:
            marked[i : i + size] = b"\x01" * size
        seen.add(run)
    return sum(len(word) for word, mark in zip(words, marked) if mark) / max(1, sum(map(len, words)))


class quality:
    """Gopher's rules for documents: words, word lengths, symbols, bullets, ellipses, letters, stop words.

    A text stays with 50 to 100,000 words of 3 to 10 characters on average, at most 0.1 `#` or `...` a word, at most 90
    percent of lines that begin with a bullet and 30 percent that end in an ellipsis, at least 80 percent of words with
    a letter, and two different stop words (of any of the languages).
    """

    def __init__(
        self, *, min_words: int = 50, max_words: int = 100_000, languages: tuple[str, ...] = ("en", "it", "fi")
    ) -> None:
        """
        Args:
            min_words, max_words: Gopher's 50 and 100,000. languages: whose stop words count; () leaves that rule out.

        Raises:
            UserError: a least above its most, or a language without a list.
        """
        _between("quality: words", min_words, max_words)
        unknown = [code for code in languages if code not in STOP_WORDS]
        if unknown:
            known = ", ".join(STOP_WORDS)
            raise UserError(f"quality: there are no stop words for {unknown[0]!r}; choose of {known}, or []")
        self.min_words, self.max_words = min_words, max_words
        self.stop_words = [frozenset(STOP_WORDS[code].split()) for code in languages]

    def __call__(self, items: Iterator[Item], account: Account) -> Iterator[Item]:
        return _judged(items, account, self.judge)

    def judge(self, text: str) -> str:
        """The first rule that the text breaks; nothing if it breaks none."""
        words = text.split()
        if not self.min_words <= len(words) <= self.max_words:
            return f"not {self.min_words:,} to {self.max_words:,} words"
        if not 3 <= sum(map(len, words)) / max(1, len(words)) <= 10:
            return "words are not 3 to 10 characters long on average"
        if max(text.count("#"), text.count("...") + text.count("…")) > 0.1 * len(words):
            return "more than one # or ... to ten words"
        lines = [line.strip() for line in text.split("\n") if line.strip()]
        if sum(line.startswith(_BULLETS) for line in lines) > 0.9 * len(lines):
            return "more than 90 percent of lines begin with a bullet"
        if sum(line.endswith(("...", "…")) for line in lines) > 0.3 * len(lines):
            return "more than 30 percent of lines end in an ellipsis"
        if sum(any(map(str.isalpha, word)) for word in words) < 0.8 * len(words):
            return "fewer than 80 percent of words have a letter"
        said = set(re.findall(r"\w+", text.lower()))
        if self.stop_words and max(len(known & said) for known in self.stop_words) < 2:
            return "fewer than 2 stop words of any of the languages"
        return ""


class c4:
    """C4's rules for pages: lines that are no sentences go, and so do pages of too few sentences, or of code.

    Of a document, lines stay that end in a punctuation mark, have at least `min_line_words` words, and speak neither of
    Javascript nor of cookies and terms of use. A text with `lorem ipsum` or `{`, or with fewer than `min_sentences`
    sentences left, is left out. Answers and labelled texts are judged whole and never rewritten.
    """

    def __init__(self, *, min_line_words: int = 3, min_sentences: int = 5) -> None:
        """
        Args:
            min_line_words: words that a line of a document needs. min_sentences: sentences that must be left.
        """
        self.min_line_words, self.min_sentences = min_line_words, min_sentences

    def __call__(self, items: Iterator[Item], account: Account) -> Iterator[Item]:
        for item in _judged(items, account, self.judge):
            sample = item.sample
            if isinstance(sample, Document) and (text := self.sentences(sample.text)) != sample.text:
                account.changed += 1
                item = item._replace(sample=replace(sample, text=text))
            yield item

    def sentences(self, text: str) -> str:
        """The lines that are sentences."""
        kept = [
            line
            for line in text.split("\n")
            if line.strip().endswith(_ENDS)
            and len(line.split()) >= self.min_line_words
            and "javascript" not in line.lower()
            and not _POLICY.search(line)
        ]
        return "\n".join(kept)

    def judge(self, text: str) -> str:
        """Why the text is left out; nothing if it stays."""
        if "lorem ipsum" in text.lower():
            return "lorem ipsum"
        if "{" in text:
            return "a curly bracket (code)"
        if len(_SENTENCE.findall(self.sentences(text))) < self.min_sentences:
            return f"fewer than {self.min_sentences} sentences"
        return ""
