"""The model of a calibration loss: the engine with branches, the texts that it reads, and what experts say to them."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from crossbreed.fitness import Task, TeacherTask, own_kind, reference_config
from crossbreed.fitness.engines.answer_losses import (
    entropy,
    hidden_error,
    jensen_shannon,
    kullback_leibler,
    listed_entropy,
    listed_jensen_shannon,
    right_answer,
)
from crossbreed.fitness.engines.branches import BranchedEngine, Seen, Text
from crossbreed.fitness.engines.encoder import Encoder
from crossbreed.fitness.engines.transformers import most_likely
from crossbreed.fitness.tasks.teacher import listed
from crossbreed.optimizer import CalibrationNeeds
from crossbreed.runs.calibration.branches import branches_of
from crossbreed.runs.calibration.inputs import CalibrationInputs
from crossbreed.runs.calibration.questions import Question, experts_of
from crossbreed.runs.regression.texts import answered, golds_of
from crossbreed.runs.regression.walk import Text as Read
from crossbreed.runs.teachers.checks import teacher_recipe
from crossbreed.search_spaces import HasTerms
from crossbreed.types import BASE, Point


class CalibrationModel:
    """Losses of questions at the points of a space."""

    def __init__(
        self, inputs: CalibrationInputs, space: HasTerms, questions: Sequence[Question], needs: CalibrationNeeds
    ) -> None:
        """Has each expert say how its answers end, then takes the weights of the recipe that terms are added to.

        Raises:
            EngineError: transformers could not run the model.
        """
        assert inputs.weights is not None, "gradients need weights"
        self._inputs, self._weights, self._questions, self._needs = inputs, inputs.weights, questions, needs
        slopes, context_tokens = inputs.slopes, inputs.context_tokens
        self._tokens = slopes.tokens
        config = reference_config(dtype=slopes.dtype, device=slopes.device, context_tokens=context_tokens)
        self._engine = BranchedEngine(config, self._weights.host)
        self._encoder = Encoder(self._weights.host, max_model_len=context_tokens)
        self._engine.observe(needs.hidden_layers)
        for one in (self._engine, self._encoder):
            one.end_at(self._weights.sources.end_token_ids)
        self._texts: list[list[Text]] = [[] for _ in questions]
        """Of each question, one for each expert that counts."""
        self._known: list[_Known] = []
        """What is known of the answer of a text, by its index."""
        readers = dict.fromkeys(reader for question in questions for reader in self._readers(question))
        for expert in sorted(readers, key=(*inputs.experts, BASE).index):
            self._read(expert, [n for n, one in enumerate(questions) if one.top_k is None], dtype="float32")
            self._read(expert, [n for n, one in enumerate(questions) if one.top_k is not None], dtype=inputs.dtype)
        self._engine.adopt(space.origin, self._weights.materialize(space.origin))
        self._engine.attach(branches_of(space.terms, self._weights.sources))

    def loss(self, point: Point, numbers: Sequence[int], *, slopes: bool) -> tuple[float, list[float]]:
        """Returns the loss of some questions, each task's mean by its weight; and its slopes, if they are wanted."""
        counts = Counter(self._questions[number].task.name for number in numbers)
        texts = list[Text]()
        for number in numbers:
            question, found = self._questions[number], self._texts[number]
            weight = question.weight / counts[question.task.name] / len(found)
            texts += [replace(text, weight=weight) for text in found]
        return self._engine.loss(point, texts, self._measure, tokens=self._tokens, slopes=slopes)

    def _read(self, expert: str, among: Sequence[int], *, dtype: str) -> None:
        """Reads the questions of an expert's tasks as it ends their answers."""
        numbers = [number for number in among if expert in self._readers(self._questions[number])]
        if not numbers:
            return
        recipe = teacher_recipe(expert, self._weights.structure.hashes, dtype=dtype)
        self._engine.adopt(recipe, self._weights.materialize(recipe))
        for task in self._inputs.tasks:
            for number, read in self._answered([n for n in numbers if self._questions[n].task is task], task):
                text = Text(token_ids=read.token_ids, num_prompt=read.num_prompt, weight=0.0, index=len(self._known))
                self._texts[number].append(text)
                self._known.append(self._known_of(text, self._questions[number].top_k))

    def _known_of(self, text: Text, top_k: int | None) -> "_Known":
        """Returns what the expert that is adopted predicts at the answer of a text, if that is compared."""
        if not self._needs.compares:
            return _Known(top_k=top_k)
        [(logits_AV, hidden)] = self._engine.seen((), [text], tokens=self._tokens)
        logprobs_AV = logits_AV.log_softmax(-1)
        if top_k is None or self._needs.loss == "distillation":
            return _Known(logprobs=logprobs_AV.half(), hidden=hidden)
        answer = text.token_ids[text.num_prompt :]
        places = most_likely(logprobs_AV.cpu(), top_k)
        ids_AK = torch.tensor([listed(*one, top_k) for one in zip(places, answer, strict=True)])
        ids_AK = ids_AK.to(logprobs_AV.device)
        return _Known(top_k=top_k, ids=ids_AK, logprobs=logprobs_AV.gather(-1, ids_AK), hidden=hidden)

    def _answered(self, numbers: Sequence[int], task: Task) -> Iterator[tuple[int, Read]]:
        """Yields questions of a task with their right answers, or with those that the expert writes."""
        write, encoder = self._engine.write, self._encoder
        items = [(n, item) for n in numbers if (item := self._questions[n].item) is not None]
        prompts = [(n, prompt) for n in numbers if (prompt := self._questions[n].prompt) is not None]
        if items:
            texts: Iterable[Read] = golds_of(task, [item for _, item in items]).texts(write, encoder)
            yield from ((n, text) for (n, _), text in zip(items, texts, strict=True))
        if prompts:
            asked = [prompt for _, prompt in prompts]
            if isinstance(own_kind(task), TeacherTask):
                write = self._engine.answer  # one after the other, as candidates are asked
            texts = answered([encoder.encode(one).token_ids for one in asked], asked, write)
            yield from ((n, text) for (n, _), text in zip(prompts, texts, strict=True))

    def _readers(self, question: Question) -> Sequence[str]:
        """The experts that count: for agreement all of the task, else the first, which says how answers end."""
        experts = experts_of(question.task, self._inputs)
        return experts if self._needs.compares else experts[:1]

    def _measure(self, seen: Seen, text: Text) -> torch.Tensor:
        known, needs, logits_AV = self._known[text.index], self._needs, seen.logits_AV
        if needs.compares:
            loss = self._from_expert(logits_AV, known)
            return loss + needs.hidden * hidden_error(seen.hidden, known.hidden) if needs.hidden else loss
        if needs.loss == "cross_entropy":
            return right_answer(logits_AV, text)
        return entropy(logits_AV) if known.top_k is None else listed_entropy(logits_AV, known.top_k)

    def _from_expert(self, logits_AV: torch.Tensor, known: "_Known") -> torch.Tensor:
        assert known.logprobs is not None, "the expert was asked"
        if self._needs.loss == "distillation":
            return kullback_leibler(logits_AV, known.logprobs, temperature=self._needs.temperature)
        if known.ids is None:
            return jensen_shannon(logits_AV, known.logprobs)
        return listed_jensen_shannon(logits_AV, known.ids, known.logprobs)


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class _Known:
    """What is known of the answer of a text.

    Shapes: A tokens of the answer, K listed at each place, V the vocabulary.
    """

    top_k: int | None = None
    """How many tokens are told apart at a place; None: all."""
    ids: torch.Tensor | None = None
    """The listed tokens [A, K]; None: all."""
    logprobs: torch.Tensor | None = None
    """What the expert predicts: log-probabilities of those [A, K], or of all [A, V]."""
    hidden: tuple[torch.Tensor, ...] = ()
    """Its hidden states [T, H] behind the layers that are compared."""
