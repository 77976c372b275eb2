"""What the verbs show: inspect, check, stats, convert; JSON and lines.

Left out: the command line itself.
"""

from __future__ import annotations

import json

import pytest

from bottega.core.errors import UserError
from bottega.data.convert import WRITERS, convert
from bottega.data.formats import samples
from bottega.data.inspect import inspect, render
from bottega.data.report import check, quantiles, render_check, render_stats, stats

U, A = {"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Anna."}
CHATS = [{"messages": [U, A]}, {"messages": [U, A, U, {"role": "assistant", "content": "Ä" * 30}]}]


def test_inspect_shows_each_token_with_its_mask(write, tokenizer):
    result = inspect(write("a.jsonl", CHATS), tokenizer, "chatml", row=1)
    (sequence,) = result["sequences"]
    assert "".join(token["text"] for token in sequence["tokens"]) == (
        "<s><|im_start|>user\nWho?<|im_end|>\n<|im_start|>assistant\nAnna.<|im_end|>\n"
    )
    assert sequence["trained"] == ["Anna.<|im_end|>"] and sequence["num_trained"] == 6
    assert json.loads(json.dumps(result)) == result
    assert result["template"]["name"] == "chatml" and len(result["template"]["sha256"]) == 64


def test_inspect_renders_with_and_without_colour(write, tokenizer):
    result = inspect(write("a.jsonl", CHATS), tokenizer, "chatml", row=2)
    plain, coloured = render(result, colour=False), render(result, colour=True)
    assert "⟦A|n|n|a|.|<|im_end|>⟧" in plain and "\x1b[" not in plain
    assert "\x1b[30;42mA\x1b[0m" in coloured and "Ä" in plain
    assert "conversation: " in plain


def test_a_letter_of_several_tokens_is_shown_once(write, tokenizer):
    result = inspect(write("a.jsonl", [{"text": "aÄ"}]), tokenizer)
    assert [token["text"] for token in result["sequences"][0]["tokens"]] == ["<s>", "a", "Ä", "", "</s>"]


def test_inspect_of_a_preference_shows_both_sides_and_their_shared_prefix(write, tokenizer):
    path = write("a.jsonl", [{"prompt": "q", "chosen": "good", "rejected": "bad"}])
    result = inspect(path, tokenizer, "zephyr")
    assert [s["trained"] for s in result["sequences"]] == [["good</s>"], ["bad</s>"]]
    assert result["shared_prefix_tokens"] > 0


def test_inspect_notes_a_row_that_is_too_long_or_teaches_nothing(write, tokenizer):
    path = write("a.jsonl", [{"messages": [U, {**A, "weight": 0}]}])
    notes = inspect(path, tokenizer, "chatml", max_tokens=5)["notes"]
    assert any("more than max_tokens 5" in note for note in notes)
    assert any("nothing to learn in this row" in note for note in notes)


@pytest.mark.parametrize(
    ("source", "agree"),
    [
        (
            "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}</s>"
            "{% endgeneration %}"
            "{% else %}{{ m.content }}{% endif %}{% endfor %}",
            True,
        ),
        (
            "{% for m in messages %}{% if m.role == 'user' %}{% generation %}{{ m.content }}</s>{% endgeneration %}"
            "{% else %}{{ m.content }}</s>{% endif %}{% endfor %}",
            False,
        ),
        ("{% for m in messages %}{{ m.content }}</s>{% endfor %}", None),
    ],
)
def test_generation_marks_of_a_template_are_a_cross_check(write, tokenizer, tmp_path, source, agree):
    (tmp_path / "t.jinja").write_text(source)
    result = inspect(write("a.jsonl", CHATS), tokenizer, str(tmp_path / "t.jinja"))
    assert result["template_marks_agree"] is agree
    assert ("DISAGREE" in render(result, colour=False)) == (agree is False)


def test_inspect_of_a_row_that_is_not_there_or_bad_is_one_sentence(write, tokenizer):
    path = write("a.jsonl", [*CHATS, {"messages": [U, {"role": "assistant", "content": ""}]}])
    with pytest.raises(UserError, match="has no row 9; its last is 3"):
        inspect(path, tokenizer, "chatml", row=9)
    with pytest.raises(UserError, match=r"a.jsonl:3 \[messages\[1\].content\]: an answer without text"):
        inspect(path, tokenizer, "chatml", row=3)


def test_check_names_file_row_column_and_reason_and_says_whether_a_run_would_stop(write):
    path = write("a.jsonl", [*CHATS, {"messages": [U, {"role": "robot", "content": "x"}]}])
    result = check(path)
    assert result["files"] == [{"file": str(path), "rows": 3, "format": "messages", "bad": 1}]
    (problem,) = result["problems"]
    assert (problem["row"], problem["column"]) == (3, "messages[1].role")
    assert not result["ok"] and result["verdict"].endswith("mend it or pass --allow-loss 1")
    assert json.loads(json.dumps(result)) == result
    assert f"{path}:3 [messages[1].role]: the role 'robot'" in render_check(result)


