"""Whole runs through the engine `api`: against a service in this process, with and without faults in between."""

import json
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from api_specs import raw_spec, spec_over, written
from fake_service import EXPERTS, KEY, FakeService
from faults_transport import KINDS, Faulty, SimulatedClock

from crossbreed.errors import InputError, MachineError, ServiceOutage
from crossbreed.fitness.engines.api.config import ApiConfig
from crossbreed.fitness.services.begun import HOST, Begun
from crossbreed.recipes import load_recipe
from crossbreed.runs import build_plan, check_spec, dump_spec, load_spec, run
from crossbreed.runs import evaluate as evaluating
from crossbreed.runs.checking.text import findings_text
from crossbreed.runs.record.journal import read
from crossbreed.runs.record.records import to_json, without_clock

FAULTS_OF_EACH_SEED = 100


def journal_of(out: Path) -> list[Any]:
    """The journal but for times and places."""
    return [without_clock(record) for record in read(out / "journal.jsonl")]


def everything_written(out: Path) -> str:
    return "\n".join(
        path.read_text(errors="replace")
        for path in out.rglob("*")
        if path.is_file() and path.suffix in (".jsonl", ".json", ".txt", ".html", ".yaml")
    )


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("spec")
    return written(folder, raw_spec(folder))


@pytest.fixture(scope="module")
def untroubled() -> FakeService:
    """What `finished` asks."""
    return FakeService()


