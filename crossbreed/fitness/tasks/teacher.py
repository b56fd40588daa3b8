"""Tasks without right answers: what a model predicts at each token of an answer that a teacher has written.

A teacher is an expert of the run (or its base). It answers an item's prompt once, greedily, ended as it ends an answer
itself. Candidates write nothing: they are compared at the teacher's tokens, so that all are asked the same.
"""

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from crossbreed.config import Name
from crossbreed.errors import EngineError, InvalidWeights
from crossbreed.fitness.answers import ROUNDING, likely_answers_of
from crossbreed.fitness.divergence import entropy, jensen_shannon
from crossbreed.fitness.items import Item
from crossbreed.fitness.protocol import Handle, Predicts
from crossbreed.fitness.requests import Alternatives, Generate, Predict, Predicted, Response
from crossbreed.fitness.tasks.config import PromptTaskConfig
from crossbreed.fitness.tasks.task import Answer
from crossbreed.fitness.values import FieldValue


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherAnswer:
    """What a teacher answered to an item."""

    token_ids: tuple[int, ...]
    """Its answer, with what ended it."""
    places: Alternatives = ()
    """For each of them: the tokens that candidates are asked for -> the teacher's log-probability. Empty: none are."""


class TeacherTask(PromptTaskConfig):
    """Base of the kinds that a teacher's answers are for."""

    best: ClassVar[float | None] = None

    teacher: Name
    """The expert that answers the prompts, or `base`. It answers each once, greedily; its answers are kept in the run's
    folder."""
    top_k: Annotated[int, Field(ge=1, le=1024)] = 64
    """How many of the most likely tokens count at each place, all others as one: the value is a lower bound of that
    over the whole vocabulary."""
    answer: str = ""
    """The field of the answers of `few_shot` examples. The items need none."""
    max_tokens: Annotated[int, Field(ge=1)] = 16
    """Maximum number of the teacher's tokens."""
    stop: list[Annotated[str, Field(min_length=1)]] | None = None
    """Texts that end the teacher's answer, besides its end tokens. Default: a newline; none in a chat."""

    @model_validator(mode="after")
    def _examples_have_answers(self) -> Self:
        if isinstance(self.few_shot, list) and self.few_shot and not self.answer:
            raise ValueError("`few_shot` examples have answers: name their field in `answer`")
        return self

    @property
    def higher_is_better(self) -> bool:
        """False; see Kind."""
        return False

    def requests(self, item: Item) -> list[Generate]:
        """Returns what the teacher is asked."""
        prompt = self.render(item)
        self.require_question(item)
        stop = self.stop if self.stop is not None else [] if self.chat_template else ["\n"]
        return [Generate(prompt=prompt, max_tokens=self.max_tokens, stop=tuple(stop))]

    def score(self, item: Item, responses: Sequence[Response]) -> Answer:
        """Is not called: nothing that a candidate writes is scored."""
        raise NotImplementedError("a candidate is compared with its teacher")

    def gold(self, item: Item) -> FieldValue:
        """Returns an empty text: there are no right answers."""
        return ""

    def shot_answer(self, shot: Item) -> str:
        """Returns the first answer of an example."""
        return self.texts_of(shot, super().gold(shot))[0]

    def teacher_answers(self, handle: Handle, items: Sequence[Item]) -> list[TeacherAnswer]:
        """Has a teacher answer a chunk of items.

        Args:
            handle: The teacher.
            items: The chunk.

        Raises:
            EngineError: it could not.
            InvalidWeights: its log-probabilities are NaN or infinite.
        """
        asked = [replace(self.requests(item)[0], alternatives=self.most_likely) for item in items]
        said = likely_answers_of(handle, asked, asker=self._where)
        if empty := [item for item, one in zip(items, said, strict=True) if not one.token_ids]:
            raise EngineError(f"{self._where}: the teacher `{self.teacher}` wrote no token to item `{empty[0].id}`")
        return self.kept(handle, items, said)

    def compare(
        self, handle: Handle, items: Sequence[Item], answers: Sequence[TeacherAnswer]
    ) -> tuple[list[Answer], list[Response]]:
        """Compares a candidate with what the teacher answered to a chunk of items.

        Returns:
            The values, and the responses that they were made of, for their cost.

        Raises:
            EngineError: the engine could not answer.
            InvalidWeights: a log-probability is NaN.
        """
        found = self._predicted(handle, items, answers)
        values = [self.value(one.places, known) for one, known in zip(found, answers, strict=True)]
        responses = [
            Response(text="", token_ids=known.token_ids, logprobs=(), prompt_tokens=one.prompt_tokens)
            for one, known in zip(found, answers, strict=True)
        ]
        return [Answer(value=value, text="") for value in values], responses

    @property
    @abstractmethod
    def most_likely(self) -> int:
        """How many of the teacher's most likely tokens are wanted where it writes."""

    @abstractmethod
    def kept(self, handle: Handle, items: Sequence[Item], said: Sequence[Response]) -> list[TeacherAnswer]:
        """Returns what is kept of a teacher's answers to a chunk."""

    @abstractmethod
    def value(self, places: Alternatives, known: TeacherAnswer) -> float:
        """Returns the value of what a candidate predicts at the tokens of the teacher's answer."""

    def _predicted(self, handle: Handle, items: Sequence[Item], answers: Sequence[TeacherAnswer]) -> list[Predicted]:
        if not isinstance(handle, Predicts):
            raise EngineError(
                f"{self._where} is of kind `{self.kind}`, and the engine tells no chosen tokens' likelihoods"
            )
        asked = [
            Predict(
                prompt=self.requests(item)[0].prompt,
                answer=known.token_ids,
                tokens=tuple(tuple(place) for place in known.places),
                alternatives=0 if known.places else self.top_k,
            )
            for item, known in zip(items, answers, strict=True)
        ]
        found = handle.predict(asked)
        for one, known in zip(found, answers, strict=True):
            _require_numbers(one.places, known, where=self._where)
        return found

    @property
    def _where(self) -> str:
        return f"task `{self.name}`"


