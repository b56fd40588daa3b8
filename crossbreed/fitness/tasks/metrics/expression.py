"""What a spec writes under `metric`: a name, a name with its setting, or several combined.

metric: number
metric: {language: fr}
metric: {all: [number, {language: fr}]}
metric: {any: [exact_match, {regex: "answer is (.*)"}]}
"""

import re
from collections.abc import Hashable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from threading import Lock
from typing import Any, Literal, TypeAlias

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler, JsonValue, TypeAdapter, ValidationError, ValidationInfo
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, ErrorDetails, core_schema

from crossbreed.config import refused
from crossbreed.errors import InputError
from crossbreed.fitness.protocol import Surroundings
from crossbreed.fitness.tasks.metrics.metric import Abstention, Asker, Fields, Metric, Verdict
from crossbreed.fitness.tasks.metrics.plain import check_pattern
from crossbreed.fitness.tasks.metrics.registry import METRICS
from crossbreed.parsing import any_of, hint_at_boolean, shown, type_name

WrittenMetric: TypeAlias = str | dict[str, JsonValue]
"""A comparison, as a spec writes it."""
_DEEPEST = 8
_ONE_AT_A_TIME = Lock()
"""Held by metrics that ask nobody: threads are for waiting, and libraries may not expect them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Single:
    """One metric."""

    name: str
    setting: object = None
    """Parsed; of a pattern, compiled."""

    @property
    def metric(self) -> Metric:
        """The part."""
        return METRICS[self.name]

    @property
    def label(self) -> str:
        """The metric's name, and who is asked."""
        return self.name if self.asker is None else f"{self.name} {self.asker.who}"

    @property
    def higher_is_better(self) -> bool:
        """Whether larger values are better."""
        return self.metric.higher_is_better

    @property
    def needs_gold(self) -> bool:
        """Whether a text without the gold in it scores 0."""
        return self.metric.needs_gold

    @property
    def by_value(self) -> bool:
        """Whether any notation of a number will do as a gold."""
        return self.metric.by_value

    @property
    def uses_gold(self) -> bool:
        """Whether it looks at the gold."""
        return self.metric.uses_gold

    @property
    def votes(self) -> bool:
        """Whether texts can be counted as votes: `key` tells which say the same."""
        return self.metric.key is not None

    def value(self, text: str, gold: str, fields: Fields, heard: list[Verdict] | None = None) -> float:
        """Returns the value of a text.

        Args:
            text: The text.
            gold: The gold answer.
            fields: The item's.
            heard: Gets the verdicts of those that were asked.

        Raises:
            Abstention: there is no verdict.
        """
        if self.asker is not None:
            found = self._of(text, gold, fields)
        else:
            with _ONE_AT_A_TIME:
                found = self._of(text, gold, fields)
        if not isinstance(found, Verdict):
            return float(found)
        if heard is not None:
            heard.append(found)
        if found.value is None:
            raise Abstention(found.why)
        return found.value

    @property
    def asker(self) -> Asker | None:
        """Who is asked; None if it asks nobody."""
        return self.setting if isinstance(self.setting, Asker) else None

    def begun(self, around: Surroundings, closing: ExitStack) -> "Single":
        """Returns it ready to ask."""
        return self if self.asker is None else replace(self, setting=self.asker.begun(around, closing))

    def _of(self, text: str, gold: str, fields: Fields) -> bool | float | Verdict:
        return self.metric(text, gold, *self._settings, *((fields,) * self.metric.takes_item))

    def can_match(self, gold: str) -> bool:
        """Returns whether some text can score above 0."""
        return self.metric.can_match(gold)

    def key(self, text: str) -> Hashable:
        """Returns what is compared of a text; None if there is no such thing."""
        assert self.metric.key is not None, "`votes` says whether texts can be counted"
        return self.metric.key(text, *self._settings)

    def singles(self) -> Iterator["Single"]:
        """Yields itself."""
        yield self

    def written(self) -> WrittenMetric:
        """Returns it as a spec writes it, with absolute paths."""
        return {self.name: self._dumped()} if self.metric.has_setting else self.name

    def identity(self) -> JsonValue:
        """Returns what must not change on resume: the contents of files, and not their paths."""
        if self.metric.identity is None:
            return self.written()
        return {self.name: self.metric.identity(self.setting)}

    @property
    def reads(self) -> tuple[str, ...]:
        """The fields that every item must have for it, besides the gold."""
        return () if self.metric.reads is None else self.metric.reads(self.setting)

    def require(self) -> None:
        """Raises InputError unless it can work: what it needs is installed, and its setting makes sense."""
        self.metric.require()
        if self.metric.check is not None:
            self.metric.check(self.setting)

    @property
    def _settings(self) -> tuple[object, ...]:
        return (self.setting,) * self.metric.has_setting

    def _dumped(self) -> JsonValue:
        if isinstance(self.setting, re.Pattern):
            return str(self.setting.pattern)
        dumped: JsonValue = TypeAdapter(self.metric.setting).dump_python(self.setting, mode="json")
        return dumped


