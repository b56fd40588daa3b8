"""Frank-Wolfe from spec to report: real gradients of toy models, and resume by replay."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from toy_runs import SKILLS, records_of, trials_of, write_spec

from crossbreed.errors import EngineError, InputError, InvalidWeights
from crossbreed.fitness import Item, PerplexityTask, SearchItems, Task, TransformersConfig, build_engine
from crossbreed.fitness.engines.encoder import Encoded
from crossbreed.fitness.engines.transformers import TransformersEngine
from crossbreed.fitness.tasks import GenerateTask
from crossbreed.kernels import materialize
from crossbreed.runs import build_plan, check_spec, load_spec, run
from crossbreed.runs.checking.text import findings_text
from crossbreed.runs.plan import Plan
from crossbreed.runs.results.show import show_text
from crossbreed.runs.search.pool import Job
from crossbreed.runs.spec.objectives import Objective
from crossbreed.runs.workers.gradients import calibration_of
from crossbreed.runs.workers.worker import Worker
from crossbreed.search_spaces import CoefficientSpace
from crossbreed.types import Point, Status

TRANSFORMERS = {"kind": "transformers", "dtype": "float32"}
PROSE = [{"name": skill, "kind": "perplexity", "items": f"{skill}.jsonl", "text": "q"} for skill in SKILLS]
"""What toy models differ in, in few forward passes."""
SMALL = {"fitness__split": {"search": 6, "select": 4, "report": 6}, "fitness__slopes": {"items": 3, "tokens": 128}}


def frank_wolfe(**options: Any) -> dict[str, Any]:
    return {"kind": "frank_wolfe", "budget": {"trials": 5}, "options": {"vertex_scale": 1.0, **options}}


def spec_of(folder: Path, base: Path, experts: Mapping[str, Path], **changes: Any) -> Path:
    usual = {"optimizer": frank_wolfe(), "fitness__engine": TRANSFORMERS, "fitness__tasks": PROSE}
    settings = {**usual, **SMALL, **changes}
    return write_spec(folder, base=base, experts=experts, **settings)


@pytest.fixture(scope="module")
def experts(toy_experts: dict[str, Path], toy_adapters: dict[str, Path]) -> dict[str, Path]:
    """A full checkpoint and an adapter."""
    return {"everything": toy_experts["everything"], "stabilised": toy_adapters["stabilised"]}


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory, toy_base: Path, experts: dict[str, Path]) -> Path:
    return spec_of(tmp_path_factory.mktemp("spec"), toy_base, experts)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, spec: Path) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    run(load_spec(spec), out)
    return out


def space_of(plan: Plan) -> CoefficientSpace:
    assert isinstance(plan.space, CoefficientSpace)
    return plan.space


def test_check_says_what_slopes_take(spec: Path) -> None:
    findings = check_spec(load_spec(spec))
    weights = 4 * sum(math.prod(info.shape) for info in findings.plan.structure.tensors.values())
    assert findings.to_json()["slopes_bytes"]["0"] > 2 * weights, (
        "a gradient, and a model: the engine has another context"
    )
    assert "GB beside the sources for slopes in each worker" in findings_text(findings)


def calibration_loss(plan: Plan, point: Point) -> float:
    """As the engine's answers say it, request by request."""
    engine = build_engine(TransformersConfig.model_validate(TRANSFORMERS), plan.weights.sources.base.path)
    recipe = space_of(plan).decode(point)
    asked = calibration_of(plan.tasks, plan.items["search"], plan.objectives[0], num_items=3)
    responses = engine.adopt(recipe, materialize(recipe, plan.weights.sources)).answer(asked.requests)
    losses = [-math.fsum(response.logprobs) / len(response.logprobs) for response in responses]
    return math.fsum(weight * loss for weight, loss in zip(asked.weights, losses, strict=True))


def evaluated(plan: Plan, point: Point) -> tuple[float, ...]:
    worker = Worker(plan)
    score = worker.evaluate(Job(number=100, split="search", recipe=space_of(plan).decode(point), stage=0))
    worker.close()
    assert score.status is Status.OK
    assert score.slopes is not None
    assert score.cost.items == len(SKILLS) * (6 + 3)
    assert score.cost.seconds["slopes"] > 0
    return score.slopes


