"""Elements that are selected by what the experts, or one of them, say there."""

from dataclasses import replace

from crossbreed.operators.spec import OperatorSpec, ParamKind, ParamSpec, scale, weight

_SELECT_TOPK = ParamSpec(
    name="select_topk",
    kind=ParamKind.SCALAR,
    default=1.0,
    search=(0.05, 1.0),
    by_ratio=True,
    above=0.0,
    at_most=1.0,
    about="Share of the elements on which the experts differ that is kept: those on which they differ most.",
)
_THRESHOLD = ParamSpec(
    name="threshold",
    kind=ParamKind.SCALAR,
    default=1.5,
    search=(0.0, 3.0),
    about="How many interquartile ranges above the median an element's importance must be.",
)
_T = ParamSpec(
    name="t",
    kind=ParamKind.SCALAR,
    default=1e-4,
    required=True,
    search=(1e-5, 1e-2),
    by_ratio=True,
    at_least=0.0,
    about="How far an element may move from the base.",
)
_EPSILON = ParamSpec(
    name="epsilon",
    kind=ParamKind.SCALAR,
    default=1e-5,
    search=(1e-6, 1e-3),
    by_ratio=True,
    above=0.0,
    about="An element whose delta is no larger counts as unchanged.",
)
_R = ParamSpec(
    name="r",
    kind=ParamKind.SCALAR,
    default=0.1,
    search=(0.0, 1.0),
    at_least=0.0,
    about="How much what an expert alone changed is enlarged for each element that it shares.",
)
_ALPHA = ParamSpec(
    name="alpha",
    kind=ParamKind.SCALAR,
    default=0.2,
    search=(0.0, 1.0),
    at_least=0.0,
    about="Bound on the ratio of shared to unique elements that `r` multiplies.",
)
_RATIO = ParamSpec(
    name="ratio",
    kind=ParamKind.SCALAR,
    default=0.1,
    search=(0.02, 0.3),
    by_ratio=True,
    above=0.0,
    at_most=1.0,
    about="Share of each expert's elements that wins the competition.",
)
_SCOPE = ParamSpec(
    name="scope",
    kind=ParamKind.CHOICE,
    default="model",
    options=("tensor", "model"),
    about="Whether elements compete within their tensor, or within the whole model as in the paper.",
)
_TALL_LAMBDA = ParamSpec(
    name="tall_lambda",
    kind=ParamKind.EXPERT,
    default=0.4,
    search=(0.2, 0.6),
    above=0.0,
    about="An expert votes for an element where it is at least this much of what all the others do to it.",
)
_K = ParamSpec(
    name="k",
    kind=ParamKind.SCALAR,
    default=2,
    at_least=0,
    integer=True,
    about="Votes that keep an element; 0 keeps all.",
)
_RAM = "W = W0 + per element, the mean of the di that are larger than epsilon"

SPECS = (
    OperatorSpec(
        name="sce",
        formula="W = W0 + mean, by energy, of the di that agree with the sign of their sum, where experts differ most",
        params=(_SELECT_TOPK,),
    ),
    OperatorSpec(
        name="arcee_fusion",
        formula="W = W0 + scale * d1 where it is important: |d1| times the divergence of its row's softmax",
        params=(_THRESHOLD, scale("On what is taken from the expert.")),
        num_experts=(1, 1),
    ),
    OperatorSpec(
        name="nearswap",
        formula="W = W0 + d1 cut to [-t, t]",
        params=(_T,),
        num_experts=(1, 1),
    ),
    OperatorSpec(name="ram", formula=_RAM, params=(_EPSILON,)),
    OperatorSpec(
        name="ramplus",
        formula=f"{_RAM}; a lone one times 1 + r min(shared / unique, alpha)",
        params=(_EPSILON, _R, _ALPHA),
    ),
    OperatorSpec(
        name="pcb",
        formula="W = W0 + sum(wi si di) / sum(si); si is di's score in the competition, 0 unless among the highest",
        params=(
            replace(weight(ParamKind.EXPERT, "How much of each expert's share."), search=(0.0, 2.0)),
            _RATIO,
            _SCOPE,
        ),
    ),
    OperatorSpec(
        name="consensus",
        formula="W = W0 + scale sum(wi di) where at least k experts vote: |wi di| >= tall_lambda |what the others add|",
        sums_deltas=True,
        params=(
            weight(ParamKind.EXPERT, "How much of each expert's delta; it votes with as much."),
            _TALL_LAMBDA,
            _K,
            scale("On the sum of deltas."),
        ),
    ),
)
