"""From settings to an optimizer: the one list of the kinds there are."""

from typing import Annotated, TypeAlias

from pydantic import Field

from crossbreed.optimizer.cma_es import CmaEs, CmaEsConfig
from crossbreed.optimizer.frank_wolfe import FrankWolfe, FrankWolfeConfig
from crossbreed.optimizer.gp import Gp, GpConfig
from crossbreed.optimizer.nsga2 import Nsga2, Nsga2Config
from crossbreed.optimizer.protocol import Optimizer, Setting
from crossbreed.optimizer.random_search import RandomConfig, RandomSearch

OptimizerConfig: TypeAlias = Annotated[
    CmaEsConfig | FrankWolfeConfig | GpConfig | Nsga2Config | RandomConfig, Field(discriminator="kind")
]
"""The `optimizer` section of a spec: `kind`, `budget`, `options`."""


def build_optimizer(config: OptimizerConfig, setting: Setting) -> Optimizer:
    """Builds the optimizer that `config` names.

    Raises:
        InputError: it cannot do what the setting wants (several objectives, for instance).
    """
    match config:
        case CmaEsConfig():
            return CmaEs(setting, config.options)
        case FrankWolfeConfig():
            return FrankWolfe(setting, config.options)
        case GpConfig():
            return Gp(setting, config.options)
        case Nsga2Config():
            return Nsga2(setting, config.options)
        case RandomConfig():
            return RandomSearch(setting)
