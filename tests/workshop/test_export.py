"""export through the door: four formats, a card from the run, and an upload to a hub that the test plays."""

from __future__ import annotations

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
import yaml

from bottega import cli
from bottega.core import rundir
from bottega.core.errors import CheckFailed, UserError
from bottega.models.exports import proof
from bottega.models.load import load, load_weights
from bottega.workshop import card, exporting, push, use
from bottega.workshop.stages import run
from tests.models.tiny import tiny_model
from tests.workshop.made import chat, jsonl


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """A base and a run of one LoRA stage with a scorecard."""
    here = tmp_path_factory.mktemp("export")
    tiny_model("llama", here / "model", intermediate_size=64)
    jsonl(here / "chats|<b>.jsonl", [chat(f"What is {i}?", f"It is {i}.") for i in range(12)])
    jsonl(here / "items.jsonl", [{"prompt": f"{i} and", "answer": f" {i + 1}"} for i in range(6)])
    (here / "task.yaml").write_text("name: next\nkind: perplexity\ndata: items.jsonl\nmetric: loss\n")
    stage = {
        "objective": "sft",
        "data": str(here / "chats|<b>.jsonl"),
        "method": {"name": "lora", "rank": 4},
        "steps": 2,
        "batch": 4,
    }
    plan = {
        "name": "bot",
        "model": str(here / "model"),
        "stages": [{"tune": stage}],
        "evaluate": {"tasks": [str(here / "task.yaml")]},
    }
    run(plan, out=here / "run", quiet=True)
    (here / "prompts.txt").write_text("Who keeps the keys?\n")
    return here


def door(*words):
    return cli.door([str(word) for word in words])


def test_a_run_becomes_a_plain_folder_with_its_template_end_tokens_and_card(here, tmp_path, capsys):
    assert door("export", here / "run", "--out", tmp_path / "hf", "--licence", "apache-2.0", "--json", "--quiet") == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["equal"] == 1.0 and facts["merge_difference"] <= 1e-5 and facts["pushed"] is None
    merged = load(here / "run").attached.merge()
    ids = [5, 6, 7, 8]
    assert torch.allclose(proof.logits_of(load_weights(tmp_path / "hf"))(ids), proof.logits_of(merged)(ids), atol=1e-5)
    result = here / "run/stages/01-tune/result"
    for name in ("chat_template.jinja", "generation_config.json"):
        ours, theirs = (folder / name for folder in (tmp_path / "hf", result))
        if name.endswith("json"):
            assert rundir.read_json(ours)["eos_token_id"] == rundir.read_json(theirs)["eos_token_id"]
        else:
            assert ours.read_bytes() == theirs.read_bytes()
    assert rundir.verify_manifest(tmp_path / "hf") == []


def test_the_card_says_what_the_run_knows_and_nothing_of_this_machine(here, tmp_path):
    exporting.export(str(here / "run"), str(tmp_path / "hf"), licence="apache-2.0", name="Bot *1*", quiet=True)
    text = (tmp_path / "hf/README.md").read_text()
    head = yaml.safe_load(text.split("---")[1])
    assert head == {"library_name": "transformers", "tags": ["bottega", "hf"], "license": "apache-2.0"}
    record = rundir.read_json(here / "run/run.json")["stages"]["tune"]
    assert record["data"][0]["files"][0]["sha256"] in text
    assert "| tune | sft | lora |" in text and "Bot \\*1\\*" in text
    assert "chats\\|&lt;b&gt;.jsonl" in text and "<b>" not in text
    assert "| after | next | loss |" in text.replace("1-after", "after") and "95% interval" in text
    host = rundir.read_json(here / "run/host.json")["sessions"][0]["host"]
    assert str(here) not in text and (len(host) < 4 or host not in text)


def test_a_model_without_a_run_says_that_nothing_is_known(here, tmp_path):
    exporting.export(str(here / "model"), str(tmp_path / "hf"), dtype="bfloat16", quiet=True)
    assert "nothing is known of data" in (tmp_path / "hf/README.md").read_text()
    assert load_weights(tmp_path / "hf", dtype="bfloat16").dtype == torch.bfloat16


def test_an_adapter_is_given_away_alone_and_names_its_base(here, tmp_path, capsys):
    assert (
        door("export", here / "run", "--format", "peft", "--base", "me/base", "--out", tmp_path / "p", "--quiet") == 0
    )
    assert rundir.read_json(tmp_path / "p/adapter_config.json")["base_model_name_or_path"] == "me/base"
    assert 'base_model: "me/base"' in (tmp_path / "p/README.md").read_text()
    source = here / "run/stages/01-tune/result/adapter_model.safetensors"
    assert (tmp_path / "p/adapter_model.safetensors").read_bytes() == source.read_bytes()
    assert door("export", here / "model", "--format", "peft", "--out", tmp_path / "q", "--quiet") == 2
    assert "no adapter" in capsys.readouterr().err and not (tmp_path / "q").exists()


