"""The one way from text to tokens, shared by the local engines, so that they answer the same question."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from transformers import AutoConfig, AutoTokenizer

from crossbreed.errors import EngineError, InputError
from crossbreed.fitness.protocol import Generate, Prompt, Request
from crossbreed.fitness.tasks import Task

TODAY = date(2024, 7, 26)
"""What chat templates that write the date are told, so that a prompt is the same on every day. Templates that fall back
on a date of their own fall back on this one."""


class TooLong(EngineError):
    """A request does not fit the model's context."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoded:
    """A request in tokens."""

    token_ids: tuple[int, ...]
    """The prompt, and for a Loglikelihood the continuation."""
    num_prompt: int
    """How many of them are the prompt's: the rest is scored."""
    num_total: int
    """Tokens of context needed to answer."""


class Encoder:
    """The tokenizer of a host folder, with its chat template and the tokens that end a text."""

    def __init__(self, host: Path, *, max_model_len: int | None = None) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(host, local_files_only=True)
        self.max_model_len = max_model_len or _context_length(host)
        self.eos_ids = _eos_ids(host, self.tokenizer.eos_token_id)

    def encode(self, request: Request) -> Encoded:
        """Returns the tokens of a request.

        Plain text gets the special tokens that the tokenizer adds by default; a chat template writes its own.
        The continuation's tokens are those of the whole text after the part that it shares with the prompt alone.

        Raises:
            TooLong: it does not fit `max_model_len`.
            InputError: a chat without a chat template, or a continuation without a token to score.
        """
        prompt_ids = self._tokens(request.prompt)
        if isinstance(request, Generate):
            ids, num_prompt, num_total = prompt_ids, len(prompt_ids), len(prompt_ids) + request.max_tokens
        else:
            ids = self._tokens(request.prompt, request.continuation)
            num_prompt = max(1, _num_common(prompt_ids, ids))  # nothing predicts the first token
            num_total = len(ids) + 1  # engines generate at least one
            if num_prompt >= len(ids):
                raise InputError(
                    "a text is too short to be scored",
                    expected="at least one token after the first",
                    got=repr(request.continuation)[:80],
                )
        if num_total > self.max_model_len:
            raise TooLong(f"a request needs {num_total} tokens, more than `max_model_len` = {self.max_model_len}")
        return Encoded(token_ids=tuple(ids), num_prompt=num_prompt, num_total=num_total)

    def decode(self, token_ids: Sequence[int]) -> str:
        """Returns the text of generated tokens, without special tokens."""
        text: str = self.tokenizer.decode(token_ids, skip_special_tokens=True)
        return text

    def _tokens(self, prompt: Prompt, continuation: str = "") -> list[int]:
        ids: list[int]
        if not prompt.chat:
            ids = self.tokenizer(prompt.text + continuation).input_ids
            return ids
        messages = [{"role": "user", "content": prompt.text}]
        if prompt.system is not None:
            messages.insert(0, {"role": "system", "content": prompt.system})
        if self.tokenizer.chat_template is None:
            raise InputError(
                "the base has no chat template",
                expected="a tokenizer with a chat template",
                where=str(self.tokenizer.name_or_path),
                fix="set `chat_template: false` in the tasks, or name a base that has one",
            )
        text = self.tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True, strftime_now=TODAY.strftime
        )
        ids = self.tokenizer(text + continuation, add_special_tokens=False).input_ids
        return ids


def check_tasks(tasks: Iterable[Task], host: Path, *, max_model_len: int | None, calibration: bool = False) -> None:
    """Tokenises every request of every task, without an engine.

    Args:
        tasks: what will be asked.
        host: the folder that an engine would start from.
        max_model_len: longest prompt plus answer, if the engine limits it.
        calibration: whether right answers will be asked for, too.

    Raises:
        InputError: one that no engine could answer; where it is too long, the message names the item.
    """
    encoder = Encoder(host, max_model_len=max_model_len)
    for task in tasks:
        for item in task.items:
            for request in (*task.requests(item), *([task.calibration(item)] * calibration)):
                try:
                    encoder.encode(request)
                except TooLong as error:
                    raise InputError(
                        f"item `{item.id}` does not fit the model's context",
                        expected=f"prompt and answer in {encoder.max_model_len} tokens",
                        got=str(error),
                        where=f"task `{task.name}`",
                        fix="shorten the item or `max_tokens`, or raise `fitness.engine.max_model_len`",
                    ) from None


def _num_common(some: Sequence[int], others: Sequence[int]) -> int:
    pairs = zip(some, others, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(some), len(others)))


def _context_length(host: Path) -> int:
    config = AutoConfig.from_pretrained(host, local_files_only=True).get_text_config()
    return int(config.max_position_embeddings)


def _eos_ids(host: Path, eos_id: int | None) -> frozenset[int]:
    path = host / "generation_config.json"
    found: int | list[int] | None = json.loads(path.read_text()).get("eos_token_id") if path.exists() else None
    return frozenset(i for i in (*(found if isinstance(found, list) else [found]), eos_id) if i is not None)
