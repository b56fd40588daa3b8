"""What a spec says of a judge, and what follows from it: its questions, and where their verdicts stand."""

import re
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Self

from pydantic import Field, JsonValue, model_validator

from crossbreed.errors import InputError
from crossbreed.fitness.items import Item
from crossbreed.fitness.services.settings import ServiceSettings
from crossbreed.fitness.tasks.metrics.judge.reading import verdict_in
from crossbreed.fitness.tasks.metrics.plain import check_pattern
from crossbreed.fitness.tasks.prompts import field_names, fill_prompt
from crossbreed.parsing import any_of

RESPONSE = "response"
"""The text that is judged, among the fields of a judge's prompt."""
_OURS = ("model", "messages", "temperature", "seed", "max_tokens", "n", "stream")
"""Keys of a request that are not the user's."""


class JudgeSettings(ServiceSettings):
    """A model behind an OpenAI-compatible endpoint that judges texts (docs/tasks.md). Its temperature is 0."""

    place: ClassVar[str] = "metric.judge"

    timeout: Annotated[float, Field(gt=0)] = 120.0
    """Seconds that the service may take to answer one request."""
    model: Annotated[str, Field(min_length=1)]
    """Its name at the endpoint; pin it to a version where the provider has several."""
    prompt: Annotated[str, Field(min_length=1)]
    """What it is asked: a format string over the item's fields (the gold answer is one of them), and `{response}`, the
    text that is judged. A field with a chat shows its turns as `user: ...` and `assistant: ...`."""
    system: str | None = None
    """A system message before it."""
    scale: tuple[float, float] | None = None
    """The lowest and the highest mark, which become 0 and 1. None: the verdict is yes (1) or no (0)."""
    pattern: str | None = None
    """A regular expression whose first group is the verdict. None: the text begins or ends with it, or, on a scale, has
    it as `[[7]]` or `7/10`."""
    json_key: str | None = None
    """Instead of a pattern: the verdict's key in the JSON object that the judge writes."""
    repeats: Annotated[int, Field(ge=1, le=100)] = 1
    """Times that it is asked about one text, with the seeds 0, 1, 2 ...; the value is the mean."""
    tolerance: Annotated[float, Field(ge=0, le=1)] = 0.25
    """How far its verdicts on one text may be apart, of 0 to 1; farther, it contradicts itself and abstains."""
    most_abstentions: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """The share of a task's items without a verdict above which a candidate could not be measured: it is FAILED."""
    max_tokens: Annotated[int, Field(ge=1)] | None = 512
    """Most tokens of its answer; a longer one has no verdict. None: the endpoint's own limit."""
    options: dict[str, JsonValue] = Field(default_factory=dict)
    """Further keys of each request, as the endpoint takes them: `{reasoning_effort: low}`."""

    @model_validator(mode="after")
    def _can_be_asked(self) -> Self:
        if RESPONSE not in field_names(self.prompt):
            raise ValueError(
                f"`prompt` of the judge does not show what is judged: write {{{RESPONSE}}} where the text is to stand"
            )
        if self.pattern is not None and self.json_key is not None:
            raise ValueError("`pattern` and `json_key` both say where the verdict is: remove one")
        if self.pattern is not None:
            check_pattern(self.pattern)
        if self.scale is not None and not self.scale[0] < self.scale[1]:
            raise ValueError("`scale` is the lowest and the highest mark, in this order: [1, 10]")
        if taken := [key for key in self.options if key in _OURS]:
            raise ValueError(f"`options` cannot set {any_of(taken)}: the judge's own keys do, or it is fixed")
        if self.tolerance == 1 and self.scale is None and self.repeats > 1:
            raise ValueError("`tolerance: 1` would take yes and no together as a verdict: lower it")
        return self

    def require_key(self) -> None:
        """Raises InputError unless the key is in the environment, if there is to be one."""
        self.key()

    def question(self, text: str, item: Item, *, task: str) -> str:
        """Returns what it is asked about a text; see Asker."""
        if RESPONSE in item.fields:
            raise InputError(
                f"item `{item.id}` has a field `{RESPONSE}`, which in a judge's prompt is the text that is judged",
                expected=f"no field of the name `{RESPONSE}`",
                where=item.place(task, RESPONSE),
                fix="call the field otherwise in the file",
            )
        asked = replace(item, fields={**item.fields, RESPONSE: text})
        try:
            return fill_prompt(self.prompt, asked, task=task, shows_chats=True)
        except InputError as error:
            where = f"the judge's `prompt`; {error.where}"
            raise InputError(
                error.problem, expected=error.expected, got=error.got, where=where, fix=error.fix
            ) from None

    def value_of(self, said: str) -> float:
        """Returns the verdict in what it has written; raises NoVerdict."""
        pattern = None if self.pattern is None else re.compile(self.pattern)
        return verdict_in(said, scale=self.scale, pattern=pattern, key=self.json_key)

    def body(self, question: str, seed: int) -> dict[str, Any]:
        """Returns a request: what changes the verdict, all of it, and nothing else."""
        system = [] if self.system is None else [{"role": "system", "content": self.system}]
        limit = {} if self.max_tokens is None else {"max_tokens": self.max_tokens}
        messages = [*system, {"role": "user", "content": question}]
        return {**self.options, "model": self.model, "messages": messages, "temperature": 0, "seed": seed, **limit}

    def waiting_longer(self, seconds: int) -> str:
        """See ServiceSettings."""
        return f"`patience: {seconds}` of the judge waits longer"
