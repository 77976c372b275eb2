"""A tiny model behind the real server in a thread, and the official client of OpenAI's API.

Left out: the process (tests/workshop/test_serving.py).
"""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager

import openai
import uvicorn
from transformers import AutoModelForCausalLM, AutoTokenizer

from bottega.data.chat import Template
from bottega.models.generate import Generator
from bottega.serve.api import Api
from bottega.serve.asks import Limits
from bottega.serve.doorway import LOOPBACK
from bottega.serve.engine import Engine
from bottega.serve.voice import Voice


def voice_of(folder, *, rows=4, waiting=64, adapters=None, name="tiny", **limits):
    """A voice over a saved model; adapters: name -> folder, {} for some that come later."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    engine = Engine(Generator(model, tokenizer), rows=rows, max_waiting=waiting, adapters=adapters is not None)
    for own, place in (adapters or {}).items():
        engine.adapters.add(own, place)
    return Voice(engine, tokenizer, Template.of(tokenizer), name, Limits(**limits))


@contextmanager
def running(app):
    """The base URL while an application is served on a free port."""
    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="critical", lifespan="off", http="h11")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(20)


@contextmanager
def served(folder, *, keys=(), loads=None, **options):
    """(voice, base URL) while a tiny model answers."""
    voice = voice_of(folder, **options)
    voice.engine.start()
    try:
        with running(Api(voice, hosts=LOOPBACK, keys=keys, folder=loads).app) as url:
            yield voice, url
    finally:
        voice.engine.stop(1.0)


def client(url, key="none", **options):
    return openai.OpenAI(base_url=url + "/v1", api_key=key, max_retries=0, timeout=60, **options)


def until(true, seconds=10.0):
    """Wait until something holds."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come to hold"
        time.sleep(0.01)
