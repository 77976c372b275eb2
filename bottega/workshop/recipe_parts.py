"""The dataclasses of a recipe: their fields are its keys, their help is what `bottega init` writes.

Left out: search spaces and audits, which come with the rooms that read them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from bottega.core.config import Secret, option
from bottega.core.errors import UserError
from bottega.data.remote import is_remote, remote
from bottega.workshop.recipe_choice import Choice
from bottega.workshop.recipe_live import Feedback
from bottega.workshop.recipe_online import Graded, Rollout

ADAPTERS = ("lora", "adalora", "qlora", "ia3", "oft", "vera", "adapter", "prefix", "prompt", "p_tuning", "gate")
MERGING = ("lora", "adalora", "qlora", "ia3", "oft", "vera")
STREAMING = ("lora", "qlora", "prefix")
"""Methods whose result is an adapter folder, those of them that can be merged into the weights, and those that leave
every weight of the base as it is, so that its layers can be streamed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """One source of rows: a file or a folder, its share in the mixture, and how to read it."""

    path: str = option(
        help="a file, a folder, or a URL: sqlite:///FILE, postgresql://..., hub://OWNER/NAME, s3://..., gs://..."
    )
    query: str | None = option(None, "of a database: a SELECT, or a table's name")
    password: Secret | None = option(None, "of a database; write ${env:NAME}")
    weight: float | None = option(None, "share of the rows drawn from this source; 0: none", low=0)
    epochs: float | None = option(None, "times through this source, at most, in the whole stage", above=0)
    format: str | None = option(None, "the format's name; default: found by looking")
    columns: dict[str, str] | None = option(None, "which column plays which part, for plain tables")
    clean: tuple[Choice, ...] | None = option(
        None, "cleaning steps for this source, in order: exact, near, personal, ..."
    )

    @property
    def source(self) -> Any:
        """What the data room reads: the path, or the remote source with its query and password."""
        if not is_remote(self.path):
            return self.path
        return remote(self.path, query=self.query or "", password=self.password.reveal() if self.password else "")

    @staticmethod
    def shorthand(value: Any) -> Any:
        """`chats.jsonl` -> {path: chats.jsonl}."""
        return {"path": value} if isinstance(value, str) else value