def test_check_with_a_tokenizer_finds_what_a_template_refuses_and_prices_each_policy(write, tokenizer):
    from bottega.data.chat import Template

    path = write("a.jsonl", [*CHATS, {"messages": [U, {"role": "system", "content": "late"}, A]}])
    result = check(path, tokenizer=tokenizer, template=Template.named("gemma"), max_tokens=60)
    assert result["num_problems"] == 1 and "only at the start" in result["problems"][0]["reason"]
    assert result["longer"] == 1 and set(result["over_length"]) == {"drop", "split", "truncate"}
    drop, split, cut = (result["over_length"][name] for name in ("drop", "split", "truncate"))
    assert (drop["rows"], drop["dropped"], drop["answers_cut"]) == (1, 1, 2)
    assert split["tokens_lost"] <= cut["tokens_lost"] and cut["rows"] == 2
    assert "answers cut" in render_check(result)


def test_check_finds_a_chat_without_an_answer_without_a_tokenizer_too(write):
    result = check(write("a.jsonl", [*CHATS, {"messages": [U]}]))
    assert result["problems"][0]["row"] == 3 and "without an assistant turn" in result["problems"][0]["reason"]


def test_check_of_good_rows_says_so(write):
    result = check(write("a.jsonl", CHATS))
    assert result["ok"] and result["verdict"] == "every row can be used"


def test_stats_count_kinds_roles_turns_words_and_duplicates(write, tokenizer):
    long = " ".join(f"w{i}" for i in range(40))
    rows = [{"prompt": long, "response": "a"}] * 2 + [
        {"prompt": long + " more", "response": "a"},
        {"prompt": "q", "response": "b"},
    ]
    result = stats(write("a.jsonl", rows), tokenizer=tokenizer)
    assert result["kinds"] == {"conversation": 4} and result["roles"] == {"user": 4, "assistant": 4}
    assert result["duplicates"] == {"equal": 1, "near": 1}
    assert result["tokens"]["count"] == 4 and result["tokens"]["trained"] > 0
    assert "duplicates" in render_stats(result) and json.dumps(result)


def test_quantiles_of_three_numbers():
    """1, 2, 9: mean 4, median 2, all high points 9."""
    assert quantiles([9, 1, 2]) == {
        "count": 3,
        "sum": 12,
        "mean": 4.0,
        "min": 1,
        "median": 2,
        "p90": 9,
        "p99": 9,
        "max": 9,
    }


TOOLED = {
    "messages": [
        U,
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}],
        },
        {"role": "tool", "content": "7"},
        A,
    ],
    "tools": [{"type": "function", "function": {"name": "f"}}],
}


@pytest.mark.parametrize("to", ["messages", "sharegpt", "alpaca", "prompt_completion"])
@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv"])
def test_a_chat_converted_and_read_again_is_the_same(write, tmp_path, to, suffix):
    path = write("a.jsonl", [{"messages": [{"role": "system", "content": "s"}, U, A, U, A], "id": "x"}])
    result = convert(path, to=to, out=tmp_path / f"out{suffix}")
    assert result["rows"] == 1
    (before,), (after,) = samples(path), samples(tmp_path / f"out{suffix}")
    assert (after.turns, after.meta.get("id")) == (before.turns, "x")


@pytest.mark.parametrize("to", ["messages", "sharegpt"])
def test_tools_survive_conversion_or_are_refused(write, tmp_path, to):
    path = write("a.jsonl", [TOOLED])
    convert(path, to=to, out=tmp_path / "out.jsonl")
    (before,), (after,) = samples(path), samples(tmp_path / "out.jsonl")
    assert (after.turns, after.tools) == (before.turns, before.tools)
    with pytest.raises(UserError, match="alpaca has no place for tools"):
        convert(path, to="alpaca", out=tmp_path / "out.jsonl")


@pytest.mark.parametrize(
    ("row", "to"),
    [
        ({"text": "t", "id": 1}, "text"),
        ({"prompt": "q", "chosen": "good", "rejected": "bad", "margin": 1.5}, "preference"),
        ({"prompt": "q", "completion": "a", "label": True}, "unpaired"),
        ({"text": "t", "label": ["a", "b"]}, "labelled"),
    ],
)
def test_other_kinds_converted_and_read_again_are_the_same(write, tmp_path, row, to):
    path = write("a.jsonl", [row])
    convert(path, to=to, out=tmp_path / "out.jsonl")
    (before,), (after,) = samples(path), samples(tmp_path / "out.jsonl")
    assert before.__class__ is after.__class__
    assert all(
        getattr(before, n) == getattr(after, n) for n in before.__dataclass_fields__ if n not in ("where", "meta")
    )


def test_a_conversion_that_cannot_be_is_refused(write, tmp_path):
    path = write("a.jsonl", CHATS)
    with pytest.raises(UserError, match="cannot write the format 'xml'; choose one of messages"):
        convert(path, to="xml", out=tmp_path / "o.jsonl")
    with pytest.raises(UserError, match="give a name that ends in .jsonl, .json, .csv or .mds"):
        convert(path, to="messages", out=tmp_path / "o.xml")
    with pytest.raises(UserError, match="a conversation cannot be written as a preference; 2 of 2 rows"):
        convert(path, to="preference", out=tmp_path / "o.jsonl")
    assert set(WRITERS) >= {"messages", "sharegpt", "alpaca"}
