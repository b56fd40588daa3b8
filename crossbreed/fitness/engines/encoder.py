"""The conversion of text to tokens, shared by all local engines, so that they receive the same input."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

from crossbreed.bounded import Begin
from crossbreed.errors import Collector, EngineError, InputError, excerpt
from crossbreed.fitness.engines.boundary import num_prompt_tokens
from crossbreed.fitness.items import Item
from crossbreed.fitness.lengths import TaskLengths, tokens_within
from crossbreed.fitness.requests import Generate, Prompt, Request
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
        self._host = host

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
        elif request.token_ids is not None:
            ids, num_prompt = [*prompt_ids, *self._known(request.token_ids)], len(prompt_ids)
            num_total = len(ids) + 1
        else:
            ids = self._tokens(request.prompt, request.continuation)
            num_prompt = num_prompt_tokens(prompt_ids, ids, continuation=request.continuation)
            num_total = len(ids) + 1  # engines generate at least one
        if num_total > self.max_model_len:
            raise TooLong(f"a request needs {num_total} tokens, more than `max_model_len` = {self.max_model_len}")
        return Encoded(token_ids=tuple(ids), num_prompt=num_prompt, num_total=num_total)

    def decode(self, token_ids: Sequence[int]) -> str:
        """Returns the text of generated tokens, without special tokens."""
        text: str = self.tokenizer.decode(token_ids, skip_special_tokens=True)
        return text

    def text_tokens(self, text: str, token_ids: Sequence[int]) -> int:
        """Returns how many generated tokens are a text's, before its stop or end token."""
        is_ended = bool(token_ids) and token_ids[-1] in self.eos_ids
        return tokens_within(text, token_ids[: len(token_ids) - is_ended], self.decode)

    def num_tokens(self, text: str) -> int:
        """Returns the number of tokens of a text that is generated, after a space or not."""
        return min(len(self.tokenizer(spaced, add_special_tokens=False).input_ids) for spaced in (text, f" {text}"))

    def cut(self, text: str, *, max_tokens: int) -> str:
        """Returns what is left of a text that is generated, after so many tokens."""
        return self.decode(self.tokenizer(text, add_special_tokens=False).input_ids[:max_tokens])

    def shown(self, prompt: Prompt) -> str:
        """Returns a prompt as the model gets it: through the template, with the special tokens before it."""
        text = self._chat(prompt) if prompt.chat else prompt.text
        num_added = len(self._tokens(prompt)) - len(self.tokenizer(text, add_special_tokens=False).input_ids)
        return str(self.tokenizer.decode(self._tokens(prompt)[: max(0, num_added)])) + text

    def _tokens(self, prompt: Prompt, continuation: str = "") -> list[int]:
        ids: list[int]
        if prompt.token_ids is not None:
            assert not continuation, "a continuation of a prompt in tokens is given in tokens"
            return self._known(prompt.token_ids)
        if not prompt.chat:
            return token_ids(self.tokenizer, prompt.text + continuation, appended=self._num_appended)
        ids = self.tokenizer(self._chat(prompt) + continuation, add_special_tokens=False).input_ids
        return ids

    @cached_property
    def _num_tokens(self) -> int:
        """The number of rows of the embedding that the model's configuration states."""
        return int(load_config(self._host).get_text_config().vocab_size)

    def _known(self, ids: Sequence[int]) -> list[int]:
        """Returns token ids as they are given; raises InputError if the model has no such token."""
        if strays := [token for token in ids if not 0 <= token < self._num_tokens]:
            raise InputError(
                "a prompt has a token that the model does not have",
                expected=f"token ids from 0 to {self._num_tokens - 1}",
                got=str(strays[0]),
            )
        if not ids:
            raise InputError("a prompt in tokens is empty", expected="at least one token id")
        return list(ids)

    def _chat(self, prompt: Prompt) -> str:
        if self.tokenizer.chat_template is None:
            raise InputError(
                "the base has no chat template",
                expected="a tokenizer with a chat template",
                where=str(self.tokenizer.name_or_path),
                fix="set `chat_template: false` in the tasks, or use a base that has one",
            )
        return render_chat(self.tokenizer, prompt.messages)


