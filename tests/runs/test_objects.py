"""Objects of a Python program in a run: what they replace, how the run knows them, and what is refused without them."""

import pickle
import sys
import threading
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
import ray.cloudpickle
import yaml
from pydantic import PrivateAttr
from toy_runs import call, journal_of, records_of, write_spec

import crossbreed
from crossbreed.errors import EngineError, InputError, MissingExtra
from crossbreed.fitness import (
    ENGINES,
    TASKS,
    Generate,
    GenerateTask,
    Item,
    Prompt,
    Response,
    Task,
    TaskConfig,
    build_engine,
)
from crossbreed.fitness.engines.registry import FakeConfig
from crossbreed.fitness.tasks import Answer
from crossbreed.objects import name_of
from crossbreed.optimizer import (
    OPTIMIZERS,
    FrankWolfeOptions,
    OptimizerConfig,
    OptimizerPart,
    RandomOptions,
    RandomSearch,
    SearchInputs,
)
from crossbreed.recipes import parse_recipe
from crossbreed.runs import check_spec, load_spec, publish_run, report_on, run, with_objects
from crossbreed.runs.objects import for_workers, require_sendable
from crossbreed.runs.plan import build_plan
from crossbreed.runs.plan_text import plan_text
from crossbreed.runs.results.show import show_json
from crossbreed.runs.workers.candidate_engine import CandidateEngineByRecipe
from crossbreed.sources import Structure
from crossbreed.testing.fake_recipes import FakeRecipeEngine, FakeRecipesConfig
from crossbreed.testing.fakes import FakeEngine
from crossbreed.types import Box, Outcome, Point, Recipe


class Corners:
    """An optimizer that visits random corners of the box."""

    in_order: ClassVar[bool] = True

    def __init__(self, inputs: SearchInputs) -> None:
        self._box, self._rng = inputs.box, inputs.rng

    def ask(self, number: int) -> Point | None:
        return tuple(ends[self._rng.integers(2)] for ends in zip(self._box.low, self._box.high, strict=True))

    def tell(self, outcome: Outcome) -> None:
        pass


class Counting(FakeEngine):
    """The fake engine; counts how often it is closed, and can be told to fail."""

    def __init__(self, host: Path, *, fail_at: int = 0) -> None:
        super().__init__(FakeConfig(kind="fake"), host)
        self.name: str | None = None
        self.num_closed, self.num_asked, self._fails_at = 0, 0, fail_at

    def answer(self, requests: Any) -> list[Response]:
        self.num_asked += 1
        if self.num_asked == self._fails_at:
            raise EngineError("the counting engine has counted enough")
        return super().answer(requests)

    def close(self) -> None:
        self.num_closed += 1


class Describing(FakeRecipeEngine):
    """The fake engine of recipes, which also says what can be merged."""

    def __init__(self) -> None:
        self._settings = FakeRecipesConfig(kind="fake_recipes")
        super().__init__(self._settings)

    def describe_sources(self, base: str, experts: Mapping[str, str]) -> Structure:
        return self._settings.describe_sources(base, experts)

    def close(self) -> None:
        raise AssertionError("the engine is its owner's to close")


class Colours(TaskConfig):
    """A task whose items are made up here."""

    kind: Literal["colours"] = "colours"
    size: int = 60
    prefix: str = ""

    def load_items(self) -> tuple[Item, ...]:
        return tuple(
            Item(id=f"{self.name}-{n}", fields={"q": f"{self.name} {n}", "a": f"{n * 7 % 97}"})
            for n in range(self.size)
        )

    def requests(self, item: Item) -> list[Generate]:
        return [Generate(prompt=Prompt(text=f"{self.name}|{self.prefix}{item.id}|{item.fields['a']}"), max_tokens=4)]

    def score(self, item: Item, responses: Any) -> Answer:
        return Answer(value=float(responses[0].text == item.fields["a"]), text=responses[0].text)


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory, toy_base: Path, toy_adapters: dict[str, Path]) -> Path:
    return write_spec(tmp_path_factory.mktemp("spec"), base=toy_base, experts=toy_adapters, trials=4)


