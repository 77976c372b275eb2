"""The nouns of the workshop and the Protocols between its rooms: the page to read first.

Left out: behaviour. A fact travels Document -> Leaf -> Conversation | Preference | Labelled -> Tokens -> Row
-> Layout -> Scores -> Terms -> checkpoint -> scorecard; each arrow is one type of this page.

Shapes in tensor names: B rows of a batch, T positions of a row, D width, N heads, H head size, V vocabulary,
S supervised positions of a micro-batch, Q sequences of a micro-batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn


class Where(NamedTuple):
    """Where a sample was read: file, row (1-based record or line) and, if one is at fault, the column."""

    file: str
    row: int = 0
    column: str = ""

    def __str__(self) -> str:
        return f"{self.file}:{self.row}" + (f" [{self.column}]" if self.column else "")


NOWHERE = Where("<memory>")


@dataclass(frozen=True, kw_only=True, slots=True)
class Document:
    """A text to learn from as it is."""

    text: str
    where: Where = NOWHERE
    meta: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Seed:
    """What people wrote for a teacher to go on from: questions with their answers, about a context ("" where there is none)."""

    pairs: tuple[tuple[str, str], ...]
    context: str = ""
    where: Where = NOWHERE


@dataclass(frozen=True, kw_only=True, slots=True)
class Leaf:
    """A leaf of a taxonomy: what it teaches, by whom, its seeds, and for knowledge the documents it rests on.

    about: the task's description (skills) or the documents' outline (knowledge). repo, commit, patterns: where the
    documents are. licences: SPDX names read from attribution.txt.
    """

    path: str
    kind: Literal["knowledge", "grounded_skill", "freeform_skill"]
    version: int
    created_by: str
    about: str
    seeds: tuple[Seed, ...]
    domain: str = ""
    repo: str = ""
    commit: str = ""
    patterns: tuple[str, ...] = ()
    licences: tuple[str, ...] = ()


RAW = "raw"
"""The role of a lone turn that is not a message: a text to go on with as it is, no chat template around it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """One message. `weight` None lets the mask policy decide; a number trains the turn with that weight (0: never).

    `ends` False: where the turn trains, the token that ends it does not (InstructLab's unmasked questions).
    """

    role: str
    content: str
    thinking: str | None = None
    tool_calls: tuple[Mapping[str, Any], ...] = ()
    tool_call_id: str | None = None
    name: str | None = None
    weight: float | None = None
    ends: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class Conversation:
    """Turns in order, with the tools that were on offer."""

    turns: tuple[Turn, ...]
    tools: tuple[Mapping[str, Any], ...] = ()
    where: Where = NOWHERE
    meta: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Preference:
    """Two continuations of one prompt, the first preferred by `margin` (None: unknown)."""

    prompt: tuple[Turn, ...]
    chosen: tuple[Turn, ...]
    rejected: tuple[Turn, ...]
    tools: tuple[Mapping[str, Any], ...] = ()
    margin: float | None = None
    where: Where = NOWHERE
    meta: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Labelled:
    """A text (or a prompt with an answer, for unpaired preferences) with its label, or a text of `words` with a tag for each."""

    text: str
    label: str | float | bool | tuple[str, ...]
    words: tuple[str, ...] = ()
    prompt: tuple[Turn, ...] = ()
    where: Where = NOWHERE
    meta: Mapping[str, Any] = field(default_factory=dict)


Sample = Document | Conversation | Preference | Labelled


class Tokens(NamedTuple):
    """Token ids and, for each, the weight with which it is a target (0: context only)."""

    ids: Sequence[int] | np.ndarray
    trains: Sequence[float] | np.ndarray


