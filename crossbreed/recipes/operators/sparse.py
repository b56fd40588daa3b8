"""Operators that sparsify deltas before adding them, some with an election of signs."""

from crossbreed.recipes.operators.part import family
from crossbreed.recipes.operators.spec import (
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

_WEIGHT = weight(ParamKind.EXPERT, "Weight of each expert's delta, in the election and in the sum.")
_SUMMAND = weight(ParamKind.EXPERT, "Weight of each expert's delta; negative weights unlearn.")
_LARGEST = density("Share of each delta's elements that is kept: the largest.")
_RANDOM = density("Probability with which an element is kept.")
_BETWEEN = density("Share of each delta's elements that is kept: the largest below the outliers.")
_SCALE = scale("Factor on the merged delta; mergekit's lambda.")
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
    about="Whether all agreeing elements are merged, or only the largest.",
)
_TRIM = ParamSpec(
    name="trim",
    kind=ParamKind.CHOICE,
    default="tensor",
    options=("tensor", "model"),
    about="Whether the density applies to each tensor, or to the whole model as in the paper.",
)
_SEED = ParamSpec(
    name="seed",
    kind=ParamKind.SCALAR,
    default=0,
    at_least=0,
    at_most=2**32 - 1,
    integer=True,
    about="Seed of the random masks, which are nested in density and independent of the order of experts.",
)
_RESCALE = ParamSpec(
    name="rescale",
    kind=ParamKind.FLAG,
    default=True,
    about="Divide kept elements by their probability of being kept.",
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
        by="density", of=lambda d: 1.0 if d >= 1 else min(d, 1 - d), about="less than both density and 1 - density"
    ),
    about="Half the difference in probability between a row's largest and smallest element.",
)


def _thinned(name: str, paper: str, formula: str, elects: bool, normalizes: bool, *params: ParamSpec) -> OperatorSpec:
    own = (_WEIGHT if elects else _SUMMAND, *params, _SCALE, normalize(default=normalizes))
    return OperatorSpec(name=name, paper=paper, formula=formula, sums_deltas=True, params=own)


_TIES, _DARE, _DELLA, _BREADCRUMBS = "arXiv 2306.01708", "arXiv 2311.03099", "arXiv 2406.11617", "arXiv 2312.06795"
_SUM = "W = W0 + scale sum(wi mi di)"
_ELECTION = "W = W0 + scale * (sum or mean of the wi mi di that agree with the elected sign)"

PARTS = family(
    "sparse",
    _thinned("ties", _TIES, f"{_ELECTION}; mi keeps the largest", True, True, _LARGEST, _CONSENSUS, _PICK, _TRIM),
    _thinned("dare_linear", _DARE, f"{_SUM}; mi drops at random", False, False, _RANDOM, _RESCALE, _SEED),
    _thinned("dare_ties", _DARE, f"{_ELECTION}; mi drops at random", True, False, _RANDOM, _RESCALE, _SEED),
    _thinned(
        "della_linear", _DELLA, f"{_SUM}; mi drops at random, by rank", False, False, _RANDOM, _EPSILON, _RESCALE, _SEED
    ),
    _thinned(
        "della", _DELLA, f"{_ELECTION}; mi drops at random, by rank", True, True, _RANDOM, _EPSILON, _RESCALE, _SEED
    ),
    _thinned(
        "breadcrumbs", _BREADCRUMBS, f"{_SUM}; mi drops outliers and the smallest", False, False, _BETWEEN, _GAMMA
    ),
    _thinned(
        "breadcrumbs_ties",
        _BREADCRUMBS,
        f"{_ELECTION}; mi drops outliers and the smallest",
        True,
        False,
        _BETWEEN,
        _GAMMA,
    ),
)
