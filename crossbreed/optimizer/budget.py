"""The budget of a search. Parsed beside every optimizer's options but enforced by the run: no optimizer reads it."""

from typing import Annotated

from pydantic import Field, model_validator

from crossbreed.config import Config


class BudgetConfig(Config):
    """The limits of a search: it ends at whichever is reached first. May change on resume."""

    trials: Annotated[int, Field(ge=0)] | None = None
    """Number of candidates that the optimizer proposes; baselines are extra. 0: nothing is searched, and baselines and
    what the run has made are compared."""
    minutes: Annotated[float, Field(gt=0)] | None = None
    """Wall-clock time, counted across resumes."""

    @model_validator(mode="after")
    def _is_finite(self) -> "BudgetConfig":
        if self.trials is None and self.minutes is None:
            raise ValueError("give `trials`, `minutes`, or both: a search without a budget never ends")
        return self
