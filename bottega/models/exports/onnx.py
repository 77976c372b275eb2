"""A model as one ONNX graph: token ids and attention mask in, logits out, batch and length free; run by onnxruntime to prove it.

Left out: a key/value cache in the graph (every token reads the text anew), half precision, weights above 2 GB (ONNX then needs
files beside the graph, which torch writes as model.onnx.data).
"""

from __future__ import annotations

import importlib.util
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bottega.core.errors import CheckFailed, UserError
from bottega.models.exports import proof

LARGE = 1_900_000_000
"""Bytes of weights above which they lie in a file beside the graph."""
NEEDED = ("onnx", "onnxruntime", "onnxscript")


class _Logits(nn.Module):
    """A causal model as a function of tensors to one tensor."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).logits


def write_onnx(model: Any, tokenizer: Any, path: str | Path) -> dict[str, Any]:
    """Write `path` and prove it: greedy tokens and logits by onnxruntime equal the model's, alone and in a padded batch.

    Args:
        model: a plain transformers model in float32.

    Returns:
        {"difference", "kl", "equal", "tokens", "bytes"}.

    Raises:
        UserError: the packages are missing, or the architecture cannot be traced. CheckFailed: the tokens differ.
    """
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"ONNX needs the package {missing[0]}: pip install 'bottega[export]'")
    model = model.eval()
    free = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length")}
    ids = torch.tensor([[1, 2, 3, 4, 5], [5, 4, 3, 2, 1]])
    with _quietly(), torch.no_grad():
        try:
            torch.onnx.export(
                _Logits(model),
                (ids, torch.ones_like(ids)),
                str(path),
                input_names=["input_ids", "attention_mask"],
                output_names=["logits"],
                dynamic_shapes=(free, free),
                dynamo=True,
                external_data=sum(p.nbytes for p in model.parameters()) > LARGE,
                verbose=False,
            )
        except torch.onnx.errors.OnnxExporterError as error:
            said = " ".join(str(error).split())[:160]
            raise UserError(f"{model.config.model_type} cannot be traced to ONNX ({said}); use --format hf") from error
    wanted, prompts = proof.logits_of(model), proof.prompts_of(model, tokenizer)
    figures = proof.check(wanted, session(path), prompts, str(path))
    _check_batch(wanted, path, prompts)
    return {"bytes": Path(path).stat().st_size, **figures}


def session(path: str | Path) -> proof.Logits:
    """Token ids -> logits of an ONNX file, on the CPU."""
    import numpy as np

    opened = _open(path)

    def run(ids: list[int]) -> Tensor:
        row = np.asarray([ids], dtype=np.int64)
        (logits,) = opened.run(["logits"], {"input_ids": row, "attention_mask": np.ones_like(row)})
        return torch.from_numpy(logits[0])

    return run


def _open(path: str | Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = max(1, torch.get_num_threads())
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _check_batch(wanted: proof.Logits, path: str | Path, prompts: Sequence[list[int]]) -> None:
    """All prompts at once, padded on the right, have the logits that each has alone."""
    import numpy as np

    length = max(map(len, prompts))
    ids = np.asarray([[*one, *[0] * (length - len(one))] for one in prompts], dtype=np.int64)
    mask = np.asarray([[1] * len(one) + [0] * (length - len(one)) for one in prompts], dtype=np.int64)
    (logits,) = _open(path).run(["logits"], {"input_ids": ids, "attention_mask": mask})
    for row, one in zip(logits, prompts):
        alone = wanted(one)
        off = float((torch.from_numpy(row[: len(one)]) - alone).abs().max() / alone.abs().max().clamp_min(1.0))
        if not off <= proof.TOLERANCE:
            raise CheckFailed(f"{path} answers otherwise in a padded batch ({off:.1e}, limit {proof.TOLERANCE:.0e})")


@contextmanager
def _quietly() -> Iterator[None]:
    """The exporter's own talk about its passes is left out; its errors are raised."""
    names = ("torch.onnx", "onnxscript", "onnx_ir")
    before = {name: logging.getLogger(name).level for name in names}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in names:
            logging.getLogger(name).setLevel(logging.ERROR)
        try:
            yield
        finally:
            for name, level in before.items():
                logging.getLogger(name).setLevel(level)
