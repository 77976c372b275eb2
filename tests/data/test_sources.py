"""Files to records: kinds, broken files, and the place of every problem.

Left out: what the records mean (test_formats.py).
"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from bottega.core.errors import UserError
from bottega.data.formats import samples
from bottega.data.sources import MAX_LINE_BYTES, Problem, find, read

ROWS = [{"prompt": "a", "response": "b"}, {"prompt": "ç", "response": "d\ne"}]


def records(path, **options):
    return [record for _, record in read(path, **options)]


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_jsonl_reads_the_same_with_a_byte_order_mark_and_either_line_ending(write, ending, mark):
    path = write("a.jsonl", mark + ending.join(json.dumps(row) for row in ROWS).encode())
    assert records(path) == ROWS


def test_utf16_jsonl_is_read(write):
    assert records(write("a.jsonl", "".join(json.dumps(r) + "\n" for r in ROWS).encode("utf-16"))) == ROWS


@pytest.mark.parametrize("wrap", [list, lambda rows: {"data": rows}, lambda rows: {"rows": rows}])
def test_json_is_a_list_or_an_object_that_holds_one(write, wrap):
    assert records(write("a.json", wrap(ROWS))) == ROWS


def test_csv_and_tsv_keep_line_breaks_in_quotes_and_name_the_line(write):
    path = write("a.csv", 'prompt,response\na,b\nç,"d\ne"\nlast,one\n')
    assert records(path)[:2] == ROWS
    assert [where.row for where, _ in read(path)] == [2, 3, 5]
    assert records(write("a.tsv", "prompt\tresponse\na\tb\n")) == ROWS[:1]


def test_a_csv_row_with_too_many_cells_is_a_problem_with_its_line(write):
    where, problem = list(read(write("a.csv", "prompt,response\na,b\na,b,c\n")))[1]
    assert where.row == 3 and problem.reason == "3 cells where the header has 2"


def test_parquet_and_arrow_are_read_in_batches(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import feather, parquet

    table = pyarrow.Table.from_pylist(ROWS)
    parquet.write_table(table, tmp_path / "a.parquet")
    feather.write_feather(table, tmp_path / "a.arrow", compression="uncompressed")
    with pyarrow.OSFile(str(tmp_path / "b.arrow"), "wb") as file, pyarrow.ipc.new_stream(file, table.schema) as stream:
        stream.write_table(table)
    for name in ("a.parquet", "a.arrow", "b.arrow"):
        assert records(tmp_path / name) == ROWS


def test_a_parquet_file_that_is_none_is_a_problem(write):
    pytest.importorskip("pyarrow")
    assert "not a readable parquet file" in records(write("a.parquet", b"PAR1 nothing"))[0].reason


@pytest.mark.parametrize(
    ("name", "module", "package", "extra"),
    [
        ("a.parquet", "pyarrow", "pyarrow", "data"),
        ("a.pdf", "pypdf", "pypdf", "docs"),
        ("a.docx", "docx", "python-docx", "office"),
    ],
)
def test_a_missing_package_is_named_with_the_command_that_installs_it(write, name, module, package, extra):
    """In a process where it cannot be imported."""
    path = write(name, b"PAR1")
    code = (
        f"import sys; sys.modules[{module!r}] = None\n"
        "from bottega.data.sources import read\n"
        "from bottega.core.errors import UserError\n"
        f"try: list(read({str(path)!r}))\n"
        "except UserError as error: print(error)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out == f"reading {name} needs {package}; install it with: pip install 'bottega[{extra}]'\n"


def test_an_empty_file_is_refused(write):
    with pytest.raises(UserError, match="a.jsonl is empty; give a file with at least one row"):
        records(write("a.jsonl", ""))
    with pytest.raises(UserError, match="b.jsonl holds no row"):
        records(write("b.jsonl", "\n\n"))
    with pytest.raises(UserError, match="c.json holds no row"):
        records(write("c.json", "[]"))
    with pytest.raises(UserError, match="d.csv holds no row"):
        records(write("d.csv", "prompt,response\n"))


def test_one_broken_line_is_named_and_the_others_are_read(write):
    path = write("a.jsonl", '{"prompt": "a", "response": "b"}\n{"prompt": "a", \n{"prompt": "c", "response": "d"}\n')
    first, broken, last = list(read(path))
    assert isinstance(broken[1], Problem) and str(broken[1]).startswith(f"{path}:2: broken JSON at character ")
    assert first[1] == ROWS[0] and last[0].row == 3


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"[1, 2]", "expected an object {...}, found a list"),
        (b"3", "expected an object {...}, found a number"),
        (b'{"a": "\xff"}', "byte 0xff at 8 is not utf-8 text"),
        (b'{"a": "\x00"}', "a NUL character at 8; this is not a text file"),
        (b"[" * 100_000, "JSON that cannot be read"),
    ],
)
def test_a_line_that_is_no_object_is_a_problem(write, line, reason):
    found = records(write("a.jsonl", line + b"\n" + json.dumps(ROWS[0]).encode() + b"\n"))
    assert reason in found[0].reason and found[1] == ROWS[0]


def test_a_very_long_line_is_a_problem_and_not_a_memory_error(write, monkeypatch):
    monkeypatch.setattr("bottega.data.sources.MAX_LINE_BYTES", 1000)
    path = write("a.jsonl", b'{"a": "' + b"x" * 5000 + b'"}\n' + json.dumps(ROWS[0]).encode() + b"\n")
    found = list(read(path))
    assert found[0][1].reason == "a line of more than 1,000 bytes; split it"
    assert found[1][0].row == 2 and found[1][1] == ROWS[0]
    assert MAX_LINE_BYTES >= 16_000_000


def test_a_missing_column_is_named_with_those_that_are_there(write):
    path = write("a.jsonl", [{"frage": "a", "antwort": "b"}, {"frage": "a"}])
    found = records(path, columns={"prompt": "frage", "response": "antwort"})
    assert found[0] == ROWS[0]
    assert str(found[1]) == f"{path}:2 [antwort]: there is no column 'antwort'; the row has frage"


def test_a_row_of_a_table_becomes_a_text_by_a_template(write):
    path = write("a.csv", b"amount,country,fraud\n12.5,FI,no\n,IT,yes\n")
    found = records(path, columns={"text": "{{ amount }} from {{ country }}", "label": "fraud"})
    assert found[0] == {"text": "12.5 from FI", "label": "no", "amount": "12.5", "country": "FI"}
    assert found[1]["text"] == " from IT"
    missing = records(path, columns={"text": "{{ amount }} at {{ hour }}"})
    assert missing[0].reason == "there is no column 'hour'; the row has amount, country, fraud"


def test_a_folder_is_opened_in_the_order_of_names_and_hidden_files_are_left_out(tmp_path):
    (tmp_path / "sub").mkdir()
    for name in ("b.txt", "a.md", "sub/c.txt", ".hidden.txt", "picture.png"):
        (tmp_path / name).write_text(name)
    assert [path.name for path in find([tmp_path])] == ["a.md", "b.txt", "c.txt"]
    assert [sample.text for sample in samples(tmp_path)] == ["a.md", "b.txt", "sub/c.txt"]


def test_a_path_that_is_not_there_or_of_an_unknown_kind_is_refused(tmp_path):
    with pytest.raises(UserError, match="there is no file .*nothing.jsonl; check the path"):
        records(tmp_path / "nothing.jsonl")
    (tmp_path / "a.xlsx").write_bytes(b"x")
    with pytest.raises(UserError, match="has the suffix '.xlsx'; expected one of .jsonl"):
        records(tmp_path / "a.xlsx")
    with pytest.raises(UserError, match="holds no file to read"):
        (tmp_path / "empty").mkdir()
        records(tmp_path / "empty")
