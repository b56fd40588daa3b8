"""Silences Optuna: it logs studies and warns of experimental operators and clipped values, none of it for users."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import optuna
from optuna.exceptions import ExperimentalWarning


@contextmanager
def silence_optuna() -> Iterator[None]:
    """Lets only Optuna's errors through, and restores its settings afterwards."""
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(max(verbosity, logging.ERROR))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            warnings.filterwarnings("ignore", message="Clip non-finite values", category=UserWarning)
            yield
    finally:
        optuna.logging.set_verbosity(verbosity)
