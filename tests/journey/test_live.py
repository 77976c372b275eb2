"""People in the loop (row A11), as a team would run it: a server of pages, GRPO that asks it while it trains, and an annotator with a
hidden preference who answers over HTTP whenever there is something to answer.

Left out: what goes wrong on the way (tests/workshop/test_live_http.py), bit-exact kills (tests/workshop/test_live.py): here people are
as late as they are.
"""

from __future__ import annotations

import threading
import time

import httpx2 as httpx
import pytest

from bottega.core import rundir
from bottega.demo.world.journey import is_polite
from bottega.grade import intervals
from bottega.store import people
from bottega.workshop.stages import run
from tests.journey.test_manners import Stands, manners, sampled_on, stage  # noqa: F401  (manners is a fixture)
from tests.studio.served import served


class Annotator(threading.Thread):
    """Answers what the server has to ask, as `is_polite` decides, until it is told to go home."""

    def __init__(self, base: str, token: str) -> None:
        super().__init__(daemon=True)
        self.base, self.token, self.home, self.answered = base, token, threading.Event(), 0

    def run(self) -> None:
        headers = {"Authorization": f"Bearer {self.token}"}
        with httpx.Client(base_url=f"{self.base}/api/live", headers=headers, timeout=30) as client:
            while not self.home.is_set():
                reply = client.get("/next")
                asked = reply.json() if reply.status_code == 200 else {}
                if not asked.get("item"):
                    time.sleep(0.05)
                    continue
                sides = [is_polite(one["text"]) for one in asked["body"]["answers"]]
                choice = "tie" if sides[0] == sides[1] else int(sides[1])
                sent = {"item": asked["item"], "key": f"annotator-{self.answered:06d}", "answer": {"choice": choice}}
                assert client.post("/answers", json=sent).status_code == 200
                self.answered += 1


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_model_moves_towards_what_a_person_likes_and_keeps_what_was_known(manners, tmp_path, monkeypatch, seed):  # noqa: F811
    out, began = tmp_path / "run", time.process_time()
    with served(tmp_path / "people.db") as (db, base):
        _, lead = people.add(db, "lead", role="lead")
        _, token = people.add(db, "anna")
        monkeypatch.setenv("LEAD", lead)
        anna = Annotator(base, token)
        anna.start()
        live = f"live.feedback={{url: '{base}', token: '${{env:LEAD}}', ask: compare, samples: 8, refresh: 3, refresh_steps: 30, "
        run(manners / "live.yaml", [f"seed={seed}", live + "refresh_lr: 5e-4, again: 0}"], out=out, quiet=True)
        anna.home.set()
        anna.join(10)
    rounds = [line["live"] for line in rundir.read_jsonl(next(out.glob("stages/*-live/rounds.jsonl")))]
    assert (
        anna.answered > 100
        and sum(one["heard"] for one in rounds) > 80
        and sum(bool(one["learned"]) for one in rounds) > 5
    )
    tasks, start = manners / "data" / "tasks", stage(out, "tune") / "result"
    before, after = (sampled_on(model, tasks, seed) for model in (start, stage(out, "live") / "result"))
    polite = intervals.paired(before.polite, after.polite, seed=seed)
    lost = intervals.paired(after.old, before.old, seed=seed)
    print(
        f"seed {seed}: {anna.answered} answers, polite {polite.value:+.3f} [{polite.low:.3f}, {polite.high:.3f}], ",
        end="",
    )
    print(
        f"old questions lost {lost.value:.3f} [{lost.low:.3f}, {lost.high:.3f}], {time.process_time() - began:.0f} CPU s"
    )
    assert polite.low > 0.1 and lost.high < 0.1
    assert "People in the loop" in (out / "report.html").read_text()
