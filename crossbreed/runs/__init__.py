"""Runs: the package that sees all. A Spec becomes a plan, the loop works it off into a journal, the rest reads that.

`run` starts or goes on, `report_on` judges, `publish_run` and `merge_recipe` write checkpoints, `check_spec` looks
before leaping. Loaded when first asked for: a spec can be read where no tensor library is.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from crossbreed.runs.check import check_spec
    from crossbreed.runs.deliver import publish_run
    from crossbreed.runs.driver import report_on, run
    from crossbreed.runs.evaluate import evaluate_model
    from crossbreed.runs.merge import merge_recipe, merge_recipes
    from crossbreed.runs.plan import Plan, build_plan
    from crossbreed.runs.report import Report, report_json
    from crossbreed.runs.spec import Spec, dump_spec, load_spec, parse_spec

__all__ = [
    "Plan",
    "Report",
    "Spec",
    "build_plan",
    "check_spec",
    "dump_spec",
    "evaluate_model",
    "load_spec",
    "merge_recipe",
    "merge_recipes",
    "parse_spec",
    "publish_run",
    "report_json",
    "report_on",
    "run",
]

_HOMES = {
    "check_spec": "check",
    "merge_recipe": "merge",
    "merge_recipes": "merge",
    "publish_run": "deliver",
    "report_on": "driver",
    "run": "driver",
    "evaluate_model": "evaluate",
    "Plan": "plan",
    "build_plan": "plan",
    "Report": "report",
    "report_json": "report",
    "Spec": "spec",
    "dump_spec": "spec",
    "load_spec": "spec",
    "parse_spec": "spec",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
