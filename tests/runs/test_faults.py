"""A fault is retried, logged and FAILED; a bug ends the run with its traceback in log.txt, and the run resumes."""

import itertools
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import pytest
from in_process import exit_code_of
from toy_runs import journal_of, records_of, write_spec

from crossbreed.cli import main
from crossbreed.errors import EngineError, InputError, MachineError, SwapError
from crossbreed.fitness import ENGINES, EnginePart, FakeConfig, Request, Response
from crossbreed.recipes import parse_recipe
from crossbreed.runs import load_spec, run
from crossbreed.runs.record.worker_counts import WorkerCounts, read_counts
from crossbreed.runs.results.derived import publishing
from crossbreed.runs.results.show import show_json
from crossbreed.runs.search.pool import Job, JobResult, Pool
from crossbreed.runs.workers.local_pool import LocalPool
from crossbreed.runs.workers.ray_pool import RayPool
from crossbreed.runs.workers.worker import Worker
from crossbreed.testing.fakes import FakeEngine
from crossbreed.types import Recipe, Score, Status, WeightStream

RETRIES = 2
FAULTS = [EngineError("no answer"), MachineError("no machine"), OSError(28, "no disk"), MemoryError("no memory")]
BUGS = [
    AssertionError("never"),
    AttributeError("no attribute"),
    FileNotFoundError(2, "no table"),
    IndexError("no index"),
    KeyError("no key"),
    NameError("no name"),
    NotImplementedError("not yet"),
    PermissionError(13, "not allowed"),
    RuntimeError("sizes do not agree"),
    TypeError("no type"),
    ValueError("no value"),
    ZeroDivisionError("by zero"),
]


class BrokenConfig(FakeConfig):
    kind: Literal["broken"]  # type: ignore[assignment]


class BrokenEngine(FakeEngine):
    """Raises when it is asked about one recipe."""

    broken: str | None = None
    raising: Exception

    def adopt(self, recipe: Recipe, weights: WeightStream, **kept: Any) -> Any:
        self._recipe = recipe.id
        return super().adopt(recipe, weights, **kept)

    def answer(self, requests: Sequence[Request]) -> list[Response]:
        if self._recipe == self.broken:
            self._call_the_library()
        return super().answer(requests)

    def _call_the_library(self) -> None:
        try:
            raise ConnectionResetError("the socket is gone")
        except ConnectionResetError as cause:
            raise type(self.raising)(*self.raising.args) from cause


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory, toy_base: Path, toy_adapters: dict[str, Path]) -> Iterator[Path]:
    with ENGINES.holding("broken", EnginePart(config=BrokenConfig, takes="weights", make=f"{__name__}:BrokenEngine")):
        folder = tmp_path_factory.mktemp("spec")
        yield write_spec(folder, base=toy_base, experts=toy_adapters, fitness__engine={"kind": "broken"})


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, spec: Path) -> Path:
    out = tmp_path_factory.mktemp("runs") / "whole"
    run(load_spec(spec), out)
    return out


def breaks(whole: Path, number: int, error: Exception, patch: pytest.MonkeyPatch) -> None:
    """Lets the engine raise for one trial's recipe."""
    asks = {record["number"]: record for record in records_of(whole) if record["kind"] == "ask"}
    patch.setattr(BrokenEngine, "broken", parse_recipe(asks[number]["recipe"]).id)
    patch.setattr(BrokenEngine, "raising", error, raising=False)


