"""Commands that use and measure a model: eval, compare, chat, generate, serve, predict, score, embed.

Left out: their functions (workshop/use.py, workshop/evaluating.py, workshop/predict.py, workshop/scores.py, workshop/serving.py).
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import click

from bottega.cli.parts import call, cli, columns_option, json_flag, offline_flag, quiet_flag, template_option, verb

weights_option = click.option(
    "--weights",
    type=click.Choice(["full", "nf4", "int8", "stream", "nf4+stream", "int8+stream"]),
    default="full",
    show_default=True,
    help="Linear layers in 4 or 8 bits, layers left on disk, or both; says the KL to full precision and tokens/s.",
)

device_option = click.option(
    "--device",
    default="auto",
    show_default=True,
    metavar="D",
    help="auto (a GPU with room, else cpu), cpu, cuda or cuda:1.",
)


def reach_options(function: Any) -> Any:
    """How an endpoint is reached."""
    for add in (
        click.option("--key-env", default="", metavar="VARIABLE", help="The environment variable with its key."),
        click.option("--ca", default="", metavar="FILE", help="Certificates to trust instead of the system's."),
        click.option(
            "--cert", default="", metavar="FILE", help="Our own certificate, for an endpoint that asks for it."
        ),
        click.option("--cert-key", default="", metavar="FILE", help="Its key, where that is another file."),
        click.option("--insecure", is_flag=True, help="Accept any certificate."),
        click.option("--timeout", type=click.FloatRange(0.01), default=120.0, show_default=True, help="Seconds."),
        click.option("--concurrency", type=click.IntRange(1), default=32, show_default=True, help="Questions at once."),
        click.option(
            "--tries", type=click.IntRange(1), default=6, show_default=True, help="For one question, at most."
        ),
    ):
        function = add(function)
    return function


def _reach(options: dict[str, Any]) -> Any:
    from bottega.workshop.endpoints import Reach

    return Reach(**{field.name: options.pop(field.name, field.default) for field in fields(Reach)})


stream_option = click.option("--stream", is_flag=True, help="Ask an endpoint for replies in pieces.")


def judging_options(function: Any) -> Any:
    """Who rates judged tasks, and where every reply is kept."""
    for add in (
        click.option("--judge", default="", metavar="MODEL", help="Rates judged tasks: a model here, or an endpoint."),
        click.option("--judge-key-env", default="", metavar="VARIABLE", help="The variable with the judge's key."),
        click.option(
            "--base", default="", metavar="REF", help="Of NAME=TAXONOMY: leaves changed since this reference."
        ),
    ):
        function = add(function)
    return function


answers_option = click.option(
    "--answers", metavar="FILE", help="Keep an endpoint's answers here (SQLite): none is asked for twice."
)


@verb(
    cli,
    "eval",
    "bottega eval runs/support-bot --tasks my_tasks.yaml --json",
    "bottega eval runs/support-bot --tasks mt_bench=question.jsonl --judge http://localhost:8000/v1#judge --table replies.csv",
)
@click.argument("model")
@click.option("--tasks", "tasks", multiple=True, required=True, metavar="T", help="A task's name or file; repeat it.")
@click.option("--limit", type=click.IntRange(1), help="At most so many items a task.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--out", help="Also write the scorecard to this file.")
@click.option("--table", default="", metavar="FILE", help="Every reply with its score: .csv, .jsonl or .xlsx.")
@judging_options
@weights_option
@device_option
@reach_options
@stream_option
@answers_option
@template_option
@json_flag
@quiet_flag
@offline_flag
def eval_command(model: str, as_json: bool, **options: Any) -> int:
    """Score a model on tasks; every score has its number of items and a 95 percent interval."""
    return call("eval", as_json=as_json, model=model, reach=_reach(options), **options)


@verb(
    cli,
    "compare",
    "bottega compare garzone runs/support-bot --tasks my_tasks.yaml",
    "bottega compare before.json after.json",
)
@click.argument("a")
@click.argument("b")
@click.option("--tasks", "tasks", multiple=True, metavar="T", help="A task's name or file; repeat it.")
@click.option("--limit", type=click.IntRange(1), help="At most so many items a task.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--out", help="Also write the report to this file.")
@judging_options
@reach_options
@stream_option
@answers_option
@device_option
@template_option
@json_flag
@quiet_flag
@offline_flag
def compare_command(a: str, b: str, as_json: bool, **options: Any) -> int:
    """Two models, or two scorecards (*.json), on the same items: paired intervals, what improved and regressed."""
    return call("compare", as_json=as_json, a=a, b=b, reach=_reach(options), **options)


def sampling_options(function: Any) -> Any:
    """The options of `chat` and `generate`."""
    for add in (
        click.option("--max-tokens", type=click.IntRange(1), default=256, show_default=True),
        click.option("--temperature", type=click.FloatRange(0), default=0.0, show_default=True),
        click.option("--top-p", type=click.FloatRange(0, 1), default=1.0, show_default=True),
        click.option("--seed", type=int, default=0, show_default=True),
        template_option,
        offline_flag,
    ):
        function = add(function)
    return function


@verb(cli, "chat", "bottega chat runs/support-bot", "bottega chat http://localhost:8000/v1#qwen3 --key-env KEY")
@click.argument("model")
@click.option("--system", help="A system message.")
@weights_option
@reach_options
@device_option
@sampling_options
def chat_command(model: str, **options: Any) -> int:
    """Talk to a model, here or behind an endpoint (http://HOST/v1#NAME); /reset starts over, /exit leaves."""
    return call("chat", as_json=False, model=model, reach=_reach(options), **options)


@verb(
    cli,
    "generate",
    "bottega generate runs/support-bot --prompts prompts.jsonl --json",
    "bottega generate http://localhost:8000/v1#qwen3 --prompts prompts.jsonl --out replies.jsonl",
)
@click.argument("model")
@click.option("--prompts", required=True, help="A file: jsonl (prompt or messages), or txt, one prompt a line.")
@click.option("--out", help="Write JSON lines here instead of printing.")
@click.option("--batch", type=click.IntRange(1), default=16, show_default=True)
@click.option("--n", type=click.IntRange(1), default=1, show_default=True, help="Replies a prompt.")
@click.option("--top-k", type=click.IntRange(0), default=0, help="Draw from so many likeliest tokens; 0: from all.")
@click.option(
    "--min-p", type=click.FloatRange(0, 1), default=0.0, help="Leave out what is less likely than this x best."
)
@click.option("--repetition-penalty", type=click.FloatRange(0.01, 100), default=1.0, help="Above 1: says less again.")
@click.option("--stop", multiple=True, metavar="TEXT", help="End a reply before this text; repeat it.")
@click.option(
    "--logprobs", "top_logps", type=click.IntRange(0), default=0, help="So many likeliest tokens in each place."
)
@click.option("--beams", type=click.IntRange(1), default=1, show_default=True, help="Beam search of this width.")
@click.option("--draft", metavar="MODEL", help="A smaller model with the same tokens writes ahead; says the speed-up.")
@click.option("--lookup", is_flag=True, help="Write ahead what followed the same words before; says the speed-up.")
@click.option("--raw", is_flag=True, help="Continue the text as it is, without a chat template.")
@weights_option
@reach_options
@stream_option
@device_option
@sampling_options
@json_flag
@quiet_flag
def generate_command(model: str, as_json: bool, **options: Any) -> int:
    """Answer every prompt of a file, by a model here or behind an endpoint (http://HOST/v1#NAME)."""
    return call("generate", as_json=as_json, model=model, reach=_reach(options), **options)


@verb(
    cli,
    "serve",
    "bottega serve runs/support-bot",
    "bottega serve garzone --adapter polite=runs/polite --adapter terse=runs/terse --key-file keys.txt",
)
@click.argument("model")
@click.option("--adapter", "adapters", multiple=True, metavar="NAME=PATH", help="A LoRA adapter on MODEL; repeat it.")
@click.option("--adapters-from", metavar="DIR", help="Clients may load the adapters in this folder while it runs.")
@click.option("--name", metavar="NAME", help="What clients call MODEL; default: its last part.")
@click.option("--batch", type=click.IntRange(1, 1024), default=16, show_default=True, help="Replies written at once.")
@click.option("--queue", type=click.IntRange(0), default=256, show_default=True, help="Replies that may wait.")
@click.option("--max-tokens", type=click.IntRange(1), help="Of a reply, at most; default: what the positions leave.")
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option("--port", type=click.IntRange(1, 65535), default=8000, show_default=True)
@click.option("--allow-host", multiple=True, metavar="NAME", help="A name by which others call this machine.")
@click.option("--key-env", default="", metavar="VARIABLE", help="The variable with the key that clients send.")
@click.option("--key-file", default="", metavar="FILE", help="Keys, one a line, in a file of mode 600.")
@click.option("--certificate", metavar="FILE", help="For TLS, with its key.")
@click.option("--certificate-key", metavar="FILE")
@click.option("--behind-proxy", is_flag=True, help="A proxy with TLS stands in front.")
@weights_option
@device_option
@template_option
@offline_flag
def serve_command(model: str, **options: Any) -> int:
    """An OpenAI-compatible server: many at once, adapters by name or mixed (a+b:0.6), on this machine unless told otherwise."""
    from bottega.workshop.access import Access

    access = Access(**{field.name: options.pop(field.name) for field in fields(Access)})
    return call("serve", as_json=False, model=model, access=access, **options)


cut_option = click.option(
    "--max-tokens", type=click.IntRange(2), help="Cut longer texts; default: the model's positions."
)


@verb(
    cli,
    "predict",
    "bottega predict runs/spam incoming.jsonl --out labelled.jsonl",
    "bottega predict runs/fraud rows.jsonl --threshold 0.9 --json",
    "bottega predict runs/fraud new.csv --column 'text={{ amount }} EUR from {{ country }}'",
)
@click.argument("model")
@click.argument("file")
@click.option(
    "--threshold", type=click.FloatRange(0, 1), help="Say the positive label from here on; default: as stored."
)
@cut_option
@columns_option
@click.option("--out", help="Write JSON lines here: label and probabilities a text.")
@device_option
@json_flag
@quiet_flag
@offline_flag
def predict_command(model: str, file: str, as_json: bool, **options: Any) -> int:
    """Labels, numbers or tags for every text of a file; the scores too, where its rows have labels."""
    return call("predict", as_json=as_json, model=model, file=file, **options)


@verb(
    cli,
    "score",
    "bottega score runs/judge pairs.jsonl --out rewards.jsonl",
    "bottega score runs/judge-a runs/judge-b replies.jsonl --json",
)
@click.argument("models", nargs=-1, required=True)
@click.argument("file")
@click.option("--max-tokens", type=click.IntRange(2), help="Cut longer rows; default: the model's positions.")
@click.option("--allow-loss", type=click.IntRange(0), help="Bad rows that may be left out.")
@click.option("--out", help="Write JSON lines here: a reward a row.")
@template_option
@device_option
@json_flag
@quiet_flag
@offline_flag
def score_command(models: tuple[str, ...], file: str, as_json: bool, **options: Any) -> int:
    """Rewards for replies by reward models (several: their mean and spread); of pairs, how often the better one wins."""
    return call("score", as_json=as_json, models=list(models), file=file, **options)


@verb(cli, "embed", "bottega embed runs/search passages.jsonl --out vectors.npy")
@click.argument("model")
@click.argument("file")
@cut_option
@click.option("--out", help="Write the vectors here: .npy (float32), or JSON lines with text and vector.")
@device_option
@json_flag
@quiet_flag
@offline_flag
def embed_command(model: str, file: str, as_json: bool, **options: Any) -> int:
    """A unit vector for every text of a file."""
    return call("embed", as_json=as_json, model=model, file=file, **options)
