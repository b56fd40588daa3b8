"""Recipes: descriptions of merges, as data. `grammar` reads and writes them, `operators` declares the operators.

`named` contains the recipes of the literature that need no operator of their own.
"""

from crossbreed.recipes.grammar import (
    DTYPES,
    dump_recipe,
    load_recipe,
    parse_recipe,
    require_matches,
    require_weights,
    rule_finder,
    weights_cancel,
)

__all__ = [
    "DTYPES",
    "dump_recipe",
    "load_recipe",
    "parse_recipe",
    "require_matches",
    "require_weights",
    "rule_finder",
    "weights_cancel",
]
