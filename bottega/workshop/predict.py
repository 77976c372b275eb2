"""Labels, numbers, tags or vectors for the texts of a file, by a model that was trained for them: `predict` and `embed`.

Left out: text as an answer (use.py). Thresholds are the ones stored with the model unless another is named.

Shapes: N texts, C labels.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bottega.core import rundir
from bottega.core.errors import UserError
from bottega.core.textio import progress
from bottega.core.types import Document, Labelled

if TYPE_CHECKING:
    from bottega.core.types import Row
    from bottega.models.load import Loaded
    from bottega.models.purpose import Purpose

MICRO_TOKENS = 2048
SHOWN = 20


def predict(
    model: str,
    file: str | Sequence[str],
    *,
    threshold: float | None = None,
    max_tokens: int | None = None,
    columns: Sequence[str] = (),
    out: str | None = None,
    quiet: bool = False,
    device: str = "auto",
) -> dict[str, Any]:
    """What a model with a head for labels says of every text; where the rows have labels, how often it is right.

    Args:
        model: a run folder, a model folder or an adapter folder with such a head.
        file: a list of texts, or a file (jsonl, csv ... with a text; txt, one a line). Rows with `tokens` are tagged word by word.
        threshold: of probabilities, from which the positive label (every label, of several at once) is said; default: the stored one.
        max_tokens: longer texts are cut; default: the model's positions. out: write JSON lines there.
        columns: `text=COLUMN` and `label=COLUMN`, or a text made of columns, for a plain table: as in the recipe.
        device: auto, cpu, cuda or cuda:N (core/devices.py).

    Returns:
        {"kind", "labels", "threshold", "cut", "rows": one {"text", "label" ...} a text, "scores": {} without labels}.

    Raises:
        UserError: the model has no such head, or a text cannot be read.
    """
    from bottega.data import labels
    from bottega.models.load import load
    from bottega.models.place import spot_for
    from bottega.models.purpose import need

    if threshold is not None and not 0.0 <= threshold <= 1.0:
        raise UserError(f"threshold {threshold} is outside 0 to 1; it is compared with a probability")
    with progress(None, "predict", quiet=quiet) as shown:
        loaded = load(model, **spot_for(model, device, note=shown.note))
        purpose = need(loaded.purpose, model)
        samples = list(_samples(file, columns))
        words = [labels.words_of(sample) for sample in samples] if purpose.kind == "tagging" else None
        rows, num_cut = labels.bare(
            [sample.text for sample in samples], loaded.tokenizer, max_tokens=limit_of(loaded, max_tokens), words=words
        )
        if num_cut:
            shown.note(f"{num_cut} of {len(rows)} texts were cut to {limit_of(loaded, max_tokens)} tokens")
        found = scores_of(loaded, rows, "tags" if purpose.kind == "tagging" else "labels")
    said = _said(purpose, samples, found, threshold, words)
    if out is not None:
        _write(out, said)
    return {
        "kind": purpose.kind,
        "labels": list(purpose.labels),
        "threshold": threshold if threshold is not None else dict(purpose.thresholds) or None,
        "cut": num_cut,
        "rows": said,
        "scores": _right(purpose, samples, said),
    }


def predict_text(result: dict[str, Any]) -> str:
    """The first rows and the scores."""
    lines = []
    for row in result["rows"][:SHOWN]:
        told = row.get("tags") or row.get("label")
        sure = f" ({row['probability']:.3f})" if "probability" in row else ""
        said = " ".join(told) if isinstance(told, list) else f"{told:.4g}" if isinstance(told, float) else told
        lines.append(f"{said or '-'}{sure}\t{' '.join(row['text'].split())[:80]}")
    if len(result["rows"]) > SHOWN:
        lines.append(f"... {len(result['rows']) - SHOWN} more (--out FILE keeps all)")
    if result["scores"]:
        lines.append(", ".join(f"{name} {value:.4g}" for name, value in result["scores"].items()))
    return "\n".join(lines)


def embed(
    model: str,
    file: str | Sequence[str],
    *,
    max_tokens: int | None = None,
    out: str | None = None,
    quiet: bool = False,
    device: str = "auto",
) -> dict[str, Any]:
    """A unit vector for every text: the mean of an encoder's states, the last state of a decoder.

    Args:
        file: a list of texts, or a file as for `predict`. max_tokens: longer texts are cut.
        out: write there: `.npy` (float32, N x D), or JSON lines with text and vector.
        device: as for `predict`.

    Returns:
        {"count", "dim", "cut", "out", "vectors": N x D, or [] where they were written}.

    Raises:
        UserError: the model is an encoder-decoder, its head reads labels, or a text cannot be read.
    """
    from bottega.data import labels
    from bottega.models.load import load
    from bottega.models.place import spot_for

    with progress(None, "embed", quiet=quiet) as shown:
        loaded = load(model, **spot_for(model, device, note=shown.note))
        if loaded.kind == "encoder-decoder":
            raise UserError(f"{model} is an encoder-decoder, which gives no vector here; name an encoder or a decoder")
        texts = [sample.text for sample in _samples(file)]
        longest = limit_of(loaded, max_tokens)
        rows, num_cut = labels.bare(texts, loaded.tokenizer, max_tokens=longest)
        if num_cut:
            shown.note(f"{num_cut} of {len(rows)} texts were cut to {longest} tokens")
        vectors = np.concatenate(scores_of(loaded, rows, "embedding"))
    if out is not None and out.endswith(".npy"):
        Path(out).parent.mkdir(parents=True, exist_ok=True)
        np.save(out, vectors)
    elif out is not None:
        _write(out, [{"text": text, "embedding": vector.tolist()} for text, vector in zip(texts, vectors)])
    kept = [] if out is not None else vectors.tolist()
    return {"count": len(texts), "dim": int(vectors.shape[1]), "cut": num_cut, "out": out, "vectors": kept}


def embed_text(result: dict[str, Any]) -> str:
    """How many vectors there are, and where; without a file the vectors, a line each."""
    lines = [" ".join(f"{value:.6f}" for value in vector) for vector in result["vectors"]]
    where = f", in {result['out']}" if result["out"] else ""
    return "\n".join([*lines, f"{result['count']} vectors of {result['dim']} numbers{where}"])


def limit_of(loaded: Loaded, max_tokens: int | None) -> int:
    """The most tokens of a text: what is asked for within the model's positions, or those (2048 where it has no limit).

    Raises:
        UserError: more than the model has.
    """
    from bottega.workshop.rows import positions_of

    limit = positions_of(loaded)
    if max_tokens is not None and limit is not None and max_tokens > limit:
        raise UserError(f"max_tokens is {max_tokens}, but the model has {limit} positions; set it to {limit}")
    return max_tokens or limit or 2048


def scores_of(loaded: Loaded, rows: Sequence[Row], need: str) -> list[np.ndarray]:
    """What the model's head, or its trunk, says of each row."""
    from bottega.core.types import Attached
    from bottega.models.score import Scorer
    from bottega.train.labels import read
    from bottega.train.parallel import World

    attached = loaded.attached or Attached(name="read", model=loaded.model, groups=[], save=_never, merge=None)
    table: Any = loaded.model.get_input_embeddings()
    scorer = Scorer(attached, vocabulary=int(table.weight.shape[0]))
    pad_id = loaded.tokenizer.pad_token_id or 0
    return read(scorer, rows, need, packed=loaded.packs, pad_id=pad_id, micro_tokens=MICRO_TOKENS, world=World())


