"""Each format's rows to samples, found by looking; and each kind of bad row with its column.

Left out: reading files (test_sources.py), masks (test_masks.py).
"""

from __future__ import annotations

import pytest

from bottega.core.errors import UserError
from bottega.core.types import Conversation, Document, Labelled, Preference, Turn
from bottega.data.formats import FORMATS, detect, samples
from bottega.data.sources import Problem

ASK, SAY = Turn(role="user", content="q"), Turn(role="assistant", content="a")
U, A = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
GOOD, BAD = Turn(role="assistant", content="good"), Turn(role="assistant", content="bad")


def one(write, row, **options):
    found = list(samples(write("rows.jsonl", [row]), **options))
    assert len(found) == 1
    return found[0]


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [U, A]},
        {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
        {"instruction": "q", "output": "a"},
        {"instruction": "q", "input": "", "output": "a"},
        {"prompt": "q", "completion": "a"},
        {"prompt": "q", "response": "a"},
        {"prompt": [U], "completion": [A]},
        {"question": "q", "answer": "a"},
        {"inputs": "q", "targets": "a", "question": "other", "answer": "0"},
        {"context": "q", "continuation": "a"},
        {"input": "q", "output": "a"},
        {"prompt": "\n\nHuman: q\n\nAssistant:", "response": "a"},
    ],
)
def test_each_way_to_write_one_exchange_is_found_and_means_the_same(write, row):
    sample = one(write, row)
    assert isinstance(sample, Conversation) and sample.turns == (ASK, SAY)
    assert sample.where.row == 1


def test_alpaca_joins_input_and_keeps_system_and_history(write):
    row = {"system": "s", "instruction": "q", "input": "i", "output": "a", "history": [["q0", "a0"]]}
    turns = one(write, row).turns
    assert [(t.role, t.content) for t in turns] == [
        ("system", "s"),
        ("user", "q0"),
        ("assistant", "a0"),
        ("user", "q\n\ni"),
        ("assistant", "a"),
    ]


def test_sharegpt_knows_calls_observations_tools_and_system(write):
    row = {
        "conversations": [
            {"from": "human", "value": "q"},
            {"from": "function_call", "value": '{"name": "f", "arguments": {"x": 1}}'},
            {"from": "observation", "value": "7"},
            {"from": "gpt", "value": "a"},
        ],
        "system": "s",
        "tools": '[{"name": "f", "parameters": {}}]',
    }
    sample = one(write, row)
    assert [turn.role for turn in sample.turns] == ["system", "user", "assistant", "tool", "assistant"]
    assert sample.turns[2].tool_calls[0]["function"] == {"name": "f", "arguments": {"x": 1}}
    assert sample.tools[0] == {"type": "function", "function": {"name": "f", "parameters": {}}}


def test_openai_messages_keep_tools_calls_ids_thinking_parts_and_weights(write):
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}
    row = {
        "messages": [
            {"role": "developer", "content": "s"},
            {"role": "user", "content": [{"type": "text", "text": "q"}]},
            {"role": "assistant", "content": None, "tool_calls": [call], "reasoning_content": "hm"},
            {"role": "tool", "content": "7", "tool_call_id": "c", "name": "f"},
            {"role": "assistant", "content": "a", "weight": 0.5},
        ],
        "tools": [{"type": "function", "function": {"name": "f"}}],
        "id": 12,
    }
    sample = one(write, row)
    system, user, calling, tool, last = sample.turns
    assert system.role == "system" and user.content == "q"
    assert calling.thinking == "hm" and calling.tool_calls[0]["function"]["arguments"] == {"x": 1}
    assert tool.tool_call_id == "c" and tool.name == "f" and last.weight == 0.5
    assert sample.meta == {"id": 12}


def test_instructlab_rows_with_unmask_train_all_turns_but_the_system(write):
    row = {"messages": [{"role": "system", "content": "s"}, U, A], "unmask": True, "metadata": "{}"}
    assert [turn.weight for turn in one(write, row).turns] == [None, 1.0, 1.0]
    assert [turn.weight for turn in one(write, row | {"unmask": False}).turns] == [None, None, None]


