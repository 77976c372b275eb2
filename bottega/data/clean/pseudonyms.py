"""Consistent replacements for personal data: the same value gives the same pseudonym, of the same shape, under one seed.

Left out: a table from pseudonym back to person; there is none, and the seed alone does not lead back.

Every replacement is drawn from a keyed hash of the value without its spaces, case and punctuation (BLAKE2b, Aumasson et al.
2013), so it depends on nothing but the value and the seed. Where a form has room that is given to nobody (example domains,
documentation networks, Finnish temporary ids) the replacement lies there; check digits are right where they are ours to make.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator

from bottega.data.clean.identifiers import Found, checker, luhn
from bottega.data.clean.names import GIVEN

_ONSETS = "B Br C D F G Gr L M N P R S T V Z".split()
_VOWELS = "a e i o u".split()
_MIDDLES = "l r n m v d t s nd rt lm st".split()
_ENDS = "ani elli eri osta umo ento inen ola ander ovic ley ford".split()
_STREETS = (
    "via",
    "viale",
    "piazza",
    "piazzale",
    "corso",
    "largo",
    "vicolo",
    "contrada",
    "lungotevere",
    "p.zza",
    "v.le",
)
_COUNTRY_CODE = re.compile(r"\+(?:1|7|2[07]|3[0-469]|4[013-9]|5[1-8]|6[0-6]|8[1246]|9[0-58]|\d{3})")
_HETU_MARKS = "0123456789ABCDEFHJKLMNPRSTUVWXY"


class Pseudonyms:
    """The replacements of one run."""

    def __init__(self, seed: int) -> None:
        self._key = f"bottega:{seed}".encode()
        self._given = sorted(GIVEN)
        self._makers: dict[str, Callable[[Found], str]] = {
            "name": self._name,
            "address": self._address,
            "birth_date": self._birth,
            "email": self._email,
            "phone": self._phone,
            "iban": self._iban,
            "card": self._card,
            "national_id": self._national,
            "ip": self._ip,
            "key": self._shape,
        }

    def of(self, found: Found) -> str:
        """What stands in the place of `found`."""
        return self._makers[found.kind](found)

    def _draw(self, kind: str, value: str) -> Iterator[int]:
        """Numbers below 2**32 without end, the same for the same value."""
        plain = "".join(letter for letter in value.lower() if letter.isalnum())
        block = 0
        while True:
            text = f"{kind}\0{plain}\0{block}".encode("utf-8", "surrogatepass")
            digest = hashlib.blake2b(text, key=self._key, digest_size=32).digest()
            yield from (int.from_bytes(digest[i : i + 4]) for i in range(0, 32, 4))
            block += 1

    def _name(self, found: Found) -> str:
        """Word by word, so that `Anna Virtanen` and a later `Virtanen` stay one person; surnames are invented."""
        return re.sub(r"[^\W\d_]+", lambda match: self._word(match[0]), found.text)

    def _word(self, word: str) -> str:
        if word.lower() in ("de", "di", "da", "del", "della", "lo", "la", "von", "van", "d", "o", "mc", "mac"):
            return word
        draw = self._draw("word", word)
        if len(word) == 1:
            return "ABCDEFGHILMNOPRSTV"[next(draw) % 18]
        if word in GIVEN:
            return self._given[next(draw) % len(self._given)]
        parts = (_ONSETS, _VOWELS, _MIDDLES, _VOWELS, _MIDDLES, _ENDS)
        return "".join(part[next(draw) % len(part)] for part in parts)

    def _address(self, found: Found) -> str:
        """An invented street of the same language with another number; town and postcode go."""
        draw = self._draw("address", found.text)
        number, street = 1 + next(draw) % 199, self._word(found.text)
        first, words = found.text.split()[0], found.text.split()
        if first.lower() in _STREETS:
            return f"{first} {street} {number}"
        if first[0].isdigit():
            return f"{number} {street} Street"
        return self._shape(found) if any(map(str.isdigit, words[0])) else f"{street}katu {number}"

    def _birth(self, found: Found) -> str:
        """The same way of writing with another day and month, and a year at most two off."""
        draw = self._draw("birth", found.text)
        parts = re.findall(r"\d+|\D+", found.text)
        numbers = [i for i, part in enumerate(parts) if part.isdigit()]
        first_year = len(parts[numbers[0]]) == 4
        for place, i in enumerate(numbers):
            is_year = place == (0 if first_year else len(numbers) - 1)
            old = int(parts[i])
            new = old - 2 + next(draw) % 5 if is_year else 1 + next(draw) % 12
            parts[i] = str(max(0, new)).zfill(len(parts[i]))
        return "".join(parts)

    def _email(self, found: Found) -> str:
        """A mailbox at a domain that is kept for examples (RFC 2606)."""
        return f"user{next(self._draw('email', found.text)):08x}@example.org"

    def _digits(self, kind: str, text: str) -> Iterator[str]:
        return (str(number % 10) for number in self._draw(kind, text))

    def _phone(self, found: Found) -> str:
        """The same grouping and country code; national numbers that begin with two zeros are nobody's."""
        head = _COUNTRY_CODE.match(found.text)
        rest = found.text[head.end() :] if head else found.text
        digits = self._digits("phone", re.sub(r"\D", "", found.text))
        count = 0

        def digit(match: re.Match[str]) -> str:
            nonlocal count
            count += 1
            return "0" if count <= 2 else next(digits)

        return (head[0] if head else "") + re.sub(r"\d", digit, rest)

    def _iban(self, found: Found) -> str:
        """The same country and grouping, other letters and digits, right check digits (98 minus the remainder)."""
        plain = re.sub(r"[ -]", "", found.text)
        body = self._drawn("iban", plain, plain[4:])
        number = "".join(str(int(letter, 36)) for letter in body + plain[:2] + "00")
        return _filled(found.text, f"{plain[:2]}{98 - int(number) % 97:02d}{body}")

    def _card(self, found: Found) -> str:
        """The same first digit, then zeros where the issuer's number stands, other digits, and Luhn's check digit."""
        plain = re.sub(r"\D", "", found.text)
        digits = self._digits("card", plain)
        body = plain[0] + "00000" + "".join(next(digits) for _ in plain[6:-1])
        last = next(str(digit) for digit in range(10) if luhn(f"{body}{digit}"))
        return _filled(found.text, body + last)

    def _national(self, found: Found) -> str:
        """A right one where a form has numbers that are given to nobody; elsewhere the same shape."""
        digits = self._digits("national", found.text)
        if found.form == "fi.hetu":  # individual numbers 900 to 999 are never given for good
            day = f"{1 + int(next(digits)) * 2:02d}{1 + int(next(digits)):02d}{next(digits)}{next(digits)}"
            number = f"9{next(digits)}{next(digits)}"
            return f"{day}{found.text[6]}{number}{_HETU_MARKS[int(day + number) % 31]}"
        if found.form == "us.ssn":  # areas from 900 on are never given
            return "9" + re.sub(r"\d", lambda match: next(digits), found.text[1:])
        if found.form == "gb.nino":  # no number begins with QQ
            return "QQ" + re.sub(r"\d", lambda match: next(digits), found.text[2:])
        if found.form == "it.codicefiscale":
            from stdnum.it.codicefiscale import calc_check_digit

            text = self._drawn("national", found.text.upper(), found.text.upper()[:6])
            date = f"{next(digits)}{next(digits)}{'ABCDEHLMPRST'[int(next(digits))]}{1 + int(next(digits)) * 2:02d}"
            body = f"{text}{date}Z{next(digits)}{next(digits)}{next(digits)}"
            return body + calc_check_digit(body)
        if found.form in ("it.iva", "gb.nhs"):
            return self._checked(found, digits)
        return self._shape(found)

    def _checked(self, found: Found, digits: Iterator[str]) -> str:
        """Digits drawn again until the check digit is right: one in ten or eleven is. NHS numbers from 999 are for tests."""
        valid = checker(found.form)
        head = "999" if found.form == "gb.nhs" else ""
        size = sum(map(str.isdigit, found.text))
        while True:
            drawn = head + "".join(next(digits) for _ in range(size - len(head)))
            if valid(drawn):
                return _filled(found.text, drawn)

    def _ip(self, found: Found) -> str:
        """An address of a network that is not routed (RFC 1918), or that is kept for documentation (RFC 3849)."""
        draw = self._draw("ip", found.text)
        if ":" in found.text:
            return "2001:db8::" + ":".join(f"{next(draw) % 65536:x}" for _ in range(3))
        return "10." + ".".join(str(next(draw) % 254 + 1) for _ in range(3))

    def _shape(self, found: Found) -> str:
        return self._drawn(found.kind, found.text, found.text)

    def _drawn(self, kind: str, value: str, shape: str) -> str:
        """Letters for letters, digits for digits, everything else as it is."""
        draw = self._draw(kind, value)

        def letter(old: str) -> str:
            if old.isdigit():
                return str(next(draw) % 10)
            if not old.isalpha():
                return old
            new = "abcdefghijklmnopqrstuvwxyz"[next(draw) % 26]
            return new.upper() if old.isupper() else new

        return "".join(map(letter, shape))


def _filled(shape: str, letters: str) -> str:
    """`shape` with its letters and digits replaced by `letters` in order: '12 34', 'abcd' -> 'ab cd'."""
    drawn = iter(letters)
    return re.sub(r"[A-Za-z0-9]", lambda match: next(drawn), shape)