EMPTY = Tokens((), ())


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One row of training data: a shared prefix, computed once, and one or more branches that continue it.

    Text and conversations: empty prefix, one branch. A preference: the prompt, then chosen and rejected.
    A group of samples (GRPO): the prompt, then the samples. `index` is the row's place in its data set, the key of
    anything cached for it. `extras` holds one number per branch (margin, reward, label ...); `tokens` one number per
    supervised token, prefix first, then branch by branch (cached `ref.logp`, advantages, sampler log-probs ...).
    """

    index: int
    branches: tuple[Tokens, ...]
    prefix: Tokens = EMPTY
    extras: Mapping[str, Sequence[float]] = field(default_factory=dict)
    tokens: Mapping[str, Sequence[float] | np.ndarray] = field(default_factory=dict)

    @property
    def num_tokens(self) -> int:
        return len(self.prefix.ids) + sum(len(branch.ids) for branch in self.branches)


class Term(NamedTuple):
    """A loss: a SUM over the micro-batch and the unit by whose count over the global batch it is divided."""

    total: Tensor
    unit: Literal["tokens", "rows", "pairs", "one"]
    weight: float = 1.0


Scores = dict[str, "Tensor"]
"""What the Scorer computed, by need: `nll` () weighted sum of -log p; `logp` (S,); `entropy` (S,); `value` (S,); `divergence` (S,)
from a teacher; `reward` (Q,); `embedding` (Q, D); `labels` (Q, C) and `tags` (S, C) of a head with C labels; the same of another
view with its name in front: `ref.logp` (S,)."""

Sums = dict[str, "Tensor"]
"""Metrics as sums over the micro-batch; the loop adds them up over micro-batches and ranks. A name `a/b` is divided by
the unit b: `accuracy/pairs` is divided by the number of pairs."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Targets:
    """What an objective compares scores with; tensors of one micro-batch.

    labels_S: target ids; weights_S: loss weights; sequence_S: the sequence each belongs to; row_Q: the row of each
    sequence (branches of a row are neighbours); extras_Q: the rows' `extras`, one number a sequence; tokens: the rows'
    `tokens`, (S,) each.
    """

    labels_S: Tensor
    weights_S: Tensor
    sequence_S: Tensor
    row_Q: Tensor
    extras_Q: Mapping[str, Tensor] = field(default_factory=dict)
    tokens: Mapping[str, Tensor] = field(default_factory=dict)


Objective = Callable[..., tuple[dict[str, Term], Sums]]
"""objective(scores, targets, *, options) -> (terms, sums): pure."""

