"""MDS shards: what we write MosaicML's package reads and the other way round; pickle and damage are refused (row D12)."""

from __future__ import annotations

import json
import os
import site
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bottega.core.errors import Unsafe, UserError
from bottega.core.types import Where
from bottega.data import mds
from bottega.data.convert import convert
from bottega.data.formats import samples
from bottega.data.sources import Problem, find, read

HERE = Path(__file__).parent
PACKAGES = (
    "mosaicml-streaming==0.13.0", "boto3", "botocore", "s3transfer", "jmespath", "python-dateutil", "six", "urllib3",
    "Brotli", "python-snappy", "cramjam", "xxhash", "zstd", "tqdm", "catalogue", "matplotlib", "pillow",
)  # fmt: skip
"""The package without what only pictures and clouds need; torch and the rest come from the environment of the tests."""

# One shard as the format's description gives it, byte by byte: columns n (int, 8 bytes) and t (str); rows (7, "ab"), (-1, "").
HEAD = b'{"column_encodings": ["int", "str"], "column_names": ["n", "t"], "column_sizes": [8, null]}'
FIRST = (2).to_bytes(4, "little") + (7).to_bytes(8, "little") + b"ab"
SECOND = (0).to_bytes(4, "little") + b"\xff" * 8
START = 4 + 3 * 4 + len(HEAD)
GOLDEN = (
    (2).to_bytes(4, "little")
    + b"".join(at.to_bytes(4, "little") for at in (START, START + len(FIRST), START + len(FIRST) + len(SECOND)))
    + HEAD
    + FIRST
    + SECOND
)


@pytest.fixture
def golden(tmp_path) -> Path:
    path = tmp_path / "shard.00000.mds"
    path.write_bytes(GOLDEN)
    return path


def test_a_shard_is_read_as_its_format_says(golden):
    assert list(mds.read_shard(golden)) == [{"n": 7, "t": "ab"}, {"n": -1, "t": ""}]
    assert [where for where, _ in read(golden)] == [Where(str(golden), 1), Where(str(golden), 2)]


@pytest.mark.parametrize("keep", [*range(0, 16), 30, START, START + 5, len(GOLDEN) - 1])
def test_a_shard_cut_short_anywhere_is_named(golden, keep):
    golden.write_bytes(GOLDEN[:keep])
    with pytest.raises((Unsafe, UserError), match=r"shard\.00000\.mds"):
        list(read(golden))


@given(place=st.integers(0, len(GOLDEN) - 1), byte=st.integers(0, 255))
def test_a_flipped_byte_gives_samples_or_a_clear_error(tmp_path_factory, place, byte):
    path = tmp_path_factory.mktemp("flip") / "shard.00000.mds"
    path.write_bytes(GOLDEN[:place] + bytes([byte]) + GOLDEN[place + 1 :])
    try:
        found = list(mds.read_shard(path))
    except UserError as error:
        assert path.name in str(error)
    else:
        assert len(found) <= 2


def rows() -> list[dict]:
    """Rows of every kind of column."""
    return [
        {
            "text": f"naïve {i}",
            "number": -(10**i),
            "raw": bytes(range(i)),
            "tree": {"a": [None, i]},
            "free": np.arange(i + 1, dtype=np.uint16).reshape(1, -1),
            "typed": np.arange(300, dtype=np.int16),
            "fixed": np.arange(6, dtype=np.float32).reshape(2, 3),
            "small": i,
            "real": i / 3,
            "digits": 10**30 + i,
        }
        for i in range(12)
    ]


COLUMNS = {
    "text": "str", "number": "int", "raw": "bytes", "tree": "json", "free": "ndarray", "typed": "ndarray:int16",
    "fixed": "ndarray:float32:2,3", "small": "uint8", "real": "float64", "digits": "str_int",
}  # fmt: skip


