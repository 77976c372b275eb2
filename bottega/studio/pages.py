"""The pages of an annotator: entering, the projects, the next question, and what becomes of an answer, a skip or an undo.

Left out: what only leads see (lead.py), programs (api.py). A page never holds more than its person may know: no source of an answer,
nobody else's answer, no sign of a gold question.
"""

from __future__ import annotations

import secrets
from typing import Any

from starlette.responses import RedirectResponse, Response

from bottega.store import people, queue
from bottega.store.feedback import answer, progress, skip, undo
from bottega.store.kinds import TITLES, core
from bottega.store.queue import Project
from bottega.studio.forms import answer_of, show_spans
from bottega.studio.guard import COOKIE, Ask, Refused
from bottega.studio.render import page


def entrance(ask: Ask) -> Response:
    """Where a token is asked for."""
    return page("enter", ask, wrong=False)


def enter(ask: Ask) -> Response:
    """A token for a session."""
    cookie = people.enter(ask.db, ask.one("token").strip())
    if cookie is None:
        return page("enter", ask, status=401, wrong=True)
    answered = RedirectResponse("/", 303)
    answered.set_cookie(
        COOKIE, cookie, max_age=people.SESSION_S, httponly=True, samesite="strict", secure=ask.secure, path="/"
    )
    return answered


def leave(ask: Ask) -> Response:
    """The end of a session."""
    people.leave(ask.db, ask.cookie)
    answered = RedirectResponse("/enter", 303)
    answered.delete_cookie(COOKIE, path="/")
    return answered


def home(ask: Ask) -> Response:
    """The projects that this person sees, with their progress."""
    shown = [(one, progress(ask.db, one, ask.person)) for one in queue.projects(ask.db, ask.person)]
    return page("home", ask, projects=shown, titles=TITLES)


def visible(ask: Ask) -> Project:
    """The project of the path; one that may not be seen is as one that is not there."""
    found = next((one for one in queue.projects(ask.db, ask.person) if one.name == ask.path["project"]), None)
    if found is None:
        raise Refused(404, "There is no such project.")
    return found


def work(ask: Ask) -> Response:
    """The next question for this person, or that there is none."""
    of = visible(ask)
    asked = queue.ask(ask.db, of, ask.person)
    far = progress(ask.db, of, ask.person)
    if asked is None:
        return page("done", ask, of=of, far=far)
    start = asked.before or asked.body.get("given")
    answers = list(enumerate(asked.body.get("answers", ())))
    if asked.swapped:
        answers.reverse()
    return page(
        f"ask_{of.kind}",
        ask,
        of=of,
        far=far,
        title=TITLES[of.kind],
        item=asked.item,
        body=asked.body,
        answers=answers,
        swapped=asked.swapped,
        start=start or {},
        begun=_begun(of.kind, asked.body, start),
        key=secrets.token_urlsafe(18),
        can_undo=far.mine > 0 or asked.before is not None,
    )


def _begun(kind: str, body: dict[str, Any], start: dict[str, Any] | None) -> Any:
    """What stands in the form before anybody touches it: a pre-label, or what this person had said."""
    if kind == "edit":
        return start["text"] if start else body["answers"][0]["text"]
    if kind == "write":
        return start["text"] if start else ""
    if kind == "span":
        return show_spans(start["spans"]) if start else ""
    return core(kind, start) if start else None


def answered(ask: Ask) -> Response:
    """Keep an answer, then the next question."""
    of = visible(ask)
    answer(ask.db, of, ask.person, ask.one("item"), answer_of(of.kind, ask.form), ask.one("key"))
    return RedirectResponse(f"/work/{of.name}", 303)


def skipped(ask: Ask) -> Response:
    """Keep a skip, then the next question."""
    of = visible(ask)
    skip(ask.db, of, ask.person, ask.one("item"), ask.one("key"), reason=ask.one("reason"))
    return RedirectResponse(f"/work/{of.name}", 303)


def undone(ask: Ask) -> Response:
    """Take the last answer back, then the same question again."""
    of = visible(ask)
    undo(ask.db, of, ask.person, ask.one("key"))
    return RedirectResponse(f"/work/{of.name}", 303)
