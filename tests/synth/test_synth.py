"""The verb `synth` from a taxonomy to its files, against a real HTTP server that answers well, badly, or not at all."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter

import pytest

from bottega.core.errors import UserError
from bottega.core.journal import Journal, key
from bottega.data.formats import samples as samples_of
from bottega.synth.pipeline_report import variety
from bottega.workshop.synthesis import synth, synth_text
from tests.synth.leaves import KNOWLEDGE, put
from tests.synth.teachers import answer, knowledge_leaf, rows, server, skill_leaf
from tests.synth.test_leafdocs import run_git

OWN = ("train.jsonl", "test.jsonl", "rejects.jsonl", "funnel.json", "report.json")


def make(taxonomy, out, url, **more):
    options = {"documents": "contexts", "samples": 2, "tries": 2, "timeout": 5.0, "quiet": True, **more}
    return synth(str(taxonomy), teacher=url, teacher_model="m", out=str(out), **options)


def content(out, names=OWN):
    return {name: (out / name).read_bytes() for name in names}


@pytest.fixture
def taxonomy(tmp_path):
    knowledge_leaf(tmp_path / "tax", "observatory")
    skill_leaf(tmp_path / "tax", "synonyms")
    return tmp_path / "tax"


def test_rows_rejects_funnel_and_manifest_are_written_and_sum(taxonomy, tmp_path):
    with server() as teacher:
        result = make(taxonomy, tmp_path / "out", teacher.url)
    out = tmp_path / "out"
    train, rejects, test = (rows(out / name) for name in ("train.jsonl", "rejects.jsonl", "test.jsonl"))
    assert result["exit_code"] == 0 and len(train) == 4 == result["kept"]
    funnel = json.loads((out / "funnel.json").read_text())
    for leaf in funnel["leaves"]:
        made = sum(step["made"] for step in leaf["steps"])
        assert leaf["asked"] + made == leaf["kept"] + leaf["rejected"] + leaf["unused"]
        assert leaf["kept"] == sum(row["metadata"]["leaf"] == leaf["leaf"] for row in train) == 2
        assert leaf["rejected"] == sum(row["leaf"] == leaf["leaf"] for row in rejects)
    assert all({"stage", "reason", "score", "row"} <= set(row) for row in rejects)
    assert all(
        [turn["role"] for turn in row["messages"]] == ["user", "assistant"] and row["unmask"] is False for row in train
    )
    about = train[0]["metadata"]
    assert about["teacher"].endswith("#m") and about["contributor"] in ("ada", "bo") and about["licences"]
    other = [row for row in test if row["metadata"].get("paraphrase")]
    assert len(test) - len(other) == 4, "one of five seeds of each leaf is held out: three questions and one"
    assert 0 < len(other) <= 8 and {row["messages"][1]["content"] for row in other} <= {
        row["messages"][1]["content"] for row in test if not row["metadata"].get("paraphrase")
    }
    numbers = json.loads((out / "report.json").read_text())["paraphrases"]
    assert (
        sum(one["kept"] for one in numbers.values()) == len(other)
        and sum(one["asked"] for one in numbers.values()) == 4
    )
    asked = {turn["messages"][0]["content"] for turn in test}
    assert not any(one in row["messages"][0]["content"] for one in asked for row in train)
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["rows"]["train"] == 4 and len(manifest["files"]["train.jsonl"]["sha256"]) == 64
    assert "4 rows kept" in synth_text(result) and not (out / ".parts").exists()
    assert len(list(samples_of(str(out / "train.jsonl")))) == 4


def test_held_out_seeds_are_asked_in_other_words_that_no_training_row_holds(tmp_path):
    """Wordings that are the seed's own, have other numbers, or that the judge calls another question go, each with its reason; what is
    left is in test.jsonl with the seed's answer, and a training row that is one of them goes."""
    skill_leaf(tmp_path / "tax", "words")
    said: list[str] = []

    def words(request):
        asked = request["messages"][-1]["content"]
        if "other ways" in asked:
            original = re.search(r"\[Start of Question\]\n(.*?)\n", asked)[1]
            number = original.split()[-1]
            ways = [
                original,
                "Which word means swift number 77?",
                f"Who was swift number {number}",
                f"Name a quick word for swift {number}",
            ]
            said.append(ways[-1])
            return "\n".join(f"[Start of Question]\n{way}\n[End of Question]" for way in ways)
        if "Other Question" in asked:
            same = "Who was" not in asked.split("[Start of Other Question]")[-1]
            verdict = "YES" if same else "NO"
            return f"[Start of Explanation]\nSo.\n[End of Explanation]\n[Start of Verdict]\n{verdict}\n[End of Verdict]"
        if said and said[-1] in asked and "[Start of Response]\n..." in asked:
            return "[Start of Response]\nFleet is such a word.\n[End of Response]"
        if said and "new tasks" in asked:
            return f"[Start of Question]\n{said[-1]}\n[End of Question]\n" + answer(request)
        return answer(request)

    with server(answer=words) as teacher:
        synth(
            str(tmp_path / "tax"),
            teacher=teacher.url,
            teacher_model="m",
            out=str(tmp_path / "out"),
            samples=40,
            quiet=True,
        )
    test = rows(tmp_path / "out" / "test.jsonl")
    assert [row["messages"][0]["content"] for row in test[1:]] == said[:1] and test[1]["metadata"]["paraphrase"]
    assert test[1]["messages"][1] == test[0]["messages"][1]
    gone = {row["reason"] for row in rows(tmp_path / "out" / "test_rejects.jsonl")}
    assert gone == {"the same words", "other numbers", "same_question"}
    assert "contaminated: held-out seeds" in {row["reason"] for row in rows(tmp_path / "out" / "rejects.jsonl")}
    assert not any(said[0] in row["messages"][0]["content"] for row in rows(tmp_path / "out" / "train.jsonl"))


