"""Each page over HTTP: what it shows, whom it lets in, what it refuses, and that nothing sent to it breaks it.

Left out: a real browser (test_browser.py).
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import threading

import httpx2 as httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bottega.core.errors import UserError
from bottega.store import feedback, people, queue
from bottega.studio.app import ROUTES
from bottega.studio.serve import invitations, serve
from tests.studio.served import Browser, a_project, key, pair, served, somebody


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    with served(tmp_path_factory.mktemp("site") / "f.db") as (db, base):
        lead, lead_token = somebody(db, "lead", role="lead")
        anna, anna_token = somebody(db, "anna", projects=("p", "label", "fuzz"))
        of = a_project(db, tags=("wrong", "rude"))
        queue.put(db, of, [pair(n) for n in range(30)])
        yield {"db": db, "base": base, "of": of, "lead": lead_token, "anna": anna_token, "who": anna}


def test_every_route_but_the_named_ones_lets_no_stranger_in(site):
    client = httpx.Client(base_url=site["base"])
    public = set()
    for way in ROUTES:
        path = way.path.format(project="p", name="studio.css")
        reply = client.request(way.method, path, headers={"Origin": site["base"]})
        if way.method == "GET" and not way.who.endswith("program") and reply.status_code == 303:
            assert reply.headers["location"] == "/enter"
        elif reply.status_code != 401 or way.who == "all":
            public.add((way.method, way.path))
        assert "default-src 'none'" in reply.headers["content-security-policy"], path
        assert reply.headers["x-content-type-options"] == "nosniff"
    assert public == {("GET", "/assets/{name}"), ("GET", "/enter"), ("POST", "/enter")}


def test_every_form_needs_its_session_s_key_and_its_origin(site):
    anna = Browser(site["base"], site["lead"])
    for way in ROUTES:
        if way.method != "POST" or way.who.endswith("program"):
            continue
        path = way.path.format(project="p")
        assert anna.send(path, origin="https://elsewhere.example").status_code == 403
        assert anna.client.post(path, data={}).status_code == 403  # no Origin at all
        assert anna.client.post(path, data={}, headers={"Origin": "null"}).status_code == 403
        if way.who != "all":
            assert anna.send(path, form="wrong").status_code == 403
    assert anna.get("/").status_code == 200


def test_a_host_that_is_not_ours_is_refused(site):
    reply = httpx.get(site["base"] + "/enter", headers={"Host": "evil.example"})
    assert reply.status_code == 421


def test_only_leads_see_the_lead_s_pages_and_only_named_projects_are_seen(site):
    a_project(site["db"], name="secret")
    anna, lead = Browser(site["base"], site["anna"]), Browser(site["base"], site["lead"])
    assert "secret" not in anna.get("/").text and "secret" in lead.get("/").text
    assert anna.get("/work/secret").status_code == anna.get("/work/nothing").status_code == 404
    assert anna.get("/lead/p").status_code == anna.get("/people").status_code == 403
    assert lead.get("/lead/p").status_code == lead.get("/people").status_code == 200
    bearer = {"Authorization": f"Bearer {site['anna']}"}
    assert httpx.get(site["base"] + "/api/p/ratings", headers=bearer).status_code == 403
    assert httpx.get(site["base"] + "/api/secret/next", headers=bearer).status_code == 404


def test_comparing_is_blind_and_a_choice_skip_and_undo_do_what_they_say(site):
    anna = Browser(site["base"], site["anna"])
    text = anna.get("/work/p").text
    assert "model-one" not in text and "model-two" not in text and "A is better" in text
    first = anna.fields("/work/p")
    place = re.search(r'name="choice" value="(\d)" data-key="a"', text)[1]
    assert place == first["swapped"]
    anna.send("/work/p/answer", **first, choice=place, tag="rude", reason="because")
    said = feedback.judgements(site["db"], site["of"], site["who"])[-1]
    assert said.item == first["item"] and said.answer["choice"] == int(place) and said.answer["tags"] == ["rude"]
    assert said.answer["shown"] == [int(place), 1 - int(place)]
    second = anna.fields("/work/p")
    assert second["item"] != first["item"]
    anna.send("/work/p/skip", **second)
    third = anna.fields("/work/p")
    assert third["item"] not in (first["item"], second["item"])
    anna.send("/work/p/undo", **third)
    assert anna.fields("/work/p")["item"] == second["item"]
    anna.send("/work/p/undo", **anna.fields("/work/p"))
    again = anna.get("/work/p").text
    assert f'value="{first["item"]}"' in again and "because" in again and 'aria-current="true"' in again


def test_a_double_click_over_http_is_one_row(site):
    anna = Browser(site["base"], site["anna"])
    fields = anna.fields("/work/p")
    before = len(feedback.since(site["db"], site["of"])[0])
    for seconds in ("1.0", "1.2"):
        assert anna.send("/work/p/answer", **(fields | {"seconds": seconds}), choice="0").status_code == 200
    assert len(feedback.since(site["db"], site["of"])[0]) == before + 1
    assert anna.send("/work/p/answer", **fields, choice="1").status_code == 409


LABELLING = {
    "rate": ({}, {"prompt": [{"role": "user", "content": "q"}], "answers": ["fine"]}, {"score": "4"}, {"score": 4}),
    "edit": ({}, {"answers": ["was"]}, {"text": "is\r\nnow"}, {"text": "is\nnow"}),
    "class": (
        {"labels": ("spam", "ham")},
        {"text": "x", "given": {"labels": ["ham"]}},
        {"label": "spam"},
        {"labels": ["spam"]},
    ),
    "span": (
        {"labels": ("person",)},
        {"words": ["Anna", "sang"], "given": {"spans": [[1, 1, "person"]]}},
        {"spans": "1 person"},
        {"spans": [[0, 0, "person"]]},
    ),
    "write": ({}, {"text": "Say hello", "given": {"text": "proposed"}}, {"text": "hello"}, {"text": "hello"}),
}


@pytest.mark.parametrize("kind", sorted(LABELLING))
def test_each_kind_of_question_is_shown_with_its_proposal_and_kept(site, kind):
    more, item, sent, kept = LABELLING[kind]
    of = a_project(site["db"], kind, name=f"a-{kind}", **more)
    queue.put(site["db"], of, [item])
    lead = Browser(site["base"], site["lead"])
    page = lead.get(f"/work/{of.name}").text
    shown = {
        "rate": "fine",
        "edit": "was</textarea>",
        "class": "proposed: ham",
        "span": "2-2 person",
        "write": "proposed",
    }
    assert shown[kind] in page
    reply = lead.send(f"/work/{of.name}/answer", **lead.fields(f"/work/{of.name}"), **sent)
    assert reply.status_code == 200 and "Nothing left for you" in reply.text
    (said,) = feedback.judgements(site["db"], of)
    assert {name: said.answer[name] for name in kept} == kept
    assert lead.get(f"/lead/{of.name}").status_code == 200


def test_texts_of_models_are_escaped_everywhere(site):
    bad = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'"
    of = a_project(site["db"], name="escape", tags=("<b>tag</b>",), instructions=bad)
    queue.put(
        site["db"],
        of,
        [{"prompt": [{"role": bad, "content": bad}], "answers": [{"text": bad, "source": bad}, "other"]}],
    )
    lead = Browser(site["base"], site["lead"])
    fields, page = lead.fields("/work/escape"), lead.get("/work/escape").text
    lead.send("/work/escape/answer", **fields, choice="0", reason=bad, tag="<b>tag</b>")
    for text in (page, lead.get("/lead/escape").text):
        assert "<script>alert" not in text and "<img" not in text and "<b>tag" not in text
        assert "http://" not in text and "https://" not in text  # nothing from elsewhere


def test_a_lead_invites_and_ends_people_by_the_page(site):
    lead = Browser(site["base"], site["lead"])
    form = re.search(r'name="form" value="([^"]+)"', lead.get("/people").text)[1]
    page = lead.send("/people", form=form, name="newcomer", role="annotator", project="p").text
    token = re.search(r'id="token-of">([^<]+)<', page)[1]
    assert Browser(site["base"], token).get("/work/p").status_code == 200
    assert token not in lead.get("/people").text
    who = next(one for one in people.everybody(site["db"]) if one.name == "newcomer")
    lead.send("/people/end", form=form, id=who.id)
    assert people.by_token(site["db"], token) is None
    assert lead.send("/people", form=form, name="<b>", role="annotator").status_code == 400
    assert Browser(site["base"]).send("/enter", token=token).status_code == 401


def test_the_session_cookie_is_out_of_reach_of_scripts_and_other_sites(site):
    reply = httpx.post(site["base"] + "/enter", data={"token": site["anna"]}, headers={"Origin": site["base"]})
    cookie = reply.headers["set-cookie"].lower()
    assert "httponly" in cookie and "samesite=strict" in cookie and reply.status_code == 303
    assert site["anna"] not in cookie


def test_a_program_puts_samples_answers_and_polls(site):
    of = a_project(site["db"], name="live")
    lead = httpx.Client(base_url=site["base"], headers={"Authorization": f"Bearer {site['lead']}"})
    ids = lead.post("/api/live/items", json={"items": [pair(1), pair(2)], "priorities": [0.0, 1.0]}).json()["ids"]
    cursor = lead.get("/api/live/ratings").json()["cursor"]
    asked = lead.get("/api/live/next").json()
    assert asked["item"] == ids[1] and "source" not in json.dumps(asked)
    sent = {"item": asked["item"], "key": key(), "answer": {"choice": 0}}
    assert lead.post("/api/live/answers", json=sent).json() == {"new": True}
    assert lead.post("/api/live/answers", json=sent).json() == {"new": False}
    found = lead.get(f"/api/live/ratings?since={cursor}").json()
    assert [event["body"]["choice"] for event in found["events"]] == [0]
    assert lead.get(f"/api/live/ratings?since={found['cursor']}").json() == {"events": [], "cursor": found["cursor"]}
    assert of.name == "live"


def test_two_hundred_people_at_once_over_http_lose_nothing(site):
    of = a_project(site["db"], name="crowd")
    ids = queue.put(site["db"], of, [pair(n) for n in range(200)])
    codes, gate = [], threading.Barrier(200)

    def one(n):
        gate.wait()
        sent = {"item": ids[n], "key": f"crowd-key-{n}", "answer": {"choice": n % 2}}
        reply = httpx.post(
            site["base"] + "/api/crowd/answers",
            json=sent,
            timeout=60,
            headers={"Authorization": f"Bearer {site['lead']}"},
        )
        codes.append(reply.status_code)

    threads = [threading.Thread(target=one, args=(n,)) for n in range(200)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert codes == [200] * 200 and len(feedback.since(site["db"], of)[0]) == 200


@pytest.mark.parametrize("since", ["-1", "1e9", "x", "9" * 40, "١"])
def test_cursors_are_bounded(site, since):
    headers = {"Authorization": f"Bearer {site['lead']}"}
    assert httpx.get(site["base"] + "/api/p/ratings", params={"since": since}, headers=headers).status_code == 400


def test_too_large_a_body_is_refused_before_it_is_read(site):
    headers = {"Authorization": f"Bearer {site['anna']}"}
    reply = httpx.post(site["base"] + "/api/p/answers", content=b"x" * 1_000_001, headers=headers)
    assert reply.status_code == 413


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
FIELDS = st.dictionaries(
    st.sampled_from(
        ["item", "key", "choice", "score", "text", "label", "spans", "tag", "reason", "seconds", "id", "name", "role"]
    ),
    st.text(max_size=30)
    | st.sampled_from(["0", "nan", "inf", "-1", "9" * 30, "\x00", "\ud800".encode("utf-8", "replace").decode()]),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    way=st.sampled_from([way for way in ROUTES if way.path != "/leave"]),
    body=JSON,
    fields=FIELDS,
    name=st.text(max_size=12),
)
def test_whatever_is_sent_there_is_no_server_error(site, way, body, fields, name):
    client = httpx.Client(base_url=site["base"], timeout=30)
    path = way.path.format(project="fuzz" if len(name) % 2 else "p", name="x")
    if way.who.endswith("program"):
        shape = (
            body if len(fields) % 2 else {"items": body, "item": body, "key": name, "answer": body, "priorities": body}
        )
        content = json.dumps(shape, default=str)
        reply = client.request(way.method, path, content=content, headers={"Authorization": f"Bearer {site['lead']}"})
    else:
        browser = Browser(site["base"], site["lead"])
        form = re.search(r'name="form" value="([^"]+)"', browser.get("/").text)[1]
        if way.method == "POST":
            reply = browser.send(path, **(fields | {"form": form}))
        else:
            reply = browser.client.get(path, params={"since": name, "q": name})
    assert reply.status_code < 500, (way.path, reply.text[:300])


def test_what_was_answered_outlives_kill_minus_nine(tmp_path):
    """A server process says 200 to an answer and is killed at once; the answer is in its store."""
    store = tmp_path / "f.db"
    from bottega.store.schema import open_store

    db = open_store(store)
    of = a_project(db)
    (item,) = queue.put(db, of, [pair()])
    _, token = somebody(db)
    script = (
        "import sys, uvicorn; from bottega.store.schema import open_store; from bottega.studio.app import build\n"
        "server = uvicorn.Server(uvicorn.Config(build(open_store(sys.argv[1])), port=0, log_level='error', lifespan='off'))\n"
        "import asyncio\n"
        "async def main():\n"
        "    task = asyncio.create_task(server.serve())\n"
        "    while not server.started: await asyncio.sleep(0.01)\n"
        "    print(server.servers[0].sockets[0].getsockname()[1], flush=True)\n"
        "    await task\n"
        "asyncio.run(main())"
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(store)], stdout=subprocess.PIPE, text=True)
    try:
        port = process.stdout.readline().strip()
        reply = httpx.post(
            f"http://127.0.0.1:{port}/api/p/answers",
            json={"item": item, "key": "the-only-key", "answer": {"choice": 1}},
            headers={"Authorization": f"Bearer {token}"},
        )
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert reply.json() == {"new": True}
    assert [event.id for event in feedback.since(open_store(store), of)[0]] == ["the-only-key"]


def test_serving_other_machines_needs_a_name_and_protection_of_the_tokens(tmp_path):
    store = str(tmp_path / "f.db")
    with pytest.raises(UserError, match="--allow-host"):
        serve(store=store, host="0.0.0.0")
    with pytest.raises(UserError, match="--certificate"):
        serve(store=store, host="0.0.0.0", allow_host=("rate.example",))


def test_the_first_start_makes_a_lead_and_later_ones_nobody(site):
    from bottega.store.schema import open_store

    db = open_store(site["db"].name + ".second")
    assert list(invitations(db, ["anna", "ben:lead"])) == ["lead", "anna", "ben"]
    assert invitations(db, []) == {} and list(invitations(db, [], ["anna"])) == ["anna"]
    with pytest.raises(UserError, match="already"):
        invitations(db, ["anna"])
