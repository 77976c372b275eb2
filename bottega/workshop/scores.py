"""Rewards for the replies of a file, by one reward model or several: `score`.

Left out: rewards while a policy trains. Pairs say how often the better reply got the higher reward; other rows just get theirs.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from bottega.core import rundir
from bottega.core.errors import UserError
from bottega.core.textio import progress
from bottega.core.types import Conversation, Labelled, Preference, Turn

if TYPE_CHECKING:
    from bottega.core.types import Row
    from bottega.train.reward_scores import RewardModel

SHOWN = 20


def score(
    models: Sequence[str] | str,
    file: str,
    *,
    max_tokens: int | None = None,
    template: str | None = None,
    allow_loss: int | None = None,
    out: str | None = None,
    quiet: bool = False,
    device: str = "auto",
) -> dict[str, Any]:
    """The reward of every reply of a file; of pairs, how often the chosen reply gets the higher one.

    Args:
        models: folders of runs or results of stages with objective reward. Several are an ensemble: rewards are their mean, each
            shifted to mean 0 over the file, and `spread` is how far they disagree.
        file: pairs (chosen, rejected), or chats that end with a reply, or prompt and completion.
        max_tokens: longer rows are cut; default: the model's positions. allow_loss: bad rows that may be left out.
        out: write JSON lines there, one a row. device: auto, cpu, cuda or cuda:N (core/devices.py).

    Returns:
        {"kind": pairs or replies, "models", "rows": [{"row", "reward" | "chosen", "rejected" and, of several, "spread"}], "scores": of
        pairs, see grade/preferences.py; of replies mean and spread}.

    Raises:
        UserError: no reward model, a row that cannot be read, pairs and chats in one file.
    """
    from bottega.grade.preferences import ensemble, pairwise
    from bottega.models.place import spot_for
    from bottega.train.reward_scores import load_reward
    from bottega.workshop.reward_models import refuse_steps

    names = [models] if isinstance(models, str) else list(models)
    found: list[np.ndarray] = []
    with progress(None, "score", quiet=quiet) as shown:
        for name in names:
            model = load_reward(name, **spot_for(name, device, note=shown.note))
            refuse_steps(name, model.scorer.reward)
            kind, rows, wheres, line = _rows(model, file, max_tokens, template, allow_loss)
            if not found:
                shown.note(line)
            found.append(np.concatenate(model.score(rows)).astype(np.float64))
    if len({len(one) for one in found}) > 1:
        raise UserError(f"the models' limits leave different rows of {file}; give max_tokens, or allow_loss: 0")
    reward_N, spread_N = ensemble(np.stack(found))
    if not np.isfinite(reward_N).all():
        raise UserError(f"a reward of {file} is not finite: the reward model is broken; train it again")
    said = _said(kind, wheres, reward_N, spread_N if len(names) > 1 else None)
    if out is not None:
        rundir.atomic_write(out, "".join(json.dumps(row) + "\n" for row in said))
    if kind == "pairs":
        scores = pairwise(reward_N[0::2] - reward_N[1::2])
    else:
        scores = {"replies": len(reward_N), "mean": float(reward_N.mean()), "deviation": float(reward_N.std())}
    return {"kind": kind, "models": names, "rows": said, "scores": scores}


def score_text(result: dict[str, Any]) -> str:
    """The first rows, and what they come to."""
    lines = []
    for row in result["rows"][:SHOWN]:
        told = " ".join(f"{name} {value:+.3f}" for name, value in row.items() if name != "row")
        lines.append(f"{row['row']}\t{told}")
    if len(result["rows"]) > SHOWN:
        lines.append(f"... {len(result['rows']) - SHOWN} more (--out FILE keeps all)")
    scores = result["scores"]
    if result["kind"] == "replies":
        return "\n".join(
            [*lines, f"{scores['replies']} replies: mean {scores['mean']:.3f}, deviation {scores['deviation']:.3f}"]
        )
    lines.append(
        f"{scores['pairs']} pairs: accuracy {scores['accuracy']:.3f} ({scores['low']:.3f} to {scores['high']:.3f}), "
        f"log loss {scores['loss']:.3f} (0.693 knows nothing), calibration error {scores['calibration_error']:.3f}"
    )
    for one in scores["bins"]:
        lines.append(f"  sure by {one['confidence']:.2f}: right in {one['accuracy']:.2f} of {one['pairs']} pairs")
    return "\n".join(lines)


def _rows(
    model: RewardModel, file: str, max_tokens: int | None, template: str | None, allow_loss: int | None
) -> tuple[str, list[Row], list[str], str]:
    """What kind of file it is, its rows as the model reads them, where each was, and the account."""
    from bottega.core.types import Row
    from bottega.data import prepare
    from bottega.data.chat import Template
    from bottega.data.formats import samples
    from bottega.data.intake import Ledger
    from bottega.data.sources import Problem
    from bottega.models import heads
    from bottega.models.generate import context_limit

    read = list(samples([file]))
    good = [sample for sample in read if not isinstance(sample, Problem)]
    kinds = {"pairs" if isinstance(sample, Preference) else "replies" for sample in good}
    if len(kinds) != 1:
        raise UserError(
            f"{file} holds {'no usable row' if not kinds else 'pairs and other rows'}; give a file of one kind"
        )
    kind = kinds.pop()
    limit = max_tokens or context_limit(heads.causal_model(model.scorer.model).config) or 1 << 30
    plan = prepare.Plan(
        kind="preference" if kind == "pairs" else "chat", max_tokens=limit, over_length="truncate", mask="last"
    )
    ledger, bound = Ledger(allow_loss), Template.find(template, model.tokenizer).bind(model.tokenizer)
    rows: list[Row] = []
    wheres: list[str] = []
    those = (_replied(sample) for sample in read)
    for sample, answer in prepare.encoded(those, model.tokenizer, bound, plan=plan, ledger=ledger):
        for prefix, branches, _ in prepare.fitted(sample, answer, model.tokenizer, plan=plan, ledger=ledger):
            ended = tuple(prepare.compact(prepare.to_last_trained(branch)) for branch in branches)
            rows.append(Row(index=len(rows), prefix=prepare.compact(prefix), branches=ended))
            wheres.append(str(sample.where))
    trained = sum(int(np.count_nonzero(branch.trains)) for row in rows for branch in row.branches)
    intake = ledger.close(taken=len(rows), tokens=sum(row.num_tokens for row in rows), trained=trained)
    return kind, rows, wheres, intake.render().splitlines()[0]


def _replied(sample: Any) -> Any:
    """An answer with a label as the chat that it is."""
    if isinstance(sample, Labelled) and sample.prompt:
        turns = (*sample.prompt, Turn(role="assistant", content=sample.text))
        return Conversation(turns=turns, where=sample.where)
    return sample


def _said(kind: str, wheres: list[str], reward_N: np.ndarray, spread_N: np.ndarray | None) -> list[dict[str, Any]]:
    said: list[dict[str, Any]] = []
    for number, where in enumerate(wheres):
        if kind == "pairs":
            chosen, rejected = float(reward_N[2 * number]), float(reward_N[2 * number + 1])
            more = {} if spread_N is None else {"spread": float(max(spread_N[2 * number : 2 * number + 2]))}
            said.append({"row": where, "chosen": chosen, "rejected": rejected, **more})
        else:
            more = {} if spread_N is None else {"spread": float(spread_N[number])}
            said.append({"row": where, "reward": float(reward_N[number]), **more})
    return said
