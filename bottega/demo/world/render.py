"""The two forms of every question, as text: plain `Q: ... A: ...` lines, and the chat template with its special tokens.

Left out: the Jinja template's own file; `CHAT_TEMPLATE` is the same form in the language tokenizers read.
"""

from collections.abc import Sequence

END_OF_TEXT, PAD = "<|endoftext|>", "<|pad|>"
SYSTEM, USER, ASSISTANT, END = "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"
SPECIAL_TOKENS = (END_OF_TEXT, PAD, SYSTEM, USER, ASSISTANT, END)

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>\\n' + message['content'] + '<|end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"
)

Message = dict[str, str]


def chat(*turns: str, system: str = "") -> list[Message]:
    """Make messages from turns that alternate between user and assistant."""
    messages = [{"role": "system", "content": system}] if system else []
    return messages + [{"role": ("user", "assistant")[i % 2], "content": turn} for i, turn in enumerate(turns)]


def render(messages: Sequence[Message], *, prompt: bool = False) -> str:
    """Write messages in the chat form; with `prompt`, open the assistant's turn.

    Example: one user turn "Hi" gives "<|user|>\\nHi<|end|>\\n", and with `prompt` "<|assistant|>\\n" after it.
    """
    text = "".join(f"<|{m['role']}|>\n{m['content']}<|end|>\n" for m in messages)
    return text + f"{ASSISTANT}\n" if prompt else text


def plain(question: str, answer: str | None = None) -> str:
    """Write a plain question line; without an answer it is a prompt that ends in "A:"."""
    return f"Q: {question} A:" + ("" if answer is None else f" {answer}")


def first_answer(text: str) -> str:
    """Cut a generation down to its answer: up to the end of the line or the first special token."""
    for mark in (END, END_OF_TEXT, "\n"):
        text = text.split(mark)[0]
    return text.strip().removesuffix(".").strip()
