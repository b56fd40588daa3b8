"""The engine `python`: a function of the user's scores items with the merged tensors, for what is no language model."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from crossbreed.errors import EngineError
from crossbreed.fitness.engines.registry import EngineConfig, EnginePart
from crossbreed.fitness.functions import FunctionReference, fields_of, identity_of, load_function
from crossbreed.fitness.items import Item
from crossbreed.fitness.requests import Request, Response
from crossbreed.types import Recipe, WeightStream

if TYPE_CHECKING:
    import torch


class PythonConfig(EngineConfig):
    """A function of yours, `evaluate(weights, items)`, which scores the items of tasks of kind `python`.

    For models that no other engine runs. `weights` is a mapping from names to tensors, `items` a list of dictionaries;
    it returns one number for each item.
    """

    scores_items: ClassVar[bool] = True

    kind: Literal["python"]
    function: FunctionReference
    """`path.py:name`, relative to this file, or `package.module:name`. Its source is part of the run's identity."""

    def check_base(self, host: Path, shapes: Mapping[str, Sequence[int]]) -> None:
        """Refuses a function that cannot be called; see EngineConfig."""
        load_function(self.function, where=f"engine `{self.kind}`")

    def identity(self) -> dict[str, Any]:
        """Returns the function's name and its source; see EngineConfig."""
        function = identity_of(self.function, where=f"engine `{self.kind}`")
        return super().identity() | {"function": function}


class PythonEngine:
    """Holds the tensors of one candidate for the function."""

    def __init__(self, config: PythonConfig, host: Path) -> None:
        """Loads the function."""
        self._where = f"engine `{config.kind}`"
        self._function = load_function(config.function, where=self._where)
        self._tensors: dict[str, torch.Tensor] = {}
        self._version = 0

    def keeps(self, unchanged: Collection[str]) -> frozenset[str]:
        """Returns all of them: any tensor can be kept; see `WeightEngine`."""
        return frozenset(self._tensors).intersection(unchanged)

    def adopt(self, recipe: Recipe, weights: WeightStream, *, kept: Collection[str] = ()) -> "PythonHandle":
        """Takes the tensors; see `WeightEngine`."""
        self._version += 1
        before, self._tensors = self._tensors, {}
        came = dict(weights)
        self._tensors = dict(sorted(({name: before[name] for name in kept} | came).items()))
        return PythonHandle(self, self._version)

    def evaluate(self, items: Sequence[Item], *, version: int) -> list[float]:
        """Returns the function's values."""
        assert version == self._version, "a handle is valid until the next `adopt`"
        arguments = [Tensors(self._tensors), [*map(fields_of, items)]]
        return self._function.values(arguments, items, where=self._where)

    def close(self) -> None:
        """Drops the tensors."""
        self._tensors = {}


class PythonHandle:
    """A candidate whose items the function scores."""

    def __init__(self, engine: PythonEngine, version: int) -> None:
        self.engine, self._version = engine, version

    def answer(self, requests: Sequence[Request]) -> list[Response]:
        """Raises EngineError: the function answers no prompts."""
        raise EngineError("the engine `python` scores items, and answers no prompts")

    def evaluate(self, items: Sequence[Item]) -> list[float]:
        """Returns a value for each item; see `EvaluatesItems`."""
        return self.engine.evaluate(items, version=self._version)


class Tensors(Mapping[str, "torch.Tensor"]):
    """The merged tensors by name, copied when they are looked up: a function that changes one changes no other."""

    def __init__(self, tensors: Mapping[str, "torch.Tensor"]) -> None:
        self._tensors = tensors

    def __getitem__(self, name: str) -> "torch.Tensor":
        return self._tensors[name].clone()

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


PART = EnginePart(config=PythonConfig, takes="weights", make=f"{__name__}:PythonEngine", needs=("torch",))