@pytest.fixture
def parts(toy_base: Path) -> dict[str, Any]:
    engine = Counting(toy_base)
    engine.name = "here"
    return {"optimizer": Corners, "engine": engine, "tasks": [Colours(name="red"), Colours(name="blue")]}


@pytest.fixture
def finished(spec: Path, tmp_path: Path, parts: dict[str, Any]) -> Path:
    run(load_spec(spec), tmp_path / "finished", **parts)
    return tmp_path / "finished"


def without(spec: Path, *sections: str) -> dict[str, Any]:
    """What the file holds, but some of its sections."""
    raw = yaml.safe_load(spec.read_text())
    for section in sections:
        *parents, last = section.split(".")
        place = raw
        for parent in parents:
            place = place[parent]
        del place[last]
    return raw


def test_a_run_of_objects_is_a_run(spec: Path, tmp_path: Path, parts: dict[str, Any]) -> None:
    report = crossbreed.run(load_spec(spec), tmp_path / "run", **parts)
    asked = [record for record in journal_of(tmp_path / "run") if record["kind"] == "ask" and record["point"]]
    corners = {value for record in asked for value in record["point"]}
    assert len(asked) == 4
    assert len(corners) == 2, "the object searched, and not what the spec names"
    assert report.winner.value.n == 48
    assert show_json(tmp_path / "run")["state"] == "finished"


def test_sections_that_objects_replace_may_be_left_out(
    spec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parts: dict[str, Any]
) -> None:
    raw = without(spec, "fitness.engine", "fitness.tasks", "optimizer.kind", "optimizer.options", "workers")
    monkeypatch.chdir(tmp_path)
    run(raw, "short", **parts)
    run(load_spec(spec), "long", **parts)
    assert journal_of(tmp_path / "short") == journal_of(tmp_path / "long")
    with pytest.raises(InputError, match=r"`fitness\.tasks` is missing"):
        run(raw, "none", optimizer=parts["optimizer"], engine=parts["engine"])
    with pytest.raises(InputError, match=r"`optimizer.budget` is missing"):
        run({**raw, "optimizer": {}}, "none", **parts)


def test_the_journal_names_the_objects(finished: Path) -> None:
    recorded = journal_of(finished)[0]["spec"]
    assert recorded["optimizer"] == {
        "kind": "object",
        "object": f"{__name__}.Corners",
        "options": {},
        "settings": {},
    }
    assert recorded["fitness"]["engine"] == {"kind": "object", "object": "here"}
    assert recorded["fitness"]["tasks"][1] == {
        "kind": "object",
        "object": f"{__name__}.Colours",
        "name": "blue",
        "stratify": None,
        "chunk": 64,
        "metric": "colours",
        "minimized": False,
        "settings": {"kind": "colours", "name": "blue", "stratify": None, "chunk": 64, "size": 60, "prefix": ""},
    }


@pytest.mark.parametrize(
    ("argument", "other", "difference"),
    [
        (
            "optimizer",
            RandomSearch,
            "optimizer.object: {here}.Corners -> crossbreed.optimizer.random_search.RandomSearch",
        ),
        ("engine", Counting, "fitness.engine.object: here -> {here}.Counting"),
        ("tasks", [Colours(name="red", size=61), Colours(name="blue")], "contents.red: "),
        ("tasks", [Colours(name="red", chunk=8), Colours(name="blue")], "fitness.tasks[0].chunk: 64 -> 8"),
        ("tasks", [Colours(name="red"), Colours(name="blue", prefix="x")], "fitness.tasks[1].settings.prefix:  -> x"),
        ("optimizer", None, "optimizer.kind: object -> cma_es"),
        ("engine", None, "fitness.engine.kind: object -> fake"),
        ("tasks", None, "fitness.tasks[0].kind: object -> generate"),
    ],
)
def test_a_run_does_not_go_on_with_something_else(
    finished: Path, spec: Path, parts: dict[str, Any], argument: str, other: Any, difference: str
) -> None:
    before = (finished / "journal.jsonl").read_bytes()
    with pytest.raises(InputError, match="started with another spec") as caught:
        run(load_spec(spec), finished, **parts | {argument: other})
    assert difference.format(here=__name__) in str(caught.value)
    assert (finished / "journal.jsonl").read_bytes() == before


