"""Adam on the slopes of a calibration loss: thousands of coordinates, where a search by scores has tens.

Some steps down the loss of a minibatch are one proposal: every candidate is a checkpoint of one descent, and its score
decides nothing but which checkpoint wins. It ends after all steps, or when the loss of held-out items has not improved
for some checkpoints.

The learning rate warms up linearly, and then decays linearly to 0 at the last step. Steps are an option and no budget:
a budget may change on resume, the schedule not. Points leave the box by no step; they are rounded at each checkpoint to
six digits, and the descent goes on from there, so that a journal has all that decides but Adam's moments. Those follow
from the slopes, which are computed again where no cache has them.
"""

import math
from typing import Annotated, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from crossbreed.config import InputPath
from crossbreed.errors import InputError, InvalidWeights
from crossbreed.optimizer.build import OptimizerConfig, OptimizerPart
from crossbreed.optimizer.options import CalibrationNeeds, LossKind, Options
from crossbreed.optimizer.protocol import CalibrationLoss, SearchInputs, check_one_objective
from crossbreed.types import Box, Outcome, Point, Proposal

Floats = NDArray[np.float64]

_TINY = 1e-12
"""Added to the root of Adam's second moment."""


class GradientOptions(Options):
    """Options of `gradient`."""

    loss: LossKind = "cross_entropy"
    """`cross_entropy`: of right answers, the mean over their tokens. `agreement`: Jensen-Shannon divergence of the
    merge's prediction from each expert's on its own tasks. `distillation`: Kullback-Leibler divergence from it, over
    the whole vocabulary. `entropy`: of the merge's prediction, without any answers' being right."""
    temperature: Annotated[float, Field(gt=0)] = 1.0
    """Softens both predictions of `distillation`."""
    hidden: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the mean squared difference of the merge's hidden states from the expert's, over all tokens of a text:
    added to `agreement` or `distillation`. 0: none."""
    hidden_layers: tuple[Annotated[int, Field(ge=1)], ...] = ()
    """The layers behind which they are compared; the first is 1. Default: the middle one."""
    pull: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the mean distance of coordinates from where the descent began, added to the loss. 0: none."""
    steps: Annotated[int, Field(ge=1)] = 60
    """Steps of the whole descent; the schedule follows from it."""
    steps_per_trial: Annotated[int, Field(ge=1)] = 10
    """Steps between two checkpoints, each of which is a trial."""
    batch: Annotated[int, Field(ge=1)] | None = 8
    """Items of each task per step, drawn anew when all have had their turn. None: all."""
    rate: Annotated[float, Field(gt=0)] = 0.05
    """The learning rate: about the largest change of a coordinate in one step."""
    warmup: Annotated[int, Field(ge=0)] = 5
    """Steps in which the learning rate grows to that."""
    decay: Literal["linear", "none"] = "linear"
    """The learning rate from there on: falling to 0 at the end, or constant."""
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.99)
    """How much of the means of slopes and of their squares each step keeps."""
    items: Annotated[int, Field(ge=2)] | None = None
    """Maximum number of search items per task in the loss: the first ones of the split. None: all."""
    held_out: Annotated[float, Field(ge=0, le=0.5)] = 0.125
    """Part of them, task by task, on which no slope is computed; at least one item of a task. 0: none."""
    prompts: dict[str, InputPath] = Field(default_factory=dict)
    """Task (of kind `generate`) -> a file of further items without answers: asked as the task asks, and answered by the
    task's expert itself, greedily. None of them may be a selection or report item."""
    patience: Annotated[int, Field(ge=1)] | None = 3
    """The descent ends if the loss of held-out items has not improved for so many checkpoints. None: it does not."""

    @property
    def calibration(self) -> CalibrationNeeds:
        """The loss that it goes down."""
        size = "all items" if self.batch is None else f"{self.batch} items per task"
        about = f"{self.steps} steps of {size}, a trial every {self.steps_per_trial}"
        return CalibrationNeeds(
            loss=self.loss,
            items=self.items,
            held_out=self.held_out,
            batch=self.batch,
            prompts=self.prompts,
            temperature=self.temperature,
            hidden=self.hidden,
            hidden_layers=self.hidden_layers if self.hidden else (),
            about=about,
        )

    @model_validator(mode="after")
    def _means_something(self) -> "GradientOptions":
        if self.temperature != 1 and self.loss != "distillation":
            raise ValueError(f"`temperature` is of `loss: distillation`; got {self.loss}: remove it")
        if self.hidden and self.loss not in ("agreement", "distillation"):
            raise ValueError(f"`hidden` needs `loss: distillation` or `agreement`, which ask experts; got {self.loss}")
        if self.hidden_layers and not self.hidden:
            raise ValueError("`hidden_layers` are compared by a weight: set `hidden`, for example to 1")
        return self

    @model_validator(mode="after")
    def _warms_up_in_time(self) -> "GradientOptions":
        if self.warmup >= self.steps:
            raise ValueError(f"`warmup` must be less than `steps` ({self.steps}), got {self.warmup}")
        return self


