"""Runs: the package that combines all others. A Spec becomes a plan, then a journal, from which the rest derives.

`run` starts or resumes, `report_on` reports, `publish_run` and `merge_recipe` write checkpoints, `check_spec` validates
without an engine. All of them report progress as `events`. Modules are imported on first use, so that a spec can be
read without a tensor library, and run without one if its engine takes recipes.
"""

from typing import TYPE_CHECKING

from crossbreed.lazy import attributes
from crossbreed.sources import require_tensors

if TYPE_CHECKING:
    from crossbreed.runs.check import Findings, check_spec
    from crossbreed.runs.driver import report_on, run
    from crossbreed.runs.evaluate import Evaluated
    from crossbreed.runs.events import Event, Listener
    from crossbreed.runs.objects import with_objects
    from crossbreed.runs.plan import Plan, build_plan
    from crossbreed.runs.publishing.merge_recipes import merge_recipe, merge_recipes
    from crossbreed.runs.publishing.publish_run import publish_run
    from crossbreed.runs.results.report import Report, report_json
    from crossbreed.runs.spec import Spec, dump_spec, load_spec, parse_spec

__all__ = [
    "Evaluated",
    "Event",
    "Findings",
    "Listener",
    "Plan",
    "Report",
    "Spec",
    "build_plan",
    "check_spec",
    "dump_spec",
    "load_spec",
    "merge_recipe",
    "merge_recipes",
    "parse_spec",
    "publish_run",
    "report_json",
    "report_on",
    "run",
    "with_objects",
]


def _before(module: str) -> None:
    if module.startswith("crossbreed.runs.publishing."):
        require_tensors()


if not TYPE_CHECKING:  # else mypy would accept every name, as one that `__getattr__` finds
    __getattr__, __dir__ = attributes(
        __name__,
        {
            "crossbreed.runs.check": ["Findings", "check_spec"],
            "crossbreed.runs.driver": ["report_on", "run"],
            "crossbreed.runs.evaluate": ["Evaluated"],
            "crossbreed.runs.events": ["Event", "Listener"],
            "crossbreed.runs.objects": ["with_objects"],
            "crossbreed.runs.plan": ["Plan", "build_plan"],
            "crossbreed.runs.publishing.merge_recipes": ["merge_recipe", "merge_recipes"],
            "crossbreed.runs.publishing.publish_run": ["publish_run"],
            "crossbreed.runs.results.report": ["Report", "report_json"],
            "crossbreed.runs.spec": ["Spec", "dump_spec", "load_spec", "parse_spec"],
        },
        before=_before,
    )