def test_a_run_goes_on_with_the_same_objects(spec: Path, finished: Path, tmp_path: Path, parts: dict[str, Any]) -> None:
    lines = (finished / "journal.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "journal.jsonl").write_text("".join(lines[:20]))
    run(load_spec(spec), tmp_path, **parts)
    assert journal_of(tmp_path) == journal_of(finished)


def test_an_object_is_known_by_its_own_name_or_its_class() -> None:
    class Named:
        name = "mine"

    assert name_of(Named()) == "mine"
    assert name_of(Corners) == name_of(partial(Corners)) == f"{__name__}.Corners"
    assert name_of(object()) == "builtins.object"


def test_the_arguments_of_a_partial_are_part_of_its_name() -> None:
    given = partial(Counting, Path("x"), fail_at=3)
    assert name_of(given) == f"{__name__}.Counting(PosixPath('x'), fail_at=3)"
    more = f"{__name__}.Counting(PosixPath('x'), fail_at=3, seed=<object object>)"
    assert name_of(partial(given, seed=object())) == more, "without the address in memory"


def test_a_lent_engine_is_the_engine_itself(spec: Path, toy_base: Path) -> None:
    """Properties are computed when they are read, and not when the engine is lent."""

    class Late(Counting):
        @property
        def last(self) -> int:
            assert self.num_asked, "nothing was asked yet"
            return self.num_asked

    engine = Late(toy_base)
    lent: Any = build_engine(with_objects(load_spec(spec), engine=engine).fitness.engine, toy_base)
    lent.answer([])
    assert lent.last == engine.last == 1
    lent.close()
    assert engine.num_closed == 0


def test_kinds_that_no_file_can_have_are_not_offered(spec: Path) -> None:
    for section, wrong in (("optimizer", "objct"), ("fitness.engine", "recipe_objec")):
        with pytest.raises(InputError) as caught:
            load_spec(spec, [f"{section}.kind={wrong}"])
        assert "object" not in caught.value.expected + caught.value.fix
    for registry in (OPTIMIZERS, ENGINES, TASKS):
        assert not {"object", "recipe_object"} & {*registry, *registry.ours, *registry.working()}
        assert len(registry) == len([*registry])
        assert "object" in registry


def test_a_file_does_not_hold_an_object_and_says_what_to_do(finished: Path, spec: Path, parts: dict[str, Any]) -> None:
    for argument in parts:
        given = {name: part for name, part in parts.items() if name != argument}
        with pytest.raises(InputError, match=f"with an object for `{argument}`") as caught:
            check_spec(with_objects(load_spec(finished / "spec.yaml"), **given))
        assert f"crossbreed.run(spec, out, {argument}=...) again" in str(caught.value)
    done = call("report", finished)
    assert done.returncode == 2
    assert "with an object for `tasks`" in done.stderr


def test_what_reads_the_journal_alone_needs_no_object(finished: Path) -> None:
    assert call("show", finished).returncode == 0
    assert show_json(finished)["objectives"] == [{"name": "mean of red, blue", "minimize": False}]


def test_a_report_is_made_with_the_objects_that_it_needs(finished: Path, parts: dict[str, Any]) -> None:
    """The engine is not started for a run that has all its answers."""
    (finished / "report.json").unlink()
    _, report = report_on(finished, optimizer=parts["optimizer"], tasks=parts["tasks"])
    assert report.is_over
    assert (finished / "report.json").exists()


def test_a_run_of_objects_is_published(finished: Path, tmp_path: Path, parts: dict[str, Any]) -> None:
    publish_run(finished, tmp_path / "model", trial=8, licence="mit", **parts)
    card = (tmp_path / "model" / "README.md").read_text()
    assert "colours" in card, "the metric of the card is the task's"


def test_an_engine_object_stays_the_callers(spec: Path, tmp_path: Path, parts: dict[str, Any], toy_base: Path) -> None:
    engine = Counting(toy_base, fail_at=30)
    run(load_spec(spec), tmp_path / "run", **parts | {"engine": engine})
    attempts = [r["clock"]["attempts"] for r in records_of(tmp_path / "run") if r["kind"] == "tell"]
    assert sorted(attempts)[-2:] == [1, 2], "it failed once, and was asked again"
    assert engine.num_closed == 0
    assert engine.answer([]) == []


def test_what_starts_an_engine_starts_a_new_one_after_a_failure(
    spec: Path, tmp_path: Path, parts: dict[str, Any], toy_base: Path
) -> None:
    engines: list[Counting] = []

    def start(host: Path) -> Counting:
        assert host == toy_base
        engines.append(Counting(host, fail_at=0 if engines else 30))
        return engines[-1]

    run(load_spec(spec), tmp_path / "run", **parts | {"engine": start})
    assert [engine.num_closed for engine in engines] == [1, 1]


def test_an_engine_object_and_ray_do_not_go_together(spec: Path, tmp_path: Path, toy_base: Path) -> None:
    engine = Counting(toy_base)
    with pytest.raises(InputError, match="lives in this process") as caught:
        run(load_spec(spec, ["workers.executor=ray"]), tmp_path / "run", engine=engine)
    assert "set `executor: local`" in str(caught.value)
    assert not (tmp_path / "run").exists()
    unsaid = with_objects(without(spec, "workers") | {"workers": {"retries": 5}}, engine=engine).workers
    assert (unsaid.executor, unsaid.retries) == ("local", 5)
    assert with_objects(load_spec(spec, ["workers.executor=ray"]), optimizer=Corners).workers.executor == "ray"


def test_tasks_and_optimizers_reach_workers_by_pickle(spec: Path, parts: dict[str, Any]) -> None:
    bound = with_objects(load_spec(spec), optimizer=parts["optimizer"], tasks=parts["tasks"])
    sent = pickle.loads(pickle.dumps(bound))
    assert [task.load_items() for task in sent.fitness.tasks] == [task.load_items() for task in parts["tasks"]]
    assert sent == bound


class LockedTask(Colours):
    """A task that does."""

    _lock: Any = PrivateAttr(default_factory=threading.Lock)


def test_workers_are_sent_no_optimizer(spec: Path) -> None:
    lock = threading.Lock()
    bound = with_objects(load_spec(spec, ["workers.executor=ray"]), optimizer=lambda inputs: (lock, Corners(inputs))[1])
    with pytest.raises(TypeError, match="pickle"):
        ray.cloudpickle.dumps(bound)
    sent = pickle.loads(ray.cloudpickle.dumps(for_workers(bound)))
    assert build_plan(sent, searches=False).run_record().spec == build_plan(bound).run_record().spec
    with pytest.raises(InputError, match="with an object for `optimizer`"):
        build_plan(sent)


def test_workers_are_sent_what_slopes_a_part_needs(spec: Path) -> None:
    part = OPTIMIZERS["frank_wolfe"]
    sent = pickle.loads(pickle.dumps(for_workers(with_objects(load_spec(spec), optimizer=part))))
    assert sent.optimizer.slope_kind == FrankWolfeOptions().slope_kind is not None


def test_a_task_that_cannot_be_sent_to_ray_is_refused_at_once(spec: Path, tmp_path: Path) -> None:
    tasks = [LockedTask(name="red"), Colours(name="blue")]
    with pytest.raises(InputError, match="cannot be sent to Ray's workers") as caught:
        run(load_spec(spec, ["workers.executor=ray"]), tmp_path / "run", tasks=tasks)
    assert "LockedTask" in caught.value.got
    assert "task `red`" in caught.value.where
    assert not (tmp_path / "run").exists()
    require_sendable(with_objects(load_spec(spec), tasks=tasks))


@pytest.mark.parametrize("is_on_cluster", [False, True])
def test_without_transformers_its_engine_is_refused_with_the_extra(
    spec: Path, monkeypatch: pytest.MonkeyPatch, is_on_cluster: bool
) -> None:
    """Its workers may be elsewhere, but the tokenizer is needed here."""
    cluster = ["workers={executor: ray, address: auto}"] if is_on_cluster else []
    changed = load_spec(spec, ["fitness.engine={kind: transformers}", *cluster])
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingExtra, match=r"crossbreed\[torch\]") as caught:
        check_spec(changed)
    assert "`transformers`" in caught.value.problem