@dataclass(frozen=True, slots=True, kw_only=True)
class Combined:
    """Several metrics of which more is better: the lowest of their values, or the highest."""

    how: Literal["all", "any"]
    parts: tuple["Single | Combined", ...]

    @property
    def label(self) -> str:
        """The parts' names: `number and language`."""
        word = {"all": " and ", "any": " or "}[self.how]
        return word.join(f"({part.label})" if isinstance(part, Combined) else part.label for part in self.parts)

    @property
    def higher_is_better(self) -> bool:
        """See Single."""
        return True

    @property
    def needs_gold(self) -> bool:
        """See Single."""
        return self._fold(part.needs_gold for part in self.parts)

    @property
    def by_value(self) -> bool:
        """See Single."""
        return all(part.by_value for part in self.parts if part.uses_gold)

    @property
    def uses_gold(self) -> bool:
        """See Single."""
        return any(part.uses_gold for part in self.parts)

    @property
    def votes(self) -> bool:
        """See Single."""
        return any(part.votes for part in self.parts)

    def value(self, text: str, gold: str, fields: Fields, heard: list[Verdict] | None = None) -> float:
        """See Single."""
        best, pick = {"all": (0.0, min), "any": (1.0, max)}[self.how]
        values, missing = list[float](), list[Abstention]()
        for part in self.parts:
            try:
                values.append(part.value(text, gold, fields, heard))
            except Abstention as error:  # unless another part settles it
                missing.append(error)
                continue
            if values[-1] == best:  # what comes behind changes nothing, and may be slow
                return best
        if missing:
            raise missing[0]
        return pick(values)

    def begun(self, around: Surroundings, closing: ExitStack) -> "Combined":
        """See Single."""
        return replace(self, parts=tuple(part.begun(around, closing) for part in self.parts))

    def can_match(self, gold: str) -> bool:
        """See Single."""
        return self._fold(part.can_match(gold) for part in self.parts if part.uses_gold or self.how == "all")

    def key(self, text: str) -> Hashable:
        """Returns the keys of the parts that have some."""
        keys = tuple(part.key(text) for part in self.parts if part.votes)
        return None if all(key is None for key in keys) else keys

    def singles(self) -> Iterator[Single]:
        """Yields those of each part."""
        for part in self.parts:
            yield from part.singles()

    def written(self) -> WrittenMetric:
        """See Single."""
        return {self.how: [part.written() for part in self.parts]}

    def identity(self) -> JsonValue:
        """See Single."""
        return {self.how: [part.identity() for part in self.parts]}

    def _fold(self, values: Iterator[bool]) -> bool:
        return all(values) if self.how == "all" else any(values)


Comparison: TypeAlias = Single | Combined
"""Compares a text with a gold."""


