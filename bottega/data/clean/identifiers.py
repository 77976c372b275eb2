"""Personal data with a form of its own: mail, IBAN, cards, phones, national ids, IP addresses, keys, dates of birth.

Left out: names and addresses, which are language (names.py); identifiers of other countries than those listed. Each
kind is a pattern and, where the identifier has one, its check digit: a number that only looks like it is left alone.

IBAN: ISO 13616 (mod 97); cards: ISO/IEC 7812 (Luhn); checks of national ids: python-stdnum; phones: libphonenumber.
"""

from __future__ import annotations

import ipaddress
import math
import re
from bisect import bisect
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import NamedTuple

from bottega.core.errors import UserError


class Found(NamedTuple):
    """A piece of personal data: text[start:end]; `form` says which of its kind (a country's id)."""

    start: int
    end: int
    kind: str
    text: str
    form: str = ""


_EMAIL = re.compile(r"(?<![\w.+%-])[\w.+%-]{1,64}@(?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,24}(?![\w-])")
_NO_DOMAIN = {"png", "jpg", "jpeg", "gif", "svg", "webp", "js", "css", "py", "html", "local", "localhost"}
_IBAN = re.compile(r"(?<![A-Z0-9])[A-Z]{2}\d{2}(?:[ -]?[A-Z0-9]){11,30}(?![A-Za-z0-9])")
IBAN_LENGTHS = {
    pair[:2]: int(pair[2:])
    for pair in (
        "AL28 AD24 AT20 AZ28 BH22 BE16 BA20 BR29 BG22 CR22 HR21 CY28 CZ24 DK18 DO28 EE20 FO18 FI18 FR27 GE22 DE22 GI23 "
        "GR27 GL18 GT28 HU28 IS26 IE22 IL23 IT27 JO30 KZ20 XK20 KW30 LV21 LB28 LI21 LT20 LU20 MT31 MR27 MU30 MC27 MD24 "
        "ME22 NL18 MK19 NO15 PK24 PS29 PL28 PT25 QA29 RO24 SM27 SA24 RS22 SK24 SI19 ES24 SE24 CH21 TN24 TR26 UA29 AE23 "
        "GB22 VG24"
    ).split()
}
_CARD = re.compile(r"(?<![\d.,-])[2-6](?:[ -]?\d){11,18}(?![\d-])")
_IP4 = re.compile(r"(?<![\w.-])(?:\d{1,3}\.){3}\d{1,3}(?![\w-]|\.\d)")
_IP6 = re.compile(r"(?<![\w:.])[23][0-9A-Fa-f]{3}:[0-9A-Fa-f:.]{2,40}(?![\w:])")
_VERSION = re.compile(
    r"(?:version|versione|versio|release|build|firmware|section|chapter|sezione|articolo|kohta|luku|§|\bv)[ .:]*$", re.I
)
_KEYS = tuple(
    re.compile(pattern)
    for pattern in (
        r"-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----[\s\S]{0,8000}?-----END [A-Z ]{0,30}PRIVATE KEY-----",
        r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b",
        r"\bgh[pousr]_[A-Za-z0-9]{36,255}\b",
        r"\bgithub_pat_[A-Za-z0-9_]{50,255}\b",
        r"\bglpat-[A-Za-z0-9_-]{20,64}",
        r"\bxox[abeoprs]-[A-Za-z0-9-]{10,200}",
        r"\bAIza[0-9A-Za-z_-]{35}",
        r"\bhf_[A-Za-z0-9]{30,64}\b",
        r"\bsk-(?:[A-Za-z0-9]{2,12}-)*[A-Za-z0-9_-]{20,200}",
        r"\b[rsp]k_(?:live|test)_[A-Za-z0-9]{16,100}\b",
        r"\beyJ[A-Za-z0-9_-]{10,2000}\.eyJ[A-Za-z0-9_-]{10,4000}\.[A-Za-z0-9_-]{10,1000}",
    )
)
_NAMED_KEY = re.compile(
    r"(?i)(?:api[_ -]?key|secret(?:[_ -]?key)?|access[_ -]?token|auth[_ -]?token|bearer|password|passwd|parola chiave|salasana)"
    r"[\"']?\s*(?:[:=]|\bis\b)?\s*[\"']?([^\s\"',;<>]{8,200})"
)
_URL_PASSWORD = re.compile(r"\w{2,20}://[^\s/:@]{1,100}:([^\s/@]{1,100})@")
_DIGITS = re.compile(r"[+(]{0,2}\d(?:[ ()./\u00a0-]{0,3}\d){6,16}")
_CALL = re.compile(
    r"\b(?:tel|cell|phone|mobile|mobil|call|ring|puh|fax|whatsapp|chiama|telefon|soita|numero)\w*\W{1,3}(?:\w+\W{1,3}){0,3}$",
    re.I,
)
_DATED = re.compile(r"\d{1,4}[-./ ]\d{1,2}[-./ ]\d{1,4}(?:\D.*)?")
_MONTHS = (
    "january|february|march|april|may|june|july|august|september|october|november|december|"
    "gennaio|febbraio|marzo|aprile|maggio|giugno|luglio|agosto|settembre|ottobre|novembre|dicembre|"
    "tammi|helmi|maalis|huhti|touko|kesä|heinä|elo|syys|loka|marras|joulu"
)
_DATE = (
    r"(?:\d{4}-\d{1,2}-\d{1,2}|\d{1,2}[./-]\s?\d{1,2}[./-]\s?\d{2,4}|"
    rf"\d{{1,2}}(?:st|nd|rd|th|º|\.)?\s+(?:of\s+)?(?:{_MONTHS})(?:kuuta)?,?\s+\d{{4}}|"
    rf"(?:{_MONTHS})\s+\d{{1,2}}(?:st|nd|rd|th)?,?\s+\d{{4}})"
)
_BORN = re.compile(
    r"(?i)\b(?:born|date of birth|birth ?date|birthday|d\.?o\.?b\.?|nat[oaie]|data di nascita|nascita|compleanno|"
    rf"syntynyt|syntyi|syntymäaika|synt\.|s\.)(?P<gap>[^.\n\d]{{0,40}}?)(?P<date>{_DATE})(?!\w)"
)


