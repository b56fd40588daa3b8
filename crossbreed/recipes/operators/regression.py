"""Operators that solve least squares over the experts' effects on their inputs."""

from dataclasses import replace

from crossbreed.recipes.operators.part import family
from crossbreed.recipes.operators.spec import OperatorSpec, ParamKind, ParamSpec, ReadsGrams, density, scale


def _vote(about: str) -> ParamSpec:
    """Returns a weight in a sum of squares; with negative weights, the sum would have no minimum."""
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
    log_scale: bool = True,
    only_if: tuple[str, str] | None = None,
) -> ParamSpec:
    return ParamSpec(
        name=name,
        kind=ParamKind.SCALAR,
        default=default,
        search=search,
        log_scale=log_scale,
        at_least=0.0,
        at_most=at_most,
        only_if=only_if,
        about=about,
    )


_ALPHA = _number(
    "alpha",
    "Factor on a Gram's off-diagonal elements; less is more robust.",
    default=0.9,
    search=(0.1, 0.98),
    at_most=1.0,
    log_scale=False,
)
_FILTER = ParamSpec(
    name="filter",
    kind=ParamKind.CHOICE,
    default="exponential",
    options=("exponential", "tikhonov", "landweber", "top_k"),
    about="Filter f, the fraction of the way from the sum of deltas (0) to the minimiser (1) in each direction.",
)
_ANCHOR = ParamSpec(
    name="anchor",
    kind=ParamKind.CHOICE,
    default="task_arithmetic",
    options=("task_arithmetic", "ties", "tsv_m", "swudi"),
    about="The merge on which the prior is centred; settings other than weight, density and scale are its defaults.",
)
_GRAMS = ParamSpec(
    name="grams",
    kind=ParamKind.CHOICE,
    default="deltas",
    options=("deltas", "data", "mixed"),
    about="The Grams: di^T di / |di|^2 (`deltas`), the recipe's artifact `grams` (`data`), or both, with trace 1.",
)

PARTS = family(
    "regression",
    OperatorSpec(
        name="regmean",
        by_inputs=True,
        paper="arXiv 2212.09849",
        differs="Without the artifact `grams` it takes the deltas' own Gram matrices in place of the inputs', which "
        "the paper does not.",
        degree=0,
        grams=ReadsGrams(needed=False),
        formula="W = W0 + sum(wi di Gi) sum(wi Gi)^-1; Gi from the artifact `grams`, or di^T di / |di|^2",
        params=(_vote("Weight of each expert's inputs; only ratios matter."), _ALPHA),
    ),
    OperatorSpec(
        name="swudi",
        by_inputs=True,
        paper="arXiv 2503.08099",
        degree=None,
        formula="W = W0 + scale * (S + (D C^-1 - S) f(C)); S = sum(wi di), Gi = di^T di / |di|^2, "
        "C = sum(wi Gi), D = sum(wi di Gi)",
        params=(
            _vote("Weight of each expert's delta."),
            _FILTER,
            _number(
                "time",
                "For `exponential`: f = 1 - exp(-time c).",
                default=300.0,
                search=(10.0, 1e4),
                only_if=("filter", "exponential"),
            ),
            _number(
                "ridge",
                "For `tikhonov`: f = c / (c + ridge).",
                default=0.01,
                search=(1e-4, 1.0),
                only_if=("filter", "tikhonov"),
            ),
            _number(
                "steps",
                "For `landweber`: f = 1 - (1 - 0.9 c / max(c))^steps.",
                default=150.0,
                search=(10.0, 1000.0),
                only_if=("filter", "landweber"),
            ),
            _number(
                "ratio",
                "For `top_k`: fraction of the columns' directions, largest first, with f = 1.",
                default=0.65,
                search=(0.1, 1.0),
                at_most=1.0,
                log_scale=False,
                only_if=("filter", "top_k"),
            ),
            scale("Factor on the merged delta, which for tensors other than projections is the mean of the wi di."),
        ),
    ),
    OperatorSpec(
        name="bmm",
        by_inputs=True,
        paper="arXiv 2605.12843",
        differs="Reconstructed from the paper's abstract, without its formulas: the least squares around an anchor, "
        "and lambda in units of the mean eigenvalue, are derived here.",
        degree=None,
        grams=ReadsGrams(needed=True, only_if=("grams", ("data", "mixed"))),
        formula="W = W0 + scale * (sum(wi di Gi) + l A) (sum(wi Gi) + l I)^-1; A the anchor's delta, "
        "l = lambda * the mean eigenvalue of sum(wi Gi)",
        params=(
            _vote("Weight of each expert, in the anchor and in the regression."),
            _ANCHOR,
            _number(
                "lambda",
                "Strength of the prior: 0 gives the minimiser nearest to the anchor, infinity the anchor.",
                default=1.0,
                search=(1e-3, 1e3),
            ),
            _GRAMS,
            _number(
                "eta",
                "For `mixed` Grams: the data's share.",
                default=0.5,
                search=(0.0, 1.0),
                at_most=1.0,
                log_scale=False,
                only_if=("grams", "mixed"),
            ),
            replace(
                density("For the anchor `ties`: share of each delta's elements that is kept, the largest."),
                only_if=("anchor", "ties"),
            ),
            scale("Factor on the merged delta, which for tensors other than projections is the anchor's."),
        ),
    ),
    check="check",
)
