"""Using a model: answer the prompts of a file, talk to it.

Left out: scoring it (evaluating.py), what endpoints need (distant.py), serving. The template is the one stored with the model unless
another is named.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bottega.core import rundir
from bottega.core.errors import Unanswered, UserError
from bottega.core.textio import progress
from bottega.core.types import Turn
from bottega.workshop import distant, endpoints
from bottega.workshop.answer import answering
from bottega.workshop.held import MAX_TEXTS, Held, samples
from bottega.workshop.prompts import prompts_of

if TYPE_CHECKING:
    from bottega.core.types import Reply
    from bottega.data.chat import Template
    from bottega.models.generate import Generator
    from bottega.models.load import Loaded
    from bottega.workshop.answer import Answer


def need_writer(loaded: Loaded) -> None:
    """Raises UserError for a model that writes no text."""
    from bottega.models.purpose import LABELLED

    if loaded.purpose is not None and loaded.purpose.kind in LABELLED:
        raise UserError(f"{loaded.folder} gives labels, not text; use it with bottega predict")
    if loaded.kind == "encoder":
        raise UserError(f"{loaded.folder} holds an encoder, which writes no text; use it with bottega embed")


def generate(
    model: str,
    prompts: str | Sequence[str],
    *,
    max_tokens: int = 256,
    temperature: float = 0.0,
    seed: int = 0,
    batch: int = 16,
    raw: bool = False,
    template: str | None = None,
    out: str | None = None,
    weights: str = "full",
    quiet: bool = False,
    reach: endpoints.Reach | None = None,
    **more: Any,
) -> list[dict[str, Any]]:
    """Answer prompts: a list of texts, or a file (jsonl with prompt or messages; txt, one prompt a line).

    Args:
        raw: continue the text as it is, without a chat template. out: write JSON lines there.
        weights: full, or linear layers in nf4 or int8; stream: decoder layers stay on disk and visit memory one by one;
            nf4+stream and int8+stream are both.
        more: device (auto, cpu, cuda or cuda:N: core/devices.py); beams, draft, lookup (workshop/answer.py); and further fields of
            models/sampling.py's Sampling: n, top_p, top_k, min_p, repetition_penalty, stop, top_logps. reach: how an endpoint,
            `http://HOST/v1#NAME`, is reached.

    Returns:
        One {"prompt", "reply", "finish", "tokens"} a prompt, in order; with other weights than full each also says what
        they cost: {"weights", "kl", "kl_tokens", "tokens_per_s"} of the whole call. A prompt that an endpoint did not
        answer has "error".

    Raises:
        UserError: a prompt that cannot be read or does not fit the model; no prompt was answered.
    """
    remote = endpoints.is_endpoint(model)
    if remote:
        endpoints.refuse(model, distant.local_only({"template": template, "weights": weights, "batch": batch, **more}))
    else:
        endpoints.need_local(model, reach)
    how: dict[str, Any] = {"max_tokens": max_tokens, "temperature": temperature, "seed": seed}
    asked = list(prompts_of(prompts)) if isinstance(prompts, str) else [[Turn(role="user", content=p)] for p in prompts]
    with progress(len(asked), "generate", quiet=quiet) as shown:
        if remote:
            sent = {name: more[name] for name in ("n", "top_p", "stop") if name in more}
            rows = distant.generate(
                model, asked, reach=reach, raw=raw, told=shown.update, note=shown.note, **how, **sent
            )
        else:
            rows = _generate_here(
                model, asked, shown, weights=weights, template=template, batch=batch, raw=raw, how=how | more
            )
    if out is not None:
        rundir.atomic_write(out, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return rows


def _generate_here(
    model: str,
    asked: list[list[Turn]],
    shown: Any,
    *,
    weights: str,
    template: str | None,
    batch: int,
    raw: bool,
    how: dict[str, Any],
) -> list[dict[str, Any]]:
    """`generate` with a model of this machine."""
    held = Held.of(weights)
    loaded, chosen = open_writer(model, template, shown.note, held, how.pop("device", "auto"))
    talk = _Talk(loaded, chosen)
    ways = {name: how.pop(name) for name in ("beams", "draft", "lookup") if name in how}
    answer, came_to = answering(talk.generator, **ways)
    held.measure(model, loaded, [talk.ids(turns, raw=raw) for turns in asked[:MAX_TEXTS]], shown.note)
    rows: list[dict[str, Any]] = []
    for at in range(0, len(asked), batch):
        some = asked[at : at + batch]
        with held.timed():
            replies = talk.replies(some, raw=raw, answer=answer, batch=batch, **how)
        held.tokens += sum(len(reply.ids) for reply in replies)
        for turns, reply in zip([turns for turns in some for _ in range(how.get("n", 1))], replies):
            facts = {"reply": reply.text, "finish": reply.finish, "tokens": len(reply.ids)} | talk.tops(reply)
            rows.append({"prompt": turns[-1].content, **facts})
        shown.update(at + len(some))
    return _with_facts(rows, came_to(), held, shown.note)


def _with_facts(rows: list[dict[str, Any]], facts: dict[str, Any], held: Held, note: Any) -> list[dict[str, Any]]:
    """Rows with what speculation and other weights came to, which is also said."""
    if facts:
        note("speculation: " + ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in facts.items()))
    if not held.ordinary:
        note(held.line())
    return [row | facts | held.facts() for row in rows]


def generate_text(rows: list[dict[str, Any]]) -> str:
    """Prompts and replies to read."""
    return "\n\n".join(f"> {row['prompt']}\n{row['reply']}" for row in rows)


def chat(
    model: str,
    *,
    system: str | None = None,
    max_tokens: int = 256,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    template: str | None = None,
    weights: str = "full",
    reach: endpoints.Reach | None = None,
    device: str = "auto",
) -> None:
    """Talk to a model on the terminal: the reply appears while it is written; /reset starts over, /exit leaves.

    Args:
        weights: as in `generate`; KL on sample texts is said first, tokens a second after each reply. device: as there.
        reach: how an endpoint, `http://HOST/v1#NAME`, is reached.
    """
    start = [Turn(role="system", content=system)] if system else []
    how: dict[str, Any] = {"max_tokens": max_tokens, "temperature": temperature, "top_p": top_p}
    if endpoints.is_endpoint(model):
        endpoints.refuse(model, distant.local_only({"template": template, "weights": weights, "device": device}))
        with distant.speaker(model, reach, **how) as say:
            _converse(say, start, seed, f"{model}, its own template")
        return
    endpoints.need_local(model, reach)
    held = Held.of(weights)
    loaded, chosen = open_writer(model, template, _aside, held, device)
    held.measure(model, loaded, samples(loaded), _aside)
    talk = _Talk(loaded, chosen)

    def say_here(turns: Sequence[Turn], *, seed: int) -> Turn:
        with held.timed():
            said, num_tokens = _say(talk, turns, seed=seed, **how)
        held.tokens += num_tokens
        if not held.ordinary:
            _aside(held.line())
        return said

    _converse(say_here, start, seed, f"{model}, template {chosen.name}")


def _converse(say: Any, start: list[Turn], seed: int, who: str) -> None:
    """Lines from the person, replies from `say`, until one of the two has enough."""
    _aside(f"{who}; /reset starts over, /exit leaves")
    turns = list(start)
    while True:
        line = _ask()
        if line is None or line.strip() == "/exit":
            return
        if line.strip() == "/reset":
            turns = list(start)
        elif line.strip():
            turns.append(Turn(role="user", content=line))
            try:
                turns.append(say(turns, seed=seed + len(turns)))
            except Unanswered as error:
                if error.fatal:
                    raise
                _aside(f"{error}; the question is forgotten, ask again")
                turns.pop()
            except UserError as error:  # a prompt that has grown beyond the model's positions
                _aside(f"{error}; /reset starts over")
                turns.pop()


def _ask() -> str | None:
    """A line from the person; None when there is no more."""
    if sys.stdin.isatty():
        print("> ", end="", flush=True)
    line = sys.stdin.readline()
    return line.rstrip("\n") if line else None


def _aside(line: str) -> None:
    print(line, file=sys.stderr)


def _say(talk: _Talk, turns: Sequence[Turn], **how: Any) -> tuple[Turn, int]:
    """Write the reply while it comes; returns it as a turn, and its number of tokens."""
    text, num_tokens = "", 0
    for piece in talk.stream(turns, **how):
        if piece.reply is not None:
            text, num_tokens = piece.reply.text, len(piece.reply.ids)
        print(piece.text, end="", flush=True)
    print(flush=True)
    return Turn(role="assistant", content=text), num_tokens


class _Talk:
    """A loaded model with its template: turns in, replies out."""

    def __init__(self, loaded: Loaded, template: Template) -> None:
        from bottega.evals.engine import Engine

        attached = loaded.attached
        module, inputs = (attached.model, attached.inputs) if attached else (loaded.model, None)
        self.engine = Engine(module, loaded.tokenizer, template=template, inputs=inputs)
        self.generator: Generator = self.engine.generator
        self.tokenizer, self.template = loaded.tokenizer, template

    def _stops(self) -> dict[str, Any]:
        from bottega.evals.engine import end_of_turn

        ids, strings = end_of_turn(self.tokenizer, self.template)
        return {"stop_ids": tuple(sorted({*self.generator.stop_ids(), *ids})), "stop": strings}

    def replies(self, asked: Sequence[Sequence[Turn]], *, raw: bool, answer: Answer, **how: Any) -> list[Reply]:
        stops = {} if raw else self._stops()
        how["stop"] = (*stops.pop("stop", ()), *how.get("stop", ()))
        return answer([self.ids(turns, raw=raw) for turns in asked], **stops, **how)

    def tops(self, reply: Reply) -> dict[str, Any]:
        """For JSON: each token with its log-probability and the likeliest ones in its place, where they were asked for."""
        if not reply.tops:
            return {}
        text = self.tokenizer.decode
        return {
            "logprobs": [
                {"token": text([token]), "logp": logp, "top": [[text([one]), value] for one, value in top]}
                for token, logp, top in zip(reply.ids, reply.logps, reply.tops)
            ]
        }

    def ids(self, turns: Sequence[Turn], *, raw: bool) -> list[int]:
        """What the model is given for `turns`."""
        return self.engine.plain(turns[-1].content) if raw else self.engine.chat(turns)

    def stream(self, turns: Sequence[Turn], **how: Any) -> Iterator[Any]:
        return self.generator.stream(self.engine.chat(turns), **self._stops(), **how)


def open_writer(model: str, template: str | None, note: Any, held: Held, device: str) -> tuple[Loaded, Template]:
    """A model that writes, with its template.

    Raises:
        UserError: it is not there, or writes no text. Unsafe: a pickle or a damaged file.
    """
    from bottega.models.load import load
    from bottega.models.place import spot_for
    from bottega.models.spec import is_mixture
    from bottega.workshop.build import template_of

    where = spot_for(model, device, weights=held.kind, stream=held.stream, note=note)
    if is_mixture(model):
        loaded = _mixture(model, held, where)
    else:
        loaded = load(model, weights=held.kind, stream=held.stream, **where)
    for line in loaded.notes:
        if not line.startswith(("packed:", "head:")):  # how training will lie: nothing for a person who chats
            note(line)
    need_writer(loaded)
    return loaded, template_of(loaded, template)


def _mixture(model: str, held: Held, where: dict[str, Any]) -> Loaded:
    """`a+b:0.6`: the adapters as one, made for this call only."""
    import tempfile

    from bottega.models.load import has_tokenizer, load, load_tokenizer
    from bottega.models.locate import locate
    from bottega.models.spec import mix, parse

    if not held.ordinary:
        raise UserError(
            f"{model!r} is a mixture, which is used with weights full; write it out with bottega merge first"
        )
    with tempfile.TemporaryDirectory() as folder:
        mix(model, Path(folder))
        first = locate(parse(model.split("+")[0]).name).folder
        if has_tokenizer(first):
            load_tokenizer(first).save_pretrained(folder)
        return load(folder, **where)
