"""Records what each optimizer asks on a fixed problem: `python tests/optimizer/make_golden.py`.

A change meant to keep results keeps these files; one meant to alter them alters them in the same commit.
"""

import json
from pathlib import Path

from crossbreed.optimizer import CmaEs, Nsga2, RandomSearch
from crossbreed.testing.optimizers import MakeOptimizer, Sphere, Spheres, drive, make_setting, ok
from crossbreed.types import Point

OPTIMIZERS: dict[str, tuple[MakeOptimizer, int]] = {
    "cma_es": (CmaEs, 1),
    "nsga2": (Nsga2, 2),
    "random": (RandomSearch, 1),
}
"""Name -> how it is built, and its number of objectives."""


def trajectory(name: str) -> list[Point]:
    make, num_objectives = OPTIMIZERS[name]
    problem = Sphere(optimum=(0.1, 0.7, 1.0)) if num_objectives == 1 else Spheres(optima=((0.1,) * 3, (0.9,) * 3))
    optimizer = make(make_setting(dim=3, num_objectives=num_objectives, start=(0.3, 0.3, 0.3)))
    return drive(optimizer, lambda number, point: ok(problem, number, point), trials=60, workers=3)


def path_of(name: str) -> Path:
    return Path(__file__).parent / "golden" / f"{name}.json"


if __name__ == "__main__":
    for name in OPTIMIZERS:
        path_of(name).parent.mkdir(exist_ok=True)
        rows = ",\n".join(json.dumps(point) for point in trajectory(name))
        path_of(name).write_text(f"[\n{rows}\n]\n")
