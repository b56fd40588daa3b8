"""Typed records of the journal: one dataclass for each kind of line that `docs/journal.md` specifies.

`from_json` parses and validates a line, `to_json` writes it. All other code uses the dataclasses and never reads keys.
Whether a record is consistent with the records before it is checked by `history`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, Literal, TypeAlias

from pydantic import (
    BeforeValidator,
    Field,
    JsonValue,
    PlainSerializer,
    PlainValidator,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
)

from crossbreed.errors import InputError
from crossbreed.recipes import parse_recipe
from crossbreed.runs.record.told import STRICT, FigureRecord, JudgedRecord, MeansRecord, Number
from crossbreed.types import (
    Birth,
    Candidate,
    Cost,
    Cross,
    ItemScores,
    Means,
    Proposal,
    ProposedBy,
    Recipe,
    Score,
    Seed,
    Status,
)
from crossbreed.types import (
    SplitName as SplitName,
)

JOURNAL_SCHEMA: Final = 2
READABLE_SCHEMAS = (1, 2)
CLOCK = "clock"
"""The key of everything that may differ between two equal runs: times, attempts, versions, worker."""
ItemIds: TypeAlias = Mapping[str, Mapping[str, tuple[str, ...]]]
"""Split -> task -> item ids, in the order in which the items are evaluated."""

_DIGIT_OF = {0.0: "0", 1.0: "1"}
_VALUE_OF = {digit: value for value, digit in _DIGIT_OF.items()}


def _write_values(values: tuple[float, ...]) -> str | list[float]:
    """Writes zeros and ones as one digit each: most tasks have no other values, and a list is four times as long."""
    try:
        return "".join(map(_DIGIT_OF.__getitem__, values))
    except KeyError:
        return list(values)


def _read_values(written: object) -> object:
    if not isinstance(written, str):
        return tuple(written) if isinstance(written, list) else written
    try:
        return tuple(map(_VALUE_OF.__getitem__, written))
    except KeyError:
        raise ValueError("only 0 and 1 may be written as text") from None


_Values: TypeAlias = Annotated[
    tuple[float, ...], BeforeValidator(_read_values), PlainSerializer(_write_values, return_type=str | list[float])
]


def _read_recipe(written: Any, info: ValidationInfo) -> Recipe | None:
    return None if info.context is _WITHOUT_RECIPES else parse_recipe(written, is_recorded=True)


_WITHOUT_RECIPES: dict[str, Any] = {}
_Recipe: TypeAlias = Annotated[Recipe, PlainValidator(_read_recipe), PlainSerializer(Recipe.to_json)]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunClock:
    """The versions that a run was started with."""

    __pydantic_config__ = STRICT
    versions: Mapping[str, str] = field(default_factory=dict)
    """Package -> version."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """The first line: everything that identifies the run."""

    __pydantic_config__ = STRICT
    kind: Literal["run"] = "run"
    schema: Literal[1, 2] = JOURNAL_SCHEMA
    spec: Mapping[str, JsonValue]
    """The settings that may not change on resume: all but name, paths, budget and workers."""
    sources: Mapping[str, str]
    """Source name -> content hash."""
    warm_starts: tuple[str, ...] = ()
    """Ids of their recipes."""
    coordinates: tuple[str, ...] = ()
    """Names of the coordinates, in the order of every `point`; of several searches, those of the first."""
    more_coordinates: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Stage -> the names of its coordinates, of searches after the first. Not written if empty."""
    contents: Mapping[str, str] = field(default_factory=dict)
    """Task -> hash of its items' content."""
    own_ids: tuple[str, ...] = ()
    """Tasks with items whose own ids look like a hash of their content, and are none. Not written if empty; older
    versions did not record it."""
    items: ItemIds
    counts: Mapping[str, Mapping[str, Number]] = field(default_factory=dict)
    """Task of which only means are told -> split -> number of its items. Not written if empty."""
    artifacts: Mapping[str, str] = field(default_factory=dict)
    """Name -> content hash. Not written if empty."""
    host: Mapping[str, str] = field(default_factory=dict)
    """Hashes of the base's files other than weights that affect answers: part -> content hash. Not written if empty;
    older versions did not record it."""
    clock: RunClock = field(default_factory=RunClock)


@dataclass(frozen=True, slots=True, kw_only=True)
class SeedBirth:
    """One of the genomes that the space starts with."""

    __pydantic_config__ = STRICT
    seed: Number
    scale: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CrossBirth:
    """A genome crossed from those of the record's `parents`."""

    __pydantic_config__ = STRICT
    splits: tuple[float, ...]
    weights: tuple[float, ...]
    noise: float


