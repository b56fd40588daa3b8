"""A merge service for the engine `merge_service`: HTTP around the engine that takes recipes in tests."""

from contextlib import AbstractContextManager
from dataclasses import asdict
from typing import Any

from json_server import serving

from crossbreed.fitness import Generate, Loglikelihood, Prompt, Request
from crossbreed.recipes import parse_recipe
from crossbreed.testing.fake_recipes import FakeRecipeEngine, FakeRecipesConfig


class Service:
    """Merges and answers as `fake_recipes` does."""

    def __init__(self) -> None:
        self._config = FakeRecipesConfig(kind="fake_recipes")
        self._engine = FakeRecipeEngine(self._config)
        self._recipes: dict[str, Any] = {}

    def sources(self, body: dict[str, Any]) -> Any:
        experts = {name: f"fake/{source}" for name, source in body["experts"].items()}
        return self._config.describe_sources(f"fake/{body['base']}", experts).to_json()

    def adopt(self, body: dict[str, Any]) -> Any:
        recipe = parse_recipe(body, is_recorded=True)  # operators of the client's packages
        self._recipes[recipe.id] = recipe
        return {"model": recipe.id, "fingerprint": self._engine.adopt(recipe).fingerprint}

    def answer(self, body: dict[str, Any]) -> Any:
        handle = self._engine.adopt(self._recipes[body["model"]])
        return [asdict(response) for response in handle.answer([*map(read_request, body["requests"])])]


def read_request(body: dict[str, Any]) -> Request:
    kinds: dict[str, type[Request]] = {"Generate": Generate, "Loglikelihood": Loglikelihood}
    return kinds[body.pop("kind")](**{**body, "prompt": Prompt(**body["prompt"])})


def serve() -> AbstractContextManager[str]:
    """Serves on a free port for as long as the block runs, and gives the address."""
    service = Service()
    return serving(lambda path, body, _: (200, getattr(service, path.strip("/"))(body)))
