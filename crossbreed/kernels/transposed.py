"""Operators to which a matrix's columns are a Linear's inputs, where an architecture stores it the other way round.

GPT-2 keeps its matrices as (inputs, outputs). An operator that declares `by_inputs` gets them as (outputs, inputs), and
what it makes of them is turned back.
"""

from dataclasses import replace

import torch

from crossbreed.kernels.executors import execute
from crossbreed.kernels.programs import Affine, Coefficient, Dense, Operator, Program
from crossbreed.kernels.tensors import ExpertTensor, TensorInputs
from crossbreed.recipes.operators import OPERATOR_SPECS
from crossbreed.sources import LowRank
from crossbreed.types import Rule


def is_to_turn(inputs: TensorInputs, rule: Rule) -> bool:
    """Returns whether the rule's operator is to see the transposed matrix."""
    return inputs.is_stored_transposed and OPERATOR_SPECS[rule.operator].by_inputs


def turned(inputs: TensorInputs) -> TensorInputs:
    """Returns views of the transposed matrices; what is remembered of them is remembered apart."""
    return replace(
        inputs,
        base=inputs.base.T,
        base_hash=f"{inputs.base_hash}, transposed",
        experts=tuple(replace(expert, value=_turned(expert.value)) for expert in inputs.experts),
        is_stored_transposed=False,
    )


def turning(operator: Operator, inputs: TensorInputs, rule: Rule) -> Program:
    """Returns a program for the matrices as they are stored, of an operator that sees them transposed."""
    seen = turned(inputs)
    seen = replace(seen, base=seen.base.contiguous(), experts=tuple(map(_contiguous, seen.experts)))
    program = operator(seen, rule)
    if isinstance(program, Affine):
        stored = {expert.name: expert for expert in inputs.experts}
        shares = tuple((_turned_coefficient(c), stored[expert.name]) for c, expert in program.shares)
        return replace(program, shares=shares)
    if isinstance(program, Dense):
        return replace(program, delta=program.delta.T)
    merged = execute(program, seen.base, torch.float32)
    return Dense(delta=(merged - seen.base.float()).T)


def _turned(value: torch.Tensor | LowRank) -> torch.Tensor | LowRank:
    return value.turned if isinstance(value, LowRank) else value.T


def _contiguous(expert: ExpertTensor) -> ExpertTensor:
    value = expert.value
    if isinstance(value, LowRank):
        return replace(expert, value=replace(value, a_RN=value.a_RN.contiguous(), b_MR=value.b_MR.contiguous()))
    return replace(expert, value=value.contiguous())


def _turned_coefficient(coefficient: Coefficient) -> Coefficient:
    return coefficient.T.contiguous() if isinstance(coefficient, torch.Tensor) else coefficient