class National(NamedTuple):
    """An identifier of a country: its pattern, python-stdnum's module, and words one of which must stand before it."""

    form: str
    pattern: re.Pattern[str]
    check: str = ""
    words: str = ""


_FISCAL = re.compile(r"\b[A-Z]{6}[\dLMNP-V]{2}[A-EHLMPR-T][\dLMNP-V]{2}[A-Z][\dLMNP-V]{3}[A-Z]\b", re.I)
NATIONAL = (
    National("it.codicefiscale", _FISCAL, "it.codicefiscale"),
    National("it.iva", re.compile(r"(?<!\w)(?:IT ?)?\d{11}(?!\w)"), "it.iva", r"p\.? ?iva|partita iva|vat"),
    National("it.tessera", re.compile(r"(?<!\w)80\d{18}(?!\w)")),
    National("fi.hetu", re.compile(r"\b\d{6}[-+ABCDEFYXWVU]\d{3}[0-9A-FHJ-NPR-Y]\b"), "fi.hetu"),
    National("us.ssn", re.compile(r"(?<![\w-])\d{3}-\d{2}-\d{4}(?![\w-])"), "us.ssn"),
    National("gb.nhs", re.compile(r"(?<![\w-])\d{3}[ -]?\d{3}[ -]?\d{4}(?![\w-])"), "gb.nhs", r"\bnhs\b"),
    National("gb.nino", re.compile(r"\b(?!BG|GB|KN|NK|NT|TN|ZZ)[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z] ?\d{2} ?\d{2} ?\d{2} ?[A-D]\b")),
    National("es.dni", re.compile(r"\b\d{8}-?[A-Z]\b"), "es.dni"),
    National("es.nie", re.compile(r"\b[XYZ]-?\d{7}-?[A-Z]\b"), "es.nie"),
    National("fr.nir", re.compile(r"(?<!\w)[12] ?\d{2} ?\d{2} ?\d[\dAB] ?\d{3} ?\d{3} ?\d{2}(?!\w)"), "fr.nir"),
    National("de.idnr", re.compile(r"(?<!\w)\d{2} ?\d{3} ?\d{3} ?\d{3}(?!\w)"), "de.idnr", r"steuer|idnr|identifikationsnummer"),
    National("se.personnummer", re.compile(r"(?<!\w)(?:\d{2})?\d{6}[-+]\d{4}(?!\w)"), "se.personnummer"),
    National("pl.pesel", re.compile(r"(?<!\w)\d{11}(?!\w)"), "pl.pesel", r"pesel"),
    National("nl.bsn", re.compile(r"(?<!\w)\d{9}(?!\w)"), "nl.bsn", r"\bbsn\b|burgerservicenummer"),
)  # fmt: skip
"""A number with few check digits counts only behind its name: one in eleven of any ten digits would be an NHS number."""
BEFORE = 40


