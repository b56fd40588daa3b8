"""Candidates that keep the constraints before those that do not, by Deb's rules (doi 10.1016/S0045-7825(99)00389-8).

Of two that keep them, the better one comes first; one that keeps them comes before one that does not; of two that do
not, the one that is less far off.
"""

from collections.abc import Sequence
from dataclasses import replace

from crossbreed.constraints import violation_of
from crossbreed.optimizer.generation import measured
from crossbreed.types import Outcome


def off(outcome: Outcome) -> float:
    """Returns how far off the constraints are, all together; 0 if all are kept, or there are none."""
    return 0.0 if outcome.excesses is None else violation_of(outcome.excesses)


def ordered(outcome: Outcome) -> Outcome:
    """Returns an outcome whose values alone say which comes first, for optimizers that know no constraints.

    Values of what is feasible keep their order between -1 and 1, objective by objective; what is not has one value
    below -1 in all of them. So the order of one objective is Deb's, and dominance among several is his too.

    >>> from crossbreed.types import Status
    >>> kept, broken = (Outcome(number=0, status=Status.OK, values=(1.0,), excesses=(e,)) for e in (-0.1, 0.5))
    >>> ordered(kept).values, ordered(broken).values
    ((0.5,), (-1.5,))
    """
    found = measured(outcome)
    if found is None or outcome.excesses is None:
        return outcome
    violation = off(outcome)
    values = (-1 - violation,) * len(found) if violation else tuple(value / (1 + abs(value)) for value in found)
    return replace(outcome, values=values, excesses=None)


def nearest(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Returns the outcomes that keep the constraints, or if none does, those that are least far off."""
    least = min(map(off, outcomes), default=0.0)
    return [outcome for outcome in outcomes if off(outcome) == least]
