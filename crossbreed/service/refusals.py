"""What is answered instead of an answer: an error of one shape, whatever went wrong."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel
from starlette.responses import JSONResponse

from crossbreed.errors import InputError
from crossbreed.fitness import wire

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "server_error",
}
"""Status -> OpenAI's `type`; all others are the request's fault."""
_MOST = 1000
"""Characters of a message."""


class ErrorDetail(BaseModel):
    """An error, as OpenAI's API tells it."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorAnswer(BaseModel):
    """The body of every answer whose status is an error's."""

    error: ErrorDetail


class Refusal(Exception):
    """A request that is not answered, and why."""

    def __init__(
        self, status: int, message: str, *, code: str, param: str | None = None, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.param, self.retry_after_s = status, code, param, retry_after_s
        self.message = message if len(message) <= _MOST else f"{message[: _MOST - 4]} ..."

    def response(self) -> JSONResponse:
        """Returns the answer."""
        detail = ErrorDetail(
            message=self.message.encode(errors="replace").decode(),
            type=_TYPES.get(self.status, "invalid_request_error"),
            param=self.param and self.param[:_MOST],
            code=self.code,
        )
        headers = dict[str, str]()
        if self.retry_after_s is not None:
            headers["Retry-After"] = str(max(1, round(self.retry_after_s + 0.5)))
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return JSONResponse(ErrorAnswer(error=detail).model_dump(), self.status, headers)


def bad_request(message: str, *, code: str = "invalid_value", param: str | None = None) -> Refusal:
    """Returns the refusal of a request that is wrong by itself."""
    return Refusal(400, message, code=code, param=param)


def no_model(name: str) -> Refusal:
    """Returns the refusal of a model that is none, or that was forgotten."""
    shown = name if len(name) <= 100 else f"{name[:100]} ..."
    message = f"there is no model `{shown}`; a merge is named (again) by POST /v1/merges"
    return Refusal(404, message, code=wire.MODEL_NOT_FOUND, param="model")


def told(error: InputError) -> str:
    """Returns an InputError as a stranger may read it: without the place, which may be a path of the provider's."""
    parts = {"expected": error.expected, "got": error.got}
    return "; ".join([error.problem, *(f"{name} {text}" for name, text in parts.items() if text)])


RESPONSES: Mapping[int | str, dict[str, Any]] = {
    status: {"model": ErrorAnswer, "description": description}
    for status, description in {
        400: "The request, or its recipe, is wrong or beyond the service's limits.",
        401: "No token, or none that is known.",
        403: "The token has no right to this, or its budget is spent (`budget_spent`).",
        404: "No such model (any more), task or path.",
        408: "The body did not arrive in time.",
        413: "The body is too large.",
        422: "The merge has NaN or infinite weights or answers (`invalid_weights`).",
        429: "Too many requests or tokens a minute; see Retry-After.",
        500: "The engine could not answer; the same request may be answered later.",
        503: "Too many requests wait, or the service stops; see Retry-After.",
    }.items()
}
"""What every path may answer besides its own; FastAPI's `responses`."""
