"""The step that finds personal data and masks it, replaces it by pseudonyms, or leaves the sample out.

Left out: a promise. Patterns find what has a form; docs/how-to/clean.md says what is found and what is not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

from bottega.core.errors import UserError
from bottega.data.clean.account import MAX_EXAMPLES, SHOWN, Account, Item
from bottega.data.clean.identifiers import PLAIN, Found, nationals, need, outermost, phones
from bottega.data.clean.names import hidden, names, postal
from bottega.data.clean.pseudonyms import Pseudonyms
from bottega.data.pieces import rewritten, texts

KINDS = ("key", "email", "iban", "card", "national_id", "birth_date", "phone", "ip", "address", "name")
REGIONS = ("IT", "FI", "GB", "US")
Action = Literal["mask", "drop", "pseudonym"]


class personal:
    """Find personal data in every text of a sample, other columns too, and mask, replace or drop it.

    `mask` writes [EMAIL], [NAME] ... in its place; `pseudonym` a made-up value of the same shape, the same for the same
    person throughout a run (keyed by the seed); `drop` leaves the whole sample out.
    """

    def __init__(
        self, *, action: Action = "mask", kinds: tuple[str, ...] = KINDS, regions: tuple[str, ...] = REGIONS
    ) -> None:
        """
        Args:
            action: mask, drop or pseudonym. kinds: what is looked for. regions: where phone numbers without a country
                code are from (ISO 3166).

        Raises:
            UserError: an unknown action or kind, or an optional package that a kind needs is missing.
        """
        if action not in ("mask", "drop", "pseudonym"):
            raise UserError(f"personal: there is no action {action!r}; choose mask, drop or pseudonym")
        unknown = [kind for kind in kinds if kind not in KINDS]
        if unknown or not kinds:
            what = f"there is no kind {unknown[0]!r}" if unknown else "kinds is empty"
            raise UserError(f"personal: {what}; choose of {', '.join(KINDS)}")
        if "phone" in kinds:
            need("phonenumbers", "phone numbers")
        if "national_id" in kinds:
            need("stdnum", "national ids (python-stdnum)")
        wrong = [region for region in regions if len(region) != 2 or not region.isupper()]
        if wrong:
            raise UserError(f"personal: {wrong[0]!r} is no region; write two capital letters such as IT or FI")
        self.action, self.kinds, self.regions = action, kinds, regions

    def __call__(self, items: Iterator[Item], account: Account) -> Iterator[Item]:
        pseudonyms = Pseudonyms(account.seed)
        for item in items:
            parts = texts(item.sample)
            found = self.find(parts)
            kinds = sorted({one.kind for part in found for one in part})
            if not kinds:
                yield item
                continue
            for part in found:
                account.found.update(one.kind for one in part)
            if self.action == "drop":
                account.reject(item, f"holds personal data ({', '.join(kinds)})")
                continue
            made = self._replaced(parts, found, pseudonyms if self.action == "pseudonym" else None)
            account.changed += 1
            if len(account.examples) < MAX_EXAMPLES:
                masked = self._replaced(parts, found, None)
                account.example(f"{item.sample.where}: {_around(parts, found, masked)}")
            new = iter(made)
            yield item._replace(sample=rewritten(item.sample, lambda text, new=new: next(new)))  # type: ignore[misc]

    def find(self, parts: Sequence[str]) -> list[list[Found]]:
        """What is found in each text of one sample, in order and without overlaps."""
        named: list[list[Found]] = names(parts) if "name" in self.kinds else [[] for _ in parts]
        found = []
        for text, people in zip(parts, named):
            everything: list[Found] = []
            for kind in self.kinds:
                if kind in PLAIN:
                    everything += PLAIN[kind](text)
                elif kind == "national_id":
                    everything += nationals(text)
                elif kind == "phone":
                    everything += phones(text, regions=self.regions)
                elif kind == "address":
                    everything += postal(text)
            found.append(outermost([*everything, *people]))
        return found

    @staticmethod
    def _replaced(parts: Sequence[str], found: Sequence[Sequence[Found]], pseudonyms: Pseudonyms | None) -> list[str]:
        made = []
        for text, pieces in zip(parts, found):
            end, out = 0, []
            for one in pieces:
                out += [text[end : one.start], pseudonyms.of(one) if pseudonyms else f"[{one.kind.upper()}]"]
                end = one.end
            made.append("".join([*out, text[end:]]))
        return made


def _around(parts: Sequence[str], found: Sequence[Sequence[Found]], masked: Sequence[str]) -> str:
    """The first text in which something was found, masked, from a few words before it."""
    place = next(i for i, one in enumerate(found) if one)
    start = max(0, found[place][0].start - SHOWN // 2)
    line = " ".join(hidden(masked[place][start : start + SHOWN]).split())
    return repr(f"{'...' if start else ''}{line}")
