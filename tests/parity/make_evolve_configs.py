"""Writes the configurations that mergekit 0.1.5 makes of random genotypes: call it without arguments."""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import yaml

CASES: dict[str, dict[str, Any]] = yaml.safe_load(Path(__file__).with_name("evolve_cases.yml").read_text())
GOLDEN = Path(__file__).with_name("evolve_configs.json")
NUM_LAYERS, NUM_GENOTYPES = 4, 2


def configs() -> dict[str, list[dict[str, Any]]]:
    """Returns case -> genotypes, flat, with their configurations; models are called by their names."""
    from mergekit.evo.genome import ModelGenome, ModelGenomeDefinition

    found = {}
    with tempfile.TemporaryDirectory() as root:
        for name in ("base", "a", "b", "c"):
            (Path(root) / name).mkdir()
            shape = {"model_type": "llama", "num_hidden_layers": NUM_LAYERS, "architectures": ["LlamaForCausalLM"]}
            (Path(root) / name / "config.json").write_text(json.dumps(shape))
        for number, (case, genome) in enumerate(CASES.items()):
            placed = genome | {"models": [f"{root}/{name}" for name in genome["models"]]}
            if "base_model" in genome:
                placed["base_model"] = f"{root}/{genome['base_model']}"
            model = ModelGenome(ModelGenomeDefinition.model_validate(placed))
            shape = tuple(model.initial_genotype().shape)
            rng = np.random.default_rng(number)
            found[case] = [
                {
                    "genotype": genotype.ravel().tolist(),
                    "config": yaml.safe_load(model.genotype_merge_config(genotype).to_yaml().replace(f"{root}/", "")),
                }
                for genotype in (np.round(rng.normal(0.4, 0.5, shape), 3) for _ in range(NUM_GENOTYPES))
            ]
    return found


if __name__ == "__main__":
    text = json.dumps(configs(), indent=None)
    sys.stdout.write(text) if "--print" in sys.argv else GOLDEN.write_text(text + "\n")
