"""Progress in plain lines, tables, JSON."""

import io
import json

import pytest

from bottega.core import textio


def test_plain_progress_prints_now_and_then_and_at_the_end():
    stream = io.StringIO()
    with textio.PlainProgress(3, "adapt", stream=stream, every_s=1000) as shown:
        for step in (1, 2, 3):
            shown.update(step, {"loss": 2.5, "tokens/s": 1234.5})
        shown.note("a word")
    lines = stream.getvalue().splitlines()
    assert lines[0] == "a word" and len(lines) == 2
    assert lines[1].startswith("adapt: 3/3  loss 2.5  1,234 tokens/s") and lines[1].endswith("0 s left")


def test_every_line_comes_when_asked_for_every_zero_seconds():
    stream = io.StringIO()
    shown = textio.PlainProgress(None, "x", stream=stream, every_s=0)
    shown.update(1)
    shown.update(2)
    shown.close()
    assert len(stream.getvalue().splitlines()) == 2


def test_a_table_keeps_columns_apart_and_escapes_control_characters():
    text = textio.table([("a\x1b[2J", 1), ("日本", 22)], ("name", "n"))
    assert text.splitlines() == ["name       n", "--------  --", "a\\x1b[2J   1", "日本      22"]


def test_json_on_stdout_refuses_what_json_cannot_hold():
    stream = io.StringIO()
    textio.print_json({"ä": [1, None]}, stream=stream)
    assert json.loads(stream.getvalue()) == {"ä": [1, None]}
    with pytest.raises(ValueError):
        textio.print_json({"x": float("nan")}, stream=stream)
