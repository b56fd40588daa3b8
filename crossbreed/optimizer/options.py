"""The common base of the options of all optimizers."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import ClassVar, Literal, TypeAlias

from pydantic import model_validator

from crossbreed.config import Config
from crossbreed.types import SlopeKind

LossKind: TypeAlias = Literal["cross_entropy", "agreement", "distillation", "entropy"]
"""The kinds of calibration losses: of right answers; two of the merge and each expert; of the merge alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationNeeds:
    """The calibration loss that an optimizer is to be built with."""

    loss: LossKind
    items: int | None
    """Maximum number of search items per task; None: all."""
    held_out: float
    """The part of them that is held out."""
    batch: int | None = None
    """The most items of each task whose slopes are asked for together; None: any number."""
    prompts: Mapping[str, str] = field(default_factory=dict)
    """Task -> file of further items without answers, which experts answer."""
    temperature: float = 1.0
    """Of predictions, for `distillation`."""
    hidden: float = 0.0
    """Weight of the differences of hidden states from the expert's."""
    hidden_layers: tuple[int, ...] = ()
    """The layers behind which they are compared; none: the middle one."""
    about: str
    """What the optimizer does with it, for people."""

    @property
    def compares(self) -> bool:
        """Whether the loss compares what the merge predicts with what experts do."""
        return self.loss in ("agreement", "distillation")


class Options(Config):
    """Options of an optimizer without any."""

    renamed: ClassVar[Mapping[str, str]] = MappingProxyType({})
    """Old name of an option -> its current name. Old specs and journals may contain the old one."""

    @property
    def slope_kind(self) -> SlopeKind | None:
        """The kind of slopes that outcomes must carry; None: they need no slopes."""
        return None

    @property
    def calibration(self) -> CalibrationNeeds | None:
        """The calibration loss that the optimizer is to be built with (`SearchInputs.calibration`); None: none."""
        return None

    @model_validator(mode="before")
    @classmethod
    def _accept_old_names(cls, given: object) -> object:
        if not isinstance(given, Mapping):
            return given
        for old, new in cls.renamed.items():
            if old in given and new in given:
                raise ValueError(f"`{old}` is the old name of `{new}`: remove `{old}`")
            if given.get(old) is not None:
                warnings.warn(f"the option `{old}` is now called `{new}`", FutureWarning, stacklevel=2)
        return {cls.renamed.get(key, key): value for key, value in given.items()}
