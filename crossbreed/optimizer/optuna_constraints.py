"""Constraints as Optuna has them, whose samplers then put trials that keep them first."""

from collections.abc import Sequence

from optuna.trial import FrozenTrial, Trial


def constrain(trial: Trial | FrozenTrial, excesses: Sequence[float]) -> None:
    """Says of a trial, before it is told, how far outside each constraint it is: above 0, it breaks it."""
    for index, excess in enumerate(excesses):
        trial.set_constraint(str(index), excess)
