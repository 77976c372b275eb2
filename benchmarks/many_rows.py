"""A million rows through `synth`'s pipeline: memory must not grow with them (row L12: 1.2 million).

The whole way of a row: a flow whose stages ask a teacher, the journal, parts, near duplicates over all rows, files, report. The
teacher is a function that answers in the form asked for, with words drawn by a hash of the question: what is measured is ours.
Left out: time on a real teacher. Memory is anonymous memory (RssAnon), looked at every 50 ms: pages of files are the system's to drop.
Writes results/DATE-many-rows.md.

    python benchmarks/many_rows.py                      # some 40 CPU minutes, 4 GB of disk
    python benchmarks/many_rows.py --rows 2000,8000 --out /tmp/x.md
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import hashlib
import json
import platform
import random
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

WORDS = [f"w{number}" for number in range(20_000)]


class Teacher:
    """A Responder without a model: five questions where questions are asked for, YES, 3, and sentences of twenty drawn words."""

    identity = "drawn"

    async def respond(self, turns: Sequence[Any], **sampling: Any) -> Any:
        """The tags of the form, filled."""
        from bottega.core.types import Reply

        asked = turns[-1].content
        draw = random.Random(hashlib.sha256(f"{asked}|{sampling.get('seed')}".encode()).digest())
        tags = re.findall(r"\[Start of ([^\]]+)\]\n\.\.\.\n\[End", asked)
        said = []
        for _ in range(5 if tags == ["Question"] else 1):
            for tag in tags:
                text = {"Verdict": "YES", "Score": "3"}.get(tag) or f"the {' '.join(draw.choices(WORDS, k=20))}"
                said.append(f"[Start of {tag}]\n{text}\n[End of {tag}]")
        return Reply(text="\n".join(said))


def anonymous_mb() -> float:
    """Anonymous memory of this process, MB."""
    return int(re.search(r"RssAnon:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024  # type: ignore[index]


class Peak:
    """The most anonymous memory since the last `take`."""

    def __init__(self) -> None:
        self.most = 0.0
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while True:
            self.most = max(self.most, anonymous_mb())
            time.sleep(0.05)

    def take(self) -> float:
        """It, and begin anew."""
        found, self.most = max(self.most, anonymous_mb()), 0.0
        return round(found, 1)


def measure(rows: int) -> dict[str, Any]:
    """One run in this process."""
    from bottega.core.journal import Journal
    from bottega.core.types import Leaf, Seed
    from bottega.synth.flow import read_flow
    from bottega.synth.pipeline import Job, run_all
    from bottega.synth.pipeline_files import Part, assemble, lines
    from bottega.synth.pipeline_report import report
    from bottega.synth.teacher import Asker

    seeds = tuple(Seed(pairs=((f"the question {number} of it", "the answer"),)) for number in range(5))
    leaf = Leaf(
        path="skills/drawn/qna.yaml", kind="freeform_skill", version=3, created_by="b", about="draw words", seeds=seeds
    )
    job = Job(leaf=leaf, flow=read_flow("freeform_skill", samples=rows), samples=rows, seed=0, language="en")
    peak, found = Peak(), {"rows": rows}
    with tempfile.TemporaryDirectory() as temporary:
        out = Path(temporary)
        began = time.process_time()
        with Journal(out / "journal.sqlite") as journal:
            accounts = asyncio.run(run_all([job], Asker(Teacher(), journal), lambda number: Part(out, number)))
        found |= {"flow_s": round(time.process_time() - began), "flow_mb": peak.take()}
        began = time.process_time()
        kept = assemble(out, [job], accounts, [Part(out, 0)])
        found |= {"files_s": round(time.process_time() - began), "files_mb": peak.take(), "kept": kept["train"]}
        began = time.process_time()
        report(lines([out / "train.jsonl"]), [job], accounts)
        found |= {"report_s": round(time.process_time() - began), "report_mb": peak.take()}
        found["train_mb"] = round((out / "train.jsonl").stat().st_size / 2**20)
    return found


def main() -> None:
    """Each number of rows in a process of its own; then the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rows", default="12000,120000,1200000")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--out")
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(args.one)))
        return
    today = datetime.date.today().isoformat()
    out = Path(args.out or Path(__file__).parent / "results" / f"{today}-many-rows.md")
    table = []
    for rows in args.rows.split(","):
        done = subprocess.run([sys.executable, __file__, "--one", rows], capture_output=True, text=True, check=True)
        table.append(json.loads(done.stdout.splitlines()[-1]))
        print(table[-1], flush=True)
    names = list(table[0])
    head = (
        f"# Rows through synth's pipeline, {today}\n\n`python benchmarks/many_rows.py --rows {args.rows}` on {platform.machine()}, "
        f"Python {platform.python_version()}. Seconds are CPU seconds; MB are the peak of anonymous memory in each part.\n\n"
    )
    lines = [f"| {' | '.join(names)} |", "|" + "---|" * len(names)]
    lines += [f"| {' | '.join(f'{one[name]:,}' for name in names)} |" for one in table]
    out.write_text(head + "\n".join(lines) + "\n")
    print(out)


if __name__ == "__main__":
    main()
