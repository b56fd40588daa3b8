"""Optuna says much that is no user's concern: studies in its log, operators as experimental, values that it clips."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import optuna
from optuna.exceptions import ExperimentalWarning


@contextmanager
def quiet() -> Iterator[None]:
    """Lets Optuna say what is wrong and nothing else, and leaves its settings as they were."""
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(max(verbosity, logging.ERROR))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            warnings.filterwarnings("ignore", message="Clip non-finite values", category=UserWarning)
            yield
    finally:
        optuna.logging.set_verbosity(verbosity)
