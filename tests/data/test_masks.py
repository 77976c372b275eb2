"""Loss masks against truth written by hand: five formats, tools, thinking, weights, BOS and end tokens.

Left out: reading files (test_sources.py) and rows (test_prepare.py).
"""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bottega.core.errors import UserError
from bottega.core.types import Conversation, Turn
from bottega.data.chat import Template, encode, encode_many, encode_prompt, turn_weights
from bottega.data.sources import Problem
from bottega.data.templates import NAMED

from .conftest import byte_tokenizer, trained


def talk(*turns: tuple[str, str] | Turn, tools: tuple = ()) -> Conversation:
    return Conversation(
        turns=tuple(t if isinstance(t, Turn) else Turn(role=t[0], content=t[1]) for t in turns), tools=tools
    )


TWO = talk(("system", "Be kind."), ("user", "Who?"), ("assistant", "Anna."), ("user", "Why?"), ("assistant", "Keys."))
TRUTH = {
    # ⟦ and ⟧ stand around what trains; written by hand from each format's published description
    "chatml": "<s><|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nWho?<|im_end|>\n<|im_start|>assistant\n"
    "⟦Anna.<|im_end|>⟧\n<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n⟦Keys.<|im_end|>⟧\n",
    "llama3": "<s><|start_header_id|>system<|end_header_id|>\n\nBe kind.<|eot_id|><|start_header_id|>user"
    "<|end_header_id|>\n\nWho?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n⟦Anna.<|eot_id|>⟧"
    "<|start_header_id|>user<|end_header_id|>\n\nWhy?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
    "⟦Keys.<|eot_id|>⟧",
    "mistral": "<s>[INST] Be kind.\n\nWho?[/INST]⟦ Anna.</s>⟧[INST] Why?[/INST]⟦ Keys.</s>⟧",
    "gemma": "<s><start_of_turn>user\nBe kind.\n\nWho?<end_of_turn>\n<start_of_turn>model\n⟦Anna.<end_of_turn>⟧\n"
    "<start_of_turn>user\nWhy?<end_of_turn>\n<start_of_turn>model\n⟦Keys.<end_of_turn>⟧\n",
    "granite": "<s><|start_of_role|>system<|end_of_role|>Be kind.<|end_of_text|>\n<|start_of_role|>user<|end_of_role|>"
    "Who?<|end_of_text|>\n<|start_of_role|>assistant<|end_of_role|>⟦Anna.<|end_of_text|>⟧\n<|start_of_role|>user"
    "<|end_of_role|>Why?<|end_of_text|>\n<|start_of_role|>assistant<|end_of_role|>⟦Keys.<|end_of_text|>⟧\n",
    "zephyr": "<s><|system|>\nBe kind.</s>\n<|user|>\nWho?</s>\n<|assistant|>\n⟦Anna.</s>⟧\n<|user|>\nWhy?</s>\n"
    "<|assistant|>\n⟦Keys.</s>⟧\n",
    "llama2": "<s>[INST] <<SYS>>\nBe kind.\n<</SYS>>\n\nWho? [/INST]⟦ Anna. </s>⟧<s>[INST] Why? [/INST]⟦ Keys. </s>⟧",
    "plain": "<s>Be kind.\n\nUser: Who?\nAssistant:⟦ Anna.</s>⟧\nUser: Why?\nAssistant:⟦ Keys.</s>⟧\n",
    "deepseek": "<s>Be kind.<｜User｜>Who?<｜Assistant｜>⟦Anna.</s>⟧<｜User｜>Why?<｜Assistant｜>⟦Keys.</s>⟧",
}


def bracketed(tokens, tokenizer) -> str:
    """The decoded text with ⟦ and ⟧ where training starts and stops."""
    pieces, run, on = [], [], False
    for token, weight in [*zip(tokens.ids, tokens.trains), (None, -1.0)]:
        if token is None or (weight > 0) != on:
            text = tokenizer.decode(run)
            pieces.append(f"⟦{text}⟧" if on else text)
            run, on = [], weight > 0
        run.append(token)
    return "".join(pieces)


@pytest.mark.parametrize("name", TRUTH)
def test_the_mask_of_a_two_round_chat_is_the_one_written_by_hand(name, tokenizer):
    assert bracketed(encode(TWO, tokenizer, Template.named(name)), tokenizer) == TRUTH[name]


