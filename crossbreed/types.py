"""The values that travel. Data with next to no behaviour; standard library only, so that every package may know them.

The Spec (crossbreed.runs.spec) builds the parts. Then, once a trial:

    Point or Birth -> Candidate(recipe) -> stream of tensors -> Score -> Trial -> journal -> archive, optimizer
"""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

if TYPE_CHECKING:
    import torch

Point: TypeAlias = tuple[float, ...]
"""Coordinates inside a search space's box, in its order."""
WeightStream: TypeAlias = "Iterator[tuple[str, torch.Tensor]]"
"""(checkpoint tensor name, tensor), lazily made, sorted by name; a tied duplicate is absent."""
ParamValue: TypeAlias = float | str | bool | Mapping[str, float]
"""A rule's parameter: one value for all sources, or one per source name."""

SlopeKind: TypeAlias = Literal["inner", "cosine", "weight_cosine"]
"""How a gradient is compared with an expert: the inner product with its delta, which is the derivative of the loss
along its coefficient; the cosine with its delta; or the cosine with its weights."""

RECIPE_SCHEMA = 1


def canonical_json(value: Any) -> str:  # any JSON value
    """The one text form of a JSON value: sorted keys, no spaces, shortest floats, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def content_id(text: str) -> str:
    """Twelve hex digits of the SHA-256 of `text`: enough to name a recipe in a run."""
    return sha256(text.encode()).hexdigest()[:12]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """What happens to the tensors whose whole name matches."""

    match: str
    """Regular expression over checkpoint tensor names, matched in full."""
    operator: str
    """Name in the kernels' operator registry."""
    params: Mapping[str, ParamValue] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What to merge: pure data. The only thing that crosses from search to weights.

    A tensor obeys the first rule that matches it; one that none matches is the base's.
    """

    base: str
    """Name of the base in `sources`."""
    sources: Mapping[str, str]
    """Source name -> content hash."""
    rules: tuple[Rule, ...]
    dtype: str = "bfloat16"
    """Dtype of the merged floating-point tensors: one rounding, at the end."""
    artifacts: Mapping[str, str] = field(default_factory=dict)
    """What the run prepared, by name -> hash."""

    def to_json(self) -> dict[str, Any]:
        """Returns the canonical mapping; parse it with `crossbreed.recipes.parse_recipe`."""
        return {
            "schema": RECIPE_SCHEMA,
            "base": self.base,
            "sources": dict(self.sources),
            "rules": [{"match": r.match, "operator": r.operator, "params": _plain(r.params)} for r in self.rules],
            "dtype": self.dtype,
            "artifacts": dict(self.artifacts),
        }

    @property
    def id(self) -> str:
        """Content hash: equal recipes have equal ids, whatever the order of their keys."""
        return content_id(canonical_json(self.to_json()))


def _plain(params: Mapping[str, ParamValue]) -> dict[str, Any]:
    return {
        key: {name: _canonical(number) for name, number in value.items()}
        if isinstance(value, Mapping)
        else _canonical(value)
        for key, value in params.items()
    }


def _canonical(value: float | str | bool) -> float | str | bool:
    """Equal parameters have one text: 1 is 1.0, and -0.0 is 0.0."""
    return value if isinstance(value, str | bool) else float(value) + 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Seed:
    """A genome that the space begins with."""

    index: int
    scale: float = 1.0
    """How much of it: a factor on its delta, where there is a base."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cross:
    """A genome made of two others. `splits` and `weights` have one number for each chromosome."""

    parents: tuple[int, int]
    """Candidate numbers, A and B."""
    splits: tuple[float, ...]
    """In [0, 1): where on the chromosome the shares of A and B change places."""
    weights: tuple[float, ...]
    """In [0, 1]: how far the child is on the arc from A to B before the split; from B to A after it."""
    noise: float = 0.0
    """Standard deviation of normal noise on the child, from the stream that its number names."""


Birth: TypeAlias = Seed | Cross
"""How a genome came about: pure data, from which the genome can be made again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A question: what is this recipe worth?"""

    number: int
    """Position in the run: baselines first, then the optimizer's asks."""
    recipe: Recipe | None
    """None where what is evaluated is the genome itself, an array that only its birth describes."""
    origin: str
    """`baseline:NAME`, `warm_start:N`, or the optimizer's kind."""
    point: Point | None = None
    """None for baselines and warm starts, which may lie outside the space, and in a space of genomes."""
    birth: Birth | None = None
    """None but in a space of genomes."""

    @property
    def parents(self) -> tuple[int, ...]:
        """Numbers of the candidates that it was crossed from."""
        return self.birth.parents if isinstance(self.birth, Cross) else ()


class Status(StrEnum):
    """How an evaluation ended. Only OK has a value; FAILED says nothing about the candidate."""

    OK = "OK"
    """Every item answered and scored."""
    INVALID = "INVALID"
    """Measured and bad: NaN or Inf in weights or logits. Not retried."""
    FAILED = "FAILED"
    """Could not measure, after the retries that the Spec allows."""
    STOPPED = "STOPPED"
    """Stopped before all items were answered, by a rule that is journalled."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What one evaluation took."""

    items: int = 0
    tokens: int = 0
    """Prompt and completion tokens."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """`materialize`, `swap`, `answer`, `other`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemScores:
    """One task's values, one per item, in the order in which the items were offered."""

    item_ids: tuple[str, ...]
    values: tuple[float, ...]

    def __post_init__(self) -> None:
        assert len(self.item_ids) == len(self.values)

    @property
    def mean(self) -> float:
        """Arithmetic mean of the items' values."""
        return math.fsum(self.values) / len(self.values)


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """An answer: one value per item and task, a status, the cost. No bare float travels."""

    status: Status
    tasks: Mapping[str, ItemScores] = field(default_factory=dict)
    """Empty unless OK (or STOPPED: what was answered until then)."""
    texts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """What the model said, task by task, in item order."""
    slopes: tuple[float, ...] | None = None
    """How the gradient of the calibration loss lies to each coordinate's expert, where the optimizer wants to know."""
    fingerprint: str | None = None
    """Hash of the merged weights that answered."""
    cost: Cost = field(default_factory=Cost)
    error: str | None = None
    """One line, when FAILED or INVALID; with OK, why there are no slopes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A candidate and its score, with what is needed to believe it."""

    candidate: Candidate
    score: Score
    objectives: tuple[float, ...] | None
    """The Spec's objectives in their natural direction, when OK."""
    provenance: Mapping[str, str] = field(default_factory=dict)
    """Versions, commit, device, worker, attempts. Not compared between runs."""

    @property
    def number(self) -> int:
        """The candidate's number."""
        return self.candidate.number

    @property
    def recipe(self) -> Recipe:
        """What was merged."""
        assert self.candidate.recipe is not None, "what is merged, reported and published are recipes"
        return self.candidate.recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What an optimizer is told: every objective is to be maximised here (runs flips what is minimised)."""

    number: int
    status: Status
    values: tuple[float, ...] | None
    """None unless OK."""
    items: tuple[float, ...] = ()
    """Every item's value that the objectives read, more is better; empty unless OK."""
    slopes: tuple[float, ...] | None = None
    """One for each coordinate, of a loss that is to be minimised; None where no gradient was taken."""
