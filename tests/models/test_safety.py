"""What a model folder may not contain, each case a real file on disk; no torch is imported here."""

import json
import random
import struct

import pytest

from bottega.core.errors import Unsafe, UserError
from bottega.models import safety


def write_safetensors(path, tensors: dict, data: bytes = b"") -> None:
    """A safetensors file by hand: 8 bytes of length, the JSON header, the data."""
    header = json.dumps(tensors).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + data)


ONE = {"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}


def test_a_sound_header_is_read(tmp_path):
    write_safetensors(tmp_path / "model.safetensors", {"__metadata__": {"format": "pt"}, **ONE}, bytes(8))
    assert safety.check_safetensors(tmp_path / "model.safetensors") == ONE


@pytest.mark.parametrize(
    ("tensors", "data", "said"),
    [
        (ONE, bytes(7), "fill 8 of 7 bytes"),
        (ONE, bytes(9), "fill 8 of 9 bytes"),
        ({"w": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}}, bytes(8), "needs 12 bytes"),
        ({"w": {"dtype": "F33", "shape": [2], "data_offsets": [0, 8]}}, bytes(8), "unknown dtype"),
        ({"w": {"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]}}, bytes(8), "shape"),
        ({"w": {"dtype": "F32", "shape": [True, 2], "data_offsets": [0, 8]}}, bytes(8), "shape"),
        ({"w": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}}, bytes(12), "starts at byte 4"),
        ({**ONE, "v": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}, bytes(8), "starts at byte 4"),
        ({"w": [1]}, b"", "lacks dtype"),
    ],
)
def test_a_header_that_does_not_fit_its_file_is_refused(tmp_path, tensors, data, said):
    path = tmp_path / "model.safetensors"
    write_safetensors(path, tensors, data)
    with pytest.raises(Unsafe, match=said):
        safety.check_safetensors(path)


def test_every_flipped_bit_of_the_length_is_noticed(tmp_path):
    path = tmp_path / "model.safetensors"
    write_safetensors(path, ONE, bytes(8))
    whole = path.read_bytes()
    for bit in range(64):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        with pytest.raises(Unsafe):
            safety.check_safetensors(path)


def test_a_header_with_a_key_twice_or_no_json_is_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    for header in (b'{"w": {}, "w": {}}', b"{nothing", b"[]", b"{" + b'"a":{' * 5000 + b"}" * 5001):
        path.write_bytes(struct.pack("<Q", len(header)) + header)
        with pytest.raises(Unsafe):
            safety.check_safetensors(path)


def test_a_folder_with_only_a_pickle_is_refused_and_the_pickle_stays_closed(tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")
    with pytest.raises(Unsafe, match=r"pytorch_model.bin.*safetensors") as caught:
        safety.weight_files(tmp_path)
    assert caught.value.exit_code == 4


def test_a_pickle_beside_safetensors_is_left_alone_but_a_folder_of_ours_with_one_is_refused(tmp_path):
    (tmp_path / "training_args.bin").write_bytes(b"x")
    write_safetensors(tmp_path / "model.safetensors", ONE, bytes(8))
    assert [path.name for path in safety.weight_files(tmp_path)] == ["model.safetensors"]
    with pytest.raises(Unsafe, match="training_args.bin"):
        safety.refuse_pickles(tmp_path)


def test_a_folder_without_weights_says_so(tmp_path):
    with pytest.raises(UserError, match="no weights"):
        safety.weight_files(tmp_path)


@pytest.mark.parametrize("shard", ["../other.safetensors", "/etc/passwd", "model.bin"])
def test_an_index_that_points_outside_is_refused(tmp_path, shard):
    write_safetensors(tmp_path / "a.safetensors", ONE, bytes(8))
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"w": shard}}))
    with pytest.raises(Unsafe, match="points at"):
        safety.weight_files(tmp_path)