@pytest.mark.parametrize("name", TRUTH)
def test_a_strangers_copy_of_a_template_gives_the_same_mask_through_the_worker(name, tokenizer):
    stranger = Template(name="stranger", source=NAMED[name] + "{# mine #}")
    assert not stranger.jinja.trusted
    assert encode(TWO, tokenizer, stranger) == encode(TWO, tokenizer, Template.named(name))


@pytest.mark.parametrize("name", NAMED)
def test_what_stands_before_a_trained_answer_is_the_prompt_to_generate(name, tokenizer):
    template = Template.named(name)
    tokens = encode(TWO, tokenizer, template, mask="last")
    first = next(i for i, weight in enumerate(tokens.trains) if weight > 0)
    prompt = encode_prompt(TWO.turns[:-1], tokenizer, template)
    # mistral and llama2 have no prompt to generate: the model writes the space in front of its answer itself
    assert list(tokens.ids[:first]) == prompt


@pytest.mark.parametrize("name", NAMED)
def test_every_trained_turn_trains_one_end_token_also_when_pad_is_eos(name, tokenizer):
    assert tokenizer.pad_token == tokenizer.eos_token
    stretches = trained(encode(TWO, tokenizer, Template.named(name)), tokenizer)
    assert len(stretches) == 2
    ends = {text.rpartition(".")[2].strip() for text in stretches}
    assert len(ends) == 1 and ends.pop().startswith("<")


@pytest.mark.parametrize("name", [n for n in NAMED if n != "llama2"])
@pytest.mark.parametrize("adds", [True, False])
def test_a_row_starts_with_exactly_one_bos_when_the_tokenizer_or_the_template_puts_one(name, adds):
    tokenizer = byte_tokenizer(adds_bos=adds)
    ids = list(encode(TWO, tokenizer, Template.named(name)).ids)
    writes = "bos_token" in NAMED[name]
    assert ids.count(tokenizer.bos_token_id) == int(adds or writes)
    assert (ids[0] == tokenizer.bos_token_id) == (adds or writes)


def test_masks_last_all_and_from(tokenizer):
    chatml = Template.named("chatml")
    assert trained(encode(TWO, tokenizer, chatml, mask="last"), tokenizer) == ["Keys.<|im_end|>"]
    whole = encode(TWO, tokenizer, chatml, mask="all")
    assert whole.trains[0] == 0 and set(whole.trains[1:]) == {1.0}
    part = encode(TWO, tokenizer, chatml, mask="from:10")
    assert part.trains == [0.0] * 10 + [1.0] * (len(part.ids) - 10)


def test_an_unknown_mask_is_refused_with_the_choices(tokenizer):
    with pytest.raises(UserError, match="no mask 'answers'; choose assistant, last, all or from:N"):
        encode(TWO, tokenizer, Template.named("chatml"), mask="answers")


def test_a_weight_of_a_turn_wins_over_the_policy(tokenizer):
    conversation = talk(
        Turn(role="user", content="Who?", weight=0.5),
        Turn(role="assistant", content="Anna.", weight=0.0),
        ("user", "Why?"),
        ("assistant", "Keys."),
    )
    tokens = encode(conversation, tokenizer, Template.named("chatml"))
    assert trained(tokens, tokenizer) == ["Who?<|im_end|>", "Keys.<|im_end|>"]
    assert set(tokens.trains) == {0.0, 0.5, 1.0}
    whole = encode(conversation, tokenizer, Template.named("chatml"), mask="all")
    untrained = [i for i, w in zip(whole.ids, whole.trains) if w == 0]
    assert tokenizer.decode(untrained) == "<s>Anna.<|im_end|>"


def test_the_policy_is_one_function_of_turns():
    turns = (*TWO.turns, Turn(role="assistant", content="More.", weight=0.25))
    assert turn_weights(turns, "assistant") == {2: 1.0, 4: 1.0, 5: 0.25}
    assert turn_weights(turns, "last") == {5: 0.25}
    assert turn_weights(turns, "all") == {5: 0.25}


