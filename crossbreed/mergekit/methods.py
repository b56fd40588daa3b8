"""mergekit's merge methods, as it declares them: their parameters and numbers of models.

A configuration is checked against these declarations before any tensor is read.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType


class Scope(StrEnum):
    """What has a value of a parameter. A global value of a MODEL or EXPERT parameter applies to all in its scope."""

    GLOBAL = "global"
    """The merge."""
    MODEL = "model"
    """Every model."""
    EXPERT = "expert"
    """Every model except the base."""


class BaseRole(StrEnum):
    """The role of the base in a method."""

    REQUIRED = "required"
    """There must be one: deltas are relative to it."""
    OPTIONAL = "optional"
    """With a base, deltas are merged; without, weights."""
    ORDINARY = "ordinary"
    """The base is a model like any other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """A parameter of a method."""

    name: str
    scope: Scope = Scope.GLOBAL
    default: float | bool | None = None
    """The default, which also defines the type: a bool is a flag, an int a count. None: a number, or nothing."""
    required: bool = False
    """Whether a configuration must give it: there is no default."""
    at_least: float = -math.inf
    """The smallest meaningful number. mergekit does not check it: below, it crashes or gives a meaningless merge."""

    def why_invalid(self, value: object) -> str | None:
        """Returns a description of valid values; None if this single value is valid."""
        if isinstance(self.default, bool):
            return None if isinstance(value, bool) else "true or false"
        if value is None and self.default is None and not self.required:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            return "a finite number"
        if value < self.at_least:
            return f"a number of at least {self.at_least:g}"
        return "a whole number" if isinstance(self.default, int) and value != int(value) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """The declaration of a method: its parameters and models.

    >>> METHODS["slerp"].why_invalid(num_models=3, has_base=True)
    '1 model besides the base'
    """

    name: str
    parameters: tuple[Parameter, ...] = ()
    base: BaseRole = BaseRole.REQUIRED
    least: int = 0
    """Minimum number of models, besides a base that is not ORDINARY."""
    most: int | None = None
    """Maximum number of models; None: unlimited."""
    divides_if: str | None = None
    """The flag with which it divides by the sum of the weights, whatever that is; None: it has none."""

    def parameter(self, name: str) -> Parameter | None:
        """Returns the parameter with this name; None if there is none."""
        return next((parameter for parameter in self.parameters if parameter.name == name), None)

    def why_invalid(self, *, num_models: int, has_base: bool) -> str | None:
        """Returns which models the method needs; None if `num_models`, including the base, is valid."""
        is_apart = self.base is not BaseRole.ORDINARY
        num_counted = num_models - (is_apart and has_base)
        if self.base is BaseRole.REQUIRED and not has_base:
            return "a base"
        if num_counted >= self.least and (self.most is None or num_counted <= self.most):
            return None
        counted = f"{self.least}{'' if self.most == self.least else ' or more'}"
        return f"{counted} model{'' if counted == '1' else 's'}{' besides the base' if is_apart else ''}"


def _flag(name: str, default: bool) -> Parameter:
    return Parameter(name=name, default=default)


def _deltas(name: str, *own: Parameter, normalize: bool = False, rescale: bool = False) -> Method:
    """Returns a method of the family of task arithmetic: deltas sparsified, weighted, possibly elected, and added."""
    weight = Parameter(name="weight", scope=Scope.EXPERT, required=True)
    density = Parameter(name="density", scope=Scope.EXPERT, default=1.0, at_least=0)
    flags = _flag("normalize", normalize), _flag("rescale", rescale), _flag("int8_mask", False)
    return Method(name=name, parameters=(weight, density, *own, Parameter(name="lambda", default=1.0), *flags))


_GAMMA = Parameter(name="gamma", scope=Scope.EXPERT, default=0.01, at_least=0)
_EPSILON = Parameter(name="epsilon", scope=Scope.EXPERT, default=0.15, at_least=0)
_RAM_EPSILON = Parameter(name="epsilon", default=1e-5, at_least=0)
_T = Parameter(name="t", required=True)

METHODS: Mapping[str, Method] = MappingProxyType(
    {
        method.name: method
        for method in (
            Method(
                name="linear",
                parameters=(Parameter(name="weight", scope=Scope.MODEL, required=True), _flag("normalize", True)),
                base=BaseRole.ORDINARY,
                least=1,
                divides_if="normalize",
            ),
            _deltas("task_arithmetic"),
            _deltas("ties", normalize=True),
            _deltas("dare_linear", rescale=True),
            _deltas("dare_ties", rescale=True),
            _deltas("della", _EPSILON, normalize=True, rescale=True),
            _deltas("della_linear", _EPSILON, rescale=True),
            _deltas("breadcrumbs", _GAMMA),
            _deltas("breadcrumbs_ties", _GAMMA),
            Method(
                name="sce",
                parameters=(Parameter(name="select_topk", default=1.0, at_least=0), _flag("int8_mask", False)),
            ),
            Method(name="slerp", parameters=(_T,), least=1, most=1),
            Method(
                name="nuslerp",
                parameters=(
                    Parameter(name="weight", scope=Scope.EXPERT, required=True),
                    _flag("nuslerp_flatten", True),
                    _flag("nuslerp_row_wise", False),
                ),
                base=BaseRole.OPTIONAL,
                least=2,
                most=2,
            ),
            Method(
                name="multislerp",
                parameters=(
                    Parameter(name="weight", scope=Scope.EXPERT, required=True),
                    _flag("normalize_weights", True),
                    Parameter(name="eps", default=1e-8),
                ),
                base=BaseRole.OPTIONAL,
                least=1,
                divides_if="normalize_weights",
            ),
            Method(
                name="karcher",
                parameters=(Parameter(name="max_iter", default=10), Parameter(name="tol", default=1e-5)),
                base=BaseRole.ORDINARY,
                least=1,
            ),
            Method(
                name="model_stock",
                parameters=(_flag("filter_wise", False),),
                least=2,
            ),
            Method(name="arcee_fusion", least=1, most=1),
            Method(name="nearswap", parameters=(_T,), least=1, most=1),
            Method(name="ram", parameters=(_RAM_EPSILON,)),
            Method(
                name="ramplus_tl",
                parameters=(Parameter(name="r", default=0.1), Parameter(name="alpha", default=0.2), _RAM_EPSILON),
            ),
            Method(
                name="passthrough",
                parameters=(Parameter(name="scale", scope=Scope.MODEL),),
                base=BaseRole.ORDINARY,
                least=1,
                most=1,
            ),
        )
    }
)
"""Name -> declaration, of mergekit 0.1.5."""