def test_a_part_keeps_its_options(spec: Path) -> None:
    part = OPTIMIZERS["frank_wolfe"]
    plan = build_plan(with_objects(load_spec(spec), optimizer=part))
    assert plan.slope_kind(0) == FrankWolfeOptions().slope_kind is not None
    assert "slopes  gradient per trial" in plan_text(plan)
    recorded = plan.run_record().spec["optimizer"]
    assert (recorded["kind"], recorded["object"]) == ("object", "frank_wolfe")
    assert recorded["settings"] == {"options": FrankWolfeOptions().model_dump(mode="json")}


def test_old_names_of_a_part_s_options_are_known(spec: Path) -> None:
    class Old(RandomOptions):
        renamed: ClassVar[Mapping[str, str]] = {"stride": "step"}
        step: int = 1

    class OldConfig(OptimizerConfig):
        kind: Literal["old"]
        options: Old = Old()

    part = OptimizerPart(config=OldConfig, make=lambda inputs, config: Corners(inputs), searches=Box)
    plan = build_plan(with_objects(load_spec(spec), optimizer=part))
    assert plan.spec.optimizer.label == "old"
    assert plan.renamed_settings == {"spec.optimizer.settings.options.stride": "spec.optimizer.settings.options.step"}


def test_a_part_is_refused_for_a_space_that_it_does_not_search(spec: Path) -> None:
    with pytest.raises(InputError, match="optimizer `m2n2` does not search this kind of space"):
        build_plan(with_objects(load_spec(spec), optimizer=OPTIMIZERS["m2n2"]))