def same(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(
        np.array_equal(a, other[name]) and a.dtype == other[name].dtype
        if isinstance(a, np.ndarray)
        else a == other[name]
        for name, a in one.items()
    )


def test_what_is_written_is_read_back_over_several_shards(tmp_path):
    count = mds.write(tmp_path / "set", rows(), columns=COLUMNS, size_limit=3000)
    files = find([tmp_path / "set"])
    found = [sample for file in files for sample in mds.read_shard(file)]
    assert count == 12 and len(files) > 2 and all(map(same, found, rows()))
    index = json.loads((tmp_path / "set" / "index.json").read_text())
    assert sum(shard["samples"] for shard in index["shards"]) == 12
    assert all(file.stat().st_size <= 3000 for file in files)
    with pytest.raises(UserError, match="holds shards already"):
        mds.write(tmp_path / "set", rows(), columns=COLUMNS)


def test_the_index_notices_a_shard_that_is_not_its_own(tmp_path):
    mds.write(tmp_path, rows(), columns=COLUMNS)
    (shard,) = find([tmp_path])
    content = bytearray(shard.read_bytes())
    content[-3] ^= 1
    shard.write_bytes(content)
    with pytest.raises(Unsafe, match="has changed: sha256"):
        list(read(tmp_path))
    shard.write_bytes(content + b"x")
    with pytest.raises(Unsafe, match="bytes, and .*index.json says"):
        list(read(tmp_path))


@pytest.mark.parametrize("encoding", ["pkl", "pickle"])
def test_a_pickled_column_is_unsafe_and_never_opened(golden, encoding):
    pickled = HEAD.replace(b'"str"', f'"{encoding}"'.encode())
    shift = len(pickled) - len(HEAD)
    offsets = (START + shift, START + shift + len(FIRST), START + shift + len(FIRST) + len(SECOND))
    content = GOLDEN[:4] + b"".join(at.to_bytes(4, "little") for at in offsets) + pickled + FIRST + SECOND
    golden.write_bytes(content)
    with pytest.raises(Unsafe, match="the column 't' is pickled.*json, str or ndarray"):
        list(read(golden))
    with pytest.raises(Unsafe, match="pickled"):
        mds.write(golden.parent / "new", [{"t": 1}], columns={"t": encoding})
    golden.write_bytes(GOLDEN.replace(b'"str"', b'"png"'))
    with pytest.raises(UserError, match="the column 't' is png; read are"):
        list(read(golden))


def test_compressed_shards_are_refused_by_name(golden):
    (golden.parent / "shard.00001.mds.zstd").write_bytes(b"x")
    with pytest.raises(UserError, match=r"shard.00001.mds.zstd is compressed \(zstd\); unpack"):
        find([golden.parent])


@pytest.mark.parametrize("value", [np.zeros(0), np.array(1.0), np.zeros(2, dtype=complex)])
def test_arrays_that_the_format_cannot_hold_are_refused(tmp_path, value):
    with pytest.raises(UserError, match="cannot be written as ndarray"):
        mds.write(tmp_path, [{"a": value}], columns={"a": "ndarray"})


def test_convert_writes_shards_and_every_format_reads_them(tmp_path):
    chats = [
        {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": f"a{i}"}]} for i in range(5)
    ]
    chats[2]["level"] = 3
    path = tmp_path / "chats.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in chats))
    convert([path], to="messages", out=tmp_path / "chats.mds")
    plain, shards = (list(samples(place)) for place in (path, tmp_path / "chats.mds"))
    assert [s.turns for s in plain] == [s.turns for s in shards] and not any(isinstance(s, Problem) for s in shards)
    assert shards[2].meta["level"] == 3


@pytest.fixture(scope="module")
def peer(tmp_path_factory):
    """A Python with MosaicML's package over this one's; skipped by name where it cannot be installed."""
    folder = tmp_path_factory.mktemp("peer")
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    python = folder / "bin" / "python"
    done = subprocess.run(
        [str(python), "-m", "pip", "install", "--quiet", "--no-deps", *PACKAGES], capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"mosaicml-streaming cannot be installed here: {done.stderr.strip().splitlines()[-1][:200]}")
    (own,) = folder.glob("lib/python*/site-packages")
    (own / "below.pth").write_text("\n".join(site.getsitepackages()))
    for name, content in {"__init__": "", "datasets": "VisionDataset = CIFAR10 = object\n"}.items():
        (own / "torchvision").mkdir(exist_ok=True)  # its wheel needs CUDA and only pictures use it
        (own / "torchvision" / f"{name}.py").write_text(content)
    (own / "torchvision" / "transforms").mkdir()
    (own / "torchvision" / "transforms" / "__init__.py").write_text("")
    (own / "torchvision" / "transforms" / "functional.py").write_text("to_tensor = None\n")
    return python


@pytest.mark.slow
def test_mosaicml_s_own_package_reads_what_we_write_and_writes_what_we_read(peer, tmp_path):
    def run(*words: str) -> str:
        command = [str(peer), str(HERE / "mds_peer.py"), *words]
        env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        done = subprocess.run(command, capture_output=True, text=True, env=env)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    run("write", str(tmp_path / "theirs"))
    theirs = [sample for file in find([tmp_path / "theirs"]) for sample in mds.read_shard(file)]
    assert len(theirs) == 20 and len(find([tmp_path / "theirs"])) > 3
    said = json.loads(run("read", str(tmp_path / "theirs")).splitlines()[-1])
    assert [plain(row) for row in theirs] == said
    mds.write(tmp_path / "ours", theirs, columns=COLUMNS, size_limit=4000)
    assert json.loads(run("read", str(tmp_path / "ours")).splitlines()[-1]) == said
    for file in find([tmp_path / "theirs"]):
        ours = tmp_path / "ours" / file.name
        assert list(map(plain, mds.read_shard(ours))) == list(map(plain, mds.read_shard(file)))


def plain(row: dict) -> dict:
    """A row as the other side prints it."""
    made = {}
    for name, value in sorted(row.items()):
        if isinstance(value, np.ndarray):
            made[name] = [str(value.dtype), value.tolist()]
        else:
            made[name] = value.hex() if isinstance(value, bytes) else value
    return made
