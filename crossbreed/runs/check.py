"""`crossbreed check`: everything that can be known to be wrong before anything heavy starts."""

import os
import shutil

from crossbreed.errors import InputError
from crossbreed.fitness import build_engine, evaluate
from crossbreed.kernels import materialize
from crossbreed.runs.plan import Plan, build_plan
from crossbreed.runs.spec import Spec


def check_spec(spec: Spec, *, answer: bool = False) -> Plan:
    """Validates a spec and prints what a run would do and cost.

    Args:
        spec: What to check.
        answer: Also start the engine on the base and have it answer one item of each task.

    Raises:
        InputError: something is wrong.
    """
    plan = build_plan(spec)
    plan.check_lengths()
    print(plan.describe())
    _check_memory(plan)
    print(
        f"  disk    {shutil.disk_usage('.').free / 1e9:.0f} GB free; publishing takes {plan.merged_bytes / 1e9:.2f} GB"
    )
    for task in plan.tasks:
        item = plan.items["search"][task.name].items[0]
        request = task.requests(item)[0]
        print(f"\n{task.name}, item {item.id}:\n{request.prompt.text!r}\n  gold: {task.kind.shown(item)!r}")
    if answer:
        _answer_one_each(plan)
    print("\nnothing wrong was found")
    return plan


def _check_memory(plan: Plan) -> None:
    """The engine holds one candidate; the merge works tensor by tensor on mapped files."""
    present = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    print(
        f"  memory  {present / 1e9:.0f} GB; the engine holds {plan.merged_bytes / 1e9:.2f} GB of weights and its cache"
    )
    if plan.merged_bytes > present:
        raise InputError(
            "the model does not fit this machine's memory",
            expected=f"more than {plan.merged_bytes / 1e9:.1f} GB",
            got=f"{present / 1e9:.1f} GB",
            fix="join a cluster whose workers are larger: workers.address",
        )


def _answer_one_each(plan: Plan) -> None:
    engine = build_engine(plan.spec.fitness.engine, plan.sources.base.path)
    try:
        recipe = plan.firsts()[0][1]
        handle = engine.adopt(recipe, materialize(recipe, plan.sources))
        for task in plan.tasks:
            items = plan.items["search"][task.name]
            answered = evaluate(handle, [task], {task.name: type(items)(items=items.items[:1])})
            print(
                f"\n{task.name}: the base answers {answered.texts[task.name][0]!r}, {answered.tasks[task.name].mean:g}"
            )
    finally:
        engine.close()