@pytest.mark.parametrize("count", [0, 1])
def test_fewer_wordings_are_kept_where_fewer_are_wanted(taxonomy, tmp_path, count):
    with server() as teacher:
        make(taxonomy, tmp_path / "out", teacher.url, paraphrases=count)
    test = rows(tmp_path / "out" / "test.jsonl")
    assert len(test) == 4 + 4 * count and (count or not (tmp_path / "out" / "test_rejects.jsonl").exists())
    with pytest.raises(UserError, match="paraphrases is 5, but must be from 0 to 4"):
        make(taxonomy, tmp_path / "other", teacher.url, paraphrases=5)


def test_the_same_seed_and_answers_give_the_same_bytes_and_ask_nothing_twice(taxonomy, tmp_path):
    with server() as teacher:
        make(taxonomy, tmp_path / "a", teacher.url)
        first = len(teacher.requests)
        make(taxonomy, tmp_path / "a", teacher.url)
        assert len(teacher.requests) == first, "the second run found every answer in the journal"
        before = content(tmp_path / "a")
        make(taxonomy, tmp_path / "b", teacher.url)
        assert max(teacher.asked().values()) == 2
    assert content(tmp_path / "b") == before
    manifests = [json.loads((tmp_path / name / "manifest.json").read_text()) for name in "ab"]
    for one in manifests:
        one.pop("circumstances")
    assert manifests[0] == manifests[1]
    with server() as teacher:
        make(taxonomy, tmp_path / "c", teacher.url, seed=1)
    assert content(tmp_path / "c")["train.jsonl"] != before["train.jsonl"]


COMMAND = (
    "import sys\nfrom bottega.cli import main\n"
    "main(['synth', sys.argv[1], '--teacher', sys.argv[2], '--teacher-model', 'm', '--out', sys.argv[3], '--documents', 'contexts', "
    "'--samples', '2', '--quiet', '--tries', '3'])"
)


def test_killed_anywhere_and_run_again_the_files_are_those_of_a_run_that_was_not(taxonomy, tmp_path):
    """Killed at 0.2, 0.4 ... seconds of answers until a run ends by itself; what the journal had is never asked for again."""
    with server(delay_s=0.01) as teacher:
        make(taxonomy, tmp_path / "whole", teacher.url)
        wait_s, kills, known = 0.2, 0, set()
        while True:
            begun = len(teacher.requests)
            words = [sys.executable, "-c", COMMAND, str(taxonomy), teacher.url, str(tmp_path / "out")]
            child = subprocess.Popen(words, stdout=subprocess.DEVNULL)
            while len(teacher.requests) == begun and child.poll() is None:
                time.sleep(0.01)
            try:
                code = child.wait(wait_s)
            except subprocess.TimeoutExpired:
                os.kill(child.pid, signal.SIGKILL)
                code = child.wait()
                kills += 1
            again = {name_of(teacher.url, one) for one in teacher.requests[begun:]}
            assert not known & again, "a completed call was made again"
            if code == 0:
                break
            with Journal(tmp_path / "out" / "journal.sqlite") as journal:
                known |= {name for name in again if journal.get(name)}
            wait_s += 0.2
    assert kills >= 1 and known
    assert content(tmp_path / "out") == content(tmp_path / "whole")


