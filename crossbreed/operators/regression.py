"""Least squares on what the experts do to their inputs."""

from dataclasses import replace

from crossbreed.operators.spec import OperatorSpec, ParamKind, ParamSpec, density, scale


def _vote(about: str) -> ParamSpec:
    """A weight in a sum of squares: a negative one would leave it without a minimum."""
    return ParamSpec(
        name="weight",
        kind=ParamKind.EXPERT,
        default=0.0,
        required=True,
        search=(0.0, 1.5),
        at_least=0.0,
        about=about,
    )


def _number(
    name: str,
    about: str,
    *,
    default: float,
    search: tuple[float, float],
    at_most: float = float("inf"),
    by_ratio: bool = True,
    when: tuple[str, str] | None = None,
) -> ParamSpec:
    return ParamSpec(
        name=name,
        kind=ParamKind.SCALAR,
        default=default,
        search=search,
        by_ratio=by_ratio,
        at_least=0.0,
        at_most=at_most,
        when=when,
        about=about,
    )


_ALPHA = _number(
    "alpha",
    "What is left of a Gram's elements off the diagonal; less is more robust.",
    default=0.9,
    search=(0.1, 0.98),
    at_most=1.0,
    by_ratio=False,
)
_FILTER = ParamSpec(
    name="filter",
    kind=ParamKind.CHOICE,
    default="exponential",
    options=("exponential", "tikhonov", "landweber", "top_k"),
    about="How far each direction goes from the sum of deltas (f = 0) to the minimiser (f = 1).",
)
_ANCHOR = ParamSpec(
    name="anchor",
    kind=ParamKind.CHOICE,
    default="task_arithmetic",
    options=("task_arithmetic", "ties", "tsv_m", "swudi"),
    about="The merge that the prior is centred on; other settings than weight, density and scale are its defaults.",
)
_GRAMS = ParamSpec(
    name="grams",
    kind=ParamKind.CHOICE,
    default="deltas",
    options=("deltas", "data", "mixed"),
    about="Where the Grams come from: di^T di / |di|^2, the recipe's artifact `grams`, or both, of trace 1.",
)

SPECS = (
    OperatorSpec(
        name="regmean",
        degree=0,
        formula="W = W0 + sum(wi di Gi) sum(wi Gi)^-1; Gi from the artifact `grams`, or di^T di / |di|^2",
        params=(_vote("How much each expert's inputs count; only ratios matter."), _ALPHA),
    ),
    OperatorSpec(
        name="swudi",
        degree=None,
        formula="W = W0 + scale * (S + (D C^-1 - S) f(C)); S = sum(wi di), Gi = di^T di / |di|^2, "
        "C = sum(wi Gi), D = sum(wi di Gi)",
        params=(
            _vote("How much each expert's delta counts."),
            _FILTER,
            _number(
                "time",
                "Of `exponential`: f = 1 - exp(-time c).",
                default=300.0,
                search=(10.0, 1e4),
                when=("filter", "exponential"),
            ),
            _number(
                "ridge",
                "Of `tikhonov`: f = c / (c + ridge).",
                default=0.01,
                search=(1e-4, 1.0),
                when=("filter", "tikhonov"),
            ),
            _number(
                "steps",
                "Of `landweber`: f = 1 - (1 - 0.9 c / max(c))^steps.",
                default=150.0,
                search=(10.0, 1000.0),
                when=("filter", "landweber"),
            ),
            _number(
                "ratio",
                "Of `top_k`: the part of the columns' directions, largest first, with f = 1.",
                default=0.65,
                search=(0.1, 1.0),
                at_most=1.0,
                by_ratio=False,
                when=("filter", "top_k"),
            ),
            scale("On the merged delta; of what is no projection, on the mean of the weighted deltas."),
        ),
    ),
    OperatorSpec(
        name="bmm",
        degree=None,
        formula="W = W0 + scale * (sum(wi di Gi) + l A) (sum(wi Gi) + l I)^-1; A the anchor's delta, "
        "l = lambda * the mean eigenvalue of sum(wi Gi)",
        params=(
            _vote("How much each expert counts, in the anchor and in the regression."),
            _ANCHOR,
            _number(
                "lambda",
                "How strongly the anchor holds: 0 is the minimiser nearest to it, infinity the anchor.",
                default=1.0,
                search=(1e-3, 1e3),
            ),
            _GRAMS,
            _number(
                "eta",
                "Of `mixed` Grams: the data's part.",
                default=0.5,
                search=(0.0, 1.0),
                at_most=1.0,
                by_ratio=False,
                when=("grams", "mixed"),
            ),
            replace(
                density("Of the anchor `ties`: share of each delta's largest elements that is kept."),
                when=("anchor", "ties"),
            ),
            scale("On the merged delta; of what is no projection, on the anchor's."),
        ),
    ),
)
