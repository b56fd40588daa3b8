"""The space of mergekit-evolve's genomes makes the merges that mergekit-evolve makes of the same genotypes."""

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from make_evolve_configs import CASES, GOLDEN
from safetensors.torch import load_file
from test_mergekit import RUN, compare

from crossbreed.mergekit.config import ModelReference
from crossbreed.mergekit.plan import plan_merge
from crossbreed.mergekit.reading import parse_config
from crossbreed.mergekit.recipe import Naming, to_recipe
from crossbreed.recipes import rule_finder
from crossbreed.search_spaces import SpaceInputs
from crossbreed.search_spaces.mergekit_evolve import MergekitEvolveConfig, MergekitEvolveSpace
from crossbreed.sources import Sources, open_sources
from crossbreed.testing.toys import make_checkpoint, make_expert

pytestmark = pytest.mark.parity
CONFIGS: dict[str, list[dict[str, Any]]] = json.loads(GOLDEN.read_text())
RANDOM = [case for case, genome in CASES.items() if genome["merge_method"] == "dare_ties"]
SLERP = [case for case, genome in CASES.items() if genome["merge_method"] == "slerp"]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("genomes")
    base = make_checkpoint(root / "base")
    experts = {name: make_expert(root / name, base=base, seed=seed) for seed, name in enumerate("abc", start=1)}
    return {name: str(folder) for name, folder in {"base": base, **experts}.items()}


def opened(case: str, models: dict[str, str]) -> Sources:
    used = [name for name in CASES[case]["models"] if name != "base"]
    return open_sources(models["base"], {name: models[name] for name in used})


def space_of(case: str, sources: Sources) -> MergekitEvolveSpace:
    genome = CASES[case]
    told = {
        key: value for key, value in genome.items() if key not in ("merge_method", "base_model", "tokenizer_source")
    }
    config = MergekitEvolveConfig.model_validate({"method": genome["merge_method"], **told})
    return MergekitEvolveSpace(config, SpaceInputs(structure=sources.structure, dtype="bfloat16"))


@pytest.mark.parametrize("case", [case for case in CASES if case not in SLERP])
@pytest.mark.parametrize("number", [0, 1])
def test_a_genotype_has_mergekits_recipe(case: str, number: int, models: dict[str, str]) -> None:
    sources, known = opened(case, models), CONFIGS[case][number]
    theirs = parse_config(known["config"], where="mergekit's")
    plan = plan_merge(theirs, dict.fromkeys(theirs.models, sources.structure))
    experts = {ModelReference(model=name): name for name in sources.experts}
    naming = Naming(base=ModelReference(model="base"), experts=experts)
    wanted = rule_finder(to_recipe(plan, naming, sources.structure.hashes, "bfloat16"))
    space = space_of(case, sources)
    found = rule_finder(space.decode(space.point(np.array(known["genotype"]))))
    for name in sources.structure.tensors:
        mine, other = found(name), wanted(name)
        assert mine is not None
        assert other is not None
        assert (mine.operator, mine.params) == (other.operator, other.params), name


@pytest.mark.slow
@pytest.mark.skipif(find_spec("mergekit") is None, reason="mergekit 0.1.5 is not installed (pip install --no-deps)")
def test_the_recorded_configurations_are_mergekits() -> None:
    script = Path(__file__).with_name("make_evolve_configs.py")
    done = subprocess.run([sys.executable, str(script), "--print"], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1]) == CONFIGS


@pytest.mark.slow
@pytest.mark.skipif(find_spec("mergekit") is None, reason="mergekit 0.1.5 is not installed (pip install --no-deps)")
def test_the_merges_are_mergekits(models: dict[str, str], tmp_path: Path) -> None:
    """Every genotype but those whose masks are drawn by chance; to an ulp, where mergekit computes in float32 too."""
    folders = {}
    for case in CASES:
        for number, known in enumerate(CONFIGS[case] if case not in RANDOM else ()):
            folder = folders[case, number] = tmp_path / f"{case}-{number}"
            folder.mkdir()
            (folder / "config.yml").write_text(yaml.safe_dump(_placed(known["config"], models)))
    command = [sys.executable, "-c", RUN, str(tmp_path / "cache"), *map(str, folders.values())]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    for (case, number), folder in folders.items():
        sources = opened(case, models)
        space = space_of(case, sources)
        recipe = space.decode(space.point(np.array(CONFIGS[case][number]["genotype"])))
        compare(recipe, sources, load_file(folder / "out" / "model.safetensors"))


def _placed(config: Any, models: dict[str, str]) -> Any:
    """Returns a configuration of these folders, computed in float32 as recipes are, with all rows of embeddings."""
    if isinstance(config, list):
        return [_placed(one, models) for one in config]
    if not isinstance(config, dict):
        return config
    found = {key: _placed(value, models) for key, value in config.items() if key != "tokenizer_source"}
    found |= {key: models[config[key]] for key in ("model", "base_model") if key in config}
    return found | ({"dtype": "float32", "out_dtype": "bfloat16"} if "dtype" in config else {})