@dataclass(frozen=True, slots=True, kw_only=True)
class AskRecord:
    """A candidate. Written before any work on it starts."""

    __pydantic_config__ = STRICT
    kind: Literal["ask"] = "ask"
    number: Number
    origin: str
    """The text of what proposed it: `baseline:NAME`, `made:NAME`, `warm_start:N`, or the optimizer's kind."""
    point: tuple[float, ...] | None
    parents: tuple[Number, ...] = ()
    birth: SeedBirth | CrossBirth | None = None
    stage: Number = 0
    """The search that proposed it, by its position in the spec's `stages`. Not written if 0, as without stages."""
    recipe: _Recipe | None

    def __post_init__(self) -> None:
        if len(self.parents) != 2 * isinstance(self.birth, CrossBirth):
            raise ValueError("a cross needs two parents, all other candidates have none")
        if self.point is not None and self.birth is not None:
            raise ValueError("both a point and a birth")
        if ProposedBy.parse(self.origin).kind != "optimizer" and self.stage:
            raise ValueError(f"{self.origin} in stage {self.stage}: it is of no search")

    @classmethod
    def of(cls, candidate: Candidate) -> "AskRecord":
        """Returns the record of a candidate."""
        return cls(
            number=candidate.number,
            origin=str(candidate.proposed_by),
            point=candidate.point,
            parents=candidate.parents,
            birth=_written_birth(candidate.birth),
            stage=candidate.stage,
            recipe=candidate.recipe,
        )

    @property
    def candidate(self) -> Candidate:
        """The candidate, with its recipe and proposal as values."""
        return Candidate(
            number=self.number,
            recipe=self.recipe,
            proposed_by=ProposedBy.parse(self.origin),
            proposal=self._proposal,
            stage=self.stage,
        )

    @property
    def _proposal(self) -> Proposal | None:
        if self.birth is None:
            return self.point
        if isinstance(self.birth, SeedBirth):
            return Seed(index=self.birth.seed, scale=self.birth.scale)
        a, b = self.parents
        found = self.birth
        return Cross(parents=(a, b), splits=found.splits, weights=found.weights, noise=found.noise)