def _never(folder: str) -> None:
    raise AssertionError(f"a prediction saves no model: {folder}")


def _samples(file: str | Sequence[str], columns: Sequence[str] = ()) -> Iterator[Labelled]:
    """Texts, with their labels where the rows have them."""
    from bottega.data.formats import samples
    from bottega.data.sources import Problem, read
    from bottega.workshop.data_verbs import pairs

    if not isinstance(file, str):
        yield from (Labelled(text=text, label="") for text in file)
        return
    if not Path(file).is_file():
        raise UserError(f"there is no file {file}; check the path")
    renamed = pairs(columns)
    if Path(file).suffix == ".txt":
        if renamed:
            raise UserError(f"{file} is plain text and has no columns; leave --column out, or give a table")
        lines = [line for line in Path(file).read_text(encoding="utf-8-sig").splitlines() if line.strip()]
        if not lines:
            raise UserError(f"{file} has no text; write one a line")
        yield from (Labelled(text=line, label="") for line in lines)
        return
    bare_words = all(not isinstance(record, Problem) and _is_words(record) for _, record in read(file, columns=renamed))
    if bare_words:
        for _, record in read(file, columns=renamed):
            assert not isinstance(record, Problem)
            spoken = tuple(map(str, record.get("tokens") or record["words"]))
            yield Labelled(text=" ".join(spoken), label="", words=spoken)
        return
    for sample in samples(file, columns=renamed):
        if isinstance(sample, Problem):
            raise UserError(f"{sample}; mend the row, every text of the file is read")
        if isinstance(sample, Labelled):
            yield sample
        elif isinstance(sample, Document):
            yield Labelled(text=sample.text, label="", where=sample.where)
        else:
            raise UserError(f"{sample.where} is a {type(sample).__name__}, not a text; give rows with a column `text`")