@pytest.mark.parametrize(
    "config",
    [
        {"auto_map": {"AutoModelForCausalLM": "modeling.Evil"}},
        {"text_config": {"auto_map": {"AutoConfig": "c.C"}}},
        {"_attn_implementation": "someone/kernel"},
        {"attn_implementation": "someone/kernel"},
        {"_attn_implementation_internal": "sdpa"},
        {"_experts_implementation": {"x": "someone/kernel"}},
        {"layers": [{"_anything": 1}]},
    ],
)
def test_a_config_that_reaches_for_code_is_refused(tmp_path, config):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", **config}))
    with pytest.raises(Unsafe) as caught:
        safety.check_configs(tmp_path)
    assert caught.value.exit_code == 4


def test_a_tokenizer_config_with_auto_map_is_refused(tmp_path):
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"auto_map": {"AutoTokenizer": ["t.T", None]}}))
    with pytest.raises(Unsafe, match="auto_map"):
        safety.check_configs(tmp_path)


def test_keys_that_transformers_itself_writes_are_let_through(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"_name_or_path": "x", "_attn_implementation": "sdpa"}))
    safety.check_configs(tmp_path)


def test_trusted_code_may_not_come_from_another_repository(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"auto_map": {"AutoModel": "else/where--modeling.M"}}))
    with pytest.raises(Unsafe, match="another repository"):
        safety.check_configs(tmp_path, trust=True)


def test_trust_needs_the_commit_or_the_hash_of_the_code(tmp_path):
    for revision in (None, "main", "a" * 39):
        with pytest.raises(Unsafe, match="40-hex"):
            safety.check_trust("owner/name", revision=revision, folder=None)
    safety.check_trust("owner/name", revision="a" * 40, folder=None)
    (tmp_path / "modeling.py").write_text("x = 1\n")
    with pytest.raises(Unsafe, match=safety.code_hash(tmp_path)):
        safety.check_trust("here", revision="a" * 40, folder=tmp_path)
    kept = safety.code_hash(tmp_path)
    safety.check_trust("here", revision=kept, folder=tmp_path)
    (tmp_path / "modeling.py").write_text("x = 2\n")
    with pytest.raises(Unsafe):
        safety.check_trust("here", revision=kept, folder=tmp_path)


def test_an_adapter_that_imports_modules_of_its_choice_is_refused(tmp_path):
    path = tmp_path / "adapter_config.json"
    for bad in ({"megatron_config": {}}, {"auto_mapping": {"parent_library": "evil"}}, {"auto_map": "x"}):
        path.write_text(json.dumps({"peft_type": "LORA", **bad}))
        with pytest.raises(Unsafe):
            safety.check_adapter(tmp_path)
    path.write_text(json.dumps({"peft_type": "LORA", "auto_mapping": {"parent_library": "transformers.models.llama"}}))
    assert safety.check_adapter(tmp_path)["peft_type"] == "LORA"


def test_any_damage_to_a_header_or_a_config_ends_in_one_sentence_and_never_in_a_crash(tmp_path):
    draw = random.Random(5)
    weights, config = tmp_path / "model.safetensors", tmp_path / "config.json"
    write_safetensors(weights, {**ONE, "v": {"dtype": "BF16", "shape": [2, 3], "data_offsets": [8, 20]}}, bytes(20))
    config.write_text(json.dumps({"model_type": "llama", "layers": [{"a": 1}], "text_config": {"b": None}}))
    for path, check in ((weights, safety.check_safetensors), (config, lambda path: safety.check_configs(path.parent))):
        whole = path.read_bytes()
        for _ in range(400):
            damaged = bytearray(whole)
            for _ in range(draw.randint(1, 3)):
                damaged[draw.randrange(len(damaged))] = draw.randrange(256)
            path.write_bytes(damaged[: draw.choice([len(damaged), draw.randrange(len(damaged))])])
            try:
                check(path)
            except Unsafe as refused:
                assert str(path) in str(refused)
