"""Optimizers: scores in, points of a box out, or births.

An optimizer is asked for points and told outcomes. It knows nothing of models, recipes or tasks, keeps no clock and no
global random state, and is brought back after a crash by hearing the same asks and tells again. `cma_es` is for one
objective, `gp` for one that few coordinates decide, `frank_wolfe` for one whose slopes along the experts' deltas can be
had, `nsga2` for several, `random` to compare with. `m2n2` is a breeder: asked for births, in a space of genomes. A new
one is a file with its options, its config and its class, its place in `build.py`, and a subclass of
`crossbreed.testing.optimizers.OptimizerConformance` or `crossbreed.testing.breeders.BreederConformance`.
"""

from crossbreed.optimizer.budget import BudgetConfig
from crossbreed.optimizer.build import OptimizerConfig, build_optimizer
from crossbreed.optimizer.cma_es import CmaEs, CmaEsConfig, CmaEsOptions
from crossbreed.optimizer.frank_wolfe import FrankWolfe, FrankWolfeConfig, FrankWolfeOptions
from crossbreed.optimizer.gp import Gp, GpConfig, GpOptions
from crossbreed.optimizer.m2n2 import M2n2, M2n2Config, M2n2Options
from crossbreed.optimizer.nsga2 import Nsga2, Nsga2Config, Nsga2Options
from crossbreed.optimizer.protocol import Box, Breeder, Genomes, Hull, Optimizer, Setting
from crossbreed.optimizer.random_search import RandomConfig, RandomOptions, RandomSearch

__all__ = [
    "Box",
    "Breeder",
    "BudgetConfig",
    "CmaEs",
    "CmaEsConfig",
    "CmaEsOptions",
    "FrankWolfe",
    "FrankWolfeConfig",
    "FrankWolfeOptions",
    "Genomes",
    "Gp",
    "GpConfig",
    "GpOptions",
    "Hull",
    "M2n2",
    "M2n2Config",
    "M2n2Options",
    "Nsga2",
    "Nsga2Config",
    "Nsga2Options",
    "Optimizer",
    "OptimizerConfig",
    "RandomConfig",
    "RandomOptions",
    "RandomSearch",
    "Setting",
    "build_optimizer",
]
