"""Templates to pages: every text is escaped, whoever wrote it.

Left out: templates of strangers; these are ours (templates/*.html), rendered in Jinja's sandbox all the same.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment
from starlette.responses import HTMLResponse

from bottega.studio.guard import Ask

HERE = Path(__file__).parent


@lru_cache(maxsize=1)
def _environment() -> ImmutableSandboxedEnvironment:
    return ImmutableSandboxedEnvironment(
        loader=jinja2.FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def page(name: str, ask: Ask, *, status: int = 200, **values: Any) -> HTMLResponse:
    """A page from its template; `who` and `form_key` are there for all."""
    template = _environment().get_template(f"{name}.html")
    return HTMLResponse(template.render(who=ask.who, form_key=ask.form_key, **values), status)