CALL = {"id": "c1", "type": "function", "function": {"name": "find", "arguments": {"key": "oak"}}}
TOOL = {"type": "function", "function": {"name": "find", "description": "d", "parameters": {"type": "object"}}}
WITH_TOOLS = talk(
    ("user", "Where?"),
    Turn(role="assistant", content="", tool_calls=(CALL,)),
    Turn(role="tool", content="shed", tool_call_id="c1", name="find"),
    ("assistant", "In the shed."),
    tools=(TOOL,),
)
TOOL_TRUTH = {
    "qwen": [
        '<tool_call>\n{"name": "find", "arguments": {"key": "oak"}}\n</tool_call><|im_end|>',
        "In the shed.<|im_end|>",
    ],
    "llama3": ['{"name": "find", "parameters": {"key": "oak"}}<|eot_id|>', "In the shed.<|eot_id|>"],
    "mistral": ['[TOOL_CALLS] [{"name": "find", "arguments": {"key": "oak"}, "id": "c1"}]</s>', " In the shed.</s>"],
    "granite": [
        '<|tool_call|>[{"name": "find", "arguments": {"key": "oak"}}]<|end_of_text|>',
        "In the shed.<|end_of_text|>",
    ],
}


@pytest.mark.parametrize("name", TOOL_TRUTH)
def test_a_tool_call_trains_from_its_first_character_to_its_end_token(name, tokenizer):
    assert trained(encode(WITH_TOOLS, tokenizer, Template.named(name)), tokenizer) == TOOL_TRUTH[name]


@pytest.mark.parametrize("name", ["chatml", "gemma", "zephyr", "plain"])
def test_a_template_without_a_place_for_tools_says_so(name, tokenizer):
    with pytest.raises(UserError, match="no place for tools; use qwen, llama3, mistral or granite"):
        encode(WITH_TOOLS, tokenizer, Template.named(name))


THOUGHT = talk(("user", "Who?"), Turn(role="assistant", content="Anna.", thinking="Keys, so Anna."))
INLINE = talk(("user", "Who?"), ("assistant", "<think>Keys, so Anna.</think>Anna."))


@pytest.mark.parametrize("name", ["chatml", "qwen", "llama3"])
def test_thinking_is_kept_masked_or_dropped_by_choice(name, tokenizer):
    template = Template.named(name)
    kept = trained(encode(THOUGHT, tokenizer, template), tokenizer)[0]
    assert kept.startswith("<think>\nKeys, so Anna.\n</think>\n\nAnna.<|")
    masked = encode(THOUGHT, tokenizer, template, thinking="mask")
    assert trained(masked, tokenizer)[0].startswith("Anna.<|")
    assert "Keys, so Anna." in tokenizer.decode(masked.ids)
    dropped = encode(THOUGHT, tokenizer, template, thinking="drop")
    assert "Keys, so" not in tokenizer.decode(dropped.ids)
    assert trained(dropped, tokenizer)[0].startswith("Anna.<|")


def test_a_thinking_block_inside_the_content_stays_as_it_was_written(tokenizer):
    chatml = Template.named("chatml")
    assert trained(encode(INLINE, tokenizer, chatml), tokenizer) == ["<think>Keys, so Anna.</think>Anna.<|im_end|>"]
    assert trained(encode(INLINE, tokenizer, chatml, thinking="mask"), tokenizer) == ["Anna.<|im_end|>"]


