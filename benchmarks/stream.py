"""Layer streaming (row F6): LoRA of a model many times larger than the memory it may use, and what that costs in time.

    python benchmarks/stream.py [--layers 128] [--width 512] [--steps 2] [--limit-mb 190] [--weights full]

A random Llama is written to disk layer by layer. Then, each in a process of its own, `resident` and `stream` runs train a
LoRA on it through the same loop. Measured is what each process adds to what it held after the same training of a model of
two small layers (all libraries imported): anonymous memory (RssAnon of /proc/self/status, sampled every 5 ms), file pages,
and seconds a step. The streamed process also runs under RLIMIT_DATA: what it had, and the limit. Adapters are compared
byte for byte.
Left out: the page cache, which is not the process's own and is given back when others need it; cgroups (not writable here).
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import platform
import resource
import shutil
import subprocess
import sys
import threading
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
VOCABULARY, TOKENS, ROWS = 320, 40, 4


def write_model(folder: Path, *, layers: int, width: int) -> int:
    """A random Llama in one file a layer, never whole in memory; returns its bytes."""
    import torch
    from safetensors.torch import save_file
    from transformers import LlamaConfig

    if (folder / "model.safetensors.index.json").is_file():
        return sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    folder.mkdir(parents=True, exist_ok=True)
    inner = width * 11 // 4 // 32 * 32
    sizes = {
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": width // 64,
    }
    config = LlamaConfig(vocab_size=VOCABULARY, num_key_value_heads=width // 64, max_position_embeddings=512, **sizes)
    config.architectures = ["LlamaForCausalLM"]
    config.save_pretrained(folder)
    torch.manual_seed(0)
    shapes = {f"self_attn.{name}_proj": (width, width) for name in "qkvo"}
    shapes |= {"mlp.gate_proj": (inner, width), "mlp.up_proj": (inner, width), "mlp.down_proj": (width, inner)}
    place = {}

    def keep(name: str, tensors: dict[str, Any]) -> None:
        save_file(tensors, folder / name)
        place.update(dict.fromkeys(tensors, name))

    for number in range(layers):
        start = f"model.layers.{number}."
        layer = {f"{start}{name}.weight": torch.randn(shape) / shape[1] ** 0.5 for name, shape in shapes.items()}
        layer |= {f"{start}{name}_layernorm.weight": torch.ones(width) for name in ("input", "post_attention")}
        keep(f"model-{number:05d}.safetensors", layer)
    ends = {
        name: torch.randn(VOCABULARY, width) / width**0.5 for name in ("model.embed_tokens.weight", "lm_head.weight")
    }
    keep("model-ends.safetensors", ends | {"model.norm.weight": torch.ones(width)})
    index = {"metadata": {}, "weight_map": place}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    _tokenizer(folder)
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def _tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.WordLevel({f"w{i}": i for i in range(VOCABULARY)}, unk_token="w0"))
    PreTrainedTokenizerFast(tokenizer_object=core, eos_token="w1", pad_token="w2").save_pretrained(str(folder))


def memory() -> dict[str, float]:
    """MB of this process by kind: RssAnon, RssFile, VmData."""
    found = {}
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, rest = line.partition(":")
        if name in ("RssAnon", "RssFile", "VmData"):
            found[name] = int(rest.split()[0]) / 1024
    return found


class Peak(threading.Thread):
    """Largest memory seen, by kind, until stopped."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.most, self.done = memory(), threading.Event()

    def run(self) -> None:
        """Look every 5 ms."""
        while not self.done.wait(0.005):
            for name, value in memory().items():
                self.most[name] = max(self.most[name], value)


