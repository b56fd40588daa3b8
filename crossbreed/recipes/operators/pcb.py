"""Operators in which elements compete within an expert, and between experts."""

from dataclasses import replace

from crossbreed.recipes.operators.part import family
from crossbreed.recipes.operators.spec import OperatorSpec, ParamKind, ParamSpec, weight

_RATIO = ParamSpec(
    name="ratio",
    kind=ParamKind.SCALAR,
    default=0.1,
    search=(0.02, 0.3),
    log_scale=True,
    above=0.0,
    at_most=1.0,
    about="Share of each expert's elements that win the competition.",
)
_SCOPE = ParamSpec(
    name="scope",
    kind=ParamKind.CHOICE,
    default="model",
    options=("tensor", "model"),
    about="Whether elements compete within their tensor or, as in the paper, within the whole model.",
)

PARTS = family(
    "pcb",
    OperatorSpec(
        name="pcb",
        paper="arXiv 2410.02396",
        formula="W = W0 + sum(wi si di) / sum(si); si is di's score in the competition, or 0 if not among the highest",
        params=(
            replace(weight(ParamKind.EXPERT, "Weight of each expert's share."), search=(0.0, 2.0)),
            _RATIO,
            _SCOPE,
        ),
    ),
)
