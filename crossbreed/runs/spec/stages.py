"""The stages of a run: what is made before the search, then one search after another, each from the best before it.

`space` and `optimizer` at the top of a spec are the short form of one search, `artifacts.regression` that of a first
stage which makes a regression. `SearchSettings` is the one form that runs know.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Discriminator,
    Field,
    JsonValue,
    SerializerFunctionWrapHandler,
    Tag,
    ValidationInfo,
    field_serializer,
    field_validator,
    model_validator,
)

from crossbreed.config import Config
from crossbreed.errors import InputError
from crossbreed.optimizer import OPTIMIZERS, AnyOptimizerConfig, BudgetConfig, OptimizerConfig
from crossbreed.parsing import any_of, shown, suggestion, type_name, unknown_key
from crossbreed.registry import Named
from crossbreed.runs.spec.regression import RegressionConfig
from crossbreed.search_spaces import OF_SPACE, AnySpaceConfig, SpaceConfig
from crossbreed.types import REGRESSION

SEARCH: Literal["search"] = "search"


class RegressionStageConfig(RegressionConfig):
    """The settings of `artifacts.regression`, as the first stage: a merge by a regression that walks over the layers.

    It is made before the baselines are scored, and scored after them; later stages may start from it.
    """

    kind: Literal["regression"] = "regression"

    @property
    def settings(self) -> RegressionConfig:
        """The same as an artifact's."""
        return RegressionConfig.model_validate(self.model_dump(exclude={"kind"}))


