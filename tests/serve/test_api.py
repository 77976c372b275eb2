"""The server as its clients meet it: OpenAI's own client, many at once, limits, keys, adapters; and what is sent on purpose.

Left out: the process and its options (tests/workshop/test_serving.py), what a row says (test_lane.py).
"""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx2 as httpx
import openai
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from bottega.core.types import Turn
from bottega.evals.engine import Engine as Asked
from bottega.models.served import Served
from bottega.serve import api, asks, doorway
from bottega.serve.asks import Limits
from bottega.serve.doorway import LOOPBACK
from bottega.serve.lane import Lane
from tests.models.tiny import tiny_model
from tests.serve.served import client, served, until, voice_of
from tests.serve.test_lane import an_adapter

HELLO = [{"role": "user", "content": "Who keeps the keys?"}]
KEY = "k" * 24


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """A base and two adapters on it."""
    here = tmp_path_factory.mktemp("serve")
    tiny_model("llama", here / "base")
    for seed in (1, 2):
        an_adapter("llama", here, seed)
    return here


@pytest.fixture(scope="module")
def tiny(here):
    with served(here / "base") as (voice, url):
        yield voice, url


def chat(url, **options):
    return client(url).chat.completions.create(
        **({"model": "tiny", "messages": HELLO, "max_tokens": 12, "temperature": 0} | options)
    )


def test_a_chat_says_what_the_model_says_under_the_template_stored_with_it(tiny):
    voice, url = tiny
    got = chat(url)
    generator = voice.engine.generator
    prompt = Asked(generator.model, voice.tokenizer).chat([Turn(role="user", content="Who keeps the keys?")])
    alone = generator.sample([prompt], max_tokens=12, stop_ids=voice.turn_ids)[0]
    assert got.choices[0].message.content == alone.text and got.choices[0].finish_reason == alone.finish
    assert got.usage.prompt_tokens == len(prompt) and got.usage.completion_tokens == len(alone.ids)
    assert got.model == "tiny" and [model.id for model in client(url).models.list()] == ["tiny"]
    assert client(url).models.retrieve("tiny").id == "tiny"


def test_a_stream_joined_is_the_answer_in_one_piece(tiny):
    _, url = tiny
    whole = chat(url, logprobs=True, top_logprobs=2, n=2, temperature=1, seed=4)
    texts, words, ends, usage = {0: "", 1: ""}, {0: [], 1: []}, {}, None
    for chunk in chat(
        url, logprobs=True, top_logprobs=2, n=2, temperature=1, seed=4, stream=True, stream_options={"include_usage": True}
    ):  # fmt: skip
        usage = chunk.usage or usage
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            words[choice.index] += choice.logprobs.content if choice.logprobs else []
            ends[choice.index] = choice.finish_reason or ends.get(choice.index)
    for choice in whole.choices:
        assert texts[choice.index] == choice.message.content and ends[choice.index] == choice.finish_reason
        assert words[choice.index] == choice.logprobs.content
        assert all(len(word.top_logprobs) == 2 for word in words[choice.index])
    assert usage == whole.usage


def test_completions_take_texts_and_token_ids_with_stop_seed_and_logprobs(tiny):
    voice, url = tiny
    complete = client(url).completions.create
    got = complete(model="tiny", prompt=["The saw", "The plane"], max_tokens=5, temperature=0, logprobs=2)
    assert [choice.index for choice in got.choices] == [0, 1]
    ids = [voice.engine.generator, voice.tokenizer("The saw")["input_ids"]]
    by_ids = complete(model="tiny", prompt=ids[1], max_tokens=5, temperature=0, logprobs=2)
    assert by_ids.choices[0].text == got.choices[0].text
    assert by_ids.choices[0].logprobs.token_logprobs == pytest.approx(got.choices[0].logprobs.token_logprobs, abs=1e-4)
    assert all(1 <= len(top) <= 2 for top in got.choices[0].logprobs.top_logprobs)
    stopped = complete(model="tiny", prompt="The saw", max_tokens=5, temperature=0, stop=got.choices[0].text[2:4])
    assert stopped.choices[0].text == got.choices[0].text[:2] and stopped.choices[0].finish_reason == "stop"
    drawn = [complete(model="tiny", prompt="The saw", max_tokens=8, seed=seed).choices[0].text for seed in (3, 3, 4)]
    assert drawn[0] == drawn[1] != drawn[2]
    streamed = complete(model="tiny", prompt="The saw", max_tokens=5, temperature=0, stream=True)
    chunks = [chunk.choices[0] for chunk in streamed]
    assert "".join(chunk.text for chunk in chunks) == got.choices[0].text
    assert [chunk.finish_reason for chunk in chunks][-1] == got.choices[0].finish_reason


