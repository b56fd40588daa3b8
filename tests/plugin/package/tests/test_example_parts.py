import os

import pytest
from example_parts.hill_climbing import HillClimbing
from example_parts.merge_service import MergeService, MergeServiceConfig
from example_parts.one_weight import OneWeight, OneWeightConfig
from example_parts.sums import SumsTask

from crossbreed.fitness import Task
from crossbreed.search_spaces import SpaceInputs
from crossbreed.testing.engines import RecipeEngineConformance, RecipeExample
from crossbreed.testing.operators import OperatorConformance
from crossbreed.testing.optimizers import MakeOptimizer, OptimizerConformance
from crossbreed.testing.spaces import SpaceConformance, make_structure
from crossbreed.testing.tasks import TaskConformance
from crossbreed.types import BASE, Recipe, Rule


class TestShrink(OperatorConformance):
    @pytest.fixture
    def operator(self) -> str:
        return "shrink"


class TestHillClimbing(OptimizerConformance):
    @pytest.fixture
    def make(self) -> MakeOptimizer:
        return HillClimbing


class TestOneWeight(SpaceConformance):
    @pytest.fixture
    def space(self) -> OneWeight:
        return OneWeight(OneWeightConfig(), SpaceInputs(structure=make_structure(), dtype="bfloat16"))


@pytest.mark.skipif("MERGE_SERVICE" not in os.environ, reason="no service: say where it listens in MERGE_SERVICE")
class TestMergeService(RecipeEngineConformance):
    @pytest.fixture
    def example(self) -> RecipeExample:
        config = MergeServiceConfig(url=os.environ["MERGE_SERVICE"])
        hashes = config.describe_sources("our/smollm2", {"sums": "our/sums"}).hashes
        rules = [Rule(match=".*", operator="task_arithmetic", params={"weight": weight}) for weight in (0.5, 2.0)]
        a, b = (Recipe(base=BASE, sources=hashes, rules=(rule,)) for rule in rules)
        return RecipeExample(make=lambda: MergeService(config), a=a, b=b)


class TestSums(TaskConformance):
    @pytest.fixture
    def task(self) -> Task:
        kind = SumsTask(name="sums")
        return Task(kind=kind, items=kind.load_items()[:9])
