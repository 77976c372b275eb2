"""From a taxonomy to a model that knows it, on the bundled base: the invented parish, its rows, its phases, its measures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bottega.core.errors import UserError
from bottega.demo.lab import example
from bottega.models.locate import GARZONE
from bottega.workshop.synthesis import synth
from bottega.workshop.taxonomy_verbs import check

needs_base = pytest.mark.skipif(
    not (GARZONE / "model.safetensors").is_file(), reason="the bundled base has no weights in this copy"
)


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def parish(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("lab") / "parish"
    example(folder, seed=1)
    return folder


def test_the_example_is_a_sound_taxonomy_with_documents_and_a_test_that_nobody_is_taught(parish):
    """Five leaves, 40 documents, 240 questions whose answers stand in the documents and whose wordings stand in no leaf."""
    found = check(parish / "taxonomy")
    counts = found.to_json()
    assert (counts["leaves"], counts["errors"], counts["warnings"]) == (5, 0, 0)
    documents = {path.read_text() for path in parish.glob("documents/*/*.md")}
    written = "".join(path.read_text() for path in parish.glob("taxonomy/**/qna.yaml"))
    rows = lines(parish / "tasks" / "knowledge.jsonl")
    assert len(documents) == 40 and len(rows) == len({row["question"] for row in rows}) == 240
    assert all(row["question"] not in written for row in rows)
    assert all(any(row["answer"].lower() in text.lower() for text in documents) for row in rows)
    assert len(lines(parish / "replay.jsonl")) == 2000


def test_the_example_does_not_write_over_anything(parish):
    with pytest.raises(UserError, match="not empty; name a new folder"):
        example(parish)


def test_another_seed_is_another_parish_and_the_same_seed_the_same(parish, tmp_path):
    example(tmp_path / "same", seed=1)
    example(tmp_path / "other", seed=2)
    name = "tasks/knowledge.jsonl"
    assert (tmp_path / "same" / name).read_bytes() == (parish / name).read_bytes()
    assert (tmp_path / "other" / name).read_bytes() != (parish / name).read_bytes()


@needs_base
def test_the_base_teaches_what_it_reads_and_every_answer_stands_in_its_document(parish, tmp_path):
    """The bundled base writes questions behind a text; rules and a second reading keep what holds."""
    result = synth(
        str(parish / "taxonomy"), teacher="garzone", out=str(tmp_path / "rows"), flow="reader", samples=12,
        only=("knowledge/travel/inns",), documents=str(parish / "documents"), quiet=True,
    )  # fmt: skip
    rows = lines(tmp_path / "rows" / "train.jsonl")
    documents = " ".join(path.read_text() for path in parish.glob("documents/inns/*.md")).lower()
    asked = {row["messages"][0]["content"] for row in rows}
    assert result["kept"] == len(rows) == len(asked) == 12 and result["rejected"] > 0
    assert all(row["messages"][1]["content"].lower() in documents for row in rows)
    assert {row["metadata"]["teacher"] for row in rows} == {"garzone"}
    assert not asked & {row["question"] for row in lines(parish / "tasks" / "knowledge.jsonl")}


def test_a_teacher_that_can_only_be_talked_to_is_refused_a_flow_that_continues_texts(parish, tmp_path):
    with pytest.raises(
        UserError, match="the flow reader lets the teacher go on with a text, which template does not do"
    ):
        synth(
            str(parish / "taxonomy"), teacher="template", out=str(tmp_path / "rows"), flow="reader",
            only=("knowledge",), documents=str(parish / "documents"), quiet=True,
        )  # fmt: skip
