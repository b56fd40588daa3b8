"""`/v1/sources` and `/v1/merges`: what can be merged, and merging it."""

import asyncio
from functools import partial

from crossbreed.errors import InputError
from crossbreed.fitness import wire
from crossbreed.service.accounts import Account
from crossbreed.service.core import Service
from crossbreed.service.evaluations import served_tasks
from crossbreed.service.merges import Served
from crossbreed.service.refusals import Refusal, told
from crossbreed.service.writer import SLICE_S
from crossbreed.types import Recipe

_LATER_S = 5.0


def sources(service: Service, account: Account) -> wire.Sources:
    """Returns what a client may know of the sources."""
    provider, config = service.provider, service.config
    abilities = wire.Abilities(
        rights=account.rights,
        deterministic=provider.repeats.deterministic,
        batch_invariant=provider.repeats.batch_invariant,
        max_model_len=service.texts.max_model_len if service.texts else provider.engine.context_tokens,
        alternatives=config.alternatives if "logprobs" in account.rights else 0,
        chunk=config.chunk,
        host=provider.host_hash,
        engine=provider.engine_hash,
    )
    return wire.Sources(
        structure=provider.structure.to_json(),
        abilities=abilities,
        limits=service.rules.told,
        tasks=served_tasks(service) if "scores" in account.rights else (),
    )


async def inner_products(service: Service, account: Account) -> wire.InnerProducts:
    """Returns the inner products of the sources, computed once, in slices between others' requests; raises Refusal."""
    account.require("logprobs")
    provider = service.provider
    if provider.weights is None:
        raise Refusal(404, "this service's engine tells no inner products", code="not_offered")
    try:
        async with asyncio.timeout(service.config.answer_s), service.multiplying:
            while (products := provider.products) is None:
                await service.ask_aside(partial(provider.multiply, SLICE_S))
    except TimeoutError:
        message = "the inner products are still being computed"
        raise Refusal(503, message, code=wire.OVERLOADED, retry_after_s=_LATER_S) from None
    return products


async def make_merge(service: Service, account: Account, question: wire.MergeQuestion) -> wire.Merge:
    """Has the engine make a merge; one that is remembered is not made again. Raises Refusal."""
    recipe = await service.in_thread(_checked, service, question)
    served = service.merges.known(recipe, owner=account.name)
    if served is None:
        with account.merging():
            fingerprint = await service.ask(recipe, lambda adopted: adopted.fingerprint, account)
        served = service.merges.remember(recipe, fingerprint, owner=account.name)
    return _merge(served, service)


def _checked(service: Service, question: wire.MergeQuestion) -> Recipe:
    recipe = service.rules.parse(question.recipe)
    try:
        service.provider.check(recipe)
    except InputError as error:
        raise Refusal(400, told(error), code=wire.RECIPE_REFUSED, param="recipe") from None
    return recipe


def _merge(served: Served, service: Service) -> wire.Merge:
    return wire.Merge(
        id=served.id,
        created=served.created,
        fingerprint=served.fingerprint or "",
        host=service.provider.host_hash,
        engine=service.provider.engine_hash,
    )
