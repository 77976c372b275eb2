"""Documents to text with their headings: txt, md, html, rst, pdf, docx.

Left out: pictures, scanned pages (no OCR), formulas, footnotes and headers of docx files.

Headings come out as Markdown (`## Name`), tables as Markdown rows, links as their text, so that one text reads alike
from each kind of file.
"""

from __future__ import annotations

import logging
import math
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from bottega.core.errors import UserError

SUFFIXES = (".txt", ".md", ".markdown", ".html", ".htm", ".rst", ".pdf", ".docx")
_FENCE = re.compile(r"^(```|~~~)", re.MULTILINE)
_LINK = re.compile(
    r"!?\[([^\[\]]*(?:\[[^\[\]]*\][^\[\]]*)*)\]"  # [its text, with one pair of brackets inside]
    r"\((?:<[^<>]*>|[^()\s]*(?:\([^()]*\)[^()\s]*)*)(?:\s+\"[^\"]*\")?\)"  # (target "title")
)

_LIGATURES = {
    "\ufb00": "ff",
    "\ufb01": "fi",
    "\ufb02": "fl",
    "\ufb03": "ffi",
    "\ufb04": "ffl",
    "\ufb05": "st",
    "\ufb06": "st",
}
_LIGATURE = re.compile("[\ufb00-\ufb06]")


class Unreadable(Exception):
    """A document that cannot be read, in one sentence."""


def read_text(path: Path) -> str:
    """The text of a document.

    Raises:
        Unreadable: not text, a broken or an encrypted file.
        UserError: the package that reads its kind is not installed.
    """
    suffix = path.suffix.lower()
    if suffix == ".pdf":
        return _pdf(path)
    if suffix == ".docx":
        return _docx(path)
    text = _decoded(path)
    if suffix in (".html", ".htm"):
        return html_text(text)
    if suffix == ".rst":
        from bottega.data.rst import rst_text

        return rst_text(text)
    return markdown_text(text) if suffix in (".md", ".markdown") else text


def _decoded(path: Path) -> str:
    raw = path.read_bytes()
    encoding = "utf-16" if raw.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    try:
        text = raw.decode(encoding)
    except UnicodeDecodeError as error:
        raise Unreadable(
            f"byte {raw[error.start]:#04x} at {error.start + 1} is not {encoding[:6].strip('-')} text"
        ) from error
    if "\x00" in text:
        raise Unreadable(f"a NUL character at {text.index(chr(0)) + 1}; this is not a text file")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def markdown_text(text: str) -> str:
    """Markdown with links and pictures reduced to their text, code fences untouched: '[a](b "c")' -> 'a'."""
    lines, fenced = [], False
    block: list[str] = []

    def flush() -> None:
        if block:
            lines.append(_unlinked("\n".join(block)))
            block.clear()

    for line in text.split("\n"):
        if _FENCE.match(line.lstrip()):
            flush()
            fenced = not fenced
            lines.append(line)
        elif fenced:
            lines.append(line)
        else:
            block.append(line)
    flush()
    return "\n".join(lines)


def _unlinked(text: str) -> str:
    before = None
    while before != text:
        before, text = text, _LINK.sub(lambda match: match[1], text)
    return text


_BLOCKS = {
    "p",
    "div",
    "section",
    "article",
    "main",
    "ul",
    "ol",
    "table",
    "blockquote",
    "figure",
    "header",
    "footer",
    "dl",
}
_SKIPPED = {"script", "style", "noscript", "template", "svg", "nav", "head", "iframe", "form"}
_VOID = {"br", "hr", "img", "input", "meta", "link", "source", "col", "wbr", "area", "base", "embed", "track", "param"}


