"""The engine `lora_server`, against an app that behaves as vLLM's own server: adapters answer as merges would."""

import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from stock_server import BASE, StockServer, listening

from crossbreed.errors import EngineError, InputError, InvalidWeights, ServiceOutage, SwapError
from crossbreed.fitness import (
    Generate,
    Handle,
    Loglikelihood,
    Prompt,
    Request,
    Response,
    TransformersConfig,
    build_adapter_engine,
    build_engine,
)
from crossbreed.fitness.engines.lora_server.engine import LoraServerEngine
from crossbreed.fitness.engines.lora_server.settings import LoraServerConfig
from crossbreed.recipes.named import weighted_deltas
from crossbreed.runs.weights import Weights
from crossbreed.runs.workers.adapter_engine import CandidateEngineByAdapter
from crossbreed.sources import open_sources
from crossbreed.testing.toys import make_adapter, make_checkpoint
from crossbreed.types import Recipe

REQUESTS: list[Request] = [
    Generate(prompt=Prompt(text="one and"), max_tokens=5),
    Loglikelihood(prompt=Prompt(text="two"), continuation=" is even"),
    Generate(prompt=Prompt(text="three", chat=True), max_tokens=3, stop=("x",)),
    Loglikelihood(prompt=Prompt(text=""), continuation="four"),
]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Weights:
    """A base in float32 and two adapters of it."""
    root = tmp_path_factory.mktemp("models")
    base = make_checkpoint(root / "base", num_layers=2, dtype=torch.float32)
    experts = {name: make_adapter(root / name, base=base, seed=seed) for seed, name in enumerate("ab", 1)}
    return Weights(sources=open_sources(str(base), {name: str(path) for name, path in experts.items()}))


@pytest.fixture
def servers(weights: Weights) -> Iterator[list[StockServer]]:
    """Two servers of the base."""
    found = [StockServer(weights.host), StockServer(weights.host)]
    with listening(*found):
        yield found


def config(*servers: StockServer, **settings: object) -> LoraServerConfig:
    raw = {"kind": "lora_server", "url": [s.url for s in servers], "max_rank": 16, "dtype": "float32", "patience": 1.0}
    return LoraServerConfig.model_validate({**raw, **settings})


def started(weights: Weights, *servers: StockServer, **settings: object) -> CandidateEngineByAdapter:
    settings_ = config(*servers, **settings)
    engine = build_adapter_engine(settings_, weights.host, end_token_ids=weights.sources.end_token_ids)
    return CandidateEngineByAdapter(engine, settings_, weights)


def recipe(weights: Weights, a: float, b: float) -> Recipe:
    return weighted_deltas({"a": a, "b": b}, hashes=weights.structure.hashes, dtype="float32")


def answers_of_merge(weights: Weights, one: Recipe) -> list[Response]:
    engine = build_engine(TransformersConfig(kind="transformers"), weights.host)
    return engine.adopt(one, weights.materialize(one)).answer(REQUESTS)


def assert_alike(some: list[Response], others: list[Response]) -> None:
    assert [r.token_ids for r in some] == [r.token_ids for r in others]
    assert [(r.text, r.prompt_tokens) for r in some] == [(r.text, r.prompt_tokens) for r in others]
    for one, other in zip(some, others, strict=True):
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)


def test_adapters_answer_as_merges_do(weights: Weights, servers: list[StockServer]) -> None:
    """Names are fresh, every request names its model and a salt of its own, and what is done with is unloaded."""
    candidates = started(weights, *servers)
    first, second = recipe(weights, 0.8, -0.3), recipe(weights, 0.2, 0.6)
    for one in (first, second, first, recipe(weights, 0.0, 0.0)):
        assert_alike(candidates.adopt(one).handle.answer(REQUESTS), answers_of_merge(weights, one))
    candidates.close()
    for server in servers:
        names = [body["lora_name"] for body in server.asked("load")]
        assert len(set(names)) == 3
        assert [body["lora_name"] for body in server.asked("unload")] == names
        assert not server.adapters
        assert not any(Path(body["lora_path"]).exists() for body in server.asked("load"))
        bodies = server.asked("completions")
        assert {body["model"] for body in bodies} == {*names, BASE}
        salts = {body["model"]: {b["cache_salt"] for b in bodies if b["model"] == body["model"]} for body in bodies}
        of_adapters = [salt for name in names for salt in salts[name]]
        assert len(of_adapters) == len(set(of_adapters)), "none is used by two"
        assert all(len(body["cache_salt"]) <= 128 for body in bodies)
        assert all(isinstance(body["prompt"][0], list) and "logprobs" in body for body in bodies)


