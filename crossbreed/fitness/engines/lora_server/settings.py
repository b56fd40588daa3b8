"""Settings of the engine `lora_server`."""

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from crossbreed.fitness.engines.registry import AdapterEngineConfig, EnginePart, TokenizingConfig
from crossbreed.fitness.services.settings import ServiceSettings
from crossbreed.types import Dtype

_MOVABLE = {"url", "key_env", "timeout", "patience", "folder", "server_folder"}
"""What changes no answer: a run may go on with other values."""


class LoraServerConfig(AdapterEngineConfig, TokenizingConfig):
    """vLLM's own OpenAI servers of the base, started with `--enable-lora`: candidates are adapters that they load."""

    kind: Literal["lora_server"]
    url: str | tuple[str, ...]
    """Where the server listens, or several servers of the same base: `http://127.0.0.1:8000`. The requests of a chunk
    are divided among them."""
    key_env: str | None = None
    """The environment variable that holds the servers' key. The key itself stands in no file."""
    timeout: Annotated[float, Field(gt=0)] = 600.0
    """Seconds that a server may take to answer one part of a chunk."""
    patience: Annotated[float, Field(ge=0)] = 600.0
    """Seconds to go on asking a server that does not answer. Then the run stops with exit 1; nothing is lost, and the
    same command goes on."""
    folder: str | None = None
    """Where adapters are written for the servers to read. Default: a new folder for temporary files, for servers on
    this machine."""
    server_folder: str | None = None
    """What the servers call that folder, if they see it under another name, as in a container. Needs `folder`."""
    dtype: Dtype = "bfloat16"
    """The dtype in which the servers compute."""
    scores_together: bool = True
    """Whether a server may score several prompts at a time, as choices and texts are. False on CPU: there vLLM 0.32's
    engine dies of it once adapters are enabled."""

    @field_validator("url")
    @classmethod
    def _are_addresses(cls, url: str | tuple[str, ...]) -> str | tuple[str, ...]:
        urls = (url,) if isinstance(url, str) else url
        found = tuple(ServiceSettings(url=one).url for one in urls)
        if not found or len(set(found)) < len(found):
            raise ValueError("`url` names no server, or one of them twice")
        return found[0] if isinstance(url, str) else found

    @property
    def servers(self) -> list[ServiceSettings]:
        """How to reach each of them."""
        urls = (self.url,) if isinstance(self.url, str) else self.url
        return [
            ServiceSettings(url=url, key_env=self.key_env, timeout=self.timeout, patience=self.patience, concurrency=64)
            for url in urls
        ]

    def identity(self) -> dict[str, Any]:
        """Returns the settings but for addresses and folders: servers may move, but not change in number.

        Each chunk is divided by their number, and what shares a call can change an answer.
        """
        lasting = {key: value for key, value in super().identity().items() if key not in _MOVABLE}
        return lasting if len(self.servers) == 1 else {**lasting, "servers": len(self.servers)}


PART = EnginePart(
    config=LoraServerConfig,
    takes="adapter",
    make="crossbreed.fitness.engines.lora_server.engine:LoraServerEngine",
    needs=("openai", "torch", "transformers"),
    extra="torch,api",
)
