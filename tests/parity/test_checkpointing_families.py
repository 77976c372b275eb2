"""Gradients of every family with checkpointing and without, tied and untied, full and LoRA: the same numbers.

Left out: the families whose packed rows are compared so already (test_packing.py), but for their untied heads.
"""

import pytest
import torch

from bottega.core.types import Row, Tokens
from bottega.models import kinds, layout
from bottega.models.load import load
from bottega.models.methods import method
from bottega.models.score import Scorer
from bottega.train.recompute import enable
from bottega.train.settings import LoopSettings
from tests.models.conftest import saved  # noqa: F401
from tests.models.tiny import BOTH_SIDES, ENCODERS, FAMILIES

DAILY = ("bert", "t5", "bart", "mixtral", "gptj")
ALL = [*FAMILIES, *ENCODERS, *BOTH_SIDES]
DROPS = (
    *("resid_pdrop", "embd_pdrop", "attn_pdrop", "dropout", "attention_dropout", "hidden_dropout", "dropout_rate"),
    *("activation_dropout", "hidden_dropout_prob", "attention_probs_dropout_prob", "embedding_dropout", "mlp_dropout"),
)


def rows(kind, config):
    """Two rows; what an encoder is asked for is asked in place, what an encoder-decoder reads is the prefix."""
    made = []
    for index, ids in enumerate(([40, 41, 42, 43, 44], [50, 51, 52])):
        weights = [0.0] + [1.0] * (len(ids) - 1)
        if kind == "encoder":
            hidden = {"label": [60.0 + i for i in range(len(ids) - 1)]}
            made.append(Row(index=index, branches=(Tokens(ids, weights),), tokens=hidden))
        elif kind == "encoder-decoder":
            written = Tokens([*kinds.start_of(config), *ids], [0.0] * len(kinds.start_of(config)) + [1.0] * len(ids))
            made.append(Row(index=index, prefix=Tokens(ids[::-1], [0.0] * len(ids)), branches=(written,)))
        else:
            made.append(Row(index=index, branches=(Tokens(ids, weights),)))
    return made


def gradients(folder, tune, *, checkpointing):
    loaded = load(folder)
    options = {"rank": 4, "init": "gaussian"} if tune == "lora" else {}
    torch.manual_seed(3)
    attached = method(tune, **options).attach(loaded.model)
    if checkpointing:
        enable(loaded.model, LoopSettings(steps=1, lr=1.0, checkpointing=True))
    attached.model.train()
    for module in attached.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    laid, targets = layout.lay(
        rows(loaded.kind, loaded.model.config), packed=loaded.packs, sides=loaded.kind == "encoder-decoder"
    )
    Scorer(attached, vocabulary=320)(laid, targets, ["nll"])["nll"].backward()
    return {name: p.grad for name, p in attached.model.named_parameters() if p.requires_grad and p.grad is not None}


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("tune", ["full", "lora"])
@pytest.mark.parametrize(
    "family", [name if name in DAILY else pytest.param(name, marks=pytest.mark.slow) for name in ALL]
)
def test_checkpointing_changes_no_gradient_of_any_family_tied_or_not(saved, family, tune, tied):  # noqa: F811
    from transformers import AutoConfig

    known = AutoConfig.for_model(family, **{**FAMILIES, **ENCODERS, **BOTH_SIDES}[family]).to_dict()
    dry = {name: 0.0 for name in DROPS if isinstance(known.get(name), float)}
    folder = saved(family, tie_word_embeddings=tied, **dry)
    plain, kept = (gradients(folder, tune, checkpointing=on) for on in (False, True))
    assert plain.keys() == kept.keys() and plain
    for name, wanted in plain.items():
        assert torch.allclose(wanted, kept[name], atol=1e-5 * max(1.0, float(wanted.abs().max()))), name
    assert any(float(g.abs().max()) > 0 for g in plain.values())
