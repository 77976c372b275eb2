"""What a model folder may not contain, checked before anything in it is opened by a library: pickles, code, odd
headers.

Left out: what the numbers are worth (a flipped bit inside a tensor is found by manifests, core/rundir.py). No torch
here.

A refused folder ends with exit code 4 and one sentence.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bottega.core.errors import Unsafe, UserError

PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".npy", ".npz", ".h5", ".msgpack")
"""Endings of files that hold pickled objects, or may: they are never opened."""

KNOWN_UNDERSCORES = frozenset(
    {
        "_name_or_path",
        "_commit_hash",
        "_from_model_config",
        "_attn_implementation_autoset",
        "_sliding_window_pattern",
        "_remove_final_layer_norm",
    }
)
"""Keys with a leading underscore that transformers itself has written into configs; all of them are inert."""

CODE_KEYS = frozenset({"auto_map", "attn_implementation", "experts_implementation", "custom_pipelines"})
"""Keys that make a library fetch or run code of somebody's choice."""

_KERNEL_KEYS = ("attn_implementation", "experts_implementation", "_attn_implementation", "_experts_implementation")
_OWN_KERNELS = (None, "sdpa", "eager", "flash_attention_2", "grouped_mm", "batched_mm")

MAX_HEADER_BYTES = 100_000_000
MAX_CONFIG_BYTES = 20_000_000
MAX_DEPTH = 40
_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32, "I64": 64, "U64": 64, "F64": 64,
    "C64": 64, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
}  # fmt: skip
_CONFIGS = ("config.json", "generation_config.json", "tokenizer_config.json", "processor_config.json")
_REVISION = re.compile(r"[0-9a-f]{40}")


def is_pickle(path: Path) -> bool:
    """Whether a file's name says that it holds pickled objects."""
    return path.name.lower().endswith(PICKLES)


def refuse_pickles(folder: str | Path) -> None:
    """Refuse a folder that only we write (checkpoints, states) if any file in it could be a pickle.

    Raises:
        Unsafe: one is there; it was not opened.
    """
    for path in sorted(Path(folder).rglob("*")):
        if path.is_file() and is_pickle(path):
            raise Unsafe(
                f"{path} may be a pickle, which can run code when read; it was not opened: remove it, or use a folder "
                f"that this project saved"
            )


def weight_files(folder: str | Path) -> list[Path]:
    """The safetensors files of a model or adapter folder, by name; pickles beside them are left unopened.

    Raises:
        Unsafe: there are only pickles. UserError: there are no weights.
    """
    folder = Path(folder)
    found = sorted(path for path in folder.glob("*.safetensors") if path.is_file())
    index = folder / "model.safetensors.index.json"
    if found and index.is_file():
        return _indexed(folder, index)
    whole = [path for path in found if path.name in ("model.safetensors", "adapter_model.safetensors")]
    if found:
        return whole or found
    pickles = sorted(path.name for path in folder.iterdir() if path.is_file() and is_pickle(path))
    if pickles:
        raise Unsafe(
            f"{folder} holds its weights only as {pickles[0]}, a pickle, which can run code when read; it was not "
            f"opened: convert it to safetensors where you trust it, or use a revision that has them"
        )
    raise UserError(
        f"{folder} holds no weights (*.safetensors; pickles are neither fetched nor opened); name one that has them"
    )


def _indexed(folder: Path, index: Path) -> list[Path]:
    shards = read_config(index).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise Unsafe(f"{index} has no weight_map; download the folder again")
    names = sorted({str(name) for name in shards.values()})
    for name in names:
        if "/" in name or "\\" in name or not name.endswith(".safetensors"):
            raise Unsafe(
                f"{index} points at {name!r}, which is no safetensors file of its own folder; do not use this model"
            )
        if not (folder / name).is_file():
            raise UserError(f"{folder / name} is missing although {index.name} lists it; download the folder again")
    return [folder / name for name in names]


def check_safetensors(path: str | Path) -> dict[str, Any]:
    """Read and check a safetensors header: its size, its JSON, and that its tensors fill the file without gap or
    overlap.

    Returns:
        name -> {"dtype", "shape", "data_offsets"}; without `__metadata__`.

    Raises:
        Unsafe: the header is damaged or forged; the sentence says where.
    """
    path = Path(path)
    size = path.stat().st_size
    with open(path, "rb") as file:
        lead = file.read(8)
        length = int.from_bytes(lead, "little")
        if len(lead) < 8 or length > MAX_HEADER_BYTES or 8 + length > size:
            raise _damaged(path, f"its header claims {length} bytes in a file of {size} (limit {MAX_HEADER_BYTES})")
        raw = file.read(length)
    if not raw.startswith(b"{"):
        raise _damaged(path, "its header does not start with '{'")
    try:
        header = json.loads(raw, object_pairs_hook=_no_repeats)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, f"its header is not JSON ({str(error)[:80]})") from None
    header.pop("__metadata__", None)
    _check_extents(path, header, size - 8 - length)
    return header


def _check_extents(path: Path, header: dict[str, Any], num_bytes: int) -> None:
    extents = []
    for name, entry in header.items():
        try:
            dtype, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
        except (TypeError, KeyError, ValueError):
            raise _damaged(path, f"tensor {name!r} lacks dtype, shape or data_offsets") from None
        numbers = [*shape, begin, end] if isinstance(shape, list) else [None]
        if any(type(number) is not int or number < 0 for number in numbers):
            raise _damaged(path, f"tensor {name!r} has shape {shape} and offsets {begin}:{end}")
        bits = _BITS.get(dtype) if isinstance(dtype, str) else None
        if bits is None:
            raise _damaged(path, f"tensor {name!r} has the unknown dtype {dtype!r}")
        for length in shape:
            bits *= length
        if bits != 8 * (end - begin):
            raise _damaged(path, f"tensor {name!r} of {dtype} {shape} needs {bits // 8} bytes, not {end - begin}")
        extents.append((begin, end, name))
    here = 0
    for begin, end, name in sorted(extents):
        if begin != here:
            raise _damaged(path, f"tensor {name!r} starts at byte {begin}, {here} expected")
        here = end
    if here != num_bytes:
        raise _damaged(path, f"its tensors fill {here} of {num_bytes} bytes")


