"""The inputs of one output tensor, and the parameters of its method."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import torch

from crossbreed.mergekit.methods import Method
from crossbreed.types import ParamValue


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """One model's tensor."""

    tensor: torch.Tensor
    """In the dtype in which the merge computes."""
    is_base: bool = False
    parameters: Mapping[str, ParamValue] = field(default_factory=dict)
    """The model's own values of its parameters, for this tensor."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """All models' tensors, in mergekit's order, and the method that merges them."""

    method: Method
    all: tuple[Input, ...]
    parameters: Mapping[str, ParamValue]
    """Values of the merge's parameters, for this tensor."""
    generator: torch.Generator | None
    """Generates random masks; None: the global generator, as in mergekit."""

    @property
    def tensors(self) -> list[torch.Tensor]:
        """Every model's tensor."""
        return [one.tensor for one in self.all]

    @property
    def maybe_base(self) -> torch.Tensor | None:
        """The base's tensor, if there is a base."""
        return next((one.tensor for one in self.all if one.is_base), None)

    @property
    def base(self) -> torch.Tensor:
        """The base's tensor."""
        base = self.maybe_base
        assert base is not None, f"{self.method.name} needs a base"
        return base

    @property
    def experts(self) -> tuple[Input, ...]:
        """All but the base."""
        return tuple(one for one in self.all if not one.is_base)

    @property
    def deltas(self) -> list[torch.Tensor]:
        """Each expert's delta, rounded to the dtype."""
        base = self.base
        return [one.tensor - base for one in self.experts]

    def number(self, name: str, of: Input | None = None) -> float:
        """Returns the value of a parameter of the merge, or `of` one model."""
        return float(self._value(name, of))

    def flag(self, name: str) -> bool:
        """Returns the value of a flag of the merge."""
        return bool(self._value(name, None))

    def weights(self, models: tuple[Input, ...], dtype: torch.dtype) -> torch.Tensor:
        """Returns the models' weights, rounded to `dtype`."""
        numbers = [self.number("weight", one) for one in models]
        return torch.tensor(numbers, dtype=dtype, device=self.all[0].tensor.device)

    def _value(self, name: str, of: Input | None) -> float | bool:
        parameter = self.method.parameter(name)
        assert parameter is not None, f"{self.method.name} has no parameter {name}"
        value = (self.parameters if of is None else of.parameters).get(name, parameter.default)
        assert isinstance(value, int | float), f"{name} of {self.method.name} is {value!r}"
        return value


Merge: TypeAlias = Callable[[Inputs], torch.Tensor]
"""A method's arithmetic."""
