"""The registry of optimizers, and building the one that a spec names."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Generic, TypeAlias, TypeVar

from crossbreed.config import Config
from crossbreed.errors import InputError
from crossbreed.objects import OBJECT
from crossbreed.optimizer.budget import BudgetConfig
from crossbreed.optimizer.covering import covering
from crossbreed.optimizer.options import CalibrationNeeds, Options
from crossbreed.optimizer.protocol import Optimizer, SearchInputs
from crossbreed.parsing import any_of
from crossbreed.registry import Registry, Tagged
from crossbreed.types import Box, DomainType, Genomes, SlopeKind


class OptimizerConfig(Config):
    """The `optimizer` section of a spec. A kind narrows `options` to its own; its docstring describes the kind."""

    kind: str
    budget: BudgetConfig = BudgetConfig()
    options: Options = Options()

    @property
    def label(self) -> str:
        """What people are shown of it."""
        return self.kind

    @property
    def slope_kind(self) -> SlopeKind | None:
        """How outcomes' slopes are to compare a gradient with experts; None: outcomes need no slopes."""
        return self.options.slope_kind

    @property
    def calibration(self) -> CalibrationNeeds | None:
        """The calibration loss that it is to be built with (`SearchInputs.calibration`); None: it needs none."""
        return self.options.calibration

    @property
    def reads_budget(self) -> bool:
        """Whether it plans by `budget.trials`, which may then not change on resume."""
        return False

    @property
    def reads_items(self) -> bool:
        """Whether it needs the values of items (`Outcome.items`), which some tasks do not tell."""
        return False

    @property
    def reads_violations(self) -> bool:
        """Whether it reads `Outcome.excesses`; else, values are told so that they alone say what comes first."""
        return False

    @property
    def most_trials(self) -> int | None:
        """The most candidates that it asks for, so that its search ends without a budget; None: any number."""
        return None

    @property
    def renamed(self) -> Mapping[str, str]:
        """Dotted keys of this section that older versions recorded -> what they are called now."""
        return {f"options.{old}": f"options.{new}" for old, new in self.options.renamed.items()}


C = TypeVar("C", bound=OptimizerConfig)


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerPart(Generic[C]):
    """The registration of an optimizer."""

    config: type[C]
    """Its settings."""
    make: Callable[[SearchInputs, C], Optimizer]
    """Builds it; raises InputError for inputs that it does not support, for instance several objectives."""
    searches: DomainType | None
    """The domain that it searches: points of a box, or births of genomes; None if known only when it is built."""
    space: str = ""
    """The kind of space that a stage of its kind searches unless the spec names one; empty: a spec names one."""
    paper: str = ""
    """The paper that describes it, for display."""
    needs: tuple[str, ...] = ()
    """Modules that it imports when built and that the core does not depend on."""


OPTIMIZERS = Registry[OptimizerPart[Any]](
    "optimizer",
    "crossbreed.optimizers",
    {
        "cat_cma": "crossbreed.optimizer.cat_cma:PART",
        "cma_es": "crossbreed.optimizer.cma_es:PART",
        "evo_merging": "crossbreed.optimizer.evo_merging:PART",
        "frank_wolfe": "crossbreed.optimizer.frank_wolfe:PART",
        "gp": "crossbreed.optimizer.gp:PART",
        "gradient": "crossbreed.optimizer.gradient:PART",
        "m2n2": "crossbreed.optimizer.m2n2:PART",
        "map": "crossbreed.optimizer.map:PART",
        "nevergrad": "crossbreed.optimizer.nevergrad:PART",
        "nsga2": "crossbreed.optimizer.nsga2:PART",
        "nsga3": "crossbreed.optimizer.nsga3:PART",
        "object": "crossbreed.optimizer.python_object:PART",
        "random": "crossbreed.optimizer.random_search:PART",
        "tpe": "crossbreed.optimizer.tpe:PART",
    },
    hidden=(OBJECT,),
    part=OptimizerPart,
    config=OptimizerConfig,
)
"""Kind -> part."""

OF_OPTIMIZER = Tagged(OPTIMIZERS, lambda part: part.config)
"""Annotates a field that takes the settings of any registered optimizer."""
AnyOptimizerConfig: TypeAlias = Annotated[OptimizerConfig, OF_OPTIMIZER]
"""A field that takes the settings of any registered optimizer."""


def build_optimizer(config: OptimizerConfig, inputs: SearchInputs) -> Optimizer:
    """Builds the optimizer that `config` names.

    Raises:
        InputError: it does not support these inputs (several objectives, for instance) or this kind of space.
    """
    return build_part(OPTIMIZERS.look_up(config.kind, where="optimizer.kind"), config, inputs)


def build_part(part: OptimizerPart[C], config: C, inputs: SearchInputs) -> Optimizer:
    """Builds the optimizer of a part; the errors are those of `build_optimizer`."""
    domain = type(inputs.domain)
    if part.searches not in (domain, None):
        raise InputError(
            f"optimizer `{config.kind}` does not search this kind of space",
            expected=f"one that searches {_WORDS[domain]}: {any_of(_searching(domain))}",
            got=f"`{config.kind}`, which searches {_WORDS[part.searches]}",
            where="optimizer.kind and space.kind",
            fix=f"use one of those, or another space, such as {_SPACES[part.searches]} (`crossbreed list spaces`)",
        )
    return covering(inputs, lambda given: part.make(given, config))


_WORDS: Mapping[DomainType, str] = {Box: "a box", Genomes: "genomes"}
_SPACES: Mapping[DomainType, str] = {Box: "`coefficients`", Genomes: "`lineage`"}


def _searching(domain: DomainType) -> Iterable[str]:
    return (name for name, part in OPTIMIZERS.working().items() if part.searches is domain)