def test_the_plan_names_the_optimizer_object(spec: Path, parts: dict[str, Any]) -> None:
    assert f", {__name__}.Corners\n" in plan_text(build_plan(with_objects(load_spec(spec), **parts)))


def test_an_optimizer_may_be_a_part_that_is_not_registered(spec: Path, tmp_path: Path) -> None:
    run(load_spec(spec), tmp_path / "run", optimizer=OPTIMIZERS["random"])
    run(load_spec(spec, ["optimizer={kind: random, budget: {trials: 4}}"]), tmp_path / "named")
    points = [
        [record["point"] for record in journal_of(tmp_path / out) if record["kind"] == "ask"]
        for out in ("run", "named")
    ]
    assert points[0] == points[1]
    assert journal_of(tmp_path / "run")[0]["spec"]["optimizer"]["object"] == "random"


def test_a_task_may_be_of_a_kind_that_is_registered(spec: Path, tmp_path: Path) -> None:
    kinds = load_spec(spec).fitness.tasks
    tasks = [Task(kind=kind, items=kind.load_items()[:56]) for kind in kinds]
    report = run(load_spec(spec, ["fitness.split.report=20"]), tmp_path / "run", tasks=tasks)
    assert report.winner.value.n == 40
    assert all(isinstance(kind, GenerateTask) for kind in kinds)


