"""A plan in words: what a run prepares, searches and reports, before it starts."""

from collections.abc import Iterator, Sequence

from crossbreed.fitness import AdapterEngineConfig
from crossbreed.optimizer import BudgetConfig
from crossbreed.parsing import counted
from crossbreed.runs.calibration.questions import num_held_out
from crossbreed.runs.plan import Plan
from crossbreed.runs.results.winner import NUM_FINALISTS
from crossbreed.runs.search.baselines import num_reported
from crossbreed.runs.search.warm_starts import place_of
from crossbreed.runs.stages.stage import Stage
from crossbreed.types import Box


def plan_text(plan: Plan) -> str:
    """Returns the plan and cost of the run as text, to show before it starts."""
    num_items = {split: sum(items.count for items in tasks.values()) for split, tasks in plan.items.items()}
    experts = len(plan.experts)
    num_others = len(plan.warm_starts) + len(plan.made_hashes)
    initial = counted(len(plan.initial_candidates()) - num_others, "baseline")
    if plan.warm_starts:
        initial += f", {counted(len(plan.warm_starts), 'warm start')}"
    steps, grams, slopes = "", plan.spec.artifacts.grams, plan.spec.fitness.slopes
    regression = plan.spec.regression
    if grams is not None:
        names = [task.name for task in plan.tasks]
        read = [task for expert in plan.experts for task in grams.tasks_of(expert, names)]
        number = _calibration_items(plan, read, at_most=grams.items)
        steps += f"  prepare Grams of each expert, transformers in {grams.dtype}, {number}\n"
    if regression is not None:
        initial += ", a regression"
        steps += f"  prepare a regression, transformers in {regression.dtype}, {regression.describe()}; "
        steps += f"its checkpoint stays in the run folder: {plan.merged_bytes / 1e9:.2f} GB\n"
    for stage in plan.stages:
        if stage.optimizer.slope_kind is not None:
            read = [task for task, share in plan.objectives[0].shares.items() if share]
            number = _calibration_items(plan, read, at_most=slopes.items)
            steps += f"  slopes  gradient per trial, transformers in {slopes.dtype}, {number}\n"
        if (needs := stage.optimizer.calibration) is not None:
            counts = [len(plan.items["search"][task].items[: needs.items]) for task in plan.objectives[0].shares]
            held = ", ".join(sorted({f"{num_held_out(count, needs.held_out)} of {count}" for count in counts}))
            steps += f"  slopes  {needs.about}, transformers in {slopes.dtype}; {held} items per task held out\n"
        if isinstance(stage.space.domain, Box) and (choices := stage.space.domain.choices) > 1:
            steps += f"  choice  the first {choices} trials are the best start under each operator; the search goes on "
            steps += "from the best of them\n"
    if plan.space is not None:
        for path, (_, recipe) in zip(plan.spec.warm_start, plan.warm_starts, strict=True):
            steps += f"  warm    {path}: {place_of(recipe, plan.space)}\n"
    steps += "".join(f"{line}\n" for line in _criteria_lines(plan))
    size = f"{plan.merged_bytes / 1e9:.2f} GB per candidate, in memory only"
    made = size if plan.weights else "made by the engine"
    if isinstance(plan.spec.fitness.engine, AdapterEngineConfig):
        made = f"an adapter of at most rank {plan.spec.fitness.engine.max_rank} per candidate"
    stages = len(plan.stage_names)
    what = counted(stages, "stage") if stages else ", ".join(_searched(stage) for stage in plan.stages)
    steps += "".join(f"{line}\n" for line in stage_plan(plan))
    until = limits_text(plan.spec.limits) or ("the stages above" if plan.stages else "no search")
    return (
        f"{plan.spec.name}: {counted(experts, 'expert')}, {what}\n{steps}"
        f"  search  {initial} and {until}, {counted(num_items['search'], 'item')} each\n"
        f"  select  up to {NUM_FINALISTS} finalists, {counted(num_items['select'], 'item')} each\n"
        f"  report  up to {num_reported(experts)} models, {counted(num_items['report'], 'item')} each\n"
        f"  weights {made}"
    )


def _criteria_lines(plan: Plan) -> Iterator[str]:
    """Yields the objectives, the constraints, and what the baselines have to tell for them and for the objectives."""
    criteria = plan.criteria
    for objective in plan.objectives:
        yield f"  goal    {objective.name}: {'less' if objective.minimize else 'more'} is better"
    for constraint in criteria.constraints:
        yield f"  keep    {constraint.name}"
    relative = [objective.name for objective in criteria.objectives if objective.needs_base]
    relative += [constraint.name for constraint in criteria.constraints if constraint.needs_base]
    if relative:
        yield f"  base    its answers to the same items decide on {'; '.join(relative)}"
    for objective in criteria.objectives:
        if objective.relative_to == "experts":
            yield "  gains   the run ends after the baselines unless an expert is better than the base at each of "
            yield f"          {', '.join(objective.tasks)}"
    for stage in plan.stages:
        if criteria.constraints and (stage.optimizer.slope_kind or stage.optimizer.calibration):
            yield f"  slopes  of `{stage.optimizer.label}` know no constraints: trials that keep them come first"


def stage_plan(plan: Plan) -> Iterator[str]:
    """Yields a line for each stage of a run that lists them."""
    searches = {stage.number: stage for stage in plan.stages}
    for name in plan.stage_names:
        if (stage := searches.get(name.number)) is None:
            yield f"  {name}: made before the baselines, and scored after them"
        else:
            until = limits_text(stage.settings.own.model_copy(update={"trials": stage.settings.most_trials}))
            yield f"  {name}: {_searched(stage)}{until and ', '}{until}"


def limits_text(budget: BudgetConfig) -> str:
    """Returns a budget in words; empty if it has no limit."""
    limits = {"trials": budget.trials, "minutes": budget.minutes}
    given = [(limit, unit) for unit, limit in limits.items() if limit is not None]
    return " or ".join(f"{limit:g} {unit if limit != 1 else unit.removesuffix('s')}" for limit, unit in given)


def _searched(stage: Stage) -> str:
    around = " around the best before" if stage.settings.space.is_around else ""
    return f"{stage.space.describe()}{around}, {stage.optimizer.label}"


def _calibration_items(plan: Plan, tasks: Sequence[str], *, at_most: int) -> str:
    """Returns how many search items of these tasks are read: no split has more than it has."""
    counts = {min(at_most, len(plan.items["search"][task].items)) for task in tasks}
    span = f"{min(counts)} to {max(counts)}" if len(counts) > 1 else f"{max(counts, default=0)}"
    return f"{span} items per task"
