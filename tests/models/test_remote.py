"""The client of OpenAI-compatible endpoints, against a real HTTP server that misbehaves on demand."""

from __future__ import annotations

import asyncio
import datetime
import email.utils
import threading

import pytest

from bottega.core.errors import Unanswered, UserError
from bottega.core.types import Turn
from bottega.models.gate import Gate
from bottega.models.remote import Endpoint, Tls, retry_after
from tests.models import endpoint as served

HELLO = [Turn(role="system", content="be brief"), Turn(role="user", content="hello")]


def ask(url, turns=HELLO, *, sampling=None, times=1, **options):
    """Replies (or the errors) of `times` questions asked at once."""

    async def all_of_them():
        async with Endpoint(url=url, model="teacher", first_pause_s=0.01, **options) as teacher:
            asked = [teacher.respond(turns, **(sampling or {})) for _ in range(times)]
            return await asyncio.gather(*asked, return_exceptions=True), teacher

    return asyncio.run(all_of_them())


def test_a_chat_is_asked_with_its_sampling_and_the_key_comes_from_the_environment(monkeypatch):
    monkeypatch.setenv("TEACHER_KEY", "sk-canary")
    with served.Endpoint() as server:
        sampling = {"max_tokens": 7, "temperature": 0.5, "seed": 3, "stop": ()}
        (reply,), _ = ask(server.url, sampling=sampling, key_env="TEACHER_KEY")
    assert reply.text == "you said: hello" and reply.finish == "stop" and reply.usage["completion_tokens"] == 3
    assert server.headers[0]["Authorization"] == "Bearer sk-canary"
    messages = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hello"}]
    assert server.requests == [
        {"model": "teacher", "messages": messages, "max_tokens": 7, "temperature": 0.5, "seed": 3}
    ]


def test_a_key_that_is_not_there_is_named_and_its_value_is_in_no_error(monkeypatch):
    monkeypatch.delenv("TEACHER_KEY", raising=False)
    with pytest.raises(UserError, match="TEACHER_KEY is not set"):
        Endpoint(url="http://x/v1", model="m", key_env="TEACHER_KEY")
    monkeypatch.setenv("TEACHER_KEY", "sk-canary")
    with served.Endpoint(script=("401",)) as server:
        (error,), teacher = ask(server.url, key_env="TEACHER_KEY")
    assert error.fatal and "canary" not in str(error) + repr(teacher)


def test_completions_send_one_prompt_that_the_tokenizer_s_template_wrote():
    def render(turns):
        return "".join(f"<{turn.role}>{turn.content}" for turn in turns) + "<assistant>"

    with served.Endpoint() as server:
        (reply,), _ = ask(server.url, api="completions", render=render)
    assert reply.text == "you said: <system>be brief<user>hello<assistant>"
    assert server.paths == ["/v1/completions"]
    with pytest.raises(UserError, match="name a tokenizer"):
        Endpoint(url="http://x/v1", model="m", api="completions")


@pytest.mark.parametrize("how", ["429", "500", "503", "html", "truncated", "empty", "no-choices", "cut", "null", "list",
                                 "deep", "bytes", "huge-line"])  # fmt: skip
def test_what_may_pass_is_tried_again(how):
    with served.Endpoint(script=(how,), retry_after="0.01") as server:
        (reply,), _ = ask(server.url)
    assert reply.text == "you said: hello" and len(server.requests) == 2


@pytest.mark.parametrize("how", ["cut", "truncated", "html", "500"])
def test_a_stream_that_is_cut_is_tried_again_and_a_whole_one_is_put_together(how):
    with served.Endpoint(script=(how,) if how != "html" else ()) as server:
        (reply,), _ = ask(server.url, stream=True)
    assert reply.text == "you said: hello" and reply.usage["completion_tokens"] == 3
    assert len(server.requests) == (1 if how == "html" else 2)


def test_a_line_separator_within_a_streamed_reply_ends_no_line():
    """Servers that write JSON with its letters as they are send U+2028 raw, which str.splitlines takes for an end."""
    from bottega.models.remote import _Pieces

    raw = 'data: {"choices": [{"delta": {"content": "a\u2028b"}, "finish_reason": "stop"}]}\r\n\r\n'.encode()
    heard: list[str] = []
    pieces = _Pieces(heard.append)
    for at in range(len(raw)):
        pieces.feed(raw[at : at + 1])  # bytes come in any portions, also within a letter
    assert heard == ["a\u2028b"] and pieces.reply().text == "a\u2028b"


