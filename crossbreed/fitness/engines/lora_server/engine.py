"""The engine `lora_server`: an adapter is loaded by every server, and each answers a part of every chunk."""

from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar
from uuid import uuid4

from crossbreed.errors import EngineError, InputError, InvalidWeights, ServiceOutage
from crossbreed.fitness.engines.api.completions import Asked
from crossbreed.fitness.engines.encoder import Encoder
from crossbreed.fitness.engines.lora_server.server import FIRST, Server
from crossbreed.fitness.engines.lora_server.settings import LoraServerConfig
from crossbreed.fitness.engines.reference import truth_of
from crossbreed.fitness.protocol import Surroundings, Truth
from crossbreed.fitness.requests import Loglikelihood, Request, Response
from crossbreed.fitness.services.faults import ModelForgotten
from crossbreed.types import Recipe, WeightStream

T = TypeVar("T")
_MOST_LOADS = 3
"""Times that an adapter is loaded again because a server has forgotten it, as one that was restarted has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Loaded:
    """An adapter that the servers have."""

    name: str
    path: str
    """As the servers call it."""


class LoraServerEngine:
    """Connections to servers of one base."""

    def __init__(self, config: LoraServerConfig, host: Path) -> None:
        """Connects to the servers, and asks what they serve.

        Raises:
            InputError: a server serves no model, or one of a shorter context; or the folder cannot be used.
            ServiceOutage: a server does not answer.
        """
        self._config, self._host = config, host
        self._encoder = Encoder(host, max_model_len=config.max_model_len)
        self._end_ids = sorted(self._encoder.eos_ids)
        self._scratch = TemporaryDirectory(prefix="crossbreed-adapters-") if config.folder is None else None
        self._room = Path(self._scratch.name if self._scratch else str(config.folder)).expanduser().resolve()
        if config.server_folder is not None and config.folder is None:
            raise InputError(
                "`server_folder` is what servers call `folder`, and there is none",
                expected="both, or none",
                where="fitness.engine.folder",
                fix="set `folder` to the same folder as it is called here",
            )
        try:
            self._room.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"adapters cannot be written there: {error.strerror}",
                where=f"fitness.engine.folder: {self._room}",
                fix="choose a folder that this user can write and the servers can read",
            ) from None
        self._servers = [
            Server(one, scores_together=config.scores_together, dtype=config.dtype) for one in config.servers
        ]
        for server in self._servers:
            self._check_length(server)
        self._loaded: _Loaded | None = None
        self._say = Surroundings().say
        self.notes: tuple[str, ...] = ()
        self.advice = "check that the servers serve the base of `sources`, unquantised, in the `dtype` of the settings"

    @property
    def room(self) -> Path:
        """See AdapterEngine."""
        return self._room

    def begin(self, around: Surroundings) -> None:
        """Takes the run's seed and its log; see `UsesRun`."""
        self._say = around.say
        for server in self._servers:
            server.transport.use(seed=around.seed, say=around.say)

    def end_at(self, token_ids: Collection[int]) -> None:
        """Ends answers at these tokens too; see `EndsAnswers`."""
        self._encoder.end_at(token_ids)
        self._end_ids = sorted(self._encoder.eos_ids)

    def base(self) -> "ServerHandle":
        """See AdapterEngine."""
        return ServerHandle(self, None)

    def adopt(self, recipe: Recipe, folder: Path) -> "ServerHandle":
        """Loads an adapter on all servers; see AdapterEngine."""
        self._let_go()
        self._check(self._live())
        servers = self._live()
        path = str(folder)
        if self._config.server_folder is not None:
            path = f"{self._config.server_folder.rstrip('/')}/{folder.relative_to(self._room).as_posix()}"
        loaded = self._loaded = _Loaded(name=f"crossbreed-{recipe.id}-{uuid4().hex[:12]}", path=path)
        _each(servers, lambda server: server.load(loaded.name, loaded.path))
        self._first(servers[0], loaded)
        return ServerHandle(self, loaded)

    def truth_of(self, weights: WeightStream, requests: Sequence[Loglikelihood]) -> Truth:
        """Scores with transformers; see `Checkable`."""
        return truth_of(self._host, self._encoder, weights, requests, dtype=self._config.dtype)

    def answer(self, requests: Sequence[Request], loaded: _Loaded | None) -> list[Response]:
        """Answers one chunk, in as many parts as there are servers in the spec, whichever of them can be used.

        What shares a call can change an answer, so the parts stay the same when a server is given up: others take its.
        """
        if loaded not in (None, self._loaded):
            raise EngineError("this candidate's adapter is gone: the engine has adopted another candidate since")
        encoded = [self._encoder.encode(request) for request in requests]
        asked = [
            Asked(request=request, token_ids=one.token_ids, num_prompt=one.num_prompt)
            for request, one in zip(requests, encoded, strict=True)
        ]
        servers, size = self._live(), -(-len(asked) // len(self._servers)) or 1
        parts = [asked[start : start + size] for start in range(0, len(asked), size)]
        found, nan = dict[int, list[Response]](), list[Server]()

        def ask(server: Server) -> None:
            try:
                for place in range(servers.index(server), len(parts), len(servers)):
                    found[place] = self._part(server, parts[place], loaded)
            except InvalidWeights:
                nan.append(server)

        _each(servers, ask)
        if nan:
            raise self._invalid(nan)
        return [response for place in range(len(parts)) for response in found[place]]

    def close(self) -> None:
        """Unloads the last adapter, and removes the folder of temporary files."""
        try:
            self._let_go()
        finally:
            for server in self._servers:
                server.close()
            if self._scratch is not None:
                self._scratch.cleanup()

    def _part(self, server: Server, asked: Sequence[Asked], loaded: _Loaded | None) -> list[Response]:
        for _ in range(_MOST_LOADS):
            try:
                return server.answer(asked, loaded.name if loaded else None, self._end_ids)
            except ModelForgotten:
                if loaded is None:
                    raise
                server.check()  # it was restarted, perhaps as another
                server.load(loaded.name, loaded.path)
        raise EngineError(f"the server at {server.url} forgets the adapter each time that it has loaded it")

    def _check(self, servers: Sequence[Server]) -> None:
        """Asks the base of servers that can be used, and says which cannot any more."""
        _each(servers, Server.check)
        for server in servers:
            if server.poisoned:
                self._say(server.poisoned)

    def _first(self, server: Server, loaded: _Loaded) -> None:
        """Asks one server for a token: NaN in a whole answer would spoil it, that of one token is written over."""
        try:
            server.answer([FIRST], loaded.name, ())
        except InvalidWeights:
            raise self._invalid([server]) from None

    def _invalid(self, servers: Sequence[Server]) -> InvalidWeights:
        """Returns the error for a candidate of which some servers answer NaN, and looks what that did to them.

        Their bases answered before it. Where NaN stays, on CPU, workers cannot share a server: nobody else spoilt it.
        """
        self._check(servers)
        said = "; ".join(server.poisoned for server in servers if server.poisoned)
        return InvalidWeights("the answers are NaN or infinite" + f" ({said})" * bool(said))

    def _live(self) -> list[Server]:
        """Returns the servers that can be used."""
        if live := [server for server in self._servers if not server.poisoned]:
            return live
        raise ServiceOutage(
            "no server is left: " + "; ".join(server.poisoned for server in self._servers) + "\n"
            "Nothing is lost: restart them, and the same command goes on from here"
        )

    def _let_go(self) -> None:
        loaded, self._loaded = self._loaded, None
        if loaded is not None:
            _each(self._servers, lambda server: server.unload(loaded.name))

    def _check_length(self, server: Server) -> None:
        if server.max_model_len is not None and server.max_model_len < self._encoder.max_model_len:
            raise InputError(
                "the server's context is shorter than the engine's",
                expected=f"--max-model-len {self._encoder.max_model_len} or more",
                got=f"{server.max_model_len}, at {server.url}",
                where="fitness.engine.max_model_len",
                fix=f"max_model_len: {server.max_model_len}",
            )


@dataclass(frozen=True, slots=True)
class ServerHandle:
    """A candidate, or the base."""

    engine: LoraServerEngine
    loaded: _Loaded | None

    def answer(self, requests: Sequence[Request]) -> list[Response]:
        """Answers one chunk; see `Handle`."""
        return self.engine.answer(requests, self.loaded)


def _each(servers: Sequence[Server], do: Callable[[Server], T]) -> list[T]:
    """Does the same with several servers at once; when all are done, raises the first one's error."""
    if len(servers) == 1:
        return [do(servers[0])]
    with ThreadPoolExecutor(max(1, len(servers))) as threads:
        tasks = [threads.submit(do, server) for server in servers]
    return [task.result() for task in tasks]
