"""The genome of mergekit-evolve as a box; its merges are compared with mergekit's own in tests/parity."""

import numpy as np
import pytest

from crossbreed.errors import InputError
from crossbreed.recipes.named import weighted_deltas
from crossbreed.search_spaces import SearchSpace, SpaceInputs
from crossbreed.search_spaces.mergekit_evolve import MergekitEvolveConfig, MergekitEvolveSpace
from crossbreed.testing.spaces import SpaceConformance, make_structure
from crossbreed.types import BASE

EXPERTS = ("french", "sums", "norms")


def make(**settings: object) -> MergekitEvolveSpace:
    config = MergekitEvolveConfig.model_validate({"models": EXPERTS, **settings})
    experts = tuple(name for name in config.models if name != BASE)
    return MergekitEvolveSpace(config, SpaceInputs(structure=make_structure(experts=experts), dtype="bfloat16"))


class TestTies(SpaceConformance):
    @pytest.fixture
    def space(self) -> SearchSpace:
        return make(method="ties", layer_granularity=2, filters=["self_attn", "mlp"])


class TestSmooth(SpaceConformance):
    """The conformance of values that are interpolated over depth, and not divided."""

    @pytest.fixture
    def space(self) -> SearchSpace:
        return make(method="task_arithmetic", layer_granularity=2, smooth=True, allow_negative_weights=True)


class TestLinear(SpaceConformance):
    @pytest.fixture
    def space(self) -> SearchSpace:
        return make(method="linear", models=["french", BASE, "sums"], layer_granularity=3)


class TestSlerp(SpaceConformance):
    @pytest.fixture
    def space(self) -> SearchSpace:
        return make(method="slerp", models=["french", BASE], layer_granularity=3)


def test_only_what_a_tensor_reads_is_a_coordinate() -> None:
    space = make(method="dare_ties", models=[BASE, *EXPERTS], layer_granularity=3, filters=["embed_tokens"])
    assert space.shape == (2, 4, 2, 2)
    assert len(space.names) == 3 * 2 * (1 + 2)  # experts, parameters; embeddings are in the first group alone
    assert space.names[0] == "group 0 / embed_tokens / french: weight"
    genotype = np.arange(32) / 100
    assert space.point(genotype)[:2] == (0.08 / 2, 0.05)
    assert space.point(genotype.reshape(space.shape)) == space.point(genotype)


def test_the_search_starts_where_theirs_does() -> None:
    space = make(method="ties", layer_granularity=6)
    uniform = weighted_deltas(
        dict.fromkeys(EXPERTS, 1 / 3), hashes=make_structure(experts=EXPERTS).hashes, dtype="bfloat16"
    )
    assert space.encode(uniform) == space.start == (0.333333, 1.0) * 3


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"method": "ties", "layer_granularity": 4}, "does not divide"),
        ({"method": "ties", "filters": ["self_atn"]}, "matches no tensor"),
        ({"method": "ties", "models": ["french", "sums", "roman"]}, "is no source"),
        ({"method": "slerp", "models": ["french", "sums"]}, "from the base to an expert"),
    ],
)
def test_a_genome_that_does_not_fit_is_refused(settings: dict[str, object], said: str) -> None:
    config = MergekitEvolveConfig.model_validate({"models": EXPERTS, **settings})
    experts = EXPERTS if "slerp" not in str(settings) else ("french", "sums")
    with pytest.raises(InputError, match=said):
        MergekitEvolveSpace(config, SpaceInputs(structure=make_structure(experts=experts), dtype="bfloat16"))
