"""Any optimizer of nevergrad, by its name: `NGOpt` chooses one by coordinates, budget and workers.

Some of nevergrad's optimizers read the global random generators, and some run their algorithm in a thread of its own,
which would wait for ever if it were asked again before it is told. So they are asked for as many points at a time as
they were told of workers, told all of them in order, and asked again at once, with global generators of their own.
"""

import random
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from threading import Thread
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, model_validator

from crossbreed.errors import InputError, require
from crossbreed.optimizer.build import OptimizerConfig, OptimizerPart
from crossbreed.optimizer.feasible import ordered
from crossbreed.optimizer.generation import Generation, Generational, measured
from crossbreed.optimizer.nevergrad_space import NevergradSpace
from crossbreed.optimizer.options import Options
from crossbreed.optimizer.penalty import coordinates_of, penalised
from crossbreed.optimizer.protocol import SearchInputs, check_one_objective
from crossbreed.optimizer.unit_cube import declared_levels, from_unit, to_unit
from crossbreed.parsing import suggestion
from crossbreed.types import Box, Outcome, Point, Proposal, Status

_SEEDED_BY_THE_CLOCK = "CmaFmin2"
"""The method that no generator of ours decides."""
_SAME = 1e-6
"""The distance in the unit cube within which a recorded point is the one asked for: processors round differently."""


class NevergradOptions(Options):
    """Options of `nevergrad`."""

    name: str = "NGOpt"
    """One of nevergrad's optimizers: `NGOpt`, `CMA`, `DE`, `PSO`, `OnePlusOne`, `Cobyla` and hundreds more."""
    num_workers: Annotated[int, Field(ge=1)] = 1
    """Candidates that are out at once: nevergrad learns from so many together, and may choose another algorithm."""
    start: float | None = None
    """Where each coordinate starts; default: at the best merge among the baselines, or in the middle of the box."""
    sigma: Annotated[float, Field(gt=0, le=1)] = 1 / 3
    """Initial step, as a fraction of each range: with weights from -1.5 to 1.5, 1/3 is nevergrad's own 1.0."""
    weight_penalty: Annotated[float, Field(ge=0)] = 0.0
    """Taken from the objective: this times the mean magnitude of the weights, if any are searched."""


class NevergradConfig(OptimizerConfig):
    """Any optimizer of nevergrad by name, for one objective."""

    kind: Literal["nevergrad"] = "nevergrad"
    options: NevergradOptions = NevergradOptions()

    @property
    def label(self) -> str:
        """With the name of the optimizer."""
        return f"{self.kind} {self.options.name}"

    @property
    def reads_budget(self) -> bool:
        """True: nevergrad chooses by it, and lays out schedules."""
        return True

    @property
    def reads_violations(self) -> bool:
        """True: its penalty is on the values as they are."""
        return True

    @model_validator(mode="after")
    def _counts_trials(self) -> "NevergradConfig":
        if self.budget.trials is None:
            raise ValueError("nevergrad chooses its algorithm by the budget: give `budget: {trials: ...}`")
        return self


class Nevergrad(Generational):
    """Points of the unit cube, learnt from as many at a time as there are workers.

    INVALID and STOPPED count as worse than the worst. FAILED is not told, or as the worst, where the algorithm waits.
    """

    def __init__(self, inputs: SearchInputs, options: NevergradOptions | None = None, *, trials: int = 100) -> None:
        """Builds the optimizer, and asks it nothing.

        Args:
            inputs: One objective and a box.
            options: Its name, and how it begins.
            trials: The budget.

        Raises:
            InputError: there is no such optimizer, it cannot be built, or a run with it could not be repeated.
            MissingExtra: nevergrad is not installed.
        """
        require("nevergrad", extra="nevergrad")
        check_one_objective(inputs, "nevergrad")
        self._options, self._box = options or NevergradOptions(), inputs.box
        self._space = NevergradSpace(declared_levels(inputs.box))
        self._weights = coordinates_of(inputs.box, "weight")
        self._losses: list[float] = []
        seed = int(inputs.rng.integers(2**32))
        legacy = np.random.RandomState(seed)
        self._states: tuple[Any, Any] = legacy.get_state(), random.Random(seed).getstate()
        with self._isolated():
            self._optimizer = _build(inputs, self._options, self._space, np.random.RandomState(seed), trials)
        self._waits = any(inner.no_parallelization for inner in _inner_optimizers(self._optimizer))
        """Whether its algorithm runs in a thread that waits to be told."""
        self._candidates: list[Any] = []
        self._is_begun = False

    def ask(self, number: int) -> Point | None:
        """Returns the next point, or None while outcomes are outstanding."""
        self._ensure_begun()
        return super().ask(number)

    def replay(self, number: int, recorded: Proposal) -> Point | None:
        """See `Replayable`."""
        self._ensure_begun()
        return super().replay(number, recorded)

    def tell(self, outcome: Outcome) -> None:
        """Takes the penalised value."""
        point = self._generation.point(outcome.number)
        part = [point[index] for index in self._weights]
        super().tell(ordered(penalised(outcome, part, self._options.weight_penalty)))

    def _learn(self, outcomes: Sequence[Outcome]) -> None:
        with self._isolated():
            for candidate, outcome in zip(self._candidates, outcomes, strict=True):
                if self._waits or outcome.status is not Status.FAILED:
                    self._optimizer.tell(candidate, self._loss(outcome))
            self._sample()

    def _loss(self, outcome: Outcome) -> float:
        if (found := measured(outcome)) is not None:
            self._losses.append(-found[0])
            return -found[0]
        worst, best = max(self._losses, default=0.0), min(self._losses, default=0.0)
        return worst if outcome.status is Status.FAILED else worst + (worst - best or 1.0)

    def _take(self, index: int, recorded: Point) -> None:
        """Puts a recorded point in the place of a candidate, unless rounding or the algorithm's own thread forbids."""
        value, asked = self._space.value(to_unit(self._box, recorded)), self._candidates[index]
        if not self._waits and not np.allclose(value, asked.value, rtol=0, atol=_SAME):
            self._candidates[index] = self._optimizer.parametrization.spawn_child(new_value=value)

    def _ensure_begun(self) -> None:
        if not self._is_begun:
            self._is_begun = True
            with self._isolated():
                self._sample()

    def _sample(self) -> None:
        self._candidates = [_in_daemon(self._optimizer.ask) for _ in range(self._options.num_workers)]
        units = [self._space.unit(candidate.value) for candidate in self._candidates]
        self._generation = Generation([from_unit(self._box, unit) for unit in units])

    @contextmanager
    def _isolated(self) -> Iterator[None]:
        """Lends nevergrad global generators of its own, and keeps its warnings of its algorithms to itself."""
        kept = np.random.get_state(), random.getstate()  # noqa: NPY002
        np.random.set_state(self._states[0])  # noqa: NPY002
        random.setstate(self._states[1])
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                yield
        finally:
            self._states = np.random.get_state(), random.getstate()  # noqa: NPY002
            np.random.set_state(kept[0])  # noqa: NPY002
            random.setstate(kept[1])