def test_slopes_are_derivatives_along_coefficients(tmp_path: Path, toy_base: Path, experts: dict[str, Path]) -> None:
    """Of the loss that the engine's answers give, by finite differences: full experts and adapters alike."""
    plan = build_plan(load_spec(spec_of(tmp_path, toy_base, experts, dtype="float32")))
    point = tuple(0.1 + 0.01 * index for index in range(len(space_of(plan).names)))
    slopes, step = evaluated(plan, point), 1e-3
    for index, slope in enumerate(slopes):
        high, low = ((*point[:index], point[index] + way * step, *point[index + 1 :]) for way in (1, -1))
        difference = calibration_loss(plan, high) - calibration_loss(plan, low)
        assert slope == pytest.approx(difference / (2 * step), rel=0.01, abs=2e-3), space_of(plan).names[index]


def test_an_engine_beside_the_one_that_scores_says_the_same(
    tmp_path: Path, toy_base: Path, experts: dict[str, Path]
) -> None:
    """The one that scores takes the gradient itself, or computes in another dtype, or can take none."""
    point = (0.3,) * 6
    specs = [
        spec_of(tmp_path / str(index), toy_base, experts, fitness__engine=engine)
        for index, engine in enumerate([TRANSFORMERS, {**TRANSFORMERS, "dtype": "bfloat16"}, {"kind": "fake"}])
    ]
    shared, *beside = (evaluated(build_plan(load_spec(spec)), point) for spec in specs)
    assert beside == [shared, shared]


def test_slopes_are_journalled_with_what_the_optimizer_asked(finished: Path) -> None:
    records = records_of(finished)
    points = {r["number"]: r["point"] for r in records if r["kind"] == "ask"}
    tells = [r for r in records if r["kind"] == "tell"]
    for tell in tells:
        has_slopes = tell["split"] == "search" and points[tell["number"]] is not None
        assert (tell["slopes"] is not None) is has_slopes
        assert ("slopes" in tell["clock"]["seconds"]) is has_slopes
    assert sum(tell["slopes"] is not None for tell in tells) == 5


def test_the_walk_leads_downhill(finished: Path) -> None:
    records = records_of(finished)
    losses = [r["objectives"][0] for r in records if r["kind"] == "tell" and r["split"] == "search"]
    assert min(losses[-5:]) < min(losses[:-5]), "no better than the baselines"
    assert losses[-1] < losses[-5]


def test_a_walk_gone_on_with_is_the_walk_at_once(finished: Path, spec: Path, tmp_path: Path) -> None:
    run(load_spec(spec, ["optimizer.budget.trials=2"]), tmp_path / "grown")
    run(load_spec(spec), tmp_path / "grown")
    search = [
        [r for r in trials_of(path) if r.get("split", "search") == "search"] for path in (tmp_path / "grown", finished)
    ]
    assert search[0] == search[1]


def fail_after(num_batches: int, fault: Exception, patch: pytest.MonkeyPatch) -> Callable[[], torch.nn.Module]:
    """Lets the loss of that many batches be taken and no more; returns what says which model they were taken of."""
    loss, models = TransformersEngine._loss, list[torch.nn.Module]()

    def failing(self: TransformersEngine, batch: Sequence[tuple[Encoded, float]]) -> torch.Tensor:
        models.append(self._model)
        if len(models) > num_batches:
            raise fault
        return loss(self, batch)

    patch.setattr(TransformersEngine, "_loss", failing)
    return lambda: models[-1]


