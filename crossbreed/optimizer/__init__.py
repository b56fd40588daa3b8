"""Optimizers: outcomes in, proposals out.

`ask` returns proposals (points of a box, or births of genomes) and `tell` takes outcomes. An optimizer is independent
of models, recipes and tasks, reads no clock and no global random state, and is restored after a crash by repeating the
same asks and tells. `cma_es` is for one objective, `gp` for one objective with few coordinates, `evo_merging` for
densities and weights of adapters, `frank_wolfe` for one whose slopes along the experts' deltas can be computed,
`gradient` for thousands of coefficients with a calibration loss, `nsga2` for several objectives, `random` for
comparison; `m2n2` searches genomes. A new optimizer is a file with its options, its config, its class and its `PART`, a
name in `build.py` or an entry point of another package (docs/plugins.md), and a subclass of
`crossbreed.testing.optimizers.OptimizerConformance` or `crossbreed.testing.breeders.BreederConformance`.

The optimizers themselves are imported on first use: their libraries take longer than all else that reads a spec.
"""

from typing import TYPE_CHECKING

from crossbreed.lazy import attributes
from crossbreed.optimizer.budget import BudgetConfig
from crossbreed.optimizer.build import (
    OF_OPTIMIZER,
    OPTIMIZERS,
    AnyOptimizerConfig,
    OptimizerConfig,
    OptimizerPart,
    build_optimizer,
)
from crossbreed.optimizer.feasible import ordered
from crossbreed.optimizer.options import CalibrationNeeds, LossKind, Options
from crossbreed.optimizer.protocol import (
    Breeder,
    CalibrationLoss,
    Optimizer,
    Remarking,
    Replayable,
    SearchInputs,
    check_one_objective,
    replayed,
)

if TYPE_CHECKING:
    from crossbreed.optimizer.cat_cma import CatCma, CatCmaConfig, CatCmaOptions
    from crossbreed.optimizer.cma_es import CmaEs, CmaEsConfig, CmaEsOptions
    from crossbreed.optimizer.evo_merging import EvoMerging, EvoMergingConfig, EvoMergingOptions
    from crossbreed.optimizer.frank_wolfe import FrankWolfe, FrankWolfeConfig, FrankWolfeOptions
    from crossbreed.optimizer.gp import Gp, GpConfig, GpOptions
    from crossbreed.optimizer.gradient import Gradient, GradientConfig, GradientOptions
    from crossbreed.optimizer.m2n2 import M2n2, M2n2Config, M2n2Options
    from crossbreed.optimizer.map import Map, MapConfig, MapOptions
    from crossbreed.optimizer.nevergrad import Nevergrad, NevergradConfig, NevergradOptions
    from crossbreed.optimizer.nsga2 import Nsga2, Nsga2Config, Nsga2Options
    from crossbreed.optimizer.nsga3 import Nsga3, Nsga3Config, Nsga3Options
    from crossbreed.optimizer.random_search import RandomConfig, RandomOptions, RandomSearch
    from crossbreed.optimizer.tpe import Tpe, TpeConfig, TpeOptions

__all__ = [
    "OF_OPTIMIZER",
    "OPTIMIZERS",
    "AnyOptimizerConfig",
    "Breeder",
    "BudgetConfig",
    "CalibrationLoss",
    "CalibrationNeeds",
    "CatCma",
    "CatCmaConfig",
    "CatCmaOptions",
    "CmaEs",
    "CmaEsConfig",
    "CmaEsOptions",
    "EvoMerging",
    "EvoMergingConfig",
    "EvoMergingOptions",
    "FrankWolfe",
    "FrankWolfeConfig",
    "FrankWolfeOptions",
    "Gp",
    "GpConfig",
    "GpOptions",
    "Gradient",
    "GradientConfig",
    "GradientOptions",
    "LossKind",
    "M2n2",
    "M2n2Config",
    "M2n2Options",
    "Map",
    "MapConfig",
    "MapOptions",
    "Nevergrad",
    "NevergradConfig",
    "NevergradOptions",
    "Nsga2",
    "Nsga2Config",
    "Nsga2Options",
    "Nsga3",
    "Nsga3Config",
    "Nsga3Options",
    "Optimizer",
    "OptimizerConfig",
    "OptimizerPart",
    "Options",
    "RandomConfig",
    "RandomOptions",
    "RandomSearch",
    "Remarking",
    "Replayable",
    "SearchInputs",
    "Tpe",
    "TpeConfig",
    "TpeOptions",
    "build_optimizer",
    "check_one_objective",
    "ordered",
    "replayed",
]

if not TYPE_CHECKING:  # else mypy would accept every name, as one that `__getattr__` finds
    __getattr__, __dir__ = attributes(
        __name__,
        {
            "crossbreed.optimizer.cat_cma": ["CatCma", "CatCmaConfig", "CatCmaOptions"],
            "crossbreed.optimizer.cma_es": ["CmaEs", "CmaEsConfig", "CmaEsOptions"],
            "crossbreed.optimizer.evo_merging": ["EvoMerging", "EvoMergingConfig", "EvoMergingOptions"],
            "crossbreed.optimizer.frank_wolfe": ["FrankWolfe", "FrankWolfeConfig", "FrankWolfeOptions"],
            "crossbreed.optimizer.gp": ["Gp", "GpConfig", "GpOptions"],
            "crossbreed.optimizer.gradient": ["Gradient", "GradientConfig", "GradientOptions"],
            "crossbreed.optimizer.m2n2": ["M2n2", "M2n2Config", "M2n2Options"],
            "crossbreed.optimizer.map": ["Map", "MapConfig", "MapOptions"],
            "crossbreed.optimizer.nevergrad": ["Nevergrad", "NevergradConfig", "NevergradOptions"],
            "crossbreed.optimizer.nsga2": ["Nsga2", "Nsga2Config", "Nsga2Options"],
            "crossbreed.optimizer.nsga3": ["Nsga3", "Nsga3Config", "Nsga3Options"],
            "crossbreed.optimizer.random_search": ["RandomConfig", "RandomOptions", "RandomSearch"],
            "crossbreed.optimizer.tpe": ["Tpe", "TpeConfig", "TpeOptions"],
        },
    )
