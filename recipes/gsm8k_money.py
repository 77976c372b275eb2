"""Two classes out of GSM8K: does a problem ask for an amount of money? The worked answer says so; the question alone is the text.

    python recipes/gsm8k_money.py ../shared/data/gsm8k/train.jsonl runs/money

writes train.jsonl (800 rows), validation.jsonl (200) and test.jsonl (the rest). Left out: problems whose answer has no calculation.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

LAST = re.compile(r"(\$?)<<[^>]*>>[\d.,]+(?!.*<<)")
"""The last calculation of a line, `$<<12/60=0.2>>0.2`, and whether dollars stand before it."""
PARTS = {"train": slice(0, 800), "validation": slice(800, 1000), "test": slice(1000, None)}


def label(answer: str) -> str | None:
    """money or other, from the last calculation of a worked answer; None without one.

    >>> label("Weng earns 12/60 = $<<12/60=0.2>>0.2 a minute.\\nSo 0.2 x 50 = $<<0.2*50=10>>10.\\n#### 10")
    'money'
    """
    lines = [line for line in answer.splitlines() if "<<" in line]
    found = LAST.search(lines[-1]) if lines else None
    return None if found is None else "money" if found[1] else "other"


def main(source: str, folder: str) -> None:
    """Write the three parts."""
    rows = []
    for line in Path(source).read_text(encoding="utf-8").splitlines():
        problem = json.loads(line)
        named = label(problem["answer"])
        if named is not None:
            rows.append({"text": problem["question"], "label": named})
    Path(folder).mkdir(parents=True, exist_ok=True)
    for name, part in PARTS.items():
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows[part])
        (Path(folder) / f"{name}.jsonl").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
