"""mergekit 0.1.5 configurations as values; `reading` makes them from YAML."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from crossbreed.mergekit.methods import Method

FLOATS = ("bfloat16", "float16", "float32", "float64")
"""The dtypes in which a merge can be computed and stored."""


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class ModelReference:
    """A reference to a model: `MODEL` or `MODEL+ADAPTER`, each a folder or `org/name[@revision]`."""

    model: str
    lora: str = ""
    """The adapter; empty: none."""
    architecture: str = ""
    """What config.json shall call its architecture instead; empty: what it says."""

    def __str__(self) -> str:
        return f"{self.model}+{self.lora}" if self.lora else self.model


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditional:
    """A parameter's value for the tensors that match a filter."""

    filter: str | None
    """Part of the tensor's name; None: every tensor."""
    anchors: tuple[float | bool, ...]
    """Equally spaced over a slice's layers; one for a constant."""

    def at(self, t: float) -> float | bool:
        """Returns the value at a depth of the slice, from 0 to 1: numbers are interpolated, flags step.

        >>> Conditional(filter=None, anchors=(0.0, 1.0, 0.0)).at(0.25)
        0.5
        """
        place = t * (len(self.anchors) - 1)
        left = int(place)
        if isinstance(self.anchors[left], bool):
            return self.anchors[left]
        share = place - left
        return (1 - share) * self.anchors[left] + share * self.anchors[min(left + 1, len(self.anchors) - 1)]


Settings: TypeAlias = Mapping[str, tuple[Conditional, ...]]
"""Parameter -> its values; of several, the first whose filter matches."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SliceInput:
    """A model's share in a slice."""

    model: ModelReference
    layers: range | None
    """None: all."""
    settings: Settings = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """Layers of the merge, and the models' layers that they are merged from."""

    inputs: tuple[SliceInput, ...]
    base: ModelReference | None
    settings: Settings = field(default_factory=dict)

    @property
    def models(self) -> tuple[ModelReference, ...]:
        """The models of the inputs."""
        return tuple(source.model for source in self.inputs)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRow:
    """The source of a token's embedding for models that lack it."""

    model: ModelReference | None = None
    """None: no model's."""
    token: str | int | None = None
    """The row of that model, by token or id; None: that of the token itself."""
    is_zero: bool = False
    """Whether the row is zeros; without that and a model, every model must have the token."""
    force: bool = False
    """Whether models that have the token take this row too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerConfig:
    """The vocabulary of the merge."""

    source: Literal["union", "base"] | ModelReference
    tokens: Mapping[str, TokenRow] = field(default_factory=dict)
    pad_to_multiple_of: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Ignored:
    """A key that mergekit reads over."""

    key: str
    where: str
    fix: str = ""
    """How to write what it may have been meant for; empty: there is nothing of that kind in a merge."""
    is_slip: bool = False
    """Whether it looks like a misspelt or misplaced key, which was meant to have an effect."""

    def __str__(self) -> str:
        return f"mergekit ignores `{self.key}` ({self.where}); so does crossbreed" + (self.fix and f": {self.fix}")


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeConfig:
    """A whole configuration."""

    method: Method
    slices: tuple[Slice, ...]
    """A `models` list is one slice of all layers, with the base at its end unless it is listed."""
    base: ModelReference | None
    settings: Settings
    dtype: str | None
    """The dtype in which tensors are merged; None: the widest of their own."""
    out_dtype: str | None
    """The dtype in which they are stored; None: as merged."""
    tokenizer: TokenizerConfig | None
    chat_template: str | None
    """The text of a template, the name of one, or `auto`: the one that most models have."""
    idle: tuple[str, ...]
    """Parameters that are set but that the method does not use there."""
    ignored: tuple[Ignored, ...] = ()

    @property
    def models(self) -> tuple[ModelReference, ...]:
        """Every model, the donor of configuration and tokenizer first."""
        named = [self.base, *(entry.base for entry in self.slices)]
        listed = [model for entry in self.slices for model in entry.models]
        chosen = self.tokenizer.source if self.tokenizer else None
        named += [*listed, chosen if isinstance(chosen, ModelReference) else None]
        return tuple(dict.fromkeys(model for model in named if model is not None))
