"""The algebras of genomes: their laws, and lineage against SLERP of the explicit weights in fp64."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crossbreed.errors import InputError
from crossbreed.randomness import spawn
from crossbreed.recipes import rule_finder
from crossbreed.search_spaces import GenomeSpace, LineageConfig, LineageSpace, SpaceInputs, VectorSpace
from crossbreed.sources.naming import layer_of
from crossbreed.sources.structure import Structure
from crossbreed.testing.spaces import GenomeConformance, make_structure
from crossbreed.types import Recipe

STRUCTURE = make_structure()
"""`french` touches projections, `sums` those of the MLPs, `norms` everything; six layers."""


class Weights:
    """Explicit weights for a structure: what a lineage's numbers stand for."""

    def __init__(self, structure: Structure = STRUCTURE, size: float = 0.3) -> None:
        rng = spawn(3, "weights")
        self.base = {name: rng.standard_normal(5) for name in structure.tensors}
        self.deltas = [
            {name: size * rng.standard_normal(5) if name in touched else np.zeros(5) for name in structure.tensors}
            for touched in structure.touched.values()
        ]
        self.num_reads = 0

    def products(self, names: Sequence[str]) -> np.ndarray:
        self.num_reads += 1
        vectors = [
            np.concatenate([part[name] for name in names] or [np.zeros(0)]) for part in (self.base, *self.deltas)
        ]
        return np.array(vectors) @ np.array(vectors).T

    def of(self, recipe: Recipe) -> dict[str, np.ndarray]:
        """A merge by the formula of `linear`."""
        find, experts = rule_finder(recipe), list(STRUCTURE.experts)
        merged = {}
        for name, base in self.base.items():
            rule = find(name)
            assert rule is not None
            assert rule.operator == "linear"
            weights = rule.params["weight"]
            merged[name] = weights["base"] * base + sum(
                weights[expert] * (base + delta[name]) for expert, delta in zip(experts, self.deltas, strict=True)
            )
        return merged

    def of_genome(self, space: LineageSpace, genome: np.ndarray) -> dict[str, np.ndarray]:
        merged = {}
        for p, row in enumerate(space._names):
            for c, names in enumerate(row):
                for name in names:
                    total, *shares = genome[p, c]
                    parts = (share * delta[name] for share, delta in zip(shares, self.deltas, strict=True))
                    merged[name] = total * self.base[name] + sum(parts)
        return merged


def slerp(a: np.ndarray, b: np.ndarray, at: float) -> np.ndarray:
    """The textbook's, on whole vectors."""
    angle = math.acos(np.clip(a @ b / np.linalg.norm(a) / np.linalg.norm(b), -1, 1))
    if math.sin(angle) <= 1e-6:
        return (1 - at) * a + at * b
    return (math.sin((1 - at) * angle) * a + math.sin(at * angle) * b) / math.sin(angle)


def explicit_child(
    space: LineageSpace,
    a: dict[str, np.ndarray],
    b: dict[str, np.ndarray],
    splits: Sequence[float],
    weights: Sequence[float],
) -> dict[str, np.ndarray]:
    """M2N2's crossover on materialised weights, chromosome by chromosome, split between layers."""
    child = {}
    for c, (split, weight) in enumerate(zip(splits, weights, strict=True)):
        cells = [row[c] for row in space._names if row[c]]
        names = [name for cell in cells for name in cell]
        num_before = sum(map(len, cells[: int(split * len(cells))]))
        whole_a, whole_b = (np.concatenate([parent[name] for name in names]) for parent in (a, b))
        before, after = (slerp(whole_a, whole_b, at).reshape(-1, 5) for at in (weight, 1 - weight))
        for i, name in enumerate(names):
            child[name] = before[i] if i < num_before else after[i]
    return child


def lineage(*chromosomes: str, weights: Weights | None = None) -> LineageSpace:
    return LineageSpace(LineageConfig(chromosomes=chromosomes), inputs_of(STRUCTURE, weights))


def inputs_of(structure: Structure, weights: Weights | None = None) -> SpaceInputs:
    return SpaceInputs(structure=structure, dtype="float32", inner_products=(weights or Weights()).products)


class TestVectorSpace(GenomeConformance):
    @pytest.fixture
    def space(self) -> GenomeSpace:
        rng = spawn(1, "seeds")
        return VectorSpace([rng.standard_normal(50) for _ in range(3)])


class TestLineageSpace(GenomeConformance):
    @pytest.fixture
    def space(self) -> GenomeSpace:
        return lineage()


class TestLineageSpaceOfThreeChromosomes(GenomeConformance):
    @pytest.fixture
    def space(self) -> GenomeSpace:
        return lineage("attention", "mlp")


SHARES = st.floats(0, 1, exclude_max=True)


