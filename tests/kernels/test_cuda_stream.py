"""Sources that are sent ahead: the same merge, whatever stays on the device and however long a chunk is."""

from pathlib import Path

import pytest
import torch
from merges import opened, recipe_of

from crossbreed.kernels import materialize
from crossbreed.kernels.executors.cuda import stream
from crossbreed.sources import Sources
from crossbreed.types import Recipe

ON_GPU = pytest.param(
    "cuda",
    marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU")],
)


@pytest.fixture(autouse=True)
def _nothing_to_compile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CROSSBREED_COMPILER", "")


@pytest.fixture
def recipes(sources: Sources) -> list[Recipe]:
    """Two candidates, one after the other."""
    weight = {"a": 0.4, "b": 0.3, "mlp": 0.5, "p": 0.6, "q": -0.2}
    return [
        recipe_of(sources, "task_arithmetic", weight=weight),
        recipe_of(sources, "ties", weight=weight, density=0.4),
    ]


@pytest.mark.parametrize("device", ["cpu", ON_GPU])
@pytest.mark.parametrize("budget_bytes", [0, 50_000, 1 << 40])
@pytest.mark.parametrize("chunk_bytes", [1000, 1 << 20])
def test_where_sources_are_changes_nothing(
    sources: Sources,
    recipes: list[Recipe],
    monkeypatch: pytest.MonkeyPatch,
    device: str,
    budget_bytes: int,
    chunk_bytes: int,
) -> None:
    monkeypatch.setattr(stream, "CHUNK_BYTES", chunk_bytes)
    placed = stream.place(sources, torch.device(device), budget_bytes)
    for recipe in recipes:
        expected = dict(materialize(recipe, sources))
        for name, tensor in materialize(recipe, placed):
            assert tensor.device.type == device
            assert torch.equal(tensor.cpu(), expected[name]), name


@pytest.mark.parametrize("budget_bytes", [0, 50_000, 1 << 40])
def test_what_fits_is_sent_once_and_the_next_tensor_ahead(
    models: dict[str, Path], monkeypatch: pytest.MonkeyPatch, budget_bytes: int
) -> None:
    sources = opened(models, {"a": "a", "mlp": "mlp"})
    recipe = recipe_of(sources, "task_arithmetic", weight=0.5)
    sent: list[torch.Tensor] = []

    class Watched(stream.Lane):  # a class of its own: another case's thread may still be fetching
        def upload(self, tensor: torch.Tensor) -> torch.Tensor:
            sent.append(tensor)
            return super().upload(tensor)

    monkeypatch.setattr(stream, "Lane", Watched)
    placed = stream.place(sources, torch.device("cpu"), budget_bytes)
    full = [sources.base, *sources.experts.values()]
    needed = [e.tensor(name) for name in sources.base.tensors for e in full if e is sources.base or name in e.touched]
    for _ in range(3):
        dict(materialize(recipe, placed))
    num_kept = 0 if budget_bytes == 0 else len({t.data_ptr() for t in sent}) * 3 - len(sent)
    assert {t.data_ptr() for t in sent} == {t.data_ptr() for t in needed}
    if budget_bytes == 0:
        assert 3 * len(needed) <= len(sent) <= 3 * len(needed) + 3  # and the first name's, for the fourth candidate
    elif budget_bytes == 1 << 40:
        assert len(sent) == len(needed)
    else:
        assert 0 < num_kept < 3 * len(needed)


def test_what_is_known_of_sources_is_known_of_placed_ones(sources: Sources) -> None:
    placed = stream.place(sources, torch.device("cpu"), 0)
    assert placed.base.hash == sources.base.hash
    for name, expert in sources.experts.items():
        assert placed.experts[name].hash == expert.hash
        assert placed.experts[name].touched == expert.touched
    untouched = next(name for name in sources.base.tensors if name not in sources.experts["mlp"].touched)
    assert torch.equal(placed.experts["mlp"].tensor(untouched), sources.experts["mlp"].tensor(untouched))
