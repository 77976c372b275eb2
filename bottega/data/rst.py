"""reStructuredText to the text of a page, through docutils.

Left out: what only Sphinx knows. The words of a directive or a role that docutils does not know are kept as they stand;
no file is included and nothing raw is passed on, so that a document reads nothing but itself.
"""

from __future__ import annotations

from bottega.core.errors import UserError
from bottega.data.documents import html_text


def rst_text(text: str) -> str:
    """The text of a reStructuredText document: headings, paragraphs, lists, tables, code.

    Raises:
        UserError: docutils is not installed.
    """
    try:
        from docutils import nodes
        from docutils.core import publish_doctree, publish_from_doctree
    except ImportError as error:
        raise UserError("reading .rst needs docutils; install it with: pip install 'bottega[docs]'") from error
    settings = {
        "file_insertion_enabled": False,
        "raw_enabled": False,
        "report_level": 1,
        "halt_level": 5,
        "warning_stream": False,
        "doctitle_xform": False,
        "initial_header_level": 1,
        "embed_stylesheet": False,
        "syntax_highlight": "none",
        "math_output": "LaTeX",
        "_disable_config": True,
    }
    tree = publish_doctree(text, settings_overrides=settings)
    tree.transform_messages = []  # errors within a line: their words stand in the text
    for message in list(tree.findall(nodes.system_message)):
        kept = [nodes.paragraph("", _bare(one.astext())) for one in message.findall(nodes.literal_block)]
        message.parent.replace(message, kept)
    page = publish_from_doctree(tree, writer="html5", settings_overrides=settings).decode("utf-8")
    return html_text(page)


def _bare(directive: str) -> str:
    """The words of a directive that is not known: its argument and its content, without its name and options."""
    first, *rest = directive.split("\n")
    words = [first.partition("::")[2].strip(), *(line.strip() for line in rest)]
    return " ".join(word for word in words if word and not word.startswith(":"))
