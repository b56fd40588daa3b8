"""lq-CMA-ES by pycma (doi 10.1145/3321707.3321842): a model ranks each generation, and few of it are measured.

pycma's `SurrogatePopulation` calls the function that it minimises in the middle of its own work: it measures some,
fits, compares, and measures half as many again until the model's order agrees with theirs. Here it is called on a copy,
with a function that knows the losses told so far; where it compares without having all of them, the copy is dropped and
what it lacked is asked. So each batch is asked at once, and no thread waits.
"""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossbreed.optimizer.cma_strategies import Pycma, Unit, first_mean, rank_losses
from crossbreed.optimizer.generation import Generation, Generational
from crossbreed.optimizer.protocol import SearchInputs, check_one_objective
from crossbreed.optimizer.unit_cube import from_unit, to_unit
from crossbreed.types import Outcome, Point


class _LacksLosses(Exception):
    """The model is compared with losses that are not known yet."""


class LqCmaEs(Generational):
    """CMA-ES with a linear-quadratic model, whose own optimum takes part in each generation.

    Losses are those of `cma_es`, of what was measured of a generation so far; with too little measured, the same
    distribution is sampled again. Restarts are those of `cma_es` too, with a new model.
    """

    def __init__(
        self, inputs: SearchInputs, *, sigma0: float = 0.15, popsize: int | None = None, separable: bool = False
    ) -> None:
        """Samples the first generation; the arguments are the options of `cma_es`.

        Raises:
            InputError: there are several objectives.
        """
        check_one_objective(inputs, "cma_es")
        self._box, self._rng, self._sigma0, self._separable = inputs.box, inputs.rng, sigma0, separable
        self._begin(first_mean(inputs), popsize)

    def _begin(self, mean: NDArray[np.float64], popsize: int | None) -> None:
        self._strategy = Pycma(
            mean, sigma=self._sigma0, popsize=popsize, rng=self._rng, separable=self._separable, keep=1
        )
        self._surrogate = _new_surrogate()
        self._sample()

    def _sample(self) -> None:
        """Draws a generation, of which the model then chooses the first to measure."""
        self._samples = self._strategy.ask()
        self._outcomes: dict[int, Outcome] = {}
        self._losses: dict[int, float] = {}
        self._advance()

    def _advance(self) -> None:
        """Asks what the model lacks; once it lacks nothing, moves the distribution and draws the next generation."""
        tried = deepcopy(self._surrogate)
        lacking = list[int]()

        def loss(sample: Unit) -> float:
            index = next(i for i, one in enumerate(self._samples) if one is sample)
            if index not in self._losses:
                lacking.append(index)
            return self._losses.get(index, 0.0)

        tried.fitness, tried.model.lacking = loss, lacking
        try:
            with _silence_pycma():
                ranked = tried(self._samples)
        except _LacksLosses:
            self._batch = lacking
            points = [from_unit(self._box, self._samples[index][: self._box.dim]) for index in lacking]
            self._generation = Generation(points)
            return
        tried.fitness, tried.model.lacking = None, ()
        self._surrogate = tried
        with _silence_pycma():
            self._strategy.tell(self._samples, ranked)
        if self._strategy.is_over:
            self._begin(self._strategy.mean, 2 * self._strategy.popsize)
            return
        best = np.clip(tried.model.xopt, 0.0, 1.0)
        self._strategy.inner.inject([self._strategy.inner.gp.geno(best)])
        self._sample()

    def _learn(self, outcomes: Sequence[Outcome]) -> None:
        self._outcomes |= zip(self._batch, outcomes, strict=True)
        losses = rank_losses([*self._outcomes.values()])
        if losses is None:
            self._sample()
            return
        self._losses = dict(zip(self._outcomes, losses, strict=True))
        self._advance()

    def _take(self, index: int, recorded: Point) -> None:
        number = self._batch[index]
        taken = np.array(self._samples[number])
        taken[: self._box.dim] = to_unit(self._box, recorded)
        self._samples[number] = taken


@contextmanager
def _silence_pycma() -> Iterator[None]:
    """Keeps to itself what pycma warns of: a recorded point for an injected one, and a sample that was there before."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="orphanated injected solution")
        warnings.filterwarnings("ignore", message="x value already in Model")
        yield


def _new_surrogate() -> Any:
    """Returns pycma's surrogate, with a model that is compared only with losses that are known."""
    from cma.fitness_models import LQModel, SurrogatePopulation

    class Model(LQModel):  # type: ignore[misc]  # cma has no types
        lacking: Sequence[int] = ()

        def kendall(self, *args: Any, **kwargs: Any) -> float:
            if self.lacking:
                raise _LacksLosses
            return float(super().kendall(*args, **kwargs))

    return SurrogatePopulation(None, model=Model())
