"""`bottega run` from a recipe to a model, on a tiny saved Llama: what is there afterwards, going on, what changed."""

import json
import shutil
import signal
import subprocess
import sys
import time

import psutil
import pytest

from bottega import cli
from bottega.core import rundir
from bottega.core.errors import FolderInUse, Mismatch, Unsafe, UserError
from bottega.train import settings
from bottega.workshop import runs, runs_gc, use
from bottega.workshop.stages import run, run_text
from tests.workshop.made import chat, jsonl, workshop


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with inputs and a finished run in runs/tiny."""
    folder = workshop(tmp_path_factory.mktemp("made"))
    result = run(folder / "r.yaml", out=folder / "runs" / "tiny", quiet=True)
    return folder, result


@pytest.fixture
def copied(made, tmp_path):
    """A copy of it that a test may damage."""
    shutil.copytree(made[0], tmp_path / "copy")
    return tmp_path / "copy"


def contents(folder):
    """Every file of a run but the clock's, the code's commit and pictures, by its bytes."""
    apart = ("host.json", "timing.jsonl", ".lock", "report.html", "curve.png", "environment.json")
    return {
        p.relative_to(folder).as_posix(): rundir.sha256(p)
        for p in sorted(folder.rglob("*"))
        if p.is_file() and p.name not in apart
    }


def test_a_run_folder_is_complete(made):
    folder, result = made
    here = folder / "runs" / "tiny"
    for name in ("recipe.yaml", "run.json", "environment.json", "host.json", "result.json", "report.html"):
        assert (here / name).is_file(), name
    record = json.loads((here / "run.json").read_text())["stages"]
    assert list(record) == ["adapt", "instruct", "align"]
    for stage in record.values():
        assert len(stage["data"][0]["sha256"]) == 64
        assert stage["base"] and stage["tokenizer"] and stage["template"]
    environment = json.loads((here / "environment.json").read_text())
    assert environment["packages"]["torch"] and "commit" in environment
    for stage in ("01-adapt", "02-instruct", "03-align"):
        for name in ("metrics.jsonl", "intake.json", "stage.json", "result/MANIFEST.json"):
            assert (here / "stages" / stage / name).is_file(), (stage, name)
        assert list((here / "stages" / stage / "checkpoints").glob("step-*"))
    assert json.loads((here / "host.json").read_text())["sessions"][0]["cpu_seconds"] > 0
    assert result.exit_code == 0 and "validation loss" in run_text(result)
    assert str(folder) not in (here / "recipe.yaml").read_text()


def test_losses_fall_and_the_intake_says_what_came_in(made):
    here = made[0] / "runs" / "tiny" / "stages"
    lines = rundir.read_jsonl(here / "02-instruct" / "metrics.jsonl")
    assert lines[-1]["loss"] < lines[0]["loss"] and lines[-1]["eval.loss"] < lines[0]["eval.loss"]
    intake = json.loads((here / "02-instruct" / "intake.json").read_text())
    assert intake["rows"] == {"train": [36], "validation": 4} and intake["taken"] == 36
    samples = rundir.read_jsonl(here / "02-instruct" / "samples.jsonl")
    assert samples[0]["prompt"] == "Who are you?" and [s["step"] for s in samples] == list(range(1, 9))


def test_the_result_is_a_folder_that_plain_transformers_and_peft_load_with_the_template_and_the_end_token(made):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    stages = made[0] / "runs" / "tiny" / "stages"
    merged = AutoModelForCausalLM.from_pretrained(stages / "01-adapt" / "result")
    tokenizer = AutoTokenizer.from_pretrained(stages / "02-instruct" / "result")
    assert "<|im_start|>" in tokenizer.chat_template
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert end in AutoModelForCausalLM.from_pretrained(stages / "02-instruct" / "result").generation_config.eos_token_id
    assert not any("lora" in name for name, _ in merged.named_parameters())
    config = json.loads((stages / "03-align" / "result" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "../../02-instruct/result"


def test_running_again_does_nothing_again_and_a_fresh_run_gives_the_same_bytes(made):
    folder, _ = made
    before = contents(folder / "runs" / "tiny")
    run(folder / "r.yaml", out=folder / "runs" / "tiny", quiet=True)
    assert contents(folder / "runs" / "tiny") == before
    run(folder / "r.yaml", out=folder / "runs" / "again", quiet=True)
    assert contents(folder / "runs" / "again") == before


def test_a_stage_that_was_cut_off_goes_on_and_ends_in_the_same_bytes(copied):
    here = copied / "runs" / "tiny"
    before = contents(here)
    stage = here / "stages" / "02-instruct"
    shutil.rmtree(stage / "result")
    for name in ("stage.json", "samples.jsonl"):
        (stage / name).unlink()
    newest = sorted((stage / "checkpoints").glob("step-*"))
    shutil.rmtree(newest[-1])
    (stage / "metrics.jsonl").write_text((stage / "metrics.jsonl").read_text() + '{"step": 9, "lo')
    shutil.rmtree(here / "stages" / "03-align")
    runs.runs_resume(str(here), quiet=True)
    after = contents(here)
    gone = {name for name in before if name not in after}
    assert not {name for name in gone if "result" in name or "metrics" in name}
    same = [n for n in after if n.startswith("stages") and "checkpoints" not in n and "samples" not in n]
    assert {n: after[n] for n in same} == {n: before[n] for n in same}


def test_changed_data_is_exit_3_with_the_difference_and_can_be_allowed(copied, capsys):
    rows = [chat(f"Q{i}", "A") for i in range(41)]
    jsonl(copied / "chats.jsonl", rows)
    arguments = ["run", str(copied / "r.yaml"), "--out", str(copied / "runs" / "tiny"), "--quiet", "--json"]
    assert cli.door(arguments) == 3
    said = capsys.readouterr().err
    assert "instruct.data.0" in said and "--allow-change instruct.data" in said and said.count("\n") == 1
    assert cli.door([*arguments, "--allow-change", "instruct.data"]) == 0
    changes = json.loads((copied / "runs" / "tiny" / "run.json").read_text())["changes"]
    assert changes and all(change["key"].startswith("instruct.data") for change in changes)
    assert json.loads(capsys.readouterr().out)["exit_code"] == 0


def test_a_changed_recipe_base_tokenizer_or_template_is_noticed(copied):
    out = copied / "runs" / "tiny"
    with pytest.raises(Mismatch, match=r"instruct\.lr: 0\.001 -> 0\.002"):
        run(copied / "r.yaml", ["instruct.lr=2e-3"], out=out, quiet=True)
    with pytest.raises(Mismatch, match=r"adapt\.seed: 1 -> 2"):
        run(copied / "r.yaml", ["seed=2"], out=out, quiet=True)
    with pytest.raises(Mismatch, match="stages"):
        run({**_plain(copied), "stages": _plain(copied)["stages"][1:]}, out=out, quiet=True)
    run(copied / "r.yaml", ["instruct.keep=1", "name=other"], out=out, quiet=True)  # what changes nothing is free
    shutil.rmtree(out / "stages" / "01-adapt" / "result")
    template = copied / "model" / "chat_template.jinja"
    template.write_text(template.read_text() + " ")
    with pytest.raises(Mismatch, match=r"adapt\.template"):
        run(copied / "r.yaml", out=out, quiet=True)


def _plain(folder):
    from bottega.workshop import recipe

    return recipe.to_plain(recipe.load(folder / "r.yaml"))


def test_a_flipped_bit_in_a_result_is_found_and_the_stage_made_again(copied):
    here = copied / "runs" / "tiny"
    before = contents(here)
    path = here / "stages" / "01-adapt" / "result" / "model.safetensors"
    raw = bytearray(path.read_bytes())
    raw[-5] ^= 1
    path.write_bytes(bytes(raw))
    facts = runs.runs_verify(str(here))
    assert facts["exit_code"] == 1 and before["stages/01-adapt/result/model.safetensors"] in facts["problems"][0]
    assert cli.door(["runs", "verify", str(here), "--json"]) == 1
    run(copied / "r.yaml", out=here, quiet=True)
    assert contents(here) == before and runs.runs_verify(str(here))["exit_code"] == 0


def test_a_run_folder_in_use_is_exit_8_and_names_the_holder(made):
    import os

    folder, _ = made
    with rundir.lock(folder / "runs" / "tiny"), pytest.raises(FolderInUse, match=str(os.getpid())):
        run(folder / "r.yaml", out=folder / "runs" / "tiny", quiet=True)


def test_the_dry_run_says_what_would_happen_and_does_nothing(made, tmp_path, capsys):
    folder, _ = made
    arguments = ["run", str(folder / "r.yaml"), "--dry-run", "--out"]
    assert cli.door([*arguments, str(tmp_path / "new")]) == 0 and not (tmp_path / "new").exists()
    assert "nothing was done" in capsys.readouterr().out
    assert cli.door([*arguments, str(folder / "runs" / "tiny"), "--json"]) == 0
    assert {s["state"] for s in json.loads(capsys.readouterr().out)["stages"]} == {"done"}


def test_runs_are_listed_and_shown(made, capsys):
    folder, _ = made
    root = str(folder / "runs")
    assert cli.door(["runs", "list", "--root", root]) == 0 and "tiny" in capsys.readouterr().out
    assert cli.door(["runs", "show", f"{root}/tiny", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["state"] == "done" and shown["stages"][2]["last"]["step"] == 3
    assert cli.door(["runs", "show", f"{root}/tiny"]) == 0 and "CPU time" in capsys.readouterr().out
    with pytest.raises(UserError, match="no run folder"):
        runs.runs_show(str(folder))


def test_generate_answers_every_prompt_of_a_file_with_the_template_of_the_run(made, tmp_path, capsys):
    folder, _ = made
    run_folder = str(folder / "runs" / "tiny")
    (tmp_path / "p.txt").write_text("Who?\n\nWhat is 2 plus 2?\n")
    arguments = ["generate", run_folder, "--prompts", str(tmp_path / "p.txt"), "--max-tokens", "5", "--json", "--quiet"]
    assert cli.door(arguments) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["prompt"] for row in rows] == ["Who?", "What is 2 plus 2?"] and rows[0]["tokens"] <= 5
    path = jsonl(tmp_path / "c.jsonl", [chat("Who?", "Me")])
    out = tmp_path / "replies.jsonl"
    again = use.generate(run_folder, str(path), max_tokens=5, out=str(out), quiet=True)
    assert again[0]["reply"] == rows[0]["reply"] and json.loads(out.read_text()) == again[0]
    assert use.generate(run_folder, ["Who?"], max_tokens=5, raw=True, quiet=True)[0]["prompt"] == "Who?"


def test_chat_streams_replies_remembers_and_leaves_on_exit(made, capsys, monkeypatch):
    import io

    monkeypatch.setattr("sys.stdin", io.StringIO("Who are you?\nAnd?\n/reset\nHello\n/exit\nnever read\n"))
    assert cli.door(["chat", str(made[0] / "runs" / "tiny"), "--max-tokens", "4"]) == 0
    assert len(capsys.readouterr().out.split("\n")) >= 4


def test_eval_scores_a_run_and_a_gate_that_is_not_passed_is_exit_1(made, tmp_path, capsys):
    folder, _ = made
    task = tmp_path / "sum.yaml"
    rows = [{"prompt": f"What is {i} plus 1?", "answer": f"It is {i + 1}."} for i in range(6)]
    task.write_text(json.dumps({"name": "sum", "kind": "generation", "rows": rows, "chat": True, "max_tokens": 8}))
    assert cli.door(["eval", str(folder / "runs" / "tiny"), "--tasks", str(task), "--json", "--quiet"]) == 0
    card = json.loads(capsys.readouterr().out)
    assert card["scores"][0]["n"] == 6 and card["scores"][0]["high"] <= 1
    recipe = {
        "name": "gated",
        "model": str(folder / "model"),
        "stages": [{"s": {"objective": "sft", "data": str(folder / "chats.jsonl"), "steps": 1}}],
        "evaluate": {"tasks": [str(task)], "gate": {"sum": 0.99, "forgetting": 0.5}},
    }
    result = run(recipe, out=tmp_path / "gated", quiet=True)
    assert result.exit_code == 1 and result.gates == ("sum is 0.000, and the gate asks for at least 0.99",)
    assert set(result.scorecards) == {"0-before", "1-after"}
    with pytest.raises(UserError, match="gates are forgetting and the tasks"):
        run({**recipe, "evaluate": {"tasks": [str(task)], "gate": {"summ": 1}}}, out=tmp_path / "g2")


def test_a_pickle_is_refused_with_exit_4(tmp_path, made):
    folder = tmp_path / "pickled"
    shutil.copytree(made[0] / "model", folder)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(Unsafe):
        run(_with(made, model=str(folder)), out=tmp_path / "out", quiet=True)


def _with(made, stage=None, **changes):
    base = {"objective": "sft", "data": str(made[0] / "chats.jsonl"), "steps": 2, "batch": 4}
    return {"name": "x", "model": str(made[0] / "model"), "stages": [{"s": {**base, **(stage or {})}}], **changes}


@pytest.mark.parametrize(
    ("rows", "stage", "said"),
    [
        ([chat("a", "b"), {"messages": [{"role": "user", "content": "a"}]}], {}, r":2.*without an assistant turn"),
        ([{"frage": "a", "antwort": "b"}], {}, "no known format has the columns frage, antwort"),
        ([chat("long " * 200, "b")], {}, "above max_tokens"),
        ([chat("a", "b")], {"max_tokens": 4096}, "the model has 128 positions"),
        ([chat("a", "b")], {"mask": "assistent"}, "there is no mask"),
        ([chat("a", "b")], {"template": "chatmml"}, "there is no template"),
    ],
)
def test_rows_that_cannot_be_used_stop_the_run_in_one_sentence(made, tmp_path, rows, stage, said):
    path = jsonl(tmp_path / "rows.jsonl", rows)
    with pytest.raises(UserError, match=said) as error:
        run(_with(made, {"data": str(path), **stage}), out=tmp_path / "out", quiet=True)
    assert "\n" not in str(error.value) and error.value.exit_code == 2


def test_a_missing_column_is_named_with_file_and_row(made, tmp_path):
    path = jsonl(tmp_path / "rows.jsonl", [{"frage": "a", "antwort": "b"}])
    part = {"path": str(path), "columns": {"prompt": "frage", "completion": "antwurt"}}
    with pytest.raises(UserError, match=r"rows\.jsonl:1 \[antwurt\].*no column 'antwurt'"):
        run(_with(made, {"data": part}), out=tmp_path / "out", quiet=True)


def test_a_bad_row_may_be_lost_when_the_user_says_so(made, tmp_path):
    path = jsonl(tmp_path / "rows.jsonl", [chat("a", "b"), chat("c", "d"), {"messages": []}])
    result = run(_with(made, {"data": str(path)}), out=tmp_path / "out", allow_loss=1, quiet=True)
    assert json.loads((result.folder / "stages" / "01-s" / "intake.json").read_text())["bad"]


@pytest.mark.parametrize("then", ["continue", "stack"])
def test_an_adapter_goes_on_into_the_next_stage_and_the_run_s_result_loads(made, tmp_path, then):
    from bottega.models.load import load

    stage = {
        "objective": "sft",
        "data": str(made[0] / "chats.jsonl"),
        "steps": 2,
        "method": {"name": "lora", "rank": 2},
    }
    recipe = {"name": "x", "model": str(made[0] / "model"), "stages": [{"a": {**stage, "then": then}}, {"b": stage}]}
    result = run(recipe, out=tmp_path / "out", quiet=True)
    moved = tmp_path / "moved"
    result.folder.rename(moved)
    loaded = load(str(moved))
    config = json.loads((moved / "stages" / "02-b" / "result" / "adapter_config.json").read_text())
    wanted = "../../01-a/result" if then == "stack" else str(made[0] / "model")
    assert config["base_model_name_or_path"] == wanted and loaded.adapter is not None


def test_weights_mix_the_sources_and_early_stopping_keeps_the_best(made, tmp_path):
    few = jsonl(tmp_path / "few.jsonl", [chat(f"Q{i}", "A") for i in range(5)])
    parts = [{"path": str(made[0] / "chats.jsonl"), "weight": 3}, {"path": str(few), "weight": 1}]
    stop = {"metric": "loss", "patience": 1}
    stage = {
        "data": parts,
        "validation": 0.1,
        "eval_every": 1,
        "early_stop": stop,
        "lr": 1.0,
        "method": "full",
        "steps": 9,
    }
    result = run(_with(made, stage), out=tmp_path / "out", quiet=True)
    facts = result.stages["s"]
    assert facts["ended"].startswith("no better loss") and facts["best_step"] < facts["steps"] < 9


def test_a_full_disk_is_exit_7_and_the_run_goes_on_when_there_is_room(made):
    out = made[0] / "runs" / "full"
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000));"
        "from bottega.cli import main; main(sys.argv[1:])"
    )
    arguments = ["run", str(made[0] / "r.yaml"), "--out", str(out), "--quiet"]
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert done.returncode == 7 and done.stderr.count("\n") == 1 and "free some space" in done.stderr, done.stderr
    run(made[0] / "r.yaml", out=out, quiet=True)
    assert contents(out) == contents(made[0] / "runs" / "tiny")


def test_sigterm_is_exit_143_and_the_same_command_ends_in_the_same_bytes(made, tmp_path):
    """Killed after the second checkpoint of the second stage; the reference is never interrupted."""
    out = made[0] / "runs" / "stopped"
    arguments = [sys.executable, "-m", "bottega.cli", "run", str(made[0] / "r.yaml"), "--out", str(out)]
    child = subprocess.Popen(arguments, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    saved = out / "stages" / "02-instruct" / "checkpoints"
    until = time.monotonic() + 60
    while child.poll() is None and time.monotonic() < until and len(list(saved.glob("step-*"))) < 2:
        time.sleep(0.02)
    child.send_signal(signal.SIGTERM)
    said = child.communicate(timeout=60)[1]
    assert child.returncode == 143 and "SIGTERM" in said, said
    assert runs.runs_verify(str(out))["exit_code"] == 0
    run(made[0] / "r.yaml", out=out, quiet=True)
    assert contents(out) == contents(made[0] / "runs" / "tiny")


@pytest.mark.parametrize(("name", "code"), [("SIGUSR1", 143), pytest.param("SIGINT", 130, marks=pytest.mark.slow)])
def test_a_signal_saves_the_state_and_leaves_no_child(made, name, code):
    """Nothing would be saved for 4000 steps: the checkpoint there is comes from the signal, and holds every logged step."""
    out = made[0] / "runs" / name
    settings = ["adapt.steps=4000", "adapt.save_every=4000"]
    arguments = [sys.executable, "-m", "bottega.cli", "run", str(made[0] / "r.yaml"), *settings, "--out", str(out)]
    child = subprocess.Popen(arguments, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    place = out / "stages" / "01-adapt"
    until = time.monotonic() + 60
    while child.poll() is None and time.monotonic() < until and not (place / "metrics.jsonl").is_file():
        time.sleep(0.02)
    time.sleep(0.5)
    family = psutil.Process(child.pid).children(recursive=True)
    child.send_signal(getattr(signal, name))
    said = child.communicate(timeout=60)[1]
    assert child.returncode == code, said
    assert not any(process.is_running() for process in family)
    (saved,) = (place / "checkpoints").glob("step-*")
    assert int(saved.name[5:]) == len((place / "metrics.jsonl").read_text().splitlines()) > 0
    assert runs.runs_verify(str(out))["exit_code"] == 0


def test_a_checkpoint_is_pinned_and_let_go(copied):
    out = str(copied / "runs" / "tiny")
    kept = sorted((copied / "runs" / "tiny" / "stages" / "02-instruct" / "checkpoints").glob("step-*"))
    step = int(kept[-1].name[5:])
    assert runs.runs_pin(out, step, stage="instruct") == {"stage": "instruct", "pinned": [step]}
    runs_gc.runs_gc((out,), remove=True)
    assert kept[-1].is_dir() and not kept[0].is_dir(), "clearing a run leaves what is pinned"
    assert cli.door(["runs", "pin", out, str(step), "--stage", "instruct", "--off"]) == 0
    assert not json.loads((kept[-1].parent / "PINS.json").read_text())["steps"]
    with pytest.raises(UserError, match=f"no checkpoint of step 77 to pin; those that are there: .*instruct: {step}"):
        runs.runs_pin(out, 77)


@pytest.mark.parametrize("pin", ["[0]", "[9]"])
def test_a_pin_that_is_never_reached_is_refused(made, pin):
    with pytest.raises(UserError, match=r"pin \[\d\] names steps that are not taken; write steps from 1 to 8"):
        run(made[0] / "r.yaml", [f"instruct.pin={pin}"], dry_run=True)


def test_a_pickle_in_a_run_folder_is_refused_before_it_is_gone_on_with(copied):
    state = copied / "runs" / "tiny" / "stages" / "01-adapt" / "checkpoints"
    (next(state.glob("step-*")) / "state" / "optimizer.pt").write_bytes(b"x")
    with pytest.raises(Unsafe, match="not opened"):
        run(copied / "r.yaml", out=copied / "runs" / "tiny", quiet=True)


def test_a_setting_that_came_with_a_later_version_changes_nothing(copied):
    path = copied / "runs" / "tiny" / "run.json"
    record = json.loads(path.read_text())
    del record["stages"]["adapt"]["clip"], record["stages"]["align"]["objective"]["options"]["label_smoothing"]
    path.write_text(json.dumps(record))
    run(copied / "r.yaml", out=copied / "runs" / "tiny", quiet=True)
    with pytest.raises(Mismatch, match=r"align\.objective\.options\.label_smoothing: 0\.0 -> 0\.1"):
        run(copied / "r.yaml", ["align.objective.label_smoothing=0.1"], out=copied / "runs" / "tiny", quiet=True)


def test_a_local_model_that_cannot_be_opened_is_refused_before_torch_is_imported(made, tmp_path):
    (tmp_path / "r.yaml").write_text(
        f"name: x\nmodel: ./nowhere\nstages:\n  - s: {{objective: sft, data: {made[0] / 'chats.jsonl'}}}\n"
    )
    code = "import sys; from bottega.cli import door; c = door(['run', 'r.yaml']); print(c, 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.split() == ["2", "False"] and "nowhere" in done.stderr, done.stderr


def test_the_webhook_is_told_and_the_secret_stays_out_of_the_folder(made, tmp_path, monkeypatch):
    import http.server
    import threading

    told = []

    class Hook(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            told.append((self.headers["Authorization"], body))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Hook)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HOOK_TOKEN", "canary-4711")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    whom = {"url": f"http://127.0.0.1:{server.server_port}/", "token": "${env:HOOK_TOKEN}"}
    run(_with(made, notify=whom), out=tmp_path / "out", quiet=True)
    server.shutdown()
    server.server_close()
    assert told[0][0] == "Bearer canary-4711" and told[0][1]["name"] == "x"
    for path in (tmp_path / "out").rglob("*"):
        assert path.is_dir() or b"canary-4711" not in path.read_bytes(), path


def test_a_start_that_failed_blocks_nothing(made, tmp_path):
    path = jsonl(tmp_path / "rows.jsonl", [{"frage": "a", "antwort": "b"}] * 4)
    columns = {"prompt": "frage", "completion": "antwurt"}
    with pytest.raises(UserError, match="antwurt"):
        run(_with(made, {"data": {"path": str(path), "columns": columns}}), out=tmp_path / "out", quiet=True)
    mended = {**columns, "completion": "antwort"}
    assert run(_with(made, {"data": {"path": str(path), "columns": mended}}), out=tmp_path / "out", quiet=True)


def test_few_documents_keep_passages_out_that_are_nowhere_in_training(made, tmp_path):
    from bottega.models.load import load
    from bottega.workshop.recipe import load as load_recipe
    from bottega.workshop.rows import read_rows

    text = "".join(
        f"# Part {i}\n\n" + f"Sentence number {i * i} of part {i} speaks of thing {i}. " * 12 + "\n\n"
        for i in range(20)
    )
    (tmp_path / "one.md").write_text(text)
    (tmp_path / "two.md").write_text("A preface of another kind.\n\n" + text)
    loaded = load(str(made[0] / "model"))
    recipe = load_recipe(
        _with(made, {"objective": "pretrain", "data": str(tmp_path), "validation": 0.2, "max_tokens": 128})
    )
    from bottega.data.chat import Template

    rows = read_rows(recipe.stages[0], loaded, Template.of(loaded.tokenizer), seed=0)
    said = [
        loaded.tokenizer.decode([i for row in part for i in row.branches[0].ids])
        for part in (rows.train[0], rows.held_out)
    ]
    kept_out = {i for i in range(20) if f"speaks of thing {i}." in said[1]}
    assert kept_out and not any(f"Sentence number {i * i} of part {i} speaks" in said[0] for i in kept_out)
    assert "passages" in rows.notes[0]


def test_references_are_computed_only_for_the_pairs_that_the_run_will_see(made, tmp_path, capsys):
    stage = {"objective": "dpo", "data": str(made[0] / "prefs.jsonl"), "steps": 2, "batch": 3}
    run(_with(made, stage), out=tmp_path / "out")
    assert "reference log-probabilities of 6 rows" in capsys.readouterr().err


def test_the_usual_micro_batch_is_written_down_as_a_number_and_kept_when_the_usual_changes(copied, monkeypatch):
    """1,024 tokens on a CPU. A run that began with another number goes on with it, whatever is usual now."""
    recipe, folder = copied / "r.yaml", copied / "runs" / "tiny"
    assert "micro_tokens: 1024" in (folder / "recipe.yaml").read_text()
    before = contents(folder)
    monkeypatch.setattr(settings, "CPU_TOKENS", 64)
    run(recipe, out=folder, quiet=True)
    assert contents(folder) == before
    fresh = run(recipe, out=copied / "fresh", quiet=True, dry_run=True)
    assert fresh["stages"][0]["state"] == "new"
    with pytest.raises(Mismatch, match="micro_tokens: 1024 -> 100"):
        run(recipe, ["adapt.micro_tokens=100"], out=folder, quiet=True)


def test_fewer_rows_than_a_steps_are_all_taken_and_the_run_says_so(made, tmp_path, capsys):
    few = jsonl(tmp_path / "few.jsonl", [chat("a", "b"), chat("c", "d"), chat("e", "f")])
    run(_with(made, {"data": str(few), "batch": 8}), out=tmp_path / "out")
    lines = rundir.read_jsonl(tmp_path / "out" / "stages" / "01-s" / "metrics.jsonl")
    assert [line["rows"] for line in lines] == [3, 3]
    assert "a step takes all 3 rows: there are fewer than batch: 8" in capsys.readouterr().err
