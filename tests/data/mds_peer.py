"""The other side of the MDS test, run by a Python that has MosaicML's package: `mds_peer.py write|read FOLDER`.

`write` makes a set of shards with that package; `read` prints as JSON what its own data set finds in a folder.
"""

import json
import sys

import numpy as np
from streaming import LocalDataset, MDSWriter

COLUMNS = {
    "text": "str", "number": "int", "raw": "bytes", "tree": "json", "free": "ndarray", "typed": "ndarray:int16",
    "fixed": "ndarray:float32:2,3", "small": "uint8", "real": "float64", "digits": "str_int",
}  # fmt: skip


def sample(i: int) -> dict:
    """Row i of the common set."""
    return {
        "text": f"naïve text {i} " * (i % 4),
        "number": -(10**i) if i < 19 else i,
        "raw": bytes(range(i)),
        "tree": {"messages": [{"role": "user", "content": f"q{i}"}], "n": None},
        "free": np.arange(i + 1, dtype=np.uint16 if i % 2 else np.float64).reshape(1, -1),
        "typed": np.arange(300 + i, dtype=np.int16),
        "fixed": np.arange(6, dtype=np.float32).reshape(2, 3) / 7,
        "small": i,
        "real": i / 3,
        "digits": 10**30 + i,
    }


def plain(row: dict) -> dict:
    """A row as JSON can hold it, arrays with their type."""
    made = {}
    for name, value in sorted(row.items()):
        if isinstance(value, np.ndarray):
            made[name] = [str(value.dtype), value.tolist()]
        else:
            made[name] = value.hex() if isinstance(value, bytes) else value.item() if hasattr(value, "item") else value
    return made


def main(what: str, folder: str) -> None:
    """Write or read."""
    if what == "write":
        with MDSWriter(out=folder, columns=COLUMNS, size_limit=4000, hashes=["sha1", "xxh64"]) as out:
            for i in range(20):
                out.write(sample(i))
    else:
        print(json.dumps([plain(row) for row in LocalDataset(folder)]))


if __name__ == "__main__":
    main(*sys.argv[1:])
