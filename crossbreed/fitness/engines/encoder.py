"""The conversion of text to tokens, shared by all local engines, so that they receive the same input."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from crossbreed.bounded import Begin
from crossbreed.errors import EngineError, InputError
from crossbreed.fitness.items import Item
from crossbreed.fitness.protocol import Generate, Prompt, Request
from crossbreed.fitness.tasks import Task, TaskConfig, own_kind
from crossbreed.sources.chat_templates import render_chat
from crossbreed.sources.model_config import load_config
from crossbreed.sources.tokenization import num_appended, reading_texts, shared_tokenizer, token_ids
from crossbreed.sources.vocabulary import end_tokens


class TooLong(EngineError):
    """A request does not fit the model's context."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoded:
    """A request in tokens."""

    token_ids: tuple[int, ...]
    """The tokens of the prompt and, for a Loglikelihood, the continuation."""
    num_prompt: int
    """The number of prompt tokens among them; the rest is scored."""
    num_total: int
    """The number of context tokens needed to answer."""


class Encoder:
    """The tokenizer of a host folder, with its chat template and the tokens that end a text."""

    def __init__(self, host: Path, *, max_model_len: int | None = None) -> None:
        """Loads the tokenizer.

        Args:
            host: The folder of the base, or one with its tokenizer and configuration.
            max_model_len: Longest prompt plus answer; None: what the host's config allows.

        Raises:
            InputError: the host has no tokenizer, or no configuration that transformers can read.
        """
        self.tokenizer = shared_tokenizer(host)
        self.max_model_len = max_model_len or _context_length(host)
        self.eos_ids = _own_ends(host, self.tokenizer.eos_token_id)
        self._num_appended = num_appended(self.tokenizer)

    def end_at(self, token_ids: Collection[int]) -> None:
        """Ends answers at these tokens too, besides the host's own."""
        self.eos_ids |= frozenset(token_ids)

    def encode(self, request: Request) -> Encoded:
        """Returns the tokens of a request.

        Plain text gets the special tokens that the tokenizer adds before it; a chat template includes its own.
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
                    "a text is too short to score",
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

    def num_tokens(self, text: str) -> int:
        """Returns the number of tokens of a text that is generated, after a space or not."""
        return min(len(self.tokenizer(spaced, add_special_tokens=False).input_ids) for spaced in (text, f" {text}"))

    def _tokens(self, prompt: Prompt, continuation: str = "") -> list[int]:
        ids: list[int]
        if not prompt.chat:
            return token_ids(self.tokenizer, prompt.text + continuation, appended=self._num_appended)
        system = () if prompt.system is None else (("system", prompt.system),)
        turns = (*system, *prompt.turns, ("user", prompt.text))
        messages = [{"role": role, "content": content} for role, content in turns]
        if self.tokenizer.chat_template is None:
            raise InputError(
                "the base has no chat template",
                expected="a tokenizer with a chat template",
                where=str(self.tokenizer.name_or_path),
                fix="set `chat_template: false` in the tasks, or use a base that has one",
            )
        text = render_chat(self.tokenizer, messages)
        ids = self.tokenizer(text + continuation, add_special_tokens=False).input_ids
        return ids


def check_tasks(tasks: Iterable[Task], host: Path, *, max_model_len: int | None, calibration: bool = False) -> None:
    """Tokenises every request of every task, without an engine, within limits of time and memory.

    Args:
        tasks: the tasks of the run.
        host: the folder that an engine would start from.
        max_model_len: maximum length of prompt plus answer, if the engine limits it.
        calibration: whether the run also needs calibration requests.

    Raises:
        InputError: no engine could answer a request; if it is too long, or its tokens do not come to an end, the
            message names the item.
    """
    asked = [
        (task, [(item, (*task.requests(item), *([task.calibration(item)] * calibration))) for item in task.items])
        for task in tasks
    ]
    reading_texts(partial(_check_asked, asked, host, max_model_len), host)


def _check_asked(
    asked: Sequence[tuple[Task, Sequence[tuple[Item, Sequence[Request]]]]],
    host: Path,
    max_model_len: int | None,
    begin: Begin,
) -> None:
    encoder = Encoder(host, max_model_len=max_model_len)
    for task, requests_of_items in asked:
        for item, requests in requests_of_items:
            begin(f"item `{item.id}` of task `{task.name}`"[:200])
            for request in requests:
                try:
                    encoder.encode(request)
                except TooLong as error:
                    raise InputError(
                        f"item `{item.id}` does not fit the model's context",
                        expected=f"prompt and answer in {encoder.max_model_len} tokens",
                        got=str(error),
                        where=item.place(task.name),
                        fix="shorten the item or `max_tokens`, or raise `fitness.engine.max_model_len`",
                    ) from None
                except InputError as error:
                    raise InputError(
                        f"item `{item.id}`: {error.problem}",
                        expected=error.expected,
                        got=error.got,
                        where=error.where or item.place(task.name),
                        fix=error.fix or "lengthen the item, or remove it",
                    ) from None
        begin(f"the answers of task `{task.name}`"[:200])
        _check_golds(task, encoder)


def _check_golds(task: Task, encoder: Encoder) -> None:
    """Raises InputError if an item's every right answer has more tokens than may be generated."""
    kind = own_kind(task)
    if not isinstance(kind, TaskConfig):
        return
    too_long: list[tuple[Item, int, int]] = []
    for item in task.items:
        limits = [request.max_tokens for request in task.requests(item) if isinstance(request, Generate)]
        sizes = [encoder.num_tokens(text) for text in kind.needed(item)]
        if limits and sizes and min(sizes) > max(limits):
            too_long.append((item, min(sizes), max(limits)))
    if too_long:
        item, size, limit = too_long[0]
        raise InputError(
            f"the answers of {len(too_long)} of {len(task.items)} items can never be given: they are too long",
            expected=f"answers of at most {limit} tokens, the task's `max_tokens`",
            got=f"{size} tokens in {kind.shown(item)[:80]!r}, the first",
            where=item.place(task.name),
            fix=f"max_tokens: {max(size for _, size, _ in too_long) + 1}, or shorter answers",
        )


def _num_common(some: Sequence[int], others: Sequence[int]) -> int:
    pairs = zip(some, others, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(some), len(others)))


def _context_length(host: Path) -> int:
    length = getattr(load_config(host).get_text_config(), "max_position_embeddings", None)
    if not isinstance(length, int):
        raise InputError(
            "the model's configuration does not limit the length of a text",
            expected="`max_position_embeddings` in config.json",
            where=str(host),
            fix="set it in the spec: `fitness: {engine: {max_model_len: 2048}}`",
        )
    return length


def _own_ends(host: Path, eos_id: int | None) -> frozenset[int]:
    return frozenset(row for row in (eos_id, *(token.id for token in end_tokens(host))) if row is not None)