def train(given: argparse.Namespace, model: str, *, stream: bool) -> dict[str, Any]:
    """One LoRA on a model of the work folder, through the loop; returns its times."""
    import random

    import torch

    from bottega.core.textio import progress
    from bottega.core.types import Row, Tokens
    from bottega.models.load import load
    from bottega.models.methods import method
    from bottega.train.assemble import assemble
    from bottega.train.loop import Loop
    from bottega.train.objectives import spec
    from bottega.train.settings import LoopSettings
    from bottega.train.source import Dataset

    folder = Path(given.work)
    how = method("lora", rank=4, targets=["q_proj"])
    if given.weights != "full":
        how = method("qlora", rank=4, targets=["q_proj"], base=given.weights)
    began = time.perf_counter()
    loaded = load(folder / model, weights=given.weights, stream=stream, cache=folder / f"cache-{model}")
    torch.manual_seed(0)
    attached = how.attach(loaded.model)
    load_s = time.perf_counter() - began
    draw = random.Random(0)
    rows = [
        Row(index=i, branches=(Tokens([draw.randrange(3, VOCABULARY) for _ in range(n)], [1.0] * n),))
        for i, n in enumerate([TOKENS, TOKENS - 9, TOKENS - 21, TOKENS - 30] * (ROWS // 4 * given.steps))
    ]
    settings = LoopSettings(steps=given.steps, lr=1e-3, micro_tokens=ROWS * TOKENS, stream=stream, self_check=2)
    source = Dataset(rows, batch=ROWS, seed=1)
    parts = assemble(attached, spec("pretrain"), source, settings, vocabulary=VOCABULARY, pad_id=2, packed=loaded.packs)
    out = folder / f"out-{model}-{given.child}-{given.weights}"
    shutil.rmtree(out, ignore_errors=True)
    Loop(parts, settings, out, progress(given.steps, "bench", quiet=True)).run()
    timing = [json.loads(line)["seconds"] for line in (out / "timing.jsonl").read_text().splitlines()]
    attached.save(str(out / "adapter"))
    return {"load_s": load_s, "step_s": min(timing), "packed": loaded.packs}


def child(given: argparse.Namespace) -> None:
    """A small model is trained first, so that everything is imported; then the large one is measured."""
    import torch

    torch.set_num_threads(1)
    stream = given.child == "stream"
    write_model(Path(given.work) / "small", layers=2, width=64)
    train(given, "small", stream=stream)
    peak = Peak()
    before = memory()
    peak.start()
    if given.limit_mb and stream:
        most = int((before["VmData"] + given.limit_mb) * 2**20)
        resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    found = train(given, "model", stream=stream)
    peak.done.set()
    peak.join()
    grown = {name: round(peak.most[name] - before[name], 1) for name in before}
    print(json.dumps({**found, "base": before, **grown}))


def run_child(given: argparse.Namespace, kind: str, weights: str) -> dict[str, Any]:
    """A training in a process of its own."""
    command = [sys.executable, __file__, "--child", kind, "--weights", weights, "--work", given.work]
    command += ["--steps", str(given.steps), "--limit-mb", str(given.limit_mb)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{kind} {weights} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def main() -> None:
    """Write the model, train on it each way, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=128)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--limit-mb", type=int, default=190)
    parser.add_argument("--weights", default="full")
    parser.add_argument("--work", default="stream-bench")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--child")
    given = parser.parse_args()
    if given.child:
        child(given)
        return
    work = Path(given.work)
    num_bytes = write_model(work / "model", layers=given.layers, width=given.width)
    report: dict[str, Any] = {"model_mb": num_bytes / 2**20, "limit_mb": given.limit_mb, "runs": {}}
    for weights in given.weights.split(","):
        for kind in ("resident", "stream"):
            report["runs"][f"{kind} {weights}"] = run_child(given, kind, weights)
        both = [
            (work / f"out-model-{kind}-{weights}" / "adapter" / "adapter_model.safetensors").read_bytes()
            for kind in ("resident", "stream")
        ]
        report["runs"][f"stream {weights}"]["equal"] = both[0] == both[1]
    if given.json:
        print(json.dumps(report))
        return
    text = page(given, report)
    print(text)
    with contextlib.suppress(FileExistsError):
        RESULTS.mkdir()
    (RESULTS / f"{datetime.date.today()}-stream.md").write_text(text)


def page(given: argparse.Namespace, report: dict[str, Any]) -> str:
    """The result as a page."""
    model = next(
        (line.partition(":")[2].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), ""
    )
    lines = [
        f"# Layer streaming, {datetime.date.today()}",
        "",
        f"`python benchmarks/stream.py --layers {given.layers} --width {given.width} --steps {given.steps} "
        f"--limit-mb {given.limit_mb}` on {model}, one thread, Python {platform.python_version()}, "
        + ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "peft", "bitsandbytes"))
        + ".",
        "",
        f"A random Llama of {report['model_mb']:.0f} MB (float32), {report['model_mb'] / given.limit_mb:.1f} times the limit: "
        f"the streamed process may grow by {given.limit_mb} MB of data (RLIMIT_DATA). "
        "MB are growth over the same process after it trained a model of two small layers; the step is the fastest of the run.",
        "",
        "| base | way | RssAnon MB | RssFile MB | VmData MB | load s | step s | adapter equal to resident |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, found in report["runs"].items():
        kind, weights = name.split()
        equal = {True: "byte for byte", False: "NO"}.get(found.get("equal"), "")
        numbers = " | ".join(f"{found[key]:.0f}" for key in ("RssAnon", "RssFile", "VmData"))
        lines.append(f"| {weights} | {kind} | {numbers} | {found['load_s']:.1f} | {found['step_s']:.2f} | {equal} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