def test_forty_at_once_are_told_what_each_is_told_alone(tiny):
    voice, url = tiny
    texts = [f"{number} of them are sharp" for number in range(40)]
    alone = [chat(url, messages=[{"role": "user", "content": text}]).choices[0].message.content for text in texts[:6]]
    with ThreadPoolExecutor(40) as pool:
        ask = lambda text: chat(url, messages=[{"role": "user", "content": text}]).choices[0].message.content  # noqa: E731
        together = list(pool.map(ask, texts))
    assert together[:6] == alone
    until(lambda: voice.engine.counts.running == voice.engine.counts.waiting == 0)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("n", 0), ("n", 17), ("n", True), ("temperature", -1), ("temperature", "hot"), ("top_p", 0), ("max_tokens", 0),
        ("max_tokens", 10**9), ("stop", [""]), ("stop", ["a"] * 17), ("stop", 3), ("seed", 1.5), ("stream", "yes"),
        ("messages", []), ("messages", "hi"), ("messages", [{"role": "robot", "content": "hi"}]),
        ("messages", [{"role": "user", "content": "\ud800"}]), ("messages", [*HELLO, {"role": "assistant", "content": "I do"}]),
        ("messages", [{"role": "user", "content": [{"type": "image_url"}]}]), ("logit_bias", {"5": 3}),
        ("tools", [{"type": "function"}]), ("frequency_penalty", 0.5), ("response_format", {"type": "json_object"}),
        ("top_logprobs", 3), ("temprature", 1), ("model", None), ("stream_options", {"a": 1}), ("stop_token_ids", ["x"]),
    ],
)  # fmt: skip
def test_what_cannot_be_answered_as_asked_is_refused_with_its_field(tiny, field, value):
    body = {"model": "tiny", "messages": HELLO, "max_tokens": 3, field: value}
    got = httpx.post(tiny[1] + "/v1/chat/completions", content=json.dumps(body).encode())
    assert got.status_code == 400, got.text
    error = got.json()["error"]
    assert error["message"] and error["type"] == "invalid_request_error" and error["param"] in (field, None)


def test_neutral_values_of_fields_that_are_not_known_are_fine(tiny):
    chat(
        tiny[1], frequency_penalty=0, presence_penalty=0.0, response_format={"type": "text"}, user="anna", logit_bias={}
    )


def test_errors_are_those_that_openai_s_client_knows(here):
    with served(here / "base", keys=(KEY,)) as (_, url):
        with pytest.raises(openai.AuthenticationError, match="key"):
            client(url, "wrong").models.list()
        known = client(url, KEY)
        with pytest.raises(openai.NotFoundError, match="'huge'.*tiny"):
            known.chat.completions.create(model="huge", messages=HELLO)
        with pytest.raises(openai.BadRequestError, match="positions"):
            known.completions.create(model="tiny", prompt=[5] * 127, max_tokens=5)
        with pytest.raises(openai.BadRequestError, match="token 9999"):
            known.completions.create(model="tiny", prompt=[5, 9999], max_tokens=5)
        assert httpx.get(url + "/health").status_code == 200
        assert httpx.get(url + "/metrics").status_code == 401


def test_other_names_routes_and_methods_are_refused_in_json(tiny):
    url = tiny[1]
    assert httpx.get(url + "/v1/models", headers={"Host": "elsewhere.example"}).status_code == 421
    assert httpx.get(url + "/v1/models", headers={"Host": "[::1"}).status_code == 421
    assert "error" in httpx.get(url + "/v1/nothing").json() and httpx.get(url + "/v1/nothing").status_code == 404
    assert httpx.get(url + "/v1/completions").status_code == 405
    answer = httpx.get(url + "/v1/models", headers={"Origin": "http://elsewhere.example"})
    assert "access-control-allow-origin" not in answer.headers


