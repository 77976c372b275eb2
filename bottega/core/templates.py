"""The one sandboxed Jinja environment: chat templates, prompts and flows render here, strangers' in a worker process.

Left out: loading templates from folders, includes and macros across files; a template is one string.

A stranger's template is code. Jinja's sandbox keeps it from reaching Python's insides but does not bound its work
(`'x' * 10**9`), and constants are folded while compiling; so a stranger's source is parsed, compiled and rendered
only in a worker (`python -m bottega.core.templates`) with limits on CPU time, memory and output, fed in batches of
JSON lines and used again for later rows. On platforms without the `resource` module only the wall-clock limit holds.
Measured: about 24,000 chats of four short turns a second through the worker, on one core of a two-core cloud machine.
"""

from __future__ import annotations

import atexit
import json
import os
import selectors
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date
from functools import lru_cache
from typing import Any, NamedTuple

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.sandbox import ImmutableSandboxedEnvironment, SecurityError

from bottega.core.errors import Unsafe, UserError

MAX_SOURCE = 1_000_000
MAX_OUTPUT = 8_000_000
CPU_S = 5
WALL_S = 60
MEMORY_BYTES = 256 << 20
TODAY = "2026-01-01"
MARKS = ("\uf8f0", "\uf8f1")
_MISTAKES = (
    jinja2.TemplateError,
    ArithmeticError,
    AttributeError,
    LookupError,
    TypeError,
    ValueError,
    RecursionError,
    RuntimeError,
)


class Refused(NamedTuple):
    """Why a template did not render one set of variables (its own `raise_exception`, or a mistake in it)."""

    reason: str


class _Sandbox(ImmutableSandboxedEnvironment):
    """Jinja's immutable sandbox, that raises where Jinja's would quietly render nothing."""

    def unsafe_undefined(self, obj: Any, attribute: str) -> Any:
        raise SecurityError(f"it reaches for {attribute!r} of a {type(obj).__name__}")


class _Generation(Extension):
    """The `{% generation %}` block of chat templates; with `mark_generation` set it puts MARKS around what it holds."""

    tags = {"generation"}

    def parse(self, parser: Any) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        call = self.call_method("_mark", [nodes.ContextReference()])
        return nodes.CallBlock(call, [], [], body).set_lineno(line)

    def _mark(self, context: Any, caller: Any) -> str:
        inner = str(caller())
        return MARKS[0] + inner + MARKS[1] if context.get("mark_generation") else inner


def _raise_exception(message: Any) -> str:
    raise jinja2.TemplateError(str(message))


@jinja2.pass_context
def _strftime_now(context: Any, pattern: str) -> str:
    return date.fromisoformat(str(context.get("today") or TODAY)).strftime(pattern)


def _tojson(value: Any, ensure_ascii: bool = False, indent: int | None = None, sort_keys: bool = False) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, sort_keys=sort_keys)


@lru_cache(maxsize=1)
def environment() -> ImmutableSandboxedEnvironment:
    """The environment of every template: immutable sandbox, the chat templates' helpers and whitespace rules.

    Helpers: `raise_exception(message)`, `strftime_now(format)` (the date is the variable `today`, ISO, or a fixed
        one, so that the same data gives the same bytes on any day), the filter `tojson`, `{% generation %}`, `{%
        break %}`, `{% continue %}`.
    """
    sandbox = _Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, "jinja2.ext.loopcontrols"])
    sandbox.globals["raise_exception"] = _raise_exception
    sandbox.globals["strftime_now"] = _strftime_now
    sandbox.filters["tojson"] = _tojson
    return sandbox


def forbidden_names(source: str) -> list[str]:
    """Names with two leading underscores that the source reaches for, run or not, in order of appearance.

    Raises:
        jinja2.TemplateError: the source does not parse.
    """
    found = []
    for node in environment().parse(source).find_all((nodes.Getattr, nodes.Getitem, nodes.Filter, nodes.Name)):
        if isinstance(node, nodes.Getattr):
            names = [node.attr]
        elif isinstance(node, nodes.Name):
            names = [node.name]
        elif isinstance(node, nodes.Getitem):
            names = [node.arg.value] if isinstance(node.arg, nodes.Const) else []
        elif isinstance(node, nodes.Filter) and node.name == "attr":
            names = [arg.value for arg in node.args if isinstance(arg, nodes.Const)]
        else:
            names = []
        found += [name for name in names if isinstance(name, str) and name.startswith("__")]
    return found


