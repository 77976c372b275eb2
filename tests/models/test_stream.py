"""Layers left on disk: the same bits as a resident model, whatever the family, the method or the precision (row F6)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from bottega.core.errors import Unsafe, UserError
from bottega.core.types import Attached
from bottega.models import layout, stream
from bottega.models.generate import Generator
from bottega.models.load import Loaded, load
from bottega.models.methods import method
from bottega.models.score import Scorer
from bottega.models.tensorfiles import TensorFiles
from tests.models.tiny import FAMILIES, tiny_model
from tests.train.clients import rows

DEEP = {
    "llama": {"num_hidden_layers": 5, "attention_dropout": 0.1},
    "gpt2": {"n_layer": 5, "attn_pdrop": 0.1, "resid_pdrop": 0.1},
    "qwen3": {"num_hidden_layers": 5, "attention_dropout": 0.1},
}
"""More layers than there are slots, with the family's own dropout."""
CONVERTED = ("gpt_neox", "mixtral", "qwen2_moe")
"""Families whose files transformers renames or joins when it loads them."""


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def attach(loaded: Loaded, tune: str, **options) -> Attached:
    """The method, moved away from its start so that every path carries a gradient."""
    torch.manual_seed(0)
    attached = method(tune, **options).attach(loaded.model)
    for name, parameter in attached.model.named_parameters():
        if ".lora_B." in name:
            torch.nn.init.normal_(parameter, std=0.05)
    return attached


def gradients(
    loaded: Loaded, tune: str, *, packed: bool, precision: str = "fp32", **options
) -> dict[str, torch.Tensor]:
    """Loss and gradients of one micro-batch in training mode."""
    attached = attach(loaded, tune, **options)
    scorer = Scorer(attached, vocabulary=320, precision=precision).train()
    prefix = attached.inputs.num_prefix if attached.inputs else 0
    laid, targets = layout.lay(rows("branches", count=4), packed=packed, num_prefix=prefix)
    torch.manual_seed(1)
    loss = scorer(laid, targets, ("nll",))["nll"]
    loss.backward()
    found = {name: p.grad for name, p in scorer.named_parameters() if p.requires_grad}
    assert found and all(grad is not None for grad in found.values())
    return found | {"loss": loss.detach(), "random": torch.get_rng_state()}


def check_equal(folder: Path, tune: str, *, weights: str = "full", dtype: str = "float32", **options) -> None:
    resident, streamed = (
        load(folder, weights=weights, dtype=dtype),
        load(folder, weights=weights, dtype=dtype, stream=True),
    )
    assert stream.is_streamed(streamed.model) and not stream.is_streamed(resident.model)
    assert streamed.packs == resident.packs and streamed.identity == resident.identity
    wanted = gradients(resident, tune, packed=resident.packs, **options)
    found = gradients(streamed, tune, packed=resident.packs, **options)
    assert found.keys() == wanted.keys()
    assert [name for name in wanted if not torch.equal(found[name], wanted[name])] == []


