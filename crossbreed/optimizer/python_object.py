"""An optimizer object passed to `crossbreed.run` from Python."""

from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeAlias, get_args

from pydantic import Field, JsonValue, PrivateAttr

from crossbreed.objects import absent, name_of
from crossbreed.optimizer.build import OptimizerConfig, OptimizerPart, build_part
from crossbreed.optimizer.protocol import Optimizer, SearchInputs
from crossbreed.types import SlopeKind

MakeOptimizer: TypeAlias = Callable[[SearchInputs], Optimizer]
"""Builds an optimizer, such as its class. Called more than once: to check that it takes the inputs, and to search."""


class OptimizerObject(OptimizerConfig):
    """An optimizer passed from Python: `crossbreed.run(spec, out, optimizer=...)`. Cannot be given in a file."""

    kind: Literal["object"] = "object"
    object: str = ""
    """The name by which a resumed run recognises it."""
    settings: dict[str, JsonValue] = Field(default_factory=dict)
    """The options of a part, which may not change on resume either."""
    _make: MakeOptimizer | None = PrivateAttr(default=None)
    _slope_kind: SlopeKind | None = PrivateAttr(default=None)
    _reads_budget: bool = PrivateAttr(default=False)
    _reads_violations: bool = PrivateAttr(default=False)
    _renamed: dict[str, str] = PrivateAttr(default_factory=dict)

    def hold(self, given: MakeOptimizer | OptimizerPart[Any]) -> None:
        """Keeps the object; of a part, its optimizer with default options."""
        if not isinstance(given, OptimizerPart):
            self._make = given
            return
        config = given.config.model_validate({"kind": kind_of(given), "budget": self.budget})
        self._make = lambda inputs: build_part(given, config, inputs)
        self._slope_kind, self._reads_budget = config.slope_kind, config.reads_budget
        self._reads_violations = config.reads_violations
        self._renamed = {_setting(old): _setting(new) for old, new in config.renamed.items()}

    def without_object(self) -> "OptimizerObject":
        """Returns what a worker needs to know of it: all but the object, which need not survive the way there."""
        copy = self.model_copy()
        copy._make = None
        return copy

    @property
    def label(self) -> str:
        """The object's name; see OptimizerConfig."""
        return self.object or self.kind

    @property
    def slope_kind(self) -> SlopeKind | None:
        """That of the part; see OptimizerConfig."""
        return self._slope_kind

    @property
    def reads_budget(self) -> bool:
        """That of the part; see OptimizerConfig."""
        return self._reads_budget

    @property
    def reads_violations(self) -> bool:
        """That of the part; see OptimizerConfig."""
        return self._reads_violations

    @property
    def renamed(self) -> Mapping[str, str]:
        """Those of the part; see OptimizerConfig."""
        return self._renamed

    def make(self, inputs: SearchInputs) -> Optimizer:
        """Builds the optimizer.

        Raises:
            InputError: the object was not given.
        """
        if self._make is None:
            raise absent("optimizer", self.object)
        return self._make(inputs)


def kind_of(part: OptimizerPart[Any]) -> str:
    """Returns the kind that a part's settings have, though no package may bring it."""
    field = part.config.model_fields["kind"]
    named = next(iter(get_args(field.annotation)), field.default)
    return named if isinstance(named, str) else name_of(part.config)


def settings_of(part: OptimizerPart[Any]) -> dict[str, JsonValue]:
    """Returns the default options of a part: a resumed run recognises the part by them."""
    given = {"kind": kind_of(part), "budget": {"trials": 1}}
    settings: dict[str, JsonValue] = part.config.model_validate(given).model_dump(
        mode="json", exclude={"budget", "kind"}
    )
    return settings


def _setting(key: str) -> str:
    return f"settings.{key}"


PART = OptimizerPart(config=OptimizerObject, make=lambda inputs, config: config.make(inputs), searches=None)
