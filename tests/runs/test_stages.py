"""Several searches in one run: one journal, one numbering, one budget, each search from the best before it."""

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from failing_workers import fails
from test_stopwatch import Clock
from toy_runs import journal_of, records_of, trials_of, write_spec

from crossbreed.errors import InputError
from crossbreed.optimizer import SearchInputs
from crossbreed.runs import build_plan, check_spec, dump_spec, load_spec, report_on, run
from crossbreed.runs.checking.text import findings_text
from crossbreed.runs.driver import _how_to_go_on
from crossbreed.runs.events import Event, Listener, TrialDone, ignore
from crossbreed.runs.exports.export import export_run
from crossbreed.runs.plan import Plan
from crossbreed.runs.record.folder import RunFolder
from crossbreed.runs.record.history import fold
from crossbreed.runs.record.journal import read
from crossbreed.runs.results.report_text import summary
from crossbreed.runs.results.show import open_run, show_json, show_text
from crossbreed.runs.search.pool import Job, JobResult
from crossbreed.runs.session import open_session
from crossbreed.runs.stages.stage import Stage
from crossbreed.runs.workers.worker import Worker
from crossbreed.types import Score

EXPERTS = {"one": Path("fake/one"), "two": Path("fake/two")}
NUM_BASELINES = 8
COARSE = {"kind": "coefficients", "operator": "task_arithmetic"}
FINE = {**COARSE, "groups": {"layers": 2}}
SCALES = {"kind": "scales", "groups": {"layers": 2}}
RANDOM: dict[str, Any] = {"kind": "random", "space": COARSE, "budget": {"trials": 5}}
CMA: dict[str, Any] = {"kind": "cma_es", "space": FINE, "budget": {"trials": 6}, "options": {"popsize": 4}}
POLISH: dict[str, Any] = {**CMA, "space": SCALES, "budget": {"trials": 4}}


def staged(folder: Path, stages: Sequence[Mapping[str, Any]], **changes: Any) -> Path:
    """Writes a spec with these stages, for an engine without weights."""
    changes = {"fitness__engine": {"kind": "fake_recipes"}} | changes
    path = write_spec(folder, base=Path("fake/base"), experts=EXPERTS, **changes)
    raw = yaml.safe_load(path.read_text())
    del raw["space"], raw["optimizer"]
    path.write_text(yaml.safe_dump({**raw, "stages": list(stages)}))
    return path


def search(spec: Path, out: Path, *overrides: str, on_event: Listener = ignore) -> None:
    """What a driver does, up to the end of the search."""
    folder = RunFolder(out)
    folder.create()
    with open_session(build_plan(load_spec(spec, overrides)), folder, on_event) as session:
        session.search()


def goes_on_from(spec: Path, whole: Path, numbers: Iterable[int], folder: Path) -> None:
    """Checks that a search that was killed after some line of its journal grows the same journal."""
    lines = (whole / "journal.jsonl").read_bytes().splitlines(keepends=True)
    wanted = searched(whole)
    for number in numbers:
        out = folder / f"cut{number}"
        out.mkdir()
        (out / "journal.jsonl").write_bytes(b"".join(lines[:number]))
        search(spec, out)
        assert searched(out) == wanted, f"cut after line {number}"


def searched(out: Path) -> list[dict[str, Any]]:
    """The journal of a search, without what came after it."""
    return [
        record for record in journal_of(out) if record.get("split", "search") == "search" != record["kind"] != "end"
    ]


def asks_of(out: Path) -> list[dict[str, Any]]:
    return [record for record in records_of(out) if record["kind"] == "ask"]


