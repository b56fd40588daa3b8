"""Singular directions of the deltas."""

from crossbreed.operators.spec import OperatorSpec, ParamKind, ParamSpec, scale, weight

_RANK = ParamSpec(
    name="rank",
    kind=ParamKind.EXPERT,
    default=1.0,
    search=(0.1, 1.0),
    by_ratio=True,
    above=0.0,
    at_most=1.0,
    about="Part of an even share of the rank, min(rows, columns) / experts, that each expert keeps.",
)

SPECS = (
    OperatorSpec(
        name="tsv_m",
        formula="W = W0 + scale polar([U1 ... Un]) diag(wi Si) polar([V1 ... Vn])^T; di = Ui Si Vi^T, cut to its rank",
        params=(
            weight(ParamKind.EXPERT, "On each expert's singular values; negative unlearns."),
            _RANK,
            scale("On the merged delta; of what is no projection, on the mean of the weighted deltas."),
        ),
    ),
)
