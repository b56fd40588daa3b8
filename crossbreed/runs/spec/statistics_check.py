"""Checks that a spec makes a regression whose statistics its searches can read."""

from collections.abc import Iterator, Sequence

from crossbreed.config import Config
from crossbreed.errors import InputError
from crossbreed.recipes.operators import OPERATOR_SPECS, OPERATORS
from crossbreed.runs.spec.regression import RegressionConfig
from crossbreed.search_spaces import SpaceConfig


def reads_statistics(spaces: Sequence[SpaceConfig]) -> bool:
    """Returns whether an operator of some space reads the statistics of a regression's walk."""
    return any(_readers(spaces))


def why_no_statistics(
    spaces: Sequence[SpaceConfig], artifact: RegressionConfig | None, stages: Sequence[Config]
) -> Iterator[InputError]:
    """Yields why a search has no statistics to read.

    Args:
        spaces: The spaces that are searched, as far as they are valid.
        artifact: The regression as an artifact.
        stages: The stages, the first of which may be a regression.
    """
    readers = [*_readers(spaces)]
    if not readers:
        return
    first = stages[0] if stages else None
    config, where = (first, "stages.0") if isinstance(first, RegressionConfig) else (artifact, "artifacts.regression")
    if config is None:
        yield InputError(
            f"`{readers[0]}` reads the statistics of a regression, and the run makes none",
            expected="a regression, as a first stage or an artifact",
            where="artifacts",
            fix="add the stage `{kind: regression, items: 48}`, or `artifacts: {regression: {items: 48}}`",
        )
        return
    for key, value, needed, why in (
        ("passes", config.passes, 1, "later walks have another anchor"),
        ("row_space", config.row_space, False, "they are of changes in any direction"),
        ("off_diagonal", config.off_diagonal, 1, "they are of whole Grams"),
        ("anchor_recipe", config.anchor_recipe, None, "they have an operator's anchor, of any scale"),
    ):
        if value != needed:
            yield InputError(
                f"`{readers[0]}` reads the statistics of a regression's one walk: {why}",
                expected=f"no `{key}`" if needed is None else f"{key}: {str(needed).lower()}",
                got=f"{key}: {value if needed is None else str(value).lower()}",
                where=f"{where}.{key}",
                fix=f"remove `{key}`, or search in another space around the regression, such as `scales`",
            )


def _readers(spaces: Sequence[SpaceConfig]) -> Iterator[str]:
    names = (name for space in spaces for name in space.operators)
    return (name for name in names if name in OPERATORS and OPERATOR_SPECS[name].reads_statistics)
