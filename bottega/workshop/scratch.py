"""A model that starts from nothing: its tokenizer learned on the way, its weights drawn from the recipe's seed, in the run's folder.

Left out: what the fields of the network mean (models/shape.py).
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bottega.core import rundir
from bottega.core.config import plain
from bottega.core.errors import Mismatch
from bottega.data.remote import is_remote

if TYPE_CHECKING:
    from bottega.workshop.recipe import Recipe

START = "start"
"""The folder of a run in which the model lies that it began with."""
RECORD = "init.json"


def begin(plan: Recipe, folder: Path, note: Callable[[str], None]) -> str:
    """Make `folder`/start, or find it made: the same recipe and files give the same bytes.

    Returns:
        The folder.

    Raises:
        Mismatch: it was made of another `init`, other files, or is damaged.
    """
    from bottega.models.layers import count_parameters
    from bottega.models.plain import save_plain

    assert plan.init is not None
    place, known = folder / START, _record(plan)
    if place.is_dir():
        if rundir.verify_manifest(place) or rundir.read_json(place / RECORD) != known:
            raise Mismatch(
                f"{place} was made of another init, seed or text, or is damaged; run with another --out, or remove {folder}"
            )
        return str(place)
    draft = folder / f".{START}.draft"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    tokenizer = _tokenizer(plan)
    tokenizer.save_pretrained(str(draft))
    model = _model(plan, tokenizer)
    save_plain(model, draft)
    rundir.write_json(draft / RECORD, known)
    rundir.write_manifest(draft)
    rundir.publish(draft, place)
    note(f"init: {count_parameters(model)[1]:,} random weights, a vocabulary of {len(tokenizer):,} tokens")
    return str(place)


def _paths(plan: Recipe) -> list[str]:
    assert plan.init is not None
    return list(plan.init.tokenizer.data) or [part.path for part in plan.stages[0].data]


def _record(plan: Recipe) -> dict[str, Any]:
    """What the start is made of: files by content, not by place."""
    from bottega.data.sources import find

    said = plain(plan.init)
    said["tokenizer"].pop("data")
    local = [path for path in _paths(plan) if not is_remote(path)]
    learned = plan.init is not None and plan.init.tokenizer.model is None
    return {"init": said, "seed": plan.seed, "files": [rundir.sha256(path) for path in find(local)] if learned else []}


def _tokenizer(plan: Recipe) -> Any:
    from bottega.data.chat import Template
    from bottega.models import tokenizer
    from bottega.workshop.data_verbs import tokenizer_of
    from bottega.workshop.vocabularies import texts

    assert plan.init is not None
    wanted = plan.init.tokenizer
    if wanted.model is not None:
        return tokenizer_of(wanted.model)
    template = Template.named("chatml").source
    return tokenizer.train(texts(_paths(plan)), vocab=wanted.vocab, kind=wanted.kind, chat_template=template)


def _model(plan: Recipe, tokenizer: Any) -> Any:
    import torch

    from bottega.models.decoder import DecoderConfig, DecoderForCausalLM
    from bottega.models.shape import shape
    from bottega.models.tokenizer import num_rows

    assert plan.init is not None
    fields = shape(plan.init.preset, {**plan.init.config, "vocab_size": num_rows(tokenizer)})
    ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(plan.seed)
        return DecoderForCausalLM(DecoderConfig(**dataclasses.asdict(fields), **ids))