FORGETS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% set c = m.content.split('</think>')[-1] | trim %}{{ c }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
FORGETS_EARLIER = (
    "{% set ns = namespace(last=0) %}{% for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}"
    "{% endif %}{% endfor %}{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.reasoning_content and loop.index0 > ns.last %}<think>\n{{ m.reasoning_content }}\n</think>\n\n{% endif %}"
    "{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def test_a_template_that_throws_the_thinking_away_is_not_silent(tokenizer):
    template = Template(name="forgets", source=FORGETS)
    answer = encode_many([INLINE], tokenizer, template)[0]
    assert isinstance(answer, Problem) and "leaves out the thinking of turn 2; say thinking: drop" in answer.reason
    assert trained(encode(INLINE, tokenizer, template, thinking="drop"), tokenizer) == ["Anna.<|im_end|>"]


def test_thinking_left_out_of_earlier_turns_is_noted_and_the_last_is_kept(tokenizer):
    template = Template(name="earlier", source=FORGETS_EARLIER)
    both = talk(*THOUGHT.turns, *THOUGHT.turns)
    answer = encode_many([both], tokenizer, template)[0]
    assert answer.notes == ("the template leaves out the thinking of 1 earlier turns",)
    assert trained(answer.tokens, tokenizer) == [
        "Anna.<|im_end|>",
        "<think>\nKeys, so Anna.\n</think>\n\nAnna.<|im_end|>",
    ]


EMPTY_BLOCK = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and loop.last %}<think>\n\n</think>\n\n"
    "{% endif %}{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def test_what_the_template_writes_after_its_own_prompt_trains_too(tokenizer):
    """At inference the prompt ends with 'assistant\\n', so the model has to write the empty block itself."""
    tokens = encode(TWO, tokenizer, Template(name="empty", source=EMPTY_BLOCK))
    assert trained(tokens, tokenizer) == ["Anna.<|im_end|>", "<think>\n\n</think>\n\nKeys.<|im_end|>"]


def test_templates_that_are_not_prefix_stable_are_reported(tokenizer):
    assert any("not prefix-stable" in note for note in Template(name="e", source=EMPTY_BLOCK).notes(tokenizer))
    assert Template.named("chatml").notes(tokenizer) == ()


NO_PROMPT = (
    "{% for m in messages %}{% if m.role == 'user' %}<|user|>\n{{ m.content }}\n{% elif m.role == 'assistant' %}"
    "<|assistant|>\n{{ m.content }}</s>{{ '' if loop.last else '\n' }}{% endif %}{% endfor %}"
)


def test_a_template_without_a_prompt_to_generate_does_not_train_its_header(tokenizer):
    template = Template(name="old", source=NO_PROMPT)
    tokens = encode(TWO, tokenizer, template)
    assert trained(tokens, tokenizer) == ["Anna.</s>", "Keys.</s>"]
    prompt = encode_prompt(TWO.turns[:-1], tokenizer, template)
    assert tokenizer.decode(prompt).endswith("Why?\n<|assistant|>\n")
    assert any("no prompt to generate" in note for note in template.notes(tokenizer))


def test_a_template_that_ends_answers_with_nothing_gets_the_end_token_behind_the_last(tokenizer):
    template = Template(name="open", source="{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}")
    assert trained(encode(TWO, tokenizer, template), tokenizer) == ["Anna.\n", "Keys.\n</s>"]
    assert any("nothing that ends an answer" in note for note in template.notes(tokenizer))


UPPER = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{{ m.content[:1] | upper ~ m.content[1:] }}<|im_end|>\n{% endfor %}"
)


def test_a_template_that_reacts_to_the_marks_is_found_by_its_prefixes(tokenizer):
    """The first character is changed, so marks in front of it change the text; prefixes find the turn."""
    template = Template(name="upper", source=UPPER + "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}")
    lower = talk(("user", "who?"), ("assistant", "anna."))
    assert trained(encode(lower, tokenizer, template), tokenizer) == ["Anna.<|im_end|>"]


REVERSED = "{% for m in messages | reverse %}{{ m.content[:1] | upper ~ m.content[1:] }}</s>{% endfor %}"


def test_a_turn_that_cannot_be_found_is_a_problem_and_not_a_guess(tokenizer):
    lower = talk(("user", "who?"), ("assistant", "anna."), ("user", "why?"), ("assistant", "keys."))
    answer = encode_many([lower], tokenizer, Template(name="reversed", source=REVERSED))[0]
    assert isinstance(answer, Problem) and "not prefix-stable" in answer.reason


def test_a_template_that_refuses_a_row_names_the_row_and_spares_the_others(tokenizer):
    late = talk(("user", "Who?"), ("system", "Late."), ("assistant", "Anna."))
    answers = encode_many([late, TWO], tokenizer, Template.named("gemma"))
    assert isinstance(answers[0], Problem) and "only at the start" in answers[0].reason
    assert not isinstance(answers[1], Problem)


def test_a_tokenizer_without_a_template_gets_plain(tokenizer):
    assert Template.of(tokenizer).name == "plain"
    assert "the tokenizer has no chat template, so `plain` is used" in Template.of(tokenizer).notes(tokenizer)


def test_a_template_file_is_read_and_hashed(tmp_path: Path, tokenizer):
    path = tmp_path / "mine.jinja"
    path.write_text(NAMED["zephyr"])
    template = Template.find(str(path), tokenizer)
    assert template.sha256 == Template.named("zephyr").sha256
    with pytest.raises(UserError, match="no template 'chatlm'; choose one of chatml"):
        Template.find("chatlm", tokenizer)


