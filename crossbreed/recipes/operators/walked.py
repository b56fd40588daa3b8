"""The operator on the statistics of a regression's walk: its settings, without another walk."""

from crossbreed.recipes.operators.part import family
from crossbreed.recipes.operators.spec import OperatorSpec, ParamKind, ParamSpec

ANCHORED = "anchored_regression"
"""The operator's name."""

PARTS = family(
    "walked",
    OperatorSpec(
        name=ANCHORED,
        by_inputs=True,
        degree=None,
        reads_statistics=True,
        formula="W = W0 + (T + l a A) (C + l I)^-1; T = own T1 + (1 - own) T0, l = ridge * the mean eigenvalue of C, "
        "a = anchor_scale; C, A, T1 and T0 from the artifact `statistics`: of a walk's inputs x the sum of the means "
        "x x^T, the anchor's delta, and the cross moments with x of what experts put out themselves (T1) or make of x "
        "(T0), less the base's",
        params=(
            ParamSpec(
                name="ridge",
                kind=ParamKind.SCALAR,
                default=1.0,
                search=(0.1, 10.0),
                log_scale=True,
                at_least=1e-6,
                about="Lambda of the regression: how strongly the anchor holds; infinity is the anchor.",
            ),
            ParamSpec(
                name="anchor_scale",
                kind=ParamKind.SCALAR,
                default=0.85,
                search=(0.4, 1.3),
                at_least=0.0,
                about="Factor on the anchor's delta.",
            ),
            ParamSpec(
                name="own",
                kind=ParamKind.SCALAR,
                default=0.5,
                search=(0.0, 1.0),
                at_least=0.0,
                at_most=1.0,
                about="Share of the experts' own outputs in the targets; the rest is what their matrices make of x.",
            ),
            ParamSpec(
                name="rest",
                kind=ParamKind.NAME,
                default="",
                required=True,
                about="The source of tensors that the walk has not solved, usually the regression.",
            ),
        ),
    ),
    check="check",
)
