"""Which model an id names: a source, or a recipe that the same client has named before and that is still remembered."""

import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

from crossbreed.fitness.wire import MODEL_PREFIX
from crossbreed.service.refusals import no_model
from crossbreed.types import Recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A model that can be asked."""

    id: str
    recipe: Recipe
    fingerprint: str | None
    """Of a merge, from when it was made."""
    created: int


class Merges:
    """The recipes of each client, the last used of them."""

    def __init__(self, sources: Mapping[str, Recipe], *, kept: int) -> None:
        """Begins with the sources alone.

        Args:
            sources: Source name -> its own recipe.
            kept: Number of recipes remembered for each client.
        """
        now = int(time.time())
        self._sources = {
            name: Served(id=name, recipe=recipe, fingerprint=None, created=now) for name, recipe in sources.items()
        }
        self._kept = kept
        self._of_owner: dict[str, OrderedDict[str, Served]] = {}

    def find(self, model: str, *, owner: str) -> Served:
        """Returns the model of an id.

        Raises:
            Refusal: there is none, or it is another client's, or it was forgotten.
        """
        if model in self._sources:
            return self._sources[model]
        own = self._of_owner.get(owner, OrderedDict())
        if model not in own:
            raise no_model(model)
        own.move_to_end(model)
        return own[model]

    def known(self, recipe: Recipe, *, owner: str) -> Served | None:
        """Returns a client's merge of a recipe, if it is remembered; it was used then."""
        own = self._of_owner.get(owner, OrderedDict[str, Served]())
        found = own.get(MODEL_PREFIX + recipe.id)
        if found is None or found.recipe != recipe:
            return None
        own.move_to_end(found.id)
        return found

    def remember(self, recipe: Recipe, fingerprint: str | None, *, owner: str) -> Served:
        """Remembers a merge that was made, and forgets the one that was not used for longest."""
        served = Served(id=MODEL_PREFIX + recipe.id, recipe=recipe, fingerprint=fingerprint, created=int(time.time()))
        own = self._of_owner.setdefault(owner, OrderedDict())
        own[served.id] = served
        own.move_to_end(served.id)
        while len(own) > self._kept:
            own.popitem(last=False)
        return served

    def all_of(self, owner: str) -> list[Served]:
        """Returns the sources and a client's merges."""
        return [*self._sources.values(), *self._of_owner.get(owner, OrderedDict[str, Served]()).values()]
