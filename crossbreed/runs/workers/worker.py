"""One worker: a plan and an engine; recipes in, Scores out."""

import time
from collections.abc import Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from crossbreed.errors import InvalidWeights, MachineError
from crossbreed.fitness import Handle, Surroundings, begun_tasks, evaluate_tasks, greedy
from crossbreed.runs.plan import Plan
from crossbreed.runs.search.pool import NO_SLOPES, Job, closed_on_error
from crossbreed.runs.teachers.answers import Teachers
from crossbreed.runs.workers.candidate_engine import CandidateEngineByWeights, start_candidate_engine, verified
from crossbreed.types import Cost, Recipe, Score, Status

if TYPE_CHECKING:
    from crossbreed.runs.workers.gradients import Slopes


_CANARY_ITEMS = 8
"""The number of items of all tasks together that a canary asks: it asks them a dozen times."""


class Worker:
    """Evaluates jobs one at a time. Runs in the driver's process or inside a Ray actor."""

    def __init__(
        self,
        plan: Plan,
        *,
        other_versions: Mapping[str, str] = MappingProxyType({}),
        around: Surroundings | None = None,
        kept: Path | None = None,
    ) -> None:
        """Starts the engine.

        Args:
            plan: The run's plan.
            other_versions: Packages whose versions differ from the driver's.
            around: What the engine may use.
            kept: The folder in which the run keeps artifacts.
        """
        self._plan, self.other_versions = plan, other_versions
        around = around or Surroundings(seed=plan.spec.seed)
        self._closing = ExitStack()
        self.candidate_engine = start_candidate_engine(plan.spec.fitness.engine, plan.weights, around)
        self._teachers = Teachers(plan, kept)
        self._slopes: Slopes | None = None
        self.notes: tuple[str, ...] = ()
        with closed_on_error(self):
            self._tasks = begun_tasks(plan.tasks, around, self._closing)
            self._slopes = self._start_slopes()

    def canary(self) -> None:
        """Verifies swapping before any score is trusted; `notes` says what could not be verified.

        Raises:
            SwapError: the engine does not answer with the weights it was given.
        """
        items = self._plan.items["search"]
        num_items = max(2, _CANARY_ITEMS // len(self._plan.tasks))
        if self._plan.spec.fitness.engine.scores_items:
            self.notes = ("the engine scores items by itself: what it does with the weights was not verified",)
            return
        asked = (
            r for task in self._plan.tasks for item in items[task.name].items[:num_items] for r in task.requests(item)
        )
        requests = list(dict.fromkeys(map(greedy, asked)))  # of samples of one answer, one
        merges = [
            (by, recipe) for by, recipe in self._plan.initial_candidates() if by.is_baseline and by.kind != "base"
        ]
        others = [recipe for _, recipe in sorted(merges, key=lambda merge: merge[0].kind != "uniform")]
        self.notes = verified(self.candidate_engine, self._plan.base_recipe, others, requests)

    def evaluate(self, job: Job) -> Score:
        """Has the engine adopt the recipe, and evaluates it on the split's items.

        Raises:
            MachineError: it could not be measured (usually an EngineError); the caller decides on retries.
            InputError: a file of the sources changed, before or meanwhile: then nobody knows what was scored.
        """
        self._require_unchanged()
        score = self._evaluated(job)
        self._require_unchanged()
        return score

    def _require_unchanged(self) -> None:
        if self._plan.weights:
            self._plan.weights.sources.require_unchanged()

    def _evaluated(self, job: Job) -> Score:
        teacher_answers = self._teachers.answers(job.split, self._adopted)
        start = time.perf_counter()
        recipe = job.recipe
        assert recipe is not None, "an engine answers with merged weights"
        try:
            adopted = self.candidate_engine.adopt(recipe)
            adopted_s = time.perf_counter()
            items, lengths = self._plan.items[job.split], self._plan.lengths_measured
            answers = evaluate_tasks(adopted.handle, self._tasks, items, teacher_answers, lengths=lengths)
            answered_s = time.perf_counter()
        except InvalidWeights as error:
            return Score(status=Status.INVALID, error=str(error), cost=Cost(seconds={"other": _since(start)}))
        seconds = {**adopted.seconds, "answer": answered_s - adopted_s}
        num_items, slopes, fault = answers.num_items, None, None
        if self._slopes and job.split == "search" and job.stage is not None and self._plan.slope_kind(job.stage):
            slopes, fault = _tried(self._slopes, recipe, job.stage)
            seconds["slopes"] = _since(answered_s)
            num_items += self._slopes.num_items if slopes is not None else 0
        if fault is None:
            self.candidate_engine.confirm()
        return Score(
            status=Status.OK,
            tasks=answers.tasks,
            texts=answers.texts,
            margins=answers.margins,
            thinking=answers.thinking,
            slopes=slopes,
            fingerprint=adopted.fingerprint,
            cost=Cost(items=num_items, tokens=answers.num_tokens, seconds=seconds),
            error=fault or adopted.remark,
        )

    def _adopted(self, recipe: Recipe) -> Handle:
        """Returns a model that is asked, and not scored."""
        return self.candidate_engine.adopt(recipe).handle

    def close(self) -> None:
        """Frees the engines."""
        with self._closing, closing(self.candidate_engine):
            if self._slopes:
                self._slopes.close()

    def _start_slopes(self) -> "Slopes | None":
        if not any(self._plan.slope_kind(stage.number) for stage in self._plan.stages):
            return None
        from crossbreed.runs.workers.gradients import Slopes

        assert isinstance(self.candidate_engine, CandidateEngineByWeights), "a plan with slopes has weights"
        return Slopes(self._plan, self.candidate_engine.engine)


def _tried(slopes: "Slopes", recipe: Recipe, stage: int) -> tuple[tuple[float, ...] | None, str | None]:
    """Returns the slopes, or the error if there are none: the score is kept even without slopes."""
    try:
        return slopes.at(recipe, stage), None
    except (MachineError, InvalidWeights) as error:
        return None, f"{NO_SLOPES}{error}"


def _since(start: float) -> float:
    return time.perf_counter() - start
