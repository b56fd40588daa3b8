"""Outages: FAILED answers in a row say something of the machine, not of their candidates.

A FAILED answer waits until another answer proves that the engine lives; then it is the candidate's, and is journalled.
Where nothing else is to be asked, a trial that was measured before is asked again for that proof. Several in a row end
the run with nothing journalled of them, so that they are in flight for the next driver, as after a kill.
"""

from collections.abc import Sequence

from crossbreed.errors import MachineError
from crossbreed.runs.search.pool import Answered
from crossbreed.types import Status

MIN_IN_A_ROW = 3
"""The number of FAILED answers in a row that are an outage; more if more workers than that may have been answering."""


class Outage:
    """The FAILED answers since the last one that was measured."""

    def __init__(self) -> None:
        self._waiting: list[Answered] = []
        self._num_in_a_row = self._num_in_flight = 0
        self.num_workers = 1
        """How many jobs have been in flight together."""

    @property
    def is_suspected(self) -> bool:
        """Whether FAILED answers wait for a proof."""
        return bool(self._waiting)

    def submitted(self) -> None:
        """Counts a job that a worker was given."""
        self._num_in_flight += 1
        self.num_workers = max(self.num_workers, self._num_in_flight)

    def hear(self, answered: Answered, *, is_proof: bool = False) -> Sequence[Answered]:
        """Takes an answer; returns those that may be journalled now, in their order.

        Args:
            answered: The answer.
            is_proof: Whether it was asked for proof alone. It then does not end the row: else a search whose every
                candidate FAILED would never end.

        Raises:
            MachineError: so many FAILED in a row that it is an outage.
        """
        self._num_in_flight -= 1
        self._waiting.append(answered)
        if answered.score.status is not Status.FAILED:
            self._num_in_a_row = self._num_in_a_row if is_proof else 0
            known, self._waiting = self._waiting, []
            return known
        self._num_in_a_row += 1
        if self._num_in_a_row >= max(MIN_IN_A_ROW, self.num_workers + 1):
            raise MachineError(
                f"{self._num_in_a_row} trials in a row could not be measured: {answered.score.error}\n"
                "They are not journalled and cost no budget: the same command asks them again; log.txt has tracebacks"
            )
        return ()