def stages_of(out: Path) -> list[int]:
    """The stage of each ask of an optimizer, in order."""
    return [ask.get("stage", 0) for ask in asks_of(out) if not ask["origin"].startswith(("baseline", "made", "warm"))]


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A spec of three stages, and its run."""
    folder = tmp_path_factory.mktemp("three")
    spec = staged(folder / "spec", [RANDOM, CMA, POLISH])
    run(load_spec(spec), folder / "run")
    return spec, folder / "run"


def test_one_numbering_and_one_journal(three: tuple[Path, Path]) -> None:
    _, out = three
    asks = asks_of(out)
    assert [ask["number"] for ask in asks] == list(range(len(asks)))
    assert stages_of(out) == [0] * 5 + [1] * 6 + [2] * 4
    assert all("stage" not in ask for ask in asks[: NUM_BASELINES + 5]), "absent is the first"
    begun = records_of(out)[0]
    assert begun["coordinates"] == ["all / one: weight", "all / two: weight"]
    assert list(begun["more_coordinates"]) == ["1", "2"]
    assert begun["more_coordinates"]["2"] == ["layers 0-1: factor", "layers 2-3: factor", "rest: factor"]
    assert "space" not in begun["spec"]
    assert "optimizer" not in begun["spec"]
    assert all("budget" not in stage for stage in begun["spec"]["stages"])
    assert load_spec(out / "spec.yaml") == load_spec(three[0])


def test_each_stage_starts_from_the_best_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    starts, make = [], Stage.make_optimizer

    def noting(self: Stage, space: Any, start: Any, scalar: Any, **more: Any) -> Any:
        if start is not None:
            starts.append((self.number, space.decode(start)))
        return make(self, space, start, scalar, **more)

    monkeypatch.setattr(Stage, "make_optimizer", noting)
    search(staged(tmp_path / "spec", [RANDOM, CMA, POLISH]), tmp_path / "run")
    trials = open_run(tmp_path / "run").trials
    assert [number for number, _ in starts] == [0, 1, 2]
    for number, started in starts:
        before = [t for t in trials if t.candidate.proposed_by.is_baseline or t.candidate.stage < number]
        merges = [t for t in before if not t.candidate.proposed_by.is_single_model]
        best = max(merges, key=lambda t: (t.objectives, not t.candidate.proposed_by.is_baseline, -t.number))
        if number == 2:
            assert started == best.recipe, "around the very recipe"
        else:
            (space,) = (stage.space for stage in build_plan(load_spec(tmp_path / "spec/spec.yaml")).stages[number:][:1])
            assert started == space.decode(space.encode(best.recipe))


def test_the_same_spec_gives_the_same_journal(three: tuple[Path, Path], tmp_path: Path) -> None:
    search(three[0], tmp_path / "run")
    assert searched(tmp_path / "run") == searched(three[1])


ENDS = [1 + 2 * (NUM_BASELINES + number) for number in (0, 5, 11, 15)]
"""How many lines the journal of `three` has where its baselines and each of its stages end."""


@pytest.mark.parametrize(
    "numbers",
    [
        [ENDS[0], ENDS[1] - 1, ENDS[1], ENDS[1] + 1, ENDS[2]],
        pytest.param(range(1, ENDS[3] + 1), marks=pytest.mark.slow),
    ],
)
def test_a_journal_cut_at_a_stages_boundary_grows_back(
    numbers: Iterable[int], three: tuple[Path, Path], tmp_path: Path
) -> None:
    goes_on_from(*three, numbers, tmp_path)


def test_a_search_with_the_space_and_optimizer_of_the_short_form_is_the_same(tmp_path: Path) -> None:
    short = write_spec(
        tmp_path / "short",
        base=Path("fake/base"),
        experts=EXPERTS,
        fitness__engine={"kind": "fake_recipes"},
        space=FINE,
        optimizer={"kind": "cma_es", "budget": {"trials": 6}, "options": {"popsize": 4}},
    )
    search(short, tmp_path / "run")
    search(staged(tmp_path / "spec", [CMA]), tmp_path / "staged")
    assert trials_of(tmp_path / "staged") == trials_of(tmp_path / "run")
    assert not {"stages", "budget"} & records_of(tmp_path / "run")[0]["spec"].keys()
    assert "stages" not in yaml.safe_load(dump_spec(load_spec(short)))
    with pytest.raises(InputError, match="other stages"):
        search(tmp_path / "spec/spec.yaml", tmp_path / "run")


def test_a_search_may_be_written_out(tmp_path: Path) -> None:
    options = {"kind": "cma_es", "options": {"popsize": 4}}
    forms = (
        CMA,
        {"kind": "search", "space": FINE, "optimizer": options, "budget": {"trials": 6}},
        {"kind": "search", "space": FINE, "optimizer": {**options, "budget": {"trials": 6}}},
    )
    specs = [load_spec(staged(tmp_path / str(number), [form])) for number, form in enumerate(forms)]
    assert specs[0].stages == specs[1].stages == specs[2].stages
    assert specs[0].searches[0].optimizer.budget.trials == 6


def test_the_whole_budget_bounds_all_and_a_stages_own_bounds_it(tmp_path: Path) -> None:
    spec = staged(tmp_path / "spec", [RANDOM, {**CMA, "budget": {}}], budget={"trials": 8})
    search(spec, tmp_path / "run")
    assert stages_of(tmp_path / "run") == [0] * 5 + [1] * 3
    before = journal_of(tmp_path / "run")
    search(spec, tmp_path / "run", "budget.trials=3")
    assert journal_of(tmp_path / "run") == before
    search(spec, tmp_path / "run", "budget.trials=11")
    assert stages_of(tmp_path / "run") == [0] * 5 + [1] * 6
    search(spec, tmp_path / "run", "budget.trials=12", "stages.0.budget.trials=50")
    assert stages_of(tmp_path / "run") == [0] * 5 + [1] * 7, "a stage that is over stays over"


def test_the_whole_budget_may_end_the_first_stage_and_then_be_raised(tmp_path: Path) -> None:
    spec = staged(tmp_path / "spec", [RANDOM, CMA], budget={"trials": 3})
    search(spec, tmp_path / "run")
    assert stages_of(tmp_path / "run") == [0] * 3
    search(spec, tmp_path / "run", "budget.trials=7")
    whole = staged(tmp_path / "other", [RANDOM, CMA], budget={"trials": 7})
    search(whole, tmp_path / "whole")
    assert stages_of(tmp_path / "run") == [0] * 5 + [1] * 2
    assert trials_of(tmp_path / "run")[: NUM_BASELINES + 7] == trials_of(tmp_path / "whole")[: NUM_BASELINES + 7]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Time goes on by a second with each trial."""
    clock = Clock()
    monkeypatch.setattr("crossbreed.runs.search.stopwatch.time", clock)
    evaluated = Worker._evaluated

    def taking_a_second(self: Worker, job: Job) -> Score:
        clock.now += 1.0
        return evaluated(self, job)

    monkeypatch.setattr(Worker, "_evaluated", taking_a_second)
    return clock


