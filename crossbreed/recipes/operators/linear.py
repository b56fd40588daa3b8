"""Operators that are weighted sums of sources."""

from crossbreed.recipes.operators.part import family
from crossbreed.recipes.operators.spec import OperatorSpec, ParamKind, normalize, scale, weight

PARTS = family(
    "linear",
    OperatorSpec(
        name="linear",
        paper="arXiv 2203.05482",
        formula="W = sum(wi Wi), divided by sum(wi) if normalize; the base is one of the sources",
        is_weighted_sum=True,
        degree=None,
        divides_by_weights=True,
        params=(
            weight(ParamKind.SOURCE, "Share of each source; a single number applies to the base too."),
            normalize(default=True),
        ),
    ),
    OperatorSpec(
        name="task_arithmetic",
        paper="arXiv 2212.04089",
        formula="W = W0 + scale sum(wi di)",
        is_weighted_sum=True,
        sums_deltas=True,
        params=(
            weight(ParamKind.EXPERT, "Weight of each expert's delta; negative weights unlearn."),
            scale("Factor on the sum of deltas; mergekit's lambda."),
        ),
    ),
)
