"""The layers of a recipe of another depth than the base: a path, step by step (docs/layer_paths.md).

A step is `[source, layer, scale]`. A layer of the base is taken as the recipe's rules merge it, so that the steps
`[base, 0, 1.0], [base, 1, 1.0], ...` are the recipe without `layers`; a layer of an expert is taken as it is. The scale
multiplies the hidden state that the layer reads and passes on.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from crossbreed.errors import InputError
from crossbreed.parsing import any_of, shown, suggestion
from crossbreed.types import LayerStep

SCALES = (1e-3, 1e3)
"""The smallest and largest scale of a step."""
_MOST_LAYERS = 10_000


def parse_layers(value: Any, sources: Mapping[str, str], *, where: str) -> tuple[LayerStep, ...]:
    """Returns the steps of a recipe.

    Args:
        value: What stands under `layers`.
        sources: The recipe's.
        where: The file, for errors.

    Raises:
        InputError: it is no list of steps over these sources; the message names the first that is none.
    """
    where = f"{where}, layers"
    if not isinstance(value, list | tuple) or len(value) > _MOST_LAYERS:
        raise InputError(
            "`layers` is not a list of steps",
            expected=f"[[SOURCE, LAYER, SCALE], ...], at most {_MOST_LAYERS:,}",
            got=shown(value),
            where=where,
            fix="for all layers of the base in their order, leave `layers` out",
        )
    return tuple(_step(step, sources, where=f"{where}[{index}]") for index, step in enumerate(value))


def _step(value: Any, sources: Mapping[str, str], *, where: str) -> LayerStep:
    expected = "[SOURCE, LAYER, SCALE], for example [base, 0, 1.0]"
    if not isinstance(value, list | tuple) or len(value) != 3:
        raise InputError("a step of `layers` has not three parts", expected=expected, got=shown(value), where=where)
    source, number, scale = value
    if not isinstance(source, str) or source not in sources:
        raise InputError(
            "a step of `layers` is of no source of the recipe",
            expected=any_of(sources),
            got=shown(source),
            where=where,
            fix=suggestion(source, sources),
        )
    if type(number) is not int or number < 0:
        raise InputError(
            "the layer of a step is not a number from 0 up", expected=expected, got=shown(number), where=where
        )
    low, high = SCALES
    if isinstance(scale, bool) or not isinstance(scale, int | float) or not low <= scale <= high:
        raise InputError(
            "the scale of a step is out of range",
            expected=f"a number from {low:g} to {high:g}: a norm undoes positive factors alone",
            got=shown(scale),
            where=where,
            fix="write 1.0 for a layer that reads the hidden state as it is",
        )
    return source, number, float(scale)


def output_factors(layers: Sequence[LayerStep]) -> Iterator[float]:
    """Yields, for each step, the factor on what its layer adds to the residual stream.

    It is one over the product of all scales so far. Divided by that product, the hidden state is never scaled itself,
    and the norms, which take no notice of a positive factor, give the layers the same inputs (docs/layer_paths.md).

    >>> list(output_factors([("base", 0, 1.0), ("sums", 1, 0.5), ("base", 2, 2.0)]))
    [1.0, 2.0, 1.0]
    """
    product = 1.0
    for _, _, scale in layers:
        product *= scale
        yield 1 / product if product else math.inf


def layers_text(layers: Sequence[LayerStep]) -> str:
    """Returns the steps in words, runs of consecutive layers together.

    >>> layers_text([("base", 0, 1.0), ("base", 1, 1.0), ("sums", 1, 0.5), ("base", 2, 1.0)])
    'base 0-1, sums 1 (x 0.5), base 2'
    """
    runs: list[tuple[str, int, int, float]] = []
    for source, number, scale in layers:
        if runs and runs[-1][0] == source and runs[-1][2] + 1 == number and scale == 1.0:
            runs[-1] = (*runs[-1][:2], number, runs[-1][3])
        else:
            runs.append((source, number, number, scale))
    return ", ".join(
        f"{source} {first}" + (f"-{last}" if last > first else "") + (f" (x {scale:g})" if scale != 1 else "")
        for source, first, last, scale in runs
    )
