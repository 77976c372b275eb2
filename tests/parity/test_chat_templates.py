"""Our rendering and masks against transformers' own, where it has them."""

from __future__ import annotations

from bottega.core.types import Conversation, Turn
from bottega.data.chat import Template, encode, to_message
from tests.data.conftest import byte_tokenizer

ROUNDS = Conversation(
    turns=(
        Turn(role="system", content="Be kind."),
        Turn(role="user", content="Who, wo, qui?"),
        Turn(role="assistant", content="Anna & Öre.\n\n"),
        Turn(role="user", content="Why?"),
        Turn(role="assistant", content="  Keys."),
    )
)
MARKED = (
    "{{ bos_token }}{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}"
    "{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}{% else %}{{ m.content }}<|im_end|>{% endif %}\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def test_masks_equal_transformers_assistant_masks_where_a_template_marks_them():
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = MARKED
    messages = [to_message(turn) for turn in ROUNDS.turns]
    theirs = tokenizer.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
    ours = encode(ROUNDS, tokenizer, Template.of(tokenizer))
    assert list(ours.ids) == list(theirs["input_ids"])
    assert [int(weight > 0) for weight in ours.trains] == list(theirs["assistant_masks"])


def test_a_tokenizers_own_template_renders_as_transformers_renders_it(shared_data):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(shared_data("tokenizers/granite-7b-lab")))
    messages = [to_message(turn) for turn in ROUNDS.turns]
    for prompt in (False, True):
        theirs = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt)
        assert Template.of(tokenizer).render(ROUNDS, add_generation_prompt=prompt) == theirs
    ids = tokenizer.apply_chat_template(messages, return_dict=True)["input_ids"]
    assert list(encode(ROUNDS, tokenizer, Template.of(tokenizer)).ids) == list(ids)
