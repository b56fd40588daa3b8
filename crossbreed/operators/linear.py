"""Sums of sources with one number for each."""

from crossbreed.operators.spec import OperatorSpec, ParamKind, normalize, scale, weight

SPECS = (
    OperatorSpec(
        name="linear",
        formula="W = sum(wi Wi), divided by sum(wi) if normalize; the base is one of the sources",
        plain=True,
        degree=None,
        params=(
            weight(ParamKind.SOURCE, "Share of each source; one number goes to the base too."),
            normalize(default=True),
        ),
    ),
    OperatorSpec(
        name="task_arithmetic",
        formula="W = W0 + scale sum(wi di)",
        plain=True,
        sums_deltas=True,
        params=(
            weight(ParamKind.EXPERT, "How much of each expert's delta; negative unlearns."),
            scale("On the sum of deltas; mergekit calls it lambda."),
        ),
    ),
)
