"""The handle of engines that hold one candidate at a time."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from crossbreed.errors import EngineError
from crossbreed.fitness.protocol import Request, Response


class HoldsOne(Protocol):
    """An engine that answers for the last candidate that it adopted."""

    @property
    def version(self) -> int:
        """How many adoptions were begun."""
        ...

    def answer(self, requests: Sequence[Request]) -> list[Response]:
        """Answers one chunk with the weights that it holds."""
        ...


@dataclass(frozen=True, slots=True)
class CurrentHandle:
    """Answers while its candidate is the last adopted, and never for another one."""

    engine: HoldsOne
    version: int

    def answer(self, requests: Sequence[Request]) -> list[Response]:
        """Answers one chunk; see `Handle`."""
        if self.version != self.engine.version:
            raise EngineError("this candidate's weights are gone: the engine has adopted another one since")
        return self.engine.answer(requests)
