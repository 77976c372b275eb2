"""What the GPU scripts share: models made from a configuration on the device, rows, parity, timing, peers, and the page.

Left out: real weights and real text. All is random and seeded, made where it is used; a call stays under nine minutes by
`--limit-s`, after which no new case begins. On a machine without a GPU the same code runs tiny on the CPU (`--tiny`).
"""

from __future__ import annotations

import argparse
import datetime
import gc
import json
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from sides import PEERS, STEPS, WARM, peer_case, peers, timed  # noqa: E402

from bottega.core.devices import num_devices, peak_flops  # noqa: E402
from bottega.core.types import Attached, Row, Tokens  # noqa: E402
from bottega.models import attention  # noqa: E402
from bottega.models.methods import method  # noqa: E402
from bottega.models.quant import place, quantise  # noqa: E402
from bottega.train.assemble import assemble  # noqa: E402
from bottega.train.loop import Loop  # noqa: E402
from bottega.train.objectives import spec  # noqa: E402
from bottega.train.settings import LoopSettings  # noqa: E402
from bottega.train.source import Dataset  # noqa: E402
from bottega.train.step import lay_down, micro_loss  # noqa: E402


@dataclass(frozen=True, kw_only=True, slots=True)
class Size:
    """A Llama shape; vocabulary 32,000."""

    layers: int
    width: int
    heads: int
    kv_heads: int
    feed_forward: int
    vocabulary: int = 32_000


SIZES = {
    "tiny": Size(layers=2, width=64, heads=4, kv_heads=2, feed_forward=128, vocabulary=256),
    "125m": Size(layers=12, width=768, heads=12, kv_heads=12, feed_forward=2048),
    "1b": Size(layers=22, width=2048, heads=32, kv_heads=4, feed_forward=5632),
    "7b": Size(layers=32, width=4096, heads=32, kv_heads=32, feed_forward=11008),
    "8b": Size(layers=32, width=4096, heads=32, kv_heads=8, feed_forward=14336, vocabulary=128_256),
    "13b": Size(layers=40, width=5120, heads=40, kv_heads=40, feed_forward=13824),
    "33b": Size(layers=60, width=6656, heads=52, kv_heads=52, feed_forward=17920),
    "65b": Size(layers=80, width=8192, heads=64, kv_heads=64, feed_forward=22016),
    "70b": Size(layers=80, width=8192, heads=64, kv_heads=8, feed_forward=28672, vocabulary=128_256),
}


class Quiet:
    """A progress display that shows nothing."""

    def update(self, step: int, metrics: Any) -> None:
        """A step has ended."""

    def note(self, line: str) -> None:
        """Something to know."""


def options(about: str) -> argparse.Namespace:
    """What every script's command line says."""
    parser = argparse.ArgumentParser(description=about.splitlines()[0])
    parser.add_argument("--tiny", action="store_true", help="a toy on the CPU: does the script itself work?")
    parser.add_argument("--only", default="", help="cases, comma-separated (default all)")
    parser.add_argument("--peers", default=",".join(PEERS), help="peers to try (default all that are installed)")
    parser.add_argument("--limit-s", type=float, default=500, help="no new case begins after so many seconds")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    given = parser.parse_args()
    if not given.tiny and not num_devices("cuda"):
        sys.exit("no GPU here: the table needs one (--tiny tries the script on a CPU)")
    given.device = "cpu" if given.tiny else "cuda"
    given.dtype = torch.float32 if given.tiny else torch.bfloat16
    return given


def build(size: Size, given: argparse.Namespace, *, positions: int, weights: str = "full") -> nn.Module:
    """A Llama of random weights, made on the device; its linear layers in 4 or 8 bits one after the other where asked."""
    config = LlamaConfig(
        vocab_size=size.vocabulary, hidden_size=size.width, num_hidden_layers=size.layers, num_attention_heads=size.heads,
        num_key_value_heads=size.kv_heads, intermediate_size=size.feed_forward, max_position_embeddings=positions,
        tie_word_embeddings=False,
    )  # fmt: skip
    torch.manual_seed(0)
    with torch.device("meta"):
        model = LlamaForCausalLM(config).to(given.dtype)
    if weights != "full":
        for _, new, _ in place(model, weights):
            shape = (new.out_features, new.in_features)
            new.fill(quantise(torch.randn(shape, device=given.device) * 0.02, weights))
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if parameter.is_meta:
                made = torch.ones_like(parameter, device=given.device)
                made = made if parameter.dim() == 1 else made.normal_(std=0.02)
                setattr(module, name, nn.Parameter(made))
    with torch.device(given.device):
        model.model.rotary_emb = type(model.model.rotary_emb)(model.config)
    attention.install(model)
    return model.eval()


