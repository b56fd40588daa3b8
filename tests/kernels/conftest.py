"""A base and six experts on disk: small enough to be merged a thousand times, with everything that can be odd."""

from pathlib import Path

import pytest
import torch
from merges import COUNTER, changed, opened, write_weights
from regressions import noise
from safetensors.torch import load_file

from crossbreed.kernels.artifacts.input_grams import InputGrams, InputGramSums
from crossbreed.sources import ModuleType, Sources, module_of, open_sources
from crossbreed.testing.toys import make_adapter, make_checkpoint


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Base; full experts `a`, `b`, `mlp` (changes the MLP alone); adapters `p`, `q`; `p_dense`, p's fp32 checkpoint."""
    root = tmp_path_factory.mktemp("kernels")
    plain = make_checkpoint(root / "plain", num_layers=1)
    weights = load_file(plain / "model.safetensors") | {COUNTER: torch.arange(5)}
    base = write_weights(root / "base", like=plain, weights=weights)
    paths = {
        "base": base,
        "a": write_weights(root / "a", like=base, weights=changed(weights, seed=1)),
        "b": write_weights(root / "b", like=base, weights=changed(weights, seed=2)),
        "mlp": write_weights(root / "mlp", like=base, weights=changed(weights, seed=3, pattern="mlp")),
        "p": make_adapter(root / "p", base=base, seed=4),
        "q": make_adapter(root / "q", base=base, seed=5, rank=8, rslora=True),
    }
    adapter = open_sources(str(base), {"p": str(paths["p"])}).experts["p"]
    dense = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in weights.items()}
    for name in adapter.touched:
        low = adapter.factors(name)
        dense[name] = dense[name] + low.scale * low.b_MR @ low.a_RN
    return paths | {"p_dense": write_weights(root / "p_dense", like=base, weights=dense)}


@pytest.fixture(scope="session")
def sources(models: dict[str, Path]) -> Sources:
    """The base with experts a, b, mlp, p and q."""
    return opened(models, {name: name for name in ("a", "b", "mlp", "p", "q")})


@pytest.fixture(scope="module")
def grams(sources: Sources, tmp_path_factory: pytest.TempPathFactory) -> InputGrams:
    """Of every expert and projection, from inputs that differ between experts; with fewer tokens than columns."""
    sums = InputGramSums()
    for seed, (_, expert) in enumerate(sorted(sources.experts.items())):
        for name, info in sources.base.tensors.items():
            if len(info.shape) == 2 and module_of(name) is not ModuleType.EMBEDDING:
                for batch in range(2):
                    sums.add(expert.hash, name, noise(2, 40, info.shape[1], seed=10 * seed + batch))
    return sums.write(tmp_path_factory.mktemp("grams") / "grams.safetensors")