def comparison_of(
    written: object, *, pattern: str | None = None, context: Mapping[str, Any] | None = None, depth: int = 0
) -> Comparison:
    """Returns what a spec means.

    Args:
        written: A name, or a mapping with one key.
        pattern: The task's `pattern`, for a metric that is only named.
        context: What pydantic is given: the folder of the spec, for the paths of files.
        depth: How deep it stands in others.

    Raises:
        InputError: it is no comparison.
        ValueError: its setting is wrong; pydantic's errors among them.
    """
    if isinstance(written, str):
        return _named(written, pattern)
    if not isinstance(written, Mapping) or len(written) != 1:
        raise InputError(
            "a metric is a name, or a mapping with one key",
            expected="NAME, {NAME: SETTING}, {all: [...]} or {any: [...]}",
            got=shown(written),
            fix=hint_at_boolean(written) or "write one metric there; {all: [...]} combines several",
        )
    [(name, setting)] = written.items()
    if name in ("all", "any"):
        return _combined(name, setting, context, depth)
    metric = METRICS.look_up(name)
    if not metric.has_setting:
        raise InputError(
            f"the metric `{name}` takes no setting", expected=f"metric: {name}", got=shown(written), fix="name it alone"
        )
    if metric.takes_pattern:
        if not isinstance(setting, str):
            raise InputError(f"the pattern of `{name}` is not a text", expected="a pattern", got=type_name(setting))
        check_pattern(setting)
        return Single(name=name, setting=re.compile(setting))
    try:
        return Single(name=name, setting=TypeAdapter(metric.setting).validate_python(setting, context=context))
    except ValidationError as error:
        if not isinstance(metric.setting, type):  # of a union, each member has its own complaint
            raise
        raise refused([_explained(name, one) for one in error.errors(include_url=False)]) from None


def _explained(name: str, found: ErrorDetails) -> InputError:
    """Returns what is wrong with one key of a metric's setting: pydantic's own error would lose the key."""
    cause = found.get("ctx", {}).get("error")
    if isinstance(cause, InputError):
        return cause
    key, said = ".".join(map(str, found["loc"])), found["msg"].removeprefix("Value error, ")
    return InputError(
        f"`{key}` of the metric `{name}`: {said}" if key else f"the metric `{name}`: {said}",
        got="" if found["type"] == "missing" else shown(found["input"]),
        fix=f"`crossbreed list metrics {name}` describes its keys",
    )


def _named(name: str, pattern: str | None) -> Single:
    metric = METRICS.look_up(name)
    if metric.takes_pattern:
        if pattern is None:
            raise ValueError(f"`metric: {name}` needs a `pattern`")
        check_pattern(pattern)
        return Single(name=name, setting=re.compile(pattern))
    if metric.has_setting:
        raise InputError(
            f"the metric `{name}` needs a setting",
            expected=f"metric: {{{name}: SETTING}}",
            got=f"metric: {name}",
            fix=f"`crossbreed list metrics {name}` says what it is",
        )
    return Single(name=name)


def _combined(how: Literal["all", "any"], given: object, context: Mapping[str, Any] | None, depth: int) -> Combined:
    if not isinstance(given, list) or not given or depth >= _DEEPEST:
        raise InputError(
            f"`{how}` of a metric is not a list of metrics",
            expected=f"{how}: [number, {{language: fr}}]" + f", at most {_DEEPEST} deep" * (depth >= _DEEPEST),
            got=shown(given),
        )
    parts = tuple(comparison_of(part, context=context, depth=depth + 1) for part in given)
    if less := [part.label for part in parts if not part.higher_is_better]:
        raise InputError(
            f"`{how}` combines metrics of which more is better",
            expected="metrics with values from 0 to 1",
            got=f"`{any_of(less)}`, of which less is better",
            fix="make it a task of its own, and name both tasks in `objectives`",
        )
    return Combined(how=how, parts=parts)


class MetricField:
    """Annotates a field that holds a comparison as it is written: `Annotated[WrittenMetric, MetricField()]`."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:  # pydantic's name
        return core_schema.with_info_plain_validator_function(self._checked)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        name = {"type": "string", "enum": list(METRICS), "x-registry": METRICS.plural}
        return {"anyOf": [name, {"type": "object", "minProperties": 1, "maxProperties": 1}]}

    def _checked(self, written: object, info: ValidationInfo) -> WrittenMetric:
        """Returns it with absolute paths. What is only named may need the task's `pattern`: that is checked with it."""
        if isinstance(written, str):
            METRICS.require(written)
            return written
        return comparison_of(written, context=info.context).written()
