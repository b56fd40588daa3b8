"""Deltas that are thinned out before they are added, and may have to agree on a sign."""

from crossbreed.operators.spec import (
    DENSITY_GRID,
    Limit,
    OperatorSpec,
    ParamKind,
    ParamSpec,
    density,
    normalize,
    scale,
    weight,
)

_WEIGHT = weight(ParamKind.EXPERT, "Votes and share of each expert's delta.")
_SUMMAND = weight(ParamKind.EXPERT, "How much of each expert's delta; negative unlearns.")
_LARGEST = density("Share of each delta's largest elements that is kept.")
_RANDOM = density("Probability with which an element is kept.")
_BETWEEN = density("Share of each delta's elements that is kept, below the outliers.")
_SCALE = scale("On the merged delta; mergekit calls it lambda.")
_CONSENSUS = ParamSpec(
    name="consensus",
    kind=ParamKind.CHOICE,
    default="sum",
    options=("sum", "count"),
    about="Whether signs are elected by the sum of the weighted deltas or by counting their signs.",
)
_PICK = ParamSpec(
    name="pick",
    kind=ParamKind.CHOICE,
    default="all",
    options=("all", "largest"),
    about="Whether all that agree are merged, or the largest alone.",
)
_TRIM = ParamSpec(
    name="trim",
    kind=ParamKind.CHOICE,
    default="tensor",
    options=("tensor", "model"),
    about="Whether the density is kept of each tensor, or of the whole model as in the paper.",
)
_SEED = ParamSpec(
    name="seed",
    kind=ParamKind.SCALAR,
    default=0,
    at_least=0,
    at_most=2**32 - 1,
    integer=True,
    about="Of the random masks; they are nested in density and do not depend on the order of experts.",
)
_RESCALE = ParamSpec(
    name="rescale",
    kind=ParamKind.FLAG,
    default=True,
    about="Divide what is kept by the probability of keeping it.",
)
_GAMMA = ParamSpec(
    name="gamma",
    kind=ParamKind.EXPERT,
    default=0.01,
    search=(0.0, 0.1),
    grid=DENSITY_GRID,
    at_least=0.0,
    below=1.0,
    about="Share of each delta's largest elements that is dropped as outliers.",
)
_EPSILON = ParamSpec(
    name="epsilon",
    kind=ParamKind.EXPERT,
    default=0.15,
    search=(0.0, 1.0),
    at_least=0.0,
    below=1.0,
    limit=Limit(
        by="density", of=lambda d: 1.0 if d >= 1 else min(d, 1 - d), about="less than density and than 1 - density"
    ),
    about="Half the difference in probability between a row's largest and smallest element.",
)


def _thinned(name: str, formula: str, elects: bool, normalizes: bool, *params: ParamSpec) -> OperatorSpec:
    own = (_WEIGHT if elects else _SUMMAND, *params, _SCALE, normalize(default=normalizes))
    return OperatorSpec(name=name, formula=formula, sums_deltas=True, params=own)


_SUM = "W = W0 + scale sum(wi mi di)"
_ELECTION = "W = W0 + scale * (sum or mean of the wi mi di that agree with the elected sign)"

SPECS = (
    _thinned("ties", f"{_ELECTION}; mi keeps the largest", True, True, _LARGEST, _CONSENSUS, _PICK, _TRIM),
    _thinned("dare_linear", f"{_SUM}; mi drops at random", False, False, _RANDOM, _RESCALE, _SEED),
    _thinned("dare_ties", f"{_ELECTION}; mi drops at random", True, False, _RANDOM, _RESCALE, _SEED),
    _thinned("della_linear", f"{_SUM}; mi drops at random, by rank", False, False, _RANDOM, _EPSILON, _RESCALE, _SEED),
    _thinned("della", f"{_ELECTION}; mi drops at random, by rank", True, True, _RANDOM, _EPSILON, _RESCALE, _SEED),
    _thinned("breadcrumbs", f"{_SUM}; mi drops outliers and the smallest", False, False, _BETWEEN, _GAMMA),
    _thinned("breadcrumbs_ties", f"{_ELECTION}; mi drops outliers and the smallest", True, False, _BETWEEN, _GAMMA),
)
