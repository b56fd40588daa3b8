"""Operators on the factors of LoRA adapters."""

from collections.abc import Mapping
from dataclasses import replace

from crossbreed.errors import InputError
from crossbreed.recipes.operators.part import family
from crossbreed.recipes.operators.spec import DENSITY_GRID, OperatorSpec, ParamKind, ParamSpec, weight

PARTS = family(
    "factors",
    OperatorSpec(
        name="lora_factors",
        paper="arXiv 2307.13269 (LoraHub), arXiv 2509.12951 (Evo-Merging)",
        differs="The papers' code applies the scale alpha / r of one adapter to all; here each adapter's own is in its "
        "si, which is the same if they are equal. An adapter that does not change a tensor has no part in it. Weights "
        "are taken as they are, without the square roots of PEFT's `linear` combination.",
        formula="W = W0 + sum(wi si Bi) sum(wi ti Ai); ti keeps the largest elements of Ai, si = alpha / r",
        degree=None,
        mixes_factors=True,
        params=(
            replace(
                weight(
                    ParamKind.EXPERT,
                    "Weight of each adapter, on both of its factors: squared in its own delta, and in products of one "
                    "adapter's B with another's A. With all signs turned the merge is the same.",
                ),
                search=(-1.5, 1.5),
            ),
            ParamSpec(
                name="density",
                kind=ParamKind.EXPERT,
                default=1.0,
                search=(0.0, 1.0),
                grid=DENSITY_GRID,
                at_least=0.0,
                at_most=1.0,
                about="Share of the elements of each adapter's A, tensor by tensor, that is kept: the largest.",
            ),
        ),
    ),
    check="check",
)


def check_factors(operator: str, tensor: str, ranks: Mapping[str, int | None]) -> None:
    """Refuses experts whose factors of a tensor cannot be added.

    Args:
        operator: The operator's name.
        tensor: The tensor's name.
        ranks: Expert that changes the tensor -> rank of its factors; None: it is a full checkpoint.

    Raises:
        InputError: one has no factors, or the ranks differ.
    """
    for name, rank in ranks.items():
        if rank is None:
            raise InputError(
                f"`{operator}` adds the factors of LoRA adapters, and expert `{name}` has none",
                expected="LoRA adapters of one rank",
                got=f"`{name}` is a full checkpoint",
                where=f"`{tensor}`",
                fix="name the adapter that it was merged from, or use an operator on deltas, such as `task_arithmetic`",
            )
    if len(set(ranks.values())) > 1:
        raise InputError(
            f"`{operator}` adds the factors of LoRA adapters, and their ranks differ",
            expected="LoRA adapters of one rank",
            got=", ".join(f"`{name}` {rank}" for name, rank in ranks.items()),
            where=f"`{tensor}`",
            fix="use adapters of one rank, or an operator on deltas, such as `task_arithmetic`",
        )
