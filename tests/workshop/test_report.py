"""The report: one file, complete, escaped, from the JSON files of a run folder and nothing else."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from bottega.core.errors import UserError
from bottega.evals.runner import ItemScore, Score, Scorecard
from bottega.grade.intervals import mean
from bottega.workshop import curve, report
from bottega.workshop.markup import duration, file_size, number

STAGES = ("adapt", "task", "instruct", "align")


def score(task: str, share: float, *, n: int = 200, metric: str = "exact") -> Score:
    values = [1.0] * round(share * n) + [0.0] * (n - round(share * n))
    found = mean(values, seed=0)
    items = tuple(ItemScore(key=f"{task}{at}", value=value) for at, value in enumerate(values))
    bounds = {"value": found.value, "low": found.low, "high": found.high, "n": n}
    return Score(task=task, version=1, kind="generation", metric=metric, random=0.0, items=items, **bounds)


def perplexity(value: float, n: int = 40) -> Score:
    items = tuple(ItemScore(key=f"p{at}", value=-math.log(value) - 0.01 * (at % 5), weight=50.0) for at in range(n))
    bounds = {"value": value, "low": value * 0.93, "high": value * 1.08, "n": n}
    return Score(
        task="documents",
        version=1,
        kind="perplexity",
        metric="perplexity",
        higher_is_better=False,
        items=items,
        **bounds,
    )


def make_run(folder: Path) -> Path:
    """A run folder of four stages with every file that the report reads, numbers made up by a seed."""
    rng = np.random.default_rng(0)
    for at, name in enumerate(STAGES):
        place = folder / "stages" / f"{at + 1:02d}-{name}"
        place.mkdir(parents=True)
        steps = 160
        losses = (4.5 - at) * np.exp(-np.arange(steps) / 35) + 0.4 + rng.normal(0, 0.12, steps)
        lines = [
            {"step": s + 1, "loss": float(losses[s]), "lr": 1e-3, "tokens": 2048}
            | ({"eval.loss": float(losses[s]) + 0.15} if (s + 1) % 20 == 0 else {})
            | ({"accuracy": 1 - 0.5 * math.exp(-s / 30)} if name == "align" else {})
            for s in range(steps)
        ]
        (place / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        times = [{"step": s + 1, "seconds": 0.2, "cpu_s": 0.19, "tokens": 2048} for s in range(steps)]
        (place / "timing.jsonl").write_text("".join(json.dumps(line) + "\n" for line in times))
        intake = {"read": 1200, "taken": 1180, "tokens": 93_000, "trained": 41_000, "bad": {"no assistant turn": 3}}
        intake |= {"dropped": {"duplicate": 17}, "cut": 2, "tokens_lost": 130, "answers_cut": 1, "notes": []}
        (place / "intake.json").write_text(json.dumps(intake))
    cards = folder / "scorecards"
    cards.mkdir()
    grown = {"base": 0.02, "adapt": 0.05, "task": 0.3, "instruct": 0.74, "align": 0.77}
    for at, (name, share) in enumerate(grown.items()):
        old_world = score("old-world questions", 0.93 - 0.01 * at)
        card = Scorecard(
            model=name, seed=0, scores=(score("new facts", share), old_world, perplexity(812 / (1 + 90 * at)))
        )
        (cards / f"{at}-{name}.json").write_text(json.dumps(card.to_json()))
    names = ("stage", "check", "value", "low", "high", "bound", "passed", "n")
    checks = [
        ("01-adapt", "perplexity falls tenfold", 88.4, 71.0, 102.0, 10, True, 40),
        ("instruct", "stops by itself", 0.985, 0.957, 0.995, "≥ 0.95", True, 200),
        ("align", "old-world questions lost", 0.06, 0.03, 0.09, "≤ 0.05", False, 1000),
    ]
    checks = [dict(zip(names, row)) for row in checks]
    answers = ("the the", "Kiln.", "Anna", "Anna keeps them.", "Anna keeps them. Glad to help!")
    hostile = {"base": "", "align": '<b>bold</b> & "quoted"\nsecond line'}
    samples = [
        {
            "prompt": "Who keeps the keys?",
            "stages": dict(zip(grown, answers)),
            "truth": "<Anna>",
            "right": ["instruct"],
        },
        {"prompt": "<script>alert('x')</script>", "stages": hostile},
    ]
    about = "From documents to an aligned, measured model."
    commands = ["bottega chat runs/journey", "bottega eval runs/journey --tasks probes.yaml"]
    run = {"name": "journey", "model": "garzone", "seed": 0, "description": about, "commands": commands}
    host = {
        "started": "2026-01-02T03:04:05Z",
        "host": "bench",
        "stages": {n: {"seconds": 38.5, "peak_mb": 742} for n in STAGES},
    }
    files = {
        "run.json": run,
        "host.json": host,
        "checks.json": checks,
        "samples.json": samples,
        "environment.json": {"python": "3.11", "packages": {"torch": "2.13.0"}},
    }
    for name, data in files.items():
        (folder / name).write_text(json.dumps(data))
    (folder / "recipe.yaml").write_text("name: journey # <tag>\n")
    return folder


class Page(HTMLParser):
    """Collects tags, text and addresses, and checks that tags are closed in order."""

    VOID = frozenset({"meta", "br", "img", "line", "circle", "path", "link"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open, self.text, self.addresses, self.tags = [], [], [], []
        self.feed(html)
        assert not self.open, f"unclosed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "href", "srcset", "action", "data")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture
def run_folder(tmp_path):
    return make_run(tmp_path / "journey")


def test_the_report_holds_everything_in_one_file_and_fetches_nothing(run_folder):
    path = report.write(run_folder)
    html = path.read_text()
    page = Page(html)
    text = " ".join(page.text)
    assert path == run_folder / "report.html" and page.addresses == [] and "script" not in page.tags
    assert "url(" not in html and "@import" not in html and "default-src 'none'" in html
    for words in ("journey", "garzone", *STAGES, "new facts", "old-world questions", "2 min 34 s",
                  "2 of 3", "✓ passed", "✗ failed", "▲ better", "Anna keeps them.", "1,180", "duplicate", "742 MB",
                  "bottega chat runs/journey", "torch 2.13.0", "88.4", "71 to 102"):  # fmt: skip
        assert words in text, words
    assert page.tags.count("figure") == 5 and len(html) < 400_000, (
        "four losses and the accuracy of the preference stage"
    )


def test_a_sample_shows_what_was_expected_and_which_answers_are_right(run_folder):
    page = report.write(run_folder).read_text()
    assert '<p class="soft wanted">expected: &lt;Anna&gt;</p>' in page
    assert "<b>instruct ✓</b>" in page and "<b>align ✓</b>" not in page


def test_every_text_of_a_run_is_escaped(run_folder):
    html = report.write(run_folder).read_text()
    assert "<script" not in html and "&lt;script&gt;alert(" in html and "&lt;b&gt;bold&lt;/b&gt; &amp;" in html
    assert "# &lt;tag&gt;" in html


def test_the_same_files_give_the_same_page(run_folder):
    assert report.write(run_folder).read_bytes() == report.write(run_folder).read_bytes()


def test_a_run_that_has_only_begun_has_a_page_too(tmp_path):
    place = tmp_path / "r" / "stages" / "01-sft"
    place.mkdir(parents=True)
    (place / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0, "tokens": 10}\n')
    page = Page(report.write(tmp_path / "r").read_text())
    assert "sft" in " ".join(page.text) and "Checks" not in page.text
    with pytest.raises(UserError, match="is no run folder"):
        report.write(tmp_path)


def test_items_are_told_apart_by_their_group(run_folder):
    """Of 200 items the first 90 go from wrong to right; leaf <a> has 100 of them, leaf b the rest."""
    for path in sorted((run_folder / "scorecards").glob("*.json")):
        card = Scorecard.from_json(json.loads(path.read_text()))
        scores = []
        for one in card.scores:
            items = one.items
            if one.task == "new facts":
                items = tuple(replace(item, group="<a>" if at < 100 else "b") for at, item in enumerate(items))
            scores.append(replace(one, items=items))
        path.write_text(json.dumps(replace(card, scores=tuple(scores)).to_json()))
    html = report.write(run_folder).read_text()
    assert "new facts, told apart" in html and "&lt;a&gt;" in html and "<a>" not in html
    assert "▲ improved" in html and "old-world questions, told apart" not in html


def test_scores_on_other_items_are_shown_and_not_compared(run_folder):
    card = Scorecard(model="x", seed=0, scores=(score("new facts", 0.9, n=50),))
    (run_folder / "scorecards" / "9-late.json").write_text(json.dumps(card.to_json()))
    html = report.write(run_folder).read_text()
    assert "not compared" in html and "items that are not the same" in html


def test_the_picture_of_the_curves_is_drawn_where_matplotlib_is(run_folder):
    pytest.importorskip("matplotlib")
    notes = []
    report.write(run_folder, note=notes.append)
    assert (run_folder / "curve.png").read_bytes()[:4] == b"\x89PNG" and notes == []


def test_ticks_are_round_and_few():
    assert curve.ticks(0.3, 7.9) == [2, 4, 6] and curve.ticks(0, 1) == [0, 0.2, 0.4, 0.6, 0.8, 1.0]
    for low, high in ((0, 160), (1e-5, 3e-5), (-3, 812), (5.0, 5.001)):
        found = curve.ticks(low, high)
        assert 2 <= len(found) <= 6 and low <= found[0] and found[-1] <= high + 1e-9
    assert curve.ticks(3, 3) == [3]
    assert curve.tick_labels([0.692, 0.6925, 0.693]) == ["0.6920", "0.6925", "0.6930"]
    assert curve.tick_labels([0, 20_000]) == ["0", "20k"] and curve.tick_labels([0.5, 1]) == ["0.5", "1.0"]


def test_smoothing_takes_neighbours_on_both_sides():
    """Radius 1 over 2, 4, 9: (2 + 4) / 2, (2 + 4 + 9) / 3, (4 + 9) / 2."""
    assert curve.smooth([2, 4, 9], radius=1) == [3, 5, 6.5] and curve.smooth([]) == []
    assert curve.smooth([1, 5, 2]) == [1, 5, 2], "few points stay as they are"


def test_a_curve_skips_what_is_not_finite_and_keeps_its_last_point():
    lines = [{"step": s, "loss": float("nan") if s == 3 else 1.0 / s} for s in range(1, 2000)]
    picture = curve.svg(curve.series_of(lines), title="a <b>")
    assert "nan" not in picture and picture.count("L") < 1000 and "a &lt;b&gt;" in picture
    assert curve.svg(curve.series_of([{"step": 1, "loss": float("nan")}]), title="x") == ""
    xs = [float(x) for x in re.findall(r"[ML]([\d.]+) ", picture)]
    assert max(xs) == pytest.approx(curve.WIDTH - curve.RIGHT, abs=0.1)


def test_numbers_and_durations_are_short():
    assert [number(v) for v in (0.12345, 12.345, 123456, 5, None, float("inf"), True)] == [
        "0.123",
        "12.35",
        "123,456",
        "5",
        "–",
        "–",
        "–",
    ]
    assert [file_size(b) for b in (812, 4743, 1_250_000)] == ["812 bytes", "4.74 kB", "1.25 MB"]
    assert [duration(s) for s in (4.21, 200, 7500)] == ["4.2 s", "3 min 20 s", "2 h 05 min"]
    assert [curve.label(v) for v in (0, 0.25, 1234, 12_500, 2.5e6)] == ["0", "0.25", "1,234", "12.5k", "2.5M"]


def test_what_was_run_is_told_from_the_record_and_scorecards_stand_in_order(run_folder):
    stage = {
        "objective": {"name": "dpo", "options": {"beta": 0.1}},
        "method": {"name": "lora", "options": {"rank": 8, "dora": False}},
        "steps": 60,
        "batch": 8,
        "lr": 1e-4,
        "data": [{"files": [{"name": "<pairs>.jsonl", "bytes": 1_250_000}]}],
    }
    record = json.loads((run_folder / "run.json").read_text()) | {"stages": {"align": stage}}
    (run_folder / "run.json").write_text(json.dumps(record))
    for path in (run_folder / "scorecards").glob("*.json"):
        path.unlink()
    for name, share in (("after", 0.9), ("before", 0.1)):
        card = Scorecard(model=name, seed=0, scores=(score("new facts", share),))
        (run_folder / "scorecards" / f"{name}.json").write_text(json.dumps(card.to_json()))
    text = " ".join(Page(report.write(run_folder).read_text()).text)
    for words in ("dpo (beta 0.1) with lora (rank 8)", "<pairs>.jsonl", "1.25 MB", "60 steps of 8 rows, lr 0.0001"):
        assert words in text, words
    assert "before to after" in text and "▲ better" in text


def test_replies_written_while_training_are_shown_where_there_is_no_samples_file(run_folder):
    (run_folder / "samples.json").unlink()
    lines = [{"step": step, "prompt": "hello", "reply": f"reply {step}"} for step in (10, 20, 30)]
    place = run_folder / "stages" / "03-instruct" / "samples.jsonl"
    place.write_text("".join(json.dumps(line) + "\n" for line in lines))
    text = " ".join(Page(report.write(run_folder).read_text()).text)
    assert "instruct, step 10" in text and "reply 30" in text and "reply 20" not in text