def emails(text: str) -> Iterator[Found]:
    """Addresses with a domain; `icon@2x.png` and `root@localhost` are none."""
    for match in _EMAIL.finditer(text) if "@" in text else ():
        if match[0].rpartition(".")[2].lower() not in _NO_DOMAIN and ".." not in match[0]:
            yield Found(match.start(), match.end(), "email", match[0])


def iban_valid(text: str) -> bool:
    """Right length for its country and remainder 1: letters are 10 to 35, the first four characters moved to the end."""
    plain = re.sub(r"[ -]", "", text)
    if len(plain) != IBAN_LENGTHS.get(plain[:2], 0):
        return False
    return int("".join(str(int(letter, 36)) for letter in plain[4:] + plain[:4])) % 97 == 1


def ibans(text: str) -> Iterator[Found]:
    """International bank account numbers; words that follow in capitals are not taken for part of it."""
    for match in _IBAN.finditer(text):
        size, end = IBAN_LENGTHS.get(match[0][:2], 0), match.start()
        while size and end < match.end():
            size -= text[end].isalnum()
            end += 1
        if size == 0 and iban_valid(text[match.start() : end]):
            yield Found(match.start(), end, "iban", text[match.start() : end])


def luhn(digits: str) -> bool:
    """Luhn's check: every second digit from the right is doubled (9 taken off above 9), the sum ends in 0.

    79927398713 -> 3 + 2 + 7 + 6 + 9 + 6 + 7 + 4 + 9 + 9 + 7 + ... = 70
    """
    total = 0
    for place, digit in enumerate(reversed(digits)):
        value = int(digit) * (1 + place % 2)
        total += value - 9 if value > 9 else value
    return total % 10 == 0


def cards(text: str) -> Iterator[Found]:
    """Payment cards: 13 to 19 digits of a known issuer's beginning and length that pass Luhn's check."""
    for match in _CARD.finditer(text):
        digits = re.sub(r"\D", "", match[0])
        long = (
            len(digits) == 16
            or digits[0] == "4"
            and len(digits) in (13, 19)
            or digits[:2] in ("34", "37", "30", "36", "38")
        )
        if long and 13 <= len(digits) and len(set(digits)) > 1 and luhn(digits):
            yield Found(match.start(), match.end(), "card", match[0])


def addresses_ip(text: str) -> Iterator[Found]:
    """Public IP addresses; private, loopback and documentation ranges name nobody, and `version 1.2.3.4` is none."""
    for match in (*_IP4.finditer(text), *(_IP6.finditer(text) if "::" in text or text.count(":") > 6 else ())):
        shown = match[0].rstrip(".:") if not match[0].endswith("::") else match[0]
        try:
            public = ipaddress.ip_address(shown).is_global
        except ValueError:
            continue
        if public and not _VERSION.search(text, max(0, match.start() - 12), match.start()):
            yield Found(match.start(), match.start() + len(shown), "ip", shown)


