"""Every flow of the package runs to its rows, against a real HTTP server that answers in the form asked for (row L9); programs in the
sandbox. What a real model makes of them is in benchmarks/flows.py.
"""

from __future__ import annotations

import asyncio
import hashlib
import re

import pytest

from bottega.core.errors import UserError
from bottega.core.journal import Journal
from bottega.core.types import Reply, Turn
from bottega.data.chat import Template, encode_prompt
from bottega.data.opening import encode_opening
from bottega.grade import sandbox
from bottega.models.load import load_tokenizer
from bottega.models.locate import locate
from bottega.synth.blocks import Context
from bottega.synth.blocks_code import program_passes
from bottega.synth.blocks_opening import first_message
from bottega.synth.flow import built_in
from bottega.synth.flow_prompts import Prompts
from bottega.synth.pipeline_account import Account, Step
from bottega.synth.teacher import Asker
from bottega.workshop.evaluating import evaluate
from bottega.workshop.synthesis import synth
from tests.models.endpoint import Endpoint
from tests.synth.teachers import knowledge_leaf, rows, skill_leaf

READING = {"reader", "reader_long"}
"""Flows of a teacher that goes on with texts: tests/synth/test_blocks_reading.py."""
KINDS = {
    "knowledge": "knowledge",
    "knowledge_brief": "knowledge",
    "multiple_choice": "knowledge",
    "grounded_skill": "grounded",
}
FORMS = {"dialogue": "messages", "preference": "chosen", "multiple_choice": "choices"}
THINGS = (
    "about the ring of", "with the lamp under", "for visitors who climb", "after rain has cooled",
    "when Marta measures", "beside old maps in", "that students polish for", "without any shadow on",
)  # fmt: skip
needs_sandbox = pytest.mark.skipif(sandbox.missing() is not None, reason=f"no sandbox: {sandbox.missing()}")


def obliging(request: dict) -> str:
    """What each tag of the form asks for; different for each prompt and seed, in sentences that the language block takes."""
    asked = "\n".join(turn["content"] for turn in request["messages"])
    number = int(hashlib.sha256(f"{asked}{request.get('seed')}".encode()).hexdigest()[:6], 16)
    task = re.findall(r"number_(\d+)", asked)
    known = task[-1] if task else str(number)
    said = {
        "Verdict": "YES",
        "Score": "3" if number % 3 else "2",
        "Explanation": "It is clear.",
        "Tests": f"```python\nassert number_{known}(1) == 2\nassert number_{known}(-1) == 0\n```",
        "Question": f"What does the function number_{number} {THINGS[number % 8]} {THINGS[number // 8 % 8]} the observatory give?",
        "Response": f"It gives the number after it.\n```python\ndef number_{known}(n):\n    return n + 1\n```",
        "Answer": "B) copper",
    }
    if "code" not in asked:
        said["Response"] = (
            f"The answer {THINGS[number % 8]} {THINGS[number // 8 % 8]} thing {number} of the question is 12."
        )
    if "other ways" in asked:
        original = re.search(r"\[Start of Question\]\n(.*?)\n", asked)
        said["Question"] = (
            f"Say {THINGS[number % 8]} me {THINGS[number // 8 % 8]} you: {original[1] if original else ''}"
        )
    if "multiple choice" in asked:
        said["Question"] = f"Of what is dome {number} of the observatory made?\nA) wood\nB) copper\nC) glass\nD) stone"
    tags = re.findall(r"\[Start of ([^\]]+)\]\n\.\.\.\n\[End", asked)
    text = said | {tag: f"The text about thing {number} of the observatory." for tag in tags if tag not in said}
    return "\n".join(f"[Start of {tag}]\n{text[tag]}\n[End of {tag}]" for tag in tags) or f"Cleaned text {number}."


