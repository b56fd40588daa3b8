"""Least squares on what the experts do to their inputs.

What is no projection has no Gram: `regmean` and `swudi` average its deltas, and `bmm` leaves it to its anchor.
"""

import math
from collections.abc import Mapping

import torch

from crossbreed.kernels.executors import execute
from crossbreed.kernels.linalg.least_squares import (
    FILTERS,
    System,
    approach,
)
from crossbreed.kernels.operators.linear import task_arithmetic
from crossbreed.kernels.operators.sparse import ties
from crossbreed.kernels.operators.spectral import mean_of_deltas, tsv_m
from crossbreed.kernels.prepared.regression_problem import RegressionProblem
from crossbreed.kernels.programs import Affine, Dense, Operator, Program
from crossbreed.kernels.tensors import TensorInputs
from crossbreed.recipes.operators import OPERATOR_SPECS
from crossbreed.types import ParamValue, Rule

_BASE = Affine(shares=())


def regmean(inputs: TensorInputs, rule: Rule) -> Affine | Dense:
    """The merge that is nearest to each expert on its own inputs (arXiv 2212.09849).

    Where the Grams leave it open, that is the weighted mean of the experts. One that leaves the tensor as it is votes
    for the base's, if Grams of inputs are given.
    """
    spec = OPERATOR_SPECS["regmean"]
    weights = spec.per_source(rule, "weight", inputs.expert_names)
    if not _any_weight(inputs, weights):
        return _BASE
    total = math.fsum(weights.values())
    shares = {name: weight / total for name, weight in weights.items()}
    if not inputs.is_projection:
        return mean_of_deltas(inputs, shares, len(shares))
    problem = _problem(inputs, rule, shares)

    def find() -> torch.Tensor:
        system = problem.solve()
        return system.regularised(system.anchored(problem.sum_of_deltas()), 0.0)

    return Dense(delta=inputs.cached("regmean", find, *problem.key))


def swudi(inputs: TensorInputs, rule: Rule) -> Affine | Dense:
    """From the sum of deltas towards WUDI's minimiser (arXiv 2503.08099), as far as a spectral filter allows.

    The minimiser itself over-fits; where gradient descent towards it stops early is better, and is a filter.
    """
    spec = OPERATOR_SPECS["swudi"]
    weights, scale = spec.per_source(rule, "weight", inputs.expert_names), spec.scalar(rule, "scale")
    if not _any_weight(inputs, weights):
        return _BASE
    if not inputs.is_projection:
        return mean_of_deltas(inputs, weights, scale)
    problem = _problem(inputs, rule, weights)
    system = problem.system()
    assert isinstance(system, System), "the Grams of deltas are never sketched"
    start = inputs.cached("sum of deltas", lambda: system.anchored(problem.sum_of_deltas()), *problem.key)
    name = spec.word(rule, "filter")
    return Dense(delta=approach(system, start, FILTERS[name](system, spec.scalar(rule, _NUMBERS[name]))), factor=scale)


def bmm(inputs: TensorInputs, rule: Rule) -> Program:
    """Bayesian regression with a prior around a merge that is good already (arXiv 2605.12843).

    For given weights and density, lambda costs a diagonal and one product, and scale nothing. (Where the Grams are
    sketched, lambda costs a system of as many equations as they have rows.)
    """
    spec = OPERATOR_SPECS["bmm"]
    weights, densities = (spec.per_source(rule, name, inputs.expert_names) for name in ("weight", "density"))
    scale, name = spec.scalar(rule, "scale"), spec.word(rule, "anchor")
    params: dict[str, ParamValue] = {"weight": weights, "density": densities} if name == "ties" else {"weight": weights}
    anchor = _ANCHORS[name](inputs, Rule(match=rule.match, operator=name, params=params))
    if not inputs.is_projection or not _any_weight(inputs, weights):
        return anchor.scaled(scale)
    problem = _problem(inputs, rule, weights)
    system = problem.system()
    settings = sorted((expert.hash, weights[expert.name], densities[expert.name]) for expert in inputs.experts)
    prior = inputs.cached(
        "anchor",
        lambda: system.anchored(execute(anchor, inputs.base, torch.float32) - inputs.base.float()),
        name,
        *settings,
        *problem.key,
    )
    ridge = spec.scalar(rule, "lambda") * system.mean_eigenvalue
    return Dense(delta=system.regularised(prior, ridge), factor=scale)


def check(inputs: TensorInputs, rule: Rule) -> None:
    """Refuses, from shapes and names alone, what an operator of this family could not solve.

    Raises:
        InputError: a matrix that is too large, or Grams of inputs that are not there.
    """
    weights = OPERATOR_SPECS[rule.operator].per_source(rule, "weight", inputs.expert_names)
    if inputs.is_projection and _any_weight(inputs, weights):
        _problem(inputs, rule, weights).check()


def _problem(inputs: TensorInputs, rule: Rule, weights: Mapping[str, float]) -> RegressionProblem:
    spec = OPERATOR_SPECS[rule.operator]
    match spec.name:
        case "regmean":
            kind = "deltas" if inputs.grams is None else "data"
            return RegressionProblem(inputs=inputs, weights=weights, grams=kind, alpha=spec.scalar(rule, "alpha"))
        case "bmm":
            kind = spec.word(rule, "grams")
            eta = spec.scalar(rule, "eta") if kind == "mixed" else 1.0
            return RegressionProblem(inputs=inputs, weights=weights, grams=kind, eta=eta)
        case _:
            return RegressionProblem(inputs=inputs, weights=weights, grams="deltas")


def _any_weight(inputs: TensorInputs, weights: Mapping[str, float]) -> bool:
    return any(weights[expert.name] for expert in inputs.experts)


_NUMBERS = {"exponential": "time", "tikhonov": "ridge", "landweber": "steps", "top_k": "ratio"}
"""Filter -> the parameter that it reads."""
_ANCHORS: Mapping[str, Operator] = {"task_arithmetic": task_arithmetic, "ties": ties, "tsv_m": tsv_m, "swudi": swudi}
