"""The handle of engines that hold one candidate at a time."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from crossbreed.errors import EngineError
from crossbreed.fitness.requests import Predict, Predicted, Request, Response


class HoldsOne(Protocol):
    """An engine that holds only the candidate adopted last."""

    @property
    def version(self) -> int:
        """The number of adoptions started."""
        ...

    def answer(self, requests: Sequence[Request]) -> list[Response]:
        """Answers one chunk with the current weights."""
        ...


@dataclass(frozen=True, slots=True)
class CurrentHandle:
    """A handle that answers while its candidate is the last adopted, and raises EngineError afterwards."""

    engine: HoldsOne
    version: int

    def answer(self, requests: Sequence[Request]) -> list[Response]:
        """Answers one chunk; see `Handle`."""
        self.require_current()
        return self.engine.answer(requests)

    def require_current(self) -> None:
        """Raises EngineError if the engine has adopted another candidate since."""
        if self.version != self.engine.version:
            raise EngineError("this candidate's weights are gone: the engine has adopted another candidate since")


class PredictsOne(HoldsOne, Protocol):
    """An engine that also says what its candidate predicts."""

    def predict(self, asked: Sequence[Predict]) -> list[Predicted]:
        """Predicts one chunk with the current weights."""
        ...


@dataclass(frozen=True, slots=True)
class PredictingHandle(CurrentHandle):
    """A `CurrentHandle` of an engine that also predicts."""

    engine: PredictsOne

    def predict(self, asked: Sequence[Predict]) -> list[Predicted]:
        """Predicts one chunk; see `Predicts`."""
        self.require_current()
        return self.engine.predict(asked)
