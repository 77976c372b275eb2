"""Loading without ever holding the model: its form on the meta device, its weights by name, tensor by tensor, quantised
or left on disk as they come.

Files whose tensors transformers renames or joins when it loads them (mixtures of experts, old checkpoints) are written out once under
the model's own names to be streamed (converted.py), and are quantised after an ordinary load otherwise.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from bottega.core import rundir
from bottega.core.errors import Unsafe, UserError
from bottega.models import converted, layers, quant, safety
from bottega.models.layers import Model
from bottega.models.quant import Kind, QuantLinear
from bottega.models.stream import Stream, Streamed, absent
from bottega.models.tensorfiles import TensorFiles


@dataclass(frozen=True, kw_only=True, slots=True)
class Lean:
    """How weights are held: kind (None: as they are), whether layers stay on disk, and where quantised layer files are kept
    for the next time (None: in a temporary folder); key names the base in there. device: where layers that stay on disk are used."""

    kind: Kind | None = None
    stream: bool = False
    cache: Path | None = None
    key: str = ""
    device: str = "cpu"


class _Unfilled(TorchFunctionMode):
    """Matrices that are about to be filled are made on the meta device; buffers are computed as usual."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.empty:
            kwargs = {**(kwargs or {}), "device": "meta"}
        return func(*args, **(kwargs or {}))


