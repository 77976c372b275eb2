"""A vLLM server as the Sampler of a training: prompts go out as token ids, ids and their log-probabilities come back.

Left out: starting the server; weights other than LoRA adapters, which a server loads from a folder that it sees too; servers that give
text alone. What is asked is vLLM's: /v1/completions with `return_tokens_as_token_ids`, /v1/load_lora_adapter, /v1/unload_lora_adapter.

A reply's numbers are checked against the trainer's by whoever learns from it (rollout.max_drift): the server must run at the same
precision and sample from the whole distribution.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
from torch import Tensor

from bottega.core.errors import UserError
from bottega.core.types import Reply
from bottega.models.sampling import Sampling

AGAIN = (408, 425, 429, 500, 502, 503, 504)
MARK = "token_id:"


class Served:
    """As Generator.sample, by a server. save: writes the adapter as it is now into a folder that the server sees under the same name.

    Each version is loaded under a name of its own, and the one before it is let go; the same weights are sent once.
    """

    def __init__(
        self,
        url: str,
        save: Callable[[str], None],
        folder: Path,
        *,
        tokenizer: Any,
        stop_ids: Sequence[int],
        name: str,
        key: str = "",
        at_once: int = 32,
        timeout_s: float = 600.0,
        tries: int = 4,
    ) -> None:
        self.url, self.save, self.folder, self.tokenizer = url.rstrip("/"), save, folder, tokenizer
        self.ends, self.name, self.at_once, self.tries = tuple(stop_ids), name, at_once, tries
        self.version = 0
        self._loaded, self._digest = "", ""
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._client = httpx2.Client(timeout=httpx2.Timeout(timeout_s, connect=10.0), headers=headers)

    def stop_ids(self) -> tuple[int, ...]:
        """The tokens that end a reply by default."""
        return self.ends

    def sync(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """As Sampler: the adapter's newest weights are read where they are trained, so that the pairs given are not looked at."""
        self.renew()

    def renew(self) -> None:
        """Hand the server the adapter as it is now, if it has changed.

        Raises:
            UserError: the server does not take it.
        """
        draft = self.folder / "draft"
        self.save(str(draft))
        weights = draft / "adapter_model.safetensors"
        digest = hashlib.sha256(weights.read_bytes()).hexdigest()
        if digest == self._digest:
            return
        self.version += 1
        name = f"{self.name}-{digest[:12]}"
        place = self.folder / name
        if not place.exists():
            draft.rename(place)
        self._post("load_lora_adapter", {"lora_name": name, "lora_path": str(place.resolve())}, fine="already")
        if self._loaded:
            self._post("unload_lora_adapter", {"lora_name": self._loaded}, fine="not found")
            _remove(self.folder / self._loaded)
        self._loaded, self._digest = name, digest

    def sample(self, prompts: Sequence[Sequence[int]], **options: Any) -> list[Reply]:
        """One reply a prompt (or n, one after the other), in order, of the adapter as it is now.

        Args:
            options: as Generator.sample; each prompt's seed goes to the server, whose draws are its own.

        Raises:
            UserError: the server cannot be reached, refuses, or gives no token ids.
        """
        settings = Sampling.of(options)
        self.renew()
        seeds = (
            settings.seed if isinstance(settings.seed, Sequence) else [settings.seed + at for at in range(len(prompts))]
        )
        with ThreadPoolExecutor(max_workers=self.at_once) as pool:
            groups = list(pool.map(lambda one: self._ask(one[0], one[1], settings), zip(prompts, seeds, strict=True)))
        return [reply for group in groups for reply in group]

    def _ask(self, prompt: Sequence[int], seed: int, settings: Sampling) -> list[Reply]:
        body = {
            "model": self._loaded,
            "prompt": [int(token) for token in prompt],
            "n": settings.n,
            "max_tokens": settings.max_tokens,
            "temperature": settings.temperature,
            "top_p": settings.top_p,
            "top_k": settings.top_k or -1,
            "min_p": settings.min_p,
            "repetition_penalty": settings.repetition_penalty,
            "seed": int(seed) % (1 << 63),
            "stop_token_ids": list(self.ends if settings.stop_ids is None else settings.stop_ids),
            "stop": list(settings.stop),
            "logprobs": 0,
            "return_tokens_as_token_ids": True,
            "skip_special_tokens": not settings.special,
        }
        choices = self._post("completions", body).get("choices")
        if not isinstance(choices, list) or len(choices) != settings.n:
            found = len(choices) if isinstance(choices, list) else "none"
            raise UserError(f"{self.url} gave {found} choices where {settings.n} were asked for: it is no vLLM server")
        ordered = sorted(choices, key=lambda choice: int(choice.get("index", 0)))
        return [self._reply(choice, len(prompt), settings) for choice in ordered]

    def _reply(self, choice: Mapping[str, Any], num_prompt: int, settings: Sampling) -> Reply:
        told = choice.get("logprobs") or {}
        tokens, logps = told.get("tokens") or [], told.get("token_logprobs") or []
        known = tokens and len(tokens) == len(logps) and all(str(token).startswith(MARK) for token in tokens)
        if not known or any(value is None for value in logps):
            raise UserError(
                f"{self.url} gives no token ids with their log-probabilities, which are learned from: it must be vLLM, for its "
                "`return_tokens_as_token_ids`"
            )
        ids = tuple(int(str(token).removeprefix(MARK)) for token in tokens)
        finish: Any = "length" if choice.get("finish_reason") == "length" else "stop"
        text = choice.get("text")
        if not isinstance(text, str):
            text = self.tokenizer.decode(list(ids), skip_special_tokens=not settings.special)
        usage = {"prompt_tokens": num_prompt, "completion_tokens": len(ids)}
        return Reply(text=text, ids=ids, logps=tuple(map(float, logps)), finish=finish, usage=usage)

    def _post(self, path: str, body: Mapping[str, Any], *, fine: str = "") -> dict[str, Any]:
        """What the server says, tried again where it is busy; fine: a word in a refusal that is none."""
        for number in range(1, self.tries + 1):
            try:
                answer = self._client.post(f"{self.url}/{path}", json=dict(body))
            except httpx2.TransportError as error:
                if number == self.tries:
                    raise UserError(
                        f"the server {self.url} cannot be reached ({type(error).__name__}: {error}): start it, or leave "
                        "rollout.server out"
                    ) from error
            else:
                if answer.status_code == 200:
                    return _mapping(answer)
                said = " ".join(answer.text[:300].split())
                if fine and fine in said:
                    return {}
                if answer.status_code not in AGAIN or number == self.tries:
                    raise UserError(
                        f"the server {self.url} refused {path} (HTTP {answer.status_code}: {said}){_remedy(path)}"
                    )
            time.sleep(0.25 * 2**number)
        raise AssertionError("the last try returns or raises")


def _mapping(answer: httpx2.Response) -> dict[str, Any]:
    try:
        found = answer.json()
    except ValueError:
        return {}  # adapters are acknowledged in words
    return found if isinstance(found, dict) else {}


def _remedy(path: str) -> str:
    if path != "load_lora_adapter":
        return ""
    return (
        ": start vLLM with --enable-lora, --max-lora-rank as large as the method's rank and the variable "
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING=True, where it sees the run's folder"
    )


def _remove(folder: Path) -> None:
    for path in sorted(folder.glob("*")):
        path.unlink()
    if folder.is_dir():
        folder.rmdir()
