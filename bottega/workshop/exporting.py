"""`bottega export`: a model as others take it, read back and compared on tokens before it appears, with a card from its run.

Left out: the formats themselves (models/exports, models/plain.py, models/methods).
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bottega.core import rundir
from bottega.core.errors import CheckFailed, UserError
from bottega.core.textio import progress
from bottega.workshop import push as hub
from bottega.workshop.card import card, public_name
from bottega.workshop.merging import DTYPES, draft

if TYPE_CHECKING:
    from bottega.models.load import Loaded

FORMATS = ("hf", "peft", "gguf", "onnx")


def export(
    model: str,
    out: str,
    *,
    format: str = "hf",
    quant: str = "f16",
    dtype: str = "float32",
    template: str | None = None,
    base: str | None = None,
    name: str | None = None,
    licence: str | None = None,
    push: str | None = None,
    public: bool = False,
    quiet: bool = False,
) -> dict[str, Any]:
    """Write `model` into the folder `out`, prove it, and push it if a repository is named.

    Args:
        format: hf (config, safetensors, tokenizer; adapters folded in), peft (the adapter alone), gguf, onnx.
        quant: of a gguf: f32, f16, q8_0, q4_0. dtype: of hf; below float32 what it costs is measured and bounded.
        template: the chat template that goes with it; default the one that trained. base: what a peft adapter names as its base,
            for others: a Hub id. name, licence: for the card. push: OWNER/NAME; private unless `public`.

    Returns:
        {"out", "format", "difference" of logits, "kl", "equal" share of greedy tokens, "tokens" compared, ..., "pushed"}.

    Raises:
        UserError: what cannot be written. CheckFailed: what was read back differs; nothing is kept.
    """
    if format not in FORMATS:
        raise UserError(f"format {format!r} is not one of {', '.join(FORMATS)}")
    if dtype not in DTYPES or (dtype != "float32" and format != "hf"):
        raise UserError(f"dtype {dtype!r} is for --format hf: {', '.join(DTYPES)}; a gguf has --quant")
    if base is not None and format != "peft":
        raise UserError("base is what a peft adapter lies on; leave it out")
    if push is not None:
        hub.check(push)
    from bottega.models.load import load
    from bottega.workshop.build import template_of

    called = name or (push.split("/")[1] if push else public_name(model))
    with progress(None, "export", quiet=quiet) as shown, draft(out) as folder:
        loaded = load(model)
        chosen = template_of(loaded, template)
        if format == "peft":
            facts = _peft(model, loaded, folder, base)
        else:
            facts = _whole(loaded, chosen, folder, format, quant, dtype, _file_name(called))
        run = Path(model) if (Path(model) / "stages").is_dir() else None
        start = base or str(loaded.model.config._name_or_path or model)
        text = card(called, format, start, facts, run=run, licence=licence)
        rundir.atomic_write(folder / "README.md", text)
        shown.note(f"{format}: {facts['equal']:.0%} of {facts['tokens']} greedy tokens equal, KL {facts['kl']:.1e}")
    pushed = hub.push(out, push, private=not public) if push else None
    return {"out": out, "format": format, **facts, "pushed": pushed}


def _file_name(called: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]", "-", called).strip(".-") or "model"


def _whole(
    loaded: Loaded, template: Any, folder: Path, format: str, quant: str, dtype: str, name: str
) -> dict[str, Any]:
    """The plain model, adapters folded in, with its tokenizer, template and the tokens that end a reply."""
    import torch

    from bottega.models import merge as merging
    from bottega.models.exports import gguf_write, onnx, proof
    from bottega.models.load import DTYPES as KINDS
    from bottega.models.load import load_weights
    from bottega.models.plain import quiet_bars
    from bottega.workshop.build import beside

    facts: dict[str, Any] = {}
    plain: Any = loaded.model
    if loaded.attached is not None:
        plain, facts = merging.merge(loaded.attached)
    before = proof.logits_of(plain)
    prompts = proof.prompts_of(plain, loaded.tokenizer)
    if format == "hf" and dtype != "float32":
        import copy

        plain = copy.deepcopy(plain)
        facts |= {"dtype": dtype, **merging.cast(plain, KINDS[dtype])}
    with quiet_bars():
        if format == "hf":
            merging.save_model(plain, loaded.tokenizer, folder)
        else:
            plain.config.save_pretrained(str(folder))
            plain.generation_config.save_pretrained(str(folder))
        beside(folder, loaded, template)
    if format == "gguf":
        plain.generation_config.eos_token_id = rundir.read_json(folder / "generation_config.json")["eos_token_id"]
        path = folder / f"{name}-{quant}.gguf"
        return facts | {"quant": quant, **gguf_write.write_gguf(plain, loaded.tokenizer, path, kind=quant, name=name)}
    if format == "onnx":
        return facts | onnx.write_onnx(plain, loaded.tokenizer, folder / "model.onnx")
    again: Any = load_weights(folder, dtype=dtype).eval()
    written, read = plain.state_dict(), again.state_dict()
    if set(written) != set(read) or any(not torch.equal(written[key], read[key]) for key in written):
        raise CheckFailed(
            "the folder, read back by transformers, holds other numbers than were written; it was not kept"
        )
    if dtype == "float32":
        return facts | proof.check(before, proof.logits_of(again), prompts, "the folder")
    return facts | proof.compare(before, proof.logits_of(again), prompts)


def _peft(model: str, loaded: Loaded, folder: Path, base: str | None) -> dict[str, Any]:
    """The adapter's own files; loaded by plain PEFT on the base, the tokens are the same."""
    from peft import PeftModel

    from bottega.models.exports import proof
    from bottega.models.load import load_weights
    from bottega.models.locate import locate
    from bottega.models.methods.adapter import WEIGHTS
    from bottega.models.tokenizer import extend_model

    if loaded.adapter is None or loaded.attached is None:
        raise UserError(f"{model} is no adapter; use --format hf")
    if loaded.attached.inputs is not None:
        raise UserError(
            f"{model} is a {loaded.attached.name} adapter, whose tokens are not compared here; copy its folder as it is"
        )
    place, source = locate(model), Path(loaded.adapter)
    if len(place.adapters) != 1:
        raise UserError(f"{model} lies on {len(place.adapters) - 1} other adapters; fold them: --format hf")
    shutil.copyfile(source / WEIGHTS, folder / WEIGHTS)
    config = rundir.read_json(source / "adapter_config.json") | {
        "base_model_name_or_path": base or public_name(place.base_id)
    }
    rundir.write_json(folder / "adapter_config.json", config)
    loaded.tokenizer.save_pretrained(str(folder))
    if (source / "generation_config.json").is_file():
        shutil.copyfile(source / "generation_config.json", folder / "generation_config.json")
    plain = load_weights(place.base)
    extend_model(plain, loaded.tokenizer)
    again = PeftModel.from_pretrained(plain, str(folder), local_files_only=True, torch_device="cpu").eval()
    prompts = proof.prompts_of(loaded.model, loaded.tokenizer)
    return proof.check(proof.logits_of(loaded.attached.model), proof.logits_of(again), prompts, "the adapter")


def export_text(facts: dict[str, Any]) -> str:
    """The figures of the export, for people."""
    figures = [
        f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}"
        for key, value in facts.items()
        if key not in ("out", "format", "pushed")
    ]
    lines = [f"{facts['out']}: {facts['format']}, read back and compared ({', '.join(figures)})"]
    return "\n".join([*lines, *([f"pushed: {facts['pushed']}"] if facts["pushed"] else [])])
