"""A model's files written out once under the names that transformers gives its tensors, one layer in memory at a time.

Left out: saying what is converted how; transformers' own loading does it, on a model of one layer whose files hold that layer alone.
Some families' files hold other names, or parts that are joined when they load (mixtures of experts): as they are, their layers cannot
be read one by one.
"""

from __future__ import annotations

import copy
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from bottega.core import rundir
from bottega.core.errors import Unsafe, UserError
from bottega.models import layers
from bottega.models.layers import Model
from bottega.models.plain import no_report, quiet_bars
from bottega.models.tensorfiles import TensorFiles

FEW = 8
"""Tokens of the vocabulary while a single layer is loaded: its embeddings are not looked at."""


def written(
    folder: Path, config: Any, files: TensorFiles, model: Model, *, cache: Path | None, key: str, trust: bool = False
) -> tuple[list[Path], Any]:
    """The converted files of a base, made now or found in the cache; and what must live as long as they are read.

    Args:
        folder: the base's. config, model: its config, and the whole model on the meta device. files: its tensors.
        key: names the base in `cache`; without a cache they lie in a temporary folder.

    Raises:
        UserError: a layer by itself is not what it is in the whole. Unsafe: a cached file is damaged.
    """
    keep = None
    if cache is None:
        keep = tempfile.TemporaryDirectory(prefix="bottega-named-")
        place = Path(keep.name) / "named"
    else:
        place = cache / f"named-{key[:16]}"
    if place.is_dir():
        if problems := rundir.verify_manifest(place):
            raise Unsafe(f"{problems[0]}; remove {place}, and it is made again")
    else:
        draft = place.with_name(f".{place.name}.draft")
        shutil.rmtree(draft, ignore_errors=True)
        with rundir.disk_errors(place):
            draft.mkdir(parents=True)
            for name, tensors in _parts(folder, config, files, model, draft / "one", trust):
                save_file(tensors, draft / f"{name}.safetensors", metadata={"format": "pt"})
            rundir.write_manifest(draft)
            rundir.publish(draft, place)
    return sorted(place.glob("*.safetensors")), keep


def _parts(
    folder: Path, config: Any, files: TensorFiles, model: Model, scratch: Path, trust: bool
) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """(file name, tensors) of everything outside the layers, then of each layer."""
    stack = layers.decoder_layers(model)
    own = next(name for name, module in model.named_modules() if module is stack)
    place = re.compile(rf"^(.*?\b{re.escape(own.rpartition('.')[2])})\.(\d+)\.(.+)$")
    by_layer: dict[int | None, dict[str, str]] = {}
    for name in files:
        found = place.match(name)
        number = int(found[2]) if found else None
        by_layer.setdefault(number, {})[f"{found[1]}.0.{found[3]}" if found else name] = name
    want = {
        name: tensor.shape
        for name, tensor in model.state_dict(keep_vars=True).items()
        if not name.startswith(f"{own}.") and name not in _tied(model)
    }
    outside = _loaded({**by_layer.get(0, {}), **by_layer.get(None, {})}, files, _single(config, 0), scratch, trust)
    yield "outside", _picked(outside.state_dict(), want, folder)
    for number, layer in enumerate(stack):
        single = _loaded(by_layer.get(number, {}), files, _single(config, number, few=True), scratch, trust)
        found_layer = layers.decoder_layers(single)[0].state_dict()
        wanted = {name: tensor.shape for name, tensor in layer.state_dict().items()}
        picked = _picked(found_layer, wanted, folder)
        yield f"layer-{number:05d}", {f"{own}.{number}.{name}": tensor for name, tensor in picked.items()}


def _tied(model: Model) -> set[str]:
    """Names that are another tensor's too: the head of a tied model."""
    if not layers.is_tied(model):
        return set()
    head = model.get_output_embeddings()
    return {f"{name}.weight" for name, module in model.named_modules() if module is head}


def _single(config: Any, number: int, *, few: bool = False) -> Any:
    """The config of a model that has layer `number` alone: what is listed by layer is cut to its entry."""
    made = copy.deepcopy(config)
    count = config.num_hidden_layers
    for key, value in list(vars(made).items()):
        if isinstance(value, list) and len(value) == count and count > 1:
            setattr(made, key, [value[number]])
    made.num_hidden_layers = 1
    if few:
        made.vocab_size, made.pad_token_id, made.bos_token_id, made.eos_token_id = FEW, None, None, None
    return made


def _loaded(names: Mapping[str, str], files: TensorFiles, config: Any, scratch: Path, trust: bool) -> Model:
    """A model of one layer from these tensors (new name -> name in the files), by transformers' own loading."""
    from transformers import AutoModelForCausalLM

    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    save_file(
        {new: files.read(old).clone() for new, old in names.items()}, scratch / "model.safetensors", {"format": "pt"}
    )
    config.save_pretrained(scratch)
    with quiet_bars(), no_report(), torch.random.fork_rng(devices=[]), torch.device("cpu"):
        model: Model = AutoModelForCausalLM.from_pretrained(
            scratch, config=config, dtype="auto", local_files_only=True, trust_remote_code=trust, use_safetensors=True
        )
    shutil.rmtree(scratch)
    return model


def _picked(found: Mapping[str, Tensor], wanted: Mapping[str, Any], folder: Path) -> dict[str, Tensor]:
    """The tensors of `wanted`, each of its own shape."""
    for name, shape in wanted.items():
        if name not in found or found[name].shape != shape:
            raise UserError(
                f"{folder} has layers that cannot be loaded one by one ({name} is not there, or of another shape): leave stream out"
            )
    return {name: found[name].contiguous().clone() for name in wanted}
