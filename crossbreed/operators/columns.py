"""A number for each of a matrix's columns (its inputs), or for each layer."""

from crossbreed.operators.spec import OperatorSpec, ParamKind, ParamSpec, scale, weight

SPECS = (
    OperatorSpec(
        name="widen",
        formula="W = W0 + sum(ci di); ci of a column is large where expert i changed its length and direction the most",
        params=(
            ParamSpec(
                name="t",
                kind=ParamKind.SCALAR,
                default=1.0,
                search=(0.5, 2.0),
                at_least=0.0,
                about="Columns are important that rank higher than this times the mean rank.",
            ),
            ParamSpec(
                name="s",
                kind=ParamKind.SCALAR,
                default=1.0,
                search=(0.5, 1.5),
                about="Coefficient of important columns; the others share 1 among the experts.",
            ),
        ),
    ),
    OperatorSpec(
        name="do_decouple",
        formula="W = W0 + scale sum(vi mi) sum(wi di / mi), column by column, with mi the length of di's",
        params=(
            weight(ParamKind.EXPERT, "How much of each expert's directions."),
            ParamSpec(
                name="magnitude",
                kind=ParamKind.EXPERT,
                default=0.0,
                required=True,
                search=(0.0, 1.5),
                about="How much of each expert's lengths.",
            ),
            scale("On the merged delta."),
        ),
    ),
    OperatorSpec(
        name="metrics_weighted",
        formula="W = W0 + sum(wi di) / sum(wi), with wi = metric_i ** penalty",
        params=(
            ParamSpec(
                name="metric",
                kind=ParamKind.EXPERT,
                default=0.0,
                required=True,
                at_least=0.0,
                about="What each expert scored, more is better; at 0 it takes no part.",
            ),
            ParamSpec(
                name="penalty",
                kind=ParamKind.SCALAR,
                default=1.0,
                search=(0.0, 20.0),
                at_least=0.0,
                about="At 0 all are equal; the larger, the more the best one counts.",
            ),
        ),
    ),
    OperatorSpec(
        name="passthrough",
        formula="W = scale Wi of one source",
        params=(
            ParamSpec(name="source", kind=ParamKind.NAME, default="", required=True, about="Whose tensor it is."),
            scale("On the whole tensor, not on its delta."),
        ),
    ),
)