def name_of(url, request):
    """The journal's key of a request that the server saw."""
    sampling = {name: value for name, value in request.items() if name not in ("model", "messages", "seed")}
    prompt = [[one["role"], one["content"]] for one in request["messages"]]
    return key(f"{url}#m", "", prompt, sampling, request["seed"])


def test_editing_one_seed_asks_again_only_what_depends_on_it(tmp_path):
    skill_leaf(tmp_path / "tax", "one")
    leaf = skill_leaf(tmp_path / "tax", "two", word="calm")
    with server() as teacher:
        make(tmp_path / "tax", tmp_path / "out", teacher.url)
        before = len(teacher.requests)
        leaf.write_text(leaf.read_text().replace("quick 4", "brisk 4"))
        make(tmp_path / "tax", tmp_path / "out", teacher.url)
        new = teacher.requests[before:]
    assert 0 < len(new) < before / 2
    assert all("brisk 4" in json.dumps(one) or "calm" in json.dumps(one) for one in new), (
        "the other leaf was not asked about"
    )
    assert not any("swift" in json.dumps(one) for one in new)


OTHERS = ("truncated", "empty", "no-choices", "400", "bytes", "deep", "500")


@pytest.mark.parametrize(
    "how", ["html", "cut", "huge-line", *(pytest.param(one, marks=pytest.mark.slow) for one in OTHERS)]
)
def test_bad_answers_reject_rows_and_never_crash(taxonomy, tmp_path, how):
    """Twenty good answers, fifteen bad ones, then good ones again: rows go, the run ends."""
    script = ("good",) * 20 + (how,) * 15
    with server(script=script) as teacher:
        result = make(taxonomy, tmp_path / "out", teacher.url, samples=3, tries=1)
    assert result["exit_code"] in (0, 9)
    reasons = Counter(row["reason"] for row in rows(tmp_path / "out" / "rejects.jsonl"))
    assert any(reason.startswith("teacher: ") for reason in reasons), reasons


def test_a_teacher_that_never_answers_is_told_at_once(taxonomy, tmp_path):
    with server(script=("401",) * 50) as teacher, pytest.raises(UserError, match="check its address, model and key"):
        make(taxonomy, tmp_path / "out", teacher.url)
    with pytest.raises(UserError, match="does not answer a first question"):
        make(taxonomy, tmp_path / "out", "http://127.0.0.1:9/v1", tries=1)


def test_a_teacher_that_dies_on_the_way_leaves_a_partial_result_that_goes_on(taxonomy, tmp_path):
    with server(script=("good",) * 20 + ("401",) * 500) as teacher:
        broken = make(taxonomy, tmp_path / "out", teacher.url)
        assert broken["exit_code"] == 9 and any("in a row" in why for why in broken["ended"].values())
        teacher.script = []
        whole = make(taxonomy, tmp_path / "out", teacher.url)
        make(taxonomy, tmp_path / "new", teacher.url)
    assert whole["exit_code"] == 0
    assert content(tmp_path / "out") == content(tmp_path / "new")


def test_a_leaf_whose_every_row_is_rejected_stops_no_other_and_the_exit_code_is_9(tmp_path):
    skill_leaf(tmp_path / "tax", "good")
    skill_leaf(tmp_path / "tax", "bad", word="GRUMPY")

    def grumpy(request):
        text = answer(request)
        is_judge = "[Start of Verdict]" in text
        return text.replace("YES", "NO") if is_judge and "GRUMPY" in json.dumps(request["messages"][-1]) else text

    with server(answer=grumpy) as teacher:
        result = make(tmp_path / "tax", tmp_path / "out", teacher.url)
    assert result["exit_code"] == 9 and result["ended"] == {
        "compositional_skills/bad/qna.yaml": "every row was rejected"
    }
    assert {row["metadata"]["leaf"] for row in rows(tmp_path / "out" / "train.jsonl")} == {
        "compositional_skills/good/qna.yaml"
    }
    assert {row["reason"] for row in rows(tmp_path / "out" / "rejects.jsonl") if "bad" in row["leaf"]} >= {
        "question_check"
    }


