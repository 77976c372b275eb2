"""Flows and prompts: read, checked, in three languages, with judges whose examples agree with what they explain."""

from __future__ import annotations

import re
import shutil

import pytest

from bottega.core.errors import UserError
from bottega.grade.judge import verdict
from bottega.synth.flow import built_in, read_flow
from bottega.synth.flow_instructlab import read_config
from bottega.synth.flow_prompts import FOLDER, LANGUAGES, Prompts, read_prompts
from bottega.workshop.synthesis import synth
from tests.synth.teachers import knowledge_leaf, rows, skill_leaf

JUDGES = ("faithful", "relevant", "answerable", "question_check", "pair_score", "same_question")
NEGATIONS = {"en": r"\bnot\b|\bnor\b", "it": r"\bnon\b|\bné\b", "fi": r"\bei\b|\beikä\b"}


def test_the_three_languages_have_the_same_prompts_with_the_same_outputs_and_scales():
    files = [read_prompts(FOLDER / f"{code}.yaml") for code in LANGUAGES]
    for file in files[1:]:
        assert {name: (one.outputs, one.low, one.high, one.least) for name, one in file.prompts.items()} == {
            name: (one.outputs, one.low, one.high, one.least) for name, one in files[0].prompts.items()
        }
        assert set(file.personas) == set(files[0].personas)


@pytest.mark.parametrize("code", LANGUAGES)
@pytest.mark.parametrize("name", JUDGES)
def test_a_judge_s_examples_pass_one_and_fail_one_and_agree_with_their_explanations(code, name):
    """The reply read back by the judge's own reader gives the verdict; a pass is explained without a negation, a failure with
    one; and what the explanation quotes stands in what was judged."""
    prompt = Prompts(language=code).find(name)
    text = prompt.text
    assert {example.accept for example in text.examples} == {True, False}
    for example in text.examples:
        reader = prompt.parse(text.outputs)
        (read,) = reader.read(reader.write(example.reply))
        score = verdict(read[text.outputs[-1]], low=text.low, high=text.high)
        assert score is not None and (score >= text.least) == example.accept
        explanation = example.reply["explanation"]
        assert bool(re.search(NEGATIONS[code], explanation)) != example.accept, explanation
        given = " ".join(example.given.values()).lower()
        quoted = re.findall(r'"([^"]+)"', explanation)
        assert quoted and all(one.lower() in given for one in quoted), (explanation, given)


def test_every_judge_is_tested_here():
    found = {name for name, one in read_prompts(FOLDER / "en.yaml").prompts.items() if one.least is not None}
    assert found == set(JUDGES)


def test_a_prompt_shows_examples_as_turns_and_any_number_of_pairs():
    turns = Prompts(language="en").find("faithful").turns({"document": "d", "question": "q", "response": "r"})
    assert [turn.role for turn in turns] == ["system", "user", "assistant", "user", "assistant", "user"]
    pairs = [{"question": f"why {n}", "answer": f"so {n}"} for n in range(7)]
    row = {"document": "text", "document_outline": "o", "domain": "d", "icl_document": "i", "pairs": pairs}
    asked = Prompts(language="it").find("knowledge_qa").turns(row, "creative")[-1].content
    assert all(f"why {n}" in asked and f"so {n}" in asked for n in range(7)) and "[Start of Response]\n..." in asked


@pytest.mark.parametrize("name", sorted(built_in()))
def test_every_flow_of_the_package_is_read(name):
    flow = read_flow(name)
    assert flow.name == name and flow.about and flow.stages and flow.trusted


def test_mistakes_in_a_flow_are_told_with_their_place_all_at_once(tmp_path):
    (tmp_path / "flow.yaml").write_text(
        "name: x\nabout: y\nblocks:\n  - {block: generat, prompt: p}\n  - {block: judge, prompt: faithful, vote: 3}\n"
        "  - {block: dedupe}\n  - {block: sample, share: 2.0}\n"
    )
    with pytest.raises(UserError) as told:
        read_flow(tmp_path / "flow.yaml")
    lines = str(told.value).split("\n")
    assert len(lines) == 4
    assert "flow.yaml:4:" in lines[0] and "did you mean generate" in lines[0]
    assert "flow.yaml:5:" in lines[1] and "did you mean votes" in lines[1]
    assert "needs 'columns'" in lines[2] and "share is 2" in lines[3]
    with pytest.raises(UserError, match="did you mean knowledge"):
        read_flow("knowlege")