def _damaged(path: Path, what: str) -> Unsafe:
    return Unsafe(f"{path} is damaged or forged: {what}; download or restore it")


def _no_repeats(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(pairs)
    if len(out) != len(pairs):
        raise ValueError("a key comes twice")
    return out


def read_config(path: str | Path) -> dict[str, Any]:
    """Read a JSON object of bounded size.

    Raises:
        Unsafe: it is too large, no JSON object, or a key comes twice.
    """
    path = Path(path)
    size = path.stat().st_size
    if size > MAX_CONFIG_BYTES:
        raise Unsafe(
            f"{path} has {size} bytes, more than the {MAX_CONFIG_BYTES} a config may have; do not use this model"
        )
    try:
        data = json.loads(path.read_bytes(), object_pairs_hook=_no_repeats)
    except (ValueError, RecursionError) as error:
        raise Unsafe(f"{path} is not sound JSON ({str(error)[:80]}); download or restore it") from None
    if not isinstance(data, dict):
        raise Unsafe(f"{path} holds a {type(data).__name__}, not an object; download or restore it")
    return data


def check_configs(folder: str | Path, *, trust: bool = False) -> None:
    """Refuse configs that name code to run: `auto_map` and its like, and keys with an underscore that nobody knows.

    Args:
        trust: the user vouched for this very content (see `check_trust`); remote code of another repository stays
        refused.

    Raises:
        Unsafe: the file and the key are named.
    """
    for name in _CONFIGS:
        path = Path(folder) / name
        if not path.is_file():
            continue
        for key, value in _keys(path, read_config(path)):
            if key in _KERNEL_KEYS and (value is None or isinstance(value, str)) and value in _OWN_KERNELS:
                continue  # a kernel of the library's own; any other name is fetched from a hub and run
            if key == "auto_map" and trust:
                _refuse_foreign_code(path, value)
            elif key in CODE_KEYS and value is not None and not trust:
                raise Unsafe(
                    f"{path} has {key!r}, which runs code that comes with the model; read that code and load with "
                    f"trust and its revision, or use a model without it"
                )
            elif key.startswith("_") and key not in KNOWN_UNDERSCORES and not trust and name == "config.json":
                raise Unsafe(
                    f"{path} has the unknown internal key {key!r}, which can reach code inside the library; remove "
                    f"it, or load with trust and the revision"
                )


def _refuse_foreign_code(path: Path, value: Any) -> None:
    for target in value.values() if isinstance(value, dict) else [value]:
        for entry in target if isinstance(target, list) else [target]:
            if isinstance(entry, str) and "--" in entry:
                raise Unsafe(
                    f"{path} takes code from another repository ({entry}), which the revision does not pin; copy that "
                    f"code beside the weights, or use another model"
                )


def _keys(path: Path, data: Any, depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Every key at every depth with its value."""
    if depth > MAX_DEPTH:
        raise Unsafe(f"{path} is nested deeper than {MAX_DEPTH} levels; do not use this model")
    for key, value in data.items() if isinstance(data, dict) else []:
        yield key, value
    for value in data.values() if isinstance(data, dict) else data if isinstance(data, list) else []:
        if isinstance(value, dict | list):
            yield from _keys(path, value, depth + 1)


def check_adapter(folder: str | Path) -> dict[str, Any]:
    """Read adapter_config.json and refuse what would import modules of its choice.

    Raises:
        Unsafe: a key that imports code is set. UserError: no kind of adapter is named.
    """
    path = Path(folder) / "adapter_config.json"
    config = read_config(path)
    mapping = config.get("auto_mapping")
    library = str((mapping or {}).get("parent_library", "")) if isinstance(mapping, dict | None) else "?"
    if config.get("megatron_config") is not None or (
        library and library.split(".")[0] not in ("transformers", "torch")
    ):
        key = "megatron_config" if config.get("megatron_config") is not None else "auto_mapping"
        raise Unsafe(
            f"{path} has {key!r}, which imports code of the file's choice; remove the key, or do not use this adapter"
        )
    for key, value in _keys(path, config):
        if key in CODE_KEYS and value is not None:
            raise Unsafe(f"{path} has {key!r}, which can run code; do not use this adapter")
    return config


def code_hash(folder: str | Path) -> str:
    """sha256 over names and contents of the Python files of a folder: what trusting a local folder means."""
    digest = hashlib.sha256()
    folder = Path(folder)
    for path in sorted(folder.rglob("*.py")):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(folder).as_posix()}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()


def check_trust(name: str, *, revision: str | None, folder: Path | None) -> None:
    """Trust is given to one content: a Hub model by its 40-hex commit, a local folder by the hash of its code files.

    Raises:
        Unsafe: the revision is missing, a branch name, or not this folder's hash.
    """
    if folder is not None:
        wanted = code_hash(folder)
        if revision != wanted:
            raise Unsafe(
                f"trusting the code in {name} needs its hash as revision: after reading it, pass revision {wanted} "
                f"(given: {revision})"
            )
    elif revision is None or not _REVISION.fullmatch(revision):
        raise Unsafe(
            f"trusting the code of {name} needs the 40-hex commit that you have read as revision, not {revision!r}: a "
            f"branch can change under you"
        )
