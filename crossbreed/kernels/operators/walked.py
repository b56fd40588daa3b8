"""Settings of a regression, applied to the statistics of its walk: a diagonal and one product a matrix."""

from crossbreed.errors import InputError
from crossbreed.kernels.artifacts.walk_statistics import STATISTICS, WalkStatistics
from crossbreed.kernels.linalg.walked import Walked
from crossbreed.kernels.programs import Affine, Dense
from crossbreed.kernels.tensors import TensorInputs
from crossbreed.recipes.operators import OPERATOR_SPECS
from crossbreed.types import Rule


def anchored_regression(inputs: TensorInputs, rule: Rule) -> Affine | Dense:
    """The matrix that a regression solves under these settings, with the inputs of its own walk.

    What was not solved is another source's.
    """
    spec = OPERATOR_SPECS[rule.operator]
    if not inputs.experts:
        return Affine(shares=())
    statistics = _statistics(inputs)
    found = statistics.of(inputs.name)
    if found is None:
        rest = spec.word(rule, "rest")
        return Affine(shares=tuple((1.0, expert) for expert in inputs.experts if expert.name == rest))
    here = Walked(*(part.to(inputs.base.device) for part in found))
    ridge, anchor_scale, own = (spec.scalar(rule, name) for name in ("ridge", "anchor_scale", "own"))
    delta_MN = here.delta(ridge=ridge, anchor_scale=anchor_scale, own=own)
    statistics.release(inputs.name)
    return Dense(delta=delta_MN)


def check(inputs: TensorInputs, rule: Rule) -> None:
    """Refuses a recipe without statistics, or with those of matrices of other shapes.

    Raises:
        InputError: naming the tensor.
    """
    found = _statistics(inputs).of(inputs.name) if inputs.experts else None
    if found is not None and found.own_MN.shape != inputs.base.shape:
        raise InputError(
            f"the statistics of `{inputs.name}` are of another base",
            expected=f"a matrix of shape {[*inputs.base.shape]}",
            got=str([*found.own_MN.shape]),
            fix=f"name the artifact `{STATISTICS}` of a regression of this recipe's sources",
        )


def _statistics(inputs: TensorInputs) -> WalkStatistics:
    found = inputs.statistics
    if found is None or not found.tensors:
        raise InputError(
            f"the statistics of a regression are wanted for `{inputs.name}`, and the recipe has none",
            expected=f"an artifact `{STATISTICS}`",
            got="no artifact of that name" if found is None else f"files of something else: {found.where}",
            fix="search in `space: {kind: regression_settings}`, whose runs keep them and whose recipes name them",
        )
    return found
