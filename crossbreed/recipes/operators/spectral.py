"""Operators on the singular directions of the deltas."""

from crossbreed.recipes.operators.part import family
from crossbreed.recipes.operators.spec import OperatorSpec, ParamKind, ParamSpec, scale, weight

_RANK = ParamSpec(
    name="rank",
    kind=ParamKind.EXPERT,
    default=1.0,
    search=(0.1, 1.0),
    log_scale=True,
    above=0.0,
    at_most=1.0,
    about="Rank that each expert keeps, as a fraction of min(rows, columns) / experts.",
)

PARTS = family(
    "spectral",
    OperatorSpec(
        name="tsv_m",
        paper="arXiv 2412.00081",
        differs="The rank is shared by the experts that change the tensor, in the paper by all.",
        formula="W = W0 + scale polar([U1 ... Un]) diag(wi Si) polar([V1 ... Vn])^T; di ~ Ui Si Vi^T of its rank",
        params=(
            weight(ParamKind.EXPERT, "Factor on each expert's singular values; negative weights unlearn."),
            _RANK,
            scale("Factor on the merged delta, which for tensors other than projections is the mean of the wi di."),
        ),
    ),
)
