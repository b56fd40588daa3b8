"""Operators that interpolate weights, or deltas, on a sphere."""

from crossbreed.recipes.operators.part import family
from crossbreed.recipes.operators.spec import OperatorSpec, ParamKind, ParamSpec, normalize, scale, weight

_OF_DELTAS, _OF_WEIGHTS = (
    ParamSpec(
        name="of",
        kind=ParamKind.CHOICE,
        default=default,
        options=("deltas", "weights"),
        about="Whether the vectors are the experts' deltas or their whole weights.",
    )
    for default in ("deltas", "weights")
)


def _along(*options: str) -> ParamSpec:
    about = f"The vectors: the whole tensor, or each of its {' or '.join(options)}; a 1-D tensor is one vector."
    return ParamSpec(name="along", kind=ParamKind.CHOICE, default="tensor", options=("tensor", *options), about=about)


PARTS = family(
    "geometry",
    OperatorSpec(
        name="slerp",
        formula="W = the point at t on the arc from W0 to W1, or on the straight line if they are nearly parallel",
        num_experts=(1, 1),
        params=(
            ParamSpec(
                name="t",
                kind=ParamKind.SCALAR,
                default=0.0,
                required=True,
                search=(0.0, 1.0),
                about="Position on the arc: 0 is the base, 1 the expert.",
            ),
        ),
    ),
    OperatorSpec(
        name="nuslerp",
        formula="W = W0 + the point at w2 / (w1 + w2) on the arc from d1 to d2",
        num_experts=(2, 2),
        degree=0,
        params=(
            weight(ParamKind.EXPERT, "Share of each expert's direction; only the ratio matters."),
            _OF_DELTAS,
            _along("rows", "columns"),
        ),
    ),
    OperatorSpec(
        name="multislerp",
        divides_by_weights=True,
        formula="W = W0 + sum(wi |di|) u, with u the direction of sum(wi di / |di|)",
        params=(
            weight(ParamKind.EXPERT, "Share of each expert's direction and length."),
            _OF_DELTAS,
            normalize(default=True),
        ),
    ),
    OperatorSpec(
        name="karcher",
        divides_by_weights=True,
        paper="arXiv 2603.04972",
        formula="W = sum(wi |Wi|) u / sum(wi), with u the point on the sphere nearest to all Wi / |Wi|",
        degree=0,
        params=(
            ParamSpec(
                name="weight",
                kind=ParamKind.SOURCE,
                default=1.0,
                search=(0.0, 1.0),
                at_least=0.0,
                about="Weight of each source. Between deltas, that of the base has no effect.",
            ),
            _OF_WEIGHTS,
            ParamSpec(
                name="max_iter",
                kind=ParamKind.SCALAR,
                default=10.0,
                at_least=0.0,
                at_most=1e6,
                integer=True,
                about="Maximum number of iterations.",
            ),
            ParamSpec(
                name="tol",
                kind=ParamKind.SCALAR,
                default=1e-5,
                above=0.0,
                about="Step length, in radians, below which the iteration ends.",
            ),
        ),
    ),
    OperatorSpec(
        name="model_stock",
        paper="arXiv 2403.19522",
        formula="W = W0 + scale t mean(di), t = N c / (1 + (N - 1) c) and c the mean cosine between two deltas",
        num_experts=(2, None),
        params=(scale("Factor on t, which is determined by the angles between the experts."), _along("rows")),
    ),
)
