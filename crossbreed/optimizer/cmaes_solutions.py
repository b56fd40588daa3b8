"""A solution of cmaes' CatCMAwM at given values: what a replay tells in the place of a solution that was asked.

cmaes (tested: 0.13) keeps the normal draw of a solution, from which it learns, in the field `_v_raw`, and has no public
way to make a solution of values. `test_cat_cma_learns_from_a_recorded_point` fails if that changes.
"""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray


def solution_at(
    asked: Any, numbers: NDArray[np.float64], integers: NDArray[np.float64], onehot: NDArray[np.bool]
) -> Any:
    """Returns a solution of the same optimizer with other values; what it was not asked for stays None."""
    normal = np.concatenate((numbers, integers))
    return replace(
        asked,
        x=None if asked.x is None else numbers,
        z=None if asked.z is None else integers,
        c=None if asked.c is None else onehot,
        _v_raw=None if asked._v_raw is None else normal,
    )