@dataclass(frozen=True, kw_only=True, slots=True)
class MixturePhase:
    """Weights of the sources that hold from so many tokens on."""

    tokens: int = option(help="tokens that the stage has seen", low=0)
    weights: tuple[float, ...] = option(help="a weight for each source of data, in their order")

    def __post_init__(self) -> None:
        if any(weight < 0 for weight in self.weights) or not any(self.weights):
            raise UserError(
                f"the weights {', '.join(f'{w:g}' for w in self.weights) or '(none)'} draw from no source; "
                "give each 0 or more, and one of them more than 0"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class MixtureShares:
    """How much of each source is drawn: their sizes or weights, evened out, or a schedule."""

    temperature: float = option(1.0, "shares are sizes (or weights) to the power 1/temperature", above=0)
    schedule: tuple[MixturePhase, ...] = option(
        (), "weights from so many tokens on: [{tokens: 0, weights: [1, 0]}, ...]"
    )

    @staticmethod
    def shorthand(value: Any) -> Any:
        """`2.0` -> {temperature: 2.0}; a list -> {schedule: [...]}."""
        if isinstance(value, int | float) and not isinstance(value, bool):
            return {"temperature": value}
        return {"schedule": value} if isinstance(value, list) else value


@dataclass(frozen=True, kw_only=True, slots=True)
class Curriculum:
    """Rows in an order of difficulty instead of a plain shuffle."""

    by: str = option(help="length, loss, or a column of the data that holds a number")
    first: Literal["easy", "hard"] = option("easy", "small numbers come first, or large ones")
    bands: int = option(10, "parts of an epoch, each shuffled within itself", low=2)
    epochs: int = option(1, "epochs that are ordered, before plain ones; by loss: all but the first are", low=1)

    @staticmethod
    def shorthand(value: Any) -> Any:
        """`length` -> {by: length}."""
        return {"by": value} if isinstance(value, str) else value


@dataclass(frozen=True, kw_only=True, slots=True)
class Context:
    """A shorter context for the first steps of pretraining: blocks are cut into rows of `tokens`."""

    tokens: int = option(help="tokens a row; max_tokens must be a multiple", low=8)
    until: float = option(help="share of the steps that have gone by when the next length begins", above=0, high=1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Validation:
    """Rows kept out of training: a share split off (no near duplicate across), or files of their own."""

    share: float | None = option(None, "share of the rows to keep out", above=0, high=0.5)
    data: tuple[Part, ...] = option((), "files of their own")

    @staticmethod
    def shorthand(value: Any) -> Any:
        """`0.1` -> {share: 0.1}; `held.jsonl` or a list -> {data: [...]}."""
        if isinstance(value, int | float) and not isinstance(value, bool):
            return {"share": value}
        if isinstance(value, str) or (isinstance(value, Mapping) and "path" in value):
            return {"data": [value]}
        return {"data": value} if isinstance(value, list) else value

    def __post_init__(self) -> None:
        if (self.share is None) == (not self.data):
            raise UserError("validation needs either a share (such as 0.1) or data, and not both")


@dataclass(frozen=True, kw_only=True, slots=True)
class EarlyStop:
    """End when a metric of the evaluation was not better `patience` times in a row; the best checkpoint stays."""

    metric: str = option("loss", "a metric of the evaluation")
    mode: Literal["min", "max"] = option("min", "better is smaller, or larger")
    patience: int = option(3, "evaluations without a new best", low=1)

    @staticmethod
    def shorthand(value: Any) -> Any:
        """`loss` -> {metric: loss}."""
        return {"metric": value} if isinstance(value, str) else value


@dataclass(frozen=True, kw_only=True, slots=True)
class Samples:
    """Prompts that the model answers at every evaluation, to read along (samples.jsonl in the stage's folder)."""

    prompts: tuple[str, ...]
    max_tokens: int = option(64, "longest answer", low=1)

    @staticmethod
    def shorthand(value: Any) -> Any:
        """[`Who are you?`] -> {prompts: [...]}."""
        return {"prompts": value} if isinstance(value, list) else value


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """One training: an objective, a method, data, and the loop's settings."""

    name: str
    objective: Choice = option(
        help="pretrain, sft, distil, dpo, kto, orpo, simpo, cpo, reward, classification, multilabel, regression, tagging, contrastive"
    )
    data: tuple[Part, ...] = option(help="what to learn from")
    method: Choice = option(Choice(name="lora"), "how the model is tuned: full, lora, ...")
    then: Literal["merge", "continue", "stack"] | None = option(
        None, "what the next stage starts from; default: merge if there is one, else the adapter is kept apart"
    )
    start: str | None = option(None, "an earlier stage whose result this one starts from; default: the one before")
    mixture: MixtureShares | None = option(None, "how sources are mixed: a temperature, or a schedule of weights")
    curriculum: Curriculum | None = option(None, "the order of difficulty: length, loss or a column")
    context: tuple[Context, ...] = option(
        (), "with blocks: shorter rows for the first steps, as [{tokens: 64, until: 0.3}]; the tokens of a step stay"
    )
    validation: Validation | None = option(None, "rows kept out of training: a share or files")
    clean: tuple[Choice, ...] | None = option(
        None, "cleaning steps for the training rows of all sources together, before a share is kept out"
    )
    template: str | None = option(None, "chat template: a name or a file; default: the tokenizer's own")
    mask: str = option("assistant", "which tokens are trained in chats: assistant, last, all, from:N")
    thinking: Literal["keep", "mask", "drop"] = option("keep", "what becomes of thinking blocks")
    max_tokens: int | None = option(None, "longest row in tokens; default: 2048 or the model's own limit", low=8)
    shards: bool | None = option(
        None, "tokenise once into shards on disk and read rows from there; default: from 64 MB of files on"
    )
    blocks: bool = option(False, "pretrain only: texts end to end, cut into blocks of max_tokens (nothing to pad)")
    over_length: Literal["error", "drop", "split", "truncate"] | None = option(
        None, "what becomes of longer rows; default: split for pretrain, else error"
    )
    allow_loss: int | None = option(
        None, "bad rows that may be left out; default: 1 percent of files over 1,000 rows, none of smaller ones", low=0
    )
    steps: int | None = option(None, "optimizer steps; or give epochs", low=1)
    epochs: float | None = option(None, "times through the data; default: 1", above=0)
    batch: int = option(8, "rows a step", low=1)
    lr: float | None = option(None, "peak learning rate; default: what is usual for the method", above=0)
    warmup: float = option(0.0, "steps of warm-up, or below 1 a share of the steps", low=0)
    eval_every: int | None = option(None, "steps between evaluations; default: ten in a run", low=1)
    save_every: int | None = option(None, "steps between checkpoints; default: five in a run", low=1)
    teacher: str | None = option(None, "distil, gkd: the model to learn from, with the same tokens")
    noise: float | None = option(
        None,
        "pretrain of encoders and encoder-decoders: share of tokens hidden; default: 0.15, infilling 0.3",
        low=0,
        high=1,
    )
    false_positives: float | None = option(
        None,
        "labels: the threshold of most recall with at most this share of false positives; default: of the best F1",
        low=0,
        high=1,
    )
    early_stop: EarlyStop | None = option(None, "end when it stops getting better")
    samples: Samples | None = option(None, "prompts answered at every evaluation")
    rewards: tuple[Graded, ...] | None = option(None, "what an answer is worth: exact, number, length, python, ...")
    rollout: Rollout | None = option(None, "how answers are sampled: {group: 8, max_tokens: 128, temperature: 1}")
    judge: tuple[Graded, ...] | None = option(None, "rewards that are never trained on, to see over-optimisation")
    feedback: Feedback | None = option(None, "ask people while it trains: live, or {url: ..., token: ...} and more")
    parallel: Literal["ddp", "fsdp"] = option(
        "ddp", "of several processes, each holds the whole model (ddp) or a shard of it (fsdp)"
    )
    loop: dict[str, Any] = option(factory=dict)

    @property
    def merges(self) -> bool:
        """Whether an adapter is merged into the weights when the stage ends."""
        return self.then == "merge" and self.method.name in ADAPTERS


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluate:
    """What is measured before the first stage and after the last."""

    tasks: tuple[str, ...] = option(help="task files or names")
    before: bool = option(True, "measure the base model too")
    limit: int | None = option(None, "at most so many items a task", low=1)
    judge: str = option(
        "", "the model that rates judged tasks: a folder, a Hub id, garzone or an endpoint, http://HOST/v1#NAME"
    )
    judge_key_env: str = option("", "the environment variable with the judge's key")
    gate: dict[str, float] = option(factory=dict, help="forgetting: largest fall allowed; a task's name: least score")


@dataclass(frozen=True, kw_only=True, slots=True)
class Notify:
    """A POST with the result's numbers when the run ends."""

    url: str
    token: Secret | None = option(None, "sent as a bearer token; write ${env:NAME}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Vocabulary:
    """The tokenizer of a model that starts from nothing: trained on the way, or one that exists."""

    data: tuple[str, ...] = option((), "files to learn it from; default: the first stage's data")
    vocab: int = option(8192, "tokens, special ones included", low=1)
    kind: Literal["bpe", "unigram"] = option("bpe", "merge frequent pairs, or prune to the likeliest pieces")
    model: str | None = option(
        None, "take this model's tokenizer instead of training one: a Hub id, a folder, or garzone"
    )

    @staticmethod
    def shorthand(value: Any) -> Any:
        """`my-tokenizer` -> {model: my-tokenizer}."""
        return {"model": value} if isinstance(value, str) else value


@dataclass(frozen=True, kw_only=True, slots=True)
class Init:
    """A model of random weights to pretrain: our decoder, by preset and fields (models/shape.py)."""

    preset: str | None = option(None, "mpt-7b, mpt-30b, mpt-1b, mpt-125m, garzone or garzone-mpt")
    config: dict[str, Any] = option(factory=dict, help="fields of the decoder that differ from the preset's")
    tokenizer: Vocabulary = option(Vocabulary(), "trained on the way, or a model's name")

    @staticmethod
    def shorthand(value: Any) -> Any:
        """`garzone-mpt` -> {preset: garzone-mpt}."""
        return {"preset": value} if isinstance(value, str) else value


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """What `bottega run` does."""

    name: str = option(help="names the run folder")
    model: str = option("", "a Hub id, a folder, or garzone; or give init")
    init: Init | None = option(
        None, "start from random weights instead: a preset's name, or preset, config and tokenizer"
    )
    stages: tuple[Stage, ...] = option(help="one training each, in order")
    schema: Literal[1] = 1
    revision: str | None = option(None, "a Hub revision (40 hex digits repeat a run exactly)")
    device: str = option(
        "auto", "auto (a GPU with room for the weights, else the CPU), cpu, cuda, or cuda:1 of several"
    )
    seed: int = option(0, "of everything that is drawn", low=0, high=2**32 - 1)
    evaluate: Evaluate | None = option(None, "measured before and after")
    notify: Notify | None = option(None, "whom to tell at the end")
    step_timeout_s: float = option(
        1800.0, "several processes: a step that takes longer (evaluation and checkpoint included) ends the run", above=0
    )
    track: tuple[str, ...] = option((), "send metrics to tensorboard, wandb or mlflow too")