@pytest.mark.parametrize(
    "name",
    ["full/knowledge", "full/freeform_skills", "full/grounded_skills", "llama/knowledge", "llama/freeform_skills",
     "llama/grounded_skills", "simple/knowledge", "simple/freeform_skills", "simple/grounded_skills", "eval/mmlu_bench"],
)  # fmt: skip
def test_instructlab_s_pipelines_load(shared_data, name):
    flow = read_flow(shared_data(f"instructlab/pipelines/{name}.yaml"))
    assert flow.stages and not flow.trusted


def test_instructlab_s_prompts_render_with_the_row_s_values_and_a_missing_one_is_told(shared_data):
    config = read_config(shared_data("instructlab/configs/skills/freeform_questions.yaml"))
    turns = config.turns(
        {"num_samples": 30, "task_description": "find synonyms", "seed_question": "what is {{ 7*7 }}?"}
    )
    assert "a set of 30 diverse questions - find synonyms" in turns[1].content
    assert "{{ 7*7 }}" in turns[1].content, "a value is no template"
    assert turns[0].content.startswith("You are a very knowledgeable")
    with pytest.raises(UserError, match="task_description"):
        config.turns({"num_samples": 1, "seed_question": "q"})


@pytest.mark.parametrize("kind", ["freeform", "grounded", "knowledge"])
def test_instructlab_s_pipelines_run(shared_data, tmp_path, kind):
    """The full pipelines against a server that answers in their tags."""
    from tests.models.endpoint import Endpoint

    def answer(request):
        asked = request["messages"][-1]["content"]
        name = abs(hash((asked, request.get("seed")))) % 10**6
        if "[QUESTION]" in asked:
            return f"[QUESTION]\nWhat is thing {name}?\n[ANSWER]\nThing {name} is a thing.\n[END]"
        if "[End of Rating]" in asked:
            return "[Start of Explanation]ok[End of Explanation][Start of Rating]1[End of Rating]"
        if "[Start of Feedback]" in asked:
            return "[Start of Feedback]ok[End of Feedback][Start of Score]2[End of Score]"
        if "Answer YES or NO" in asked:
            return "[Start of Explanation]ok[End of Explanation][Start of Answer]YES[End of Answer]"
        if "binary 0/1" in asked or "scale of 0 or 1" in asked:
            return "[Start of Evaluation]ok[End of Evaluation][Start of Score]1[End of Score]"
        if "scale of 1 to 3" in asked:
            return "[Start of Evaluation]ok[End of Evaluation][Start of Score]3[End of Score]"
        if "Return each question" in asked:
            return f"[Start of Question]\nWhat is {name}?\n[End of Question]"
        if "Start your response with the tag [Start of Context]" in asked:
            return f"[Start of Context]\nA text about {name}.\n[End of Context]"
        return (
            f"[Start of Response]\nIt is {name}.\n[End of Response]"
            if "[End of Response]" in asked
            else f"Checked {name}."
        )

    if kind == "knowledge":
        knowledge_leaf(tmp_path / "tax", "observatory")
    else:
        leaf = skill_leaf(tmp_path / "tax", "synonyms")
        if kind == "grounded":
            leaf.write_text(leaf.read_text().replace("    answer:", "    context: A swift river runs.\n    answer:"))
    name = {"freeform": "freeform_skills", "grounded": "grounded_skills", "knowledge": "knowledge"}[kind]
    flow = str(shared_data(f"instructlab/pipelines/full/{name}.yaml"))
    options = {"teacher_model": "m", "samples": 3, "quiet": True, "flow": flow, "documents": "contexts"}
    with Endpoint(answer=answer) as server:
        result = synth(str(tmp_path / "tax"), teacher=server.url, out=str(tmp_path / "out"), **options)
    made = rows(tmp_path / "out" / "train.jsonl")
    assert result["exit_code"] == 0 and len(made) == 3, result["ended"]
    if kind == "grounded":
        assert made[0]["messages"][0]["content"].startswith("A text about")


def test_a_stranger_s_template_that_reaches_out_fails_its_leaf_alone(shared_data, tmp_path):
    folder = tmp_path / "lab"
    shutil.copytree(shared_data("instructlab/configs"), folder / "configs")
    (folder / "pipelines" / "full").mkdir(parents=True)
    source = shared_data("instructlab/pipelines/full/freeform_skills.yaml")
    shutil.copy(source, folder / "pipelines" / "full")
    config = folder / "configs" / "skills" / "freeform_questions.yaml"
    config.write_text(config.read_text().replace("{{seed_question}}", "{{seed_question.__class__}}"))
    skill_leaf(tmp_path / "tax", "synonyms")
    flow = str(folder / "pipelines" / "full" / "freeform_skills.yaml")
    result = synth(str(tmp_path / "tax"), teacher="template", out=str(tmp_path / "out"), flow=flow, quiet=True)
    assert result["exit_code"] == 9 and "__class__" in str(result["ended"])