def load_lean(folder: Path, config: Any, dtype: torch.dtype, lean: Lean, *, trust: bool = False) -> Model | None:
    """The causal language model of `folder`, its linear layers quantised, its decoder layers on disk, or both.

    Returns:
        None where the files do not hold the tensors under the model's own names and it need not be streamed.

    Raises:
        UserError: they do not, and it must be. Unsafe: a file is damaged.
    """
    from transformers import AutoModelForCausalLM, GenerationConfig

    if lean.kind is not None:
        quant.require(lean.kind)
    with _Unfilled():
        model: Model = AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=trust)
    if (folder / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(folder, local_files_only=True)
    files = TensorFiles(safety.weight_files(folder))
    source = _Source(model, files, folder)
    lacking = next((name for name, tensor in model.named_parameters() if source.find(name, tensor) is None), None)
    keep = None
    if lacking is not None and lean.stream:
        paths, keep = converted.written(folder, config, files, model, cache=lean.cache, key=lean.key, trust=trust)
        files.close()
        files = TensorFiles(paths)
        source = _Source(model, files, folder)
    elif lacking is not None:
        files.close()
        return None
    stack = layers.decoder_layers(model)
    inside = {id(module) for layer in stack for module in layer.modules()}
    if lean.kind is not None:
        for _ in quant.place(model, lean.kind):
            pass
    for module, leaf, name in _tensors(model):
        if id(module) not in inside and not isinstance(module, QuantLinear):
            source.fill(module, leaf, name)
    model.tie_weights()
    if not lean.stream:
        for number in range(len(stack)):
            _fill_layer(source, model, stack, number)
        files.close()
    else:
        _leave_on_disk(source, model, stack, lean, keep, mapped=lacking is None)
    return model.eval()


def quantise_resident(model: Model, kind: Kind) -> Model:
    """Quantise the linear layers of a model that lies in memory, one after the other."""
    quant.require(kind)
    for _, new, old in quant.place(model, kind):
        matrix = cast(Tensor, old.weight).detach()
        new.fill(quant.quantise(matrix.T if new.transposed else matrix, kind))
    return model.eval().requires_grad_(False)


class _Source:
    """Tensors of a model by the model's own names; a file may leave out or add the trunk's prefix."""

    def __init__(self, model: Model, files: TensorFiles, folder: Path) -> None:
        self.files, self.folder, self.kind = files, folder, type(model).__name__
        self.prefix = f"{model.base_model_prefix}."

    def find(self, name: str, tensor: Tensor) -> str | None:
        """What the files call the tensor; None where they do not have it in this shape."""
        for candidate in (name, name.removeprefix(self.prefix), self.prefix + name):
            if candidate in self.files and self.files.entry(candidate).shape == tuple(tensor.shape):
                return candidate
        return None

    def name_of(self, name: str, tensor: Tensor) -> str:
        """What the files call the tensor."""
        found = self.find(name, tensor)
        if found is None:
            raise self.lacks(name)
        return found

    def lacks(self, name: str) -> UserError:
        """The refusal."""
        return UserError(
            f"{self.folder} holds no tensor {name!r} of {self.kind} by this name and shape, so that its layers cannot be "
            f"read one by one; leave stream out"
        )

    def fill(self, module: nn.Module, leaf: str, name: str) -> None:
        """Put a tensor into its module, in the dtype that the module has."""
        empty = getattr(module, leaf)
        _set(module, leaf, self.files.read(self.name_of(name, empty)).to(empty.dtype))


def _tensors(model: nn.Module) -> Iterator[tuple[nn.Module, str, str]]:
    """(module, its own name of the tensor, full name) of all that a file holds, each tensor once."""
    kept, seen = model.state_dict(), set()
    for prefix, module in model.named_modules():
        own = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
        for leaf, tensor in own:
            name = f"{prefix}.{leaf}" if prefix else leaf
            if name in kept and id(tensor) not in seen:
                seen.add(id(tensor))
                yield module, leaf, name


def _stack_name(model: nn.Module, stack: nn.ModuleList) -> str:
    return next(name for name, module in model.named_modules() if module is stack)


def _layer_tensors(source: _Source, layer: nn.Module, prefix: str) -> Iterator[tuple[nn.Module, str, str, Tensor]]:
    """(module, leaf, full name, tensor) of everything that a layer's file holds, read and quantised as the layer has it."""
    for module, leaf, own in list(_tensors(layer)):
        name = f"{prefix}.{own}"
        if not isinstance(module, QuantLinear) or leaf == "bias":
            empty = getattr(module, leaf)
            yield module, leaf, name, source.files.read(source.name_of(name, empty)).to(empty.dtype)
        elif leaf == "weight":
            shape = (module.out_features, module.in_features)
            shape = shape[::-1] if module.transposed else shape
            matrix = source.files.read(source.name_of(name, torch.empty(shape, device="meta")))
            parts = quant.quantise(matrix.T if module.transposed else matrix, cast(Kind, module.kind))
            for part, tensor in parts.items():
                yield module, part, f"{name.removesuffix('weight')}{part}", tensor


def _fill_layer(source: _Source, model: Model, stack: nn.ModuleList, number: int) -> None:
    prefix = f"{_stack_name(model, stack)}.{number}"
    for module, leaf, _, tensor in _layer_tensors(source, stack[number], prefix):
        _set(module, leaf, tensor)


def _set(module: nn.Module, leaf: str, tensor: Tensor) -> Tensor:
    """Put a tensor in a parameter's or a buffer's place; returns the object that the module then has."""
    learns = isinstance(getattr(module, leaf), nn.Parameter) and getattr(module, leaf).requires_grad
    setattr(module, leaf, nn.Parameter(tensor, requires_grad=learns) if leaf in module._parameters else tensor)
    return getattr(module, leaf)


def _leave_on_disk(source: _Source, model: Model, stack: nn.ModuleList, lean: Lean, keep: Any, *, mapped: bool) -> None:
    """Every layer becomes one that is read when it is called: from the model's own files, or from converted or quantised ones.

    keep: what must live as long as the files are read (a temporary folder). mapped: the files are those that a resident model maps.
    """
    prefix, files = _stack_name(model, stack), source.files
    if lean.kind is not None:
        files, keep = _layer_files(source, stack, prefix, lean)
        source.files.close()
    plans = []
    for number, layer in enumerate(stack):
        plan = []
        for module, leaf, own in list(_tensors(layer)):
            name, empty = f"{prefix}.{number}.{own}", getattr(module, leaf)
            known = name if lean.kind is not None else source.name_of(name, empty)
            plan.append((_set(module, leaf, absent(empty.shape, empty.dtype, lean.device)), known))
        plans.append(plan)
    stream = Stream(files, plans, mapped=mapped and lean.kind is None, keep=keep)
    for number, layer in enumerate(list(stack)):
        stack[number] = Streamed(layer, stream, number)


def _layer_files(source: _Source, stack: nn.ModuleList, prefix: str, lean: Lean) -> tuple[TensorFiles, Any]:
    """Quantised layers, a file each; made once for a base where there is a cache."""
    keep = None
    if lean.cache is None:
        keep = tempfile.TemporaryDirectory(prefix="bottega-layers-")
        folder = Path(keep.name) / "layers"
    else:
        folder = lean.cache / f"layers-{lean.kind}-{lean.key[:16]}"
    if folder.is_dir():
        problems = rundir.verify_manifest(folder)
        if problems:
            raise Unsafe(f"{problems[0]}; remove {folder}, and it is made again")
    else:
        draft = folder.with_name(f".{folder.name}.draft")
        shutil.rmtree(draft, ignore_errors=True)
        with rundir.disk_errors(folder):
            draft.mkdir(parents=True)
            for number, layer in enumerate(stack):
                tensors = _contiguous(_layer_tensors(source, layer, f"{prefix}.{number}"))
                save_file(tensors, draft / f"layer-{number:05d}.safetensors")
            rundir.write_manifest(draft)
            rundir.publish(draft, folder)
    return TensorFiles(sorted(folder.glob("layer-*.safetensors"))), keep


def _contiguous(found: Iterator[tuple[nn.Module, str, str, Tensor]]) -> dict[str, Tensor]:
    return {name: tensor.contiguous() for _, _, name, tensor in found}
