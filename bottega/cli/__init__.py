"""The door: a static table of verbs (table.py), exit codes (door.py), and nothing heavy at import.

Left out: what the verbs do; each is a function of the library. A verb is added as one line of the table and one command in the
verbs_*.py of its family.
"""

from bottega.cli import (
    verbs_audit,
    verbs_data,
    verbs_feedback,
    verbs_give,
    verbs_lab,
    verbs_leaves,
    verbs_runs,
    verbs_synth,
    verbs_tokenizer,
    verbs_train,
    verbs_use,
)
from bottega.cli.door import door, main
from bottega.cli.parts import cli
from bottega.cli.table import VERBS
from bottega.workshop.interrupt import Terminated

__all__ = [
    "VERBS",
    "Terminated",
    "cli",
    "door",
    "main",
    "verbs_audit",
    "verbs_data",
    "verbs_feedback",
    "verbs_give",
    "verbs_lab",
    "verbs_leaves",
    "verbs_runs",
    "verbs_synth",
    "verbs_tokenizer",
    "verbs_train",
    "verbs_use",
]
