"""The values passed between packages. Data with little behaviour, and standard library only, so that all can import it.

The Spec (crossbreed.runs.spec) builds the parts. Then, for each trial:

    Proposal -> Candidate(recipe) -> journal (ask) -> stream of tensors -> Score -> journal (tell) -> Trial
    Trial -> archive, and as its Outcome the optimizer
"""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from crossbreed.domains import Box as Box
from crossbreed.domains import Coordinate as Coordinate
from crossbreed.domains import Domain as Domain
from crossbreed.domains import DomainType as DomainType
from crossbreed.domains import Genomes as Genomes
from crossbreed.domains import Levels as Levels
from crossbreed.domains import Point as Point
from crossbreed.domains import WeightBlock as WeightBlock
from crossbreed.figures import Figure

if TYPE_CHECKING:
    import torch

WeightStream: TypeAlias = "Iterator[tuple[str, torch.Tensor]]"
"""(checkpoint tensor name, tensor), made lazily, sorted by name, without tied duplicates."""
Numbers: TypeAlias = Mapping[str, tuple[float, ...]]
"""Source -> several numbers."""
ParamValue: TypeAlias = float | str | bool | Mapping[str, float] | Numbers
"""A rule's parameter: one value for all sources, or one per source, or several per source."""
Dtype: TypeAlias = Literal["bfloat16", "float16", "float32"]
"""The dtypes in which models compute and merges are written."""
SplitName: TypeAlias = Literal["search", "select", "report"]
"""A part of a task's items."""
SlopeKind: TypeAlias = Literal["inner", "cosine", "weight_cosine"]
"""How a gradient is compared with an expert: by the inner product with its delta, the derivative along its coefficient;
by the cosine with its delta; or with its weights."""
LayerStep: TypeAlias = tuple[str, int, float]
"""A layer that hidden states pass: its source, its number there, the factor on what comes in (docs/layer_paths.md)."""

BASE = "base"
"""The name of the base in the recipes and sources of a run; no expert may have it."""
REGRESSION = "regression"
"""What recipes call the regression that a run has made, a source beside the experts."""
RECIPE_SCHEMA = 1