def test_instructlab_pretraining_rows_are_taken_apart_at_their_marks(write):
    row = {"messages": [{"role": "pretraining", "content": "<|user|>\nq\n<|assistant|>\na"}]}
    assert [(t.role, t.content, t.weight) for t in one(write, row).turns] == [
        ("user", "q", 1.0),
        ("assistant", "a", 1.0),
    ]
    assert one(write, {"messages": [{"role": "pretraining", "content": "only text"}]}).text == "only text"


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "q", "chosen": "good", "rejected": "bad"},
        {"question": "q", "chosen": "good", "rejected": "bad"},
        {
            "chosen": [U, {"role": "assistant", "content": "good"}],
            "rejected": [U, {"role": "assistant", "content": "bad"}],
        },
        {
            "prompt": "q",
            "chosen": [U, {"role": "assistant", "content": "good"}],
            "rejected": [{"role": "assistant", "content": "bad"}],
        },
        {
            "prompt": [U],
            "chosen": {"role": "assistant", "content": "good"},
            "rejected": {"role": "assistant", "content": "bad"},
        },
        {"chosen": "\n\nHuman: q\n\nAssistant: good", "rejected": "\n\nHuman: q\n\nAssistant: bad"},
        {
            "conversations": [{"from": "human", "value": "q"}],
            "chosen": {"from": "gpt", "value": "good"},
            "rejected": {"from": "gpt", "value": "bad"},
        },
        {
            "chosen": {"messages": [U, {"role": "assistant", "content": "good"}]},
            "rejected": {"messages": [U, {"role": "assistant", "content": "bad"}]},
        },
    ],
)
def test_each_way_to_write_a_preference_means_the_same(write, row):
    sample = one(write, row)
    assert isinstance(sample, Preference)
    assert (sample.prompt, sample.chosen, sample.rejected) == ((ASK,), (GOOD,), (BAD,))


def test_a_preference_has_its_margin_from_the_margin_or_the_scores(write):
    row = {"prompt": "q", "chosen": "good", "rejected": "bad"}
    assert one(write, row | {"margin": 0.6}).margin == 0.6
    assert one(write, row | {"score_chosen": 3, "score_rejected": 1.0}).margin == 2.0
    assert one(write, row).margin is None


def test_a_transcript_shares_all_turns_up_to_the_first_difference(write):
    start = "\n\nHuman: q\n\nAssistant: a\n\nHuman: more"
    sample = one(write, {"chosen": start + "\n\nAssistant: good", "rejected": start + "\n\nAssistant: bad"})
    assert [turn.content for turn in sample.prompt] == ["q", "a", "more"]
    assert (sample.chosen, sample.rejected) == ((GOOD,), (BAD,))


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "q", "completion": "a", "label": True},
        {"prompt": [U], "completion": [A], "label": True},
        {"messages": [U, A], "label": True},
        {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}], "kto_tag": "true"},
    ],
)
def test_unpaired_preferences_have_a_prompt_an_answer_and_a_label(write, row):
    sample = one(write, row)
    assert isinstance(sample, Labelled) and (sample.prompt, sample.text, sample.label) == ((ASK,), "a", True)


def test_labelled_texts_keep_classes_numbers_and_lists(write):
    for label, kept in (("spam", "spam"), (3, 3), (0.5, 0.5), (["a", "b"], ("a", "b"))):
        sample = one(write, {"text": "t", "label": label})
        assert isinstance(sample, Labelled) and sample.label == kept and sample.text == "t"


def test_scored_answers_pair_the_best_with_each_lower_one(write):
    row = {
        "prompt": "q",
        "responses": [{"text": "bad", "score": -1}, {"text": "good", "score": 2}, {"text": "fair", "score": 1}],
    }
    first, second = samples(write("rows.jsonl", [row]))
    assert (first.chosen, first.rejected[0].content, first.margin) == ((GOOD,), "fair", 1.0)
    assert (second.rejected, second.margin) == ((BAD,), 3.0)


LMFLOW = {
    "text_only": ({"text": "t"}, Document),
    "text2text": ({"input": "q", "output": "a"}, Conversation),
    "conversation": ({"system": "s", "tools": ["f"], "messages": [U, A]}, Conversation),
    "paired_conversation": (
        {"chosen": {"messages": [U, A]}, "rejected": {"messages": [U, {"role": "assistant", "content": "b"}]}},
        Preference,
    ),
    "paired_text_to_text": ({"prompt": "q", "chosen": "a", "rejected": "b", "margin": 0.6}, Preference),
    "text_to_textlist": ({"input": "q", "output": ["a", "b"]}, Conversation),
    "text_to_scored_textlist": (
        {"input": "q", "output": [{"score": 1.0, "text": "a"}, {"score": -0.8, "text": "b"}]},
        Preference,
    ),
    "float_only": ({"value": "0.5"}, Labelled),
}


@pytest.mark.parametrize("name", LMFLOW)
def test_lmflow_files_name_their_type(write, name):
    row, kind = LMFLOW[name]
    found = list(samples(write("rows.json", {"type": name, "instances": [row, row]})))
    assert len(found) >= 2 and all(isinstance(sample, kind) for sample in found)
    assert found[-1].where.row == 2


