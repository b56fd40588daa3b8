"""What each path of the service answers: a function for each, and the table of all."""

from typing import Annotated

from fastapi import Depends, FastAPI, Request
from fastapi.responses import Response
from fastapi.security import HTTPBearer
from pydantic import BaseModel

from crossbreed.fitness import wire
from crossbreed.service.accounts import Account
from crossbreed.service.chats import ChatCompletion, chat, tokenize
from crossbreed.service.checkpoints import publish
from crossbreed.service.completions import Completion, complete
from crossbreed.service.core import Service
from crossbreed.service.evaluations import evaluate
from crossbreed.service.logs import note
from crossbreed.service.merges import Served
from crossbreed.service.merging import inner_products, make_merge, sources
from crossbreed.service.questions import ChatQuestion, CompletionQuestion
from crossbreed.service.refusals import Refusal


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


async def _service(request: Request) -> Service:
    service: Service | None = request.app.state.service
    assert service is not None, "a schema answers nothing"
    return service


async def _account(request: Request) -> Account:
    account: Account = request.state.account
    return account


Opened = Annotated[Service, Depends(_service)]
Asking = Annotated[Account, Depends(_account)]


async def list_sources(service: Opened, account: Asking) -> Response:
    """Says what can be merged, within which limits, and what the token may do."""
    return _json(sources(service, account))


async def list_inner_products(service: Opened, account: Asking) -> Response:
    """Tells the inner products of the sources' weights, tensor by tensor."""
    return _json(await inner_products(service, account))


async def create_merge(question: wire.MergeQuestion, service: Opened, account: Asking) -> wire.Merge:
    """Makes a merge, which can then be asked by its id."""
    return await make_merge(service, account, question)


async def list_models(service: Opened, account: Asking) -> Models:
    """Lists the sources and the token's own merges."""
    return Models(data=[_model(one) for one in service.merges.all_of(account.name)])


async def retrieve_model(model: str, service: Opened, account: Asking) -> Model:
    """Tells of one model."""
    return _model(service.merges.find(model, owner=account.name))


async def create_completion(
    question: CompletionQuestion, service: Opened, account: Asking, request: Request
) -> Response:
    """Continues or scores prompts; a list is answered in one engine call."""
    note(request, model=question.model, prompts=len(question.prompts))
    return _used(request, await complete(service, account, question))


async def create_chat_completion(
    question: ChatQuestion, service: Opened, account: Asking, request: Request
) -> Response:
    """Answers a conversation."""
    note(request, model=question.model)
    return _used(request, await chat(service, account, question))


async def create_tokens(question: wire.TokenizeQuestion, service: Opened) -> wire.Tokens:
    """Tells the tokens of a prompt, or of a conversation."""
    return await tokenize(service, question)


async def create_tokens_at_root(question: wire.TokenizeQuestion, service: Opened) -> wire.Tokens:
    """Does the same, where vLLM's server does it."""
    return await tokenize(service, question)


async def create_evaluation(
    question: wire.EvaluationQuestion, service: Opened, account: Asking, request: Request
) -> wire.Evaluation:
    """Scores a model on one of the provider's own tasks."""
    note(request, model=question.model, task=question.task)
    return await evaluate(service, account, question)


async def create_checkpoint(
    question: wire.PublishQuestion, service: Opened, account: Asking, request: Request
) -> wire.Checkpoint:
    """Has the provider write a merge as a checkpoint."""
    note(request, model=question.model)
    return await publish(service, account, question)


async def health(service: Opened) -> Health:
    """Tells whether the engine answers."""
    if not service.engine.is_alive:
        raise Refusal(503, "the service stops", code=wire.OVERLOADED, retry_after_s=5)
    if service.engine.busy_s > service.config.answer_s:
        raise Refusal(503, "the engine hangs", code="engine_hangs", retry_after_s=60)
    return Health(status="ok")


async def metrics(service: Opened) -> Response:
    """Tells counters in Prometheus' format."""
    text = service.metrics.text(waiting=service.engine.num_waiting, adopted=service.engine.num_adopted)
    return Response(text, media_type="text/plain; version=0.0.4")


def add_paths(app: FastAPI) -> None:
    """Adds all paths; `app.state.service` answers them. Keys are looked at by `guard`: here they are for the schema."""
    keyed = [Depends(HTTPBearer(auto_error=False, description="A client's key."))]
    app.get("/v1/sources", response_model=wire.Sources, dependencies=keyed)(list_sources)
    app.get("/v1/sources/inner_products", response_model=wire.InnerProducts, dependencies=keyed)(list_inner_products)
    app.post("/v1/merges", dependencies=keyed)(create_merge)
    app.get("/v1/models", dependencies=keyed)(list_models)
    app.get("/v1/models/{model}", dependencies=keyed)(retrieve_model)
    app.post("/v1/completions", response_model=Completion, dependencies=keyed)(create_completion)
    app.post("/v1/chat/completions", response_model=ChatCompletion, dependencies=keyed)(create_chat_completion)
    app.post("/v1/tokenize", dependencies=keyed)(create_tokens)
    app.post("/tokenize", dependencies=keyed)(create_tokens_at_root)
    app.post("/v1/evaluations", dependencies=keyed)(create_evaluation)
    app.post("/v1/checkpoints", dependencies=keyed)(create_checkpoint)
    app.get("/health")(health)
    app.get("/metrics", dependencies=keyed, response_class=Response)(metrics)


def _model(served: Served) -> Model:
    return Model(id=served.id, created=served.created)


def _json(value: BaseModel) -> Response:
    return Response(value.model_dump_json(by_alias=True), media_type="application/json")


def _used(request: Request, answer: Completion | ChatCompletion) -> Response:
    note(request, prompt_tokens=answer.usage.prompt_tokens, completion_tokens=answer.usage.completion_tokens)
    return _json(answer)
