"""Calibration texts of a regression: what each expert reads, in tokens.

Right answers to search items, ended as the expert itself ends an answer; prompts that the expert answers; texts that it
writes from nothing but a template. The rule of the texts (`Asked.rule`) is known before any expert has been asked.
"""

import string
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeAlias

from crossbreed.errors import InputError
from crossbreed.fitness import (
    AnyItems,
    Generate,
    GenerateTask,
    Item,
    Loglikelihood,
    Prompt,
    Response,
    Task,
    load_items,
    own_kind,
)
from crossbreed.fitness.engines.encoder import Encoder
from crossbreed.randomness import spawn
from crossbreed.runs.record.records import SplitName
from crossbreed.runs.regression.walk import Text
from crossbreed.runs.spec.regression import SamplesConfig

CHAT = "chat"
"""The template that stands for the tokenizer's chat template."""
Writer: TypeAlias = Callable[[Sequence[Generate]], list[Response]]
"""An expert that answers."""
_HELD: tuple[SplitName, ...] = ("select", "report")
"""The splits whose items no prompt may be."""
_END_TOKENS = 4
"""An answer is asked for with so many tokens more than the right one has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Golds:
    """Some search items of a task with their answers, and prompts of it without."""

    task: str
    requests: tuple[Loglikelihood, ...]
    asking: Generate | None
    """The first of them as a question: how does the expert end its answer? None: answers are no generated texts."""
    prompts: tuple[Generate, ...] = ()
    """What the expert answers itself."""

    def texts(self, write: Writer, encoder: Encoder) -> Iterator[Text]:
        """Yields the items in tokens, ended as the expert itself ends an answer; asks it once."""
        end = None if self.asking is None else _end_of_answers(self.asking, write, encoder)
        for request in self.requests:
            if end is None:
                encoded = encoder.encode(request)
                yield Text(token_ids=encoded.token_ids, num_prompt=encoded.num_prompt)
                continue
            text = request.continuation.rstrip("\n") + end.text
            encoded = encoder.encode(replace(request, continuation=text))
            yield Text(token_ids=(*encoded.token_ids, *end.token_ids), num_prompt=encoded.num_prompt)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What one expert is asked for its texts."""

    golds: tuple[Golds, ...]
    samples: SamplesConfig | None
    seed: int
    is_given: bool = True
    """Whether somebody said that these are its tasks; else they are all, of which it teaches some (`teachers`)."""

    @property
    def prompts(self) -> tuple[Generate, ...]:
        """What it answers itself, of all tasks."""
        return tuple(prompt for golds in self.golds for prompt in golds.prompts)

    def rule(self, encoder: Encoder) -> dict[str, Any]:
        """Returns all that the texts depend on beside the expert, as JSON."""
        return {
            "golds": [
                {"texts": [_encoded(encoder, one) for one in golds.requests], "asking": _shown(golds.asking)}
                for golds in self.golds
                if golds.requests
            ],
            "prompts": [[encoder.encode(one).token_ids, _shown(one)] for one in self.prompts],
            "samples": self.samples and self.samples.model_dump(mode="json"),
            "seed": self.seed if self.samples else None,
            **({} if self.is_given else {"tasks": "by gain"}),
        }

    def texts(self, write: Writer, encoder: Encoder) -> list[Text]:
        """Has the expert write, and returns its texts.

        Raises:
            EngineError: it could not.
        """
        found: list[Text] = []
        for golds in self.golds:
            found += golds.texts(write, encoder) if golds.requests else ()
        found += answered([encoder.encode(one).token_ids for one in self.prompts], self.prompts, write)
        if self.samples is not None:
            found += dict.fromkeys(_samples(self.samples, self.seed, write, encoder))
        return found


def golds_of(task: Task, items: Sequence[Item], prompts: Iterable[Generate] = ()) -> Golds:
    """Returns some items of a task with their right answers, and prompts without."""
    asking = None
    if items and isinstance(own_kind(task), GenerateTask):
        request, *_ = task.requests(items[0])
        assert isinstance(request, Generate), "a task of kind `generate` asks for texts"
        asking = replace(request, max_tokens=request.max_tokens + _END_TOKENS, stop=(), temperature=0.0)
    requests = tuple(task.calibration(item) for item in items)
    return Golds(task=task.name, requests=requests, asking=asking, prompts=tuple(prompts))