@pytest.mark.parametrize(
    "fault",
    [
        EngineError("no gradient"),
        InvalidWeights("an infinite loss"),
        torch.OutOfMemoryError("no memory"),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_a_score_without_slopes_is_a_score(
    fault: Exception, tmp_path: Path, toy_base: Path, experts: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All answers are there. What the gradient's first batches left in memory is not, when the next candidate comes."""
    plan = build_plan(load_spec(spec_of(tmp_path, toy_base, experts, fitness__slopes={"items": 3, "tokens": 1})))
    worker, job = Worker(plan), Job(number=100, split="search", recipe=space_of(plan).decode((0.3,) * 6), stage=0)
    whole = worker.evaluate(job)
    with monkeypatch.context() as patch:
        model = fail_after(3, fault, patch)
        score = worker.evaluate(job)
    assert (score.status, score.tasks, score.fingerprint) == (Status.OK, whole.tasks, whole.fingerprint)
    assert score.slopes is None
    assert (score.error or "").startswith("no slopes: ")
    assert score.cost.items == len(SKILLS) * 6
    assert all(parameter.grad is None for parameter in model().parameters())
    assert worker.evaluate(job).slopes == whole.slopes
    worker.close()


def test_a_run_goes_on_without_slopes_and_says_so(spec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fail_after(1, EngineError("the gradient is NaN"), monkeypatch)
    run(load_spec(spec), tmp_path / "run")
    tells = [r for r in records_of(tmp_path / "run") if r["kind"] == "tell" and r["split"] == "search"]
    assert {tell["status"] for tell in tells} == {"OK"}
    missing = [tell for tell in tells[-5:] if tell["slopes"] is None]
    assert len(missing) == 4
    assert all(tell["clock"]["error"] == "no slopes: the gradient is NaN" for tell in missing)
    assert "4 without slopes" in show_text(tmp_path / "run")
    log = (tmp_path / "run" / "log.txt").read_text()
    assert log.count("(no slopes: the gradient is NaN)") == 4


def test_differences_need_no_gradient(tmp_path: Path, toy_base: Path, toy_adapters: dict[str, Path]) -> None:
    options = frank_wolfe(slopes="differences", granularity="task", radius=0.2)
    path = write_spec(tmp_path, base=toy_base, experts=toy_adapters, optimizer=options)
    run(load_spec(path, ["optimizer.budget.trials=12"]), tmp_path / "run")
    tells = [r for r in records_of(tmp_path / "run") if r["kind"] == "tell"]
    assert all(tell["slopes"] is None for tell in tells)
    points = [r["point"] for r in records_of(tmp_path / "run") if r.get("point")]
    assert len(points) == 12
    assert points[5] not in points[:5], "a step after one place and two candidates an expert"


def test_a_space_that_is_no_hull_is_refused_before_anything_starts(
    tmp_path: Path, toy_base: Path, toy_adapters: dict[str, Path]
) -> None:
    path = spec_of(tmp_path, toy_base, toy_adapters, space__operator="ties")
    with pytest.raises(InputError, match="density"):
        build_plan(load_spec(path))
    build_plan(load_spec(path, ["space.params={density: 0.5}"]))
    with pytest.raises(InputError, match=r"`scale: 0\.3` multiplies"):
        build_plan(load_spec(path, ["space.params={density: 0.5, scale: 0.3}"]))


def test_a_gold_that_does_not_fit_is_found_before_anything_starts(
    tmp_path: Path, toy_base: Path, toy_adapters: dict[str, Path]
) -> None:
    """The longest prompt and its answer fit, without what ends it: enough for a search that takes no gradients."""
    task = {"kind": "generate", "prompt": "{q}: ", "answer": "a", "max_tokens": 2}
    changes: dict[str, Any] = {
        "fitness__tasks": [{**task, "name": skill, "items": f"{skill}.jsonl"} for skill in SKILLS],
        "fitness__engine": {**TRANSFORMERS, "max_model_len": len("blue 59: ") + 2},
    }
    build_plan(load_spec(write_spec(tmp_path / "a", base=toy_base, experts=toy_adapters, **changes))).measured()
    with pytest.raises(InputError, match="does not fit"):
        build_plan(load_spec(spec_of(tmp_path / "b", toy_base, toy_adapters, **changes))).measured()


def test_the_loss_is_the_objective_s() -> None:
    """Its tasks with its weights; turned round where it wants a task done badly."""
    tasks = [
        Task(kind=GenerateTask(kind="generate", name="sums", items="", prompt="{q}", answer="a"), items=()),
        Task(kind=PerplexityTask(kind="perplexity", name="prose", items="", text="q"), items=()),
        Task(kind=GenerateTask(kind="generate", name="idle", items="", prompt="{q}", answer="a"), items=()),
    ]
    items = {
        task.name: SearchItems(items=tuple(Item(id=f"{i}", fields={"q": f"text {i}", "a": "x"}) for i in range(n)))
        for task, n in zip(tasks, (4, 2, 4), strict=True)
    }

    def weights(objective: Objective) -> tuple[float, ...]:
        return calibration_of(tasks, items, objective, num_items=3).weights

    assert weights(Objective(kind="mean", tasks=("sums", "idle"), weights=(3.0, 1.0))) == pytest.approx(
        (0.25,) * 3 + (1 / 12,) * 3
    )
    assert weights(Objective(kind="mean", tasks=("sums", "idle"), weights=(3.0, 0.0))) == pytest.approx((1 / 3,) * 3)
    assert weights(Objective(kind="task", tasks=("prose",), minimize=True)) == (0.5, 0.5)
    assert weights(Objective(kind="task", tasks=("sums",), minimize=True)) == pytest.approx((-1 / 3,) * 3)
