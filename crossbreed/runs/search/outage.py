"""Outages: FAILED results in a row say something of the machine, not of their candidates.

A FAILED result waits until another proves that the engine lives; then it is the candidate's, and is journalled. After
several in a row, or where nothing else is to be evaluated, a trial that was measured before is evaluated again for that
proof. If that FAILED too, the run ends with nothing journalled of those that wait, so that they are in flight for the
next driver, as after a kill. What FAILED in an earlier search says nothing when it FAILED again.
"""

from collections.abc import Sequence

from crossbreed.errors import MachineError
from crossbreed.runs.search.pool import JobResult
from crossbreed.types import Status

MIN_IN_A_ROW = 3
"""The number of FAILED results in a row that are an outage; more if more workers than that may have been answering."""
_MOST_ROWS = 3
"""So many such rows of candidates end a search: the engine lives, but none of what it is asked can be measured."""


class Outage:
    """The FAILED results since the last one that was measured."""

    def __init__(self, *, can_prove: bool = False) -> None:
        """Starts with no answer.

        Args:
            can_prove: Whether the caller can ask for a proof when `needs_proof`; if not, a full row is an outage.
        """
        self.can_prove = can_prove
        """Whether a proof can be asked for."""
        self._waiting: list[JobResult] = []
        self._num_in_a_row = self._num_unproven = self._num_in_flight = 0
        self._error: str | None = None
        self.is_proving = False
        """Whether a proof has been asked for that has not been answered."""
        self.num_workers = 1
        """How many jobs have been in flight together."""

    @property
    def is_suspected(self) -> bool:
        """Whether FAILED results wait for a proof."""
        return bool(self._waiting)

    @property
    def needs_proof(self) -> bool:
        """Whether so many FAILED that nothing but a proof is to be asked."""
        return self._num_unproven >= self._row

    @property
    def _row(self) -> int:
        return max(MIN_IN_A_ROW, self.num_workers + 1)

    def submitted(self, *, is_proof: bool = False) -> None:
        """Counts a job that a worker was given."""
        self.is_proving = self.is_proving or is_proof
        self._num_in_flight += 1
        self.num_workers = max(self.num_workers, self._num_in_flight)

    def hear(self, result: JobResult, *, is_proof: bool = False, is_known: bool = False) -> Sequence[JobResult]:
        """Takes a result; returns those that may be journalled now, in their order.

        Args:
            result: The result.
            is_proof: Whether it was evaluated for proof alone. It then does not end the row: else a search whose every
                candidate FAILED would never end.
            is_known: Whether the trial FAILED in an earlier search, too: then it does not count in the row.

        Raises:
            MachineError: so many FAILED in a row that it is an outage.
        """
        self._num_in_flight -= 1
        self.is_proving = self.is_proving and not is_proof
        if result.score.status is not Status.FAILED:
            self._num_in_a_row = self._num_in_a_row if is_proof else 0
            return [*self.release(), result]
        self._error = result.score.error
        self._num_unproven += not is_known
        if not is_proof:
            self._waiting.append(result)
            self._num_in_a_row += not is_known
        if self.needs_proof and (is_proof or not self.can_prove):
            raise MachineError(
                f"{self._num_unproven} trials in a row could not be measured: {self._error}\n"
                "They are not journalled and cost no budget: the same command evaluates them again; log.txt has "
                "tracebacks"
            )
        return ()

    def release(self) -> Sequence[JobResult]:
        """Returns the FAILED answers that wait, as their candidates' own."""
        released, self._waiting, self._num_unproven = self._waiting, [], 0
        return released

    def require_hope(self) -> None:
        """Ends a search in which candidate after candidate FAILED, although the engine lives.

        Raises:
            MachineError: so many did.
        """
        if not self._waiting and self._num_in_a_row >= _MOST_ROWS * self._row:
            raise MachineError(
                f"none of the last {self._num_in_a_row} candidates could be measured, but the engine still answers for "
                f"others: {self._error}\nThey are journalled as FAILED and cost no budget: the same command goes on "
                "from there; log.txt has tracebacks"
            )