def keys(text: str) -> Iterator[Found]:
    """Secrets by the beginnings that providers give them, passwords in URLs, and random values behind a telling name."""
    for pattern in _KEYS:
        for match in pattern.finditer(text):
            yield Found(match.start(), match.end(), "key", match[0])
    for match in _URL_PASSWORD.finditer(text) if "://" in text else ():
        yield Found(match.start(1), match.end(1), "key", match[1])
    for match in _NAMED_KEY.finditer(text):
        value = match[1].rstrip(".)")
        if _random(value):
            yield Found(match.start(1), match.start(1) + len(value), "key", value)


def _random(value: str) -> bool:
    """Looks drawn, not written: digits and letters mixed, and at least 2.5 bits a character."""
    counts = Counter(value)
    bits = -sum(n / len(value) * math.log2(n / len(value)) for n in counts.values())
    return len(value) >= 8 and any(map(str.isdigit, value)) and any(map(str.isalpha, value)) and bits >= 2.5


def births(text: str) -> Iterator[Found]:
    """Dates that words of birth stand before; other dates are nobody's."""
    for match in _BORN.finditer(text):
        yield Found(match.start("date"), match.end("date"), "birth_date", match["date"])


def checker(module: str) -> Callable[[str], bool]:
    """python-stdnum's check of an identifier, such as `fi.hetu`."""
    valid: Callable[[str], bool] = import_module(f"stdnum.{module}").is_valid
    return valid


def nationals(text: str) -> Iterator[Found]:
    """National, tax and health identifiers whose check digits are right."""
    for one in NATIONAL:
        for match in one.pattern.finditer(text):
            if one.words:
                before = text[max(0, match.start() - BEFORE) : match.start()]
                if not re.search(one.words, before, re.I):
                    continue
            if not one.check or checker(one.check)(match[0]):
                yield Found(match.start(), match.end(), "national_id", match[0], one.form)


def phones(text: str, *, regions: Sequence[str]) -> Iterator[Found]:
    """Numbers that libphonenumber holds for valid: with a country code anywhere, without one in `regions`.

    Without a country code a number must be written in groups (two where it begins with 0) or with a bracket, or stand
    behind a word such as tel.: ten bare digits are as often an order number.
    """
    import phonenumbers

    for cluster in _DIGITS.finditer(text):
        start = max(0, cluster.start() - 2)
        window = text[start : cluster.end() + 2]
        taken: list[tuple[int, int]] = []
        for region in regions:
            for match in phonenumbers.PhoneNumberMatcher(window, region, leniency=phonenumbers.Leniency.VALID):
                raw, low, high = match.raw_string, start + match.start, start + match.end
                written = raw.startswith(("+", "(")) or len(re.findall(r"\d+", raw)) >= 2 + (raw[0] != "0")
                called = _CALL.search(text, max(0, low - BEFORE), low)
                if not (written or called) or _DATED.fullmatch(raw) or any(a < high and low < b for a, b in taken):
                    continue
                taken.append((low, high))
                yield Found(low, high, "phone", raw)


def need(package: str, what: str) -> None:
    """
    Raises:
        UserError: an optional package of the extra `pii` is missing.
    """
    if find_spec(package) is None:
        raise UserError(
            f"finding {what} needs {package}; install it with: pip install 'bottega[pii]', or leave it out of kinds"
        )


PLAIN: dict[str, Callable[[str], Iterator[Found]]] = {
    "key": keys,
    "email": emails,
    "iban": ibans,
    "card": cards,
    "ip": addresses_ip,
    "birth_date": births,
}
"""Kinds that need no optional package, in the order of precedence where two overlap."""


def outermost(found: Sequence[Found]) -> list[Found]:
    """Without overlaps, in order of place: what comes first in `found` wins."""
    kept: list[Found] = []
    for one in found:
        place = bisect(kept, one)
        before = place == 0 or kept[place - 1].end <= one.start
        if before and (place == len(kept) or one.end <= kept[place].start):
            kept.insert(place, one)
    return kept