class GradientConfig(OptimizerConfig):
    """Adam on the slopes of a calibration loss, for one objective and a space of sums of deltas."""

    kind: Literal["gradient"] = "gradient"
    options: GradientOptions = GradientOptions()

    @property
    def most_trials(self) -> int:
        """The checkpoints of the whole descent."""
        return math.ceil(self.options.steps / self.options.steps_per_trial)


class Gradient:
    """One descent, from the start or else the middle of the box."""

    in_order: ClassVar[bool] = True

    def __init__(self, inputs: SearchInputs, options: GradientOptions | None = None) -> None:
        """Stands at the start.

        Raises:
            InputError: there are several objectives, or no calibration loss.
        """
        check_one_objective(inputs, "gradient")
        self._options, self._rng, box = options or GradientOptions(), inputs.rng, inputs.box
        self._loss = _required(inputs.calibration)
        self._low, self._high = np.array(box.low), np.array(box.high)
        start = (self._low + self._high) / 2 if inputs.start is None else np.array(inputs.start)
        self._point: Floats = start.clip(self._low, self._high)
        self._start = self._point
        self._moments = np.zeros((2, box.dim))
        self._num_steps, self._num_worse, self._least, self._is_over = 0, 0, np.inf, False
        self._left: list[list[int]] = [[] for _ in self._loss.tasks]
        """Of each task, the items that have not had their turn."""

    def ask(self, number: int) -> Point | None:
        """Returns the next checkpoint; None at the end of the descent."""
        options = self._options
        if self._is_over or self._num_steps >= options.steps:
            return None
        for _ in range(min(options.steps_per_trial, options.steps - self._num_steps)):
            try:
                _, slopes = self._loss.slopes(_as_point(self._point), self._batch())
                slopes = slopes + self._options.pull * np.sign(self._point - self._start) / len(self._point)
            except InvalidWeights:  # it has gone too far: what was asked before stands
                self._is_over = True
                return None
            self._step(slopes)
        self._point = _rounded(self._point).clip(self._low, self._high)
        self._look_back()
        return _as_point(self._point)

    def replay(self, number: int, recorded: Proposal) -> Point | None:
        """See `Replayable`: takes the same steps, and goes on from the recorded point."""
        assert isinstance(recorded, tuple), "a box is searched by points"
        self._is_over = False  # it went on
        own = self.ask(number)
        self._point = np.array(recorded)
        return own or recorded

    def tell(self, outcome: Outcome) -> None:
        """Ignores the outcome: slopes say where to go."""

    def _step(self, slopes: Floats) -> None:
        """Takes a step of Adam (arXiv 1412.6980)."""
        self._num_steps += 1
        betas = np.array(self._options.betas)[:, None]
        self._moments = betas * self._moments + (1 - betas) * np.stack([slopes, slopes**2])
        mean, square = self._moments / (1 - betas**self._num_steps)
        self._point = self._point - self._rate() * mean / (np.sqrt(square) + _TINY)
        self._point = self._point.clip(self._low, self._high)

    def _rate(self) -> float:
        """Returns the learning rate of the current step, the first of which is 1."""
        options, step = self._options, self._num_steps
        if step <= options.warmup:
            return options.rate * step / (options.warmup + 1)
        if options.decay == "none":
            return options.rate
        return options.rate * (options.steps - step + 1) / (options.steps - options.warmup)

    def _batch(self) -> list[int]:
        """Draws items of each task: all have their turn before one comes again."""
        chosen = list[int]()
        for left, items in zip(self._left, self._loss.tasks, strict=True):
            size = min(self._options.batch or len(items), len(items))
            if len(left) < size:
                left[:] = [items[index] for index in self._rng.permutation(len(items))]
            chosen += [left.pop() for _ in range(size)]
        return chosen

    def _look_back(self) -> None:
        """Ends the descent if the loss of held-out items has not improved for long enough."""
        if self._options.patience is None:
            return
        try:
            loss = self._loss.held_out(_as_point(self._point))
        except InvalidWeights:
            loss = np.inf
        if loss is None:
            return
        self._num_worse = 0 if loss < self._least else self._num_worse + 1
        self._least = min(loss, self._least)
        self._is_over = self._num_worse >= self._options.patience


def _required(loss: CalibrationLoss | None) -> CalibrationLoss:
    if loss is None:
        raise InputError(
            "optimizer `gradient` needs a calibration loss with slopes, and there is none",
            expected="`SearchInputs.calibration`, which runs of a spec with weights provide",
            where="optimizer.kind",
            fix="use an optimizer that needs no gradient, such as `cma_es`",
        )
    return loss


def _as_point(values: Floats) -> Point:
    return tuple(map(float, values))


def _rounded(values: Floats) -> Floats:
    """To six significant digits, as far as recipes tell coefficients apart."""
    return np.array([float(f"{value:.6g}") for value in values])


PART = OptimizerPart(
    config=GradientConfig,
    make=lambda inputs, config: Gradient(inputs, config.options),
    searches=Box,
    space="components",
    paper="arXiv 1412.6980 (Adam), arXiv 2310.02575 (AdaMerging), arXiv 2509.02108 (DivMerge), "
    "arXiv 2509.25712 (Expert Merging)",
)
