"""From settings to an optimizer: the one list of the kinds there are."""

from typing import Annotated, TypeAlias

from pydantic import Field

from crossbreed.errors import InputError
from crossbreed.optimizer.cma_es import CmaEs, CmaEsConfig
from crossbreed.optimizer.frank_wolfe import FrankWolfe, FrankWolfeConfig
from crossbreed.optimizer.gp import Gp, GpConfig
from crossbreed.optimizer.m2n2 import M2n2, M2n2Config
from crossbreed.optimizer.nsga2 import Nsga2, Nsga2Config
from crossbreed.optimizer.protocol import Breeder, Optimizer, Setting
from crossbreed.optimizer.random_search import RandomConfig, RandomSearch

OptimizerConfig: TypeAlias = Annotated[
    CmaEsConfig | FrankWolfeConfig | GpConfig | M2n2Config | Nsga2Config | RandomConfig, Field(discriminator="kind")
]
"""The `optimizer` section of a spec: `kind`, `budget`, `options`."""


def build_optimizer(config: OptimizerConfig, setting: Setting) -> Optimizer | Breeder:
    """Builds the optimizer that `config` names.

    Raises:
        InputError: it cannot do what the setting wants (several objectives, for instance), or is not for such a space.
    """
    if isinstance(config, M2n2Config) != (setting.genomes is not None):
        raise InputError(
            f"optimizer `{config.kind}` is not for this kind of space",
            expected="`m2n2` with a space of genomes (`kind: lineage`), every other optimizer with a box",
            got=f"`{config.kind}` with a {'box' if setting.genomes is None else 'space of genomes'}",
            where="optimizer.kind and space.kind",
            fix="write `space: {kind: lineage}`" if setting.genomes is None else "write `optimizer: {kind: m2n2, ...}`",
        )
    match config:
        case CmaEsConfig():
            return CmaEs(setting, config.options)
        case FrankWolfeConfig():
            return FrankWolfe(setting, config.options)
        case GpConfig():
            return Gp(setting, config.options)
        case M2n2Config():
            return M2n2(setting, config.options)
        case Nsga2Config():
            return Nsga2(setting, config.options)
        case RandomConfig():
            return RandomSearch(setting)
