"""The time of a search, over all resumes and without the start of its workers."""

import time


class Stopwatch:
    """Runs from the first job to the last answer.

    A worker is free for its next candidate as soon as it has answered: the optimizer's own time in between counts as
    that candidate's time.
    """

    def __init__(self, *, before_s: float) -> None:
        """Creates a stopped stopwatch.

        Args:
            before_s: The search time before this resume.
        """
        self._before_s = before_s
        self._start: float | None = None
        self._last_answer = 0.0
        self._lost_s = 0.0
        self._began: dict[int, float] = {}
        """Candidate number -> the time at which a worker became free for it."""

    @property
    def elapsed_s(self) -> float:
        """Seconds from the first job to the last answer, without those lost, plus those before this resume."""
        return self._before_s + (0.0 if self._start is None else self._last_answer - self._start - self._lost_s)

    def submitted(self, number: int) -> None:
        """Records that a candidate was submitted; called afterwards, since the first submission starts the workers."""
        if self._start is None:
            self._start = self._last_answer = time.monotonic()
        self._began[number] = self._last_answer

    def answered(self, *, lost_s: float = 0.0) -> None:
        """Records that a worker has become free.

        Args:
            lost_s: The search's time that faults have taken: an outage costs no budget.
        """
        self._lost_s += lost_s
        self._last_answer = time.monotonic()

    def seconds_of(self, number: int) -> float:
        """Returns the time of the candidate that has just been answered."""
        return self._last_answer - self._began[number]