def test_a_bug_of_an_engine_ends_the_run_which_resumes_when_it_is_corrected(
    spec: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        breaks(whole, 10, TypeError("a str and an int"), patch)
        assert exit_code_of("run", spec, "--out", out) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line == f"crossbreed: a bug, TypeError: a str and an int; the traceback is in {out / 'log.txt'}"
    log = (out / "log.txt").read_text()
    assert "Traceback" in log
    assert "in _call_the_library" in log
    assert "ConnectionResetError: the socket is gone" in log
    journal = journal_of(out)
    assert journal == journal_of(whole)[: len(journal)]
    assert [record["number"] for record in journal if record["kind"] == "ask"][-1] == 10
    assert all(record["status"] == "OK" for record in journal if record["kind"] == "tell")
    assert exit_code_of("run", spec, "--out", out) == 0
    assert journal_of(out) == journal_of(whole)


def test_a_fault_of_an_engine_is_a_failed_trial_whose_tracebacks_are_in_the_log(
    spec: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    breaks(whole, 10, EngineError("the service did not answer"), monkeypatch)
    run(load_spec(spec), tmp_path / "run")
    told = {r["number"]: r for r in records_of(tmp_path / "run") if r.get("split") == "search"}
    assert [number for number, record in told.items() if record["status"] == "FAILED"] == [10]
    assert told[10]["clock"]["attempts"] == RETRIES + 1
    assert told[10]["clock"]["error"] == "EngineError: the service did not answer"
    log = (tmp_path / "run" / "log.txt").read_text()
    assert re.findall(r"trial 10, search split: attempt (\d) of 3 failed", log) == ["1", "2", "3"]
    assert log.count("ConnectionResetError: the socket is gone") == RETRIES + 1
    assert log.count("in _call_the_library") == 2 * (RETRIES + 1)


def test_the_traceback_of_an_engine_that_does_not_start_is_in_the_log(
    spec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dead(self: FakeEngine, *_: object) -> None:
        raise EngineError("the engine did not start")

    monkeypatch.setattr(BrokenEngine, "__init__", dead)
    assert exit_code_of("run", spec, "--out", tmp_path / "run") == 1
    log = (tmp_path / "run" / "log.txt").read_text()
    starts = re.findall(r"a worker did not start: attempt (\d) of 3 failed", log)
    assert starts == ["1", "2", "3"], "the first worker of a run has as many starts as its replacement"
    assert log.count("in dead") >= 3
    assert "EngineError: the engine did not start" in log


def test_a_bug_before_the_search_is_logged_and_the_folder_is_still_good(
    spec: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def buggy(*_: object, **__: object) -> None:
        raise KeyError("a bug of ours")

    with monkeypatch.context() as patch:
        patch.setattr("crossbreed.runs.plan.split_tasks", buggy)
        with pytest.raises(KeyError, match="a bug of ours") as caught:
            run(load_spec(spec), tmp_path / "run")
    assert caught.value.__notes__ == [f"the traceback is in {tmp_path / 'run' / 'log.txt'}"]
    assert "KeyError: 'a bug of ours'" in (tmp_path / "run" / "log.txt").read_text()
    run(load_spec(spec), tmp_path / "run")
    assert journal_of(tmp_path / "run") == journal_of(whole)


class Evaluator:
    """Raises for one number, and ends its process for another."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def evaluate(self, job: Job) -> Score:
        if job.number == 1:
            raise type(self._error)(*self._error.args)
        if job.number == 2:
            os._exit(1)
        return Score(status=Status.OK)

    def close(self) -> None:
        pass


class Dying:
    """Builds workers that cannot be closed once they raised; starts after the first raise what is listed, then work."""

    def __init__(self, errors: list[Exception]) -> None:
        self.errors, self._has_started = errors, False

    def __call__(self) -> Evaluator:
        if self._has_started and self.errors:
            raise self.errors.pop(0)
        self._has_started = True
        return Unclosable(EngineError("no answer"))


class Unclosable(Evaluator):
    def close(self) -> None:
        raise RuntimeError("the engine is dead")


class Unsendable(Exception):
    """Cannot be unpickled."""

    def __init__(self, task: str, *, item: str) -> None:
        super().__init__(f"{task}, {item}")


class UnsendableFault(Unsendable, EngineError):
    pass


class Unsending(Evaluator):
    def __init__(self, kind: type[Unsendable]) -> None:
        self._kind = kind

    def evaluate(self, job: Job) -> Score:
        raise self._kind("arithmetic", item=f"item {job.number}")


def job(number: int) -> Job:
    return Job(number=number, split="search", recipe=None)


def answer(pool: Pool, *numbers: int) -> dict[int, JobResult]:
    """Has jobs answered."""
    found, waiting = {}, list(numbers)
    while waiting or pool.busy:
        while waiting and pool.idle:
            pool.submit(job(waiting.pop(0)))
        if answered := pool.wait():
            found[answered.job.number] = answered
    return found


def local(make: Callable[[], Evaluator], log: Callable[[str], None]) -> Pool:
    return LocalPool(make, retries=RETRIES, log=log)


def on_ray(make: Callable[[], Evaluator], log: Callable[[str], None]) -> Pool:
    return RayPool(make, count=1, cpus=1, gpus=0, address=None, retries=RETRIES, log=log)


@pytest.fixture(scope="module")
def ray() -> Iterator[None]:
    """One connection for all pools of this module, whose workers get the tests' code sent."""
    import ray

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    ray.init(address="local", include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(params=[local, pytest.param(on_ray, marks=[pytest.mark.engine, pytest.mark.slow])])
def start(request: pytest.FixtureRequest) -> Callable[..., Pool]:
    """Starts a pool."""
    if request.param is on_ray:
        request.getfixturevalue("ray")
    started: Callable[..., Pool] = request.param
    return started


def test_faults_are_retried_and_bugs_are_raised(start: Callable[..., Pool]) -> None:
    for fault in FAULTS:
        log: list[str] = []
        pool = start(lambda fault=fault: Evaluator(fault), log.append)
        try:
            found = answer(pool, 0, 1, 3)
        finally:
            pool.close()
        assert [found[n].score.status for n in (0, 1, 3)] == [Status.OK, Status.FAILED, Status.OK]
        assert found[1].score.error == f"{type(fault).__name__}: {fault}"
        assert found[1].attempts == RETRIES + 1
        assert [text.splitlines()[0] for text in log] == [
            f"trial 1, search split: attempt {attempt} of {RETRIES + 1} failed" for attempt in (1, 2, 3)
        ]
        assert all("in evaluate" in text and f"{type(fault).__name__}: {fault}" in text for text in log)


def test_what_closing_a_dead_engine_and_starting_another_raise_is_logged() -> None:
    log: list[str] = []
    pool = LocalPool(Dying([MachineError("no port"), OSError(12, "no memory")]), retries=RETRIES, log=log.append)
    assert answer(pool, 0, 1)[1].attempts == RETRIES + 1
    assert sum("RuntimeError: the engine is dead" in text for text in log) == RETRIES + 1
    starts = [text for text in log if text.startswith("a worker did not start: attempt")]
    assert ["MachineError: no port" in starts[0], "[Errno 12] no memory" in starts[1], len(starts)] == [True, True, 2]


def test_a_runtime_error_of_an_engine_that_starts_again_is_a_fault(start: Callable[..., Pool], tmp_path: Path) -> None:
    """What the library of an engine wraps in it is none of the same code's bugs: it has started one before."""
    log, starts = list[str](), tmp_path / "starts"
    starts.mkdir()

    def make() -> Evaluator:
        number = len(list(starts.iterdir()))
        (starts / f"{number}").touch()
        if number in (1, 2):
            raise RuntimeError("CUDA error: device busy")
        return Evaluator(EngineError("no answer"))

    pool = start(make, log.append)
    try:
        assert answer(pool, 0, 1, 3)[1].score.status is Status.FAILED
    finally:
        pool.close()
    assert sum("did not start: attempt" in text and "CUDA error: device busy" in text for text in log) == 2


def test_an_engine_that_never_starts_again_ends_the_run_with_one_message(
    spec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The run resumes when the engine is well."""
    out, canary, num_starts = tmp_path / "run", Worker.canary, 0

    def dying(self: Worker) -> None:
        nonlocal num_starts
        num_starts += 1
        if num_starts > 1:
            raise RuntimeError("CUDA error: device busy")
        canary(self)

    monkeypatch.setattr(sys, "argv", ["crossbreed", "run", str(spec), "--out", str(out)])
    with monkeypatch.context() as patch:
        patch.setattr(Worker, "canary", dying)
        patch.setattr(BrokenEngine, "answer", failing_at(40, BrokenEngine.answer))
        with pytest.raises(SystemExit) as ended:
            main()
    said = capsys.readouterr().err
    assert (ended.value.code, said.count("CUDA error: device busy"), "Traceback" in said) == (1, 1, False)
    assert "no worker could be started" in said
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0


def test_show_says_how_many_workers_there_are_while_a_run_goes_on(
    spec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nothing of an earlier driver's, or of one that has ended."""
    out, shown = tmp_path / "run", list[Any]()
    monkeypatch.setattr(BrokenEngine, "answer", failing_at(40, BrokenEngine.answer))
    run(load_spec(spec), out, on_event=lambda event: shown.append(_workers(out)))
    assert shown[0] is None, "no worker has been needed"
    one = {"wanted": 1, "alive": 1, "starting": 0, "lost": 0, "replaced": 0}
    assert (one in shown, shown[-1]) == (True, one | {"lost": 1, "replaced": 1})
    assert show_json(out)["workers"] is None
    assert read_counts(out) is None, "who locks the journal next has no workers yet"
    WorkerCounts(wanted=4, alive=4, starting=0, lost=0).write(out)  # of a driver that was killed
    with publishing(out):
        assert show_json(out)["workers"] is None
    again = list[Any]()
    run(load_spec(spec), out, on_event=lambda event: again.append(_workers(out)))
    assert again == [None] * len(again)


def _workers(out: Path) -> Any:
    return show_json(out)["workers"] if (out / "spec.yaml").exists() else None


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        ((4, 4, 0, 0), "4 of 4 workers alive"),
        ((4, 2, 1, 3), "2 of 4 workers alive, 1 starting, 3 lost since the driver began, 2 of them replaced"),
    ],
)
def test_the_counts_of_workers_are_one_line(counts: tuple[int, ...], said: str, tmp_path: Path) -> None:
    names = ("wanted", "alive", "starting", "lost")
    made = WorkerCounts(**dict(zip(names, counts, strict=True)))
    assert str(made) == said
    made.write(tmp_path)
    assert read_counts(tmp_path) == made
    (tmp_path / "workers.json").write_text("[1]")
    assert read_counts(tmp_path) is None


def test_a_pool_counts_what_it_starts_and_loses(start_counting: Callable[..., Pool]) -> None:
    seen = list[WorkerCounts]()
    pool = start_counting(lambda: Evaluator(EngineError("no answer")), seen.append)
    try:
        answer(pool, 0, 1, 3)
    finally:
        pool.close()
    assert seen[-1] == WorkerCounts(wanted=1, alive=1, starting=0, lost=RETRIES + 1)
    assert any(counts.alive == 0 and counts.lost and counts.replaced for counts in seen)


@pytest.fixture(params=["local", pytest.param("ray", marks=pytest.mark.engine)])
def start_counting(request: pytest.FixtureRequest) -> Callable[..., Pool]:
    """Starts a pool that counts its workers."""
    if request.param == "local":
        return lambda make, on_count: LocalPool(make, retries=RETRIES, on_count=on_count)
    request.getfixturevalue("ray")
    return lambda make, on_count: RayPool(
        make, count=1, cpus=1, gpus=0, address=None, retries=RETRIES, on_count=on_count
    )


def failing_at(number: int, answer: Callable[..., list[Response]]) -> Callable[..., list[Response]]:
    """Answers of an engine, one of which it cannot give."""
    count = itertools.count(1)

    def answered(self: BrokenEngine, requests: Sequence[Request]) -> list[Response]:
        if next(count) == number:
            raise EngineError("no answer")
        return answer(self, requests)

    return answered


@pytest.mark.parametrize("error", [SwapError("old weights"), InputError("a wrong item"), TypeError("no type")])
def test_a_restart_that_no_repetition_mends_ends_the_run_at_once(error: Exception) -> None:
    make = Dying([error] * 9)
    with pytest.raises(type(error), match=str(error)):
        answer(LocalPool(make, retries=RETRIES), 0, 1)
    assert len(make.errors) == 8


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: type(bug).__name__)
def test_any_other_exception_is_a_bug(start: Callable[..., Pool], bug: Exception) -> None:
    log: list[str] = []
    pool = start(lambda: Evaluator(bug), log.append)
    try:
        with pytest.raises(type(bug)) as caught:
            answer(pool, 0, 1)
    finally:
        pool.close()
    assert type(caught.value) is type(bug)
    assert caught.value.args == bug.args
    assert log == []
    if start is on_ray:
        assert any("in evaluate" in note for note in caught.value.__notes__), "the traceback of the worker"


@pytest.mark.parametrize("error", [InputError("a wrong item", fix="correct it"), SwapError("old weights"), TypeError()])
def test_a_worker_that_cannot_start_says_why(start: Callable[..., Pool], error: Exception) -> None:
    def make() -> Evaluator:
        raise error

    with pytest.raises(MachineError if isinstance(error, SwapError) else type(error)) as caught:
        start(make, lambda text: None)
    assert str(error) in str(caught.value)


def test_a_bug_or_a_fault_that_cannot_be_sent_stays_one(start: Callable[..., Pool]) -> None:
    pool = start(lambda: Unsending(Unsendable), lambda text: None)
    with pytest.raises(Exception, match="arithmetic, item 0") as caught:
        answer(pool, 0)
    pool.close()
    assert not isinstance(caught.value, MachineError)
    log: list[str] = []
    pool = start(lambda: Unsending(UnsendableFault), log.append)
    assert answer(pool, 0)[0].attempts == RETRIES + 1
    pool.close()
    assert all("UnsendableFault" in text and "arithmetic, item 0" in text for text in log)


@pytest.mark.engine
@pytest.mark.usefixtures("ray")
def test_a_worker_that_dies_is_a_fault() -> None:
    log: list[str] = []
    pool = on_ray(lambda: Evaluator(TypeError()), log.append)
    try:
        found = answer(pool, 0, 2, 3)
    finally:
        pool.close()
    assert [found[n].score.status for n in (0, 2, 3)] == [Status.OK, Status.FAILED, Status.OK]
    assert len(log) == RETRIES + 1
    assert all("died" in text for text in log)