class _Html(HTMLParser):
    """Collects the text of a page, block by block."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.blocks: list[str] = []
        self.line: list[str] = []
        self.skipping = 0
        self.prefix = ""
        self.pre = False
        self.row: list[str] | None = None
        self.rows = 0

    def flush(self) -> None:
        text = "".join(self.line) if self.pre else re.sub(r"\s+", " ", "".join(self.line)).strip()
        self.line = []
        if text.strip():
            self.blocks.append(self.prefix + text)
        self.prefix = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _VOID:
            if tag == "br" and not self.skipping:
                self.line.append("\n" if self.pre else " ")
            return
        if tag in _SKIPPED or self.skipping:
            self.skipping += 1
        elif re.fullmatch(r"h[1-6]", tag):
            self.flush()
            self.prefix = "#" * int(tag[1]) + " "
        elif tag in ("li", "dt", "dd"):
            self.flush()
            self.prefix = "- "
        elif tag == "tr":
            self.flush()
            self.row = []
        elif tag == "pre":
            self.flush()
            self.pre = True
        elif tag in _BLOCKS and self.row is None:
            self.rows = 0 if tag == "table" else self.rows
            if self.line:
                self.flush()

    def handle_endtag(self, tag: str) -> None:
        if tag in _VOID:
            return
        if self.skipping:
            self.skipping -= 1
        elif tag in ("td", "th") and self.row is not None:
            self.row.append(re.sub(r"\s+", " ", "".join(self.line)).strip().replace("|", "\\|"))
            self.line = []
        elif tag == "tr" and self.row is not None:
            row, self.row, self.line = self.row, None, []
            if any(row):
                self.rows += 1
                self.blocks.append(_table_row(row) + (_table_rule(row) if self.rows == 1 else ""))
        elif tag == "pre":
            self.line = ["```\n", "".join(self.line).strip("\n"), "\n```"]
            self.flush()
            self.pre = False
        elif (tag in _BLOCKS or tag in ("li", "dt", "dd") or re.fullmatch(r"h[1-6]", tag)) and self.row is None:
            self.flush()

    def handle_data(self, data: str) -> None:
        if not self.skipping:
            self.line.append(data)


def _table_row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _table_rule(cells: list[str]) -> str:
    return "\n|" + " --- |" * len(cells)


def html_text(text: str) -> str:
    """The text of a page: headings, paragraphs, lists, tables; scripts, styles, forms and navigation left out."""
    page = _Html()
    page.feed(text)
    page.close()
    page.flush()
    return _joined(page.blocks)


def _joined(blocks: list[str]) -> str:
    """Blocks with an empty line between them, rows and items of one list without."""
    pieces: list[str] = []
    for before, block in zip(["", *blocks], blocks):
        tight = any(block.startswith(mark) and before.startswith(mark) for mark in ("| ", "- "))
        pieces.append(("" if not pieces else "\n" if tight else "\n\n") + block)
    return "".join(pieces) + ("\n" if pieces else "")


def _pdf(path: Path) -> str:
    try:
        import pypdf
        from pypdf.errors import PyPdfError
    except ImportError as error:
        raise UserError(f"reading {path.name} needs pypdf; install it with: pip install 'bottega[docs]'") from error
    try:
        with _quiet("pypdf"):
            reader = pypdf.PdfReader(path)
            if reader.is_encrypted and not reader.decrypt(""):
                raise Unreadable("this pdf is locked with a password; unlock it first")
            pages = [_pdf_lines(page) for page in reader.pages]
    except (PyPdfError, ValueError, KeyError, OSError) as error:
        raise Unreadable(f"not a readable pdf: {str(error) or type(error).__name__}") from error
    return pdf_text(pages)


@contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Without the warnings that a library logs about small faults it mends itself."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def _pdf_lines(page: Any) -> list[tuple[str, float]]:
    """The lines of a page, each with the height of its letters in points."""
    heights: list[tuple[str, float]] = []

    def visit(text: str, matrix: list[float], tm: list[float], font: Any, size: float) -> None:
        scale = abs(tm[3]) or abs(tm[1]) or 1.0
        heights.append((text, round(abs(size) * scale * (abs(matrix[3]) or 1.0), 1)))

    page.extract_text(visitor_text=visit)
    lines: list[tuple[str, float]] = []
    text, tallest = "", 0.0
    for piece, height in heights:
        first, *rest = piece.split("\n")
        text += first
        tallest = max(tallest, height) if first.strip() else tallest
        for more in rest:
            lines.append((text.strip(), tallest))
            text, tallest = more, height if more.strip() else 0.0
    lines.append((text.strip(), tallest))
    return [(_LIGATURE.sub(lambda match: _LIGATURES[match[0]], line), height) for line, height in lines if line]


def pdf_text(pages: list[list[tuple[str, float]]]) -> str:
    """Lines of pages, with the height of their letters, to paragraphs and headings.

    Short lines taller than the text by a fifth are headings; what repeats at the top or bottom of most pages, page
    numbers and words broken at a line's end are mended away.
    """
    weights: Counter[float] = Counter()
    for page in pages:
        for line, height in page:
            weights[height] += len(line)
    body = weights.most_common(1)[0][0] if weights else 0.0
    taller = sorted({height for height in weights if height > 1.15 * body}, reverse=True)
    repeated = _repeated(pages)
    width = _usual_width(pages)
    blocks: list[str] = []
    paragraph = ""
    for page in pages:
        for line, height in page:
            if _at_edge(line) in repeated or re.fullmatch(r"\d{1,4}|Page \d+( of \d+)?", line):
                continue
            if height in taller and len(line) < 120 and re.search(r"\w", line):
                blocks += [paragraph] if paragraph else []
                paragraph = ""
                blocks.append("#" * min(1 + taller.index(height), 6) + " " + line)
                continue
            paragraph = _continued(paragraph, line)
            if line.endswith((".", "!", "?", ":")) and len(line) < 0.8 * width:
                blocks.append(paragraph)
                paragraph = ""
    return _joined([*blocks, paragraph] if paragraph else blocks)


def _continued(paragraph: str, line: str) -> str:
    if not paragraph:
        return line
    if paragraph.endswith("-") and paragraph[-2:-1].islower() and line[:1].islower():
        return paragraph[:-1] + line
    return f"{paragraph} {line}"


def _at_edge(line: str) -> str:
    return re.sub(r"\d+", "#", line)


def _repeated(pages: list[list[tuple[str, float]]]) -> set[str]:
    """Lines at a page's edge that come back, but for their numbers, on more than half of at least three pages."""
    edges: Counter[str] = Counter()
    for page in pages:
        for line in {_at_edge(line) for line, _ in [*page[:2], *page[-2:]]}:
            edges[line] += 1
    return {line for line, count in edges.items() if len(pages) >= 3 and count > len(pages) / 2}