def prompts_of(
    task: Task, path: str, setting: str, *, items: Mapping[SplitName, Mapping[str, AnyItems]]
) -> Iterator[Generate]:
    """Yields the items of a file as a task asks them.

    Args:
        task: The task.
        path: The file.
        setting: What names it in the spec.
        items: The run's: split -> task -> items.

    Raises:
        InputError: the task asks for no text, or one is a selection or report item.
    """
    where = f"{setting}.{task.name}"
    kind = own_kind(task)
    if not isinstance(kind, GenerateTask):
        raise InputError(
            f"task `{task.name}` asks for no text that an expert could write",
            expected="a task of kind `generate`",
            where=where,
            fix="remove the prompts of this task",
        )
    held = {kind.question(item): split for split in _HELD for item in items[split][task.name].items}
    for item in load_items(path):
        if (split := held.get(kind.question(item))) is not None:
            raise InputError(
                f"item `{item.id}` of the prompts is one of the {split} items of task `{task.name}`",
                expected="prompts that no winner is selected or reported on",
                got=kind.question(item)[:200],
                where=f"{where}: {item.where or path}",
                fix="remove it from the file of prompts",
            )
        stop = ("\n",) if kind.stop is None and not kind.chat_template else tuple(kind.stop or ())
        yield Generate(prompt=kind.render(item), max_tokens=kind.max_tokens, stop=stop)


@dataclass(frozen=True, slots=True, kw_only=True)
class _End:
    """How an answer ends: in a text, or with a token that is none; neither: it is not known."""

    text: str = ""
    token_ids: tuple[int, ...] = ()


def _end_of_answers(asking: Generate, write: Writer, encoder: Encoder) -> _End:
    """Asks an expert once: a newline, or an end token, whichever comes first behind an answer."""
    [response] = write([asking])
    if "\n" in response.text.lstrip():
        return _End(text="\n")
    last = response.token_ids[-1:]
    return _End(token_ids=last) if last and set(last) <= encoder.eos_ids else _End()


def answered(prompts: Sequence[tuple[int, ...]], requests: Sequence[Generate], write: Writer) -> list[Text]:
    """Returns prompts with an expert's own answers."""
    return [
        Text(token_ids=(*prompt, *response.token_ids), num_prompt=len(prompt))
        for prompt, response in zip(prompts, write(requests), strict=True)
    ]


def _samples(config: SamplesConfig, seed: int, write: Writer, encoder: Encoder) -> Iterator[Text]:
    """Yields texts that an expert writes: fields at a temperature, the answer greedily."""
    rng = spawn(seed, "regression samples")
    for index, template in enumerate(config.templates):
        numbers = range(index, config.texts, len(config.templates))
        temperatures = [config.temperatures[i % len(config.temperatures)] for i in range(len(numbers))]
        written: list[tuple[int, ...]] = [() for _ in numbers]
        ask = partial(_written_on, config, () if template == CHAT else ("\n",))
        for literal, is_field in _parts(template, encoder):
            ids = encoder.tokenizer(literal, add_special_tokens=not any(written)).input_ids
            written = [(*before, *ids) for before in written]
            if is_field:
                drawn = rng.integers(1 << 31, size=len(written)).tolist()
                responses = write([ask(*one) for one in zip(written, temperatures, drawn, strict=True)])
                written = [
                    (*before, *(one.token_ids[:-1] if one.ended == "stop" else one.token_ids))
                    for before, one in zip(written, responses, strict=True)
                ]
        yield from answered(written, [ask(before) for before in written], write)


def _written_on(
    config: SamplesConfig, stop: tuple[str, ...], written: tuple[int, ...], temperature: float = 0.0, seed: int = 0
) -> Generate:
    prompt = Prompt(text="", token_ids=written)
    return Generate(prompt=prompt, max_tokens=config.max_tokens, stop=stop, temperature=temperature, seed=seed)


def _parts(template: str, encoder: Encoder) -> Iterator[tuple[str, bool]]:
    """Yields the texts of a template, and whether a field follows."""
    if template == CHAT:
        mark = "\N{OBJECT REPLACEMENT CHARACTER}"
        before, _, behind = encoder.shown(Prompt(text=mark, chat=True)).partition(mark)
        yield before, True
        yield behind, False
        return
    for literal, field, _, _ in string.Formatter().parse(template):
        yield (literal if field is None else literal.rstrip(" ")), field is not None  # a token begins with its space


def _encoded(encoder: Encoder, request: Loglikelihood) -> list[Any]:
    """With the place where the answer begins: its tokens may weigh more, and end otherwise."""
    encoded = encoder.encode(request)
    return [encoded.token_ids, encoded.num_prompt]


def _shown(request: Generate | None) -> list[Any] | None:
    return None if request is None else [request.max_tokens, list(request.stop)]
