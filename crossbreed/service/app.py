"""The paths of the service, and what stands around them."""

from collections.abc import Collection
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi.responses import Response
from fastapi.security import HTTPBearer
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from crossbreed.fitness import wire
from crossbreed.service.accounts import Account
from crossbreed.service.chats import ChatCompletion, chat, tokenize
from crossbreed.service.checkpoints import publish
from crossbreed.service.completions import Completion, complete
from crossbreed.service.connections import Crowd
from crossbreed.service.core import Service
from crossbreed.service.evaluations import evaluate
from crossbreed.service.guard import Bounded, Known, Roomy, Watched
from crossbreed.service.merges import Served
from crossbreed.service.merging import inner_products, make_merge, sources
from crossbreed.service.questions import ChatQuestion, CompletionQuestion
from crossbreed.service.refusals import RESPONSES, Refusal, bad_request

VERSION = "1"


class Model(BaseModel):
    """A model that can be asked."""

    id: str
    object: str = "model"
    created: int
    owned_by: str = "crossbreed"


class Models(BaseModel):
    """All that can be asked."""

    object: str = "list"
    data: list[Model]


class Health(BaseModel):
    """Whether the engine answers."""

    status: str


def build_app(service: Service, *, hosts: Collection[str] | None = None, crowd: Crowd | None = None) -> ASGIApp:
    """Returns the application with everything around it.

    Args:
        service: The open service.
        hosts: The names by which it may be called; None: any.
        crowd: The open connections; None: nobody counts them.
    """
    app = build_api(service)
    bounded = Bounded(app, max_bytes=service.config.body_bytes, seconds=service.config.body_s)
    known = Known(bounded, service.accounts, hosts)
    return Watched(known if crowd is None else Roomy(known, crowd), service.metrics)


def build_api(service: Service | None) -> FastAPI:
    """Returns the paths; without a service, for their schema alone."""
    bearer = Depends(HTTPBearer(auto_error=False, description="A client's key."))
    app = FastAPI(
        title="crossbreed's merge service",
        version=VERSION,
        docs_url=None,
        redoc_url=None,
        responses=dict(RESPONSES),
        generate_unique_id_function=lambda route: route.name,
        separate_input_output_schemas=False,
    )
    app.add_exception_handler(Refusal, _refusal)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _no_path)
    app.add_exception_handler(Exception, _bug)
    asking = [bearer]

    def opened() -> Service:
        assert service is not None, "a schema answers nothing"
        return service

    def account_of(request: Request) -> Account:
        found: Account = request.state.account
        return found

    Asking = Annotated[Account, Depends(account_of)]

    @app.get("/v1/sources", response_model=wire.Sources, dependencies=asking)
    async def list_sources(account: Asking) -> Response:
        """Says what can be merged, within which limits, and what the token may do."""
        return _json(sources(opened(), account))

    @app.get("/v1/sources/inner_products", response_model=wire.InnerProducts, dependencies=asking)
    async def list_inner_products(account: Asking) -> Response:
        """Tells the inner products of the sources' weights, tensor by tensor."""
        return _json(await inner_products(opened(), account))

    @app.post("/v1/merges", dependencies=asking)
    async def create_merge(question: wire.MergeQuestion, account: Asking) -> wire.Merge:
        """Makes a merge, which can then be asked by its id."""
        return await make_merge(opened(), account, question)

    @app.get("/v1/models", dependencies=asking)
    async def list_models(account: Asking) -> Models:
        """Lists the sources and the token's own merges."""
        return Models(data=[_model(one) for one in opened().merges.all_of(account.name)])

    @app.get("/v1/models/{model}", dependencies=asking)
    async def retrieve_model(model: str, account: Asking) -> Model:
        """Tells of one model."""
        return _model(opened().merges.find(model, owner=account.name))

    @app.post("/v1/completions", response_model=Completion, dependencies=asking)
    async def create_completion(question: CompletionQuestion, account: Asking, request: Request) -> Response:
        """Continues or scores prompts; a list is answered in one engine call."""
        _note(request, model=question.model, prompts=len(question.prompts))
        return _used(request, await complete(opened(), account, question))

    @app.post("/v1/chat/completions", response_model=ChatCompletion, dependencies=asking)
    async def create_chat_completion(question: ChatQuestion, account: Asking, request: Request) -> Response:
        """Answers a conversation."""
        _note(request, model=question.model)
        return _used(request, await chat(opened(), account, question))

    @app.post("/v1/tokenize", dependencies=asking)
    async def create_tokens(question: wire.TokenizeQuestion) -> wire.Tokens:
        """Tells the tokens of a prompt, or of a conversation."""
        return await tokenize(opened(), question)

    @app.post("/tokenize", dependencies=asking)
    async def create_tokens_at_root(question: wire.TokenizeQuestion) -> wire.Tokens:
        """Does the same, where vLLM's server does it."""
        return await tokenize(opened(), question)

    @app.post("/v1/evaluations", dependencies=asking)
    async def create_evaluation(
        question: wire.EvaluationQuestion, account: Asking, request: Request
    ) -> wire.Evaluation:
        """Scores a model on one of the provider's own tasks."""
        _note(request, model=question.model, task=question.task)
        return await evaluate(opened(), account, question)

    @app.post("/v1/checkpoints", dependencies=asking)
    async def create_checkpoint(question: wire.PublishQuestion, account: Asking, request: Request) -> wire.Checkpoint:
        """Has the provider write a merge as a checkpoint."""
        _note(request, model=question.model)
        return await publish(opened(), account, question)

    @app.get("/health")
    async def health() -> Health:
        """Tells whether the engine answers."""
        found = opened()
        if not found.engine.is_alive:
            raise Refusal(503, "the service stops", code=wire.OVERLOADED, retry_after_s=5)
        if found.engine.busy_s > found.config.answer_s:
            raise Refusal(503, "the engine hangs", code="engine_hangs", retry_after_s=60)
        return Health(status="ok")

    @app.get("/metrics", dependencies=asking, response_class=Response)
    async def metrics() -> Response:
        """Tells counters in Prometheus' format."""
        found = opened()
        text = found.metrics.text(waiting=found.engine.num_waiting, adopted=found.engine.num_adopted)
        return Response(text, media_type="text/plain; version=0.0.4")

    return app


def openapi_schema() -> dict[str, Any]:
    """Returns the schema of the paths, which docs/openapi.json holds."""
    app = build_api(None)
    return get_openapi(title=app.title, version=app.version, routes=app.routes)


def _model(served: Served) -> Model:
    return Model(id=served.id, created=served.created)


def _json(value: BaseModel) -> Response:
    return Response(value.model_dump_json(by_alias=True), media_type="application/json")


def _note(request: Request, **facts: object) -> None:
    """Adds to the request's line in the log."""
    request.state.facts.update(
        {name: value[:100] if isinstance(value, str) else value for name, value in facts.items()}
    )


def _used(request: Request, answer: Completion | ChatCompletion) -> Response:
    _note(request, prompt_tokens=answer.usage.prompt_tokens, completion_tokens=answer.usage.completion_tokens)
    return _json(answer)


async def _refusal(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    _note(request, refused=error.code)
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
