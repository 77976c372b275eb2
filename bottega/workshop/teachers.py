"""Teachers by name: `template`, an http(s) endpoint, or a model of this machine; all behind one interface.

Left out: what they are asked (the synth room).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

from bottega.core.errors import UserError
from bottega.core.types import RAW, Turn
from bottega.workshop.endpoints import Reach, connect, is_endpoint


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
    if is_endpoint(name):
        return _endpoint(name, options), ""
    given = [field for field in ("model", "key_env", "ca", "cert") if getattr(options, field)]
    if given:
        raise UserError(
            f"--{_flag(given[0])} is for endpoints, but the teacher is {name!r}: leave it out, or give an address"
        )
    return _local(name, options)


def can_continue(name: str, options: TeacherOptions) -> bool:
    """Whether the teacher goes on with a text as it is, no chat template around it."""
    return name != "template" and (not is_endpoint(name) or options.api == "completions")


def _flag(field: str) -> str:
    return "teacher-model" if field == "model" else field.replace("_", "-")


def _endpoint(url: str, options: TeacherOptions) -> Any:
    if not options.model:
        raise UserError(f"the teacher at {url} needs the name of a model; give --teacher-model")
    reach = Reach(**{field.name: getattr(options, field.name) for field in fields(Reach)})
    render = _renderer(options.tokenizer or options.model) if options.api == "completions" else None
    return connect(url, options.model, reach, api=options.api, render=render)


def _begins(turns: Sequence[Turn]) -> bool:
    """Whether the last turn is a user's that is still to be written."""
    return turns[-1].role == "user" and not turns[-1].content


def _renderer(name: str) -> Any:
    """Turns to a prompt by the chat template of a tokenizer."""
    from bottega.data.chat import Template, encode_prompt
    from bottega.data.opening import encode_opening
    from bottega.workshop.data_verbs import tokenizer_of

    tokenizer = tokenizer_of(name)
    template = Template.find(None, tokenizer)

    def render(turns: Sequence[Turn]) -> str:
        if turns[-1].role == RAW:
            return turns[-1].content
        encode = encode_opening if _begins(turns) else encode_prompt
        text = tokenizer.decode(encode(turns[:-1] if _begins(turns) else turns, tokenizer, template))
        assert isinstance(text, str)
        return text

    return render


def _local(name: str, options: TeacherOptions) -> tuple[Any, str]:
    from bottega.data.chat import Template
    from bottega.data.opening import encode_opening
    from bottega.evals.engine import Engine, end_of_turn
    from bottega.models.load import load
    from bottega.models.local import Local
    from bottega.models.place import choose_for

    loaded = load(name, device=choose_for(name, "auto", note=lambda line: None))
    attached = loaded.attached
    template = Template.find(None, loaded.tokenizer)
    module, inputs = (attached.model, attached.inputs) if attached else (loaded.model, None)
    engine = Engine(module, loaded.tokenizer, template=template, inputs=inputs)
    ids, strings = end_of_turn(loaded.tokenizer, template)
    stops = {"stop_ids": tuple(sorted({*engine.generator.stop_ids(), *ids})), "stop": strings}

    def encode(turns: Sequence[Turn]) -> list[int]:
        if _begins(turns):
            return encode_opening(turns[:-1], loaded.tokenizer, template)
        return engine.plain(turns[-1].content) if turns[-1].role == RAW else engine.chat(turns)

    return Local(engine.generator, identity=name, encode=encode, stops=stops, room=engine.limit()), loaded.identity
