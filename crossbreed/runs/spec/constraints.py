"""Constraints: bounds that a candidate has to keep, fixed ones or relative to what the base has on the same items."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, Self, TypeAlias

import numpy as np
from pydantic import AfterValidator, model_validator

from crossbreed.errors import Collector, InputError
from crossbreed.parsing import shown
from crossbreed.runs.spec.objectives import Floats, Measure, MeasureConfig, Objective, Scores, build_measure

_NUMBER = r"(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?"
_OFFSET = re.compile(rf"base(?:\s*(?P<sign>[-+])\s*(?P<offset>{_NUMBER}))?")
_SHARE = re.compile(rf"(?P<percent>{_NUMBER})\s*%\s*(?:of\s+)?base")
_LEAST_SIZE = 1e-9
"""Below it, a bound has no size by which violations could be measured."""
_ROUNDING = 1e-12
"""Of means and bounds, by their size: a model that is at the bound keeps it, and 0.8 - 0.1 is above 0.7."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """A number, or one that follows from the base's: `share` times it, plus `offset`.

    >>> Bound.parse("base + 0.02"), Bound.parse("95% base").share
    (Bound(offset=0.02, share=1.0), 0.95)
    """

    offset: float
    share: float = 0.0

    @classmethod
    def parse(cls, given: float | str) -> Self:
        """Reads `0.8`, `base`, `base + 0.02`, `base - 0.05` or `95% base`.

        Raises:
            InputError: it is none of these.
        """
        if not isinstance(given, str):
            return cls(offset=float(given))
        text = given.strip()
        if found := _OFFSET.fullmatch(text):
            size = float(found["offset"] or 0)
            return cls(offset=-size if found["sign"] == "-" else size, share=1.0)
        if found := _SHARE.fullmatch(text):
            return cls(offset=0.0, share=float(found["percent"]) / 100)
        if re.fullmatch(rf"[-+]?{_NUMBER}", text):
            return cls(offset=float(text))
        raise InputError(
            "a bound is not understood",
            expected="a number, or one relative to the base: `base + 0.02`, `base - 0.05`, `95% base`",
            got=shown(given),
            fix="write one of these; percentages are of the base, as in 95% base",
        )

    def at(self, base: float) -> float:
        """Returns the bound where the base has this value."""
        return self.share * base + self.offset


def _is_bound(given: float | str | None) -> float | str | None:
    if given is not None:
        Bound.parse(given)
    return given


BoundField: TypeAlias = Annotated[float | str, AfterValidator(_is_bound)]
"""A bound as a spec has it."""


class ConstraintConfig(MeasureConfig):
    """One constraint: what is measured, and exactly one of `at_least` and `at_most` (docs/objectives.md)."""

    at_least: BoundField | None = None
    """A number, or one that follows from the base's on the same items: `base - 0.05`, or `95% base` where more is
    better."""
    at_most: BoundField | None = None
    """A number, or one that follows from the base's on the same items: `base + 0.02`."""

    @model_validator(mode="after")
    def _one_bound(self) -> Self:
        if (self.at_least is None) is (self.at_most is None):
            given = "none" if self.at_least is None else f"at_least: {self.at_least} and at_most: {self.at_most}"
            raise InputError(
                "a constraint has one bound",
                expected="exactly one of `at_least` and `at_most`",
                got=given,
                fix="add one of them, as in at_least: 0.8"
                if self.at_least is None
                else "make two constraints of it, one for each bound",
            )
        return self

    @property
    def text(self) -> str:
        """The bound as it is written, without the key."""
        given = self.at_most if self.at_least is None else self.at_least
        return f"{given:g}" if isinstance(given, float) else " ".join(str(given).split())