def rows(size: Size, *, length: int, count: int, spread: bool) -> list[Row]:
    """Random rows of `length` tokens; with `spread`, lengths run from an eighth of it to the whole."""
    draw = torch.Generator().manual_seed(1)
    made = []
    for number in range(count):
        own = max(2, length * (1 + number % 8) // 8) if spread else length
        ids = torch.randint(3, size.vocabulary, (own,), generator=draw).tolist()
        made.append(Row(index=number, branches=(Tokens(ids, [0.0] * (own // 2) + [1.0] * (own - own // 2)),)))
    return made


def ours(
    model: nn.Module, attached: Attached, batch: Sequence[Row], given: argparse.Namespace, **settings: Any
) -> Loop:
    """Our loop over copies of one batch; nothing is saved, for only `one_step` is called."""
    how = {
        "lr": 1e-4,
        "schedule": "constant",
        "self_check": 0,
        "precision": "fp32" if given.tiny else "bf16",
    } | settings
    chosen = LoopSettings(steps=WARM + STEPS, **how)
    source = Dataset(list(batch), batch=len(batch), seed=0, shuffle=False)
    vocabulary = model.config.vocab_size
    parts = assemble(attached, spec("sft"), source, chosen, vocabulary=vocabulary, pad_id=0, packed=True)
    attached.model.train()  # in evaluation mode nothing is recomputed
    return Loop(parts, chosen, Path("."), Quiet())


def parity(loop: Loop, model: nn.Module, batch: Sequence[Row]) -> float:
    """Relative difference of our packed loss to transformers' own forward pass, row by row.

    Raises:
        SystemExit: more than 1 in 1,000 apart (1 in 50 in 16 bits).
    """
    layout, targets = lay_down(loop.parts, batch)
    counts = {"tokens": float(targets.weights_S.sum()), "rows": float(len(batch))}
    total = 0.0
    with torch.no_grad():
        mine = float(micro_loss(loop.parts, layout, targets, counts))
        for row in batch:
            ids = torch.tensor([list(row.branches[0].ids)], device=layout.ids_BT.device)
            where = [t for t, weight in enumerate(row.branches[0].trains) if weight and t]
            logits = loop.parts.attached.model(input_ids=ids, use_cache=False).logits[0, [t - 1 for t in where]]
            total += float(nn.functional.cross_entropy(logits.float(), ids[0, where], reduction="sum"))
    apart = abs(mine - total / counts["tokens"]) / mine
    if apart > (1e-3 if next(model.parameters()).dtype == torch.float32 else 2e-2):
        sys.exit(f"no parity: {mine:.6f} packed, {total / counts['tokens']:.6f} row by row; nothing was measured")
    return apart


def free() -> None:
    """Give back what the last case held."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def write(
    name: str, about: str, lines: list[dict[str, Any]], absent: dict[str, str], given: argparse.Namespace
) -> None:
    """The page and its numbers; MFU over the data sheet's peak where it is known."""
    card = torch.cuda.get_device_name() if given.device == "cuda" else "CPU, tiny: a try of the script, no result"
    today = datetime.date.today()
    known = ", ".join(f"{package} {version(package)}" for package in ("torch", "transformers", "peft"))
    out = [
        f"# {about}, {today}",
        "",
        f"`{' '.join(['python', *sys.argv])}` on {card}, Python {platform.python_version()}, {known}.",
    ]
    out += [
        "",
        "| case | side | s a step | tokens/s | MFU | peak GB | parity | remark |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for line in lines:
        flops = 6 * line.get("parameters", 0) * line.get("tokens_per_s", 0.0)
        mfu = f"{flops / peak_flops(given.device):.1%}" if flops and given.device == "cuda" and line.get("mfu") else ""
        numbers = [
            f"{line[key]:.{digits}f}" if key in line else "" for key, digits in (("step_s", 3), ("tokens_per_s", 0))
        ]
        peak = f"{line['peak_gb']:.1f}" if "peak_gb" in line else ""
        apart = f"{line['parity']:.1e}" if "parity" in line else ""
        said = line.get("error", line.get("remark", ""))
        out.append(f"| {line['case']} | {line['side']} | {' | '.join(numbers)} | {mfu} | {peak} | {apart} | {said} |")
    out += ["", *[f"- {peer}: {reason}" for peer, reason in absent.items()]]
    given.results.mkdir(parents=True, exist_ok=True)
    stem = f"{today}-gpu-{name}" + ("-tiny" if given.tiny else "")
    (given.results / f"{stem}.md").write_text("\n".join(out) + "\n")
    (given.results / f"{stem}.json").write_text(json.dumps(lines, indent=1) + "\n")
    print("\n".join(out))


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """One line of a table. cap_gb: a hard limit on the device's memory (0: none). loop: settings of ours. method: name and options."""

    size: str
    length: int
    count: int
    method: str = "lora"
    options: dict[str, Any]
    weights: str = "full"
    spread: bool = True
    cap_gb: float = 0.0
    loop: dict[str, Any]
    checkpointing: bool = False
    mfu: bool = False


def run(name: str, about: str, cases: dict[str, Case]) -> None:
    """Every case, ours first (with parity), then the peers one after the other, each on a fresh model; then the page."""
    given = options(about)
    transformers.logging.set_verbosity_error()
    began = time.monotonic()
    runs, absent = peers(given)
    lines: list[dict[str, Any]] = []
    asked = {label: case for label, case in cases.items() if not given.only or label in given.only.split(",")}
    sides = sorted(["bottega", *runs], key=lambda side: side in ("trl", "liger"))  # which change the whole process
    for side in sides:
        for label, case in asked.items():
            if time.monotonic() - began > given.limit_s:
                lines.append({"case": label, "side": side, "error": f"not begun: {given.limit_s:g} s were over"})
                continue
            lines.append({"case": label, "side": side} | one(case, side, given))
            print(lines[-1], file=sys.stderr, flush=True)
            free()
    lines.sort(key=lambda line: list(asked).index(line["case"]))
    write(name, about, lines, absent, given)


def prepared(case: Case, side: str, given: argparse.Namespace) -> tuple[nn.Module, Any, list[Row]]:
    """A case's model, what trains it (our loop, or the step of a plain one, or a model for TRL) and its rows."""
    size = SIZES["tiny" if given.tiny else case.size]
    length, count = (32, 4) if given.tiny else (case.length, case.count)
    batch = rows(size, length=length, count=count, spread=case.spread)
    model = build(size, given, positions=max(length, 64), weights=case.weights)
    attached = method(case.method, **case.options).attach(model)
    if side != "bottega":
        return model, attached.model, batch
    how = {} if given.tiny else case.loop
    return model, ours(model, attached, batch, given, checkpointing=case.checkpointing, **how), batch


def one(case: Case, side: str, given: argparse.Namespace) -> dict[str, Any]:
    """One side of one case: its numbers, or why there are none."""
    if case.cap_gb and given.device == "cuda":
        torch.cuda.set_per_process_memory_fraction(
            min(1.0, case.cap_gb * 1e9 / torch.cuda.get_device_properties(0).total_memory)
        )
    size = SIZES["tiny" if given.tiny else case.size]
    numbers = size.layers * size.width * (2 * size.width * (1 + size.kv_heads / size.heads) + 3 * size.feed_forward)
    facts = {"parameters": numbers + size.width * size.vocabulary, "mfu": case.mfu}
    try:
        model, loop, batch = prepared(case, side, given)
        if side != "bottega":
            return facts | peer_case(side, loop, batch, given, checkpointing=case.checkpointing)
        apart = parity(loop, model, batch)
        return facts | {"parity": apart} | timed(loop.one_step, given, sum(row.num_tokens for row in batch))
    except torch.cuda.OutOfMemoryError:
        return {"error": "out of memory"}
