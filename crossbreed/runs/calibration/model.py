"""The model of a calibration loss: the engine with branches, the texts that it reads, and what experts say to them."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import torch

from crossbreed.fitness import Task, reference_config
from crossbreed.fitness.engines.answer_losses import entropy, jensen_shannon, right_answer
from crossbreed.fitness.engines.branches import BranchedEngine, Text
from crossbreed.fitness.engines.encoder import Encoder
from crossbreed.optimizer import CalibrationNeeds
from crossbreed.recipes.named import weighted_deltas
from crossbreed.runs.calibration.branches import branches_of
from crossbreed.runs.calibration.inputs import CalibrationInputs
from crossbreed.runs.calibration.questions import Question, experts_of
from crossbreed.runs.regression.texts import answered, golds_of
from crossbreed.runs.regression.walk import Text as Read
from crossbreed.search_spaces import HasTerms
from crossbreed.types import Point


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
        self._inputs, self._weights, self._questions, self._loss = inputs, inputs.weights, questions, needs.loss
        slopes, context_tokens = inputs.slopes, inputs.context_tokens
        self._tokens = slopes.tokens
        config = reference_config(dtype=slopes.dtype, device=slopes.device, context_tokens=context_tokens)
        self._engine = BranchedEngine(config, self._weights.host)
        self._encoder = Encoder(self._weights.host, max_model_len=context_tokens)
        for one in (self._engine, self._encoder):
            one.end_at(self._weights.sources.end_token_ids)
        self._texts: list[list[Text]] = [[] for _ in questions]
        """Of each question, one for each expert that counts."""
        self._experts: list[torch.Tensor] = []
        """What an expert predicts at the answer of a text, by its index: log-probabilities [A, V]."""
        for expert in inputs.experts:
            self._read(expert)
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

    def _read(self, expert: str) -> None:
        """Reads the questions of an expert's tasks as it ends their answers."""
        numbers = [n for n, question in enumerate(self._questions) if expert in self._readers(question)]
        if not numbers:
            return
        hashes = self._weights.structure.hashes
        recipe = weighted_deltas({expert: 1.0}, hashes=hashes, dtype="float32")
        self._engine.adopt(recipe, self._weights.materialize(recipe))
        for task in self._inputs.tasks:
            for number, read in self._answered([n for n in numbers if self._questions[n].task is task], task):
                index = len(self._experts)
                text = Text(token_ids=read.token_ids, num_prompt=read.num_prompt, weight=0.0, index=index)
                self._texts[number].append(text)
                if self._loss == "agreement":
                    [logits_AV] = self._engine.logits_of((), [text], tokens=self._tokens)
                    self._experts.append(logits_AV.log_softmax(-1).half())

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
            texts = answered([encoder.encode(one).token_ids for one in asked], asked, write)
            yield from ((n, text) for (n, _), text in zip(prompts, texts, strict=True))

    def _readers(self, question: Question) -> Sequence[str]:
        """The experts that count: for agreement all of the task, else the first, which says how answers end."""
        experts = experts_of(question.task, self._inputs)
        return experts if self._loss == "agreement" else experts[:1]

    def _measure(self, logits_AV: torch.Tensor, text: Text) -> torch.Tensor:
        match self._loss:
            case "cross_entropy":
                return right_answer(logits_AV, text)
            case "entropy":
                return entropy(logits_AV)
            case "agreement":
                return jensen_shannon(logits_AV, self._experts[text.index])