def test_an_engine_object_may_take_recipes(spec: Path, tmp_path: Path, parts: dict[str, Any]) -> None:
    raw = without(spec, "fitness.engine", "workers")
    raw["sources"] = {"base": "fake/base", "experts": {"a": "fake/a", "b": "fake/b"}}
    report = run(raw, tmp_path / "run", **parts | {"engine": Describing()})
    assert journal_of(tmp_path / "run")[0]["spec"]["fitness"]["engine"] == {
        "kind": "recipe_object",
        "object": f"{__name__}.Describing",
    }
    assert report.winner.fingerprint is not None
    found = crossbreed.evaluate(report.winner.recipe, raw, engine=Describing(), tasks=parts["tasks"])
    assert found.fingerprint == report.winner.fingerprint
    other = replace(report.winner.recipe, sources=dict.fromkeys(report.winner.recipe.sources, "0" * 64))
    with pytest.raises(InputError, match="the recipe merges other sources than this spec"):
        crossbreed.evaluate(other, raw, engine=Describing(), tasks=parts["tasks"])
    with pytest.raises(InputError, match=r"(?s)with an object for `engine`.*`kind: recipe_object`"):
        report_on(tmp_path / "run", optimizer=parts["optimizer"], tasks=parts["tasks"])


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda found: replace(found, hashes=dict.fromkeys(found.hashes, 5)), "a name or a hash is no word"),
        (lambda found: replace(found, hashes={"base": found.hashes["base"]}), "does not describe its sources"),
        (lambda found: found.to_json(), "does not describe its sources"),
    ],
)
def test_what_an_engine_says_of_its_sources_is_checked(
    spec: Path, tmp_path: Path, parts: dict[str, Any], change: Any, problem: str
) -> None:
    class Odd(Describing):
        def describe_sources(self, base: str, experts: Mapping[str, str]) -> Structure:
            found: Structure = change(super().describe_sources(base, experts))
            return found

    raw = without(spec, "fitness.engine", "workers")
    raw["sources"] = {"base": "fake/base", "experts": {"a": "fake/a", "b": "fake/b"}}
    with pytest.raises(InputError, match=problem) as caught:
        run(raw, tmp_path / "run", **parts | {"engine": Odd()})
    assert "describe_sources" in caught.value.where
    assert not (tmp_path / "run" / "journal.jsonl").exists()


@pytest.mark.parametrize("fingerprint", [5, b"f", "\ud800"])
def test_a_fingerprint_that_is_no_text_is_refused(fingerprint: Any) -> None:
    class Odd(FakeRecipeEngine):
        def adopt(self, recipe: Recipe) -> Any:
            return replace(super().adopt(recipe), fingerprint=fingerprint)

    engine = CandidateEngineByRecipe(Odd(FakeRecipesConfig(kind="fake_recipes")))
    with pytest.raises(EngineError, match="expected a text or None as the fingerprint"):
        engine.adopt(Recipe(base="base", sources={"base": "0" * 32}, rules=()))


@pytest.mark.parametrize(
    ("argument", "wrong"),
    [
        ("optimizer", "cma_es"),
        ("engine", "vllm"),
        ("engine", object()),
        ("engine", Describing),
        ("tasks", ["sums"]),
    ],
)
def test_what_is_no_part_is_refused_at_once(spec: Path, tmp_path: Path, argument: str, wrong: Any) -> None:
    with pytest.raises(InputError, match=f"`{argument}` has the wrong type"):
        run(load_spec(spec), tmp_path / "run", **{argument: wrong})
    assert not (tmp_path / "run").exists()


def test_a_section_that_is_no_mapping_is_refused(parts: dict[str, Any]) -> None:
    for section in ("fitness", "workers"):
        with pytest.raises(InputError, match=f"`{section}` must be a mapping"):
            with_objects({section: ["ray"]}, **parts)


def test_a_checkpoint_or_a_recipe_is_evaluated_by_objects(
    spec: Path, finished: Path, parts: dict[str, Any], toy_base: Path
) -> None:
    given = {"engine": parts["engine"], "tasks": parts["tasks"]}
    trials = {trial["number"]: trial for trial in show_json(finished)["trials"]}
    for model, number in ((parse_recipe(trials[5]["recipe"]), 5), (toy_base, 0)):
        found = crossbreed.evaluate(model, load_spec(spec), **given)
        assert found.fingerprint == trials[number]["fingerprint"]
        assert {name: task.mean for name, task in found.tasks.items()} == trials[number]["tasks"]
        assert found.to_json()["tasks"]["red"]["n"] == 20
    other = crossbreed.evaluate(toy_base, load_spec(spec), split="report", **given)
    assert other.tasks["red"].n == 24
    assert parts["engine"].num_closed == 0