def render(source: str, variables: Mapping[str, Any], *, trusted: bool, cpu_s: int = CPU_S) -> str:
    """The text of one template with one set of variables (JSON values).

    Args:
        source: a Jinja template; of ours (`trusted`) it renders in this process, of others in the worker.
        cpu_s: CPU seconds that the worker may spend.

    Raises:
        Unsafe: the template reaches for Python's insides, or breaks a limit on time, memory or output.
        UserError: it does not parse, or refuses these variables.
    """
    answer = render_many(source, [variables], trusted=trusted, cpu_s=cpu_s)[0]
    if isinstance(answer, Refused):
        raise UserError(answer.reason)
    return answer


def render_many(
    source: str, rows: Sequence[Mapping[str, Any]], *, trusted: bool, cpu_s: int = CPU_S
) -> list[str | Refused]:
    """One text, or the reason why not, for each set of variables; 512 of them share one trip to the worker and `cpu_s`.

    Raises:
        Unsafe: as `render`.
        UserError: the source does not parse.
    """
    if trusted:
        template = _compiled(source)
        return [_render_one(template, row) for row in rows]
    texts: list[str | Refused] = []
    for batch in _batches(rows):
        with _LOCK:  # one question at a time: threads share the worker
            texts += _worker().render(source, batch, cpu_s)
    return texts


def _batches(rows: Sequence[Mapping[str, Any]], max_chars: int = 2_000_000) -> Iterator[list[str]]:
    """Rows as JSON, in batches of at most 512 rows and about `max_chars` characters."""
    batch: list[str] = []
    size = 0
    for row in rows:
        text = json.dumps(row)
        if batch and (len(batch) == 512 or size + len(text) > max_chars):
            yield batch
            batch, size = [], 0
        batch.append(text)
        size += len(text)
    if batch:
        yield batch


@lru_cache(maxsize=32)
def _compiled(source: str) -> jinja2.Template:
    if len(source) > MAX_SOURCE:
        raise Unsafe(f"a template of {len(source):,} characters is above the limit of {MAX_SOURCE:,}; shorten it")
    try:
        names = forbidden_names(source)
        if names:
            raise Unsafe(f"the template reaches for {names[0]!r}, which no template needs; use one that you trust")
        return environment().from_string(source)
    except jinja2.TemplateSyntaxError as error:
        raise UserError(f"the template does not parse at line {error.lineno}: {error.message}") from error
    except (OverflowError, RecursionError) as error:
        raise Unsafe(f"the template does not compile within limits ({error}); use one that you trust") from error


def _render_one(template: jinja2.Template, variables: Mapping[str, Any]) -> str | Refused:
    pieces, size = [], 0
    try:
        for piece in template.generate(**variables):
            size += len(piece)
            if size > MAX_OUTPUT:
                raise Unsafe(f"the template wrote more than {MAX_OUTPUT:,} characters for one row; use one you trust")
            pieces.append(piece)
    except SecurityError as error:
        raise Unsafe(f"the template is refused: {error}; use one that you trust") from error
    except MemoryError as error:
        raise Unsafe(_memory_sentence()) from error
    except _MISTAKES as error:
        return Refused(f"the template refuses this row: {str(error) or type(error).__name__}")
    return "".join(pieces)


def _memory_sentence() -> str:
    return f"the template asked for more than {MEMORY_BYTES >> 20:,} MiB of memory; use one that you trust"


