"""A worker sends what changed, and the fingerprint is that of all the weights."""

import os
from collections.abc import Collection, Sequence
from pathlib import Path

import pytest
from toy_runs import write_spec

from crossbreed.errors import EngineError, InputError, InvalidWeights, SwapError
from crossbreed.fitness import Request, Response
from crossbreed.fitness.engines.handle import CurrentHandle
from crossbreed.kernels import Fingerprinted, materialize
from crossbreed.runs import build_plan, load_spec, run
from crossbreed.runs.plan import Plan
from crossbreed.runs.search.pool import Job, verify
from crossbreed.runs.workers.start import start_worker
from crossbreed.runs.workers.worker import Worker
from crossbreed.testing.fakes import FakeEngine
from crossbreed.testing.toys import make_expert
from crossbreed.types import Recipe, Rule, Status, WeightStream


@pytest.fixture
def plan(tmp_path: Path, toy_base: Path, toy_adapters: dict[str, Path]) -> Plan:
    return build_plan(load_spec(write_spec(tmp_path, base=toy_base, experts=toy_adapters)))


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What came with each adoption."""
    adoptions: list[list[str]] = []
    adopt = FakeEngine.adopt

    def listening(
        self: FakeEngine, recipe: Recipe, weights: WeightStream, *, kept: Collection[str] = ()
    ) -> CurrentHandle:
        came: list[str] = []
        adoptions.append(came)

        def noted() -> WeightStream:
            for name, tensor in weights:
                came.append(name)
                yield name, tensor

        return adopt(self, recipe, noted(), kept=kept)

    monkeypatch.setattr(FakeEngine, "adopt", listening)
    return adoptions


def recipe(plan: Plan, **weights: float) -> Recipe:
    """`weights`: part of a tensor's name -> the adapters' weight there."""
    rules = tuple(
        Rule(match=f".*{part}.*", operator="task_arithmetic", params={"weight": weight})
        for part, weight in weights.items()
    )
    return Recipe(base="base", sources=plan.structure.hashes, rules=rules, dtype=plan.dtype)


def job(recipe: Recipe) -> Job:
    return Job(number=0, split="search", recipe=recipe)


def test_what_is_sent_is_what_changed_and_scores_are_the_same(plan: Plan, sent: list[list[str]]) -> None:
    candidates = [recipe(plan, up_proj=up, q_proj=q) for up, q in ((0.5, 0.5), (0.25, 0.5), (0.25, 0.0), (0.25, 0.0))]
    worker = Worker(plan)
    scores = [worker.evaluate(job(candidate)) for candidate in candidates]
    everything = sorted(plan.weights.sources.base.tensors)
    ups, qs = ([name for name in everything if part in name] for part in ("up_proj", "q_proj"))
    assert sent == [everything, ups, qs, []]
    for candidate, score in zip(candidates, scores, strict=True):
        whole = Fingerprinted(materialize(candidate, plan.weights.sources))
        assert dict(whole).keys() == set(everything)
        assert score.fingerprint == whole.value
        alone = Worker(plan).evaluate(job(candidate))
        assert (score.tasks, score.texts, score.fingerprint) == (alone.tasks, alone.texts, alone.fingerprint)
    assert len({score.fingerprint for score in scores}) == 3


@pytest.mark.parametrize("is_finite", [True, False])
def test_what_was_scored_while_a_file_changed_is_no_score(
    plan: Plan, toy_adapters: dict[str, Path], monkeypatch: pytest.MonkeyPatch, *, is_finite: bool
) -> None:
    """Nor are its weights INVALID: nobody knows whose they were."""
    adopt, shard = FakeEngine.adopt, next(iter(plan.weights.sources.experts["plain"].shards)).path
    before = shard.stat()

    def meanwhile(self: FakeEngine, recipe: Recipe, weights: WeightStream, **kept: Collection[str]) -> CurrentHandle:
        os.utime(shard, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
        if not is_finite:
            raise InvalidWeights("the merge holds NaN or Inf")
        return adopt(self, recipe, weights, **kept)

    worker = Worker(plan)
    monkeypatch.setattr(FakeEngine, "adopt", meanwhile)
    try:
        with pytest.raises(InputError, match="changed while it was in use"):
            worker.evaluate(job(recipe(plan, up_proj=0.5)))
    finally:
        os.utime(shard, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("is_closable", [True, False])
def test_an_engine_whose_worker_does_not_start_is_closed(
    plan: Plan, monkeypatch: pytest.MonkeyPatch, is_closable: bool
) -> None:
    closed: list[FakeEngine] = []

    def close(self: FakeEngine) -> None:
        closed.append(self)
        if not is_closable:
            raise RuntimeError("the engine is dead")

    def fail(self: object, *_: object) -> None:
        raise SwapError("old weights")

    monkeypatch.setattr(FakeEngine, "close", close)
    for method in ("canary", "_start_slopes"):
        with monkeypatch.context() as patch:
            patch.setattr(Worker, method, fail)
            with pytest.raises(SwapError, match="old weights") as caught:
                verify(start_worker(plan.spec, plan.run_record()))
        notes = [] if is_closable else ["closing the engine raised RuntimeError: the engine is dead"]
        assert getattr(caught.value, "__notes__", []) == notes
    assert len(closed) == 2


def test_a_uniform_merge_that_overflows_is_a_baseline_without_a_value(toy_base: Path, tmp_path: Path) -> None:
    large = make_expert(tmp_path / "large", base=toy_base, seed=5, scale=1e6)
    small = make_expert(tmp_path / "small", base=toy_base, seed=6)
    spec = write_spec(
        tmp_path / "spec", base=toy_base, experts={"large": large, "small": small}, trials=2, dtype="float16"
    )
    report = run(load_spec(spec), tmp_path / "run")
    assert {row.name for row in report.baselines} >= {"base", "small"}
    assert report.unmeasured["uniform"].startswith("INVALID: ")
    assert "canary: another merge was taken: `" in (tmp_path / "run/log.txt").read_text()


def test_experts_beyond_the_dtype_are_one_message_whose_advice_works(toy_base: Path, tmp_path: Path) -> None:
    large = make_expert(tmp_path / "large", base=toy_base, seed=5, scale=1e7)
    spec = load_spec(write_spec(tmp_path / "spec", base=toy_base, experts={"large": large}, trials=2, dtype="float16"))
    with pytest.raises(InputError, match="no plain merge of the sources can be written in float16") as caught:
        run(spec, tmp_path / "run")
    assert "`dtype: bfloat16`" in caught.value.fix
    Worker(build_plan(spec.model_copy(update={"dtype": "bfloat16"}))).canary()


def test_an_engine_is_closed_even_if_that_of_the_slopes_cannot_be(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[FakeEngine] = []

    class Dead:
        def close(self) -> None:
            raise RuntimeError("the engine is dead")

    monkeypatch.setattr(FakeEngine, "close", lambda self: closed.append(self))
    monkeypatch.setattr(Worker, "_start_slopes", lambda self: Dead())
    with pytest.raises(RuntimeError, match="the engine is dead"):
        Worker(plan).close()
    assert len(closed) == 1


def test_after_invalid_weights_a_failure_or_a_canary_everything_is_sent(
    plan: Plan, sent: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: FakeEngine, requests: Sequence[Request]) -> list[Response]:
        raise EngineError("died")

    good = recipe(plan, up_proj=0.5)
    everything = sorted(plan.weights.sources.base.tensors)
    worker = Worker(plan)

    def sends_everything() -> bool:
        assert worker.evaluate(job(good)).status is Status.OK
        return sent[-1] == everything

    assert sends_everything()
    assert not sends_everything()
    assert worker.evaluate(job(recipe(plan, up_proj=0.25, q_proj=1e39))).status is Status.INVALID
    assert sent[-1] == ["model.layers.0.mlp.up_proj.weight"]
    assert sends_everything()

    with monkeypatch.context() as patch:
        patch.setattr(FakeEngine, "answer", fail)
        with pytest.raises(EngineError, match="died"):
            worker.evaluate(job(good))
    assert sends_everything()

    worker.canary()
    assert sends_everything()
