"""`data check` names an unreadable file among several, and rows that a run would stop at."""

from bottega.data.report import check


def test_an_empty_file_among_several_is_named_and_the_others_are_checked(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "one"}\n{"text": "two"}\n')
    (tmp_path / "b.jsonl").write_text("")
    found = check(tmp_path)
    assert not found["ok"] and "b.jsonl" in found["verdict"] and "empty" in found["verdict"]
    assert {file["file"].rsplit("/", 1)[-1]: file["rows"] for file in found["files"]} == {"a.jsonl": 2, "b.jsonl": 1}