def test_answers_in_the_wrong_language_are_rejected(tmp_path):
    skill_leaf(tmp_path / "tax", "synonyms", about="Find a word that means the same as the word that is given.")

    def italian(request):
        text = answer(request)
        if "[Start of Response]" not in text or "[Start of Question]" in text:
            return text
        return "[Start of Response]\nIl sinonimo che cerchi è nella lista di parole che non è qui.\n[End of Response]"

    with server(answer=italian) as teacher:
        result = make(tmp_path / "tax", tmp_path / "out", teacher.url)
    reasons = Counter((row["reason"], row["score"]) for row in rows(tmp_path / "out" / "rejects.jsonl"))
    assert result["exit_code"] == 9 and reasons["wrong language", "it"] > 0


def test_a_budget_of_calls_stops_cleanly_counts_all_runs_and_goes_on_when_it_is_raised(taxonomy, tmp_path):
    with server() as teacher:
        cut = make(taxonomy, tmp_path / "out", teacher.url, budget_calls=15)
        assert cut["exit_code"] == 9 and len(teacher.requests) == 15
        again = make(taxonomy, tmp_path / "out", teacher.url, budget_calls=15)
        assert again["exit_code"] == 9 and len(teacher.requests) == 15
        assert any("raise --budget-calls" in why for why in again["ended"].values())
        done = make(taxonomy, tmp_path / "out", teacher.url, budget_calls=10_000)
    assert done["exit_code"] == 0


@pytest.mark.parametrize("limit", [{"budget_tokens": 4000}, {"budget_cost": 0.004, "price_in": 1.0, "price_out": 1.0},
                                   {"budget_minutes": 1e-4}])  # fmt: skip
def test_budgets_of_tokens_money_and_time_stop_cleanly_too(taxonomy, tmp_path, limit):
    with server() as teacher:
        result = make(taxonomy, tmp_path / "out", teacher.url, **limit)
    assert result["exit_code"] == 9 and 0 < len(teacher.requests) < 100


@pytest.mark.slow
@pytest.mark.parametrize("flow", ["freeform_skill"])
def test_the_estimate_after_ten_calls_is_within_a_fifth(tmp_path, flow):
    skill_leaf(tmp_path / "tax", "synonyms", number=30)
    with server(answer=steady) as teacher:
        result = make(tmp_path / "tax", tmp_path / "out", teacher.url, samples=40, flow=flow)
    made = len(teacher.requests)
    assert result["kept"] == 40
    assert abs(result["estimate"]["calls"] - made) <= 0.2 * made, (result["estimate"], made)
    usage = json.loads((tmp_path / "out" / "manifest.json").read_text())["circumstances"]
    tokens = usage["prompt_tokens"] + usage["completion_tokens"]
    guess = result["estimate"]["prompt_tokens"] + result["estimate"]["completion_tokens"]
    assert abs(guess - tokens) <= 0.2 * tokens, (guess, tokens)


def steady(request):
    """A teacher with an even hand: five new tasks a request, every judge content."""
    asked = request["messages"][-1]["content"]
    name = f"{abs(hash((asked, request.get('seed'))))}"
    words = {
        "Question": "",
        "Response": f"It is a long enough answer about {name} and its kin.",
        "Explanation": "clear",
        "Verdict": "YES",
        "Score": "3",
    }
    wanted = [one for one in words if f"[Start of {one}]\n..." in asked]
    if wanted == ["Question"]:
        return "\n".join(
            f"[Start of Question]\nWhat is a word like {name} {n} that one says?\n[End of Question]" for n in range(5)
        )
    return "\n".join(f"[Start of {one}]\n{words[one]}\n[End of {one}]" for one in wanted) or "ready"


def test_estimate_alone_stops_after_the_pilot(taxonomy, tmp_path):
    with server() as teacher:
        result = make(taxonomy, tmp_path / "out", teacher.url, estimate=True)
        assert len(teacher.requests) <= 11
    assert result["estimate"]["pilot"] > 0 and not (tmp_path / "out" / "train.jsonl").exists()


