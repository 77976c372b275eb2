"""Steps that leave out what was there before: equal samples, near-equal ones, and what is in an evaluation set.

Left out: similarity of meaning. How near texts are found is in data/near.py.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

from bottega.core.config import load_yaml
from bottega.core.errors import UserError
from bottega.core.rundir import disk_errors
from bottega.core.types import Where
from bottega.data import sources
from bottega.data.clean.account import Account, Item
from bottega.data.near import Index, words_of
from bottega.data.pieces import digest, dumps, loads, texts, whole
from bottega.data.split import text_of


class exact:
    """Keep the first of samples whose texts, roles and labels are equal; other columns are not compared."""

    def __call__(self, items: Iterator[Item], account: Account) -> Iterator[Item]:
        seen: set[bytes] = set()
        for item in items:
            key = digest(whole(item.sample))
            if key in seen:
                account.reject(item, "equal to an earlier row", shown=text_of(item.sample))
            else:
                seen.add(key)
                yield item


class near:
    """Keep the first of each chain of near-equal samples.

    Nearness is the Jaccard similarity of the sets of 5-word shingles (Broder 1997), candidates found by MinHash bands.
    System turns and other columns are not compared. Rows wait in a temporary file until all were read.
    """

    def __init__(self, *, threshold: float = 0.8) -> None:
        """
        Args:
            threshold: similarity from which two rows count as one, above 0 to 1.

        Raises:
            UserError: the threshold is out of its range.
        """
        if not 0 < threshold <= 1:
            raise UserError(f"near: threshold is {threshold:g}, but must be above 0 and at most 1")
        self.threshold = threshold

    def __call__(self, items: Iterator[Item], account: Account) -> Iterator[Item]:
        with Index(threshold=self.threshold, seed=account.seed) as index, tempfile.TemporaryFile("w+b") as spool:
            for item in items:
                index.add(text_of(item.sample))
                with disk_errors(tempfile.gettempdir()):
                    spool.write(f"{item.source}\t{item.origin.hex()}\t{dumps(item.sample)}\n".encode("ascii"))
            leaders = index.leaders()
            spool.seek(0)
            first: dict[int, Where] = {}
            led = {leader for place, leader in enumerate(leaders) if leader != place}
            for place, line in enumerate(spool):
                source, origin, text = line.decode("ascii").split("\t", 2)
                item = Item(int(source), loads(text), bytes.fromhex(origin))
                if leaders[place] == place:
                    if place in led:
                        first[place] = item.sample.where
                    yield item
                else:
                    detail = f"({first[leaders[place]]})"
                    account.reject(item, "near to an earlier row", detail=detail, shown=text_of(item.sample))


class decontaminate:
    """Leave out samples that share a run of 13 words with an evaluation set.

    Words are compared in lower case without punctuation. An item shorter than `size` counts as one run of all its
    words if it has at least `least`; shorter items are too common to compare and are counted in the account.
    Source: Brown et al. 2020, "Language models are few-shot learners", appendix C (13-grams; they shortened N down to
    8 for short sets).
    """

    def __init__(self, *, against: tuple[str, ...], size: int = 13, least: int = 8) -> None:
        """
        Args:
            against: evaluation items: data files, or task files (YAML with `data` or `rows`).
            size: words of a run. least: words that a shorter item needs to be compared.

        Raises:
            UserError: no file, one that is not there, or sizes out of range.
        """
        if not against:
            raise UserError("decontaminate: against is empty; name the files that hold the evaluation items")
        if not 1 <= least <= size:
            raise UserError(f"decontaminate: least is {least}, but must be 1 to size ({size})")
        missing = [path for path in against if not Path(path).exists()]
        if missing:
            raise UserError(f"decontaminate: there is no evaluation file {missing[0]}; check the path")
        self.against, self.size, self.least = against, size, least

    def __call__(self, items: Iterator[Item], account: Account) -> Iterator[Item]:
        known: dict[int, set[bytes]] = {}
        for text in (text for path in self.against for text in evaluation_texts(Path(path))):
            words = words_of(text)
            length = min(self.size, len(words))
            if length < self.least:
                account.found["evaluation texts too short to compare"] += 1
                continue
            account.found["evaluation texts compared"] += 1
            known.setdefault(length, set()).update(_runs(words, length))
        for item in items:
            shared = next((run for text in texts(item.sample) for run in self._shared(words_of(text), known)), None)
            if shared is None:
                yield item
            else:
                account.reject(item, "shares words with an evaluation set", shown=shared)

    @staticmethod
    def _shared(words: list[str], known: dict[int, set[bytes]]) -> Iterator[str]:
        for length, runs in known.items():
            for start in range(len(words) - length + 1):
                if _run(words, start, length) in runs:
                    yield " ".join(words[start : start + length])


def _run(words: list[str], start: int, length: int) -> bytes:
    return digest(" ".join(words[start : start + length]))


def _runs(words: list[str], length: int) -> Iterator[bytes]:
    return (_run(words, start, length) for start in range(len(words) - length + 1))


def evaluation_texts(path: Path) -> Iterator[str]:
    """Every text of the records of an evaluation file, or of the data and rows of a task file.

    Raises:
        UserError: a record that cannot be read, or a task file without items.
    """
    files: list[Path] = [path]
    if path.suffix.lower() in (".yaml", ".yml"):
        task, _ = load_yaml(path.read_bytes(), file=str(path))
        rows = task.get("rows", []) if isinstance(task, dict) else []
        data = task.get("data", []) if isinstance(task, dict) else []
        files = [path.parent / name for name in ([data] if isinstance(data, str) else data)]
        if not rows and not files:
            raise UserError(f"{path} holds no items (no `data`, no `rows`); name the file with the items instead")
        for row in rows:
            yield from _strings(row)
    for _, record in sources.read(files) if files else ():
        if isinstance(record, sources.Problem):
            raise UserError(f"{record}; mend the evaluation file first")
        yield from _strings(record)


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _strings(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _strings(inner)
