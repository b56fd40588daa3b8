"""Records what each optimizer asks on a fixed problem: `python tests/optimizer/make_golden.py`.

A change meant to keep results keeps these files; one meant to alter them alters them in the same commit.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from crossbreed.optimizer import (
    CmaEs,
    EvoMerging,
    EvoMergingOptions,
    FrankWolfe,
    FrankWolfeOptions,
    Gp,
    Gradient,
    GradientOptions,
    M2n2,
    M2n2Options,
    Nsga2,
    Nsga3,
    RandomSearch,
    SearchInputs,
    Tpe,
)
from crossbreed.optimizer.cma_surrogate import LqCmaEs
from crossbreed.testing import breeders
from crossbreed.testing.optimizers import Bowls, MakeOptimizer, Sphere, Spheres, drive, make_inputs, ok
from crossbreed.types import Coordinate, Point


def with_densities(inputs: SearchInputs) -> SearchInputs:
    """The same box, of which every second coordinate is a density and the others are weights."""
    coordinates = tuple(
        Coordinate(param=("weight", "density")[i % 2], owner=f"expert {i // 2}") for i in range(inputs.box.dim)
    )
    return replace(inputs, domain=replace(inputs.box, weight_blocks=None, coordinates=coordinates))


def with_bowls(inputs: SearchInputs) -> Gradient:
    loss = Bowls(inputs.box, optimum=(0.1, 0.7, 1.0))
    options = GradientOptions(steps=120, steps_per_trial=2, batch=2, patience=None)
    return Gradient(replace(inputs, calibration=loss), options)


STAGES = EvoMergingOptions(population=8)
DIFFERENCES = FrankWolfeOptions(slopes="differences", variant="soft", vertex_scale=2.0, steps=(0.5, 1.0))
OPTIMIZERS: dict[str, tuple[MakeOptimizer, int]] = {
    "cma_es": (CmaEs, 1),
    "cma_es_lq": (LqCmaEs, 1),
    "evo_merging": (lambda inputs: EvoMerging(with_densities(inputs), STAGES, trials=60), 1),
    "frank_wolfe": (FrankWolfe, 1),
    "frank_wolfe_differences": (lambda inputs: FrankWolfe(inputs, DIFFERENCES), 1),
    "gp": (Gp, 1),
    "gradient": (with_bowls, 1),
    "nsga2": (Nsga2, 2),
    "nsga3": (Nsga3, 3),
    "random": (RandomSearch, 1),
    "tpe": (Tpe, 1),
}
"""Name -> how it is built, and its number of objectives."""
TRIALS = {"gp": 24, "tpe": 30}
"""Of the record, unless 60. Beyond, a difference in the last digit has grown: processors part (by 1e-3 at trial 50)."""


def trajectory(name: str) -> list[Point]:
    make, num_objectives = OPTIMIZERS[name]
    optima = tuple((0.1 + 0.8 * i / max(1, num_objectives - 1),) * 3 for i in range(num_objectives))
    problem = Sphere(optimum=(0.1, 0.7, 1.0)) if num_objectives == 1 else Spheres(optima=optima)
    optimizer = make(make_inputs(dim=3, num_objectives=num_objectives, start=(0.3, 0.3, 0.3)))
    return drive(optimizer, lambda number, point: ok(problem, number, point), trials=TRIALS.get(name, 60), workers=3)


def births() -> list[dict[str, object]]:
    """What M2N2 has born in the world of `crossbreed.testing.breeders`."""
    breeder = M2n2(breeders.make_inputs(), M2n2Options(archive=6, warmup=3, mutation=0.01))
    return [asdict(birth) for birth in breeders.breed(breeder, trials=60, workers=3)]


def path_of(name: str) -> Path:
    return Path(__file__).parent / "golden" / f"{name}.json"


def write(name: str, asked: Sequence[object]) -> None:
    rows = ",\n".join(json.dumps(one) for one in asked)
    path_of(name).write_text(f"[\n{rows}\n]\n")


if __name__ == "__main__":
    for name in OPTIMIZERS:
        path_of(name).parent.mkdir(exist_ok=True)
        write(name, trajectory(name))
    write("m2n2", births())
