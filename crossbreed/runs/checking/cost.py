"""What a run will cost: trials, items, tokens, and minutes where a rate is known."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import fsum
from typing import Any

from crossbreed.fitness import judge_calls
from crossbreed.runs.checking.rates import Rate, num_tokens
from crossbreed.runs.plan import Plan
from crossbreed.runs.record.records import SplitName
from crossbreed.runs.results.winner import NUM_FINALISTS
from crossbreed.runs.search.baselines import num_reported
from crossbreed.runs.search.pace import Budget
from crossbreed.runs.stages.naming import StageName


@dataclass(frozen=True, slots=True, kw_only=True)
class StageCost:
    """The work of one stage of a run."""

    name: StageName
    num_models: int | None
    """The most models that it has scored; None: until its minutes, or those of all stages, are over."""
    budget_s: float | None
    """Its own limit."""
    seconds: float | None
    """The time of scoring them, within its limit; None: not known."""

    def to_json(self) -> dict[str, Any]:
        """Returns the documented JSON."""
        models = {"models": self.num_models, "budget_seconds": self.budget_s, "seconds": self.seconds}
        return {**self.name.to_json(), **models}


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """The work of a run."""

    num_models: Mapping[SplitName, int | None]
    """Split -> models that answer it, at most; None: until the minutes are over."""
    items: Mapping[SplitName, int]
    """Split -> items of each of them."""
    tokens: Mapping[SplitName, int] | None
    """Split -> tokens of each of them, answered as briefly as is right; None if that is not known."""
    num_workers: int
    """Workers that answer at the same time; 1 if the spec leaves it open."""
    budget_s: float | None
    """The limit of the search."""
    rate: Rate | None
    """None: not measured yet."""
    judge_calls: Mapping[SplitName, int] = field(default_factory=dict)
    """Split -> requests to judges for each model, at most: about equal answers they are asked once."""
    stages: tuple[StageName, ...] = ()
    """The names of its stages; none in a run without a list of them."""
    num_initial: int = 0
    """Baselines and warm starts, which no stage counts."""
    own: Mapping[int, Budget] = field(default_factory=dict)
    """Stage -> the limits of its search, with the most trials that its optimizer asks for."""

    def model_s(self, split: SplitName) -> float | None:
        """Returns the seconds in which one model answers a split."""
        if self.rate is None:
            return None
        return self.rate.trial_s(items=self.items[split], tokens=self.tokens[split] if self.tokens else None)

    def seconds(self, split: SplitName) -> float | None:
        """Returns the seconds in which all models answer a split, without the limit of the search."""
        one, number = self.model_s(split), self.num_models[split]
        return None if one is None or number is None else one * number / self.num_workers

    @property
    def search_s(self) -> float | None:
        """Seconds of the search, within its limit."""
        return min((s for s in (self._scoring_s, self.budget_s) if s is not None), default=None)

    @property
    def _scoring_s(self) -> float | None:
        """Seconds of the search by its trials, and by the minutes of single stages, without the limit of them all."""
        by_trials, one = self.seconds("search"), self.model_s("search")
        stages = [self._of_stage(name).seconds for name in self.stages if name.number in self.own]
        if one is None or not stages or None in stages:
            return by_trials
        by_stages = one * self.num_initial / self.num_workers + fsum(s for s in stages if s is not None)
        return by_stages if by_trials is None else min(by_trials, by_stages)

    @property
    def total_s(self) -> float | None:
        """Seconds of search, selection and report, without the start of the engine."""
        parts = (self.search_s, self.seconds("select"), self.seconds("report"))
        return None if self.rate is None or None in parts else sum(part for part in parts if part is not None)

    @property
    def of_stages(self) -> tuple[StageCost, ...]:
        """The work of each stage; making a regression is no part of it, but scoring it is."""
        return tuple(self._of_stage(name) for name in self.stages)

    def _of_stage(self, name: StageName) -> StageCost:
        own, one = self.own.get(name.number, Budget(trials=1)), self.model_s("search")
        scoring_s = None if one is None or own.trials is None else one * own.trials / self.num_workers
        least = min((s for s in (scoring_s, own.seconds) if s is not None), default=None)
        return StageCost(name=name, num_models=own.trials, budget_s=own.seconds, seconds=least)

    @property
    def num_in_budget(self) -> int | None:
        """The trials that the minutes allow, if they end the search first; None if they do not, or it is not known."""
        one, scoring_s = self.model_s("search"), self._scoring_s
        if not one or self.budget_s is None or (scoring_s is not None and scoring_s <= self.budget_s):
            return None
        return int(self.budget_s / one * self.num_workers)

    @property
    def all_judge_calls(self) -> int | None:
        """Requests to judges of the whole run, at most; None: until the minutes are over."""
        if None in self.num_models.values():
            return None
        return sum(calls * (self.num_models[split] or 0) for split, calls in self.judge_calls.items())

    def to_json(self) -> dict[str, Any]:
        """Returns the cost for `check --json`."""
        return {
            "models": dict(self.num_models),
            "items": dict(self.items),
            "tokens": None if self.tokens is None else dict(self.tokens),
            "judge_calls": {**self.judge_calls, "all": self.all_judge_calls},
            "workers": self.num_workers,
            "trial_seconds": self.model_s("search"),
            "seconds": {"search": self.search_s, "select": self.seconds("select"), "report": self.seconds("report")},
            "budget_seconds": self.budget_s,
            "trials_in_budget": self.num_in_budget,
            "measured_trials": self.rate and self.rate.num_trials,
            "stages": [stage.to_json() for stage in self.of_stages],
        }


def cost_of(plan: Plan, rate: Rate | None) -> Cost:
    """Returns the work of a plan, as far as it is known."""
    trials, workers = plan.limits.trials, plan.spec.workers
    initial = plan.num_initial
    return Cost(
        num_models={
            "search": None if trials is None else initial + trials,
            "select": NUM_FINALISTS,
            "report": num_reported(len(plan.experts)),
        },
        items={split: sum(items.count for items in tasks.values()) for split, tasks in plan.items.items()},
        tokens={split: num_tokens(plan, split) for split in plan.items} if plan.lengths else None,
        num_workers=workers.count if isinstance(workers.count, int) and workers.executor == "ray" else 1,
        budget_s=plan.limits.seconds,
        rate=rate,
        judge_calls={
            split: sum(judge_calls(task) * tasks[task.name].count for task in plan.tasks)
            for split, tasks in plan.items.items()
        },
        stages=plan.stage_names,
        num_initial=initial,
        own={stage: replace(own, trials=plan.limits.most[stage]) for stage, own in plan.limits.own.items()},
    )