@pytest.fixture(scope="module")
def finished(path: Path, untroubled: FakeService, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run without a fault."""
    out = tmp_path_factory.mktemp("runs") / "run"
    run(spec_over(path, untroubled), out)
    return out


def test_a_run_over_all_sources_of_the_service(finished: Path) -> None:
    records = [to_json(record) for record in read(finished / "journal.jsonl")]
    assert {*records[0]["sources"]} == {"base", *EXPERTS}
    values = {name: set[str]() for name in ("red", "blue", "pick")}
    for record in records:
        if record["kind"] == "tell" and record["split"] == "search":
            assert record["status"] == "OK"
            for name, found in record["tasks"].items():
                values[name].add(str(found))
    assert all(len(found) > 3 for found in values.values()), "the weights change what is measured"


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)])
def test_no_fault_changes_a_trial_or_loses_one(seed: int, path: Path, finished: Path, tmp_path: Path) -> None:
    service, clock = FakeService(), SimulatedClock()
    faulty = Faulty(service, clock, service.restart, seed=seed, share=0.35, most=FAULTS_OF_EACH_SEED)
    for _ in range(3):  # a service that does not answer when it is first asked ends the command, which goes on
        with suppress(ServiceOutage):
            run(spec_over(path, faulty, clock), tmp_path / "run")
            break
    assert faulty.counts.total() == FAULTS_OF_EACH_SEED
    assert len(faulty.counts) > len(KINDS) * 0.8
    assert journal_of(tmp_path / "run") == journal_of(finished)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_fault_alone(kind: str, path: Path, finished: Path, tmp_path: Path) -> None:
    service, clock = FakeService(), SimulatedClock()
    faulty = Faulty(service, clock, service.restart, seed=2, share=0.25, most=20, kinds=(kind,))
    run(spec_over(path, faulty, clock), tmp_path / "run")
    assert faulty.counts[kind] == 20
    assert journal_of(tmp_path / "run") == journal_of(finished)


class Away(Faulty):
    """A service that asks to wait an hour from some request on."""

    from_request = 10**9
    num_requests = 0

    def drawn(self) -> str:
        self.num_requests += 1
        return "hour" if self.num_requests > self.from_request else ""

    def fault(self, kind: str, request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(429, headers={"Retry-After": "3600"}, json={"error": {"message": "come back later"}})


@pytest.mark.parametrize(
    "after", [0, pytest.param(2, marks=pytest.mark.slow), pytest.param(40, marks=pytest.mark.slow), 150]
)
def test_an_hour_s_retry_after_stops_the_run_with_one_message_and_it_goes_on(
    after: int, path: Path, finished: Path, tmp_path: Path
) -> None:
    service, clock = FakeService(), SimulatedClock()
    away = Away(service, clock, service.restart)
    away.from_request = after
    with pytest.raises(ServiceOutage, match=r"(?s)asks to wait 3,600 s.*fitness\.engine\.patience=\d+") as stopped:
        run(spec_over(path, away, clock), tmp_path / "run")
    assert isinstance(stopped.value, MachineError), "exit 1"
    assert clock.seconds < 60, "it did not wait in silence"
    if (tmp_path / "run/journal.jsonl").exists():
        assert "FAILED" not in (tmp_path / "run/journal.jsonl").read_text()
    run(spec_over(path, service), tmp_path / "run")
    assert journal_of(tmp_path / "run") == journal_of(finished)


@pytest.mark.slow
def test_a_patient_run_waits_the_hour_and_says_so(path: Path, tmp_path: Path) -> None:
    service, clock = FakeService(), SimulatedClock()
    hour = Faulty(service, clock, service.restart, seed=5, share=0.05, most=2, kinds=("hour",))
    answer = httpx2.Response(429, headers={"Retry-After": "3600"})
    hour.fault = lambda kind, request: answer  # type: ignore[method-assign]
    spec = spec_over(path, hour, clock)
    patient = spec.fitness.engine.model_copy(update={"patience": 5000.0})
    assert isinstance(patient, ApiConfig)
    spec = spec.model_copy(update={"fitness": spec.fitness.model_copy(update={"engine": patient})})
    patient.over(hour, clock)
    run(spec, tmp_path / "run")
    assert 7200 <= clock.seconds < 7300
    assert (tmp_path / "run/log.txt").read_text().count("asks to wait 3,600 s") == 2


class Ended(Exception):
    """The process is gone."""


class Ending(httpx2.BaseTransport):
    """The process ends in the middle of a candidate."""

    def __init__(self, service: FakeService) -> None:
        self._service = service

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        if self._service.count("/v1/completions") == 60:
            raise Ended
        return self._service.handle_request(request)


def test_a_candidate_goes_on_in_the_middle_of_a_task(
    path: Path, finished: Path, untroubled: FakeService, tmp_path: Path
) -> None:
    service, out = FakeService(), tmp_path / "run"

    with pytest.raises(Ended):
        run(spec_over(path, Ending(service)), out)
    [half] = [file for file in (out / "requests").glob("*.jsonl") if file.stem not in ("tokens", "service")]
    kept = half.read_text()
    num_kept = kept.count('"key"')
    assert num_kept > 1, "it was stopped between the chunks of a candidate"
    half.write_text(kept + '\n{"key": "torn', encoding="utf-8")
    again = FakeService()
    run(spec_over(path, again), out)
    assert journal_of(out) == journal_of(finished)
    model = f"crossbreed:{half.stem}"
    assert chunks_of(again, model) <= chunks_of(untroubled, model) - num_kept
    assert again.count("/v1/tokenize") < untroubled.count("/v1/tokenize")


OTHERS = {
    "host": "tokenizer, configuration or chat template has changed",
    "engine": "engine or its settings has changed",
    "content": "task `secret` has changed",
}


@pytest.fixture(scope="module")
def with_remote(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("remote")
    raw = raw_spec(folder)
    raw["fitness"]["tasks"].append({"kind": "remote", "name": "secret", "chunk": 5})
    return written(folder, raw)


@pytest.mark.parametrize("what", OTHERS)
def test_a_service_that_has_become_another_ends_a_run(what: str, with_remote: Path, tmp_path: Path) -> None:
    """Its weights are the same, and it answers otherwise: what it says now would stand beside what it said before."""
    out = tmp_path / "run"
    with pytest.raises(Ended):
        run(spec_over(with_remote, Ending(FakeService())), out)
    begun = journal_of(out)
    for _ in range(2):
        with pytest.raises(InputError, match=OTHERS[what]):
            run(spec_over(with_remote, FakeService(**{what: "another"})), out)
    assert journal_of(out) == begun
    run(spec_over(with_remote, FakeService()), out)


class Becoming(Ending):
    """A service that is restarted as another in the middle of a candidate."""

    def __init__(self, service: FakeService, what: str) -> None:
        super().__init__(service)
        self._what = what

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        if self._service.count("/v1/completions") == 60:
            self._service.restart()
            setattr(self._service, self._what, "another")
        return self._service.handle_request(request)


@pytest.mark.parametrize("what", OTHERS)
def test_a_service_that_becomes_another_meanwhile_ends_the_run(what: str, with_remote: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=OTHERS[what]):
        run(spec_over(with_remote, Becoming(FakeService(), what)), tmp_path / "run")
    begun = journal_of(tmp_path / "run")
    run(spec_over(with_remote, FakeService()), tmp_path / "run")
    run(spec_over(with_remote, FakeService()), tmp_path / "whole")
    whole = journal_of(tmp_path / "whole")
    assert journal_of(tmp_path / "run") == whole
    assert whole[: len(begun)] == begun


def test_what_older_versions_noted_of_a_service_counts(path: Path, tmp_path: Path) -> None:
    (tmp_path / "host").write_text("0123456789ab")
    begun = Begun("http://service.test")
    begun.keep_in(tmp_path)
    begun.require(HOST, "0123456789ab")
    begun.require(HOST, "")
    with pytest.raises(InputError, match="has changed"):
        begun.require(HOST, "another")


def test_what_one_worker_noted_of_a_service_counts_for_the_others(tmp_path: Path) -> None:
    """Both were there before either noted it: what the first was told stands, in the folder too."""
    early, late = Begun("http://service.test"), Begun("http://service.test")
    early.keep_in(tmp_path)
    late.keep_in(tmp_path)
    early.require("task `a`", "one")
    late.require("task `b`", "two")
    with pytest.raises(InputError, match="task `a` has changed"):
        late.require("task `a`", "another")
    resumed = Begun("http://service.test")
    resumed.keep_in(tmp_path)
    resumed.require("task `a`", "one")
    with pytest.raises(InputError, match="task `b` has changed"):
        resumed.require("task `b`", "another")


@pytest.mark.parametrize("spoilt", [{}, {"tensors": {}}, "a row", "ragged"])
def test_inner_products_that_are_none_are_asked_again(spoilt: Any, tmp_path: Path) -> None:
    class Spoiling(FakeService):
        def _inner_products(self, body: Any) -> Any:
            right = super()._inner_products(body)
            if self.count("/v1/sources/inner_products") > 1:
                return right
            if isinstance(spoilt, dict):
                return spoilt
            right["tensors"][next(iter(right["tensors"]))].pop() if spoilt == "a row" else None
            right["tensors"][next(iter(right["tensors"]))][0].pop() if spoilt == "ragged" else None
            return right

    service = Spoiling()
    engine = ApiConfig(kind="api", url="http://service.test").over(service, SimulatedClock())
    names = list(engine.describe_sources("", {}).tensors)
    products = engine.inner_products()
    assert products is not None
    assert products(names).shape == (4, 4)
    assert service.count("/v1/sources/inner_products") == 2


def chunks_of(service: FakeService, model: str) -> int:
    return sum(where == "/v1/completions" and body["model"] == model for where, body in service.asked)


def test_the_key_is_in_no_file_and_no_message(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "spec"
    keyed = written(folder, raw_spec(folder, trials=1, key_env="SERVICE_KEY", patience=50))
    monkeypatch.setenv("SERVICE_KEY", KEY)
    service, clock = FakeService(key=KEY), SimulatedClock()
    told: list[str] = []
    faulty = Faulty(service, clock, service.restart, share=0.3, most=40)
    run(spec_over(keyed, faulty, clock), tmp_path / "run", on_event=lambda event: told.append(str(event)))
    service.key = "another"  # it now echoes the key that it refuses
    with pytest.raises(InputError, match="no such key") as refused:
        run(spec_over(written(folder, raw_spec(folder, trials=3, key_env="SERVICE_KEY")), service), tmp_path / "run")
    assert KEY not in str(refused.value)
    assert KEY not in everything_written(tmp_path)
    assert KEY not in "".join(told)
    assert "export SERVICE_KEY" in str(refused.value)


@pytest.mark.slow
def test_a_candidate_that_alone_cannot_be_answered_fails_and_the_others_do_not(path: Path, tmp_path: Path) -> None:
    service, clock, broken = FakeService(), SimulatedClock(), set[str]()

    class Breaking(httpx2.BaseTransport):
        def handle_request(self, request: httpx2.Request) -> httpx2.Response:
            told = request.read().decode()
            models = re.findall(r'"model": ?"(crossbreed:\w+)"', told)
            if len(service.made) == 7 and models and request.url.path == "/v1/completions":
                broken.update(models[: not broken])
            if broken.intersection(models):
                return httpx2.Response(500, content=b"Internal Server Error")
            return service.handle_request(request)

    run(spec_over(path, Breaking(), clock), tmp_path / "run")
    told = [to_json(record) for record in read(tmp_path / "run/journal.jsonl")]
    statuses = [record["status"] for record in told if record["kind"] == "tell" and record["split"] == "search"]
    assert statuses.count("FAILED") == 1
    assert statuses.count("OK") == len(statuses) - 1 > 5
    assert "asked 8 times: HTTP 500" in (tmp_path / "run/log.txt").read_text()


def test_a_recipe_is_evaluated(path: Path, finished: Path) -> None:
    report = json.loads((finished / "report.json").read_text())["winner"]
    recipe = load_recipe(finished / "recipes" / f"{report['number']:06d}.yaml")
    found = evaluating.evaluate(recipe, spec_over(path, FakeService()), split="report")
    assert found.fingerprint == report["fingerprint"]
    assert {name: task.mean for name, task in found.tasks.items()} == {
        name: task["mean"] for name, task in report["tasks"].items()
    }


def test_no_key_is_said_before_anything_is_asked(tmp_path: Path) -> None:
    service = FakeService()
    spec = spec_over(written(tmp_path, raw_spec(tmp_path, key_env="NO_SUCH_KEY_1")), service)
    with pytest.raises(InputError, match="the variable NO_SUCH_KEY_1"):
        run(spec, tmp_path / "run")
    assert not service.asked


def test_tasks_without_the_right_are_refused_by_name(path: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="`pick` needs log-probabilities"):
        run(spec_over(path, FakeService(rights=("answers",))), tmp_path / "run")


def test_texts_alone_are_enough_for_texts(tmp_path: Path, finished: Path) -> None:
    raw = raw_spec(tmp_path)
    raw["fitness"]["tasks"].pop()
    service = FakeService(rights=("answers",))
    run(spec_over(written(tmp_path, raw), service), tmp_path / "run")
    assert "canary: the service gives no log-probabilities" in (tmp_path / "run/log.txt").read_text()
    assert not any("logprobs" in body for where, body in service.asked if where == "/v1/completions")


def test_the_provider_s_own_tasks(tmp_path: Path) -> None:
    raw = raw_spec(tmp_path)
    raw["fitness"]["tasks"] = [{"kind": "remote", "name": name, "chunk": 5} for name in ("secret", "hidden")]
    service = FakeService(rights=("scores",))
    report = run(spec_over(written(tmp_path, raw), service), tmp_path / "run")
    assert 0 < report.winner.value.mean <= 1
    assert not service.count("/v1/completions")
    asked = [body for where, body in service.asked if where == "/v1/evaluations"]
    assert {len(body["items"]) for body in asked} <= {5, 3, 1}
    assert "whether it answers with the weights of a recipe cannot be seen" in (tmp_path / "run/log.txt").read_text()


@pytest.mark.parametrize(
    ("task", "service", "said"),
    [
        ({"name": "secrets"}, FakeService(), "did you mean `secret`"),
        ({"name": "secret"}, FakeService(rights=("answers",)), "has no task `secret` of its own"),
        ({"name": "secret", "minimize": True}, FakeService(), "minimize: false"),
        ({"name": "secret"}, FakeService(only_aggregates=True), "tells only the mean over the 60 items"),
    ],
)
def test_what_is_no_task_of_the_provider_is_refused(
    task: dict[str, Any], service: FakeService, said: str, tmp_path: Path
) -> None:
    raw = raw_spec(tmp_path)
    raw["fitness"]["tasks"] = [{"kind": "remote", **task}]
    with pytest.raises(InputError, match=re.escape(said)):
        run(spec_over(written(tmp_path, raw), service), tmp_path / "run")


def sources(changed: Any) -> Callable[[Path], Path]:
    def change(folder: Path) -> Path:
        return written(folder, raw_spec(folder, trials=1) | {"sources": changed})

    return change


def test_some_of_the_sources_in_an_order_of_one_s_own(tmp_path: Path) -> None:
    path = sources({"base": "base", "experts": ["three", "one"]})(tmp_path)
    plan = build_plan(spec_over(path, FakeService()))
    assert plan.structure.experts == ("three", "one")
    assert {*plan.run_record().sources} == {"base", "one", "three"}
    (tmp_path / "again.yaml").write_text(dump_spec(plan.spec))
    assert load_spec(tmp_path / "again.yaml").sources == plan.spec.sources


@pytest.mark.parametrize(
    ("limits", "space", "said"),
    [
        ({"operators": ["linear"]}, {}, "the operator linear\n  got:      `task_arithmetic`"),
        ({}, {"operator": ["task_arithmetic", "ties"]}, "`ties`"),
        ({"coefficients": [-0.4, 1.2]}, {"weight": [-0.5, 1.2]}, "`weight` from -0.4 to 1.2\n  got:      -0.5"),
        ({"coefficients": [-2, 1]}, {"weight": [0, 1.5]}, "`weight` from -2 to 1\n  got:      1.5"),
        (
            {"ranges": {"task_arithmetic.weight": [0, 1]}},
            {"weight": [0, 1.1]},
            "`weight` from 0 to 1\n  got:      1.1",
        ),
        ({"rules": 0}, {}, "make fewer groups"),
    ],
)
def test_what_a_service_does_not_take_is_said_before_a_run(
    limits: dict[str, Any], space: dict[str, Any], said: str, tmp_path: Path
) -> None:
    raw = raw_spec(tmp_path)
    raw["space"] |= space
    service = FakeService(limits={"operators": ["task_arithmetic"], "coefficients": [-2, 3], "rules": 100} | limits)
    with pytest.raises(InputError, match="the service does not take recipes of this run") as refused:
        check_spec(spec_over(written(tmp_path, raw), service))
    assert said in str(refused.value)
    assert not service.count("/v1/merges")


def test_m2n2_runs_by_the_service_s_inner_products(tmp_path: Path) -> None:
    """Those of the chosen experts, in their order, asked once."""
    raw = raw_spec(tmp_path) | {"sources": {"experts": ["three", "one"]}}
    raw |= {"space": {"kind": "lineage"}, "optimizer": {"kind": "m2n2", "budget": {"trials": 5}}}
    service = FakeService()
    spec = spec_over(written(tmp_path, raw), service)
    run(spec, tmp_path / "run")
    assert service.count("/v1/sources/inner_products") == 1
    told = service.reply("/v1/sources/inner_products", None, None)[1]["tensors"]
    found = spec.fitness.engine.inner_products()  # type: ignore[attr-defined]
    names = list(told)[:3]
    expected = sum(np.array(told[name])[np.ix_([0, 3, 1], [0, 3, 1])] for name in names)
    assert np.array_equal(found(names), expected)
    raw["fitness"]["tasks"].pop()  # it needs log-probabilities too
    bare = spec_over(written(tmp_path, raw), FakeService(rights=("answers", "scores")))
    with pytest.raises(InputError, match="needs the inner products"):
        run(bare, tmp_path / "bare")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"experts": ["tree"]}, "did you mean `three`"),
        ({"base": "llama", "experts": ["one"]}, "no source `llama`"),
        ({"experts": {"one": "models/one"}}, "`sources.experts` must be a list"),
        ({"expert": ["one"]}, "unknown key `expert`"),
    ],
)
def test_sources_that_the_service_does_not_have(changed: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=re.escape(said)):
        run(spec_over(sources(changed)(tmp_path), FakeService()), tmp_path / "run")


def test_names_of_sources_are_no_models(tmp_path: Path) -> None:
    raw = raw_spec(tmp_path) | {"sources": {"base": "base", "experts": ["one"]}}
    raw["fitness"]["engine"] = {"kind": "fake"}
    with pytest.raises(InputError, match=r"`sources\.experts` must be a mapping"):
        load_spec(written(tmp_path, raw))
    del raw["sources"]
    with pytest.raises(InputError, match="`sources` is missing"):
        load_spec(written(tmp_path, raw))


def test_check_tells_what_is_known_of_a_task_elsewhere(tmp_path: Path) -> None:
    raw = raw_spec(tmp_path)
    raw["fitness"]["tasks"].append({"kind": "remote", "name": "secret", "chunk": 5})
    found = check_spec(spec_over(written(tmp_path, raw), FakeService()), answer=True)
    assert [task.num_items for task in found.tasks] == [24, 24, 24, 60]
    remote = found.tasks[-1]
    assert remote.example.prompt == ""
    assert remote.base_values
    assert json.dumps(found.to_json())
    assert "secret" in findings_text(found)
