"""What can be wrong with a request or an answer, and what each means for a run."""

from dataclasses import dataclass

from crossbreed.errors import EngineError


class WrongAnswer(ValueError):
    """The service answered something else than it was asked for: asked again, and never a score."""


class ModelForgotten(EngineError):
    """The service no longer knows a model's id: the recipe is to be posted again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceError:
    """The error that a service states, in OpenAI's shape as far as it has one."""

    status: int
    """Of HTTP."""
    code: str
    """A word to decide by; empty if there is none."""
    message: str
    """Its first line, without the key."""
    is_stated: bool = True
    """Whether the body is such an error: else a proxy may have answered, or the body is torn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Why one attempt gave nothing."""

    reason: str
    is_away: bool
    """The service could not be asked (connection, overload). False: it could, and answered this wrongly or never."""
    lasting: Exception | None = None
    """What it means if the next attempts give the same; None: nothing."""
    asked_wait_s: float | None = None
    """How long the service wants to be left alone."""