@pytest.mark.parametrize("name", sorted(set(built_in()) - READING - {"code"}))
def test_every_flow_makes_the_rows_of_its_form(name, tmp_path):
    kind = KINDS.get(name, "freeform")
    if kind == "knowledge":
        knowledge_leaf(tmp_path / "tax", "observatory")
    else:
        path = skill_leaf(tmp_path / "tax", "words")
        if kind == "grounded":
            text = path.read_text().replace(
                "    answer:", "    context: The old clock is shown on Sundays.\n    answer:"
            )
            path.write_text(text)
    with Endpoint(answer=obliging) as server:
        documents = {"documents": "contexts"} if kind == "knowledge" else {}
        facts = synth(
            str(tmp_path / "tax"), teacher=server.url, teacher_model="m", flow=name, out=str(tmp_path / "out"), samples=4,
            quiet=True, **documents,
        )  # fmt: skip
    made = rows(tmp_path / "out" / "train.jsonl")
    assert facts["exit_code"] == 0 and len(made) == 4 == facts["kept"], facts
    assert all(FORMS.get(name, "messages") in row for row in made)
    if name == "dialogue":
        assert [turn["role"] for turn in made[0]["messages"]] == ["user", "assistant"] * 3
    if name == "multiple_choice":
        assert made[0]["choices"] == ["wood", "copper", "glass", "stone"] and made[0]["gold"] == 1 and made[0]["leaf"]


def test_multiple_choice_questions_about_documents_are_a_task_as_they_are(tmp_path):
    for name in ("observatory", "garden"):
        knowledge_leaf(tmp_path / "tax", name)
    with Endpoint(answer=obliging) as server:
        synth(
            str(tmp_path / "tax"), teacher=server.url, teacher_model="m", flow="multiple_choice", out=str(tmp_path / "out"), samples=3,
            quiet=True, documents="contexts",
        )  # fmt: skip
    (score,) = evaluate("garzone", [str(tmp_path / "out" / "train.jsonl")], quiet=True).scores
    assert score.kind == "multiple_choice" and score.n >= 4 and score.random == 0.25
    assert {item.group for item in score.items} == {"knowledge/observatory/qna.yaml", "knowledge/garden/qna.yaml"}


@needs_sandbox
def test_programs_pass_tests_that_were_written_apart_from_them(tmp_path):
    """Half of the answers are wrong: those go, with the share of tests that they pass."""

    def half(request: dict) -> str:
        said = obliging(request)
        number = re.search(r"def number_(\d+)", said)
        return said.replace("n + 1", "n + 2 if n < 0 else n + 1") if number and int(number[1]) % 2 else said

    skill_leaf(tmp_path / "tax", "functions", about="Write a function of whole numbers.")
    with Endpoint(answer=half) as server:
        synth(
            str(tmp_path / "tax"),
            teacher=server.url,
            teacher_model="m",
            flow="code",
            out=str(tmp_path / "out"),
            samples=5,
            quiet=True,
        )
    made, gone = rows(tmp_path / "out" / "train.jsonl"), rows(tmp_path / "out" / "rejects.jsonl")
    assert len(made) == 5 and all("def number_" in row["messages"][1]["content"] for row in made)
    failed = [row for row in gone if row["reason"] == "the program fails its tests"]
    assert failed and {row["score"] for row in failed} == {0.5}


@needs_sandbox
@pytest.mark.parametrize(
    ("tests", "code", "said"),
    [
        ("assert f(1) == 2\nassert f(2) == 3", "def f(n): return n + 1", ""),
        ("assert f(1) == 2\nassert f(2) == 4", "def f(n): return n + 1", "the program fails its tests"),
        ("assert True\nassert 1 == 1", "def f(n): return n", "the tests pass without a program"),
        ("assert f(1) == 2", "def f(n): return n + 1", "too few tests"),
        ("assert f(1) == \nassert f(", "def f(n): return n + 1", "the tests are no tests"),
        ("assert f(1) == 2\nassert f(2) == 3", "while True: pass", "the program fails its tests"),
        ("assert f(1) == 2\nassert f(2) == 3", "import os\nos.kill(os.getppid(), 9)", "the program fails its tests"),
    ],
)
def test_what_cannot_be_verified_goes_with_its_reason(tests, code, said):
    account = Account(leaf="l", sink=lambda row: None)
    context = Context(account=account, step=Step(name="run"), asker=None, language="en", wanted=lambda: 1)

    async def through() -> list[dict]:
        async def given():
            yield {"response": f"So:\n```python\n{code}\n```", "tests": tests}

        return [row async for row in program_passes(code="response", tests="tests", seconds=2.0)(given(), context)]

    kept = asyncio.run(through())
    assert [row["tests"] for row in kept] == ([tests] if not said else [])
    assert list(context.step.rejected) == ([said] if said else [])


