"""Whatever a file holds, reading it gives samples, named problems or one sentence: never a traceback.

Left out: documents (pdf, docx), whose readers are other people's.
"""

from __future__ import annotations

import json

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bottega.core.errors import UserError
from bottega.core.types import Conversation, Document, Labelled, Preference
from bottega.data.convert import WRITERS
from bottega.data.formats import FORMATS, samples
from bottega.data.sources import Problem
from bottega.data.split import text_of
from bottega.data.turns import BadRow

KEYS = [
    "messages", "conversations", "conversation", "prompt", "completion", "response", "instruction", "input", "output",
    "chosen", "rejected", "text", "label", "kto_tag", "margin", "score_chosen", "score_rejected", "tools", "system",
    "unmask", "history", "responses", "value", "question", "answer", "images",
]  # fmt: skip
TURN_KEYS = ["role", "from", "content", "value", "tool_calls", "weight", "train", "reasoning_content", "function_call"]
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.one_of(st.integers(-9, 9), st.sampled_from([10**400, -(10**400)])),
    st.floats(),
    st.sampled_from(
        ["", " ", "q", "user", "assistant", "human", "gpt", "function_call", "tool", "\n\nHuman: q\n\nAssistant: a"]
    ),
    st.text(max_size=8),
)
TURNS = st.lists(st.dictionaries(st.sampled_from(TURN_KEYS), SCALARS, max_size=4), max_size=4)
VALUES = st.recursive(
    st.one_of(SCALARS, TURNS),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from([*TURN_KEYS, "messages", "name", "score"]), inner, max_size=3),
    ),
    max_leaves=8,
)
RECORDS = st.lists(st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=5), min_size=1, max_size=3)
QUIET = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def swallow(path, **options) -> list:
    try:
        found = list(samples(path, **options))
    except UserError as error:
        assert str(error) and "\n" not in str(error)
        return []
    assert all(isinstance(one, Problem | Conversation | Document | Labelled | Preference) for one in found)
    assert all(one.reason and one.where.row for one in found if isinstance(one, Problem))
    return [one for one in found if not isinstance(one, Problem)]


@QUIET
@given(RECORDS, st.sampled_from([None, *FORMATS]))
def test_any_records_give_samples_or_named_problems(tmp_path, records, name):
    path = tmp_path / "any.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    for sample in swallow(path, format=name):
        assert isinstance(text_of(sample), str)
        for write in WRITERS.values():
            try:
                assert isinstance(write(sample), dict)
            except BadRow as error:
                assert error.reason


@QUIET
@given(st.binary(max_size=60), st.sampled_from(["jsonl", "json", "csv", "tsv", "txt", "md", "html"]))
def test_any_bytes_give_samples_or_named_problems(tmp_path, content, suffix):
    path = tmp_path / f"any.{suffix}"
    path.write_bytes(content)
    swallow(path)


@QUIET
@given(st.text(max_size=60), st.sampled_from(["json", "csv", "md", "html"]))
def test_any_text_gives_samples_or_named_problems(tmp_path, content, suffix):
    path = tmp_path / f"any.{suffix}"
    path.write_text(content.encode("utf-8", "replace").decode(), encoding="utf-8", newline="")
    swallow(path)
