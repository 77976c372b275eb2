"""`bottega serve`: a model, with the adapters on it, as an OpenAI-compatible server on this machine.

Left out: decoding and HTTP (bottega/serve). TLS is not needed on loopback; elsewhere give a certificate, or a proxy in front that has
one.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bottega.core.errors import Mismatch, UserError
from bottega.workshop import endpoints
from bottega.workshop.access import Access
from bottega.workshop.held import Held, samples
from bottega.workshop.use import open_writer

if TYPE_CHECKING:
    from bottega.serve.engine import Engine
    from bottega.serve.voice import Voice


def serve(
    model: str,
    *,
    adapters: Sequence[str] = (),
    adapters_from: str | None = None,
    name: str | None = None,
    template: str | None = None,
    weights: str = "full",
    device: str = "auto",
    batch: int = 16,
    queue: int = 256,
    max_tokens: int | None = None,
    access: Access | None = None,
) -> None:
    """Serve until interrupted.

    Args:
        model: a model that writes; with `adapters` the base that they were trained on.
        adapters: NAME=FOLDER of LoRA adapters, chosen by a request's `model`, also mixed: `a+b:0.6`.
        adapters_from: a folder from which clients may load more, by name, while it runs.
        name: what the model is called; None: the last part of what was given. template: chat template; None: the model's own.
        weights, device: as in `generate`. batch: replies written at once. queue: replies that may wait; then clients are told when to
            come again. max_tokens: of a reply, at most. access: where to listen, and who may ask; None: this machine, port 8000.

    Raises:
        UserError: no server library, a model that writes no text, an adapter of another kind, open to others without a key.
        Mismatch: an adapter for another base.
    """
    try:
        import uvicorn

        from bottega.serve.api import Api
    except ImportError:
        raise UserError("serving needs starlette, uvicorn and prometheus-client; install bottega[serve]") from None
    if endpoints.is_endpoint(model):
        raise UserError(f"{model} is a server already; name a model that lies here")
    access = access or Access()
    called, known = access.check()
    folder = None if adapters_from is None else Path(adapters_from)
    if folder is not None and not folder.is_dir():
        raise UserError(f"there is no folder {folder} to load adapters from; make it first")
    held = Held.of(weights)
    chosen: dict[str, Any] = {
        "template": template,
        "device": device,
        "batch": batch,
        "queue": queue,
        "max_tokens": max_tokens,
    }
    voice = open_voice(model, adapters=adapters, more=folder is not None, name=name, held=held, **chosen)
    api = Api(voice, hosts=called, keys=known, folder=folder)
    voice.engine.start()
    _say(f"{', '.join(voice.names())} on {access.place()}/v1, template {voice.template.name} (Ctrl-C ends it)")
    try:
        uvicorn.run(api.app, **access.uvicorn())
    finally:
        _end(voice.engine, held)


def open_voice(
    model: str,
    *,
    adapters: Sequence[str] = (),
    more: bool = False,
    name: str | None = None,
    template: str | None = None,
    held: Held,
    device: str = "auto",
    batch: int = 16,
    queue: int = 256,
    max_tokens: int | None = None,
) -> Voice:
    """A model ready to be served, its engine not started. more: adapters may come later too."""
    from bottega.serve.asks import Limits
    from bottega.serve.engine import Engine
    from bottega.serve.voice import NAME, Voice
    from bottega.workshop.held import module_of

    loaded, chosen = open_writer(model, template, _say, held, device)
    name = name or re.sub(r"[^\w.-]", "-", Path(model).name) or "model"
    if not NAME.fullmatch(name):
        raise UserError(
            f"the name {name!r} is not 1 to 128 letters, digits, '.', '_' and '-'; give another with --name"
        )
    held.measure(model, loaded, samples(loaded), _say)
    if not held.ordinary:
        held.measure_speed(loaded, samples(loaded))
        _say(held.line())
        held.tokens, held.seconds = 0, 0.0
    attached = loaded.attached
    if (adapters or more) and (attached is not None or held.stream):
        why = "is an adapter itself" if attached is not None else "is streamed from disk"
        raise UserError(f"{model} {why}; to serve adapters beside each other, name their base, and weights in memory")
    from bottega.models.generate import Generator

    generator = Generator(module_of(loaded), loaded.tokenizer, inputs=attached.inputs if attached else None)
    engine = Engine(generator, rows=batch, max_waiting=queue, adapters=bool(adapters) or more)
    for text in adapters:
        _add(engine, text, model, name)
    return Voice(engine, loaded.tokenizer, chosen, name, Limits(max_tokens=max_tokens))


def _add(engine: Engine, text: str, model: str, base_name: str) -> None:
    from bottega.models.locate import locate
    from bottega.serve.voice import NAME

    name, equals, path = text.partition("=")
    if not equals or not path or not NAME.fullmatch(name) or name == base_name:
        raise UserError(f"--adapter {text!r} is not NAME=FOLDER, with a name of letters, digits, '.', '_' and '-'")
    place, base = locate(path), locate(model)
    if len(place.adapters) != 1:
        what = "a whole model" if not place.adapters else "an adapter on another adapter"
        raise UserError(f"{path} is {what}; adapters served beside each other lie right on {model}")
    if place.base.resolve() != base.base.resolve():
        raise Mismatch(f"{path} was trained on {place.base_id}, and {model} is served: give the adapter its own base")
    assert engine.adapters is not None
    engine.adapters.add(name, place.folder)


def _end(engine: Engine, held: Held) -> None:
    began = time.perf_counter()
    engine.stop()
    counts = engine.counts
    speed = f", {counts.tokens / counts.busy_s:.1f} tokens/s while decoding" if counts.busy_s else ""
    kind = "" if held.ordinary else f" ({held.weights})"
    _say(f"ended after {counts.tokens} tokens{speed}{kind}; stopping took {time.perf_counter() - began:.1f} s")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
