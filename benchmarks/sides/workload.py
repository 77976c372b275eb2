"""What every side trains: a tiny model of random weights, its tokenizer, and conversations of long-tailed lengths.

Left out: real weights (only speed, memory and the equality of the mathematics are measured here); pairs and blocks are
made in others.py.

GSM8K's questions are joined to one stream of text and its answers to another; each conversation takes the next words of
both until it has the length drawn for it. So the text is real, the lengths are a log-normal with a long tail, and 60
percent of a conversation is prompt, as in the instruction sets people tune on.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

MEDIAN_TOKENS, SPREAD, SHORTEST = 120, 0.85, 24
PROMPT_SHARE = 0.6
SEED = 9
"""Of the first twelve seeds the one whose 64 rows come nearest to 9,427 tokens, for which the goals were set."""
USER, ASSISTANT, END, PAD, START = "<|user|>", "<|assistant|>", "<|eos|>", "<|pad|>", "<|bos|>"
TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}" + USER + "{{ message['content'] }}"
    "{% else %}" + ASSISTANT + "{{ message['content'] }}" + END + "{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}" + ASSISTANT + "{% endif %}"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """Sizes of the model (Llama: grouped queries, gated feed-forward, tied head) and of the data."""

    layers: int = 6
    width: int = 384
    heads: int = 6
    kv_heads: int = 2
    feed_forward: int = 1024
    vocabulary: int = 8192
    positions: int = 2048
    rows: int = 64
    held_out: int = 64
    longest: int = 1000
    pairs: int = 32
    blocks: int = 40
    seed: int = SEED

    @property
    def name(self) -> str:
        """Changes when any size does."""
        return "-".join(str(value) for value in asdict(self).values())

    @property
    def words(self) -> str:
        """For people."""
        return (
            f"{self.layers} layers, width {self.width}, {self.heads} heads ({self.kv_heads} for keys and values), "
            f"feed-forward {self.feed_forward}, vocabulary {self.vocabulary}, tied head"
        )


def prepare(folder: Path, data: Path, shape: Shape) -> Path:
    """Write model/, rows.json (text and ids), chat.jsonl and what others.py makes in a folder below `folder`, once per shape.

    rows.json: {"train": [...], "held_out": [...]}, each row {"question", "prompt" (with its markers), "reply", "ids",
    "trains"}; chat.jsonl: the training rows as messages.

    Raises:
        FileNotFoundError: `data` does not hold gsm8k/train.jsonl and hh_rlhf/pairs.jsonl.
    """
    import others

    work = folder / shape.name
    if (work / "done").exists():
        return work
    work.mkdir(parents=True, exist_ok=True)
    problems = [json.loads(line) for line in (data / "gsm8k" / "train.jsonl").read_text().splitlines()]
    tokenizer = write_model(work / "model", [p["question"] + "\n" + p["answer"] for p in problems], shape)
    made = list(conversations(problems, tokenizer, shape))
    rows = {"train": made[: shape.rows], "held_out": made[shape.rows :]}
    (work / "rows.json").write_text(json.dumps(rows))
    with (work / "chat.jsonl").open("w") as out:
        for row in rows["train"]:
            turns = [{"role": "user", "content": row["question"]}, {"role": "assistant", "content": row["reply"]}]
            out.write(json.dumps({"messages": turns}) + "\n")
    others.write_blocks(work, problems, tokenizer, shape)
    others.write_pairs(work, data / "hh_rlhf" / "pairs.jsonl", tokenizer, shape)
    others.write_prompts(work, made)
    (work / "done").touch()
    return work


def write_model(folder: Path, texts: Sequence[str], shape: Shape) -> Any:
    """A byte-level BPE learned from `texts` and a Llama of random weights, in `folder`; returns the tokenizer."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=shape.vocabulary,
        special_tokens=[START, END, PAD, USER, ASSISTANT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token=START, eos_token=END, pad_token=PAD, model_max_length=shape.positions
    )
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(str(folder))
    torch.manual_seed(shape.seed)
    config = LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.width,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        intermediate_size=shape.feed_forward,
        max_position_embeddings=shape.positions,
        tie_word_embeddings=True,
        bos_token_id=core.token_to_id(START),
        eos_token_id=core.token_to_id(END),
        pad_token_id=core.token_to_id(PAD),
        rms_norm_eps=1e-5,
    )
    LlamaForCausalLM(config).save_pretrained(str(folder))
    return tokenizer


def conversations(problems: Sequence[dict[str, str]], tokenizer: Any, shape: Shape) -> Iterator[dict[str, Any]]:
    """shape.rows + shape.held_out conversations; ids and, for each, whether it trains (the reply and its end do)."""
    draw = random.Random(shape.seed)
    questions = _words(problem["question"] for problem in problems)
    answers = _words(problem["answer"] for problem in problems)
    encode = tokenizer.backend_tokenizer.encode
    end = tokenizer.eos_token_id
    for _ in range(shape.rows + shape.held_out):
        length = min(max(int(math.exp(draw.gauss(math.log(MEDIAN_TOKENS), SPREAD))), SHORTEST), shape.longest)
        wanted = max(8, int(length * PROMPT_SHARE))
        question = _take(questions, encode, wanted - 2)
        reply = _take(answers, encode, max(6, length - wanted) - 1)
        prompt = USER + question + ASSISTANT
        before, after = encode(prompt).ids, [*encode(reply).ids, end]
        yield {
            "question": question,
            "prompt": prompt,
            "reply": reply,
            "ids": before + after,
            "trains": [0] * len(before) + [1] * len(after),
        }


def _words(texts: Iterator[str] | Any) -> Iterator[str]:
    return (word for text in texts for word in text.split())


def _take(words: Iterator[str], encode: Any, num_tokens: int) -> str:
    """The next words, about `num_tokens` tokens of them."""
    taken: list[str] = []
    size = 0
    while size < num_tokens:
        word = next(words)
        size += len(encode(" " + word).ids)
        taken.append(word)
    return " ".join(taken)


def counts(work: Path) -> dict[str, Any]:
    """Tokens, supervised tokens, and the spread of lengths of the training rows; tokens of blocks, number of pairs."""
    lengths, supervised = [], 0
    for row in json.loads((work / "rows.json").read_text())["train"]:
        lengths.append(len(row["ids"]))
        supervised += sum(row["trains"])
    lengths.sort()
    pairs = json.loads((work / "pairs.json").read_text())
    blocks = json.loads((work / "blocks.json").read_text())["train"]
    return {
        "rows": len(lengths),
        "tokens": sum(lengths),
        "supervised": supervised,
        "prompt_share": round(1 - supervised / sum(lengths), 3),
        "median": lengths[len(lengths) // 2],
        "longest": lengths[-1],
        "blocks": len(blocks),
        "block": len(blocks[0]),
        "pairs": len(pairs),
        "pair_tokens": sum(len(p["prompt_ids"]) + len(p["chosen_ids"]) + len(p["rejected_ids"]) for p in pairs),
        "pair_prompt_tokens": sum(len(p["prompt_ids"]) for p in pairs),
    }
