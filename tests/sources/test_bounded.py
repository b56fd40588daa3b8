"""Templates and patterns of strangers end, whatever they do."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from threading import Lock
from time import process_time

import pytest
from tokenizers import Regex, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from crossbreed import bounded as module
from crossbreed.bounded import Begin, bounded
from crossbreed.errors import InputError
from crossbreed.fitness.engines.encoder import check_tasks
from crossbreed.fitness.items import Item
from crossbreed.fitness.tasks import Task
from crossbreed.fitness.tasks.generate import GenerateTask
from crossbreed.sources.chat_templates import other_chat
from crossbreed.sources.tokenization import load_tokenizer, other_reading
from crossbreed.testing.toys import CHAT_TEMPLATE, byte_tokenizer

OUTER = "{% for i in range(90000) %}"
ENDLESS = OUTER + OUTER + OUTER + "{% endfor %}{% endfor %}{% endfor %}" + CHAT_TEMPLATE
LARGE = "{% set x = 'x' * 20000000000 %}{{ x }}"


def call(what: Callable[[Begin], object]) -> object:
    return bounded(what, what="a pattern", where="a/folder", fix="copy it again")


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_SECONDS", 0.3)


def test_a_call_has_its_value_its_error_and_its_own_memory() -> None:
    changed: list[int] = []
    assert call(lambda begin: (changed.append(1), 7)[1]) == 7
    assert changed == []
    with pytest.raises(InputError, match="wrong") as caught:
        call(lambda begin: (_ for _ in ()).throw(InputError("wrong", fix="right")))
    assert caught.value.fix == "right"
    with pytest.raises(ZeroDivisionError):
        call(lambda begin: 1 / 0)


def busy(seconds: float) -> None:
    end = process_time() + seconds
    while process_time() < end:
        pass


def test_each_thing_has_the_time_and_the_late_one_is_named() -> None:
    def steps(begin: Begin, *seconds: float) -> int:
        for number, each in enumerate(seconds):
            begin(f"text {number}")
            busy(each)
        return len(seconds)

    assert call(lambda begin: steps(begin, 0.2, 0.2, 0.2)) == 3
    with pytest.raises(InputError, match=r"no end after 0\.3 s at text 1") as caught:
        call(lambda begin: steps(begin, 0.0, 60.0))
    assert "a pattern takes more time or memory than any needs" in str(caught.value)


def test_what_waits_for_ever_ends_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WAITS", 2)
    held = Lock()
    with held, pytest.raises(InputError, match=r"no end after 0\.6 s by the clock at text 1") as caught:
        call(lambda begin: (begin("text 1"), held.acquire(timeout=60))[1])
    assert "a pattern takes more time or memory than any needs" in str(caught.value)


def test_memory_and_a_killed_process_are_said() -> None:
    with pytest.raises(InputError, match="more than 4 GiB"):
        call(lambda begin: bytearray(8 << 30))
    with pytest.raises(InputError, match="SIGKILL"):
        call(lambda begin: os.kill(os.getpid(), signal.SIGKILL))


def save(folder: Path, made: PreTrainedTokenizerFast) -> Path:
    made.save_pretrained(folder)
    (folder / "config.json").write_text('{"model_type": "llama", "max_position_embeddings": 512}')
    return folder


def with_template(template: str) -> PreTrainedTokenizerFast:
    made = byte_tokenizer()
    made.chat_template = template
    return made


def with_pattern(pattern: str) -> PreTrainedTokenizerFast:
    made = byte_tokenizer()
    ours = made.backend_tokenizer
    ours.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"), ours.pre_tokenizer])
    return made


def with_replacement(pattern: str) -> PreTrainedTokenizerFast:
    made = byte_tokenizer()
    made.backend_tokenizer.normalizer = normalizers.Replace(Regex(pattern), "a")
    return made


CATASTROPHE = r"(?:[a-z]+[a-z]+)+[a-z]+!"
ANY, NEVER = r"(?:\w|.)*", r"(?!.|\n|\z)"
HOSTILE = {
    "a template of loops": with_template(ENDLESS),
    "a template of a long text": with_template(LARGE),
    "a pattern of a pretokenizer": with_pattern(CATASTROPHE),
    "a pattern of a normalizer": with_replacement(CATASTROPHE),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_base_ends_check_with_the_item(name: str, tmp_path: Path) -> None:
    base = save(tmp_path / "base", HOSTILE[name])
    kind = GenerateTask(
        kind="generate", name="t", items="", prompt="{q}", answer="a", max_tokens=4, chat_template="template" in name
    )
    items = tuple(Item(id=f"i{n}", fields={"q": text, "a": "b"}) for n, text in enumerate(("1 2 3", "z" * 60)))
    with pytest.raises(InputError) as caught:
        check_tasks([Task(kind=kind, items=items)], base, max_model_len=None)
    error = caught.value
    if name == "a template of a long text":  # the template's own error is as good
        assert "MemoryError" in error.got
    elif "pattern" in name:
        assert error.got == "Onig: Regex search error: retry-limit-in-match over at item `i1` of task `t`"
    else:
        assert error.got == "no end after 0.3 s at item `i0` of task `t`"
        assert "a tokenizer or a chat template" in error.problem
        assert error.where == str(base)
    assert error.fix


def test_a_hostile_expert_ends_the_comparison(tmp_path: Path) -> None:
    base = save(tmp_path / "base", byte_tokenizer())
    with pytest.raises(InputError, match=r"at the chat template of .*expert"):
        other_chat(base, save(tmp_path / "expert", HOSTILE["a template of loops"]))
    with pytest.raises(InputError, match="retry-limit-in-match over at "):
        other_reading(base, save(tmp_path / "other", with_pattern(ANY * 3 + NEVER)))


def test_a_pattern_that_gives_up_at_any_text_is_no_tokenizer(tmp_path: Path) -> None:
    folder = save(tmp_path / "base", with_pattern(ANY * 30 + NEVER))
    with pytest.raises(InputError, match="cannot read a tokenizer") as caught:
        load_tokenizer(folder)
    assert "retry-limit-in-match over" in caught.value.got


def test_ordinary_folders_are_read_as_before(tmp_path: Path) -> None:
    base = save(tmp_path / "base", byte_tokenizer())
    other = save(tmp_path / "other", with_template(CHAT_TEMPLATE.replace("<|", "[")))
    assert other_chat(base, base) is None
    assert other_chat(base, other) is not None
    assert other_reading(base, other) is None