TIMED = [{**RANDOM, "budget": {"minutes": 4.5 / 60}}, {**CMA, "budget": {"minutes": 3 / 60}}, POLISH]


def test_a_stage_ends_by_the_clock_at_the_same_place_on_resume(tmp_path: Path, clock: Clock) -> None:
    spec = staged(tmp_path / "spec", TIMED)
    search(spec, tmp_path / "whole")
    assert stages_of(tmp_path / "whole") == [0] * 5 + [1] * 3 + [2] * 4
    goes_on_from(spec, tmp_path / "whole", (27, 28, 33, 34), tmp_path)


def test_what_a_clock_ended_is_replayed_where_it_ended(tmp_path: Path, clock: Clock) -> None:
    """With more time for the first stage, its asks stay as they are: the journal says where the second begins."""
    spec = staged(tmp_path / "spec", TIMED)
    search(spec, tmp_path / "run")
    lines = (tmp_path / "run/journal.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "run/journal.jsonl").write_bytes(b"".join(lines[:30]))
    search(spec, tmp_path / "run", "stages.0.budget.minutes=9")
    assert stages_of(tmp_path / "run") == [0] * 5 + [1] * 3 + [2] * 4


def test_the_clock_of_all_stages_counts_baselines_too(tmp_path: Path, clock: Clock) -> None:
    spec = staged(tmp_path / "spec", [RANDOM, {**CMA, "budget": {}}], budget={"minutes": (NUM_BASELINES + 7) / 60})
    search(spec, tmp_path / "run")
    assert stages_of(tmp_path / "run") == [0] * 5 + [1] * 2


def test_an_optimizer_with_nothing_left_to_ask_ends_its_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stop_after(monkeypatch, stage=0, num_asks=3)
    told: list[Event] = []
    spec = staged(tmp_path / "spec", [RANDOM, CMA])
    search(spec, tmp_path / "run", on_event=told.append)
    assert stages_of(tmp_path / "run") == [0] * 3 + [1] * 6
    texts = [str(event) for event in told]
    assert "stage 1 of 2, random, ends: its optimizer has nothing left to ask" in texts
    assert any(text.startswith("search: stage 2 of 2, cma_es") for text in texts)
    goes_on_from(spec, tmp_path / "run", (23, 24), tmp_path)


def stop_after(patch: pytest.MonkeyPatch, *, stage: int, num_asks: int) -> None:
    """Lets the optimizer of a stage have nothing to ask after some asks."""
    make = Stage.make_optimizer

    def limited(self: Stage, *inputs: Any, **more: Any) -> Any:
        optimizer = make(self, *inputs, **more)
        if self.number == stage:
            ask, left = optimizer.ask, [None] * num_asks
            optimizer.ask = lambda number: left.pop() or ask(number) if left else None
        return optimizer

    patch.setattr(Stage, "make_optimizer", limited)


def test_the_last_stage_may_have_nothing_left_to_ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stop_after(monkeypatch, stage=1, num_asks=0)
    spec = staged(tmp_path / "spec", [RANDOM, CMA])
    assert run(load_spec(spec), tmp_path / "run").is_over
    before = journal_of(tmp_path / "run")
    assert before[-1]["kind"] == "end"
    assert run(load_spec(spec), tmp_path / "run").is_over
    assert journal_of(tmp_path / "run") == before


def test_what_failed_at_a_boundary_is_made_up_for_before_the_next_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    last = NUM_BASELINES + 4
    fails(monkeypatch, lambda job: job.split == "search" and job.number in (last, last + 1))
    spec = staged(tmp_path / "spec", [RANDOM, CMA], workers={"executor": "local", "retries": 0})
    search(spec, tmp_path / "run")
    assert stages_of(tmp_path / "run") == [0] * 7 + [1] * 6
    told = {r["number"]: r["status"] for r in records_of(tmp_path / "run") if r.get("split") == "search"}
    assert [number for number, status in told.items() if status == "FAILED"] == [last, last + 1]
    lines = records_of(tmp_path / "run")
    first = next(i for i, r in enumerate(lines) if r.get("stage") == 1)
    assert {r["number"] for r in lines[:first] if r["kind"] == "tell"} == set(range(last + 3)), "all are answered"
    monkeypatch.undo()
    search(spec, tmp_path / "run", "stages.1.budget.trials=7")
    assert stages_of(tmp_path / "run") == [0] * 7 + [1] * 7, "measured now, they count in the stage that is over"


class Several:
    """A pool of three workers, of which the one that began last answers first."""

    def __init__(self, plan: Plan) -> None:
        self._worker, self._jobs = Worker(plan), list[Job]()

    @property
    def idle(self) -> bool:
        return len(self._jobs) < 3

    @property
    def busy(self) -> bool:
        return bool(self._jobs)

    def submit(self, job: Job) -> None:
        self._jobs.append(job)

    def wait(self) -> JobResult:
        job = self._jobs.pop()
        return JobResult(job=job, score=self._worker.evaluate(job))

    def close(self) -> None:
        self._worker.close()


def test_parallel_workers_wait_at_a_boundary(
    three: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All is answered before a stage begins, so that its start is the best of all. Trials are those of one worker."""
    monkeypatch.setattr("crossbreed.runs.session._pool", lambda plan, *_: Several(plan))
    search(three[0], tmp_path / "run")
    wanted = [record for record in trials_of(three[1]) if record.get("split", "search") == "search"]
    assert trials_of(tmp_path / "run") == wanted
    answered, begun = 0, set[int]()
    for record in records_of(tmp_path / "run"):
        answered += record["kind"] == "tell"
        if record["kind"] == "ask" and (stage := record.get("stage", 0)) not in begun:
            begun.add(stage)
            assert answered == record["number"], f"stage {stage}"
    goes_on_from(three[0], tmp_path / "run", (ENDS[1] + 3, ENDS[2] - 2), tmp_path)


def test_bred_merges_are_a_stage_of_their_own(tmp_path: Path, toy_base: Path, toy_adapters: dict[str, Path]) -> None:
    """Genomes start from the experts; what was bred may be searched around."""
    breed = {"kind": "m2n2", "space": {"kind": "lineage"}, "budget": {"trials": 5}, "options": {"archive": 3}}
    spec = staged(
        tmp_path / "spec",
        [RANDOM, breed, POLISH],
        fitness__engine={"kind": "fake"},
        sources={"base": str(toy_base), "experts": {name: str(path) for name, path in toy_adapters.items()}},
    )
    search(spec, tmp_path / "whole")
    assert stages_of(tmp_path / "whole") == [0] * 5 + [1] * 5 + [2] * 4
    parents = {n for ask in asks_of(tmp_path / "whole") for n in ask["parents"]}
    assert parents
    assert parents <= set(range(NUM_BASELINES + 5, NUM_BASELINES + 10))
    goes_on_from(spec, tmp_path / "whole", (1 + 2 * (NUM_BASELINES + n) for n in (10,)), tmp_path)


def test_a_warm_start_is_compared_before_the_first_stage(tmp_path: Path, three: tuple[Path, Path]) -> None:
    recipe = next((three[1] / "recipes").iterdir())
    spec = staged(tmp_path / "spec", [RANDOM, POLISH], warm_start=[str(recipe)])
    search(spec, tmp_path / "run")
    assert asks_of(tmp_path / "run")[NUM_BASELINES]["origin"] == "warm_start:0"
    assert stages_of(tmp_path / "run") == [0] * 5 + [1] * 4


def test_the_report_says_what_each_stage_gave(three: tuple[Path, Path]) -> None:
    report = json.loads((three[1] / "report.json").read_text())
    rows = report["stages"]
    assert [row["name"] for row in rows] == ["baselines", "random", "cma_es", "cma_es"]
    assert [row["stage"] for row in rows] == [None, 0, 1, 2]
    assert [row["trials"] for row in rows] == [NUM_BASELINES, 5, 6, 4]
    history = fold(read(three[1] / "journal.jsonl"))
    for row in rows:
        mine = [
            t
            for t in history.all_trials
            if (t.candidate.stage, t.candidate.proposed_by.is_baseline) == (row["stage"] or 0, row["stage"] is None)
        ]
        assert row["search"] == max(t.objectives[0] for t in mine)
        assert row["finalist"] in {t.number for t in mine}
        assert row["select"] is not None, "the best of each stage answers the selection items"
        searched = history.trials[row["finalist"]].objectives[0]
        assert row["gap"] == pytest.approx(searched - (row["select"] if row["report"] is None else row["report"]))
    assert sum(row["seconds"] for row in rows) == pytest.approx(history.elapsed_s, abs=0.1)
    won = next(row for row in rows if row["finalist"] == report["winner"]["number"])
    assert won["report"] == pytest.approx(report["winner"]["mean"])


def test_all_that_shows_a_run_names_its_stages(three: tuple[Path, Path], tmp_path: Path) -> None:
    spec, out = three
    text = show_text(out)
    assert [line.split()[0] for line in text.splitlines() if "(trial" in line][:1] == ["baselines"]
    assert "3 cma_es" in text
    found = show_json(out)
    assert [row["name"] for row in found["stages"]] == ["baselines", "random", "cma_es", "cma_es"]
    assert found["stage"] == {"number": 2, "label": "cma_es", "of": 3, "trials": 4, "trials_wanted": 4}
    assert found["trials"][-1]["stage"] == 2
    page = (out / "report.html").read_text()
    assert "best on search" in page
    told: list[Event] = []
    run(load_spec(spec), tmp_path / "run", on_event=told.append)
    done = [str(event) for event in told if isinstance(event, TrialDone)]
    assert "stage 2 of 3, cma_es [1 of 6]" in done[NUM_BASELINES + 5]
    assert "stage" not in done[0]
    plan = "\n".join(map(str, told[:3]))
    assert "3 stages" in plan
    assert "stage 3 of 3, cma_es: 3 factors around the best before, cma_es, 4 trials" in plan
    _, report = report_on(out)
    assert summary(report)
    export_run(out, csv=tmp_path / "trials.csv")
    heads, *rows = csv.reader((tmp_path / "trials.csv").read_text().splitlines())
    assert "coefficient: layers 0-1: factor" in heads
    assert all(len(row) == len(heads) for row in rows)


def test_check_shows_each_stage_with_its_cost(tmp_path: Path) -> None:
    spec = staged(tmp_path / "spec", [RANDOM, {**CMA, "budget": {"minutes": 2}}])
    findings = check_spec(load_spec(spec))
    text = findings_text(findings)
    assert "stage 1 of 2, random: 5 trials" in text
    assert "stage 2 of 2, cma_es: trials within 2 min" in text
    costs = findings.to_json()["cost"]["stages"]
    assert [(cost["label"], cost["models"], cost["budget_seconds"]) for cost in costs] == [
        ("random", 5, None),
        ("cma_es", None, 120),
    ]


def test_the_closing_line_raises_what_ended_the_last_stage(three: tuple[Path, Path]) -> None:
    spec, out = three
    history = fold(read(out / "journal.jsonl"))
    [line] = _how_to_go_on(load_spec(spec), RunFolder(out), history, is_over=True)
    assert line.endswith(" --set stages.2.budget.trials=8")


@pytest.mark.parametrize(
    ("stages", "changes", "message"),
    [
        ([{"kind": "rendom", "space": COARSE}], {}, "no stage is of the kind"),
        ([{"space": COARSE}], {}, "the stage has no `kind`"),
        (["random"], {}, "a stage is not a mapping"),
        ([{**RANDOM, "spase": COARSE}], {}, "unknown key `spase`"),
        ([{**RANDOM, "popsize": 4}], {}, "unknown key `popsize`"),
        ([{**CMA, "popsize": 4}], {}, r"write `options: \{popsize: ...\}`"),
        ([{**CMA, "options": {"popsise": 4}}], {}, "unknown key `popsise`"),
        ([{"kind": "random", "budget": {"trials": 2}}], {}, r"`stages\.0\.space` is missing"),
        ([{**RANDOM, "budget": {}}], {}, "a search without a budget never ends"),
        ([RANDOM, {"kind": "regression"}], {}, "a regression is a first stage"),
        ([{"kind": "regression"}, RANDOM], {"artifacts": {"regression": {}}}, "two regressions: .* a stage"),
        ([{"kind": "regression"}, RANDOM], {}, "`stages.0` needs weights"),
        ([{"kind": "regression", "tasks": {"three": ["red"]}}, RANDOM], {}, "unknown expert `three`"),
        ([RANDOM, {**RANDOM, "kind": "m2n2"}], {}, "does not search this kind of space"),
        ([RANDOM, {**RANDOM, "space": {"kind": "lineage"}}], {}, "needs the inner products"),
        ([{**RANDOM, "space": {**SCALES, "factor": [1.1, 2]}}], {}, "a factor starts at 1"),
        ([RANDOM], {"space": COARSE}, "`space` stands beside `stages`"),
        ([RANDOM], {"optimizer": {"kind": "random", "budget": {"trials": 3}}}, "`optimizer` stands beside `stages`"),
        ([{**RANDOM, "kind": "search"}], {}, r"`stages\.0\.optimizer` is missing"),
        (
            [{"kind": "evo_merging", "space": {**COARSE, "operator": "lora_factors"}}],
            {"budget": {"trials": 9}},
            "divides its trials between two stages",
        ),
    ],
)
def test_mistakes_are_named_where_they_are(
    stages: list[Any], changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    path = staged(tmp_path, [])
    raw = {**yaml.safe_load(path.read_text()), "stages": stages, **changes}
    path.write_text(yaml.safe_dump(raw))
    with pytest.raises(InputError, match=message) as caught:
        build_plan(load_spec(path))
    assert "stage" in str(caught.value)


def test_a_budget_at_the_top_is_of_stages(tmp_path: Path) -> None:
    path = write_spec(tmp_path, base=Path("fake/base"), experts=EXPERTS, budget={"trials": 3})
    with pytest.raises(InputError, match="`budget` at the top is of `stages`"):
        load_spec(path)


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ([RANDOM, POLISH, CMA], r"stages\[1\]\.space\.kind: coefficients -> scales"),
        ([RANDOM, CMA], "other stages"),
        ([RANDOM, CMA, POLISH, POLISH], "other stages"),
        ([RANDOM, {**CMA, "options": {"popsize": 5}}, POLISH], r"stages\[1\]\.optimizer\.options\.popsize: 4 -> 5"),
        ([RANDOM, CMA, {**POLISH, "space": {"kind": "scales"}}], r"stages\[2\]\.space\.groups"),
    ],
)
def test_a_changed_list_is_refused_on_resume(
    stages: list[Any], message: str, three: tuple[Path, Path], tmp_path: Path
) -> None:
    before = (three[1] / "journal.jsonl").read_bytes()
    with pytest.raises(InputError, match=message):
        search(staged(tmp_path / "spec", stages), three[1])
    assert (three[1] / "journal.jsonl").read_bytes() == before


def test_a_budget_that_a_stage_plans_by_stays(tmp_path: Path) -> None:
    evo = {
        "kind": "evo_merging",
        "space": {**COARSE, "operator": "lora_factors"},
        "budget": {"trials": 8},
        "options": {"population": 4},
    }
    spec = staged(tmp_path / "spec", [RANDOM, evo])
    search(spec, tmp_path / "run")
    with pytest.raises(InputError, match="`evo_merging` plans by its budget") as caught:
        search(spec, tmp_path / "run", "stages.1.budget.trials=16")
    assert "trials: 8" in caught.value.expected
    search(spec, tmp_path / "run", "stages.0.budget.trials=16")


def test_a_journal_that_goes_back_to_an_earlier_stage_is_damaged(three: tuple[Path, Path], tmp_path: Path) -> None:
    lines = [json.loads(line) for line in (three[1] / "journal.jsonl").read_text().splitlines()]
    bad = next(line for line in lines if line.get("number") == NUM_BASELINES + 12 and line["kind"] == "ask")
    bad["stage"] = 0
    for line in lines:
        line.get("clock", {}).pop("check", None)
    lines[0]["schema"] = 1
    out = tmp_path / "run"
    out.mkdir()
    (out / "journal.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (out / "spec.yaml").write_text(three[0].read_text())
    with pytest.raises(InputError, match="the journal is damaged"):
        open_run(out)


def test_a_stage_of_a_regression_alone_searches_nothing(tmp_path: Path) -> None:
    path = staged(tmp_path, [{"kind": "regression"}])
    spec = load_spec(path)
    assert spec.searches == ()
    assert spec.regression is not None
    assert spec.needs_reference


def test_inputs_of_later_stages_have_streams_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn, build = [], "crossbreed.runs.stages.stage.build_optimizer"

    def noting(config: Any, inputs: SearchInputs) -> Any:
        drawn.append(float(inputs.rng.random()))

    monkeypatch.setattr(build, noting)
    build_plan(load_spec(staged(tmp_path, [RANDOM, RANDOM, RANDOM])))
    assert len(set(drawn)) == 3
