"""Documents to text and chunks: headings, tables, code, and one text in two kinds of file."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bottega.core.errors import UserError
from bottega.core.types import Document
from bottega.data.chunk import chunk
from bottega.data.documents import html_text, markdown_text, pdf_text, read_text
from bottega.data.formats import samples
from bottega.data.sources import Problem

PAGE = """<!doctype html><html><head><title>t</title><style>p {color: red}</style></head><body>
<nav><a href="/">Home</a></nav><h1>Guide</h1><p>First  &amp; <b>bold</b><br>text.</p>
<h2>Tools</h2><ul><li>saw</li><li>plane <i>small</i></li></ul>
<table><tr><th>Tool</th><th>Count</th></tr><tr><td>saw</td><td>3</td></tr></table>
<pre>def f():
    return 1</pre><script>alert(1)</script><p>End.</p></body></html>"""


def test_a_page_becomes_text_with_headings_lists_tables_and_code():
    assert html_text(PAGE) == (
        "# Guide\n\nFirst & bold text.\n\n## Tools\n\n- saw\n- plane small\n\n| Tool | Count |\n| --- | --- |\n"
        "| saw | 3 |\n\n```\ndef f():\n    return 1\n```\n\nEnd.\n"
    )


def test_links_become_their_text_outside_code():
    text = 'See [the **saw**](saw_(tool) "wikilink") and ![a picture](p.png).\n```\n[x](y)\n```\n[two\nlines](z)'
    assert markdown_text(text) == "See the **saw** and a picture.\n```\n[x](y)\n```\ntwo\nlines"


def test_lines_of_a_pdf_become_paragraphs_and_headings():
    pages = [
        [
            ("Guide", 20.0),
            ("The work-", 10.0),
            ("shop opens at eight and closes", 10.0),
            ("at five.", 10.0),
            ("Then rest.", 10.0),
        ]
    ]
    assert pdf_text(pages) == "# Guide\n\nThe workshop opens at eight and closes at five.\n\nThen rest.\n"


def test_headers_footers_and_page_numbers_of_a_pdf_are_left_out():
    words = ["one", "two", "three", "four"]
    body = [[(f"{word} {thing} lies here.", 10.0) for thing in ("saw", "plane", "chisel", "bench")] for word in words]
    pages = [[("The Guide", 8.0), *lines, (f"Page {n}", 8.0)] for n, lines in enumerate(body, 1)]
    assert "The Guide" not in pdf_text(pages) and "Page 2" not in pdf_text(pages)
    assert all(f"{word} saw lies here." in pdf_text(pages) for word in words)


@pytest.mark.parametrize("name", ["phoenix", "moo_deng"])
def test_the_md_and_the_pdf_of_one_text_agree(shared_data, name):
    pytest.importorskip("pypdf")
    texts = [read_text(shared_data(f"documents/{name}.{kind}")) for kind in ("md", "pdf")]
    markdown, pdf = (set(re.findall(r"\w{4,}", text.lower())) for text in texts)
    assert len(markdown & pdf) / len(markdown) > 0.97
    heads = [{line.strip("# ") for line in text.split("\n") if line.startswith("#")} for text in texts]
    assert len(heads[0] & heads[1]) >= 0.8 * len(heads[0])


def test_a_docx_keeps_headings_lists_and_tables(tmp_path):
    docx = pytest.importorskip("docx")
    document = docx.Document()
    document.add_heading("Guide", level=1)
    document.add_paragraph("First text.")
    document.add_paragraph("saw", style="List Bullet")
    table = document.add_table(rows=2, cols=2)
    for cell, text in zip([cell for row in table.rows for cell in row.cells], ["Tool", "Count", "saw", "3"]):
        cell.text = text
    document.save(tmp_path / "a.docx")
    (sample,) = samples(tmp_path / "a.docx")
    assert sample.text == "# Guide\n\nFirst text.\n\n- saw\n\n| Tool | Count |\n| --- | --- |\n| saw | 3 |\n"


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.pdf", b"%PDF-1.4 nothing", "not a readable pdf"),
        ("a.docx", b"PK nothing", "not a readable docx"),
        ("a.txt", b"caf\xe9", "byte 0xe9 at 4 is not utf-8 text"),
        ("a.md", b"a\x00b", "a NUL character at 2"),
        ("a.html", b"<script>1</script>", "no text found in this document"),
    ],
)
def test_a_document_that_cannot_be_read_is_a_problem_with_its_file(write, name, content, reason):
    (problem,) = samples(write(name, content))
    assert isinstance(problem, Problem) and reason in problem.reason and problem.where.file.endswith(name)


def test_text_files_with_a_mark_and_windows_line_ends_read_the_same(write):
    (sample,) = samples(write("a.txt", b"\xef\xbb\xbfone\r\ntwo\r\n"))
    assert isinstance(sample, Document) and sample.text == "one\ntwo\n"


TEXT = st.lists(
    st.sampled_from(
        [
            "# One\n",
            "## Two words\n",
            "\n",
            "A sentence here. Another one follows! And more?\n",
            "| a | b |\n",
            "```\ncode a\n# not a heading\n\ncode b\n```\n",
            "averyveryverylongwordwithoutanyspace" * 3 + "\n",
            "- item\n",
        ]
    ),
    max_size=20,
).map("".join)


@given(TEXT, st.integers(5, 120))
def test_chunks_tile_the_text_and_honour_the_size(text, size):
    chunks = chunk(text, size=size)
    assert "".join(piece.text for piece in chunks) == text
    assert all(text[piece.start : piece.end] == piece.text for piece in chunks)
    for piece in chunks:
        fence = piece.text.startswith("```") and piece.text.count("```") == 2 and piece.text.endswith("```\n")
        line = piece.text.startswith(("|", "#")) and piece.text.count("\n") == 1
        assert len(piece.text) <= size or fence or line


@given(TEXT, st.integers(5, 120))
def test_no_chunk_begins_inside_a_code_fence_or_a_table_row(text, size):
    for piece in chunk(text, size=size):
        assert text[: piece.start].count("```") % 2 == 0
        line = text[: piece.start].rpartition("\n")[2]
        assert not line.startswith("|")


def test_chunks_carry_their_headings_and_do_not_end_with_one():
    text = "# Guide\n\nIntro text here.\n\n## Tools\n\nThe saw is sharp.\n\n## Rest\n\nTea at five.\n"
    chunks = chunk(text, size=40)
    assert [piece.headings for piece in chunks] == [("Guide",), ("Guide", "Tools"), ("Guide", "Rest")]
    assert chunks[1].titled() == "Guide > Tools\n\n## Tools\n\nThe saw is sharp."
    assert not any(piece.text.strip().split("\n")[-1].startswith("#") for piece in chunks)


def test_the_size_can_be_measured_in_words():
    chunks = chunk("one two three. four five six. seven eight.", size=3, measure=lambda text: len(text.split()))
    assert [piece.text for piece in chunks] == ["one two three. ", "four five six. ", "seven eight."]
    with pytest.raises(UserError, match="a chunk size of 0 holds nothing"):
        chunk("a", size=0)
