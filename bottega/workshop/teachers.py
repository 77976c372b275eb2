"""Teachers by name: `template`, an http(s) endpoint, or a model of this machine; all behind one interface.

Left out: what they are asked (the synth room).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlsplit

from bottega.core.errors import UserError
from bottega.core.types import Turn


@dataclass(frozen=True, kw_only=True, slots=True)
class TeacherOptions:
    """How an endpoint is reached.

    model: its name there. tokenizer: whose template writes prompts for `api="completions"`. key_env: the variable with the key.
    ca, cert, cert_key, insecure: TLS. timeout: seconds for the next bytes. concurrency: questions at once, at most.
    """

    model: str = ""
    tokenizer: str = ""
    key_env: str = ""
    api: Literal["chat", "completions"] = "chat"
    ca: str = ""
    cert: str = ""
    cert_key: str = ""
    insecure: bool = False
    timeout: float = 120.0
    concurrency: int = 32
    stream: bool = False
    tries: int = 6


def open_teacher(name: str, options: TeacherOptions) -> tuple[Any, str]:
    """A Responder to use in an `async with`, and its revision.

    Raises:
        UserError: an endpoint without a model, --offline, or a model that does not load.
    """
    if name == "template":
        from bottega.synth.teacher_template import Template

        return Template(), "1"
    if name.startswith(("http://", "https://")):
        return _endpoint(name, options), ""
    given = [field for field in ("model", "key_env", "ca", "cert") if getattr(options, field)]
    if given:
        raise UserError(
            f"--{_flag(given[0])} is for endpoints, but the teacher is {name!r}: leave it out, or give an address"
        )
    return _local(name, options)


def _flag(field: str) -> str:
    return "teacher-model" if field == "model" else field.replace("_", "-")


def _endpoint(url: str, options: TeacherOptions) -> Any:
    from bottega.models.remote import Endpoint, Tls

    host = urlsplit(url).hostname or ""
    if os.environ.get("HF_HUB_OFFLINE") == "1" and host not in ("localhost", "127.0.0.1", "::1"):
        raise UserError(
            f"--offline was given, but the teacher is at {host}: choose template or a model of this machine"
        )
    if not options.model:
        raise UserError(f"the teacher at {url} needs the name of a model; give --teacher-model")
    render = None
    if options.api == "completions":
        render = _renderer(options.tokenizer or options.model)
    tls = Tls(authority=options.ca, certificate=options.cert, key=options.cert_key, verify=not options.insecure)
    return Endpoint(
        url=url, model=options.model, key_env=options.key_env, api=options.api, render=render, tls=tls,
        timeout_s=options.timeout, stream=options.stream, most_at_once=options.concurrency, tries=options.tries,
    )  # fmt: skip


def _renderer(name: str) -> Any:
    """Turns to a prompt by the chat template of a tokenizer."""
    from bottega.data.chat import Template, encode_prompt
    from bottega.workshop.data_verbs import tokenizer_of

    tokenizer = tokenizer_of(name)
    template = Template.find(None, tokenizer)

    def render(turns: Sequence[Turn]) -> str:
        text = tokenizer.decode(encode_prompt(turns, tokenizer, template))
        assert isinstance(text, str)
        return text

    return render


def _local(name: str, options: TeacherOptions) -> tuple[Any, str]:
    from bottega.data.chat import Template
    from bottega.evals.engine import Engine, end_of_turn
    from bottega.models.load import load
    from bottega.models.local import Local

    loaded = load(name)
    attached = loaded.attached
    template = Template.find(None, loaded.tokenizer)
    module, inputs = (attached.model, attached.inputs) if attached else (loaded.model, None)
    engine = Engine(module, loaded.tokenizer, template=template, inputs=inputs)
    ids, strings = end_of_turn(loaded.tokenizer, template)
    stops = {"stop_ids": tuple(sorted({*engine.generator.stop_ids(), *ids})), "stop": strings}
    return Local(engine.generator, identity=name, encode=engine.chat, stops=stops, room=engine.limit()), loaded.identity