def test_an_image_row_is_refused_with_a_sentence(write):
    found = list(samples(write("rows.json", {"type": "image_text", "instances": [{"images": ["a.png"], "text": "t"}]})))
    assert isinstance(found[0], Problem) and "vision is out of scope" in found[0].reason
    part = one(write, {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}, A]})
    assert part.where.column == "messages[0].content" and "vision and sound are out of scope" in part.reason


@pytest.mark.parametrize(
    ("row", "column", "reason"),
    [
        ({"messages": [{"role": "robot", "content": "x"}, A]}, "messages[0].role", "the role 'robot' is not one of"),
        ({"messages": [U, {"role": "assistant", "content": " "}]}, "messages[1].content", "an answer without text"),
        (
            {"messages": [U, {"role": "assistant", "content": None}]},
            "messages[1].content",
            "expected a text, found nothing",
        ),
        ({"messages": []}, "messages", "at least one turn"),
        ({"messages": "hello"}, "messages", "not JSON"),
        (
            {"messages": [{**U, "weight": -1}, A]},
            "messages[0].weight",
            "the weight -1 is not a number from 0 to a million",
        ),
        ({"prompt": "q", "response": ""}, "response", "an answer without text"),
        ({"prompt": "q", "chosen": "x", "rejected": "x"}, "rejected", "the same"),
        (
            {"chosen": "\n\nHuman: q\n\nAssistant: a", "rejected": "\n\nHuman: q\n\nAssistant:"},
            "rejected",
            "no answer after",
        ),
        ({"prompt": "q", "completion": "a", "label": "maybe"}, "label", "neither true nor false"),
        ({"text": "   "}, "text", "a text without a character"),
        ({"text": "t", "label": {"a": 1}}, "label", "expected a class or a number, found dict"),
        (
            {"conversations": [{"from": "function_call", "value": "f("}]},
            "conversations[0]",
            "the function call is not JSON",
        ),
        (
            {"prompt": "q", "responses": [{"text": "a", "score": 1}, {"text": "b", "score": 1}]},
            "responses",
            "all scores are 1",
        ),
    ],
)
def test_a_bad_row_is_named_with_its_column_and_reason(write, row, column, reason):
    problem = one(write, row)
    assert isinstance(problem, Problem)
    assert problem.where.column == column and reason in problem.reason


def test_a_row_that_lacks_a_column_of_its_file_is_named(write):
    found = list(samples(write("rows.jsonl", [{"prompt": "q", "response": "a"}] * 3 + [{"prompt": "q"}])))
    assert (
        found[3].where.row == 4 and "there is no column" in found[3].reason and "the row has prompt" in found[3].reason
    )


def test_columns_that_fit_no_format_are_listed_with_the_remedy(write):
    with pytest.raises(
        UserError, match="no known format has the columns foo, bar; name one of messages, .* or map your columns"
    ):
        list(samples(write("rows.jsonl", [{"foo": 1, "bar": 2}])))
    mapped = one(write, {"foo": "q", "bar": "a"}, columns={"prompt": "foo", "response": "bar"})
    assert mapped.turns == (ASK, SAY)
    with pytest.raises(UserError, match="there is no format 'alpacca'"):
        one(write, {"foo": 1}, format="alpacca")


def test_a_table_of_a_csv_file_with_messages_as_json_text_is_read(write):
    path = write(
        "a.csv",
        'messages,topic\n"[{""role"": ""user"", ""content"": ""q""}, '
        '{""role"": ""assistant"", ""content"": ""a""}]",x\n',
    )
    (sample,) = samples(path)
    assert sample.turns == (ASK, SAY) and sample.meta == {"topic": "x"}


def test_every_file_of_a_folder_has_its_own_format(write, tmp_path):
    write("a.jsonl", [{"prompt": "q", "response": "a"}])
    write("b.jsonl", [{"text": "t"}])
    assert [type(sample) for sample in samples(tmp_path)] == [Conversation, Document]


def test_the_format_is_the_one_that_most_rows_look_like():
    rows = [{"text": "t"}, {"prompt": "q", "response": "a"}, {"prompt": "q", "response": "a"}]
    assert detect(rows) == "prompt_completion"
    assert all(callable(function) for function in FORMATS.values())


def test_real_files_are_recognised(shared_data):
    gsm8k = list(samples(shared_data("gsm8k/train.jsonl")))
    assert len(gsm8k) == 2000 and all(isinstance(sample, Conversation) for sample in gsm8k)
    pairs = list(samples(shared_data("hh_rlhf/pairs.jsonl")))
    assert sum(isinstance(sample, Preference) for sample in pairs) == 1196
    lost = {str(sample.reason) for sample in pairs if isinstance(sample, Problem)}
    assert lost == {"no answer after what both sides share"}
