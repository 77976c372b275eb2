"""Each page used in a real browser, by keys, and on a screen as small as a phone's.

Left out: installing Chromium (tests/servers.sh); the tests skip by name where there is none.
"""

from __future__ import annotations

import os
import secrets
import shutil

import pytest

from bottega.store import feedback, queue
from tests.studio.served import a_project, pair, served, somebody

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    with served(tmp_path_factory.mktemp("browser") / "f.db") as (db, base):
        who, token = somebody(db, "lead", role="lead")
        yield db, base, who, token


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("Chromium is not installed (tests/servers.sh installs it)")
    with sync_api.sync_playwright() as play:
        flags = ["--no-sandbox"] if os.getuid() == 0 else []
        started = play.chromium.launch(executable_path=chromium, args=flags)
        yield started
        started.close()


@pytest.fixture(params=["desk", "phone"])
def page(request, site, browser):
    """A page that entered by its link; whatever the browser complains of fails the test."""
    _, base, _, token = site
    size = {"width": 1200, "height": 800} if request.param == "desk" else {"width": 375, "height": 667}
    context = browser.new_context(viewport=size, has_touch=request.param == "phone")
    complaints, elsewhere = [], []
    context.on(
        "console", lambda message: complaints.append(message.text) if message.type in ("error", "warning") else None
    )
    context.on("weberror", lambda error: complaints.append(str(error.error)))
    context.on("request", lambda sent: elsewhere.append(sent.url) if not sent.url.startswith(base) else None)
    opened = context.new_page()
    opened.goto(f"{base}/enter#token={token}")
    opened.wait_for_url(f"{base}/")
    assert "token" not in opened.evaluate("location.href")
    opened.complaints = complaints
    yield opened
    assert opened.evaluate("document.documentElement.scrollWidth <= innerWidth"), "the page is wider than its screen"
    # Chromium asks for a favicon on its own; everything else that is not there would be ours
    assert not [words for words in complaints if "favicon" not in words and "404" not in words] and not elsewhere
    context.close()


def fresh(site, request, kind, items, **settings):
    name = f"{kind}-{secrets.token_hex(4)}"
    of = a_project(site[0], kind, name=name, **settings)
    queue.put(site[0], of, items)
    return of


def send(page, key):
    """Press a key that sends the form, when the page has settled (a key at once would be a double press)."""
    page.wait_for_timeout(400)
    with page.expect_navigation():
        page.keyboard.press(key)


def said(site, of):
    return [one.answer for one in feedback.judgements(site[0], of)]


def test_comparing_by_keys_with_reasons_skip_and_undo(site, page, request):
    of = fresh(site, request, "compare", [pair(n) for n in range(4)], tags=("rude", "wrong"))
    page.goto(f"{site[1]}/work/{of.name}")
    page.keyboard.press("r")
    page.keyboard.press("Space")  # ticks the first reason
    page.fill("#reason", "a and b are typed, not chosen")
    page.keyboard.press("Escape")
    left = page.inner_text(".side >> nth=0")
    send(page, "a")
    answer = said(site, of)[0]
    assert answer["tags"] == ["rude"] and answer["reason"].startswith("a and b") and answer["seconds"] >= 0
    assert ("yes" in left) == (answer["choice"] == 0)
    send(page, "s")
    send(page, "t")
    send(page, "u")
    assert page.get_attribute("progress", "value") == "1"
    send(page, "n")
    assert [one["choice"] for one in said(site, of)][1:] == ["neither"]


def test_a_double_click_on_a_button_is_one_answer(site, page, request):
    of = fresh(site, request, "compare", [pair(n) for n in range(20, 23)])
    page.goto(f"{site[1]}/work/{of.name}")
    page.wait_for_timeout(400)
    page.dblclick("button[data-key=b]")
    page.wait_for_timeout(400)
    assert len(said(site, of)) == 1


def test_rating_by_a_digit(site, page, request):
    of = fresh(site, request, "rate", [{"answers": [f"fine {request.node.callspec.id}"]}], scale=7)
    page.goto(f"{site[1]}/work/{of.name}")
    send(page, "6")
    assert said(site, of)[0]["score"] == 6 and "Nothing left" in page.inner_text("main")


@pytest.mark.parametrize("kind", ["edit", "write"])
def test_texts_are_written_and_sent_by_ctrl_enter(site, page, request, kind):
    item = {"prompt": [{"role": "user", "content": "Say hello"}]} | ({"answers": ["helo"]} if kind == "edit" else {})
    of = fresh(site, request, kind, [item])
    page.goto(f"{site[1]}/work/{of.name}")
    assert page.input_value("#text") == ("helo" if kind == "edit" else "")
    page.fill("#text", "s: hello\nu")  # letters that are keys elsewhere
    send(page, "Control+Enter")
    assert said(site, of)[0]["text"] == "s: hello\nu"


def test_a_class_by_its_digit_with_the_proposal_shown(site, page, request):
    item = {"text": "buy now", "given": {"labels": ["ham"]}}
    of = fresh(site, request, "class", [item], labels=("ham", "spam"))
    page.goto(f"{site[1]}/work/{of.name}")
    assert page.inner_text("[aria-current=true]").startswith("ham")
    send(page, "2")
    assert said(site, of)[0]["labels"] == ["spam"]


def test_several_classes_by_digits(site, page, request):
    of = fresh(site, request, "class", [{"text": "both"}], labels=("ham", "spam", "other"), several=True)
    page.goto(f"{site[1]}/work/{of.name}")
    page.keyboard.press("1")
    page.keyboard.press("3")
    send(page, "Control+Enter")
    assert said(site, of)[0]["labels"] == ["ham", "other"]


def test_words_are_marked_by_keys_and_by_taps(site, page, request):
    item = {"words": "Anna Rossi sang in Turku .".split(), "given": {"spans": [[2, 2, "place"]]}}
    of = fresh(site, request, "span", [item], labels=("person", "place"))
    page.goto(f"{site[1]}/work/{of.name}")
    page.keyboard.press("Shift+ArrowRight")
    page.keyboard.press("1")  # words 1-2: person
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Backspace")  # the proposal on word 3 was wrong
    page.click(".word >> nth=4")
    page.click("[data-label=place]")
    assert page.input_value("#spans") == "1-2 person\n5-5 place"
    send(page, "Control+Enter")
    assert said(site, of)[0]["spans"] == [[0, 1, "person"], [4, 4, "place"]]


def test_a_lead_sees_how_it_stands_and_invites(site, page, request):
    of = fresh(site, request, "compare", [pair(n) for n in range(30, 32)])
    page.goto(f"{site[1]}/lead/{of.name}")
    assert "how it stands" in page.inner_text("h1")
    page.click("text=People")
    page.fill("#name", f"guest {request.node.callspec.id}")
    page.click("text=Make a token")
    assert len(page.inner_text("#token-of")) > 40
