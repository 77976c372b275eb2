"""The hard clients' set-ups on one tiny model, run in this process or, as `python -m tests.train.clients`, on several ranks."""

from __future__ import annotations

import json
import os
import random
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from bottega.core.errors import UserError
from bottega.core.textio import progress
from bottega.core.types import Row, Tokens
from bottega.models.load import load
from bottega.models.methods import method
from bottega.train import parallel
from bottega.train.assemble import assemble
from bottega.train.loop import Loop
from bottega.train.objectives import spec
from bottega.train.settings import LoopSettings
from bottega.train.source import Dataset

VOCABULARY = 320


def rows(kind: str, count: int = 8, seed: int = 0) -> list[Row]:
    """Seeded rows of uneven lengths: single, branches (a shared prompt, two answers) or pairs of texts."""
    draw = random.Random(seed)

    def ids(n: int) -> list[int]:
        return [draw.randrange(5, VOCABULARY) for _ in range(n)]

    made = []
    for index in range(count):
        a, b, c = draw.randint(3, 12), draw.randint(2, 9), draw.randint(2, 9)
        if kind == "single":
            made.append(Row(index=index, branches=(Tokens(ids(a + b), [0.0] * a + [1.0] * b),)))
        elif kind == "branches":
            made.append(
                Row(
                    index=index,
                    prefix=Tokens(ids(a), [0.0] * a),
                    branches=(Tokens(ids(b), [1.0] * b), Tokens(ids(c), [1.0] * c)),
                )
            )
        else:
            made.append(Row(index=index, branches=(Tokens(ids(b), [0.0] * b), Tokens(ids(c), [0.0] * c))))
    return made


def make_loop(
    model: str | Path,
    folder: str | Path,
    *,
    objective: str = "sft",
    tune: str = "full",
    kind: str = "single",
    strategy: str = "ddp",
    method_options: dict | None = None,
    packed: bool | None = None,
    streamed: bool | None = None,
    device: str = "cpu",
    **settings,
) -> Loop:
    """A loop of plain gradient descent at learning rate 1 (so that a step shows the gradient), ready to step."""
    loaded = load(model, stream=settings.get("stream", False) if streamed is None else streamed, device=device)
    torch.manual_seed(1)
    attached = method(tune, **(method_options or {})).attach(loaded.model)
    torch.manual_seed(1)
    defaults = {
        "steps": 1,
        "lr": 1.0,
        "schedule": "constant",
        "optimizer": "sgd",
        "beta1": 0.0,
        "clip": 0.0,
        "self_check": 0,
    }
    chosen = LoopSettings(**defaults | settings)
    parts = assemble(
        attached,
        spec(objective),
        Dataset(rows(kind), batch=8, seed=3, shuffle=False),
        chosen,
        vocabulary=VOCABULARY,
        pad_id=0,
        packed=loaded.packs if packed is None else packed,
        world=parallel.join(),
        strategy=strategy,
    )
    return Loop(parts, chosen, Path(folder), progress(chosen.steps, "test", quiet=True))


def weights(loop: Loop) -> dict[str, torch.Tensor]:
    """Copies of all parameters, sharded ones put together."""
    return {
        name: (p.full_tensor() if hasattr(p, "full_tensor") else p).detach().clone()
        for name, p in loop.parts.scorer.named_parameters()
    }


def poison(loop: Loop, index: int, value: float = float("inf")) -> None:
    """Row `index` of the loop's data set weighs `value` from now on, so that its loss is not finite."""
    batch = loop.parts.source.rows
    batch[index] = replace(
        batch[index],
        branches=tuple(Tokens(b.ids, [t * value if t else t for t in b.trains]) for b in batch[index].branches),
    )


def out_of_memory_above(loop: Loop, tokens: int, where: str = "forward") -> None:
    """From now on a micro-batch of more than `tokens` raises MemoryError: before its forward pass, or in the middle of backward."""
    seen = {"tokens": 0}

    def forward(_: object, arguments: tuple) -> None:
        seen["tokens"] = arguments[0].ids_BT.numel()
        if where == "forward" and seen["tokens"] > tokens:
            raise MemoryError(f"planted above {tokens} tokens")

    def backward(gradient: torch.Tensor) -> None:
        if seen["tokens"] > tokens:
            raise MemoryError(f"planted above {tokens} tokens")

    loop.parts.wrapped.register_forward_pre_hook(forward)
    if where == "backward":
        learned = [p for p in loop.parts.scorer.parameters() if p.requires_grad]
        learned[len(learned) // 2].register_hook(backward)


def on_ranks(size: int, model: Path, folder: Path, *arguments: str) -> dict[str, torch.Tensor]:
    """Run one step on `size` processes; the weights that rank 0 ends with."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    out = folder / "weights.safetensors"
    running = []
    for rank in range(size):
        env = os.environ | {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(size),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
            "OMP_NUM_THREADS": "1",
        }
        command = [sys.executable, "-m", "tests.train.clients", str(model), str(folder), str(out), *arguments]
        running.append(
            subprocess.Popen(command, env=env, cwd=Path(__file__).parents[2], stderr=subprocess.PIPE, text=True)
        )
    for process in running:
        _, errors = process.communicate(timeout=240)
        assert process.returncode == 0, errors[-3000:]
    return load_file(out)


def main() -> None:
    """model folder out objective method kind strategy steps [settings [rows to poison ... | --memory TOKENS]]: one of several.

    The weights of a loop that ended in an error are written too; the error goes to error-RANK.txt in its folder.
    """
    model, folder, out, objective, tune, kind, strategy, steps, *more = sys.argv[1:]
    settings = {"micro_tokens": 40, **(json.loads(more[0]) if more else {})}
    options = {"active": 1, "every": 1} if tune == "lisa" else {}
    loop = make_loop(
        model,
        folder,
        objective=objective,
        tune=tune,
        kind=kind,
        strategy=strategy,
        method_options=options,
        **settings,
    )
    if more[1:2] == ["--memory"]:
        out_of_memory_above(loop, int(more[2]) if loop.parts.world.rank else 10**9, "backward")
    else:
        for row in more[1:]:
            poison(loop, int(row))
    try:
        for _ in range(int(steps)):
            loop.one_step()
    except UserError as error:
        (Path(folder) / f"error-{loop.parts.world.rank}.txt").write_text(str(error))
    (Path(folder) / f"fit-{loop.parts.world.rank}.json").write_text(json.dumps(loop.state.fit.to_json()))
    state, world = weights(loop), loop.parts.world
    if world.rank == 0:
        save_file(state, out)
    del loop  # what it averaged gradients with keeps the group's threads, which must not outlive the interpreter
    parallel.leave(world)


if __name__ == "__main__":
    main()
