"""A recipe as a table: what reports, cards and pages show of its coefficients."""

import pytest
from simulated import SOURCES

from crossbreed.runs.results.recipe_table import coefficient_map
from crossbreed.sources.structure import Structure, TensorInfo
from crossbreed.types import Recipe, Rule

NAMES = [
    f"model.layers.{i}.{m}.weight" for i in range(4) for m in ("self_attn.q_proj", "mlp.up_proj", "input_layernorm")
]
STRUCTURE = Structure(
    tensors={name: TensorInfo(shape=(2, 2), dtype="bfloat16") for name in [*NAMES, "model.embed_tokens.weight"]},
    touched={"sums": frozenset(NAMES[:6]), "french": frozenset(NAMES)},
    hashes=SOURCES,
    tied=True,
)


@pytest.fixture
def recipe() -> Recipe:
    return Recipe(
        base="base",
        sources=SOURCES,
        rules=(
            Rule(
                match=r"model\.layers\.[01]\..*",
                operator="ties",
                params={
                    "weight": {"sums": 0.5, "french": -0.2},
                    "density": {"sums": 0.3, "french": 0.6},
                    "scale": 0.5,
                    "normalize": False,
                    "consensus": "count",
                },
            ),
            Rule(match=r".*embed.*", operator="task_arithmetic", params={"weight": 1.0}),
            Rule(match=r".*", operator="linear", params={"weight": {"base": 0.2, "sums": 0.3, "french": 0.5}}),
        ),
    )


def test_coefficient_map_names_groups_and_knows_what_an_operator_has(recipe: Recipe) -> None:
    found = coefficient_map(recipe, STRUCTURE)
    assert found.groups == ("layers 0-1 · 3 kinds of module", "layers 2-3 · 3 kinds of module")
    assert found.operators == ("ties", "linear")  # nobody touches the embeddings: their rule says nothing
    assert found.sources == ("base", "sums", "french")
    assert found.values["weight"] == ((None, 0.5, -0.2), (0.2, 0.3, 0.5))
    assert found.values["density"] == ((None, 0.3, 0.6), (None, None, None))
    assert found.settings == {"scale": (0.5, None), "normalize": (False, None), "consensus": ("count", None)}


def test_a_base_without_a_weight_has_no_column() -> None:
    rule = Rule(match=r".*", operator="task_arithmetic", params={"weight": 0.5})
    found = coefficient_map(Recipe(base="base", sources=SOURCES, rules=(rule,)), STRUCTURE)
    assert (found.sources, found.values["weight"]) == (("sums", "french"), ((0.5, 0.5),))


def test_without_a_structure_rules_are_named_by_their_patterns(recipe: Recipe) -> None:
    found = coefficient_map(recipe, None)
    assert found.groups == ("model.layers.[01]..*", ".*embed.*", ".*")
    assert found.operators == ("ties", "task_arithmetic", "linear")
    assert found.values["weight"] == ((None, 0.5, -0.2), (None, 1.0, 1.0), (0.2, 0.3, 0.5))
