"""A recipe of a mergekit configuration has patterns, not the names of all tensors."""

from pathlib import Path

import pytest
import yaml

from crossbreed.mergekit import read_config
from crossbreed.mergekit.recipe import recipe_of
from crossbreed.recipes import dump_recipe
from crossbreed.sources import open_sources
from crossbreed.testing.toys import make_checkpoint, make_expert

LAYERS = 16


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    base = make_checkpoint(tmp_path_factory.mktemp("deep") / "base", num_layers=LAYERS)
    return {"base": str(base), "expert": str(make_expert(base.with_name("expert"), base=base, seed=1))}


FILTERS = {
    "kinds of module": [{"filter": "self_attn", "value": 0.3}, {"filter": "mlp", "value": 0.7}, {"value": 0.5}],
    "matrices": [{"filter": "down_proj", "value": 0.3}, {"filter": "q_proj", "value": 0.9}, {"value": 0.5}],
    "layers": [{"filter": "layers.1", "value": 0.2}, {"value": 1.0}],
    "no layer": [{"filter": "embed_tokens", "value": 0.2}, {"value": 1.0}],
}


@pytest.mark.parametrize("weight", FILTERS.values(), ids=FILTERS)
def test_a_pattern_is_shorter_than_the_names_that_it_matches(
    weight: list[dict[str, object]], models: dict[str, str], tmp_path: Path
) -> None:
    config = {
        "merge_method": "task_arithmetic",
        "base_model": models["base"],
        "dtype": "float32",
        "models": [{"model": models["expert"], "parameters": {"weight": weight}}],
    }
    (tmp_path / "merge.yml").write_text(yaml.safe_dump(config))
    found = read_config(tmp_path / "merge.yml")
    assert found is not None
    recipe, sources = recipe_of(found, open_sources)
    assert len(sources.base.tensors) > 9 * LAYERS
    assert len(recipe.rules) == len(weight)
    assert max(len(rule.match) for rule in recipe.rules) < 150
    assert len(dump_recipe(recipe)) < 1000
