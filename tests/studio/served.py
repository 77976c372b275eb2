"""The pages on a real server in a thread, and a client that enters and sends forms as a browser does.

Left out: a browser (test_browser.py).
"""

from __future__ import annotations

import re
import secrets
import threading
import time
from contextlib import contextmanager
from html import unescape

import httpx2 as httpx
import uvicorn

from bottega.store import people, queue
from bottega.store.kinds import Settings
from bottega.store.schema import open_store
from bottega.studio.app import build

FIELD = re.compile(r'<input type="hidden" name="(\w+)" value="([^"]*)">')


@contextmanager
def served(store, port=0):
    """(database, base URL) while the pages run, on a free port where none is named."""
    db = open_store(store)
    config = uvicorn.Config(build(db), host="127.0.0.1", port=port, log_level="error", lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield db, f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(10)
        db.close()


class Browser:
    """Keeps cookies, reads the hidden fields of a page and sends them back with its Origin."""

    def __init__(self, base, token=None):
        self.base = base
        self.client = httpx.Client(base_url=base, follow_redirects=True, timeout=30)
        if token:
            assert self.send("/enter", token=token).status_code == 200

    def get(self, path):
        return self.client.get(path)

    def send(self, path, origin=None, **fields):
        return self.client.post(path, data=fields, headers={"Origin": origin or self.base})

    def fields(self, path):
        """The hidden fields of the answer form of a page, as last seen on it."""
        return {name: unescape(value) for name, value in FIELD.findall(self.get(path).text)}


def key():
    return secrets.token_hex(8)


def a_project(db, kind="compare", name="p", **settings):
    return queue.open_project(db, name, kind, Settings(**settings))


def somebody(db, name="anna", **more):
    return people.add(db, name, **more)


def pair(n=0, a="yes", b="no"):
    return {
        "prompt": [{"role": "user", "content": f"question {n}"}],
        "answers": [{"text": f"{a} {n}", "source": "model-one"}, {"text": f"{b} {n}", "source": "model-two"}],
    }
