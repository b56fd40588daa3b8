"""How much a search may spend. Parsed beside every optimizer's options, kept by the run: an optimizer never sees it."""

from typing import Annotated

from pydantic import Field, model_validator

from crossbreed.config import Config


class BudgetConfig(Config):
    """Whichever runs out first. May change on resume."""

    trials: Annotated[int, Field(ge=1)] | None = None
    """Candidates that the optimizer asks; the baselines come on top."""
    minutes: Annotated[float, Field(gt=0)] | None = None
    """Wall-clock time, counted across resumes."""

    @model_validator(mode="after")
    def _is_finite(self) -> "BudgetConfig":
        if self.trials is None and self.minutes is None:
            raise ValueError("give `trials`, `minutes`, or both: a search without a budget never ends")
        return self