def test_a_gguf_of_a_run_answers_as_the_run(here, tmp_path, capsys):
    pytest.importorskip("gguf")
    words = ["--format", "gguf", "--quant", "f32", "--name", "bot", "--out", tmp_path / "g", "--quiet"]
    assert door("export", here / "run", *words) == 0
    assert "equal 1" in capsys.readouterr().out
    path = tmp_path / "g/bot-f32.gguf"
    ends = rundir.read_json(tmp_path / "g/generation_config.json")["eos_token_id"]
    from bottega.models.exports.gguf_header import check_gguf

    keys = check_gguf(path).keys
    assert {keys["tokenizer.ggml.eos_token_id"], keys["tokenizer.ggml.eot_token_id"]} == set(ends)
    how = {"max_tokens": 12, "quiet": True}
    assert use.generate(str(path), str(here / "prompts.txt"), **how) == use.generate(
        str(here / "run"), str(here / "prompts.txt"), **how
    )
    assert door("export", path, "--format", "hf", "--out", tmp_path / "hf", "--quiet") == 0
    assert "equal 1" in capsys.readouterr().out
    stage = {
        "objective": "sft",
        "data": str(here / "chats|<b>.jsonl"),
        "method": {"name": "lora", "rank": 2},
        "steps": 1,
        "batch": 2,
    }
    run(
        {"name": "again", "model": str(tmp_path / "hf"), "seed": 1, "stages": [{"tune": stage}]},
        out=tmp_path / "r",
        quiet=True,
    )
    with pytest.raises(
        UserError, match="is a GGUF file, .* to tune it, write its weights out first: bottega export .* --format hf"
    ):
        run(
            {"name": "again", "model": str(path), "seed": 1, "stages": [{"tune": stage}]},
            out=tmp_path / "s",
            quiet=True,
        )
    path.write_bytes(path.read_bytes()[:2000])
    capsys.readouterr()
    assert door("generate", path, "--prompts", here / "prompts.txt", "--quiet") == 4
    assert capsys.readouterr().err.count("\n") == 1


def test_an_onnx_graph_of_a_run(here, tmp_path):
    pytest.importorskip("onnxscript")
    facts = exporting.export(str(here / "run"), str(tmp_path / "o"), format="onnx", quiet=True)
    assert facts["equal"] == 1.0 and (tmp_path / "o/model.onnx").is_file() and (tmp_path / "o/tokenizer.json").is_file()


def test_an_export_that_does_not_prove_itself_leaves_nothing(here, tmp_path, monkeypatch):
    monkeypatch.setattr(proof, "TOLERANCE", -1.0)
    with pytest.raises(CheckFailed):
        exporting.export(str(here / "model"), str(tmp_path / "x"), quiet=True)
    assert list(tmp_path.iterdir()) == []


class Hub(BaseHTTPRequestHandler):
    """As much of a model hub as an upload of small files asks for."""

    seen: dict = {}

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        Hub.seen["token"] = self.headers.get("Authorization")
        if self.path == "/api/repos/create":
            Hub.seen["create"] = json.loads(body)
            return self.say({"url": f"{Hub.seen['url']}/me/bot"})
        if self.path.startswith("/api/validate-yaml"):
            return self.say({"warnings": [], "errors": []})
        if "/preupload/" in self.path:
            names = [one["path"] for one in json.loads(body)["files"]]
            return self.say({"files": [{"path": n, "uploadMode": "regular", "shouldIgnore": False} for n in names]})
        lines = [json.loads(line) for line in body.decode().splitlines()]
        Hub.seen["files"] = {
            one["value"]["path"]: base64.b64decode(one["value"]["content"]) for one in lines if one["key"] == "file"
        }
        return self.say({"commitUrl": f"{Hub.seen['url']}/me/bot/commit/1", "commitOid": "1" * 40, "success": True})

    def do_GET(self):
        self.say({"id": "me/bot", "sha": "1" * 40, "siblings": []})

    def say(self, data):
        raw = json.dumps(data).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, *words):
        pass


def test_a_push_uploads_the_folder_to_the_named_repository(here, tmp_path, monkeypatch):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_address[1]}"
    Hub.seen = {"url": url}
    folder = tmp_path / "p"
    exporting.export(str(here / "run"), str(folder), format="peft", base="me/base", quiet=True)
    monkeypatch.setattr(push, "is_offline", lambda: False)
    try:
        address = push.push(folder, "me/bot", endpoint=url, token="hf_secret")
    finally:
        server.shutdown()
        server.server_close()
    assert address == f"{url}/me/bot/commit/1" and Hub.seen["token"] == "Bearer hf_secret"
    assert Hub.seen["create"]["name"] == "bot" and Hub.seen["create"]["visibility"] == "private"
    wanted = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "MANIFEST.json"}
    assert Hub.seen["files"] == wanted
    assert not any(b"hf_secret" in content for content in wanted.values())


def test_a_push_offline_or_to_no_repository_is_refused_before_any_work(here, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert door("export", here / "run", "--out", tmp_path / "x", "--push", "me/bot", "--quiet") == 2
    assert capsys.readouterr().err == (
        "bottega: offline is set: nothing is pushed to me/bot; leave --push out, or unset HF_HUB_OFFLINE\n"
    )
    with pytest.raises(UserError, match="no repository"):
        push.check("../x")
    assert list(tmp_path.iterdir()) == []


def test_names_of_the_card_lose_their_folders():
    assert card.public_name("/home/anna/models/base") == "base" and card.public_name("Qwen/Qwen3-4B") == "Qwen/Qwen3-4B"
    assert card.public_name("../secret/base") == "base" and card.public_name("garzone") == "garzone"