class AgreementTask(TeacherTask):
    """How far a candidate's predictions are from an expert's, at each token of the expert's own answer (DivMerge).

    The Jensen-Shannon divergence in nats, mean over the tokens, over the expert's `top_k` most likely tokens and all
    others as one: from 0, for equal predictions, to ln 2 = 0.693. Less is better. No right answers are needed.
    """

    kind: Literal["agreement"]

    @property
    def metric_name(self) -> str:
        """See Kind."""
        return "Jensen-Shannon divergence in nats"

    @property
    def most_likely(self) -> int:
        """See TeacherTask."""
        return self.top_k

    def kept(self, handle: Handle, items: Sequence[Item], said: Sequence[Response]) -> list[TeacherAnswer]:
        """Asks the teacher as candidates will be asked: what it predicts where it writes may be rounded otherwise."""
        chosen = [
            TeacherAnswer(
                token_ids=one.token_ids,
                places=tuple(
                    dict.fromkeys(listed(place, token, self.top_k), 0.0)
                    for place, token in zip(one.alternatives, one.token_ids, strict=True)
                ),
            )
            for one in said
        ]
        found = self._predicted(handle, items, chosen)
        return [replace(one, places=predicted.places) for one, predicted in zip(chosen, found, strict=True)]

    def value(self, places: Alternatives, known: TeacherAnswer) -> float:
        """Returns the divergence."""
        ours = [[place[token] for token in wanted] for place, wanted in zip(places, known.places, strict=True)]
        return jensen_shannon(ours, [[*wanted.values()] for wanted in known.places])


class EntropyTask(TeacherTask):
    """How uncertain a candidate is at each token of an expert's own answer (AdaMerging).

    The entropy in nats, mean over the tokens, of the candidate's `top_k` most likely tokens and all others as one. Less
    is better. No right answers are needed.
    """

    kind: Literal["entropy"]

    @property
    def metric_name(self) -> str:
        """See Kind."""
        return "entropy in nats"

    @property
    def most_likely(self) -> int:
        """See TeacherTask."""
        return 0

    def kept(self, handle: Handle, items: Sequence[Item], said: Sequence[Response]) -> list[TeacherAnswer]:
        """Returns the answers alone."""
        return [TeacherAnswer(token_ids=one.token_ids) for one in said]

    def value(self, places: Alternatives, known: TeacherAnswer) -> float:
        """Returns the entropy."""
        return entropy([[*place.values()] for place in places])


def listed(place: Mapping[int, float], token: int, number: int) -> tuple[int, ...]:
    """Returns the most likely tokens of a place; where the one that was written is not among them, it is the last."""
    likely = sorted(place, key=lambda one: (-place[one], one))[:number]
    return tuple(likely if token in likely else [*likely[: number - 1], token])


def _require_numbers(places: Alternatives, known: TeacherAnswer, *, where: str) -> None:
    """Raises InvalidWeights for NaN, and EngineError for what is no answer to the question."""
    if len(places) != len(known.token_ids):
        raise EngineError(f"{where}: predictions at {len(places)} of {len(known.token_ids)} tokens of an answer")
    for place, wanted in zip(places, known.places or places, strict=True):
        if not place or place.keys() != wanted.keys():
            raise EngineError(f"{where}: log-probabilities of {len(place)} tokens at a place, {len(wanted)} are wanted")
        if any(map(math.isnan, place.values())):
            raise InvalidWeights(f"{where}: a log-probability is NaN")
        if max(place.values()) > ROUNDING:
            raise EngineError(f"{where}: a log-probability is {max(place.values()):g}")
