"""What is wrong with a stage's mixture or curriculum, found before torch is imported.

Left out: the other checks of a recipe (recipe_checks.py) and what the keys do (sources.py).
"""

from __future__ import annotations

from bottega.core.config import Marks
from bottega.core.strictyaml import Path as Keys
from bottega.workshop.recipe_parts import Stage

BY_LOSS = ("pretrain", "sft")
"""Objectives whose loss is one log-likelihood a token, so that every row has one of its own."""


def check(stage: Stage, marks: Marks, place: Keys) -> list[str]:
    """One line a mistake, with its place."""
    mistakes = []

    def fail(key: str, message: str) -> None:
        mistakes.append(f"{marks.at((*place, key))}: {message}")

    weights = [part.weight for part in stage.data]
    given = [weight for weight in weights if weight is not None]
    if given and len(given) < len(weights):
        fail("data", "some sources have a weight and some have none; give each a weight, or none")
    elif given and not any(given):
        fail("data", "the weights of all sources are 0, so there is nothing to draw; give one of them more than 0")
    mistakes += _check_schedule(stage, marks, place)
    mistakes += _check_context(stage, marks, place)
    wanted = stage.curriculum
    if wanted is None:
        return mistakes
    if stage.mixture or given or any(part.epochs is not None for part in stage.data):
        fail("curriculum", "a curriculum orders every row of an epoch; leave mixture, weight and epochs of sources out")
    if wanted.by == "loss" and stage.objective.name not in BY_LOSS:
        fail(
            "curriculum",
            f"by: loss is for {' and '.join(BY_LOSS)}, not {stage.objective.name}; order by length or a column",
        )
    if stage.blocks and wanted.by != "loss":
        fail(
            "curriculum",
            f"blocks are of one length and of many texts, so {wanted.by} cannot order them; leave blocks out",
        )
    return mistakes


def _check_schedule(stage: Stage, marks: Marks, place: Keys) -> list[str]:
    mistakes: list[str] = []
    if stage.mixture is None:
        return mistakes
    at = marks.at((*place, "mixture"))
    if len(stage.data) < 2:
        mistakes.append(f"{at}: a mixture needs two sources or more, and data has {len(stage.data)}; leave mixture out")
    phases = stage.mixture.schedule
    if phases and stage.steps is None:
        mistakes.append(f"{at}: a schedule changes the mixture by tokens, so an epoch has no length; give steps")
    if phases and stage.mixture.temperature != 1.0 and phases[0].tokens == 0:
        mistakes.append(
            f"{at}: the schedule gives every weight, so temperature would do nothing; leave one of them out"
        )
    for before, phase in zip((None, *phases), phases):
        if len(phase.weights) != len(stage.data):
            mistakes.append(f"{at}: {len(phase.weights)} weights for {len(stage.data)} sources; give each source one")
        if before is not None and phase.tokens <= before.tokens:
            mistakes.append(f"{at}: tokens go from {before.tokens:,} to {phase.tokens:,}; let every phase begin later")
    return mistakes


def _check_context(stage: Stage, marks: Marks, place: Keys) -> list[str]:
    """A context that grows: of blocks, ever longer, and of lengths that divide them."""
    at = f"{marks.at((*place, 'context'))}"
    if not stage.context:
        return []
    if not stage.blocks or stage.max_tokens is None:
        return [f"{at}: a context that grows cuts blocks; set blocks: true and max_tokens"]
    if stage.curriculum:
        return [f"{at}: a context that grows and a curriculum both change the rows of a step; leave one of them out"]
    mistakes = [
        f"{at}: rows of {part.tokens} tokens do not divide blocks of max_tokens {stage.max_tokens}; choose a divisor"
        for part in stage.context
        if stage.max_tokens % part.tokens
    ]
    for before, part in zip(stage.context, stage.context[1:]):
        if part.until <= before.until or part.tokens <= before.tokens:
            mistakes.append(
                f"{at}: {before.tokens} tokens until {before.until} and then {part.tokens} until {part.until}; "
                "let each length be longer and end later than the one before"
            )
    return mistakes
