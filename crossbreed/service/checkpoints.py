"""`POST /v1/checkpoints`: a merge as an ordinary folder, on the provider's own disk."""

import logging
from functools import partial
from pathlib import Path

from crossbreed.errors import InputError, MachineError
from crossbreed.fitness import wire
from crossbreed.service.accounts import Account
from crossbreed.service.core import Service
from crossbreed.service.engine_thread import answered_in
from crossbreed.service.logs import said
from crossbreed.service.refusals import Refusal
from crossbreed.service.writer import in_slices
from crossbreed.types import Recipe

_LOG = logging.getLogger(__name__)


async def publish(service: Service, account: Account, question: wire.PublishQuestion) -> wire.Checkpoint:
    """Writes a model's weights; what was written before is not written again. Raises Refusal."""
    account.require("publish")
    folder, weights = service.config.checkpoints, service.provider.weights
    if folder is None or weights is None:
        raise Refusal(404, "this service writes no checkpoints", code="not_offered")
    model = service.merges.find(question.model, owner=account.name)
    name, known = f"crossbreed-{model.recipe.id}", model.fingerprint
    if known is None:  # a source, which has not been made
        known = await service.ask(model.recipe, lambda adopted: adopted.fingerprint, account)
    work = partial(_written, service, model.recipe, Path(folder) / name, known)
    fingerprint = await answered_in(service.writer.write(name, work), service.config.answer_s, is_shared=True)
    return wire.Checkpoint(id=model.id, name=name, fingerprint=fingerprint)


def _written(service: Service, recipe: Recipe, out: Path, fingerprint: str | None) -> str:
    """Returns the fingerprint of a written checkpoint; it is that of the weights that answer."""
    from crossbreed.runs.publishing.checkpoint import Merge, write_checkpoint  # needs torch
    from crossbreed.runs.publishing.manifest import published_folder

    weights = service.provider.weights
    assert weights is not None, "a service without weights writes none"
    merge = Merge(
        recipe=recipe,
        sources=weights.sources,
        stream_factory=lambda: in_slices(service.engine, lambda: weights.materialize(recipe)),
        fingerprint=fingerprint,
    )
    try:
        if (found := published_folder(out)) and found.fingerprint == fingerprint:
            return found.fingerprint  # folders appear complete or not at all
        return write_checkpoint(merge, out)
    except InputError as error:  # the provider's disk is no mistake of the client's
        _LOG.error("a checkpoint was not written", extra=said(reason=str(error)))
        raise MachineError("the checkpoint was not written") from error
    except MachineError as error:
        _LOG.error("a checkpoint was not written", extra=said(reason=str(error)))
        raise