def test_bodies_that_are_too_large_too_deep_or_no_json(tiny, monkeypatch):
    url = tiny[1] + "/v1/completions"
    assert httpx.post(url, content=b" " * 1_000_001).status_code == 413
    for body in (b"", b"[1]", b"nonsense", b'{"a": NaN}', b"\xff\xfe", b"[" * 100_000, b'{"a": ' + b"9" * 6000 + b"}"):
        assert httpx.post(url, content=body).status_code == 400, body[:20]
    deep = json.dumps({"model": "tiny", "prompt": "a", "metadata": json.loads('{"a":' * 40 + "1" + "}" * 40)})
    assert "deeply" in httpx.post(url, content=deep.encode()).json()["error"]["message"]
    monkeypatch.setattr(doorway, "BODY_S", 0.2)
    host, port = tiny[1].removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as slow:
        slow.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100\r\n\r\n{")
        assert b" 408 " in slow.recv(100)


def test_a_full_queue_says_when_to_come_again(here):
    with served(here / "base", rows=1, waiting=2) as (voice, url):
        voice.engine.counts.waiting = 2  # two wait
        assert httpx.get(url + "/ready").status_code == 503 and httpx.get(url + "/health").status_code == 200
        with pytest.raises(openai.RateLimitError) as refused:
            chat(url)
        assert int(refused.value.response.headers["retry-after"]) >= 1
        with pytest.raises(openai.RateLimitError):
            chat(url, n=3)
        voice.engine.counts.waiting = 0
        assert chat(url).choices


def slowed(monkeypatch, seconds=0.03):
    """Every step takes so long."""
    step = Lane.step

    def slow(self):
        threading.Event().wait(seconds)
        return step(self)

    monkeypatch.setattr(Lane, "step", slow)


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_away_frees_its_slot(here, monkeypatch, stream):
    slowed(monkeypatch)
    with served(here / "base") as (voice, url):
        body = {"model": "tiny", "prompt": [5, 6], "max_tokens": 120, "stream": stream, "stop_token_ids": []}
        with socket.create_connection(("127.0.0.1", int(url.rsplit(":")[-1]))) as one:
            text = json.dumps(body).encode()
            head = f"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(text)}\r\n\r\n"
            one.sendall(head.encode() + text)
            until(lambda: voice.engine.counts.running == 1)
        until(lambda: voice.engine.counts.running == 0, 1.0)
        assert voice.engine.counts.tokens < 100


def test_a_client_that_reads_too_slowly_is_let_go(here, monkeypatch):
    monkeypatch.setattr(api, "SEND_S", 0.1)
    voice = voice_of(here / "base")
    voice.engine.start()

    async def stuck():
        one = api.Api(voice, hosts=LOOPBACK)
        call = api.Call(one, asks.read(b'{"model": "tiny", "prompt": [5], "max_tokens": 100}', "text", Limits()))
        call.submit()

        async def receive():
            await asyncio.sleep(60)

        async def send(message):
            if message["type"] == "http.response.body":
                await asyncio.sleep(60)

        await asyncio.wait_for(api.Stream(call)({"type": "http"}, receive, send), 5)
        assert all(job.gone for job in call.jobs)

    asyncio.run(stuck())
    voice.engine.stop()


def test_an_engine_that_breaks_turns_health_red_and_nobody_waits_for_ever(here, monkeypatch, capfd):
    with served(here / "base") as (voice, url):
        monkeypatch.setattr(Lane, "step", lambda self: 1 / 0)
        with pytest.raises(openai.InternalServerError, match="ZeroDivisionError"):
            chat(url)
        until(lambda: not voice.engine.healthy)
        assert httpx.get(url + "/health").status_code == 503
        with pytest.raises(openai.InternalServerError):
            chat(url)
    assert "ZeroDivisionError" in capfd.readouterr().err


def test_a_lane_without_memory_gives_up_its_rows_and_goes_on(here, monkeypatch):
    with served(here / "base") as (voice, url):
        with monkeypatch.context() as patch:
            patch.setattr(Lane, "_choose", lambda self, logits: (_ for _ in ()).throw(MemoryError("no room")))
            with pytest.raises(openai.InternalServerError, match="out of memory"):
                chat(url)
        assert chat(url).choices and voice.engine.healthy


def test_adapters_are_chosen_by_name_mixed_loaded_and_unloaded_while_it_runs(here):
    with served(here / "base", adapters={"one": here / "a1"}, loads=here) as (_, url):
        base, one = (chat(url, model=name).choices[0].message.content for name in ("tiny", "one"))
        assert base != one
        with pytest.raises(openai.NotFoundError):
            chat(url, model="two")
        load = lambda **asked: httpx.post(url + "/v1/load_lora_adapter", json=asked)  # noqa: E731
        assert load(lora_name="two", lora_path="a2").status_code == 200
        assert [model.id for model in client(url).models.list()] == ["tiny", "one", "two"]
        mixed = chat(url, model="one:0.5+two").choices[0].message.content
        assert mixed not in (base, one) and chat(url, model="one").choices[0].message.content == one
        assert load(lora_name="two", lora_path="a2").status_code == 400
        for path in ("../serve", "/etc", "a9", "base"):
            assert load(lora_name="x", lora_path=path).status_code == 400, path
        for name in ("tiny", "a b", "a+b", ""):
            assert load(lora_name=name, lora_path="a1").status_code == 400, name
        unload = lambda name: httpx.post(url + "/v1/unload_lora_adapter", json={"lora_name": name})  # noqa: E731
        assert unload("two").status_code == 200 and unload("two").status_code == 404
        with pytest.raises(openai.NotFoundError):
            chat(url, model="one+two")
        for odd in ("one:", "one:x", "one:nan", "one:1e9", "+", "one+" * 9):
            with pytest.raises(openai.NotFoundError):
                chat(url, model=odd)


def test_replies_of_an_adapter_that_is_unloaded_end_with_an_error_and_others_go_on(here, monkeypatch):
    slowed(monkeypatch)
    with (
        served(here / "base", adapters={"one": here / "a1"}, loads=here) as (voice, url),
        ThreadPoolExecutor(2) as pool,
    ):
        complete = client(url).completions.create
        asked = [pool.submit(complete, model=name, prompt=[5, 6], max_tokens=60) for name in ("one", "tiny")]
        until(lambda: voice.engine.counts.running == 2)
        assert httpx.post(url + "/v1/unload_lora_adapter", json={"lora_name": "one"}).status_code == 200
        assert isinstance(asked[0].exception(), openai.InternalServerError)
        assert asked[1].result().choices


def test_rows_of_different_adapters_wait_for_each_other_where_they_cannot_share_a_batch(here):
    with served(here / "base", adapters={"one": here / "a1"}) as (voice, url):
        names = ["tiny", "one"] * 4
        with ThreadPoolExecutor(8) as pool:
            shared = list(pool.map(lambda name: chat(url, model=name).choices[0].message.content, names))
            voice.engine.adapters.mixes = False
            apart = list(pool.map(lambda name: chat(url, model=name).choices[0].message.content, names))
        assert shared == apart and len(set(apart)) == 2


def test_no_client_loads_an_adapter_unless_a_folder_was_opened_for_it(here):
    with served(here / "base", adapters={"one": here / "a1"}) as (_, url):
        for path, body in (("load", {"lora_name": "x", "lora_path": "a2"}), ("unload", {"lora_name": "one"})):
            assert httpx.post(f"{url}/v1/{path}_lora_adapter", json=body).status_code == 403


def test_a_training_can_sample_through_it_as_through_vllm(here, tmp_path):
    """bottega's own client of vLLM servers: token ids, their log-probabilities, and the adapter handed over by folder."""
    import shutil

    def save(folder):
        shutil.copytree(here / "a1", folder, dirs_exist_ok=True)

    with served(here / "base", adapters={}, loads=tmp_path) as (voice, url):
        sampler = Served(url + "/v1", save, tmp_path, tokenizer=voice.tokenizer, stop_ids=(2,), name="policy")
        got = sampler.sample([[5, 6, 7], [9]], max_tokens=6, temperature=1.0, seed=3, n=2)
        assert len(got) == 4 and all(len(reply.ids) == len(reply.logps) for reply in got)
        route = voice.route(voice.names()[1])
        for prompt, seed, replies in (([5, 6, 7], 3, got[:2]), ([9], 4, got[2:])):
            with voice.engine.adapters.routing([route]):
                alone = voice.engine.generator.sample(
                    [prompt], max_tokens=6, temperature=1.0, seed=seed, n=2, stop_ids=(2,), batch=1
                )
            assert [reply.ids for reply in replies] == [reply.ids for reply in alone]
            assert replies[0].logps == pytest.approx(alone[0].logps, abs=1e-4)


def test_metrics_are_read_by_prometheus_own_parser(tiny):
    chat(tiny[1])
    text = httpx.get(tiny[1] + "/metrics").text
    values = {sample.name: sample.value for family in text_string_to_metric_families(text) for sample in family.samples}
    assert values["bottega_reply_tokens_total"] > 0 and values["bottega_healthy"] == 1
    assert values["bottega_slots"] == 4 and values["bottega_waiting"] == 0


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
FIELDS = st.sampled_from([*asks.SHARED, *asks.NEUTRAL, "messages", "prompt", "top_logprobs", "user"])


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(extra=st.dictionaries(FIELDS, JSON, max_size=3), route=st.sampled_from(["chat/completions", "completions"]))
def test_whatever_is_sent_there_is_no_server_error(tiny, extra, route):
    body = {"model": "tiny", "max_tokens": 2} | ({"messages": HELLO} if "chat" in route else {"prompt": "The"}) | extra
    got = httpx.post(f"{tiny[1]}/v1/{route}", content=json.dumps(body).encode())
    assert got.status_code < 500 and tiny[0].engine.healthy, (body, got.text)
