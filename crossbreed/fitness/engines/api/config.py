"""The settings of the engine `api`: a merge service, asked by the names of its sources. Imports no client."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import PrivateAttr

from crossbreed.errors import Collector, InputError, require
from crossbreed.fitness import wire
from crossbreed.fitness.engines.api.limits import require_within
from crossbreed.fitness.engines.registry import EnginePart, InnerProducts, RecipeEngineConfig
from crossbreed.fitness.items import Item
from crossbreed.fitness.requests import Loglikelihood, Request
from crossbreed.fitness.services.faults import WrongAnswer
from crossbreed.fitness.services.settings import ServiceSettings
from crossbreed.fitness.tasks.remote import ServedItems
from crossbreed.parsing import any_of, suggestion
from crossbreed.sources.structure import Structure
from crossbreed.types import BASE, Recipe

if TYPE_CHECKING:
    import httpx2

    from crossbreed.fitness.services.pace import Clock
    from crossbreed.fitness.services.transport import Transport


class ApiConfig(ServiceSettings, RecipeEngineConfig):
    """A merge service (`crossbreed serve`): it holds the weights, and takes recipes over the names of its sources.

    Needs neither torch nor weights. `sources:` in the spec are names, or are left out: then all that it has are merged.
    """

    kind: Literal["api"]
    names_sources: ClassVar[bool] = True
    publishes: ClassVar[bool] = True
    _served: wire.Sources | None = PrivateAttr(default=None)
    _offered: Structure | None = PrivateAttr(default=None)
    """Of all its sources."""
    _places: tuple[int, ...] = PrivateAttr(default=())
    """Where base and chosen experts stand among the service's sources."""
    _http: "httpx2.BaseTransport | None" = PrivateAttr(default=None)
    _clock: "Clock | None" = PrivateAttr(default=None)

    def over(self, http: "httpx2.BaseTransport", clock: "Clock | None" = None) -> "ApiConfig":
        """Replaces the network, and the machine's time, for tests; returns these settings."""
        self._http, self._clock = http, clock
        return self

    def connect(self) -> "Transport":
        """Returns a connection; nothing is asked yet.

        Raises:
            MissingExtra: the client is not installed.
            InputError: the key is not in the environment.
        """
        require("openai", extra="api")
        from crossbreed.fitness.services.transport import Transport

        return Transport(self, http=self._http, clock=self._clock)

    def describe_sources(self, base: str, experts: Mapping[str, str]) -> Structure:
        """Asks the service; all its experts, unless some are named. See RecipeEngineConfig."""
        transport = self.connect()
        try:
            self._served, structure = transport.get("/v1/sources", read_sources)
        finally:
            transport.close()
        if base not in ("", BASE):
            raise self._unknown(base, (BASE,), where="sources.base")
        self._offered, mistakes = structure, Collector()
        for name in experts:
            if name not in structure.touched:
                mistakes.note(self._unknown(name, structure.experts, where="sources.experts"))
        mistakes.require_none()
        named = tuple(experts) or structure.experts
        self._places = (0, *(1 + structure.experts.index(name) for name in named))
        return _restricted(structure, named)

    def served_items(self) -> dict[str, ServedItems]:
        """Returns the provider's own tasks, as it named them when it was asked for its sources."""
        assert self._served is not None, "sources are described first"
        return {
            task.name: ServedItems(
                higher_is_better=task.higher_is_better,
                count=task.count,
                items=None
                if task.items is None
                else tuple(Item(id=one, fields={"task": task.name, "item": one}) for one in task.items),
                splits=task.splits,
            )
            for task in self._served.tasks
        }

    def inner_products(self) -> InnerProducts | None:
        """Asks the service for them when they are first needed, once. See RecipeEngineConfig."""
        offered = self._offered
        assert self._served is not None, "sources are described first"
        assert offered is not None
        if "logprobs" not in self._served.abilities.rights:
            return None
        chosen, told = list(self._places), dict[str, list[list[float]]]()

        def products(names: Sequence[str]) -> NDArray[np.float64]:
            if not told:
                transport = self.connect()
                try:
                    read = partial(_read_products, offered=offered)
                    told.update(transport.get("/v1/sources/inner_products", read))
                finally:
                    transport.close()
            total = np.zeros((len(chosen), len(chosen)))
            for name in names:
                total += np.array(told[name])[np.ix_(chosen, chosen)]
            return total

        return products

    def check_recipes(self, recipes: Iterable[Recipe]) -> None:
        """Refuses what is beyond the service's limits. See RecipeEngineConfig."""
        assert self._served is not None, "sources are described first"
        mistakes = Collector()
        for recipe in recipes:
            with mistakes.noted():
                require_within(recipe, self._served.limits, where=self.url)
        mistakes.require_none()

    def check_requests(self, requests: Mapping[str, Request]) -> None:
        """Refuses tasks that need what the key has no right to. See RecipeEngineConfig."""
        assert self._served is not None, "sources are described first"
        abilities, mistakes = self._served.abilities, Collector()
        for task, request in requests.items():
            needs = "logprobs" if isinstance(request, Loglikelihood) else "answers"
            if needs not in abilities.rights:
                what = "log-probabilities" if needs == "logprobs" else "texts"
                mistakes.note(
                    InputError(
                        f"task `{task}` needs {what}, to which the service gives no right",
                        expected=f"the right `{needs}`",
                        got=f"{', '.join(abilities.rights) or 'no right at all'}, at {self.url}",
                        where=f"fitness.tasks, `{task}`",
                        fix="use tasks that need less (`generate` needs texts alone, `remote` scores), or ask the "
                        "provider for the right",
                    )
                )
        mistakes.require_none()

    def identity(self) -> dict[str, Any]:
        """Returns the settings but for address and pace: the service may move."""
        return self.lasting()

    def _unknown(self, name: str, known: tuple[str, ...], *, where: str) -> InputError:
        return InputError(
            f"the service has no source `{name}`",
            expected=any_of(known),
            got=name,
            where=f"{where}, {self.url}",
            fix=suggestion(name, known) or "leave `sources` out to merge all that it has",
        )


def read_sources(value: Any) -> tuple[wire.Sources, Structure]:  # JSON
    """Returns what `/v1/sources` says."""
    found = wire.Sources.model_validate(value)
    return found, Structure.from_json(found.structure, where="/v1/sources, structure")


def _read_products(value: Any, *, offered: Structure) -> dict[str, list[list[float]]]:  # JSON
    told, size = wire.InnerProducts.model_validate(value).tensors, 1 + len(offered.experts)
    for name in offered.tensors:
        if np.shape(told.get(name, ())) != (size, size):
            raise WrongAnswer(f"no matrix of {size} x {size} inner products of `{name}`")
    return told


def _restricted(structure: Structure, experts: tuple[str, ...]) -> Structure:
    """Returns the structure with these experts alone, in this order."""
    return replace(
        structure,
        touched={name: structure.touched[name] for name in experts},
        hashes={name: structure.hashes[name] for name in (BASE, *experts)},
        ranks={name: structure.ranks[name] for name in experts if name in structure.ranks},
    )


PART = EnginePart(
    config=ApiConfig,
    takes="recipe",
    make="crossbreed.fitness.engines.api.engine:ApiEngine",
    needs=("openai",),
    extra="api",
)
