"""Inner products of whole chromosomes, and lineage recipes made into weights, against explicit fp64."""

import math

import numpy as np
import pytest
import torch

from crossbreed.kernels import inner_products, materialize
from crossbreed.search_spaces import LineageConfig, LineageSpace, SpaceInputs
from crossbreed.sources import Sources, open_sources
from crossbreed.testing.toys import make_adapter, make_checkpoint, make_expert


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Sources:
    """A tied base, a full expert that leaves attention alone, and an adapter that leaves embeddings and norms alone."""
    folder = tmp_path_factory.mktemp("sources")
    base = make_checkpoint(folder / "base")
    experts = {
        "full": make_expert(folder / "full", base=base, seed=1, pattern="mlp"),
        "adapter": make_adapter(folder / "adapter", base=base, seed=2),
    }
    return open_sources(str(base), {name: str(path) for name, path in experts.items()})


def weights_of(sources: Sources, **shares: float) -> dict[str, np.ndarray]:
    """One expert in fp64, as the fp32 checkpoint that `materialize` makes of it."""
    from crossbreed.types import Recipe, Rule

    rules = (Rule(match=".*", operator="task_arithmetic", params={"weight": shares}),)
    recipe = Recipe(base="base", sources=sources.structure.hashes, rules=rules, dtype="float32")
    return {name: tensor.double().numpy().ravel() for name, tensor in materialize(recipe, sources)}


def whole(weights: dict[str, np.ndarray]) -> np.ndarray:
    return np.concatenate([weights[name] for name in sorted(weights)])


def test_products_are_those_of_the_explicit_vectors(sources: Sources) -> None:
    base = whole(weights_of(sources))
    vectors = np.array([base, *(whole(weights_of(sources, **{name: 1.0})) - base for name in sources.experts)])
    found = inner_products(sorted(sources.base.tensors), sources)
    assert np.allclose(found, vectors @ vectors.T, rtol=1e-5, atol=1e-5)


def test_no_number_of_threads_changes_a_bit(sources: Sources) -> None:
    before, found = torch.get_num_threads(), []
    try:
        for num_threads in (1, 2, 3):
            torch.set_num_threads(num_threads)
            found.append(inner_products(sorted(sources.base.tensors), sources).tobytes())
    finally:
        torch.set_num_threads(before)
    assert len(set(found)) == 1


def lineage(sources: Sources) -> LineageSpace:
    inputs = SpaceInputs(
        structure=sources.structure, dtype="float32", inner_products=lambda names: inner_products(names, sources)
    )
    return LineageSpace(LineageConfig(), inputs)


def test_a_childs_weights_are_slerp_of_its_parents_weights(sources: Sources) -> None:
    space, at = lineage(sources), 0.3
    a, b = (whole(weights_of(sources, **{name: 1.5})) for name in sources.experts)
    angle = math.acos(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
    assert angle > 0.01
    # split before everything: B's share is `at` of the way back, all along
    expected = (math.sin(at * angle) * a + math.sin((1 - at) * angle) * b) / math.sin(angle)
    child = space.decode(space.cross(space.seed(0, 1.5), space.seed(1, 1.5), (0.0,), (at,)))
    found = whole({name: t.double().numpy().ravel() for name, t in materialize(child, sources)})
    assert np.abs(found - expected).max() < 5e-6
    assert np.abs(found - ((at * a) + (1 - at) * b)).max() > 1e-4, "a straight line is not the arc"


def test_what_no_expert_touches_grows_as_the_arc_does_and_stays_the_bases_own_in_a_seed(sources: Sources) -> None:
    space, name = lineage(sources), "model.embed_tokens.weight"
    assert not any(name in touched for touched in sources.structure.touched.values())
    base = sources.base.tensor(name)
    seed = dict(materialize(space.decode(space.seed(0, 1.5)), sources))
    assert torch.equal(seed[name], base.float())
    genome = space.cross(space.seed(0, 1.5), space.seed(1, 1.5), (0.0,), (0.3,))
    child = dict(materialize(space.decode(genome), sources))
    assert genome[0, 0, 0] > 1.0001, "the shares of an arc's inside sum to more than one"
    assert torch.allclose(child[name].double(), genome[0, 0, 0] * base.double(), rtol=2e-6)


def test_parents_on_a_line_leave_the_base_as_it_is(sources: Sources) -> None:
    """Their shares sum to one: six decimals of them too, where it counts."""
    space, name = lineage(sources), "model.embed_tokens.weight"
    for at in (0.123456789, 1 / 3, 0.9):
        child = space.cross(space.seed(0, 1.5), space.seed(0, 1.5 + 1e-7), (0.5,), (at,))
        assert torch.equal(dict(materialize(space.decode(child), sources))[name], sources.base.tensor(name).float())
