"""The verbs `bottega tokenizer train` and `extend`: from files to a tokenizer's folder, or to a model that knows more tokens.

Left out: how a vocabulary is learned (the models room) and read (the data room).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from bottega.core.errors import UserError


def train(
    paths: Sequence[str],
    *,
    out: str,
    vocab: int = 8192,
    kind: Literal["bpe", "unigram"] = "bpe",
    special: Sequence[str] = (),
    digits: bool = True,
    template: str | None = "chatml",
    format: str | None = None,
    columns: Sequence[str] = (),
) -> dict[str, Any]:
    """Learn a tokenizer from files and save it.

    Args:
        out: a folder that is empty or not there. vocab: tokens wanted, special ones included. special: further special tokens.
        digits: every digit is a token of its own. template: chat template stored with it, a name or a file.

    Raises:
        UserError: no text, a folder in use, or too small a vocabulary.
    """
    from bottega.data.chat import Template
    from bottega.models import tokenizer

    folder = _empty(out)
    usual = tokenizer.Specials()
    specials = tokenizer.Specials(more=(*usual.more, *special))
    source = None
    if template is not None:
        source = (Template.from_file(template) if Path(template).is_file() else Template.named(template)).source
    made = tokenizer.train(
        texts(paths, format, columns), vocab=vocab, kind=kind, specials=specials, digits=digits, chat_template=source
    )
    folder.mkdir(parents=True, exist_ok=True)
    made.save_pretrained(str(folder))
    return {
        "out": str(folder),
        "kind": kind,
        "tokens": len(made),
        "wanted": vocab,
        "rows": tokenizer.num_rows(made),
    } | _measure(paths, format, columns, made)


def extend(
    model: str,
    paths: Sequence[str],
    *,
    out: str,
    add: int = 1000,
    keep: Sequence[str] = (),
    format: str | None = None,
    columns: Sequence[str] = (),
) -> dict[str, Any]:
    """Teach a model's tokenizer more tokens and give the model embeddings for them; old rows stay bit for bit.

    Args:
        add: tokens wanted. keep: files whose texts must go on encoding as they did.

    Raises:
        UserError: an adapter, a kind of tokenizer that cannot grow, or a folder in use.
    """
    from bottega.models import tokenizer as tokenizers
    from bottega.models import vocabulary
    from bottega.models.load import load, load_tokenizer
    from bottega.models.plain import save_plain

    if add < 1:
        raise UserError(f"add is {add}, but must be at least 1")
    folder = _empty(out)
    loaded = load(model)
    if loaded.attached is not None:
        raise UserError(f"{model} is an adapter; extend the model that it lies on, then train an adapter on that")
    old = loaded.tokenizer
    folder.mkdir(parents=True, exist_ok=True)
    kept = texts(keep, format, columns) if keep else ()
    new = vocabulary.grow(old, texts(paths, format, columns), add=add, keep=kept, folder=folder)
    grown = load_tokenizer(folder)
    module: Any = loaded.model
    room = module.get_input_embeddings().weight.shape[0]
    tokenizers.extend_model(module, grown)
    vocabulary.start_at_parts(module, new, first=len(old))
    save_plain(module, folder)
    return {
        "out": str(folder),
        "added": len(new),
        "wanted": add,
        "tokens": len(grown),
        "rows_before": int(room),
        "rows": int(module.get_input_embeddings().weight.shape[0]),
        "before": _measure(paths, format, columns, old),
        "after": _measure(paths, format, columns, grown),
        "longest": sorted((grown.decode([len(old) + i]) for i in range(len(new))), key=len, reverse=True)[:8],
    }


def train_text(result: dict[str, Any]) -> str:
    """What was learned, in three lines."""
    less = f" ({result['wanted']:,} were wanted; the text gives no more)" if result["tokens"] < result["wanted"] else ""
    return (
        f"{result['kind']} tokenizer with {result['tokens']:,} tokens{less} in {result['out']}\n"
        f"on its own text {result['characters_per_token']:.2f} characters a token; a model for it has {result['rows']:,} embeddings"
    )


def extend_text(result: dict[str, Any]) -> str:
    """What was added, and what the text costs now."""
    less = f" ({result['wanted']:,} were wanted)" if result["added"] < result["wanted"] else ""
    before, after = result["before"]["num_tokens"], result["after"]["num_tokens"]
    return (
        f"{result['added']:,} tokens added{less}: {result['tokens']:,} in all, {result['rows']:,} embeddings, in {result['out']}\n"
        f"the text takes {after:,} tokens, where it took {before:,} ({1 - after / before:.0%} fewer)\n"
        f"longest new ones: {', '.join(repr(token) for token in result['longest'])}"
    )


def texts(paths: Sequence[str], format: str | None = None, columns: Sequence[str] = ()) -> Iterator[str]:
    """Every text of the files.

    Raises:
        UserError: a row that cannot be read; nothing is left out silently.
    """
    from bottega.data.formats import samples
    from bottega.data.sources import Problem
    from bottega.models.vocabulary import texts_of
    from bottega.workshop.data_verbs import pairs

    def sound() -> Iterator[Any]:
        for sample in samples(list(paths), format=format, columns=pairs(columns)):
            if isinstance(sample, Problem):
                raise UserError(f"{sample}; mend the row, or see all of them with `bottega data check`")
            yield sample

    return texts_of(sound())


def _measure(paths: Sequence[str], format: str | None, columns: Sequence[str], tokenizer: Any) -> dict[str, Any]:
    characters = tokens = 0
    for text in texts(paths, format, columns):
        characters += len(text)
        tokens += len(tokenizer(text, add_special_tokens=False).input_ids)
    return {"characters": characters, "num_tokens": tokens, "characters_per_token": characters / max(tokens, 1)}


def _empty(out: str) -> Path:
    folder = Path(out)
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise UserError(f"{folder} holds something already; name another folder with --out")
    return folder