def test_the_real_granite_tokenizer_trains_answers_and_their_end(shared_data):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(shared_data("tokenizers/granite-7b-lab")))
    tokens = encode(TWO, tokenizer, Template.of(tokenizer))
    pieces = tokenizer.convert_ids_to_tokens([i for i, w in zip(tokens.ids, tokens.trains) if w > 0])
    assert "".join(pieces) == "Anna.<|endoftext|>Keys.<|endoftext|>"
    assert tokenizer.bos_token_id not in tokens.ids
    prompt = encode_prompt(TWO.turns[:-1], tokenizer, Template.of(tokenizer))
    first = next(i for i, w in enumerate(encode(TWO, tokenizer, Template.of(tokenizer), mask="last").trains) if w > 0)
    assert list(tokens.ids[:first]) == prompt


SAID = st.text(st.characters(blacklist_categories=("Cs", "Co")), min_size=1, max_size=30).filter(str.strip)
_TOKENIZER = None


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.sampled_from(["chatml", "granite", "mistral", "zephyr", "plain", "qwen"]),
    st.lists(st.tuples(SAID, SAID), min_size=1, max_size=3),
)
def test_whatever_is_said_the_trained_text_is_the_answer_with_its_end(name, rounds):
    global _TOKENIZER
    _TOKENIZER = _TOKENIZER or byte_tokenizer()
    turns = [turn for asked, said in rounds for turn in (("user", asked), ("assistant", said))]
    if any("<think>" in said for _, said in rounds):
        return
    stretches = trained(encode(talk(*turns), _TOKENIZER, Template.named(name)), _TOKENIZER)
    end = {"chatml": "<|im_end|>", "qwen": "<|im_end|>", "granite": "<|end_of_text|>"}.get(name, "</s>")
    lead = " " if name in ("mistral", "plain") else ""
    assert stretches == [lead + said + end for _, said in rounds]


@pytest.mark.parametrize("name", ["mistral", "llama2", "plain", "concat"])
@pytest.mark.parametrize("conversation", [THOUGHT, INLINE])
def test_thinking_trains_too_where_the_template_has_no_prompt_to_generate(name, conversation, tokenizer):
    (stretch,) = trained(encode(conversation, tokenizer, Template.named(name)), tokenizer)
    assert stretch.strip().startswith("<think>") and "Keys, so Anna." in stretch
    (masked,) = trained(encode(conversation, tokenizer, Template.named(name), thinking="mask"), tokenizer)
    assert masked.startswith("Anna.")


CALLS_CHANGE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and loop.last %}<think>\n\n</think>\n\n"
    "{% endif %}{{ m.content }}{% for c in m.tool_calls or [] %}<call>{{ c.function | tojson }}</call>{% endfor %}"
    "{{ '' if tools else '' }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def test_tool_calls_are_found_where_later_turns_change_the_text_of_earlier_ones(tokenizer):
    """Rendered as the last turn, the call has a thinking block in front; followed by others it has none."""
    template = Template(name="changing", source=CALLS_CHANGE)
    assert trained(encode(WITH_TOOLS, tokenizer, template), tokenizer) == [
        '<call>{"name": "find", "arguments": {"key": "oak"}}</call><|im_end|>',
        "<think>\n\n</think>\n\nIn the shed.<|im_end|>",
    ]


def test_an_end_token_written_inside_a_tool_call_does_not_end_the_turn(tokenizer):
    call = {"type": "function", "function": {"name": "find", "arguments": {"key": "a<|im_end|>b"}}}
    conversation = talk(("user", "q"), Turn(role="assistant", content="", tool_calls=(call,)))
    (stretch,) = trained(encode(conversation, tokenizer, Template.named("qwen")), tokenizer)
    assert stretch.endswith('"a<|im_end|>b"}}\n</tool_call><|im_end|>')


NO_SYSTEM = "{% for m in messages if m.role != 'system' %}[INST] {{ m.content }}</s>{% endfor %}"


def test_a_system_turn_that_the_template_leaves_out_is_noted(tokenizer):
    answer = encode_many([TWO], tokenizer, Template(name="deaf", source=NO_SYSTEM))[0]
    assert answer.notes == ("the template leaves out or changes the words of system turns",)
