"""Runs an engine in its own process, for engines that free their memory only when the process ends."""

import pickle
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from vllm_process import IMPORTED_ONCE

from crossbreed.fitness import EngineConfig, Request, Response, build_engine
from crossbreed.types import Recipe, WeightStream


class EngineProcess:
    """Forwards calls, tensors one by one as the engine requests them, and the exceptions of both sides."""

    def __init__(self, config: EngineConfig, host: Path) -> None:
        context = get_context("forkserver")
        context.set_forkserver_preload(IMPORTED_ONCE)
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(config, host, theirs), daemon=True)
        self._process.start()
        _received(self._connection)

    def keeps(self, unchanged: Collection[str]) -> frozenset[str]:
        kept: frozenset[str] = self.call("keeps", list(unchanged))
        return kept

    def adopt(self, recipe: Recipe, weights: WeightStream, *, kept: Collection[str] = ()) -> "_Handle":
        _send(self._connection, ("adopt", recipe, list(kept)))
        while (version := _received(self._connection)) is None:  # the engine requests a tensor
            try:
                _send(self._connection, (next(weights, None), None))
            except Exception as error:
                _send(self._connection, (None, error))
        return _Handle(self, version)

    def close(self) -> None:
        self.call("close")  # later calls still reach the engine; the process ends with this connection

    def call(self, *message: Any) -> Any:
        _send(self._connection, message)
        return _received(self._connection)


@dataclass(frozen=True, slots=True)
class _Handle:
    engine: EngineProcess
    version: int

    def answer(self, requests: Sequence[Request]) -> list[Response]:
        responses: list[Response] = self.engine.call("answer", self.version, list(requests))
        return responses


def _serve(config: EngineConfig, host: Path, connection: Connection) -> None:
    engine = build_engine(config, host)
    handles: list[Any] = []
    _send(connection, (True, None))

    def stream() -> WeightStream:
        while True:
            _send(connection, (None, None))
            item, error = pickle.loads(connection.recv_bytes())
            if error is not None:
                raise error
            if item is None:
                return
            yield item

    while True:
        try:
            name, *arguments = pickle.loads(connection.recv_bytes())
        except EOFError:
            return
        try:
            if name == "adopt":
                recipe, kept = arguments
                handles.append(engine.adopt(recipe, stream(), kept=kept))
                result: Any = len(handles) - 1
            elif name == "answer":
                result = handles[arguments[0]].answer(arguments[1])
            else:
                result = getattr(engine, name)(*arguments)
        except Exception as error:
            _send(connection, (None, error))
        else:
            _send(connection, (result, None))


def _send(connection: Connection, message: Any) -> None:
    connection.send_bytes(pickle.dumps(message))


def _received(connection: Connection) -> Any:
    result, error = pickle.loads(connection.recv_bytes())
    if error is not None:
        raise error
    return result
