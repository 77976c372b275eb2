"""What the other parts of the benchmark work on: blocks of text, preferences, prompts; made once, the same ids for all.

Left out: the conversations, the tokenizer and the model (workload.py).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

BLOCK = 257
"""Tokens of a block: 256 to see, 256 to learn."""
LONGEST_PAIR = 700
HELD_OUT_BLOCKS = 8
PROMPT_TOKENS, MOST_PROMPTS = (32, 64), 64


def write_blocks(work: Path, problems: Sequence[dict[str, str]], tokenizer: Any, shape: Any) -> None:
    """blocks.json {"train", "held_out"}: lists of ids, texts end to end, each closed by the end token; texts.jsonl: the texts.

    The last text is cut, so that who cuts blocks by himself finds as many.
    """
    ids: list[int] = []
    texts: list[str] = []
    wanted = shape.blocks * BLOCK
    todo = iter(problem["question"] + "\n" + problem["answer"] for problem in problems)
    while len(ids) < wanted:
        texts.append(next(todo))
        ids += [*tokenizer.backend_tokenizer.encode(texts[-1]).ids, tokenizer.eos_token_id]
    assert len(ids) < wanted + BLOCK, "a text longer than a block"
    rest = [
        number for text in todo for number in [*tokenizer.backend_tokenizer.encode(text).ids, tokenizer.eos_token_id]
    ]
    cut = {
        name: [flat[i * BLOCK : (i + 1) * BLOCK] for i in range(count)]
        for name, flat, count in (("train", ids, shape.blocks), ("held_out", rest, HELD_OUT_BLOCKS))
    }
    (work / "blocks.json").write_text(json.dumps(cut))
    (work / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))


def write_pairs(work: Path, source: Path, tokenizer: Any, shape: Any) -> None:
    """pairs.json: Anthropic's HH pairs up to the last reply as one user turn, in the file's order, none longer than 700 tokens.

    Each: question, prompt (with its markers), chosen, rejected, and the ids of the last three; `reference`: log p of both
    replies under the model as it is before training.
    """
    from workload import ASSISTANT, USER

    encode = tokenizer.backend_tokenizer.encode
    pairs: list[dict[str, Any]] = []
    for line in source.read_text().splitlines():
        row = json.loads(line)
        (question, mark, chosen), rejected = row["chosen"].rpartition("\n\nAssistant:"), row["rejected"]
        if not mark or not rejected.startswith(question + mark):
            continue
        rejected = rejected.removeprefix(question + mark)
        pair: dict[str, Any] = {"question": question.strip(), "chosen": chosen.strip(), "rejected": rejected.strip()}
        if not pair["chosen"] or not pair["rejected"] or pair["chosen"] == pair["rejected"]:
            continue
        pair["prompt"] = USER + pair["question"] + ASSISTANT
        pair["prompt_ids"] = encode(pair["prompt"]).ids
        for side in ("chosen", "rejected"):
            pair[f"{side}_ids"] = [*encode(pair[side]).ids, tokenizer.eos_token_id]
        if len(pair["prompt_ids"]) + max(len(pair["chosen_ids"]), len(pair["rejected_ids"])) > min(
            LONGEST_PAIR, shape.positions
        ):
            continue
        pairs.append(pair)
        if len(pairs) == shape.pairs:
            break
    add_reference(work, pairs)
    (work / "pairs.json").write_text(json.dumps(pairs))
    keys = ("question", "chosen", "rejected")
    (work / "pairs.jsonl").write_text("".join(json.dumps({k: pair[k] for k in keys}) + "\n" for pair in pairs))


def add_reference(work: Path, pairs: list[dict[str, Any]]) -> None:
    """`reference` of each pair, by transformers' model."""
    import measure
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(str(work / "model")).eval()
    for pair in pairs:
        pair["reference"] = measure.reply_logps(lambda ids: model(input_ids=ids).logits, pair)


def write_prompts(work: Path, rows: Sequence[dict[str, Any]]) -> None:
    """prompts.json: 64 lists of ids, 32 to 64 long, from the beginnings of conversations joined end to end."""
    flat = [number for row in rows for number in row["ids"]]
    shortest, longest = PROMPT_TOKENS
    prompts = [
        flat[(at := i * longest % (len(flat) - longest)) : at + shortest + i * 7 % (longest - shortest + 1)]
        for i in range(MOST_PROMPTS)
    ]
    (work / "prompts.json").write_text(json.dumps(prompts))
