"""What a plan does with tensors: the machine's faults are told from bugs, and every merge goes through here."""

from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import pytest
import torch
from toy_runs import write_spec

from crossbreed.errors import InvalidWeights, MachineError
from crossbreed.kernels import Fingerprinted, materialize
from crossbreed.runs import build_plan, load_spec
from crossbreed.runs.plan import Plan
from crossbreed.runs.search.pool import Job
from crossbreed.runs.weights import Weights
from crossbreed.runs.workers.worker import Worker
from crossbreed.testing.fakes import FakeEngine
from crossbreed.types import ProposedBy, Recipe, WeightStream

NO_MEMORY = RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")
NO_CONVERGENCE = torch.linalg.LinAlgError("linalg.svd: the algorithm failed to converge")


@pytest.fixture
def plan(tmp_path: Path, toy_base: Path, toy_adapters: dict[str, Path]) -> Plan:
    return build_plan(load_spec(write_spec(tmp_path, base=toy_base, experts=toy_adapters)))


@pytest.fixture
def weights(plan: Plan) -> Weights:
    assert plan.weights is not None
    return plan.weights


@pytest.fixture
def uniform(plan: Plan) -> Recipe:
    return dict(plan.initial_candidates())[ProposedBy(kind="uniform")]


def tearing(error: Exception) -> Callable[..., WeightStream]:
    def torn(*_: object, **__: object) -> Iterator[tuple[str, torch.Tensor]]:
        yield "a", torch.zeros(1)
        raise error

    return torn


@pytest.mark.parametrize("error", [NO_MEMORY, MemoryError("too much"), torch.OutOfMemoryError("full"), NO_CONVERGENCE])
@pytest.mark.parametrize("how", ["materialize", "materialize_once"])
def test_too_little_memory_is_the_machine_s_fault(
    weights: Weights, uniform: Recipe, how: str, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crossbreed.runs.weights.materialize", tearing(error))
    with pytest.raises(MachineError, match=f"recipe {uniform.id} was not merged: ") as caught:
        dict(getattr(weights, how)(uniform))
    assert caught.value.__cause__ is error


@pytest.mark.parametrize("error", [RuntimeError("sizes do not agree"), TypeError("a bug"), InvalidWeights("NaN")])
def test_anything_else_is_raised_as_it_is(
    weights: Weights, uniform: Recipe, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crossbreed.runs.weights.materialize", tearing(error))
    with pytest.raises(type(error)) as caught:
        dict(weights.materialize(uniform))
    assert caught.value is error


def test_what_is_merged_for_an_engine_is_merged_for_a_folder(weights: Weights, uniform: Recipe) -> None:
    streams = (weights.materialize(uniform), weights.materialize_once(uniform), materialize(uniform, weights.sources))
    prints = []
    for stream in streams:
        fingerprinted = Fingerprinted(stream)
        assert sum(tensor.nbytes for _, tensor in fingerprinted) == weights.merged_bytes("bfloat16")
        prints.append(fingerprinted.value)
    assert len(set(prints)) == 1
    assert weights.unchanged(uniform, uniform) == weights.structure.tensors.keys()


def test_an_engine_that_leaves_a_part_of_the_stream_is_a_bug(
    plan: Plan, uniform: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may answer with anything: a trial that is FAILED now and then would hide it."""
    worker = Worker(plan)
    adopt = FakeEngine.adopt

    def lazy(self: FakeEngine, recipe: Recipe, stream: WeightStream, *, kept: Collection[str] = ()) -> object:
        return adopt(self, recipe, iter([next(stream)]), kept=kept)

    monkeypatch.setattr(FakeEngine, "adopt", lazy)
    with pytest.raises(AssertionError, match="known at its end"):
        worker.evaluate(Job(number=0, split="search", recipe=uniform))
