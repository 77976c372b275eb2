"""Every family of models through its whole life, and the page that says what works where (docs/families.md).

Left out: what is learnt; the models are tiny and random. `python -m tests.journey.families` writes the page anew.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from peft import PeftModel
from safetensors.torch import load_file

from bottega.core import rundir
from bottega.models.generate import Generator
from bottega.models.load import Loaded, load
from bottega.workshop.predict import embed, predict
from bottega.workshop.runs import runs_resume
from bottega.workshop.stages import run
from bottega.workshop.use import generate
from tests.models.tiny import BOTH_SIDES, ENCODERS, FAMILIES, tiny_model
from tests.workshop import labelled
from tests.workshop.made import jsonl

PAGE = Path(__file__).resolve().parents[2] / "docs" / "families.md"
LORA = "{name: lora, rank: 4}"
TEXTS = ["The saw is sharp today.", "Anna keeps the keys of the bench at night."]
WRITES = ("pretrain", "SFT full", "SFT LoRA, merged", "DPO LoRA", "DPO full", "resume", "generate", "reload")
COLUMNS = {
    "decoder": (*WRITES[:-3], "PPO", *WRITES[-3:]),
    "encoder-decoder": WRITES,
    "encoder": (
        *("pretrain", "pretrain LoRA", "classification", "classification LoRA", "multilabel LoRA", "regression"),
        *("tagging", "tagging LoRA", "contrastive", "contrastive LoRA", "resume", "merge", "reload"),
    ),
}
SETTINGS = "steps: 4, save_every: 2, batch: 8, lr: 1e-3"


def write_recipe(folder: Path, stages: str, name: str = "life") -> Path:
    """A recipe over the model in `folder`."""
    path = folder / f"{name}.yaml"
    path.write_text(f"name: {name}\nmodel: {folder}/model\nstages:\n{stages}")
    return path


def data(folder: Path) -> None:
    """Texts, chats and preferences."""
    jsonl(
        folder / "text.jsonl",
        [{"text": f"Anna keeps the {w} and {i} keys of the bench." * 2} for i, w in enumerate(NOUNS)],
    )
    jsonl(
        folder / "chat.jsonl",
        [{"prompt": f"Which {w}?", "completion": f"The {w} number {i}."} for i, w in enumerate(NOUNS)],
    )
    pairs = [{"prompt": f"Which {w}?", "chosen": f"The {w}.", "rejected": f"None, {i}."} for i, w in enumerate(NOUNS)]
    jsonl(folder / "pairs.jsonl", pairs)


NOUNS = ("saw", "plane", "lamp", "chisel", "door", "hammer", "nail", "glue", "board", "brush", "vice", "rule")


@contextlib.contextmanager
def living(family: str, folder: Path) -> Iterator[None]:
    """A tiny model of the family and its data in `folder`; other libraries' warnings are theirs."""
    folder.mkdir(parents=True, exist_ok=True)
    tiny_model(family, folder / "model")
    data(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield


def logits(model: Any, ids: list[int]) -> torch.Tensor:
    """Of one text, by the model's own forward."""
    call: dict[str, Any] = {"input_ids": torch.tensor([ids])}
    if model.config.is_encoder_decoder:
        call["decoder_input_ids"] = torch.tensor([[model.config.decoder_start_token_id, *ids[:3]]])
    with torch.no_grad():
        out = model.eval()(**call)
    return out.logits if hasattr(out, "logits") else out[0]


def plain(result: Path, auto: str, **options: Any) -> Any:
    """The result as plain transformers, and plain PEFT on it, load it."""
    adapter = result / "adapter_config.json"
    maker = getattr(transformers, auto)
    if not adapter.is_file():
        return maker.from_pretrained(result, dtype=torch.float32, **options)
    base = Path(rundir.read_json(adapter)["base_model_name_or_path"])
    base = base if base.is_absolute() else (result / base).resolve()
    return PeftModel.from_pretrained(maker.from_pretrained(base, dtype=torch.float32, **options), str(result))


def assert_same(loaded: Loaded, other: Any) -> None:
    """Equal logits, to rounding (ours computes attention through its own function)."""
    ids = loaded.tokenizer(TEXTS[0])["input_ids"][:12]
    mine, theirs = logits(loaded.model, ids), logits(other, ids)
    assert torch.allclose(mine, theirs, atol=2e-5 * max(1.0, float(theirs.abs().max()))), float(
        (mine - theirs).abs().max()
    )


def assert_resumes(run_folder: Path, copy: Path) -> None:
    """A copy cut off in the middle of its first stage goes on to the same bytes."""
    shutil.copytree(run_folder, copy)
    first, *later = sorted((copy / "stages").iterdir())
    for stage in later:
        shutil.rmtree(stage)
    (first / "stage.json").unlink()
    shutil.rmtree(first / "result")
    shutil.rmtree(first / "checkpoints" / "step-0000004")
    for name in ("report.html",):
        (copy / name).unlink(missing_ok=True)
    torch.manual_seed(12345)  # nothing of it may be seen
    runs_resume(str(copy), quiet=True)
    for path in sorted(run_folder.glob("stages/*/result/*.safetensors")):
        twin = copy / path.relative_to(run_folder)
        mine, theirs = load_file(path), load_file(twin)
        assert mine.keys() == theirs.keys() and all(torch.equal(mine[k], theirs[k]) for k in mine), path


def life_of_a_writer(family: str, folder: Path, auto: str) -> tuple[str, str]:
    """Decoders and encoder-decoders; returns how rows lie, and how replies are decoded."""
    stages = (
        f"  - adapt: {{objective: pretrain, data: {folder}/text.jsonl, method: full, max_tokens: 64, {SETTINGS}}}\n"
        f"  - tune: {{objective: sft, data: {folder}/chat.jsonl, method: full, {SETTINGS}}}\n"
        f"  - lora: {{objective: sft, data: {folder}/chat.jsonl, method: {LORA}, then: merge, {SETTINGS}}}\n"
        f"  - whole: {{objective: dpo, data: {folder}/pairs.jsonl, method: full, {SETTINGS}}}\n"
        f"  - align: {{objective: dpo, data: {folder}/pairs.jsonl, method: {LORA}, {SETTINGS}}}\n"
    )
    if family in FAMILIES:
        stages = stages.replace(f"{LORA}, {SETTINGS}}}\n", f"{LORA}, then: merge, {SETTINGS}}}\n")
        stages += (
            f"  - reward: {{objective: ppo, data: {folder}/chat.jsonl, method: {LORA}, "
            f"rewards: [distinct, {{name: length, target: 8}}], rollout: {{prompts: 8, max_tokens: 4}}, {SETTINGS}}}\n"
        )
    told = run(str(write_recipe(folder, stages)), out=str(folder / "run"), quiet=True).stages
    assert all(np.isfinite(facts["loss"]) for facts in told.values()) and told["lora"]["merge_difference"] <= 1e-5
    for result in sorted((folder / "run" / "stages").glob("*/result")):
        assert_same(load(result), plain(result, auto))
    assert_resumes(folder / "run", folder / "again")
    loaded = load(folder / "run")
    rows = generate(str(folder / "run"), TEXTS, max_tokens=4, quiet=True)
    assert all(1 <= row["tokens"] <= 4 for row in rows)
    return lies(loaded), Generator(loaded.model, loaded.tokenizer).chosen_way()


def lies(loaded: Loaded) -> str:
    """Packed, or length-bucketed and why, without numbers that differ from machine to machine."""
    note = next(line for line in loaded.notes if line.startswith(("packed", "length-bucketed")))
    if note.startswith("packed"):
        return "packed"
    if "differ" in note:
        return "by length: sequences in one row would see each other"
    return "by length: " + note.partition(": ")[2].partition(" (")[0]


def life_of_an_encoder(family: str, folder: Path) -> tuple[str, str]:
    """Hidden words, labels, numbers, tags and vectors, full and LoRA."""
    for kind in ("classification", "multilabel", "regression", "tagging", "contrastive"):
        (folder / f"{kind}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in labelled.rows(kind, 32)))
    stages = (
        f"  - adapt: {{objective: pretrain, data: {folder}/text.jsonl, method: full, {SETTINGS}}}\n"
        f"  - more: {{objective: pretrain, data: {folder}/text.jsonl, method: {LORA}, then: merge, {SETTINGS}}}\n"
    )
    run(str(write_recipe(folder, stages)), out=str(folder / "run"), quiet=True)
    for result in sorted((folder / "run" / "stages").glob("*/result")):
        assert_same(load(result), plain(result, "AutoModelForMaskedLM"))
    packed = lies(load(folder / "run"))
    assert_resumes(folder / "run", folder / "again")
    heads = {"tagging": "AutoModelForTokenClassification", "contrastive": "AutoModel"}
    for kind, method in (
        *(("classification", "full"), ("classification", LORA), ("multilabel", LORA), ("regression", "full")),
        *(("tagging", "full"), ("tagging", LORA), ("contrastive", "full"), ("contrastive", LORA)),
    ):
        where = folder / f"{kind}-{'full' if method == 'full' else 'lora'}"
        then = "" if method == "full" else ", then: merge"
        stage = f"  - learn: {{objective: {kind}, data: {folder}/{kind}.jsonl, method: {method}{then}, {SETTINGS}}}\n"
        more = f"  - go-on: {{objective: {kind}, data: {folder}/{kind}.jsonl, method: {method}, {SETTINGS}}}\n"
        path = write_recipe(folder, stage + (more if method != "full" else ""), name=where.name)
        run(str(path), out=str(where), quiet=True)
        for result in sorted((where / "stages").glob("*/result")):
            loaded = load(result)
            labels = len(loaded.purpose.labels) if loaded.purpose and loaded.purpose.labels else 1
            options = {} if kind == "contrastive" else {"num_labels": labels}
            auto = heads.get(kind, "AutoModelForSequenceClassification")
            assert_same(loaded, plain(result, auto, **options))
        if kind == "contrastive":
            assert embed(str(where), TEXTS, quiet=True)["dim"] == 32
        else:
            assert len(predict(str(where), f"{folder}/{kind}.jsonl", quiet=True)["rows"]) == 32
    assert_resumes(folder / "classification-full", folder / "classification-again")
    return packed, "predict, embed"


def life(family: str, folder: Path) -> str:
    """The family's line of the page; raises where something of it does not hold."""
    with living(family, folder):
        if family in ENCODERS:
            return line(family, "encoder", *life_of_an_encoder(family, folder))
        kind = "encoder-decoder" if family in BOTH_SIDES else "decoder"
        auto = "AutoModelForSeq2SeqLM" if family in BOTH_SIDES else "AutoModelForCausalLM"
        packed, way = life_of_a_writer(family, folder, auto)
        return line(family, kind, packed, way)


def line(family: str, kind: str, packed: str, way: str) -> str:
    """A row of the table."""
    cells = [way if column == "generate" else "yes" for column in COLUMNS[kind]]
    return f"| {family} | {packed} | {' | '.join(cells)} |"


HEAD = """# Families of models: what works where

Generated by `python -m tests.journey.families`; `tests/journey/test_families_page.py` lives every line again and compares. A line is a
tiny random model of the family, made from transformers' config: trained by a recipe, stopped in the middle and resumed to the same
bits, merged (equal to 1e-5), used, saved, and reloaded by plain transformers (adapters: by plain PEFT) with equal logits.

`rows lie`: packed end to end in one row, or by length in padded grids; a numeric probe at load decides, and the run says which.
`generate`: `masks` (our masks and static cache), `padded` (transformers' masks), `plain` (no cache), `sides` (read once, then
written to).
"""


def page(lines: dict[str, str]) -> str:
    """The whole page from the families' lines."""
    parts = [HEAD]
    for kind, families in KINDS.items():
        columns = COLUMNS[kind]
        parts.append(f"\n## {kind.capitalize()}s\n\n| family | rows lie | {' | '.join(columns)} |\n")
        parts.append("|" + "---|" * (len(columns) + 2) + "\n")
        parts += [lines[family] + "\n" for family in families]
        parts.append(FORCED[kind])
    return "".join(parts)


KINDS: dict[str, dict[str, Any]] = {"decoder": FAMILIES, "encoder-decoder": BOTH_SIDES, "encoder": ENCODERS}
FORCED = {
    "decoder": """
Forced by the architecture: BLOOM, MPT (transformers' class), GPT-J and Falcon take no attention function from outside, so their
rows cannot be packed exactly and lie by length. All of them also take a head for labels (`classification` and the like); rows then
lie by length.
""",
    "encoder-decoder": """
Forced by the architecture: two sequences a row (one read, one written) are not packed. Labels are written as text (`sft`), so there
is no head for them. PPO needs a value head on the written side, which is not built.
""",
    "encoder": """
Forced by the architecture: an encoder writes no text, so there is no SFT, DPO, PPO or generation; a head for labels reads one
vector a row, so these rows lie by length (tags and vectors are packed).
""",
}


def main(names: list[str], write: Callable[[str], Any] = print) -> None:
    """Live the families named (all), and write the page where all were."""
    lines = {}
    for family in names or [family for families in KINDS.values() for family in families]:
        with tempfile.TemporaryDirectory() as folder:
            lines[family] = life(family, Path(folder))
            write(lines[family])
    if not names:
        PAGE.write_text(page(lines), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
