"""A template that refuses a chat, or is no template, is the user's input."""

from pathlib import Path

import pytest

from crossbreed.errors import InputError
from crossbreed.sources.chat_templates import render_chat
from crossbreed.testing.toys import CHAT_TEMPLATE, byte_tokenizer

USER = {"role": "user", "content": "hello"}
SYSTEM = {"role": "system", "content": "Be brief."}
NO_SYSTEM = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"


@pytest.mark.parametrize(
    ("template", "words"),
    [
        (NO_SYSTEM + CHAT_TEMPLATE, "System role not supported"),
        ("{% for m in messages %}{{ m.content }}", "Unexpected end of template"),
        ("{{ messages[0].content.nothing.more }}", "has no attribute 'nothing'"),
        ("{{ messages[0]['content'] | no_filter }}", "No filter named 'no_filter'"),
        ("{{ 1 / 0 }}", "division by zero"),
    ],
)
def test_what_a_template_raises_is_said_in_its_words(template: str, words: str) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = template
    with pytest.raises(InputError, match="the chat template does not write this chat down") as caught:
        render_chat(tokenizer, [SYSTEM, USER])
    assert words in caught.value.got
    assert "leave out `system`" in caught.value.fix


def test_the_advice_helps_where_a_template_takes_no_system(tmp_path: Path) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = NO_SYSTEM + CHAT_TEMPLATE
    assert render_chat(tokenizer, [USER]) == "<|user|>hello\n<|assistant|>"
