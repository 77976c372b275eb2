"""Documents to text with their headings: txt, md, html, pdf, docx.

Left out: pictures, scanned pages (no OCR), footnotes of docx files.
"""

from __future__ import annotations

from pathlib import Path

SUFFIXES = (".txt", ".md", ".markdown", ".html", ".htm", ".pdf", ".docx")


class Unreadable(Exception):
    """A document that cannot be read, in one sentence."""


def read_text(path: Path) -> str:
    """The text of a document."""
    raw = path.read_bytes()
    try:
        return raw.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise Unreadable(f"byte {raw[error.start]:#04x} at {error.start + 1} is not utf-8 text") from error
