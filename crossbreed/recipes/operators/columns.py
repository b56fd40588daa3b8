"""Operators with a coefficient for each column (input) of a matrix, or for each layer."""

from crossbreed.recipes.operators.part import family
from crossbreed.recipes.operators.spec import OperatorSpec, ParamKind, ParamSpec, scale, weight

PARTS = family(
    "columns",
    OperatorSpec(
        name="widen",
        by_inputs=True,
        paper="arXiv 2408.03092",
        formula="W = W0 + sum(ci di); ci of a column is large if expert i changed its length and direction the most",
        params=(
            ParamSpec(
                name="t",
                kind=ParamKind.SCALAR,
                default=1.0,
                search=(0.5, 2.0),
                at_least=0.0,
                about="Columns with a rank above this times the mean rank are important.",
            ),
            ParamSpec(
                name="s",
                kind=ParamKind.SCALAR,
                default=1.0,
                search=(0.5, 1.5),
                about="Coefficient of important columns; that of the others sums to 1 over the experts.",
            ),
        ),
    ),
    OperatorSpec(
        name="do_decouple",
        by_inputs=True,
        paper="arXiv 2505.15875",
        formula="W = W0 + scale sum(vi mi) sum(wi di / mi), column by column, with mi the length of di's column",
        params=(
            weight(ParamKind.EXPERT, "Weight of each expert's directions."),
            ParamSpec(
                name="magnitude",
                kind=ParamKind.EXPERT,
                default=0.0,
                required=True,
                search=(0.0, 1.5),
                about="Weight of each expert's lengths.",
            ),
            scale("Factor on the merged delta."),
        ),
    ),
    OperatorSpec(
        name="metrics_weighted",
        paper="arXiv 2504.18580",
        differs="Reconstructed from the abstract, which names no formula. The paper weighs by losses, of which less is "
        "better, this by scores.",
        formula="W = W0 + sum(wi di) / sum(wi), with wi = metric_i ** penalty",
        params=(
            ParamSpec(
                name="metric",
                kind=ParamKind.EXPERT,
                default=0.0,
                required=True,
                at_least=0.0,
                about="Score of each expert, more is better; with 0 it has no share.",
            ),
            ParamSpec(
                name="penalty",
                kind=ParamKind.SCALAR,
                default=1.0,
                search=(0.0, 20.0),
                at_least=0.0,
                about="Exponent: with 0 all are equal; the larger, the more the best one dominates.",
            ),
        ),
    ),
    OperatorSpec(
        name="passthrough",
        formula="W = scale Wi of one source",
        params=(
            ParamSpec(name="source", kind=ParamKind.NAME, default="", required=True, about="The source of the tensor."),
            scale("Factor on the whole tensor, not on its delta."),
        ),
    ),
)
