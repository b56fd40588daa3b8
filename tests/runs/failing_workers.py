"""Workers whose engine fails."""

from collections.abc import Callable

import pytest

from crossbreed.errors import EngineError
from crossbreed.runs.search.pool import Job
from crossbreed.runs.workers.worker import Worker
from crossbreed.types import Score


def fails(patch: pytest.MonkeyPatch, when: Callable[[Job], bool]) -> None:
    """Lets workers raise at the jobs that `when` picks."""
    evaluate = Worker.evaluate

    def failing(self: Worker, job: Job) -> Score:
        if when(job):
            raise EngineError("CUDA out of memory")
        return evaluate(self, job)

    patch.setattr(Worker, "evaluate", failing)
