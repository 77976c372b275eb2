"""One POST with a run's numbers when it ends, to the address that the recipe names.

Left out: retries; a run that ended well has ended well whether anybody heard it or not.
"""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from typing import Any

from bottega.workshop.recipe_parts import Notify

TIMEOUT_S = 10


def notify(whom: Notify, result: Mapping[str, Any], note: Callable[[str], None]) -> None:
    """POST `result` as JSON; what goes wrong is said in one line and changes nothing."""
    if os.environ.get("HF_HUB_OFFLINE", "") in ("1", "true", "TRUE", "yes", "ON"):
        note(f"offline: {whom.url} was not told")
        return
    if not whom.url.startswith(("https://", "http://")):
        note(f"notify.url {whom.url!r} is no http address; nobody was told")
        return
    headers = {"Content-Type": "application/json"}
    if whom.token is not None:
        headers["Authorization"] = f"Bearer {whom.token.reveal()}"
    request = urllib.request.Request(whom.url, data=json.dumps(result).encode(), headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
            note(f"told {whom.url} ({answer.status})")
    except (urllib.error.URLError, OSError, ValueError) as error:
        note(f"{whom.url} could not be told: {error}")