def canonical_json(value: Any) -> str:  # any JSON value
    """Returns the canonical text of a JSON value: sorted keys, no spaces, shortest floats, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def content_id(text: str) -> str:
    """Returns twelve hex digits of the SHA-256 of `text`: enough to identify a recipe in a run."""
    return sha256(text.encode()).hexdigest()[:12]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """The operator and parameters for the tensors whose whole name matches."""

    match: str
    """Regular expression over checkpoint tensor names, matched in full."""
    operator: str
    """Name of the operator in `OPERATORS`."""
    params: Mapping[str, ParamValue] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """The description of a merge: pure data, and the only link from search to weights.

    The first rule that matches a tensor applies to it; a tensor without a matching rule is the base's.
    """

    base: str
    """Name of the base in `sources`."""
    sources: Mapping[str, str]
    """Source name -> content hash."""
    rules: tuple[Rule, ...]
    dtype: str = "bfloat16"
    """Dtype of the merged floating-point tensors: one rounding, at the end."""
    artifacts: Mapping[str, str] = field(default_factory=dict)
    """The artifacts that it needs: name -> content hash."""
    layers: tuple[LayerStep, ...] = ()
    """Its layers in order: the base's as the rules merge them, an expert's as they are. Empty: all of the base's."""

    def to_json(self) -> dict[str, Any]:
        """Returns the canonical mapping; parse it with `crossbreed.recipes.parse_recipe`."""
        layers = [[name, number, float(scale)] for name, number, scale in self.layers]
        return {
            "schema": RECIPE_SCHEMA,
            "base": self.base,
            "sources": dict(self.sources),
            "rules": [{"match": r.match, "operator": r.operator, "params": _plain(r.params)} for r in self.rules],
            "dtype": self.dtype,
            "artifacts": dict(self.artifacts),
            **({"layers": layers} if layers else {}),
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


def _canonical(value: float | str | bool | tuple[float, ...]) -> float | str | bool | list[float]:
    """Returns the value in canonical form, so that equal parameters have equal text: 1 is 1.0, and -0.0 is 0.0."""
    if isinstance(value, tuple):
        return [float(number) + 0.0 for number in value]
    return value if isinstance(value, str | bool) else float(value) + 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Seed:
    """The birth of one of the space's initial genomes."""

    index: int
    scale: float = 1.0
    """Factor on its delta, if there is a base."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cross:
    """The birth of a genome from two others. `splits` and `weights` have one number for each chromosome."""

    parents: tuple[int, int]
    """Candidate numbers, A and B."""
    splits: tuple[float, ...]
    """In [0, 1): the position on the chromosome at which the shares of A and B are exchanged."""
    weights: tuple[float, ...]
    """In [0, 1]: the position of the child on the SLERP from A to B before the split, and from B to A after it."""
    noise: float = 0.0
    """Standard deviation of normal noise on the child, drawn from a stream named by its number."""


Birth: TypeAlias = Seed | Cross
"""The origin of a genome: pure data, from which it can be restored."""
Proposal: TypeAlias = Point | Birth
"""A proposal of an optimizer: a point of a box, or a birth of a genome."""


BaselineKind: TypeAlias = Literal["base", "expert", "uniform", "tuned_scalar"]
"""The kinds of merges that need no search."""
_BASELINE, _MADE, _WARM_START = "baseline:", "made:", "warm_start:"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProposedBy:
    """The origin of a candidate: a kind of baseline, what the run made, a warm start, or the optimizer.

    The journal keeps its text, `str(...)`, under the key `origin`.

    >>> str(ProposedBy(kind="tuned_scalar", scalar=1.5)), ProposedBy.parse("warm_start:2").index
    ('baseline:tuned_scalar:1.5', 2)
    """

    kind: BaselineKind | Literal["made", "warm_start", "optimizer"]
    name: str = ""
    """The name of the expert or of what was made, or the kind of the optimizer."""
    scalar: float | None = None
    """The factor s of a tuned scalar: the base plus s times the mean of all deltas."""
    index: int | None = None
    """Position of the warm start in the spec."""

    @classmethod
    @lru_cache(maxsize=256)
    def parse(cls, text: str) -> "ProposedBy":
        """Returns the value with this text; a journal has the same few ones thousands of times.

        Raises:
            ValueError: the text names an unknown baseline.
        """
        if text.startswith(_WARM_START):
            return cls(kind="warm_start", index=int(text.removeprefix(_WARM_START)))
        if text.startswith(_MADE):
            return cls(kind="made", name=text.removeprefix(_MADE))
        if not text.startswith(_BASELINE):
            return cls(kind="optimizer", name=text)
        match text.split(":", 2)[1:]:
            case ["base"]:
                return cls(kind="base")
            case ["uniform"]:
                return cls(kind="uniform")
            case ["expert", name]:
                return cls(kind="expert", name=name)
            case ["tuned_scalar", scalar]:
                return cls(kind="tuned_scalar", scalar=float(scalar))
        raise ValueError(f"unknown baseline {text!r}")

    def __str__(self) -> str:
        return f"{_BASELINE}{self.label}" if self.is_baseline else self.label

    @property
    def label(self) -> str:
        """The text without the prefix of baselines, for display."""
        match self.kind:
            case "expert":
                return f"expert:{self.name}"
            case "tuned_scalar":
                return f"tuned_scalar:{self.scalar:g}"
            case "made":
                return f"{_MADE}{self.name}"
            case "warm_start":
                return f"{_WARM_START}{self.index}"
            case "optimizer":
                return self.name
        return self.kind

    @property
    def is_untuned(self) -> bool:
        """Whether it is the base, an expert or their uniform average, which nothing was measured for."""
        return self.kind in ("base", "expert", "uniform")

    @property
    def is_baseline(self) -> bool:
        """Whether the candidate needs no search."""
        return self.kind not in ("made", "warm_start", "optimizer")

    @property
    def is_single_model(self) -> bool:
        """Whether the candidate is the base or one expert, not a merge."""
        return self.kind in ("base", "expert")

    @property
    def global_scalar(self) -> float | None:
        """The factor s of a tuned scalar; for `uniform`, 1."""
        return 1.0 if self.kind == "uniform" else self.scalar


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A recipe (or genome) to evaluate, with its number and origin."""

    number: int
    """Position in the run: baselines first, then warm starts, then the optimizer's proposals."""
    recipe: Recipe | None
    """None if the genome itself is evaluated, an array that is described only by its birth."""
    proposed_by: ProposedBy
    proposal: Proposal | None = None
    """None for baselines and warm starts, which may lie outside the space."""
    stage: int = 0
    """The number of the search that proposed it, where a run has several; 0 for what is scored before them."""

    @property
    def point(self) -> Point | None:
        """The proposal, if the domain is a box."""
        return self.proposal if isinstance(self.proposal, tuple) else None

    @property
    def birth(self) -> Birth | None:
        """The proposal, if the domain is genomes."""
        return None if isinstance(self.proposal, tuple) else self.proposal

    @property
    def parents(self) -> tuple[int, ...]:
        """Numbers of the candidates from which it was crossed."""
        return self.proposal.parents if isinstance(self.proposal, Cross) else ()


class Status(StrEnum):
    """The result of an evaluation. Only OK has a value; FAILED says nothing about the candidate."""

    OK = "OK"
    """All items were answered and scored."""
    INVALID = "INVALID"
    """Measured and bad: NaN or Inf in weights or logits. Not retried."""
    FAILED = "FAILED"
    """Could not be measured, after the retries that the Spec allows."""
    STOPPED = "STOPPED"
    """Stopped before all items were answered. Reserved for racing: read, and written by nothing yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """The cost of one evaluation."""

    items: int = 0
    """Items answered, and calibration items of the slopes."""
    tokens: int = 0
    """Prompt and completion tokens of the answers, without those of slopes."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Phase (`materialize`, `swap`, `answer`, `slopes`, `other`) -> seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Means:
    """What is known of values each of which is the mean of several items that nobody tells apart."""

    counts: tuple[int, ...]
    """Number of items of each."""
    errors: tuple[float | None, ...]
    """Standard error of each, in the words of who asked the items; None: not told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemScores:
    """One task's values, one per item, in the order of evaluation."""

    item_ids: tuple[str, ...]
    values: tuple[float, ...]
    means: Means | None = None
    """None: each value is an item's own."""
    abstained: tuple[int, ...] = ()
    """Places of items on which a judge gave no verdict: their values are the mean of the others'."""
    agreement: float | None = None
    """The share of items on which a judge that is asked several times said the same each time; None: none is."""
    figures: Mapping[str, Figure] = field(default_factory=dict)
    """Metric that only all items together have -> its value; of report items only."""

    def __post_init__(self) -> None:
        assert len(self.item_ids) == len(self.values)

    @property
    def num_items(self) -> int:
        """The number of items behind all values."""
        return len(self.values) if self.means is None else sum(self.means.counts)

    @property
    def mean(self) -> float:
        """Arithmetic mean of the items' values."""
        if self.means is None or len(self.values) == 1:
            return math.fsum(self.values) / len(self.values)
        pairs = zip(self.means.counts, self.values, strict=True)
        return math.fsum(count * value for count, value in pairs) / self.num_items

    @property
    def standard_error(self) -> float | None:
        """That of the mean, where values are means of items and their errors are told."""
        if self.means is None or None in self.means.errors:
            return None
        parts = zip(self.means.counts, self.means.errors, strict=True)
        return math.hypot(*(count * (error or 0.0) for count, error in parts)) / self.num_items


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """The result for a candidate: a status, one value per item and task, and the cost; never a bare float."""

    status: Status
    tasks: Mapping[str, ItemScores] = field(default_factory=dict)
    """Task -> values; empty unless OK (or STOPPED: those answered until then)."""
    texts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Task -> generated texts, in item order."""
    margins: Mapping[str, tuple[float | None, ...]] = field(default_factory=dict)
    """Task -> nats from a tie, in item order; only of tasks that know it."""
    thinking: Mapping[str, tuple[int | None, ...]] = field(default_factory=dict)
    """Task -> tokens that were cut from each answer as thinking; only of tasks that cut some."""
    slopes: tuple[float, ...] | None = None
    """Slopes of the calibration loss, one per coordinate; None if the optimizer needs none, or the gradient failed."""
    fingerprint: str | None = None
    """Hash of the merged weights that were scored."""
    cost: Cost = field(default_factory=Cost)
    error: str | None = None
    """The error in one line if FAILED or INVALID; with OK, a remark: why there are no slopes, what an adapter lacks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A candidate with its score on the search split."""

    candidate: Candidate
    score: Score
    objectives: tuple[float, ...] | None
    """The Spec's objectives in their natural direction; None unless OK, and while baselines are missing for them."""
    excesses: tuple[float, ...] | None = ()
    """How far outside each constraint it is, by the size of the bound; None while the base is missing for that."""
    provenance: Mapping[str, str] = field(default_factory=dict)
    """`attempts` and `worker`, where the journal has them. Not compared between runs."""

    @property
    def number(self) -> int:
        """The candidate's number."""
        return self.candidate.number

    @property
    def recipe(self) -> Recipe:
        """The merged recipe."""
        assert self.candidate.recipe is not None, "only recipes are merged, reported and published"
        return self.candidate.recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The result of a candidate as told to an optimizer: all objectives are maximised (minimised ones are negated)."""

    number: int
    status: Status
    values: tuple[float, ...] | None
    """None unless OK."""
    items: tuple[float, ...] = ()
    """The values of all items that the objectives read, more is better; empty unless OK, and if a task tells none."""
    slopes: tuple[float, ...] | None = None
    """Slopes of a loss to be minimised, one per coordinate; None if no gradient was computed."""
    excesses: tuple[float, ...] | None = None
    """How far outside each constraint it is; 0 or less: it keeps it. None: the run has none, or it is not OK."""