def _is_words(record: Any) -> bool:
    has = set(record)
    return bool(has & {"tokens", "words"}) and not has & {"tags", "ner_tags", "labels"}


def _said(
    purpose: Purpose, samples: Sequence[Labelled], found: Sequence[np.ndarray], threshold: float | None, words: Any
) -> list[dict[str, Any]]:
    """The answer of each text from the head's numbers."""
    from bottega.grade import labels as grades

    names = purpose.labels
    if purpose.kind == "tagging":
        tags = [[names[c] for c in scores.argmax(1)] for scores in found]
        return [
            {"text": sample.text, "words": list(own)[: len(said)], "tags": said}
            for sample, own, said in zip(samples, words, tags)
        ]
    logits_NC = np.concatenate(found).astype(np.float64)
    if purpose.kind == "regression":
        return [{"text": s.text, "label": float(value)} for s, value in zip(samples, logits_NC[:, 0])]
    if purpose.kind == "multilabel":
        chance_NC = 1 / (1 + np.exp(-logits_NC))
        cuts_C = np.array([purpose.thresholds.get(n, 0.5) if threshold is None else threshold for n in names])
        return [
            {
                "text": sample.text,
                "label": [names[c] for c in np.flatnonzero(chances >= cuts_C)],
                "probabilities": dict(zip(names, map(float, chances))),
            }
            for sample, chances in zip(samples, chance_NC)
        ]
    return [_chosen(purpose, s, chances, threshold) for s, chances in zip(samples, grades.softmax(logits_NC))]


def _chosen(purpose: Purpose, sample: Labelled, chances: np.ndarray, threshold: float | None) -> dict[str, Any]:
    """One of several labels: the likeliest, or of two the positive one from its threshold on."""
    names, place = purpose.labels, int(chances.argmax())
    if purpose.positive is not None:
        own = names.index(purpose.positive)
        cut = purpose.thresholds.get(purpose.positive, 0.5) if threshold is None else threshold
        place = own if chances[own] >= cut else 1 - own
    return {
        "text": sample.text,
        "label": names[place],
        "probability": float(chances[place]),
        "probabilities": dict(zip(names, map(float, chances))),
    }


def _right(purpose: Purpose, samples: Sequence[Labelled], said: Sequence[dict[str, Any]]) -> dict[str, float]:
    """How well the labels of the rows were met; nothing where a row has none."""
    from bottega.data.labels import names_of
    from bottega.grade import labels as grades
    from bottega.workshop.labels import fit_of

    if not samples or any(sample.label == "" for sample in samples):
        return {}
    names = list(purpose.labels)
    if purpose.kind == "regression":
        return fit_of(np.array([r["label"] for r in said]), np.array([_number(s) for s in samples]))
    known = [names_of(sample, purpose.kind) for sample in samples]
    strange = next((name for own in known for name in own if name not in names), None)
    if strange is not None:
        raise UserError(f"the label {strange!r} is not one the model knows ({', '.join(names[:8])}); leave labels out")
    if purpose.kind == "tagging":
        pairs = [(a, b) for row, own in zip(said, known) for a, b in zip(row["tags"], own)]
        return {"accuracy": float(np.mean([a == b for a, b in pairs])) if pairs else 0.0}
    chance_NC = np.array([[row["probabilities"][name] for name in names] for row in said])
    if purpose.kind == "multilabel":
        wanted = np.array([[name in own for name in names] for own in known])
        cuts = [purpose.thresholds.get(name, 0.5) for name in names]
        return grades.multilabel_metrics(chance_NC, wanted, cuts)
    label_N = np.array([names.index(own[0]) for own in known])
    if purpose.positive is None:
        return grades.class_metrics(chance_NC, label_N)
    c = names.index(purpose.positive)
    cut = purpose.thresholds.get(purpose.positive, 0.5)
    rate = {"false_positives": purpose.false_positives} if purpose.false_positives is not None else {}
    return grades.class_metrics(chance_NC, label_N, positive=c, threshold=cut, **rate)


def _number(sample: Labelled) -> float:
    try:
        return float(sample.label)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise UserError(f"{sample.where}: the label {sample.label!r} is no number; leave labels out") from None


def _write(out: str, rows: Sequence[dict[str, Any]]) -> None:
    rundir.atomic_write(out, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
