"""The shards of a stage's sources, both sides of its validation share included.

Left out: processes and the cache's folder (shard_cache.py), and when rows lie on disk at all (rows.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bottega.core.types import Row
from bottega.data import sides, tokenise
from bottega.data.chat import Template
from bottega.data.intake import Intake
from bottega.data.mix import Chain
from bottega.data.prepare import Plan
from bottega.data.sources import find, spans
from bottega.models.load import Loaded
from bottega.workshop.recipe import Part, Stage
from bottega.workshop.shard_cache import cache_folder, num_workers, runner, tokenizer_identity


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardCache:
    """Reads and makes the shards of one stage; `note` is told where they are."""

    stage: Stage
    loaded: Loaded
    template: Template
    plan: Plan
    note: Callable[[str], None]

    def held_out(self, share: float, seed: int) -> Path | None:
        """The file of held-out places; None where documents are too few to be split by rows."""
        digests = [[spans(file, size=1 << 62)[0] for file in find([part.path])] for part in self.stage.data]
        found = [
            sides.Stretch(part.path, part.format, part.columns, own) for part, own in zip(self.stage.data, digests)
        ]
        text = self.plan.kind == "text"
        return sides.held_out(found, share=share, seed=seed, passages=text, cache=cache_folder())

    def rows(self, part: Part, number: int, places: Path | None) -> tuple[Sequence[Row], Intake]:
        """The training rows of one source."""
        side = (str(places), number, sides.TRAIN) if places else None
        rows, counted = tokenise.kept(self._corpus(part, side), self.loaded.tokenizer, **self._options())
        return rows, tokenise.account([rows], [counted], self.stage.allow_loss)

    def kept_out(self, places: Path) -> tuple[Sequence[Row], Intake]:
        """The held-out rows of all sources, and their account."""
        made = []
        for number, part in enumerate(self.stage.data):
            corpus = self._corpus(part, (str(places), number, sides.HELD_OUT))
            made.append(tokenise.kept(corpus, self.loaded.tokenizer, **self._options()))
        account = tokenise.account([rows for rows, _ in made], [counted for _, counted in made], self.stage.allow_loss)
        return Chain([rows for rows, _ in made]), account

    def _corpus(self, part: Part, side: tuple[str, int, str] | None) -> tokenise.Corpus:
        return tokenise.Corpus(
            path=part.path,
            plan=self.plan,
            template=self.template.bind(self.loaded.tokenizer),
            identity=tokenizer_identity(self.loaded.tokenizer),
            format=part.format,
            columns=part.columns,
            side=side,
        )

    def _options(self) -> dict[str, Any]:
        return {"cache": cache_folder(), "run_jobs": runner(num_workers(), self.note), "note": self.note}
