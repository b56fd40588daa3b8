"""A search must not depend on global random state: lm-eval re-seeds it at every evaluation."""

import random
from collections.abc import Callable

import numpy as np


def check_it_is_left_alone(search: Callable[[Callable[[], None]], object]) -> None:
    """Asserts that a search neither advances nor reads the global generators.

    Args:
        search: Runs it, calls what it is given before every evaluation, and returns what was found.
    """
    before = np.random.get_state(legacy=False), random.getstate()  # noqa: NPY002 - the state that must not move
    reference = search(lambda: None)
    np.testing.assert_equal((np.random.get_state(legacy=False), random.getstate()), before)  # noqa: NPY002
    constant = np.random.RandomState(1234).get_state(legacy=False)

    def reseed() -> None:
        np.random.set_state(constant)  # noqa: NPY002 - what lm-eval does
        random.setstate(before[1])

    try:
        assert search(reseed) == reference
    finally:
        np.random.set_state(before[0])  # noqa: NPY002