class _Worker:
    """The process that renders strangers' templates, from its start to a broken limit or the end of this process."""

    def __init__(self) -> None:
        root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
        paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "bottega.core.templates"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={"PYTHONPATH": os.pathsep.join(paths), "PYTHONUTF8": "1"} | _needed_environment(),
        )

    def render(self, source: str, rows: list[str], cpu_s: int) -> list[str | Refused]:
        """Texts of `rows` (JSON objects); a broken limit ends the worker and raises Unsafe."""
        head = json.dumps({"cpu_s": cpu_s, "source": source})
        request = head[:-1] + ', "rows": [' + ", ".join(rows) + "]}\n"
        answer = self._exchange(request.encode())
        if answer is None:
            self.close()
            raise Unsafe(
                f"the template used more than {cpu_s} s of CPU time, {WALL_S} s or {MEMORY_BYTES >> 20} MiB of memory; "
                "use one that you trust"
            )
        if "error" in answer:
            raise (Unsafe if answer["error"] == "unsafe" else UserError)(answer["message"])
        return [text if text is not None else Refused(reason) for text, reason in answer["rows"]]

    def _exchange(self, request: bytes) -> dict[str, Any] | None:
        """Send one line, wait for one line; None when the worker died or the wall-clock limit passed."""
        assert self.process.stdin is not None and self.process.stdout is not None
        try:
            self.process.stdin.write(request)
            self.process.stdin.flush()
        except (BrokenPipeError, OSError):
            return None
        deadline = time.monotonic() + WALL_S
        chunks: list[bytes] = []
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            while not (chunks and chunks[-1].endswith(b"\n")):
                left = deadline - time.monotonic()
                if left <= 0 or not selector.select(left):
                    return None
                chunk = os.read(self.process.stdout.fileno(), 1 << 20)
                if not chunk:
                    return None
                chunks.append(chunk)
        answer = json.loads(b"".join(chunks))
        assert isinstance(answer, dict)
        return answer

    def alive(self) -> bool:
        return self.process.poll() is None

    def close(self) -> None:
        """End the process and forget it."""
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with _ignoring_broken_pipe():
                    pipe.close()


def _needed_environment() -> dict[str, str]:
    """What an interpreter needs to start; nothing else of this process' environment is a stranger's business."""
    return {name: os.environ[name] for name in ("PATH", "SYSTEMROOT", "LD_LIBRARY_PATH") if name in os.environ}


@contextmanager
def _ignoring_broken_pipe() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        return


_WORKERS: dict[int, _Worker] = {}
_LOCK = threading.Lock()


def _worker() -> _Worker:
    """This process' worker, started when there is none (a fork gets its own)."""
    worker = _WORKERS.get(os.getpid())
    if worker is None or not worker.alive():
        if worker is None:
            atexit.register(close_worker)
        worker = _WORKERS[os.getpid()] = _Worker()
    return worker


def close_worker() -> None:
    """End this process' worker; the next stranger's template starts a new one."""
    worker = _WORKERS.pop(os.getpid(), None)
    if worker is not None:
        worker.close()


def _limit_cpu(seconds: int) -> None:
    """Allow this process `seconds` more of CPU time; the kernel ends it after that."""
    try:
        import resource
    except ImportError:
        return
    usage = resource.getrusage(resource.RUSAGE_SELF)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    soft = int(usage.ru_utime + usage.ru_stime) + seconds + 1
    resource.setrlimit(resource.RLIMIT_CPU, (soft if hard < 0 else min(soft, hard), hard))


def _limit_memory() -> None:
    try:
        import resource
    except ImportError:
        return
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES if hard < 0 else min(MEMORY_BYTES, hard), hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    """What the worker says to one request: texts, or one error for the whole batch."""
    try:
        template = _compiled(request["source"])
        answers = []
        for row in request["rows"]:
            text = _render_one(template, row)
            answers.append([None, text.reason] if isinstance(text, Refused) else [text, ""])
        return {"rows": answers}
    except Unsafe as error:
        return {"error": "unsafe", "message": str(error)}
    except UserError as error:
        return {"error": "user", "message": str(error)}
    except MemoryError:
        return {"error": "unsafe", "message": _memory_sentence()}


def work() -> None:
    """The worker's loop: one request a line on stdin, one answer a line on stdout, until stdin closes."""
    _limit_memory()
    for line in sys.stdin.buffer:
        request = json.loads(line)
        _limit_cpu(request["cpu_s"])
        answer = json.dumps(_answer(request))
        sys.stdout.buffer.write(answer.encode() + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    work()