def _in_daemon(ask: Callable[[], Any]) -> Any:
    """Returns what a function returns in a daemon thread: the threads that it starts are daemons then.

    Others would keep a process from ending as long as they wait to be told.
    """
    future = Future[Any]()

    def run() -> None:
        try:
            future.set_result(ask())
        except BaseException as error:
            future.set_exception(error)

    Thread(target=run, daemon=True).start()
    return future.result()


def _build(
    inputs: SearchInputs,
    options: NevergradOptions,
    searched: NevergradSpace,
    random_state: np.random.RandomState,
    trials: int,
) -> Any:
    import nevergrad as ng

    if options.name not in ng.optimizers.registry:
        raise InputError(
            f"nevergrad has no optimizer `{options.name}`",
            expected="a name such as `NGOpt`, `CMA` or `DE`",
            got=options.name,
            where="optimizer.options.name",
            fix=suggestion(options.name, ng.optimizers.registry),
        )
    box = inputs.box
    middle = from_unit(box, np.full(box.dim, 0.5))
    start = (inputs.start or middle) if options.start is None else (options.start,) * box.dim
    space = searched.parameters(to_unit(box, start), options.sigma)
    space.random_state = random_state
    chosen = ng.optimizers.registry[options.name]
    if options.num_workers > 1 and chosen.no_parallelization:
        raise InputError(
            f"nevergrad's `{options.name}` asks one point after the other",
            expected="num_workers: 1",
            got=f"num_workers: {options.num_workers}",
            where="optimizer.options.num_workers",
            fix="set `num_workers: 1`, or use another `name`",
        )
    try:
        made = chosen(space, budget=trials, num_workers=options.num_workers)
        inner = [*_inner_optimizers(made)]
    except Exception as error:  # what its hundreds of authors raise
        raise InputError(
            f"nevergrad's `{options.name}` cannot be built here: {type(error).__name__}: {error}",
            got=f"{box.dim} coordinates, {trials} trials, num_workers: {options.num_workers}",
            where="optimizer.options",
            fix="set `num_workers: 1`, or use another `name`",
        ) from error
    if any(getattr(one, "method", None) == _SEEDED_BY_THE_CLOCK for one in inner):
        raise InputError(
            f"a search with nevergrad's `{options.name}` cannot be repeated: it uses cma.fmin, which the clock seeds",
            expected="an algorithm that the spec's seed decides",
            got=f"{box.dim} coordinates, {trials} trials, num_workers: {options.num_workers}",
            where="optimizer.options.name",
            fix="use `name: CMA`, or `kind: cma_es`",
        )
    return made


def _inner_optimizers(optimizer: Any) -> Iterator[Any]:
    """Yields an optimizer and those that it consists of."""
    from nevergrad.optimization.base import Optimizer

    seen, pending = set[int](), [optimizer]
    while pending:
        one = pending.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        held = [getattr(one, "optim", None), *vars(one).values()]
        pending += [value for value in held if isinstance(value, Optimizer)]
        pending += [part for value in held if isinstance(value, list) for part in value if isinstance(part, Optimizer)]


PART = OptimizerPart(
    config=NevergradConfig,
    make=lambda inputs, config: Nevergrad(inputs, config.options, trials=config.budget.trials or 0),
    searches=Box,
    needs=("nevergrad",),
)