def test_a_chunk_is_divided_the_same_way_each_time(weights: Weights, servers: list[StockServer]) -> None:
    candidates = started(weights, *servers)
    handle = candidates.adopt(recipe(weights, 0.5, 0.5)).handle
    counts = []
    for _ in range(2):
        before = [len(server.seen) for server in servers]
        handle.answer(REQUESTS)
        bodies = [server.seen[count:] for server, count in zip(servers, before, strict=True)]
        counts.append([[body["prompt"] for _, body in of_one] for of_one in bodies])
    assert counts[0] == counts[1]
    assert [sum(map(len, of_one)) for of_one in counts[0]] == [2, 2]
    candidates.close()


def test_a_server_that_is_given_up_changes_nothing_that_shares_a_call(
    weights: Weights, servers: list[StockServer]
) -> None:
    """Another one is asked its part, apart from its own: in low precision, answers depend on what is beside them."""
    candidates = started(weights, *servers)
    one = recipe(weights, 0.5, 0.5)

    def bodies() -> list[tuple[list[list[int]], list[int]]]:
        count = [len(server.seen) for server in servers]
        handle.answer(REQUESTS[:3])
        told = (body for server, n in zip(servers, count, strict=True) for _, body in server.seen[n:])
        return sorted((body["prompt"], body["stop_token_ids"]) for body in told)

    handle = candidates.adopt(one).handle
    before = bodies()
    servers[0].is_spoilt = True
    handle = candidates.adopt(one).handle
    count = len(servers[0].seen)
    assert bodies() == before
    assert len(servers[0].seen) == count, "it is not asked again"
    assert len({tuple(ends) for _, ends in before}) == 1, "whatever kind of request is first"
    candidates.close()


def test_an_adapter_that_is_gone_answers_nothing_and_one_that_was_forgotten_is_loaded_again(
    weights: Weights, servers: list[StockServer]
) -> None:
    candidates = started(weights, *servers)
    old = candidates.adopt(recipe(weights, 1.0, 0.0)).handle
    one = recipe(weights, 0.0, 1.0)
    handle = candidates.adopt(one).handle
    with pytest.raises(EngineError, match="another candidate since"):
        old.answer(REQUESTS)
    servers[1].adapters.clear()  # restarted
    assert_alike(handle.answer(REQUESTS), answers_of_merge(weights, one))
    candidates.close()


@pytest.mark.parametrize("when", ["before a candidate", "in the middle of one"])
def test_a_server_that_was_restarted_with_another_base_is_noticed(when: str, weights: Weights, tmp_path: Path) -> None:
    """Of the same name and shapes: adapters fit it."""
    server = StockServer(weights.host)
    other = StockServer(make_checkpoint(tmp_path / "other", num_layers=2, seed=9, dtype=torch.float32))
    with listening(server):
        candidates = started(weights, server)
        handle = candidates.adopt(recipe(weights, 1.0, 0.0)).handle
        server._base, server.adapters = other._base, {}
        go_on = {
            "before a candidate": partial(candidates.adopt, recipe(weights, 0.5, 0.5)),
            "in the middle of one": partial(handle.answer, REQUESTS),
        }[when]
        with pytest.raises(InputError, match="has become another"):
            go_on()
        candidates.close()


def test_answers_of_another_model_are_never_scored(weights: Weights, servers: list[StockServer]) -> None:
    candidates = started(weights, servers[0], patience=0.1)
    handle = candidates.adopt(recipe(weights, 1.0, 0.0)).handle
    servers[0].answers_as = BASE
    with pytest.raises(EngineError, match=f"`{BASE}` answered, not `crossbreed-"):
        handle.answer(REQUESTS)
    servers[0].answers_as = None
    candidates.close()


def loud(weights: Weights) -> Recipe:
    """Its weights are finite, its answers are not."""
    return recipe(weights, 1e30, 0.0)