@dataclass(frozen=True, slots=True, kw_only=True)
class Constraint(Measure):
    """A constraint as a measure: how far inside its bound a model is. It holds from 0 up.

    >>> safe = Objective(kind="task", tasks=("safety",))
    >>> Constraint(measure=safe, side="at_least", bound=Bound(offset=0.75), text="0.75").value({"safety": 1.0})
    0.25
    """

    measure: Objective
    side: Literal["at_least", "at_most"]
    bound: Bound
    text: str
    """The bound as it is written."""
    minimize: bool = False
    """More room inside the bound is better."""

    @property
    def tasks(self) -> tuple[str, ...]:  # type: ignore[override]
        """What it measures."""
        return self.measure.tasks

    @property
    def name(self) -> str:
        """The whole constraint in words."""
        return f"{self.measure.name} {self.side.replace('_', ' ')} {self.text}"

    @property
    def needs_base(self) -> bool:
        """See Measure."""
        return self.bound.share != 0

    def over(self, means: Mapping[str, Floats], base: Mapping[str, Floats] | None = None) -> Floats:
        """Returns how far inside the bound each position of the means is; negative: outside."""
        bound = np.asarray(self.bound.offset)
        if self.needs_base:
            assert base is not None, "a bound relative to the base needs its means"
            bound = self.bound.share * self.measure.over(base) + self.bound.offset
        inside = self.measure.over(means) - bound
        inside = np.where(np.abs(inside) <= _ROUNDING * np.maximum(1.0, np.abs(bound)), 0.0, inside)
        return np.asarray(inside if self.side == "at_least" else 0.0 - inside)  # no -0.0

    def limit(self, base: Scores | None) -> float:
        """Returns the bound as a number, for the items that the base has these scores on."""
        return self.bound.at(self.measure.of(base) if self.needs_base and base is not None else 0.0)

    def excess(self, scores: Scores, base: Scores | None) -> float:
        """Returns how far outside the bound a model is, by the bound's size; 0 or less: it keeps it."""
        size = abs(self.limit(base))
        return -self.of(scores, base) / (size if size > _LEAST_SIZE else 1.0) + 0.0  # no -0.0


def build_constraints(
    configs: Sequence[ConstraintConfig],
    minimized: Mapping[str, bool],
    ranges: Mapping[str, tuple[float, float]],
    *,
    mistakes: Collector | None = None,
) -> tuple[Constraint, ...]:
    """Returns the constraints of a spec.

    Args:
        configs: As given in the spec.
        minimized: Task name -> whether less of its metric is better.
        ranges: Task name -> the smallest and largest values of its metric, where they are known.
        mistakes: Takes what is wrong with each; None: the first of it is raised.

    Raises:
        InputError: a task is unknown, or a bound can never, or always, be kept.
    """
    built = list[Constraint]()
    for i, config in enumerate(configs):
        collector = Collector()
        with collector.noted():
            built.append(_build(config, minimized, ranges, f"fitness.constraints.{i}"))
        for error in collector.errors:
            if mistakes is None:
                raise error
            mistakes.note(error)
    return tuple(built)


def _build(
    config: ConstraintConfig, minimized: Mapping[str, bool], ranges: Mapping[str, tuple[float, float]], where: str
) -> Constraint:
    measure = build_measure(config, minimized, where, what="a constraint")
    bound = Bound.parse(config.text)
    _check_percentage(config, measure, bound, where)
    if not bound.share and (config.weights is None or min(config.weights) >= 0):
        known = [ranges[task] for task in measure.tasks if task in ranges]
        _check_range(config, measure.tasks, bound.offset, known, where)
    return Constraint(
        measure=measure,
        side="at_most" if config.at_least is None else "at_least",
        bound=bound,
        text=config.text,
    )


def _check_percentage(config: ConstraintConfig, measure: Objective, bound: Bound, where: str) -> None:
    """Refuses a share of a loss: of 3 nats, 95 % is e to the 0.15 times as likely a text, which nobody means."""
    if "%" in config.text and measure.minimize and config.length is None:
        raise InputError(
            f"a percentage of a loss says little: less is better in {', '.join(config.task_names)}",
            expected="a difference to the base where less is better",
            got=config.text,
            where=where,
            fix="write `at_most: base + 0.02`, in units of the metric (nats a token)",
        )


def _check_range(
    config: ConstraintConfig, names: Sequence[str], bound: float, ranges: Sequence[tuple[float, float]], where: str
) -> None:
    """Refuses a bound that no model, or every model, keeps."""
    if len(ranges) < len(names):
        return
    low, high = min(low for low, _ in ranges), max(high for _, high in ranges)
    is_least = config.at_least is not None
    if low <= bound <= high and bound != (low if is_least else high):
        return
    never = bound > high if is_least else bound < low
    raise InputError(
        f"{'no' if never else 'every'} model keeps this bound: {', '.join(names)} "
        f"{'is' if len(ranges) == 1 else 'are'} from {low:g} to {high:g}",
        expected=f"a bound between {low:g} and {high:g}",
        got=f"{'at_least' if is_least else 'at_most'}: {bound:g}",
        where=where,
        fix="correct the bound; a percentage is written as a fraction, 0.8, or of the base, as in 95% base",
    )