@pytest.mark.parametrize("weights", ["full", "nf4", "int8"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen3"])
def test_loss_and_lora_gradients_are_a_resident_models_bit_for_bit(saved, family, weights):
    """Packed rows with a shared prefix, dropout on: the random state is put back for the recompute and left as it was."""
    options = {"base": weights} if weights != "full" else {}
    tune = "qlora" if options else "lora"
    check_equal(saved(family, **DEEP[family]), tune, weights=weights, rank=4, dropout=0.1, **options)


@pytest.mark.slow
@pytest.mark.parametrize("family", sorted(set(FAMILIES) - set(CONVERTED)))
def test_every_family_whose_files_have_its_names_streams(saved, family):
    check_equal(saved(family), "lora", rank=4, dropout=0.1)


@pytest.mark.parametrize("weights", ["full", "nf4"])
@pytest.mark.parametrize("family", CONVERTED)
def test_a_family_whose_files_are_converted_at_load_is_written_out_once_and_streams(saved, family, weights):
    options = {"base": weights} if weights != "full" else {}
    check_equal(saved(family), "qlora" if options else "lora", weights=weights, rank=4, dropout=0.1, **options)


def test_converted_files_are_kept_where_there_is_a_cache_and_a_damaged_one_is_named(saved, tmp_path):
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        wanted = load(saved("mixtral")).model(ids).logits
        for _ in range(2):
            assert torch.equal(load(saved("mixtral"), stream=True, cache=tmp_path).model(ids).logits, wanted)
            (kept,) = tmp_path.glob("named-*")
            times = {path: path.stat().st_mtime_ns for path in kept.glob("*.safetensors")}
        assert len(times) == 3 and times == {path: path.stat().st_mtime_ns for path in times}
    file = kept / "layer-00000.safetensors"
    raw = bytearray(file.read_bytes())
    raw[-1] ^= 1
    file.write_bytes(raw)
    with pytest.raises(Unsafe, match="layer-00000.*made again"):
        load(saved("mixtral"), stream=True, cache=tmp_path)


def test_layers_that_are_something_else_by_themselves_are_refused(saved, tmp_path):
    """A mixture whose second layer is dense: alone it would be a first one, which is not."""
    folder = tiny_model("qwen2_moe", tmp_path / "m", mlp_only_layers=[1])
    with pytest.raises(UserError, match="cannot be loaded one by one"):
        load(folder, stream=True)


def test_prefixes_learn_through_streamed_layers(saved):
    """Keys and values reach a layer through the row's layout, not through its arguments."""
    check_equal(saved("llama"), "prefix", length=3)


def test_bf16_products_are_the_same_too(saved):
    check_equal(saved("llama"), "lora", rank=4, precision="bf16")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_files_in_half_precision_are_cast_when_a_layer_comes(saved, dtype):
    check_equal(saved("qwen3", dtype="bfloat16"), "lora", rank=2, dtype=dtype)


def test_sharded_files_are_read_by_name(saved, tmp_path):
    from transformers import AutoModelForCausalLM

    whole = load(saved("llama"))
    AutoModelForCausalLM.from_pretrained(saved("llama")).save_pretrained(tmp_path, max_shard_size="20KB")
    whole.tokenizer.save_pretrained(str(tmp_path))
    assert len(list(tmp_path.glob("*.safetensors"))) > 3
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        assert torch.equal(load(tmp_path, stream=True).model(ids).logits, whole.model(ids).logits)


def test_generation_is_the_same_and_an_adapter_trained_streamed_serves_resident(saved, tmp_path):
    streamed, resident = load(saved("llama"), stream=True), load(saved("llama"))
    prompts = [[1, 7, 9, 30], [1, 5], [1, 200, 100]]
    how = {"max_tokens": 6, "stop_ids": ()}
    assert Generator(streamed.model).sample(prompts, **how) == Generator(resident.model).sample(prompts, **how)
    attached = attach(streamed, "lora", rank=4)
    attached.save(str(tmp_path))
    ids = torch.arange(5, 25)[None]
    again = load(tmp_path)
    with torch.no_grad():
        assert torch.equal(again.attached.model.eval()(ids).logits, attached.model.eval()(ids).logits)


def test_a_layer_that_is_away_takes_no_memory_and_is_not_a_number(saved):
    """8 numbers of 4 bytes would be 32; absent, all 8 share one."""
    gone = stream.absent((2, 4), torch.float32)
    assert gone.shape == (2, 4) and gone.untyped_storage().nbytes() == 4 and bool(gone.isnan().all())
    assert stream.is_absent(gone) and not stream.is_absent(torch.zeros(2, 4)) and not stream.is_absent(torch.zeros(1))
    loaded = load(saved("llama"), stream=True)
    layer = loaded.model.model.layers[1]
    assert stream.is_absent(layer.mlp.up_proj.weight)
    assert bool(layer.mlp.up_proj(torch.ones(1, 32)).isnan().all()), "used while it is away, it shows"


def test_a_file_cut_short_or_changed_while_it_streams_is_named(tmp_path):
    folder = tiny_model("llama", tmp_path / "model", num_hidden_layers=5)
    loaded = load(folder, stream=True)
    file = folder / "model.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(Unsafe, match=r"model\.safetensors was changed while it was being read"), torch.no_grad():
        loaded.model(torch.arange(4)[None])
    with pytest.raises(Unsafe, match=r"model\.safetensors is damaged"):
        load(folder, stream=True)


def test_a_read_that_ends_early_is_no_tensor(tmp_path):
    """The length is checked at every read, beside the file's state: what a network file system returns is not trusted."""
    folder = tiny_model("llama", tmp_path / "model")
    file = folder / "model.safetensors"
    files = TensorFiles([file])
    last = max(files, key=lambda name: files.entry(name).start)
    os.truncate(file, file.stat().st_size - 8)
    files._states[0] = (file.stat().st_size, file.stat().st_mtime_ns)
    with pytest.raises(Unsafe, match=rf"ends inside tensor '{last}'"):
        files.read(last)


def test_a_damaged_quantised_layer_file_is_named_and_a_sound_one_is_not_made_again(saved, tmp_path):
    load(saved("llama"), weights="nf4", stream=True, cache=tmp_path)
    (folder,) = tmp_path.iterdir()
    file = folder / "layer-00001.safetensors"
    made = file.stat().st_mtime_ns
    load(saved("llama"), weights="nf4", stream=True, cache=tmp_path)
    assert file.stat().st_mtime_ns == made
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)
    with pytest.raises(Unsafe, match=r"layer-00001\.safetensors has changed: sha256 .*remove .*layers-nf4-"):
        load(saved("llama"), weights="nf4", stream=True, cache=tmp_path)


def test_a_draft_left_by_a_kill_is_made_anew(saved, tmp_path):
    load(saved("llama"), weights="int8", stream=True, cache=tmp_path)
    (folder,) = tmp_path.iterdir()
    draft = folder.with_name(f".{folder.name}.draft")
    folder.rename(draft)  # as if killed between the last layer and the rename
    (draft / "layer-00001.safetensors").write_bytes(b"half")
    load(saved("llama"), weights="int8", stream=True, cache=tmp_path)
    assert folder.is_dir() and not draft.exists()


def test_what_cannot_be_streamed_is_refused_with_the_reason(saved):
    from tests.train.clients import make_loop

    loaded = load(saved("llama"), stream=True)
    with pytest.raises(UserError, match="cannot be copied in memory"):
        attach(loaded, "lora", rank=2).merge()
    for settings, reason in (
        ({"checkpointing": True}, "computes each layer again .* already"),
        ({"compile": True}, "cannot be compiled"),
        ({"tune": "full", "method_options": {}}, r"trains \d+ tensors that stream leaves on disk"),
    ):
        tune = {"tune": "lora", "method_options": {"rank": 2}} | settings
        with pytest.raises(UserError, match=reason):
            make_loop(saved("llama"), "unused", stream=True, **tune)
    with pytest.raises(UserError, match="stream is True, but the model was loaded otherwise"):
        make_loop(saved("llama"), "unused", tune="lora", stream=True, streamed=False)
