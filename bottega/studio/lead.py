"""The pages of a lead: how a project stands, and who may take part.

Left out: the numbers (workshop/feedback_stats.py).
"""

from __future__ import annotations

from starlette.responses import RedirectResponse, Response

from bottega.core.errors import UserError
from bottega.store import people, queue
from bottega.studio.guard import Ask
from bottega.studio.pages import visible
from bottega.studio.render import page
from bottega.workshop.feedback_stats import project_stats


def standing(ask: Ask) -> Response:
    """Progress, agreement, gold questions and people of one project, as they are now."""
    of = visible(ask)
    return page("lead", ask, of=of, stats=project_stats(ask.db, of))


def staff(ask: Ask) -> Response:
    """Everybody who may enter."""
    return page(
        "people", ask, everybody=people.everybody(ask.db), projects=queue.projects(ask.db), new=None, roles=people.ROLES
    )


def invite(ask: Ask) -> Response:
    """A new annotator; the answer shows their token this once."""
    chosen = [one.name for one in queue.projects(ask.db) if one.name in ask.form.get("project", ())]
    if ask.form.get("project") and len(chosen) != len(set(ask.form["project"])):
        raise UserError("one of the projects is not there")
    who, token = people.add(ask.db, ask.one("name").strip(), role=ask.one("role"), projects=chosen or ["*"])
    return page(
        "people",
        ask,
        everybody=people.everybody(ask.db),
        projects=queue.projects(ask.db),
        new=(who.name, token),
        roles=people.ROLES,
    )


def dismiss(ask: Ask) -> Response:
    """End somebody's token; what they said stays."""
    if ask.one("id") == ask.person.id:
        raise UserError("you cannot end your own token here; ask another lead")
    people.revoke(ask.db, ask.one("id"))
    return RedirectResponse("/people", 303)
