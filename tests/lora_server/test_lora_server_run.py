"""Whole searches over adapters on servers: the scores of local merges, resumed, and published as adapters."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from server_specs import engine_of, write_spec
from stock_server import StockServer, listening

from crossbreed.errors import InputError, MachineError
from crossbreed.runs import check_spec, load_spec, publish_run, run
from crossbreed.runs.evaluate import evaluate
from crossbreed.runs.publishing.manifest import published_folder
from crossbreed.runs.record.history import fold
from crossbreed.runs.record.journal import read
from crossbreed.runs.results.show import open_run
from crossbreed.testing.toys import make_adapter, make_checkpoint, make_expert
from crossbreed.types import Status, Trial


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("models") / "base", num_layers=1, dtype=torch.float32)


@pytest.fixture(scope="module")
def adapters(base: Path) -> dict[str, Path]:
    return {name: make_adapter(base.with_name(name), base=base, seed=seed) for seed, name in enumerate("ab", 1)}


def trials_of(folder: Path) -> dict[int, Trial]:
    return {trial.number: trial for trial in open_run(folder).trials}


def test_a_search_on_a_server_goes_on_with_another_and_is_published(
    base: Path, adapters: dict[str, Path], tmp_path: Path
) -> None:
    server = StockServer(base)
    with listening(server) as urls:
        run(
            load_spec(write_spec(tmp_path / "s", base=base, experts=adapters, engine=engine_of(urls))), tmp_path / "run"
        )
    trials = trials_of(tmp_path / "run")
    assert {trial.score.status for trial in trials.values()} == {Status.OK}
    assert len({trial.score.fingerprint for trial in trials.values()}) == len(trials)
    assert not server.adapters, "all are unloaded"
    with listening(server) as urls:
        run(
            load_spec(write_spec(tmp_path / "s", base=base, experts=adapters, engine=engine_of(urls))), tmp_path / "run"
        )
    publish_run(tmp_path / "run", tmp_path / "winner", trial=3, licence="mit", form="adapter", with_scores=False)
    published = published_folder(tmp_path / "winner")
    assert published is not None
    assert published.fingerprint == trials[3].score.fingerprint
    with pytest.raises(InputError, match="it is an adapter that was scored"):
        publish_run(tmp_path / "run", tmp_path / "model", licence="mit")
    with pytest.raises(InputError, match="cannot evaluate a checkpoint"):
        evaluate(base, load_spec(tmp_path / "s/spec.yaml"))


def test_what_no_adapter_carries_is_told_before_a_server_is_asked(base: Path, tmp_path: Path) -> None:
    weights = load_file(base / "model.safetensors")
    full = make_expert(base.with_name("norms"), base=base, seed=6, pattern="q_proj")
    save_file({n: w + 0.1 * (w.ndim < 2) for n, w in weights.items()}, full / "model.safetensors")
    engine = engine_of(["http://127.0.0.1:9"])
    spec = load_spec(write_spec(tmp_path / "s", base=base, experts={"full": full}, engine=engine))
    with pytest.raises(InputError, match=r"cannot change `model.layers.0.input_layernorm.weight`"):
        check_spec(spec)


@pytest.mark.slow
def test_a_search_over_two_servers_scores_as_local_merges_do(
    base: Path, adapters: dict[str, Path], tmp_path: Path
) -> None:
    with listening(StockServer(base), StockServer(base)) as urls:
        spec = write_spec(tmp_path / "s", base=base, experts=adapters, engine=engine_of(urls))
        run(load_spec(spec), tmp_path / "run")
    local = write_spec(tmp_path / "l", base=base, experts=adapters, engine={"kind": "transformers"})
    run(load_spec(local), tmp_path / "local")
    ours, theirs = trials_of(tmp_path / "run"), trials_of(tmp_path / "local")
    assert ours.keys() == theirs.keys()
    for number, trial in ours.items():
        assert trial.recipe.id == theirs[number].recipe.id
        for task, found in trial.score.tasks.items():
            assert found.values == pytest.approx(theirs[number].score.tasks[task].values, abs=1e-3)


@pytest.mark.slow
def test_a_search_stops_when_no_server_is_left_and_goes_on(
    base: Path, adapters: dict[str, Path], tmp_path: Path
) -> None:
    server = StockServer(base, spoilt_after=6)
    with listening(server) as urls:
        spec = write_spec(tmp_path / "s", base=base, experts=adapters, engine=engine_of(urls))
        with pytest.raises(MachineError, match=r"no server is left: .*restart it\nNothing is lost"):
            run(load_spec(spec), tmp_path / "run")
        told = fold(read(tmp_path / "run/journal.jsonl"))
        assert 0 < len(told.all_trials) < 10
        assert {trial.score.status for trial in told.all_trials} == {Status.OK}
        server.is_spoilt = False
        run(load_spec(spec), tmp_path / "run")
    assert len(fold(read(tmp_path / "run/journal.jsonl")).all_trials) > 10


@pytest.mark.slow
def test_full_experts_are_searched_where_their_ranks_fit_and_else_refused(base: Path, tmp_path: Path) -> None:
    experts = {"full": make_expert(base.with_name("full"), base=base, seed=5, pattern="q_proj")}
    server = StockServer(base, max_rank=128)
    with listening(server) as urls:
        narrow = write_spec(tmp_path / "n", base=base, experts=experts, engine=engine_of(urls))
        with pytest.raises(InputError, match=r"lacks .*% of the change") as caught:
            run(load_spec(narrow), tmp_path / "narrow")
        run(load_spec(narrow, [caught.value.fix.split("--set ")[1]]), tmp_path / "narrow")
        wide = write_spec(tmp_path / "w", base=base, experts=experts, engine=engine_of(urls, max_rank=128))
        run(load_spec(wide), tmp_path / "wide")
    of_expert = trials_of(tmp_path / "wide")[1]
    assert of_expert.score.error is not None
    assert of_expert.score.error.startswith("the adapter is cut to rank 128 and lacks 0.00%")


@pytest.mark.slow
@pytest.mark.engine
def test_several_workers_search_with_as_many_adapters(base: Path, adapters: dict[str, Path], tmp_path: Path) -> None:
    server = StockServer(base)
    with listening(server) as urls:
        path = write_spec(tmp_path / "s", base=base, experts=adapters, engine=engine_of(urls))
        spec = load_spec(path, ["workers.executor=ray", "workers.count=2", "workers.cpus=1"])
        run(spec, tmp_path / "many")
        assert server.most_adapters == 2
        server.adapters.clear()  # Ray ends workers without asking: each leaves its last one
        run(load_spec(path), tmp_path / "one")
    many, one = trials_of(tmp_path / "many"), trials_of(tmp_path / "one")
    assert many.keys() == one.keys()
    for number, trial in many.items():
        assert trial.score.fingerprint == one[number].score.fingerprint
        for task, found in trial.score.tasks.items():
            assert found.values == pytest.approx(one[number].score.tasks[task].values, abs=1e-6)
