"""Settings of whatever is reached over HTTP: the address, the key's variable, and how fast and patiently to ask."""

import os
from typing import Annotated, Any, ClassVar
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from crossbreed.config import Config
from crossbreed.errors import InputError

PACE_FIELDS = ("url", "key_env", "timeout", "patience", "concurrency", "requests_per_minute", "tokens_per_minute")
"""What changes no answer: a run may go on with other values."""


class ServiceSettings(Config):
    """How to reach a service, and how to ask it."""

    place: ClassVar[str] = "fitness.engine"
    """Where in a spec these settings stand, for messages."""

    url: str
    """Where it listens, with or without `/v1`: `http://127.0.0.1:8000`."""
    key_env: str | None = None
    """The environment variable that holds the key. The key itself stands in no file."""
    timeout: Annotated[float, Field(gt=0)] = 600.0
    """Seconds that the service may take to answer one request."""
    patience: Annotated[float, Field(ge=0)] = 600.0
    """Seconds to go on asking a service that does not answer, including what it asks to wait (Retry-After). Then the
    run stops with exit 1; nothing is lost, and the same command goes on."""
    concurrency: Annotated[int, Field(ge=1)] = 4
    """Most requests of a worker at a time."""
    requests_per_minute: Annotated[float, Field(gt=0)] | None = None
    """Pace of each worker's requests. None: no limit of ours."""
    tokens_per_minute: Annotated[float, Field(gt=0)] | None = None
    """Pace of each worker's tokens, prompts and longest possible answers together. None: no limit of ours."""

    @field_validator("url")
    @classmethod
    def _is_an_address(cls, url: str) -> str:
        try:
            parts = urlsplit(url)
            is_address = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:  # a port that is no number, for example
            is_address = False
        if not is_address or parts.query or parts.fragment:
            raise ValueError("`url` is no address: http://HOST:PORT or https://HOST")
        if parts.username is not None or parts.password is not None:
            raise ValueError("`url` holds a name or password, which would be written to files: use `key_env`")
        return url.rstrip("/").removesuffix("/v1").rstrip("/")

    def key(self) -> str | None:
        """Returns the key from the environment; None if the service needs none.

        Raises:
            InputError: the variable is not set.
        """
        if self.key_env is None:
            return None
        key = os.environ.get(self.key_env, "").strip()
        if not key or not key.isascii() or not key.isprintable():
            raise InputError(
                "the service's key is not in the environment",
                expected=f"the key in the variable {self.key_env}",
                got="nothing" if not key else "characters that no key has",
                where=f"{self.place}.key_env",
                fix=f"export {self.key_env}=...",
            )
        return key

    def waiting_longer(self, seconds: int) -> str:
        """Returns, for messages, what makes a run wait so long."""
        return f"`crossbreed run` waits longer with `--set {self.place}.patience={seconds}`"

    def lasting(self) -> dict[str, Any]:
        """Returns the settings on which answers can depend: all but address and pace."""
        return self.model_dump(mode="json", exclude=set(PACE_FIELDS))