@dataclass(frozen=True, slots=True, kw_only=True)
class TellClock:
    """Times, attempts and error of an evaluation."""

    __pydantic_config__ = STRICT
    seconds: Mapping[str, float]
    """Phase -> seconds."""
    error: str | None
    attempts: int | None = None
    """Number of attempts. Like the fields below, not written if None."""
    worker: str | None = None
    versions: Mapping[str, str] | None = None
    """Package -> version, where the worker's is another than the driver's."""
    elapsed: float | None = None
    """Seconds of searching, over all resumes. Required on the search split."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TellRecord:
    """The score of a candidate on one split."""

    __pydantic_config__ = STRICT
    kind: Literal["tell"] = "tell"
    number: Number
    split: SplitName
    status: Annotated[Status, Field(strict=False)]
    objectives: tuple[float, ...] | None
    """Values of the objectives, not negated; None unless the status is OK."""
    tasks: Mapping[str, _Values]
    """Task -> one value per item, in the order of the run's `items`."""
    means: Mapping[str, MeansRecord] = field(default_factory=dict)
    """Task whose values are means -> what is known of them. Not written if empty."""
    judged: Mapping[str, JudgedRecord] = field(default_factory=dict)
    """Task whose judges abstained, or were asked several times -> what is known of that. Not written if empty."""
    figures: Mapping[str, Mapping[str, FigureRecord]] = field(default_factory=dict)
    """Task -> metric that only all items together have -> its value; on the report split. Not written if empty."""
    slopes: tuple[float, ...] | None = None
    fingerprint: str | None
    items: Number
    tokens: Number
    clock: TellClock

    def __post_init__(self) -> None:
        if (self.objectives is None) is (self.status is Status.OK):
            raise ValueError(f"status {self.status.value} with objectives {self.objectives}")
        if self.clock.elapsed is None and self.split == "search":
            raise ValueError("`clock.elapsed` is missing, which the search split requires")

    @classmethod
    def of(
        cls, score: Score, *, number: int, split: SplitName, objectives: tuple[float, ...] | None, clock: TellClock
    ) -> "TellRecord":
        """Returns the record of a score."""
        return cls(
            number=number,
            split=split,
            status=score.status,
            objectives=objectives,
            tasks={name: scores.values for name, scores in score.tasks.items()},
            means={
                name: MeansRecord(counts=scores.means.counts, errors=scores.means.errors)
                for name, scores in score.tasks.items()
                if scores.means is not None
            },
            judged={
                name: JudgedRecord(abstained=scores.abstained, agreement=scores.agreement)
                for name, scores in score.tasks.items()
                if scores.abstained or scores.agreement is not None
            },
            figures={
                name: {metric: FigureRecord.of(found) for metric, found in scores.figures.items()}
                for name, scores in score.tasks.items()
                if scores.figures
            },
            slopes=score.slopes,
            fingerprint=score.fingerprint,
            items=score.cost.items,
            tokens=score.cost.tokens,
            clock=clock,
        )

    def score(self, item_ids: Mapping[str, tuple[str, ...]]) -> Score:
        """Returns the score.

        Args:
            item_ids: Task -> item ids of the split.

        Raises:
            ValueError: a task is unknown, or the number of values does not match its items.
        """
        if self.tasks.keys() != item_ids.keys():  # else there is nothing to look for, ten thousand times
            if unknown := sorted(self.tasks.keys() - item_ids.keys()):
                raise ValueError(f"unknown task `{unknown[0]}` on the {self.split} split")
            absent = [name for name, ids in item_ids.items() if ids and name not in self.tasks]
            if self.status is Status.OK and absent:
                raise ValueError(f"no values of task `{absent[0]}` on the {self.split} split")
        for name, values in self.tasks.items():
            if len(values) > len(item_ids[name]) or (self.status is Status.OK and len(values) < len(item_ids[name])):
                raise ValueError(f"{len(values)} values of `{name}` for {len(item_ids[name])} items")
        for name, found in self.means.items():
            if not len(found.counts) == len(found.errors) == len(self.tasks.get(name, ())) or 0 in found.counts:
                raise ValueError(f"`means` of `{name}` are not of its values")
        for name, judged in self.judged.items():
            if max(judged.abstained, default=-1) >= len(self.tasks.get(name, ())):
                raise ValueError(f"`judged` of `{name}` names items that have no value")
        return Score(
            status=self.status,
            tasks={
                name: self._scores(name, ids)
                for name, ids in item_ids.items()  # the Spec's order; a journal's keys are sorted
                if name in self.tasks
            },
            slopes=self.slopes,
            fingerprint=self.fingerprint,
            cost=Cost(items=self.items, tokens=self.tokens, seconds=self.clock.seconds),
            error=self.clock.error,
        )

    def _scores(self, task: str, ids: tuple[str, ...]) -> ItemScores:
        values, told = self.tasks[task], self.means.get(task)
        means = None if told is None else Means(counts=told.counts, errors=told.errors)
        judged = self.judged.get(task, JudgedRecord())
        return ItemScores(
            item_ids=ids[: len(values)],
            values=values,
            means=means,
            abstained=judged.abstained,
            agreement=judged.agreement,
            figures={metric: one.figure for metric, one in self.figures.get(task, {}).items()},
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishClock:
    """The folder of a published checkpoint."""

    __pydantic_config__ = STRICT
    folder: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishRecord:
    """The publication of a trial."""

    __pydantic_config__ = STRICT
    kind: Literal["publish"] = "publish"
    number: Number
    fingerprint: str
    clock: PublishClock


@dataclass(frozen=True, slots=True, kw_only=True)
class EndRecord:
    """The end of a run whose search is complete: its budget is spent, or its optimizer has nothing left to ask.

    A resume with a larger budget may append more.
    """

    __pydantic_config__ = STRICT
    kind: Literal["end"] = "end"


Record: TypeAlias = RunRecord | AskRecord | TellRecord | PublishRecord | EndRecord
_RECORD: TypeAdapter[Record] = TypeAdapter(Annotated[Record, Field(discriminator="kind")])


def from_json(line: bytes | str, *, with_recipes: bool = True) -> Record:
    """Returns the record of a line. Unknown keys are ignored.

    Args:
        line: The line, without its end.
        with_recipes: False leaves out every recipe, which takes longer to read than all else.

    Raises:
        ValueError: the line is not a record; the message names the key and what was expected.
    """
    try:
        return _RECORD.validate_json(line, context=None if with_recipes else _WITHOUT_RECIPES)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        cause = first.get("ctx", {}).get("error")
        problem = cause.errors[0].problem if isinstance(cause, InputError) else first["msg"]
        where = ".".join(map(str, first["loc"]))
        raise ValueError(f"{where}: {problem}".removeprefix(": ").splitlines()[0]) from None


def to_json(record: Record) -> dict[str, Any]:
    """Returns a record as the JSON object that is written."""
    value: dict[str, Any] = _RECORD.dump_python(record, mode="json")
    if isinstance(record, RunRecord):
        for name in ("artifacts", "host", "own_ids", "more_coordinates", "counts"):
            if not value[name]:
                del value[name]
    if isinstance(record, AskRecord) and not record.stage:
        del value["stage"]
    if isinstance(record, TellRecord):
        for name in ("means", "judged", "figures"):
            if not value[name]:
                del value[name]
        for name in ("attempts", "worker", "versions", "elapsed"):
            if not value[CLOCK][name] and value[CLOCK][name] != 0:
                del value[CLOCK][name]
    return value


def without_clock(record: Record) -> dict[str, Any]:
    """Returns a record as JSON without its clock: equal for equal runs."""
    return {key: value for key, value in to_json(record).items() if key != CLOCK}


def damaged(where: str, got: str) -> InputError:
    """Returns the error for a line that cannot be the result of a killed writer."""
    return InputError(
        "the journal is damaged",
        expected="one record per line, each after those to which it refers",
        got=got,
        where=where,
        fix="restore it from a backup, or truncate it before this line: the later trials are evaluated again",
    )


def _written_birth(birth: Birth | None) -> SeedBirth | CrossBirth | None:
    match birth:
        case Seed():
            return SeedBirth(seed=birth.index, scale=birth.scale)
        case Cross():
            return CrossBirth(splits=birth.splits, weights=birth.weights, noise=birth.noise)
        case None:
            return None