@pytest.mark.parametrize(
    ("how", "tries", "reason"),
    [
        ("500", 4, "HTTP 500"), ("html", 2, "HTML"), ("truncated", 2, "bad JSON"), ("no-choices", 2, "no choices"),
        ("empty", 2, "empty"),
        ("cut", 4, "cut off"), ("huge-line", 2, "too long"), ("400", 1, "HTTP 400"), ("401", 1, "HTTP 401"),
    ],
)  # fmt: skip
def test_tries_end_with_a_reason_and_other_4xx_are_not_tried_again(how, tries, reason):
    with served.Endpoint(script=(how,) * 9) as server:
        (error,), _ = ask(server.url, tries=4)
    assert isinstance(error, Unanswered) and error.reason == reason and len(server.requests) == tries
    assert error.fatal == (how == "401")


def test_a_slow_first_byte_is_a_timeout_and_nobody_at_home_is_unreachable():
    with served.Endpoint(script=("slow", "slow")) as server:
        (error,), _ = ask(server.url, timeout_s=0.1, tries=2)
        port = server.server.server_address[1]
    assert error.reason == "timeout"
    (error,), _ = ask(f"http://127.0.0.1:{port}/v1", tries=2)
    assert error.reason == "unreachable" and "127.0.0.1" in str(error)


def test_retry_after_holds_everybody_back_and_halves_the_places():
    """Four places, all answered 429 with a pause of 0.3 s: one cut, to two places, and no request within the pause."""
    with served.Endpoint(script=("429",) * 4, retry_after="0.3") as server:
        replies, teacher = ask(server.url, times=4)
    assert all(reply.text for reply in replies) and len(server.requests) == 8
    assert min(server.times[4:]) - max(server.times[:4]) >= 0.25
    assert teacher.gate.limit < 4


def test_places_grow_while_answers_are_good_and_never_pass_the_most():
    with served.Endpoint(delay_s=0.01) as server:
        replies, teacher = ask(server.url, times=60, most_at_once=6)
    assert len(replies) == 60 and 4 < server.most <= 6 and teacher.gate.limit == 6, (
        "a busy machine may not see all six at once"
    )


def test_the_gate_halves_once_for_a_burst():
    """8 places: three refusals of one burst leave 4; one that entered after the cut leaves 2."""

    async def burst():
        gate = Gate(start=8)
        async with gate as entered:
            for _ in range(3):
                gate.too_much(entered, 0.0)
            first = gate.limit
        async with gate as entered:
            gate.too_much(entered, 0.0)
        return first, gate.limit

    assert asyncio.run(burst()) == (4.0, 2.0)


def test_retry_after_is_a_number_or_a_date():
    later = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=30)
    assert 28 <= retry_after(email.utils.format_datetime(later, usegmt=True)) <= 30
    assert retry_after("-5") == 0 and retry_after("nan") == 0 and retry_after("1e9") == 120


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A certificate for 127.0.0.1 that its own key signed."""
    return served.certificate(tmp_path_factory.mktemp("tls"))


def test_tls_trusts_the_named_authority_or_nobody_unless_told(certificate):
    with served.Endpoint(tls=certificate) as server:
        url = server.url
        (error,), _ = ask(url, tries=1)
        (named,), _ = ask(url, tls=Tls(authority=str(certificate / "cert.pem")))
        (blind,), _ = ask(url, tls=Tls(verify=False))
    assert error.reason == "unreachable" and named.text == blind.text == "you said: hello"
    with pytest.raises(UserError, match="check the paths"):
        Tls(authority="no-such-file.pem").context()


def test_a_redirect_is_not_followed_with_the_key():
    from http.server import BaseHTTPRequestHandler, HTTPServer

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            self.send_response(307)
            self.send_header("Location", "http://127.0.0.1:1/elsewhere")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_):
            """Nothing."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.handle_request, daemon=True).start()
    (error,), _ = ask(f"http://127.0.0.1:{server.server_address[1]}/v1")
    server.server_close()
    assert error.reason == "HTTP 307"