def check_tasks(
    tasks: Iterable[Task], host: Path, *, max_model_len: int | None, calibration: Collection[str] = ()
) -> dict[str, TaskLengths]:
    """Tokenises every request of every task, without an engine, within limits of time and memory.

    Args:
        tasks: the tasks of the run.
        host: the folder that an engine would start from.
        max_model_len: maximum length of prompt plus answer, if the engine limits it.
        calibration: the tasks whose calibration requests the run needs, too.

    Returns:
        Task -> lengths of its items.

    Raises:
        InputError: no engine could answer a request; if it is too long, or its tokens do not come to an end, the
            message names the item, the first of each task.
    """
    asked = [
        _Asked(
            task=task,
            requests=[task.requests(item) for item in task.items],
            calibrations=[task.calibration(item) for item in task.items] if task.name in calibration else [],
        )
        for task in tasks
    ]
    return reading_texts(partial(_check_asked, asked, host, max_model_len), host)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """A task with its requests."""

    task: Task
    requests: Sequence[Sequence[Request]]
    """Item by item."""
    calibrations: Sequence[Request]
    """Item by item; empty if there are none."""


def _check_asked(
    asked: Sequence[_Asked], host: Path, max_model_len: int | None, begin: Begin
) -> dict[str, TaskLengths]:
    encoder = Encoder(host, max_model_len=max_model_len)
    lengths, mistakes = dict[str, TaskLengths](), Collector()
    for one in asked:
        with mistakes.noted():
            encoded = _encoded(one, encoder, begin)
            begin(f"the answers of task `{one.task.name}`"[:200])
            lengths[one.task.name] = _lengths(one, encoder, encoded)
    mistakes.require_none()
    return lengths


def _encoded(asked: _Asked, encoder: Encoder, begin: Begin) -> list[list[Encoded]]:
    """Returns the encoded requests, item by item; raises InputError if some do not fit or cannot be asked."""
    task, encoded, too_long = asked.task, list[list[Encoded]](), list[tuple[Item, TooLong]]()
    for i, item in enumerate(task.items):
        begin(f"item `{item.id}` of task `{task.name}`"[:200])
        try:
            encoded.append([encoder.encode(request) for request in asked.requests[i]])
            for request in asked.calibrations[i : i + 1]:
                encoder.encode(request)
        except TooLong as error:
            too_long.append((item, error))
        except InputError as error:
            raise InputError(
                f"item `{item.id}`: {error.problem}",
                expected=error.expected,
                got=error.got,
                where=error.where or item.place(task.name),
                fix=error.fix or "lengthen the item, or remove it",
            ) from None
    if too_long:
        item, reason = too_long[0]
        others = f", nor do {len(too_long) - 1} other of {len(task.items)} items" * (len(too_long) > 1)
        raise InputError(
            f"item `{item.id}` does not fit the model's context{others}",
            expected=f"prompt and answer in {encoder.max_model_len} tokens",
            got=str(reason),
            where=item.place(task.name),
            fix="shorten the item or `max_tokens`, or raise `fitness.engine.max_model_len`",
        )
    return encoded


def _lengths(asked: _Asked, encoder: Encoder, encoded: Sequence[Sequence[Encoded]]) -> TaskLengths:
    """Returns the lengths of a task's items; raises InputError if a right answer can never be given."""
    task, kind = asked.task, own_kind(asked.task)
    golds, totals, cut = list[int](), dict[str, int](), dict[str, str]()
    most, too_long = None, list[tuple[Item, int, int]]()
    for item, requests, found in zip(task.items, asked.requests, encoded, strict=True):
        limits = [request.max_tokens for request in requests if isinstance(request, Generate)]
        texts, needed = (kind.right_texts(item), kind.needed(item)) if isinstance(kind, TaskConfig) else ((), ())
        sizes = {text: encoder.num_tokens(text) for text in dict.fromkeys((*texts, *needed))}
        shortest = min((sizes[text] for text in texts), default=None)
        if limits and needed and (size := min(sizes[text] for text in needed)) > max(limits):
            too_long.append((item, size, max(limits)))
        if limits and shortest is not None and shortest > max(limits):
            cut[item.id] = encoder.cut(kind.shown(item), max_tokens=max(limits))
        golds += [] if shortest is None else [shortest]
        most = max([*limits, *([] if most is None else [most])], default=None)
        answers = len(limits) * min(max(limits), shortest or max(limits)) if limits else 0
        totals[item.id] = sum(len(one.token_ids) for one in found) + answers
    if too_long:
        item, size, limit = too_long[0]
        raise InputError(
            f"the answers of {len(too_long)} of {len(task.items)} items can never be given: they are too long",
            expected=f"answers of at most {limit} tokens, the task's `max_tokens`",
            got=f"{size} tokens in {excerpt(kind.shown(item), at_most=80)!r}, the first",
            where=item.place(task.name),
            fix=f"max_tokens: {max(size for _, size, _ in too_long) + 1}, or shorter answers",
        )
    return TaskLengths(
        context=encoder.max_model_len,
        max_tokens=most,
        prompts=tuple(max((one.num_prompt for one in found), default=0) for found in encoded),
        golds=tuple(golds),
        totals=totals,
        cut_golds=cut,
    )


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
