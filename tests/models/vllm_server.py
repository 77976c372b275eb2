"""A real HTTP server that samples as vLLM does, as far as a training asks it: adapters loaded from folders, token ids with their
log-probabilities.

Left out: everything else of vLLM. The numbers are those of this package's own Generator on the adapter that was loaded.
"""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from bottega.models.generate import Generator
from bottega.models.load import load


class VllmServer:
    """The server. Use it in a `with`.

    busy: the first so many requests get 503. ids: whether token ids are given. loads: whether adapters may be loaded.
    """

    def __init__(self, *, busy: int = 0, ids: bool = True, loads: bool = True, key: str = "") -> None:
        self.busy, self.ids, self.loads, self.key = busy, ids, loads, key
        self.adapters: dict[str, Generator] = {}
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                allowed = not outer.key or self.headers.get("Authorization") == f"Bearer {outer.key}"
                with outer.lock:  # the model is one
                    status, said = outer.answer(self.path, body) if allowed else (401, "no key")
                raw = (said if isinstance(said, str) else json.dumps(said)).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

            def log_message(self, *_: Any) -> None:
                """Nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/v1"

    def __enter__(self) -> VllmServer:
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    def answer(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        self.asked.append((path, body))
        if self.busy:
            self.busy -= 1
            return 503, "busy"
        if path == "/v1/load_lora_adapter":
            if not self.loads:
                return 404, {"detail": "Not Found"}
            if body["lora_name"] in self.adapters:
                return 400, f"The lora adapter '{body['lora_name']}' has already been loaded."
            loaded = load(body["lora_path"])
            self.adapters[body["lora_name"]] = Generator(loaded.attached.model, loaded.tokenizer)
            return 200, f"Success: LoRA adapter '{body['lora_name']}' added successfully."
        if path == "/v1/unload_lora_adapter":
            del self.adapters[body["lora_name"]]
            return 200, f"Success: LoRA adapter '{body['lora_name']}' removed successfully."
        if path != "/v1/completions" or body["model"] not in self.adapters:
            return 404, {"error": {"message": f"The model `{body.get('model')}` does not exist."}}
        return 200, {"choices": self.choices(body)}

    def choices(self, body: dict[str, Any]) -> list[dict[str, Any]]:
        replies = self.adapters[body["model"]].sample(
            [body["prompt"]], n=body["n"], seed=[body["seed"]], max_tokens=body["max_tokens"], temperature=body["temperature"],
            stop_ids=tuple(body["stop_token_ids"]), stop=tuple(body["stop"]),
        )  # fmt: skip
        found = []
        for index, reply in enumerate(replies):
            tokens = [f"token_id:{token}" if self.ids else "word" for token in reply.ids]
            told = {"tokens": tokens, "token_logprobs": list(reply.logps)}
            found.append({"index": index, "text": reply.text, "finish_reason": reply.finish, "logprobs": told})
        return found[::-1]  # in any order
