"""One engine, many who ask: nobody is answered with another's weights, and a broken engine answers nobody."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
from service_client import Connect, account, merge
from starlette.testclient import TestClient

from crossbreed.errors import EngineError, InputError, InvalidWeights
from crossbreed.fitness import Generate, Prompt, Request
from crossbreed.runs.spec.provider import load_provider_spec
from crossbreed.runs.workers.adopted import Adopted
from crossbreed.runs.workers.candidate_engine import CandidateEngine
from crossbreed.service.engine_thread import EngineThread
from crossbreed.service.provider import Provider, open_provider
from crossbreed.service.refusals import Refusal
from crossbreed.types import Recipe, Rule

FAKE = """
sources: {base: fake/base, experts: {one: fake/one, two: fake/two}}
fitness: {engine: {kind: fake_recipes}}
"""


@pytest.fixture
def provider(tmp_path: Any) -> Provider:
    (tmp_path / "fake.yaml").write_text(FAKE)
    return open_provider(load_provider_spec(tmp_path / "fake.yaml"))


@pytest.fixture
def thread(provider: Provider) -> Iterator[EngineThread]:
    thread = EngineThread(provider, queue=10_000, patience_s=0.002, on_broken=lambda error: None)
    thread.start()
    yield thread
    thread.stop()


def recipe(provider: Provider, weight: float) -> Recipe:
    rule = Rule(match=".*", operator="task_arithmetic", params={"weight": {"one": weight, "two": 1 - weight}})
    return Recipe(base="base", sources=provider.structure.hashes, rules=(rule,))


def asked(number: int) -> list[Request]:
    return [Generate(prompt=Prompt(text=f"sums|{number}.{n}|right"), max_tokens=9) for n in range(8)]


def texts(adopted: Adopted, requests: list[Request]) -> list[str]:
    return [response.text for response in adopted.handle.answer(requests)]


def test_a_thousand_interleavings_of_two_clients_mix_nothing(provider: Provider, thread: EngineThread) -> None:
    """Each answer is that of the client's own recipe; of the questions, many are answered otherwise by the other's."""
    recipes = {"alice": recipe(provider, 0.1), "bob": recipe(provider, 0.5)}
    reference = provider.start()
    expected = {name: [texts(reference.adopt(own), asked(n)) for n in range(500)] for name, own in recipes.items()}
    assert sum(a != b for a, b in zip(*expected.values(), strict=True)) > 250, "the two can be told apart"
    futures: dict[str, list[Future[list[str]]]] = {name: [] for name in recipes}

    def ask(name: str) -> None:
        for number in range(500):
            work = partial(texts, requests=asked(number))
            futures[name].append(thread.submit(recipes[name], work, owner=name))
            if number % 7 == 0:
                time.sleep(0.001)

    askers = [threading.Thread(target=ask, args=(name,)) for name in recipes]
    for one in askers:
        one.start()
    for one in askers:
        one.join()
    found = {name: [future.result(60) for future in of_one] for name, of_one in futures.items()}
    assert found == expected
    assert thread.num_adopted > 2, "the engine went to and fro"


def test_two_clients_over_http_are_answered_by_their_own_merges(connect: Connect) -> None:
    """The same with real models, whose weights are swapped in memory."""
    client = connect(account("alice", "a" * 20), account("bob", "b" * 20), key="a" * 20)
    questions = {"a" * 20: 0.0, "b" * 20: 1.0}
    expected: dict[str, Any] = {}

    def complete(key: str, model: str, client: TestClient = client) -> Any:
        question = {"model": model, "prompt": ["one two", "three"], "max_tokens": 3, "temperature": 0, "logprobs": 1}
        answer = client.post("/v1/completions", json=question, headers={"Authorization": f"Bearer {key}"})
        return answer.json()["choices"]

    models = {}
    for key, weight in questions.items():
        client.headers["Authorization"] = f"Bearer {key}"
        models[key] = merge(client, weight)
        expected[key] = complete(key, models[key])
    assert expected["a" * 20] != expected["b" * 20]
    wrong = list[str]()

    def ask(key: str) -> None:
        own = TestClient(client.app)
        wrong.extend(key for _ in range(12) if complete(key, models[key], own) != expected[key])

    askers = [threading.Thread(target=ask, args=(key,)) for key in questions for _ in range(2)]
    for one in askers:
        one.start()
    for one in askers:
        one.join()
    assert wrong == []


@dataclass
class Fragile:
    """An engine of which a test decides what fails, and a host that starts it."""

    base_recipe: Recipe
    starts: int = 0
    fails: int = 0
    """Number of starts that fail from now on."""
    is_broken: bool = False
    closed: int = 0
    adopted: list[str] = field(default_factory=list)

    def start(self) -> CandidateEngine:
        self.starts += 1
        if self.fails:
            self.fails -= 1
            raise EngineError("does not start")
        self.is_broken = False
        return self  # type: ignore[return-value]

    def adopt(self, recipe: Recipe) -> Adopted:
        if self.is_broken:
            raise EngineError("is broken")
        self.adopted.append(recipe.id)
        return Adopted(handle=None, fingerprint=recipe.id, seconds={})  # type: ignore[arg-type]

    def confirm(self) -> None: ...

    def close(self) -> None:
        self.closed += 1

    def probe(self, adopted: Adopted) -> None:
        assert adopted.fingerprint == self.base_recipe.id

    def require_unchanged(self) -> None: ...


def fragile(**settings: Any) -> tuple[Fragile, EngineThread, list[BaseException]]:
    broken = list[BaseException]()
    host = Fragile(base_recipe=Recipe(base="base", sources={"base": "h"}, rules=()), **settings)
    return host, EngineThread(host, queue=2, patience_s=0, on_broken=broken.append), broken


OTHER = Recipe(base="base", sources={"base": "other"}, rules=())


def failing(error: Exception) -> Any:
    def work(adopted: Adopted) -> None:
        raise error

    return work


@pytest.mark.parametrize("error", [InvalidWeights("NaN"), EngineError("out of memory"), KeyError("a bug")])
def test_after_an_error_the_base_must_answer_and_nothing_is_kept(error: Exception) -> None:
    host, thread, broken = fragile()
    thread.start()
    with pytest.raises(type(error)):
        thread.submit(OTHER, failing(error), owner="a").result(10)
    assert thread.submit(OTHER, lambda adopted: adopted.fingerprint, owner="a").result(10) == OTHER.id
    thread.stop()
    assert host.adopted == [OTHER.id, host.base_recipe.id, OTHER.id], "the base, and then the merge anew"
    assert (host.starts, host.closed, broken) == (1, 1, [])


def test_an_input_error_costs_nothing() -> None:
    host, thread, _ = fragile()
    thread.start()
    with pytest.raises(InputError):
        thread.submit(OTHER, failing(InputError("wrong")), owner="a").result(10)
    thread.submit(OTHER, lambda adopted: None, owner="a").result(10)
    thread.stop()
    assert host.adopted == [OTHER.id]


def test_a_broken_engine_is_started_again_once() -> None:
    host, thread, broken = fragile()
    thread.start()

    def breaking(adopted: Adopted) -> None:
        host.is_broken = True
        raise EngineError("has gone")

    with pytest.raises(EngineError):
        thread.submit(OTHER, breaking, owner="a").result(10)
    assert thread.submit(OTHER, lambda adopted: adopted.fingerprint, owner="a").result(10) == OTHER.id
    assert (host.starts, host.closed, broken) == (2, 1, [])
    host.fails = 1
    waiting = threading.Event()

    def slowly_breaking(adopted: Adopted) -> None:
        waiting.wait(10)
        breaking(adopted)

    first = thread.submit(OTHER, slowly_breaking, owner="a")
    second = thread.submit(OTHER, lambda adopted: None, owner="a")
    waiting.set()
    with pytest.raises(EngineError, match="has gone"):
        first.result(10)
    with pytest.raises(Refusal, match="stops"):
        second.result(10)
    thread.stop()
    assert [str(error) for error in broken] == ["does not start"]
    assert not thread.is_alive
    with pytest.raises(Refusal):
        thread.submit(OTHER, lambda adopted: None, owner="a")


def test_an_engine_that_does_not_start_says_so() -> None:
    _, thread, broken = fragile(fails=1)
    with pytest.raises(EngineError, match="does not start"):
        thread.start()
    assert broken == []


def test_one_client_fills_its_own_queue_alone_and_what_is_given_up_is_not_done() -> None:
    host, thread, _ = fragile()
    thread.start()
    begun, waiting = threading.Event(), threading.Event()

    def slow(adopted: Adopted) -> None:
        begun.set()
        waiting.wait(10)

    first = thread.submit(host.base_recipe, slow, owner="alice")
    assert begun.wait(10)
    assert 0 < thread.busy_s < 60
    queued = [thread.submit(OTHER, lambda adopted: None, owner="alice") for _ in range(2)]
    with pytest.raises(Refusal) as refusal:
        thread.submit(OTHER, lambda adopted: None, owner="alice")
    assert (refusal.value.status, refusal.value.code, refusal.value.retry_after_s) == (503, "overloaded", 5)
    of_bob = thread.submit(host.base_recipe, lambda adopted: "bob", owner="bob")
    assert all(future.cancel() for future in queued)
    waiting.set()
    assert (first.result(10), of_bob.result(10)) == (None, "bob")
    thread.stop()
    assert OTHER.id not in host.adopted
    assert thread.busy_s == 0


def test_nobody_waits_for_an_engine_that_hangs_when_the_service_stops() -> None:
    """Work beside the engine, such as a checkpoint, waits on threads that would else keep the process."""
    host, thread, _ = fragile()
    thread.start()
    begun, waiting = threading.Event(), threading.Event()

    def hanging(adopted: Adopted) -> None:
        begun.set()
        waiting.wait(60)

    thread.submit(host.base_recipe, hanging, owner="a")
    assert begun.wait(10)
    part = thread.submit_aside(lambda: "a tensor", owner="")
    thread.stop(0.01)
    with pytest.raises(Refusal, match="stops"):
        part.result(0)
    waiting.set()


def test_stopping_lets_the_work_in_hand_end() -> None:
    host, thread, _ = fragile()
    thread.start()
    begun = threading.Event()

    def slow(adopted: Adopted) -> str:
        begun.set()
        time.sleep(0.1)
        return "done"

    first = thread.submit(host.base_recipe, slow, owner="a")
    second = thread.submit(host.base_recipe, slow, owner="a")
    assert begun.wait(10)
    thread.stop()
    assert (first.result(0), host.closed) == ("done", 1)
    with pytest.raises(Refusal):
        second.result(0)
