"""What a run takes of memory beside its sources, engines and candidates: a regression, and slopes."""

from collections.abc import Mapping
from dataclasses import dataclass

from crossbreed.runs.plan import Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryNeeds:
    """Bytes, from shapes and the lengths of texts alone."""

    walk: int | None
    """While the regression is made; None: there is none."""
    slopes: Mapping[int, int]
    """Stage -> for the slopes that its optimizer needs: in the driver's process, or in each worker."""


def memory_needs(plan: Plan) -> MemoryNeeds:
    """Returns what a plan with measured lengths needs."""
    walk, slopes = None, dict[int, int]()
    if (config := plan.spec.regression) is not None:
        from crossbreed.runs.regression.memory import walk_bytes  # needs torch

        walk = walk_bytes(plan, config)
    for stage in plan.stages:
        if (needs := stage.optimizer.calibration) is not None:
            from crossbreed.runs.calibration.memory import slopes_bytes  # needs torch

            slopes[stage.number] = slopes_bytes(plan, stage.space, needs)
        elif stage.optimizer.slope_kind is not None:
            from crossbreed.runs.calibration.memory import gradient_bytes  # needs torch

            slopes[stage.number] = gradient_bytes(plan)
    return MemoryNeeds(walk=walk, slopes=slopes)
