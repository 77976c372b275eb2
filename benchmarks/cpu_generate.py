"""Generation on CPU: ours against transformers' generate, the same random model, prompts and tokens, interleaved.

Left out: other engines (none of them runs in the project's own environment). Weights are random and seeded, so greedy
rows may part where the two best logits are nearly equal; the share of equal rows is printed.

    OMP_NUM_THREADS=1 python benchmarks/cpu_generate.py --batch 16 64 --rounds 5
"""

from __future__ import annotations

import argparse
import datetime
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import transformers
from transformers import LlamaConfig, LlamaForCausalLM

from bottega.models.generate import Generator

NEW = 128


def make_model(width: int, layers: int, vocabulary: int) -> LlamaForCausalLM:
    """A random Llama with head size 32, two query heads a key head, tied embeddings."""
    torch.manual_seed(0)
    heads = width // 32
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads,
        num_key_value_heads=heads // 2, intermediate_size=width * 11 // 4, max_position_embeddings=1024,
        tie_word_embeddings=True,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.08)
    return model


def timed(run: Callable[[], Any]) -> tuple[Any, float]:
    """What `run` returns and its CPU seconds."""
    began = time.process_time()
    result = run()
    return result, time.process_time() - began


def compare(model: LlamaForCausalLM, batch: int, rounds: int, temperature: float, num_ends: int = 0) -> str:
    """One line: tokens per CPU second of both, and their ratio, medians over `rounds`.

    Args:
        num_ends: so many tokens of the vocabulary end a reply, so that rows finish at different steps; 0: none does.
    """
    generator = torch.Generator().manual_seed(1)
    lengths = torch.randint(32, 65, (batch,), generator=generator).tolist()
    prompts = [torch.randint(3, model.config.vocab_size, (n,), generator=generator).tolist() for n in lengths]
    width = max(lengths)
    ids = torch.tensor([[0] * (width - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
    ours_generator = Generator(model)
    ends = list(range(3, 3 + num_ends))
    how: dict[str, Any] = {"do_sample": temperature > 0, "max_new_tokens": NEW, "pad_token_id": 0}
    how |= {"eos_token_id": ends} if ends else {"min_new_tokens": NEW}
    if temperature > 0:
        how |= {"temperature": temperature, "top_k": 0}

    def ours() -> list[list[int]]:
        options = {"max_tokens": NEW, "temperature": temperature, "stop_ids": ends, "batch": batch}
        return [list(reply.ids) for reply in ours_generator.sample(prompts, **options)]

    def theirs() -> list[list[int]]:
        with torch.inference_mode():
            return model.generate(ids, attention_mask=mask, **how)[:, width:].tolist()

    def written(rows: list[list[int]]) -> int:
        return sum(next((at + 1 for at, token in enumerate(row) if token in ends), len(row)) for row in rows)

    ours(), theirs()
    spent: dict[str, list[float]] = {"ours": [], "theirs": []}
    for _ in range(rounds):
        mine, seconds = timed(ours)
        spent["ours"].append(seconds / written(mine))
        other, seconds = timed(theirs)
        spent["theirs"].append(seconds / written(other))
    rate = {name: 1 / statistics.median(seconds) for name, seconds in spent.items()}
    equal = sum(a == b for a, b in zip(mine, other)) / batch
    kind = f"temperature {temperature:g}" if temperature else "greedy"
    kind += ", rows end at different steps" if ends else ""
    said = f", rows equal {equal:.2f}" if not temperature else ""
    ratio = rate["ours"] / rate["theirs"]
    speeds = f"ours {rate['ours']:,.0f}, transformers {rate['theirs']:,.0f} tokens per CPU second"
    return f"batch {batch:3d}, {kind}: {speeds}, ratio {ratio:.2f}{said}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--vocabulary", type=int, default=2048)
    given = parser.parse_args()
    transformers.logging.set_verbosity_error()
    model = make_model(given.width, given.layers, given.vocabulary)
    size = sum(parameter.numel() for parameter in model.parameters())
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}, Python {platform.python_version()}"
    print(
        f"{datetime.date.today()}, {size:,} parameters, {NEW} new tokens, {torch.get_num_threads()} threads, {versions}"
    )
    for batch in given.batch:
        for temperature in (0.0, 1.0):
            print(compare(model, batch, given.rounds, temperature), flush=True)
        print(compare(model, batch, given.rounds, 1.0, num_ends=given.vocabulary // 50), flush=True)


if __name__ == "__main__":
    main()
