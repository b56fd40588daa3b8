"""Soft thresholding: every element of a delta moves towards zero, and small ones vanish."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from crossbreed.recipes.operators import OperatorPart, OperatorSpec, ParamKind, ParamSpec, weight
from crossbreed.types import Rule

if TYPE_CHECKING:  # a spec that names the operator can be read where there is no torch
    import torch

    from crossbreed.kernels.programs import Elementwise
    from crossbreed.kernels.reference.tensor import Tensor
    from crossbreed.kernels.tensors import TensorInputs

SPEC = OperatorSpec(
    name="shrink",
    formula="W = W0 + sum(wi si), where si is di with every element moved towards 0 by `threshold`",
    params=(
        weight(ParamKind.EXPERT, "How much of each expert's shrunk delta."),
        ParamSpec(
            name="threshold",
            kind=ParamKind.SCALAR,
            default=0.0,
            search=(1e-6, 1e-2),
            log_scale=True,
            at_least=0.0,
            about="By how much every element moves towards 0; a smaller one vanishes.",
        ),
    ),
)


def arithmetic(inputs: "TensorInputs", rule: Rule) -> "Elementwise":
    """Returns what is computed, in fp32, block by block."""
    from crossbreed.kernels.programs import Elementwise

    weights = SPEC.per_source(rule, "weight", inputs.expert_names)
    numbers = (SPEC.scalar(rule, "threshold"), *(weights[expert.name] for expert in inputs.experts))
    return Elementwise(body=_added, experts=inputs.experts, numbers=numbers)


def _added(
    base: "torch.Tensor", deltas: "Sequence[torch.Tensor]", sides: "Sequence[torch.Tensor]", numbers: "torch.Tensor"
) -> "torch.Tensor":
    threshold, *weights = numbers
    shrunk = [delta - delta.clamp(-threshold, threshold) for delta in deltas]
    return sum((w * s for w, s in zip(weights, shrunk, strict=True)), base.new_zeros(()))


def reference(tensor: "Tensor", rule: Rule) -> "torch.Tensor":
    """Returns the merged tensor by the formula, in fp64."""
    weights, threshold = SPEC.per_source(rule, "weight", tuple(tensor.experts)), SPEC.scalar(rule, "threshold")
    merged = tensor.base.clone()
    for name, delta in tensor.deltas.items():
        merged += weights[name] * delta.sign() * (delta.abs() - threshold).clamp(min=0)
    return merged


PART = OperatorPart(spec=SPEC, arithmetic=f"{__name__}:arithmetic", reference=f"{__name__}:reference")
