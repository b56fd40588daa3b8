"""The budget of a search. Parsed beside every optimizer's options but enforced by the run.

An optimizer that plans by it says so (`OptimizerConfig.reads_budget`), and it is then frozen at the start.
"""

from typing import Annotated

from pydantic import Field

from crossbreed.config import Config


class BudgetConfig(Config):
    """The limits of a search: it ends at whichever is reached first. They may change on resume, unless stated."""

    trials: Annotated[int, Field(ge=0)] | None = None
    """Number of candidates that the optimizer proposes; baselines are extra. 0: nothing is searched, and baselines and
    what the run has made are compared. Optimizers that plan by this number keep it: `evo_merging` shares it between its
    stages, and `nevergrad` chooses and schedules algorithms by it."""
    minutes: Annotated[float, Field(gt=0)] | None = None
    """Wall-clock time, counted across resumes."""

    @property
    def is_limited(self) -> bool:
        """Whether it ends anything."""
        return self.trials is not None or self.minutes is not None
