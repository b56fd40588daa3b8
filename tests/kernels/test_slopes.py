"""Slopes against their definition, with every delta made and every sum taken in fp64."""

import json
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from crossbreed.kernels import SourceCache, slopes
from crossbreed.sources import LowRank, Sources, open_sources
from crossbreed.testing.toys import make_adapter
from crossbreed.types import SlopeKind


@pytest.fixture(scope="module")
def sources(toy_base: Path, toy_experts: dict[str, Path], toy_adapters: dict[str, Path]) -> Sources:
    return open_sources(str(toy_base), {name: str(path) for name, path in {**toy_experts, **toy_adapters}.items()})


@pytest.fixture(scope="module")
def gradient(sources: Sources) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(info.shape, generator=generator) for name, info in sources.base.tensors.items()}


def weights_of(sources: Sources, expert: str, name: str) -> torch.Tensor:
    base = sources.base.tensor(name).double()
    source = sources.experts[expert]
    if name not in source.touched:
        return base
    value = source.factors(name) if hasattr(source, "factors") else source.tensor(name)
    if isinstance(value, LowRank):
        return base + value.scale * value.b_MR.double() @ value.a_RN.double()
    assert value is not None
    return value.double()


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    norms = float(a.norm() * b.norm())
    return float((a * b).sum()) / norms if norms else 0.0


DEFINITIONS: dict[SlopeKind, Callable[[torch.Tensor, torch.Tensor, torch.Tensor], float]] = {
    "inner": lambda g, base, expert: float((g * (expert - base)).sum()),
    "cosine": lambda g, base, expert: cosine(g, expert - base),
    "weight_cosine": lambda g, base, expert: cosine(g, expert) - cosine(g, base),
}


@pytest.mark.parametrize("kind", DEFINITIONS)
def test_slopes_are_what_they_are_called(kind: SlopeKind, sources: Sources, gradient: dict[str, torch.Tensor]) -> None:
    cache = SourceCache()
    for scale in (1.0, -4.0):  # the second time norms are facts
        stream = ((name, scale * tensor) for name, tensor in sorted(gradient.items()))
        found = slopes(stream, sources, kind, cache)
        assert found.keys() == frozenset().union(*(expert.touched for expert in sources.experts.values()))
        for name, of_experts in found.items():
            g, base = scale * gradient[name].double(), sources.base.tensor(name).double()
            expected = {e: DEFINITIONS[kind](g, base, weights_of(sources, e, name)) for e in sources.experts}
            assert of_experts == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_a_gradient_of_zeros_points_nowhere(sources: Sources, gradient: dict[str, torch.Tensor]) -> None:
    for kind in DEFINITIONS:
        found = slopes(((name, torch.zeros_like(g)) for name, g in gradient.items()), sources, kind)
        assert all(value == 0 for of_experts in found.values() for value in of_experts.values())


def test_a_tensor_that_does_not_come_has_no_slopes(sources: Sources, gradient: dict[str, torch.Tensor]) -> None:
    name = "model.layers.1.mlp.up_proj.weight"
    assert slopes(iter([(name, gradient[name])]), sources, "inner").keys() == {name}


def test_an_adapter_s_delta_is_never_made(toy_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No product of the shape of a matrix: the factors meet the gradient one after the other."""
    adapter = make_adapter(tmp_path, base=toy_base, seed=0)
    sources = open_sources(str(toy_base), {"a": str(adapter)})
    name = "model.layers.0.mlp.up_proj.weight"
    made: list[torch.Size] = []

    class Products(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            result = func(*args, **(kwargs or {}))
            if func in (torch.matmul, torch.Tensor.matmul, torch.Tensor.__matmul__, torch.mm, torch.addmm):
                made.append(result.shape)
            return result

    with Products():
        slopes(iter([(name, torch.ones(sources.base.tensors[name].shape))]), sources, "cosine")
    assert made
    assert sources.base.tensors[name].shape not in made


SIDE = 1024


def full_model(folder: Path, seed: int) -> Path:
    """Three matrices of 8 MiB in fp64."""
    folder.mkdir()
    chance = torch.Generator().manual_seed(seed)
    names = (f"model.layers.{layer}.mlp.up_proj.weight" for layer in range(3))
    save_file({name: torch.randn(SIDE, SIDE, generator=chance) for name in names}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "tie_word_embeddings": True}))
    return folder


def test_memory_does_not_grow_with_the_experts(tmp_path: Path) -> None:
    """Beyond what is mapped from files: one block of one expert, whatever their number."""
    base, *experts = (full_model(tmp_path / str(seed), seed) for seed in range(12))

    def peak(num_experts: int) -> int:
        sources = open_sources(str(base), {str(n): str(path) for n, path in enumerate(experts[:num_experts])})
        gradient = {name: torch.ones(SIDE, SIDE) for name in sources.base.tensors}
        slopes(iter(gradient.items()), sources, "weight_cosine")  # what is read once, and what torch keeps
        before, watch = anonymous_bytes(), Watch()
        slopes(iter(gradient.items()), sources, "weight_cosine")
        return watch.end() - before

    # 8 deltas kept would be 512 MiB; blocks are 25 MiB, and the allocator keeps a few of them or not
    assert abs(peak(11) - peak(3)) < 128 << 20


class Watch:
    """The most anonymous memory since it was made."""

    def __init__(self) -> None:
        self._most, self._ended = 0, threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()

    def end(self) -> int:
        self._ended.set()
        self._thread.join()
        return self._most

    def _look(self) -> None:
        while not self._ended.wait(0.001):
            self._most = max(self._most, anonymous_bytes())


def anonymous_bytes() -> int:
    return 1024 * int(Path("/proc/self/status").read_text().partition("RssAnon:")[2].split()[0])