def test_only_exclude_and_base_choose_leaves(tmp_path):
    skill_leaf(tmp_path / "tax", "one")
    skill_leaf(tmp_path / "tax", "two")

    def git(*words):
        subprocess.run(
            ["git", "-C", str(tmp_path / "tax"), "-c", "user.name=a", "-c", "user.email=a@b.c", *words],
            check=True,
            capture_output=True,
        )

    git("init", "-b", "main")
    git("add", ".")
    git("commit", "-m", "start")
    skill_leaf(tmp_path / "tax", "three")
    for number, (chosen, expected) in enumerate([
        ({"only": ("compositional_skills/one",)}, {"one"}), ({"exclude": ("*/two/*",)}, {"one", "three"}),
        ({"base": "main"}, {"three"}),
    ]):  # fmt: skip
        result = synth(
            str(tmp_path / "tax"),
            teacher="template",
            out=str(tmp_path / f"out{number}"),
            samples=2,
            quiet=True,
            **chosen,
        )
        assert {leaf["leaf"].split("/")[1] for leaf in result["funnel"]["leaves"]} == expected
    with pytest.raises(UserError, match="none is left"):
        synth(str(tmp_path / "tax"), teacher="template", out=str(tmp_path / "x"), only=("nothing/*",), quiet=True)


def test_rows_that_hold_an_evaluation_item_go(tmp_path):
    leaf = knowledge_leaf(tmp_path / "tax", "observatory")
    (tmp_path / "held.jsonl").write_text(
        json.dumps({"prompt": "x", "answer": "The dome is made of copper and weighs 14 tonnes."}) + "\n"
    )
    options = {"documents": "contexts", "samples": 30, "quiet": True, "flow": "knowledge_brief"}
    result = synth(
        str(leaf), teacher="template", out=str(tmp_path / "out"), against=(str(tmp_path / "held.jsonl"),), **options
    )
    gone = [row for row in rows(tmp_path / "out" / "rejects.jsonl") if row["reason"] == "contaminated: held.jsonl"]
    assert gone and all("weighs 14 tonnes" in json.dumps(row["row"]) for row in gone)
    assert "weighs 14 tonnes" not in (tmp_path / "out" / "train.jsonl").read_text()
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    leaf_report = next(iter(report["leaves"].values()))
    assert (
        leaf_report["contaminated"] == len(gone)
        and leaf_report["with_documents"] > 0
        and result["kept"] == leaf_report["rows"]
    )


def test_instructlab_s_names_forms_and_recipes(taxonomy, tmp_path):
    synth(
        str(taxonomy),
        teacher="template",
        out=str(tmp_path / "out"),
        samples=4,
        layout="instructlab",
        documents="contexts",
        quiet=True,
    )
    out = tmp_path / "out"
    (messages,) = out.glob("messages_template_*.jsonl")
    first = rows(messages)[0]
    assert (
        set(first) == {"messages", "metadata", "unmask", "id"}
        and json.loads(first["metadata"])["teacher"] == "template"
    )
    stamp = messages.stem.removeprefix("messages_template_")
    recipe = (out / f"knowledge_recipe_{stamp}.yaml").read_text()
    assert f"node_datasets_{stamp}/knowledge_observatory.jsonl" in recipe and "sampling_size: 4" in recipe
    (legacy,) = out.glob("train_template_*.jsonl")
    assert set(rows(legacy)[0]) == {"system", "user", "assistant"} and len(rows(legacy)) == 8
    skills = rows(out / f"skills_train_msgs_{stamp}.jsonl")
    assert [turn["role"] for turn in skills[0]["messages"]] == ["system", "user", "assistant"]
    before = {path.name for path in out.rglob("*.jsonl")}
    synth(
        str(taxonomy),
        teacher="template",
        out=str(out),
        samples=4,
        layout="instructlab",
        documents="contexts",
        quiet=True,
    )
    assert {path.name for path in out.rglob("*.jsonl")} == before, "the same command writes the same names"


def test_the_bundled_model_answers_through_the_same_interface(tmp_path):
    """It cannot read real texts, so every row is rejected: told as such, exit code 9."""
    knowledge_leaf(tmp_path / "tax", "observatory")
    options = {"documents": "contexts", "samples": 2, "quiet": True, "flow": "knowledge_brief", "budget_calls": 6}
    result = synth(str(tmp_path / "tax"), teacher="garzone", out=str(tmp_path / "out"), chunk=200, **options)
    assert result["exit_code"] == 9 and result["kept"] == 0


def test_options_that_do_not_go_together_are_told(taxonomy, tmp_path):
    with pytest.raises(UserError, match="give --teacher-model"):
        synth(str(taxonomy), teacher="http://127.0.0.1:9/v1", out=str(tmp_path / "o"), quiet=True)
    with pytest.raises(UserError, match="--documents FOLDER"):
        synth(str(taxonomy), teacher="template", out=str(tmp_path / "o"), only=("knowledge",), quiet=True)
    with pytest.raises(UserError, match="is for endpoints"):
        synth(
            str(taxonomy),
            teacher="garzone",
            key_env="X",
            out=str(tmp_path / "o"),
            only=("compositional_skills",),
            quiet=True,
        )


