"""The command line, with one process that kills itself in training: `torchrun ... -m tests.workshop.doomed RANK STEP run ...`.

Only in the first attempt: started again by torchrun, it lives. Left out: other deaths (many.py).
"""

from __future__ import annotations

import os
import sys

from bottega.cli import door
from tests.workshop.many import arm

if __name__ == "__main__":
    rank, step, *arguments = sys.argv[1:]
    if os.environ["RANK"] == rank and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        arm(int(step), "kill")
    sys.exit(door(arguments))
