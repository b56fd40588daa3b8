"""The application: the paths of the service, what stands around them, and what is answered where they cannot."""

from collections.abc import Collection
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from crossbreed.service.connections import Crowd
from crossbreed.service.core import Service
from crossbreed.service.guard import Attended, Bounded, Known, Roomy, Watched
from crossbreed.service.logs import note
from crossbreed.service.paths import add_paths
from crossbreed.service.refusals import RESPONSES, Refusal, bad_request

VERSION = "1"


def build_app(service: Service, *, hosts: Collection[str] | None = None, crowd: Crowd | None = None) -> ASGIApp:
    """Returns the application with everything around it.

    Args:
        service: The open service.
        hosts: The names by which it may be called; None: any.
        crowd: The open connections; None: nobody counts them.
    """
    app = build_api(service)
    bounded = Bounded(Attended(app), max_bytes=service.config.body_bytes, seconds=service.config.body_s)
    known = Known(bounded, service.accounts, hosts)
    return Watched(known if crowd is None else Roomy(known, crowd), service.metrics)


def build_api(service: Service | None) -> FastAPI:
    """Returns the paths; without a service, for their schema alone."""
    app = FastAPI(
        title="crossbreed's merge service",
        version=VERSION,
        docs_url=None,
        redoc_url=None,
        responses=dict(RESPONSES),
        generate_unique_id_function=lambda route: route.name,
        separate_input_output_schemas=False,
    )
    app.state.service = service
    app.add_exception_handler(Refusal, _refusal)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _no_path)
    app.add_exception_handler(Exception, _bug)
    add_paths(app)
    return app


def openapi_schema() -> dict[str, Any]:
    """Returns the schema of the paths, which docs/openapi.json holds."""
    app = build_api(None)
    return get_openapi(title=app.title, version=app.version, routes=app.routes)


async def _refusal(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    note(request, refused=error.code)
    return error.response()


async def _invalid(request: Request, error: Exception) -> Response:
    """Says what is wrong with a body, without the body."""
    assert isinstance(error, RequestValidationError)
    found = error.errors()[0]
    place = ".".join(str(part) for part in found["loc"][1:])
    message = f"`{place}`: {found['msg']}" if place else str(found["msg"])
    return bad_request(message, param=place or None).response()


async def _bug(request: Request, error: Exception) -> Response:
    """Answers; the exception goes on to `Watched`, which logs its place."""
    return Refusal(500, "a fault of the service; its log says where", code="internal_error").response()


async def _no_path(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code = {404: "path_not_found", 405: "method_not_allowed"}.get(error.status_code, "invalid_request")
    response = Refusal(error.status_code, str(error.detail), code=code).response()
    response.headers.update(error.headers or {})
    return response