Unit = Literal["tokens", "rows", "pairs", "one"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Spec:
    """An objective with what it needs.

    layout: how rows lie: `single` (one branch), `branches` (a shared prefix and its branches), `pooled` (one vector a
    sequence). needs: what the Scorer must compute. units: the units its terms use. prepare(rows, score) -> rows with `tokens` or
    `extras` added: no gradient, all ranks, before the micro-batches. coupled: the loss joins rows across
    micro-batches (in-batch contrastive). signed: the loss may be 0 or below and says nothing by itself (policy gradients).
    """

    objective: Objective
    layout: Literal["single", "branches", "pooled"] = "single"
    needs: tuple[str, ...] = ("nll",)
    units: tuple[str, ...] = ("tokens",)
    prepare: Callable[..., list[Row]] | None = None
    coupled: bool = False
    signed: bool = False


class Source(Protocol):
    """Where rows come from: a data set, experience of the policy, or replay.

    listens: `tell` is to be told the loss of each row (only objectives of one log-likelihood a token know it).
    """

    listens: bool

    def next(self) -> tuple[list[Row], dict[str, Any]]:
        """The next global batch, the same on every rank, and the state (JSON) that continues after it.

        Raises:
            StopIteration: the source is exhausted.
        """

    def ahead(self, steps: int) -> Iterable[list[Row]]:
        """The batches of the next `steps` steps as far as they are known, none of them taken."""

    def tell(self, ids: Sequence[int], losses: Sequence[float], metrics: Mapping[str, float]) -> None:
        """What came of the last batch (curriculum by loss, an early end of PPO's epochs); losses: one a row if it listens, or none.

        What a source keeps of it belongs to the state that `next` gave before: that state is saved after `tell`.
        """

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue after `state`."""


class Inputs(Protocol):
    """What a method puts before every sequence: key/value prefixes or virtual tokens."""

    num_prefix: int

    def prefix_kv(self, layer: int) -> tuple[Tensor, Tensor]:
        """Keys and values (N_kv, num_prefix, H) that every sequence of a row sees in `layer`."""

    def served(self, model: nn.Module) -> Inputs:
        """What one forward pass of `model` uses: itself, or, of virtual tokens, the model's own keys and values of them."""


class Adapting(Protocol):
    """A method that changes what it is made of from what it sees of the gradients (AdaLoRA's ranks)."""

    def begin(self, steps: int) -> None:
        """Before the first step, and before `recall`: how many there will be."""

    def after_update(self, step: int) -> None:
        """After the optimizer's step (from 1), while its gradients are still there."""

    def remember(self) -> dict[str, Tensor]:
        """What a checkpoint must hold beside weights and optimizer."""

    def recall(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `remember` gave."""


@dataclass(kw_only=True, slots=True)
class Attached:
    """A model with a method attached: what the loop needs to train, save and merge it, and what it can do.

    model: the module the Scorer calls. groups: optimizer parameter groups, dicts with `params`, `names` and the factors
    `lr_scale` and `weight_decay` on the recipe's values. before_step / after_step(step, from 1) -> True when the set
    of trainable parameters changed (LISA): the loop then rebuilds what hangs on it. reference_kind: `off` (the adapter
    switched off is the model at the stage's start), `copy` (it is not: keep a frozen copy or cached log-probs).
    adapting: what it does after each step, with its state. penalty() is added to the loss once a step.
    packs / shards: can train packed rows, under FSDP2. reward: the head of a reward model: one that learns, or, frozen, that of the
    view `reward` (models/reward.py). teacher: a models/teacher.py's Teacher, for `divergence`.
    save(folder): what must be on disk beside a state to use the result. merge() -> a plain transformers model.
    """

    name: str
    model: nn.Module
    groups: list[dict[str, Any]]
    save: Callable[[str], None]
    merge: Callable[[], nn.Module] | None
    inputs: Inputs | None = None
    before_step: Callable[[int], bool] | None = None
    after_step: Callable[[int], bool] | None = None
    penalty: Callable[[], Tensor] | None = None
    adapting: Adapting | None = None
    reference_kind: Literal["off", "copy"] = "copy"
    packs: bool = True
    shards: bool = True
    reward: nn.Module | None = None
    teacher: Any = None
    facts: dict[str, Any] = field(default_factory=dict)


class Method(Protocol):
    """A way to tune: one file in models/methods/, one line in its table."""

    name: str

    def load_options(self) -> dict[str, Any]:
        """Keyword arguments for loading the base (quantisation, dtype)."""

    def attach(self, model: nn.Module) -> Attached:
        """Make `model` trainable this way.

        Raises:
            UserError: a target matches nothing, or the architecture cannot.
        """


class Reply(NamedTuple):
    """What a Responder or Sampler says for one prompt; tops: in each place the likeliest tokens, (id, log-probability)."""

    text: str
    ids: tuple[int, ...] = ()
    logps: tuple[float, ...] = ()
    finish: Literal["stop", "length", "error"] = "stop"
    usage: Mapping[str, int] = {}
    tops: tuple[tuple[tuple[int, float], ...], ...] = ()


class Responder(Protocol):
    """Text in, text out: a teacher, a judge, a remote or local model."""

    identity: str

    async def respond(self, turns: Sequence[Turn], **sampling: Any) -> Reply:
        """One reply to one conversation."""


class Sampler(Protocol):
    """Samples token ids from the current policy, with the log-probabilities it sampled them at."""

    version: int

    def sample(self, prompts: Sequence[Sequence[int]], **sampling: Any) -> list[Reply]:
        """One reply a prompt, in order."""

    def sync(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Take over newer weights."""


class Embed(Protocol):
    """Texts to unit vectors."""

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """(len(texts), D) float32."""


class Reward(Protocol):
    """Samples to numbers; None where people have not answered yet."""

    def __call__(self, prompts: Sequence[str], replies: Sequence[str]) -> list[float | None]:
        """One number a reply."""


class Penalty(Protocol):
    """Adds to `.grad` once per step (L2-SP, EWC)."""

    def __call__(self, named_params: Iterable[tuple[str, nn.Parameter]]) -> float:
        """The penalty's value, for the log."""


class GradientRule(Protocol):
    """Turns micro-batch gradients into the step's gradient: a sum, or per-row clipping and noise (DP-SGD)."""

    def add(self, loss: Tensor) -> None:
        """Backward of one micro-batch."""

    def finish(self) -> None:
        """Called once, before the gradient is used."""


class Progress(Protocol):
    """Where the loop shows how it goes: a live bar, plain lines, or nothing."""

    def update(self, step: int, metrics: Mapping[str, float]) -> None:
        """Called after every step."""

    def note(self, line: str) -> None:
        """One line for a person to read."""