def test_without_a_sandbox_nothing_is_run(monkeypatch):
    monkeypatch.setattr(sandbox, "missing", lambda: "there is none")
    context = Context(
        account=Account(leaf="l", sink=lambda row: None),
        step=Step(name="run"),
        asker=None,
        language="en",
        wanted=lambda: 1,
    )

    async def through() -> None:
        async def given():
            yield {"response": "x", "tests": "y"}

        async for _ in program_passes(code="response", tests="tests")(given(), context):
            pass

    with pytest.raises(UserError, match="there is none"):
        asyncio.run(through())


class Beginner:
    """A Responder that goes on from the beginning of a user's turn."""

    identity, opens = "beginner", True

    def __init__(self, said: list[str]) -> None:
        self.said, self.asked = said, []

    async def respond(self, turns, **sampling):
        self.asked.append([(turn.role, turn.content) for turn in turns])
        return Reply(text=self.said[len(self.asked) - 1], finish="length" if len(self.asked) == 3 else "stop")


def test_a_teacher_that_can_go_on_is_given_the_raw_beginning_of_a_users_message(tmp_path):
    """Messages without an end or without words go; the system message names the leaf's subject."""
    teacher = Beginner([" Which words mean swift? ", "  ", "Tell me everything about", "Why?"])
    account, step = Account(leaf="l", sink=lambda row: None), Step(name="first")

    async def through() -> list[dict]:
        with Journal(tmp_path / "j.sqlite") as journal:
            context = Context(
                account=account, step=step, asker=Asker(teacher, journal), language="it", wanted=lambda: 4,
                prompts=Prompts(language="it"),
            )  # fmt: skip

            async def given():
                for number in range(4):
                    yield {"task_description": "Trova un sinonimo.", "document_outline": "", "_number": number}

            block = first_message(prompt="self_question", opening="self_opening")
            return [row async for row in block(given(), context)]

    assert [row["question"] for row in asyncio.run(through())] == ["Which words mean swift?", "Why?"]
    assert teacher.asked[0][-1] == ("user", "") and teacher.asked[0][0][0] == "system"
    assert "in italiano - Trova un sinonimo." in teacher.asked[0][0][1]
    assert dict(step.rejected) == {"teacher: no end": 2}


@pytest.mark.parametrize(
    ("name", "begins"),
    [("chatml", "<|im_start|>user\n"), ("llama3", "<|start_header_id|>user"), ("zephyr", "<|user|>")],
)
def test_the_beginning_of_a_users_message_is_what_the_template_says(name, begins):
    tokenizer = load_tokenizer(locate("garzone").folder)
    template = Template.find(name, tokenizer)
    ids = encode_opening([Turn(role="system", content="Be kind.")], tokenizer, template)
    text = tokenizer.decode(ids)
    assert "Be kind." in text and begins in text.split("Be kind.")[1]
    whole = tokenizer.decode(
        encode_prompt([Turn(role="system", content="Be kind."), Turn(role="user", content="Hi")], tokenizer, template)
    )
    assert whole.startswith(text.rstrip()) and whole[len(text.rstrip()) :].lstrip().startswith("Hi")


def test_an_endpoint_whose_template_is_here_is_sent_the_raw_beginning_and_one_that_chats_is_asked(tmp_path):
    skill_leaf(tmp_path / "tax", "words")

    def answer(request: dict) -> str:
        if "messages" in request:
            return obliging(request)
        if request["prompt"].rstrip().endswith("<|user|>"):
            return f" Say {THINGS[request['seed'] // 16 % 8]} me a word for swift? "
        return obliging({"messages": [{"content": request["prompt"]}], "seed": request.get("seed")})

    for api in ("completions", "chat"):
        with Endpoint(answer=answer) as server:
            more = {"tokenizer": "garzone"} if api == "completions" else {}
            out = tmp_path / api
            facts = synth(
                str(tmp_path / "tax"), teacher=server.url, teacher_model="m", flow="self_prompting", out=str(out), samples=2,
                quiet=True, api=api, paraphrases=0, **more,
            )  # fmt: skip
        assert facts["kept"] == 2, facts
        said = [row["messages"][0]["content"] for row in rows(out / "train.jsonl")]
        assert all(text.startswith("Say ") == (api == "completions") for text in said)