def test_nan_is_the_candidates_where_the_base_still_answers(weights: Weights, servers: list[StockServer]) -> None:
    candidates = started(weights, *servers)
    with pytest.raises(InvalidWeights, match=r"NaN or infinite$"):
        candidates.adopt(loud(weights))
    after = recipe(weights, 0.3, 0.3)
    assert_alike(candidates.adopt(after).handle.answer(REQUESTS), answers_of_merge(weights, after))
    assert servers[0].asked("completions")[-1]["model"] == servers[0].asked("load")[-1]["lora_name"]
    candidates.close()


def test_a_spoilt_server_is_told_and_not_used_again(weights: Weights, servers: list[StockServer]) -> None:
    """One server answers a new candidate before the others do, so that its NaN spoils no more than that one."""
    servers[0].stays_spoilt = servers[1].stays_spoilt = True
    candidates = started(weights, *servers)
    with pytest.raises(InvalidWeights, match=f"the server at {servers[0].url} answers NaN for the base itself"):
        candidates.adopt(loud(weights))
    count, after = len(servers[0].seen), recipe(weights, 0.3, 0.3)
    handle = candidates.adopt(after).handle
    assert_alike(handle.answer(REQUESTS), answers_of_merge(weights, after))
    assert len(servers[0].seen) == count
    servers[1].is_spoilt = True  # by somebody else
    with pytest.raises(InvalidWeights, match=f"the server at {servers[1].url} answers NaN for the base itself"):
        handle.answer(REQUESTS)
    with pytest.raises(ServiceOutage, match=r"no server is left: .*restart it.*\nNothing is lost"):
        candidates.adopt(after)
    candidates.close()


def test_a_server_that_is_away_is_waited_for_once(weights: Weights, tmp_path: Path) -> None:
    server = StockServer(weights.host)
    with listening(server):
        candidates = started(weights, server, patience=2.0, folder=str(tmp_path))
        handle = candidates.adopt(recipe(weights, 0.5, 0.5)).handle
        assert len(list(tmp_path.iterdir())) == 1
    with pytest.raises(ServiceOutage):
        handle.answer(REQUESTS)
    began_s = time.monotonic()
    candidates.close()
    assert time.monotonic() - began_s < 1.0
    assert not list(tmp_path.iterdir())


def test_a_server_on_cpu_scores_one_prompt_at_a_time(weights: Weights) -> None:
    server, one = StockServer(weights.host, is_cpu=True), recipe(weights, 0.5, 0.5)
    with listening(server):
        handle = started(weights, server).adopt(one).handle
        with pytest.raises(ServiceOutage, match=r"has died.*\n.*`fitness.engine.scores_together: false`"):
            handle.answer(REQUESTS)
        handle = started(weights, server, scores_together=False).adopt(one).handle
        assert_alike(handle.answer(REQUESTS), answers_of_merge(weights, one))


def test_a_server_that_cannot_load_says_what_to_do(weights: Weights, tmp_path: Path) -> None:
    narrow, closed = StockServer(weights.host, max_rank=4), StockServer(weights.host, loads_adapters=False)
    short = StockServer(weights.host, max_model_len=100)
    one = recipe(weights, 0.5, 0.5)
    with listening(narrow, closed, short):
        with pytest.raises(InputError, match="rank 8 is greater than max_lora_rank 4") as caught:
            started(weights, narrow).adopt(one)
        assert "--max-lora-rank" in caught.value.fix
        with pytest.raises(InputError, match="cannot load adapters") as caught:
            started(weights, closed, patience=30.0).adopt(one)
        assert "VLLM_ALLOW_RUNTIME_LORA_UPDATING=True" in caught.value.fix
        with pytest.raises(InputError, match="No adapter found for /elsewhere/") as caught:
            started(weights, narrow, folder=str(tmp_path), server_folder="/elsewhere").adopt(one)
        assert "server_folder" in caught.value.fix
        with pytest.raises(InputError, match="shorter than the engine's") as caught:
            started(weights, short)
        started(weights, short, **dict([caught.value.fix.split(": ")])).close()


def test_what_needs_more_ranks_is_cut_and_says_so(weights: Weights, servers: list[StockServer]) -> None:
    candidates = started(weights, servers[0], max_rank=7, max_loss=0.5)
    adopted = candidates.adopt(recipe(weights, 0.5, 0.5))
    assert adopted.remark is not None
    assert adopted.remark.startswith("the adapter is cut to rank 7 and lacks ")
    assert started(weights, servers[0]).adopt(recipe(weights, 0.5, 0.5)).remark is None
    with pytest.raises(InputError, match=r"does not fit into an adapter of this rank.*cut to rank 2 and lacks"):
        started(weights, servers[0], max_rank=2).adopt(recipe(weights, 0.5, 0.5))


