"""One tokenizer for all clients: what it says is what it would say to each of them alone."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from crossbreed.service.texts import Texts


@pytest.mark.parametrize("num_threads", [16])
def test_threads_are_told_what_one_is_told(toy_base: Path, num_threads: int) -> None:
    alone, shared = (Texts(toy_base, max_model_len=512) for _ in range(2))

    def told(texts: Texts, number: int) -> tuple[object, ...]:
        text = f"text {number} {'é' * (number % 7)} " * (1 + number % 40)  # lengths differ: padding would be seen
        chat = [{"role": "system", "content": f"be {number}"}, {"role": "user", "content": text}]
        ids = texts.tokens(text, special=number % 2 == 0)
        return ids, texts.chat_tokens(chat, continuation=f" so {number}"), texts.text(ids), [*map(texts.word, ids)]

    expected = [told(alone, number) for number in range(120)]
    with ThreadPoolExecutor(num_threads) as threads:
        found = list(threads.map(lambda number: told(shared, number), range(120)))
    assert found == expected
    assert len({str(one) for one in expected}) == 120