@pytest.mark.parametrize("chromosomes", [(), ("attention", "mlp"), ("attention", "mlp", "norm", "embedding")])
@settings(deadline=None, max_examples=20)
@given(data=st.data())
def test_generations_of_lineage_are_slerp_of_the_weights(chromosomes: tuple[str, ...], data: st.DataObject) -> None:
    weights = Weights()
    space = lineage(*chromosomes, weights=weights)
    scale = data.draw(st.sampled_from([1.0, 1.5]))
    genomes = [space.seed(i, scale) for i in range(3)]
    models = [weights.of_genome(space, genome) for genome in genomes]
    for _ in range(6):
        i, j = data.draw(st.tuples(*[st.integers(0, len(genomes) - 1)] * 2))
        shares = st.tuples(*[SHARES] * len(space.chromosomes))
        birth = data.draw(shares), data.draw(shares)
        genomes.append(space.cross(genomes[i], genomes[j], *birth))
        models.append(explicit_child(space, models[i], models[j], *birth))
    for genome, model in zip(genomes, models, strict=True):
        for name, found in weights.of_genome(space, genome).items():
            assert np.allclose(found, model[name], rtol=0, atol=1e-11)
        for name, found in weights.of(space.decode(genome)).items():
            assert np.allclose(found, model[name], rtol=0, atol=2e-5), "six decimals are kept"


def test_a_seed_is_the_base_and_so_much_of_one_delta() -> None:
    weights = Weights()
    space = lineage(weights=weights)
    for scale in (1.0, 1.75):
        for name, found in weights.of(space.decode(space.seed(2, scale))).items():
            assert np.allclose(found, weights.base[name] + scale * weights.deltas[2][name])


def test_the_angle_of_nearly_equal_models_keeps_its_digits() -> None:
    """The norm of the weights is a million times that of the deltas: their cosine is 1 to twelve digits."""
    weights = Weights(size=1e-6)
    space = lineage(weights=weights)
    a, b = space.seed(0, 1.0), space.seed(2, 1.0)
    found = space._angle(a[:, 0], b[:, 0], space._gram_PCVV[:, 0])
    apart = np.concatenate([weights.deltas[0][name] - weights.deltas[2][name] for name in STRUCTURE.tensors])
    whole = np.concatenate([weights.base[name] for name in STRUCTURE.tensors])
    across = apart - (apart @ whole) / (whole @ whole) * whole
    assert found == pytest.approx(np.linalg.norm(across) / np.linalg.norm(whole), rel=1e-5)


def test_weights_are_read_when_two_are_first_crossed_and_never_again() -> None:
    weights = Weights()
    space = lineage(weights=weights)
    space.decode(space.seed(0, 1.0))
    assert weights.num_reads == 0
    for at in (0.25, 0.5):
        space.cross(space.seed(0, 1.0), space.seed(1, 1.0), (at,), (at,))
    assert weights.num_reads == 8  # once a position


def test_layers_are_crossed_in_the_order_of_depth() -> None:
    space = lineage()
    child = space.cross(space.seed(0, 1.0), space.seed(2, 1.0), (0.5,), (0.0,))  # A before the split, B from it on
    find = rule_finder(space.decode(child))
    for name in STRUCTURE.tensors:
        rule = find(name)
        assert rule is not None
        first = name == "model.embed_tokens.weight" or (layer_of(name) is not None and layer_of(name) < 3)
        if "_proj" in name:
            assert rule.params["weight"] == {
                "base": 0.0,
                "french": float(first),
                "sums": 0.0,
                "norms": float(not first),
            }


def test_neighbours_with_the_same_weights_share_a_rule() -> None:
    space = lineage()
    child = space.cross(space.seed(2, 1.0), space.seed(2, 0.5), (0.5,), (0.1,))
    assert len(space.decode(space.seed(2, 1.0)).rules) == 1
    assert [rule.match for rule in space.decode(child).rules][-1] == ".*"
    assert len(space.decode(child).rules) == 2


def test_chromosomes_have_splits_of_their_own() -> None:
    space = lineage("attention")
    assert space.chromosomes == ("attention", "rest")
    child = space.cross(space.seed(0, 1.0), space.seed(2, 1.0), (0.0, 0.999), (0.0, 0.0))
    find = rule_finder(space.decode(child))
    attention, mlp = (find(f"model.layers.2.{part}.weight") for part in ("self_attn.q_proj", "mlp.up_proj"))
    assert attention is not None
    assert mlp is not None
    assert attention.params["weight"]["norms"] == mlp.params["weight"]["french"] == 1.0


def test_only_deltas_that_there_are_get_noise() -> None:
    space = lineage("mlp")
    moved = space.perturb(space.seed(0, 1.0), 0.1, spawn(1, "noise")) - space.seed(0, 1.0)
    assert not moved[..., 0].any(), "the base has no coefficient to search"
    mlp = moved[1:7, 0]
    assert mlp[:, 1:].all()
    rest = moved[1:7, 1]
    assert not rest[:, 2].any(), "`sums` touches nothing but MLPs"
    assert rest[:, [1, 3]].all()


def test_what_cannot_be_crossed_is_refused() -> None:
    with pytest.raises(InputError, match="module type `other`"):
        lineage("other")


@pytest.mark.parametrize(("num_differing", "got"), [(0, "none of a, b, c"), (1, "a of a, b, c")])
def test_two_experts_must_differ_from_the_base(num_differing: int, got: str) -> None:
    touched = [frozenset(STRUCTURE.tensors)] * num_differing + [frozenset[str]()] * 3
    structure = Structure(
        tensors=STRUCTURE.tensors,
        touched=dict(zip("abc", touched, strict=False)),
        hashes={"base": "0", "a": "1", "b": "2", "c": "3"},
        tied=True,
    )
    with pytest.raises(InputError, match="nothing to cross") as caught:
        LineageSpace(LineageConfig(), inputs_of(structure))
    assert got in str(caught.value)
    assert "add an expert" in str(caught.value)