class SearchStageConfig(Config):
    """A search. It starts from the best trial of all before that its space can express, baselines included."""

    kind: Literal["search"] = "search"
    space: AnySpaceConfig
    """The recipes that may be proposed."""
    budget: BudgetConfig = BudgetConfig()
    """The limits of this stage, counted from its own first trial. Empty: `budget` at the top, which limits all stages
    together, or the optimizer itself ends it. An optimizer that plans by its trials needs them here."""
    optimizer: AnyOptimizerConfig
    """The optimizer; its `budget` is the stage's, which stands beside it."""

    @model_validator(mode="before")
    @classmethod
    def _has_one_budget(cls, given: Any) -> Any:  # whatever pydantic is given
        """Takes a budget from where the short form has it, inside `optimizer`."""
        optimizer = given.get("optimizer") if isinstance(given, Mapping) else None
        if not isinstance(optimizer, Mapping) or optimizer.get("budget") is None:
            return given
        if given.get("budget") is not None:
            raise InputError(
                "the stage has two budgets", expected="one, beside `optimizer`", where="budget", fix="remove one"
            )
        rest = {key: value for key, value in optimizer.items() if key != "budget"}
        return {**given, "optimizer": rest, "budget": optimizer["budget"]}

    @field_validator("optimizer", mode="before")
    @classmethod
    def _knows_its_budget(cls, given: Any, info: ValidationInfo) -> Any:  # whatever pydantic is given
        budget: BudgetConfig | None = info.data.get("budget")
        known = isinstance(given, Mapping) and budget is not None and budget.is_limited
        return {**given, "budget": budget} if known else given

    @field_serializer("optimizer", mode="wrap")
    def _without_budget(self, optimizer: Any, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        written: dict[str, Any] = write(optimizer)
        return {key: value for key, value in written.items() if key != "budget"}


class OptimizerStageConfig(Config):
    """A search by its optimizer's kind: short for a stage of `kind: search`."""

    kind: Annotated[str, Named(OPTIMIZERS)]
    """The optimizer."""
    space: Annotated[SpaceConfig | None, OF_SPACE] = None
    """None: the space that the optimizer searches by itself, if it has one."""
    options: dict[str, JsonValue] = Field(default_factory=dict)
    """The optimizer's options."""
    budget: BudgetConfig = BudgetConfig()
    """As in a stage of `kind: search`."""

    @model_validator(mode="before")
    @classmethod
    def _keys_are_its_own(cls, given: Any) -> Any:  # whatever pydantic is given
        """Says where an option belongs that stands beside the others."""
        part = OPTIMIZERS.look_up(given["kind"], where="kind")
        options = part.config.model_fields["options"].annotation
        known = getattr(options, "model_fields", {})
        if misplaced := next((key for key in given if key in known and key not in cls.model_fields), None):
            error = unknown_key(misplaced, cls.model_fields)
            fix = f"it is an option of the optimizer: write `options: {{{misplaced}: ...}}`"
            raise InputError(error.problem, expected=error.expected, where=misplaced, fix=fix)
        return given


def _has_kind(given: Any) -> Any:  # whatever pydantic is given
    """Refuses what is of no kind."""
    if isinstance(given, RegressionStageConfig | SearchStageConfig):
        return given
    if not isinstance(given, Mapping):
        raise InputError("a stage is not a mapping", expected="`kind:` and its settings", got=type_name(given))
    kind, known = given.get("kind"), (REGRESSION, SEARCH, *OPTIMIZERS)
    if not isinstance(kind, str) or kind not in known:
        raise InputError(
            "the stage has no `kind`" if kind is None else f"no stage is of the kind {shown(kind)}",
            expected=f"{REGRESSION}, {SEARCH}, or an optimizer: {any_of(OPTIMIZERS)}",
            where="kind" if "kind" in given else "",
            fix=(suggestion(kind, known) if isinstance(kind, str) else "") or "add `kind:`",
        )
    return given


def _kind_of(given: Any) -> str:  # what `_has_kind` has let through
    """Returns the tag of a stage's settings."""
    kind = given["kind"] if isinstance(given, Mapping) else given.kind
    return kind if kind in (REGRESSION, SEARCH) else "optimizer"


def _written_out(stage: Any, info: ValidationInfo) -> Any:  # of one of the three forms
    """Returns a stage without short forms."""
    if not isinstance(stage, OptimizerStageConfig):
        return stage
    space = {"kind": usual} if (usual := OPTIMIZERS[stage.kind].space) else None
    given = {
        "optimizer": {"kind": stage.kind, "options": stage.options},
        "budget": stage.budget,
        **({} if (chosen := stage.space or space) is None else {"space": chosen}),
    }
    return SearchStageConfig.model_validate(given, context=info.context)


AnyStageConfig: TypeAlias = Annotated[
    Annotated[RegressionStageConfig, Tag("regression")]
    | Annotated[SearchStageConfig, Tag("search")]
    | Annotated[OptimizerStageConfig, Tag("optimizer")],
    Discriminator(_kind_of),
    BeforeValidator(_has_kind),
    AfterValidator(_written_out),
]
"""An element of a list of stages; parsed, it is one of the first two."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchSettings:
    """A search of a run, whichever way its spec has it."""

    number: int
    """Its place in `stages`, which the journal records with each ask; 0 if there are none."""
    space: SpaceConfig
    optimizer: OptimizerConfig
    """With the budget that it may plan by."""
    own: BudgetConfig
    """The limits of this search alone."""

    @property
    def most_trials(self) -> int | None:
        """The most trials that it has, by its own limits and its optimizer; None: any number."""
        known = (number for number in (self.own.trials, self.optimizer.most_trials) if number is not None)
        return min(known, default=None)


def searches_in(stages: Sequence[Config]) -> Iterator[SearchSettings]:
    """Yields the searches of a list of stages."""
    for number, stage in enumerate(stages):
        if isinstance(stage, SearchStageConfig):
            yield SearchSettings(number=number, space=stage.space, optimizer=stage.optimizer, own=stage.budget)


def mistakes_in(stages: Sequence[Config], budget: BudgetConfig) -> Iterator[InputError]:
    """Yields what is wrong with a list of stages as a whole: their order, and searches that would never end."""
    for number, stage in enumerate(stages):
        if isinstance(stage, RegressionStageConfig) and number > 0:
            yield InputError(
                "a regression is a first stage",
                expected="one stage of `kind: regression`, before every search",
                got=f"stage {number + 1} of {len(stages)}",
                where=f"stages.{number}",
                fix="move it to the front, or remove it; a second run solves around what a search has found, with "
                "`anchor_recipe: RUN/recipes/N.yaml` (docs/stages.md)",
            )
    for search in searches_in(stages):
        if not (search.own.is_limited or budget.is_limited or search.optimizer.most_trials is not None):
            yield InputError(
                "a search without a budget never ends",
                expected="`budget: {trials: ...}` or `budget: {minutes: ...}`",
                where=f"stages.{search.number}",
                fix="add it to the stage, or one for all stages at the top of the spec",
            )
