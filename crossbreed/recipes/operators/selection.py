"""Operators that select elements by their values in one or several experts."""

from crossbreed.recipes.operators.part import family
from crossbreed.recipes.operators.spec import OperatorSpec, ParamKind, ParamSpec, scale, weight

_SELECT_TOPK = ParamSpec(
    name="select_topk",
    kind=ParamKind.SCALAR,
    default=1.0,
    search=(0.05, 1.0),
    log_scale=True,
    above=0.0,
    at_most=1.0,
    about="Share of the elements in which experts differ that is kept: those with the largest difference.",
)
_THRESHOLD = ParamSpec(
    name="threshold",
    kind=ParamKind.SCALAR,
    default=1.5,
    search=(0.0, 3.0),
    about="Minimum importance of an element, in interquartile ranges above the median.",
)
_T = ParamSpec(
    name="t",
    kind=ParamKind.SCALAR,
    default=1e-4,
    required=True,
    search=(1e-5, 1e-2),
    log_scale=True,
    at_least=0.0,
    about="Maximum change of an element from the base.",
)
_EPSILON = ParamSpec(
    name="epsilon",
    kind=ParamKind.SCALAR,
    default=1e-5,
    search=(1e-6, 1e-3),
    log_scale=True,
    above=0.0,
    about="Largest delta of an element that counts as unchanged.",
)
_R = ParamSpec(
    name="r",
    kind=ParamKind.SCALAR,
    default=0.1,
    search=(0.0, 1.0),
    at_least=0.0,
    about="Amplification of elements that one expert alone changed, per ratio of shared to unique elements.",
)
_ALPHA = ParamSpec(
    name="alpha",
    kind=ParamKind.SCALAR,
    default=0.2,
    search=(0.0, 1.0),
    at_least=0.0,
    about="Upper bound of the ratio of shared to unique elements that `r` multiplies.",
)
_TALL_LAMBDA = ParamSpec(
    name="tall_lambda",
    kind=ParamKind.EXPERT,
    default=0.4,
    search=(0.2, 0.6),
    above=0.0,
    about="An expert votes for an element if its own change is at least this fraction of that of all others.",
)
_K = ParamSpec(
    name="k",
    kind=ParamKind.SCALAR,
    default=2,
    at_least=0,
    integer=True,
    about="Votes needed to keep an element; 0 keeps all.",
)
_RAM = "W = W0 + per element, the mean of the di that are larger than epsilon"

PARTS = family(
    "selection",
    OperatorSpec(
        name="sce",
        paper="arXiv 2408.07990",
        formula="W = W0 + energy-weighted mean of the di with the sign of their sum, where experts differ most",
        params=(_SELECT_TOPK,),
    ),
    OperatorSpec(
        name="arcee_fusion",
        formula="W = W0 + scale * d1 where it is important: |d1| times the divergence of its row's softmax",
        params=(_THRESHOLD, scale("Factor on the selected elements of the delta.")),
        num_experts=(1, 1),
    ),
    OperatorSpec(
        name="nearswap",
        formula="W = W0 + d1 clipped to [-t, t]",
        params=(_T,),
        num_experts=(1, 1),
    ),
    OperatorSpec(name="ram", paper="arXiv 2601.13572", formula=_RAM, params=(_EPSILON,)),
    OperatorSpec(
        name="ramplus",
        paper="arXiv 2601.13572",
        formula=f"{_RAM}; a single one times 1 + r min(shared / unique, alpha)",
        params=(_EPSILON, _R, _ALPHA),
    ),
    OperatorSpec(
        name="consensus",
        paper="arXiv 2405.07813",
        differs="The vote compares weighted deltas, |wi di| with the rest of the weighted sum; the paper's compares "
        "the deltas themselves. Both agree where all weights are 1.",
        formula="W = W0 + scale sum(wi di) where at least k experts vote: |wi di| >= tall_lambda |what the others add|",
        sums_deltas=True,
        params=(
            weight(ParamKind.EXPERT, "Weight of each expert's delta, in the vote too."),
            _TALL_LAMBDA,
            _K,
            scale("Factor on the sum of deltas."),
        ),
    ),
)