def _usual_width(pages: list[list[tuple[str, float]]]) -> int:
    lengths = sorted(len(line) for page in pages for line, _ in page)
    return lengths[math.ceil(0.9 * (len(lengths) - 1))] if lengths else 0


def _docx(path: Path) -> str:
    try:
        import docx
        from docx.opc.exceptions import OpcError
    except ImportError as error:
        raise UserError(
            f"reading {path.name} needs python-docx; install it with: pip install 'bottega[office]'"
        ) from error
    import zipfile

    try:
        document = docx.Document(str(path))
    except (OpcError, KeyError, ValueError, zipfile.BadZipFile, OSError) as error:
        raise Unreadable(f"not a readable docx: {str(error) or type(error).__name__}") from error
    return _joined(list(_docx_blocks(document)))


def _docx_blocks(document: Any) -> Iterator[str]:
    for item in document.iter_inner_content():
        if hasattr(item, "rows"):
            for number, row in enumerate(item.rows):
                cells = [re.sub(r"\s+", " ", cell.text).strip().replace("|", "\\|") for cell in row.cells]
                yield _table_row(cells) + (_table_rule(cells) if number == 0 else "")
            continue
        text = item.text.strip()
        style = (item.style.name if item.style is not None else "") or ""
        level = re.fullmatch(r"Heading (\d)", style)
        if not text:
            continue
        if level or style == "Title":
            yield "#" * (min(int(level[1]), 6) if level else 1) + " " + text
        else:
            yield ("- " if style.startswith("List") else "") + text