def test_the_key_is_in_no_file_that_a_run_leaves(taxonomy, tmp_path, monkeypatch):
    monkeypatch.setenv("TEACHER_KEY", "sk-canary-77")
    with server() as teacher:
        make(taxonomy, tmp_path / "out", teacher.url, key_env="TEACHER_KEY", samples=2)
    assert teacher.headers[0]["Authorization"] == "Bearer sk-canary-77"
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file() and b"canary" in path.read_bytes()]


def test_documents_are_fetched_from_where_a_leaf_says_when_that_is_asked_for(tmp_path, monkeypatch):
    """A git repository whose second commit the leaf does not name: the first one's text is read."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "documents"
    folder.mkdir()
    run_git(folder, "init", "--quiet", "-b", "main")
    text = "Ada Fenn leads the observatory of Ilo. The large mirror was polished in 1931. Visitors come on the first Sunday."
    (folder / "a.md").write_text(text + "\n")
    run_git(folder, "add", "-A")
    run_git(folder, "commit", "--quiet", "-m", "one")
    commit = run_git(folder, "rev-parse", "HEAD")
    (folder / "a.md").write_text("Nothing of this is known to the leaf, which names the commit before it.\n")
    run_git(folder, "commit", "--quiet", "-am", "two")
    leaf = KNOWLEDGE.replace("https://example.org/moons.git", folder.as_uri()).replace("0123abc", commit)
    put(tmp_path / "tax", "knowledge/science", leaf)
    with pytest.raises(UserError, match="--documents fetch reads them there, --documents FOLDER a copy"):
        synth(str(tmp_path / "tax"), teacher="template", out=str(tmp_path / "none"), quiet=True)
    synth(
        str(tmp_path / "tax"), teacher="template", out=str(tmp_path / "out"), documents="fetch", samples=2, quiet=True
    )
    (known,) = rows(tmp_path / "out" / "documents.jsonl")
    assert known["leaf"] == "knowledge/science/qna.yaml" and known["text"].strip().endswith(text)
    made = rows(tmp_path / "out" / "train.jsonl")
    assert made and {row["metadata"]["document"] for row in made} == {known["id"]}


def test_a_plain_folder_of_documents_needs_no_leaf(tmp_path):
    """Its rows name the folder; an empty one, and one of files that are no documents, are refused in a sentence."""
    folder = tmp_path / "handbook" / "deep"
    folder.mkdir(parents=True)
    (folder / "a.md").write_text(
        "Ada Fenn leads the observatory of Ilo. The large mirror was polished in 1931 by hand.\n"
    )
    result = synth(str(tmp_path / "handbook"), teacher="template", out=str(tmp_path / "out"), samples=2, quiet=True)
    made = rows(tmp_path / "out" / "train.jsonl")
    assert len(made) == result["kept"] > 0 and {row["metadata"]["leaf"] for row in made} == {"handbook"}
    assert not rows(tmp_path / "out" / "test.jsonl"), "there are no seeds to hold out"
    for name in ("empty", "pictures"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.png").write_bytes(b"1" * (name == "pictures"))
        with pytest.raises(UserError, match="holds neither leaves .qna.yaml. nor documents"):
            synth(str(tmp_path / name), teacher="template", out=str(tmp_path / "none"), quiet=True)


def test_contexts_of_seeds_that_are_not_there_are_refused(tmp_path):
    (tmp_path / "a.md").write_text("Ada Fenn leads the observatory of Ilo, as everybody here knows.\n")
    with pytest.raises(
        UserError, match="there are no seeds whose contexts could be read; leave --documents contexts out"
    ):
        synth(str(tmp_path), teacher="template", out=str(tmp_path / "out"), documents="contexts", quiet=True)


def test_the_report_counts_what_is_different_as_sets_would():
    """Linear counting against sets, on texts of 200,000 words of which some come often."""
    draw = random.Random(1)
    texts = [" ".join(f"w{int(draw.paretovariate(0.4)) % 90_000}" for _ in range(40)) for _ in range(5_000)]
    words = [word for text in texts for word in text.split()]
    pairs = [pair for text in texts for pair in zip(text.split(), text.split()[1:])]
    found = variety(texts)
    assert found["distinct_words"] == pytest.approx(len(set(words)) / len(words), rel=2e-3)
    assert found["distinct_pairs"] == pytest.approx(len(set(pairs)) / len(pairs), rel=2e-3)
