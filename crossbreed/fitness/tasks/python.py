"""Tasks that a function of the user's scores: it gets the answers to a prompt, or asks for itself."""

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, PrivateAttr, model_validator

from crossbreed.errors import EngineError
from crossbreed.fitness.asking import Ask
from crossbreed.fitness.functions import FunctionReference, UserFunction, fields_of, identity_of, load_function
from crossbreed.fitness.items import Item
from crossbreed.fitness.lengths import answer_length
from crossbreed.fitness.protocol import EvaluatesItems, Handle
from crossbreed.fitness.requests import Generate, Loglikelihood, Response
from crossbreed.fitness.tasks.config import PromptTaskConfig
from crossbreed.fitness.tasks.task import Answer


class PythonTask(PromptTaskConfig):
    """Items that a function of yours scores.

    It is called as `score(answers, items)` where the task has a prompt, and else as `evaluate(ask, items)` and asks for
    itself. Without a function, the engine `python` scores the items.
    """

    best: ClassVar[float | None] = None

    kind: Literal["python"]
    function: FunctionReference | None = None
    """`path.py:name`, relative to this file, or `package.module:name`. Its source is part of the run's identity."""
    answer: str = ""
    """The field that holds a right answer, if there is one, for `check` and few-shot examples."""
    minimize: bool = False
    """Whether smaller values are better."""
    max_tokens: Annotated[int, Field(ge=1)] = 256
    """Maximum number of generated tokens."""
    stop: list[Annotated[str, Field(min_length=1)]] = Field(default_factory=list)
    """Texts that end an answer, besides the model's end token."""
    _loaded: str = PrivateAttr(default="")
    """The function with the hash of its source, once it was loaded: what changes in the file later changes no score."""

    @model_validator(mode="after")
    def _who_scores(self) -> Self:
        if self.function is None and self.has_prompt:
            raise ValueError("a task of kind `python` with a prompt needs a `function` that scores the answers")
        return self

    @property
    def has_prompt(self) -> bool:
        """Whether the task asks; else its function does, or nobody."""
        return bool(self.prompt) or self.messages is not None

    @property
    def most_tokens(self) -> int | None:
        """See TaskConfig; how a function asks for itself is not known."""
        return self.max_tokens if self.has_prompt else None

    @property
    def asks(self) -> bool:
        """Whether it makes requests of its items."""
        return self.has_prompt

    @property
    def is_scored_by_engine(self) -> bool:
        """Whether the engine itself scores the items."""
        return self.function is None

    @property
    def metric_name(self) -> str:
        """The function's name; see Kind."""
        return "value" if self.function is None else self.function.partition("@")[0].rpartition(":")[2]

    @property
    def higher_is_better(self) -> bool:
        """See Kind."""
        return not self.minimize

    def require(self) -> None:
        """Loads the function."""
        if self.function is not None:
            found = load_function(self.function, where=self._where)
            self._loaded = f"{self.function.partition('@')[0]}@{found.hash}"

    def requests(self, item: Item) -> list[Generate]:
        """Returns one Generate, or none if the function asks for itself."""
        if not self.has_prompt:
            return []
        prompt = self.render(item)
        self.require_question(item)
        return [Generate(prompt=prompt, max_tokens=self.max_tokens, stop=tuple(self.stop))]

    def calibration(self, item: Item) -> Loglikelihood:
        """Returns the right answer after a space; in a chat, as the answer begins there."""
        if not (self.answer and self.has_prompt):
            return super().calibration(item)
        prompt = self.render(item)
        between = "" if self.chat_template else self.delimiter_after(prompt.text)
        return Loglikelihood(prompt=prompt, continuation=between + self.shown(item).strip())

    def score(self, item: Item, responses: Sequence[Response]) -> Answer:
        """Has the function score one response."""
        [answer] = self.score_chunk([item], [responses])
        return answer

    def score_chunk(self, items: Sequence[Item], responses: Sequence[Sequence[Response]]) -> list[Answer]:
        """Has the function score the responses of a chunk: `score(answers, items)`."""
        answers = [response for [response] in responses]
        values = self._function().values([answers, [*map(fields_of, items)]], items, where=self._where)
        lengths = (answer_length(said, max_tokens=self.max_tokens) for said in answers)
        return [
            Answer(value=value, text=said.text, length=length)
            for value, said, length in zip(values, answers, lengths, strict=True)
        ]

    def evaluate(self, handle: Handle, items: Sequence[Item]) -> tuple[list[Answer], list[Response]]:
        """Has the function ask and score, or the engine score; returns the answers, and the responses that it got."""
        if self.function is None:
            if not isinstance(handle, EvaluatesItems):
                raise EngineError(f"{self._where} has no function, and the engine scores no items")
            return [Answer(value=value, text="") for value in handle.evaluate(items)], []
        ask = Ask(handle, chunk=self.chunk, asker=self._where)
        try:
            values = self._function().values([ask, [*map(fields_of, items)]], items, where=self._where)
        finally:
            if ask.failure is not None:
                raise ask.failure
        texts = [said.text for said in ask.responses]
        if len(texts) != len(items):
            texts = [""] * len(items)
        return [Answer(value=value, text=text) for value, text in zip(values, texts, strict=True)], ask.responses

    def identity(self) -> dict[str, Any]:
        """Returns all settings except paths; of the function, its name and its source."""
        found = super().identity()
        if self.function is not None:
            found["function"] = identity_of(self._loaded or self.function, where=self._where)
        return found

    def _function(self) -> UserFunction:
        assert self.function is not None, "the engine scores the items"
        return load_function(self._loaded or self.function, where=self._where)

    @property
    def _where(self) -> str:
        return f"task `{self.name}`"