def test_the_canary_passes_a_server_that_loads_adapters(weights: Weights, servers: list[StockServer]) -> None:
    candidates = started(weights, *servers)
    assert candidates.canary(recipe(weights, 0.0, 0.0), recipe(weights, 0.5, 0.5), REQUESTS) == ()
    candidates.close()


class Deaf(LoraServerEngine):
    """Answers with the base."""

    def answer(self, requests, loaded):  # type: ignore[no-untyped-def]
        return super().answer(requests, None)


class Stuck(LoraServerEngine):
    """Keeps the second adapter that it is given."""

    given: Path | None = None
    count = 0

    def adopt(self, one: Recipe, folder: Path) -> Handle:  # type: ignore[override]
        self.count += 1
        if self.count == 2:
            type(self).given = folder.rename(folder.with_name("kept"))
        return super().adopt(one, self.given or folder)


class Forgetful(LoraServerEngine):
    """Passes over one matrix of an adapter."""

    def adopt(self, one: Recipe, folder: Path) -> Handle:  # type: ignore[override]
        file = folder / "adapter_model.safetensors"
        tensors = load_file(file)
        name = next(name for name in tensors if "layers.1.mlp.down_proj.lora_B" in name)
        save_file({**tensors, name: 0 * tensors[name]}, file, metadata={"format": "pt"})
        return super().adopt(one, folder)


class Scaling(LoraServerEngine):
    """Scales adapters otherwise."""

    def adopt(self, one: Recipe, folder: Path) -> Handle:  # type: ignore[override]
        file = folder / "adapter_model.safetensors"
        scaled = {name: tensor * (1.2 if "lora_B" in name else 1.0) for name, tensor in load_file(file).items()}
        save_file(scaled, file, metadata={"format": "pt"})
        return super().adopt(one, folder)


@pytest.mark.parametrize(
    ("kind", "symptom"),
    [
        (Deaf, "answers with its base whatever adapter"),
        (Stuck, "adopted again, gives different answers"),
        (Forgetful, "does not answer as transformers does"),
        pytest.param(Scaling, "does not answer as transformers does", marks=pytest.mark.slow),
    ],
)
def test_the_canary_tells_one_that_does_not(
    kind: type[LoraServerEngine], symptom: str, weights: Weights, servers: list[StockServer]
) -> None:
    settings = config(servers[0])
    candidates = CandidateEngineByAdapter(kind(settings, weights.host), settings, weights)
    with pytest.raises(SwapError, match=symptom):
        candidates.canary(recipe(weights, 0.0, 0.0), recipe(weights, 0.5, 0.5), REQUESTS)
    candidates.close()


def test_several_workers_share_a_server(weights: Weights, servers: list[StockServer]) -> None:
    """Each has an adapter of its own there, under a name that no other has."""
    one, other = recipe(weights, 0.9, 0.0), recipe(weights, 0.0, 0.9)
    first, second = started(weights, servers[0]), started(weights, servers[0])
    mine, theirs = first.adopt(one).handle, second.adopt(other).handle
    assert_alike(mine.answer(REQUESTS), answers_of_merge(weights, one))
    assert_alike(theirs.answer(REQUESTS), answers_of_merge(weights, other))
    first.close()
    assert_alike(theirs.answer(REQUESTS), answers_of_merge(weights, other))
    second.close()


def test_a_run_may_go_on_with_servers_elsewhere(servers: list[StockServer]) -> None:
    here = config(*servers)
    urls = ["http://other:8000", "http://other:8001"]
    there = replace_settings(here, url=urls, folder="/mnt/shared", patience=5.0, key_env="KEY")
    assert here.identity() == there.identity()
    assert here.identity() != replace_settings(here, url=urls[0]).identity(), "chunks would be divided otherwise"
    alone = [replace_settings(here, url=url).identity() for url in urls]
    assert alone[0] == alone[1]
    assert here.identity() != replace_settings(here, dtype="bfloat16").identity()
    with pytest.raises(ValueError, match="names no server, or one of them twice"):
        replace_settings(here, url=[servers[0].url, servers[0].url + "/v1"])


def replace_settings(one: LoraServerConfig, **changes: object) -> LoraServerConfig:
    return LoraServerConfig.model_validate({**one.model_dump(), **changes})
