"""The invented world: text with exact ground truth for the bundled base model, its probes, and the demo's journey."""

from .corpus import MIXTURES, documents, old_world_text, write_corpus, write_jsonl
from .probes import arithmetic_probes, fact_probes, is_right, reading_probes
from .render import CHAT_TEMPLATE, SPECIAL_TOKENS, chat, first_answer, plain, render

__all__ = [
    "CHAT_TEMPLATE",
    "MIXTURES",
    "SPECIAL_TOKENS",
    "arithmetic_probes",
    "chat",
    "documents",
    "fact_probes",
    "first_answer",
    "is_right",
    "old_world_text",
    "plain",
    "reading_probes",
    "render",
    "write_corpus",
    "write_jsonl",
]
