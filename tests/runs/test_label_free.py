"""Tasks without right answers: values by their definition, teachers that are asked once, resume, and bad input."""

import json
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_runs import journal_of, records_of, write_spec
from transformers import AutoModelForCausalLM, PreTrainedModel

from crossbreed.errors import InputError
from crossbreed.fitness import SearchItems, Task, TeacherAnswer, TeacherTask, ask_teacher, evaluate_tasks, load_tasks
from crossbreed.fitness.divergence import entropy, jensen_shannon
from crossbreed.fitness.engines.registry import TransformersConfig, build_engine
from crossbreed.optimizer import CalibrationNeeds
from crossbreed.recipes.named import weighted_deltas
from crossbreed.runs import build_plan, load_spec, run
from crossbreed.runs.calibration.loss import MergeLoss
from crossbreed.runs.evaluate import evaluate
from crossbreed.runs.spec.provider import load_provider_spec
from crossbreed.runs.teachers.answers import PREFIX
from crossbreed.service.provider import open_provider
from crossbreed.testing.toys import load_weights
from crossbreed.types import Recipe

VOCABULARY = 272
SPLIT = {"search": 4, "select": 3, "report": 3}
TRANSFORMERS = {"kind": "transformers", "dtype": "float32"}


def task(kind: str, teacher: str, **changes: Any) -> dict[str, Any]:
    return {
        "name": f"{kind}-{teacher}",
        "kind": kind,
        "teacher": teacher,
        "items": "red.jsonl",
        "prompt": "{q}:",
        "max_tokens": 4,
        "top_k": 8,
        **changes,
    }


@pytest.fixture(scope="module")
def experts(toy_experts: dict[str, Path], toy_adapters: dict[str, Path]) -> dict[str, Path]:
    return {"everything": toy_experts["everything"], "plain": toy_adapters["plain"]}


def spec_of(folder: Path, base: Path, experts: Mapping[str, Path], tasks: Sequence[Any], **changes: Any) -> Path:
    usual = {
        "dtype": "float32",
        "fitness__engine": TRANSFORMERS,
        "fitness__tasks": list(tasks),
        "fitness__objectives": [{"mean": [one["name"] for one in tasks], "minimize": True}],
        "fitness__split": SPLIT,
    }
    return write_spec(folder, base=base, experts=experts, trials=2, **{**usual, **changes})


class Models:
    """Two toys in an engine, and in fp64 for what is computed here."""

    def __init__(self, folders: Mapping[str, Path]) -> None:
        self.weights = {name: {n: t.float() for n, t in load_weights(path).items()} for name, path in folders.items()}
        self.host = next(iter(folders.values()))
        self.engine = build_engine(TransformersConfig(kind="transformers", dtype="float32"), self.host)

    def adopt(self, name: str) -> Any:
        recipe = Recipe(base="base", sources={"base": name}, rules=())
        return self.engine.adopt(recipe, iter(sorted(self.weights[name].items())))

    def exact(self, name: str) -> PreTrainedModel:
        model = AutoModelForCausalLM.from_pretrained(self.host, dtype=torch.float64)
        model.load_state_dict(self.weights[name], strict=False)
        return model.tie_weights() or model


@pytest.fixture(scope="module")
def models(toy_base: Path, toy_experts: dict[str, Path]) -> Models:
    return Models({"base": toy_base, "teacher": toy_experts["everything"], "other": toy_experts["attention"]})


def loaded(folder: Path, *tasks: dict[str, Any]) -> list[Task]:
    (folder / "red.jsonl").write_text("".join(json.dumps({"id": f"r{i}", "q": f"red {i}"}) + "\n" for i in range(3)))
    from crossbreed.fitness import TASKS

    return load_tasks([TASKS[one["kind"]].model_validate(one, context={"folder": folder}) for one in tasks])


def values_of(models: Models, folder: Path, candidate: str, **changes: Any) -> tuple[list[Task], dict[str, Any], Any]:
    tasks = loaded(folder, task("agreement", "teacher", **changes), task("entropy", "teacher", **changes))
    items = {one.name: SearchItems(one.items) for one in tasks}
    teacher = models.adopt("teacher")
    teacher_answers = {one.name: ask_teacher(teacher, one, items[one.name]) for one in tasks}
    found = evaluate_tasks(models.adopt(candidate), tasks, items, teacher_answers)
    return tasks, teacher_answers, {kind: found.tasks[f"{kind}-teacher"].values for kind in ("agreement", "entropy")}


def predictions(models: Models, name: str, item: int, answer: Sequence[int]) -> np.ndarray[Any, Any]:
    """Probabilities [A, V] in fp64, of the prompt's bytes and the answer."""
    from crossbreed.testing.toys import byte_tokenizer

    prompt = byte_tokenizer()(f"red {item}:").input_ids
    with torch.inference_mode():
        logits = models.exact(name)(torch.tensor([[*prompt, *answer]])).logits[0]
    return logits[len(prompt) - 1 : -1].softmax(-1).numpy()


def divergence(p: np.ndarray[Any, Any], q: np.ndarray[Any, Any]) -> float:
    m = (p + q) / 2
    return float(0.5 * np.sum(p * np.log(p / m)) + 0.5 * np.sum(q * np.log(q / m)))


@pytest.mark.parametrize("top_k", [8, VOCABULARY])
def test_values_are_those_of_the_definition(models: Models, tmp_path: Path, top_k: int) -> None:
    """By fp64 arithmetic of another kind; a few tokens give less than all of them, which give the whole divergence."""
    _, teacher_answers, values = values_of(models, tmp_path, "other", top_k=top_k)
    for number in range(3):
        answer = teacher_answers["agreement-teacher"][f"r{number}"].token_ids
        assert answer == teacher_answers["entropy-teacher"][f"r{number}"].token_ids
        theirs, ours = (predictions(models, name, number, answer) for name in ("teacher", "other"))
        assert list(answer) == theirs.argmax(-1).tolist(), "the answer is greedy"
        listed, uncertain = list[float](), list[float]()
        for p, q in zip(theirs, ours, strict=True):
            best, own = np.argsort(-p)[:top_k], np.sort(q)[::-1][:top_k]
            rest = [[max(1 - one[best].sum(), 1e-300)] for one in (p, q)]
            listed.append(divergence(np.append(p[best], rest[0]), np.append(q[best], rest[1])))
            own = np.append(own, max(1 - own.sum(), 1e-300))
            uncertain.append(float(-np.sum(own * np.log(own))))
        whole = np.mean([divergence(p, q) for p, q in zip(theirs, ours, strict=True)])
        assert values["agreement"][number] == pytest.approx(np.mean(listed), abs=1e-5)
        assert values["entropy"][number] == pytest.approx(np.mean(uncertain), abs=1e-5)
        assert 1e-3 < values["agreement"][number] <= math.log(2)
        if top_k == VOCABULARY:
            assert values["agreement"][number] == pytest.approx(whole, abs=1e-5)
        else:
            assert values["agreement"][number] < whole


def test_a_teacher_agrees_with_itself(models: Models, tmp_path: Path) -> None:
    _, _, values = values_of(models, tmp_path, "teacher")
    assert values["agreement"] == (0.0, 0.0, 0.0)
    assert min(values["entropy"]) > 0


@settings(max_examples=40)
@given(st.lists(st.lists(st.floats(-20, 20), min_size=4, max_size=4), min_size=2, max_size=2), st.integers(1, 4))
def test_a_divergence_is_symmetric_bounded_and_grows_with_what_is_told_apart(
    logits: list[list[float]], number: int
) -> None:
    some, others = (torch.tensor(one, dtype=torch.float64).log_softmax(-1).tolist() for one in logits)
    found = jensen_shannon([some], [others])
    assert 0 <= found <= math.log(2) + 1e-12
    assert found == pytest.approx(jensen_shannon([others], [some]), abs=1e-12)
    assert jensen_shannon([some], [some]) == 0
    assert jensen_shannon([some[:number]], [others[:number]]) <= found + 1e-9
    assert entropy([some[:number]]) <= entropy([some]) + 1e-9 <= math.log(4) + 2e-9


def test_a_run_asks_teachers_once_and_goes_on_anywhere(
    tmp_path: Path, toy_base: Path, experts: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Items of a split are asked for when it is measured; a killed run, here or moved, asks no teacher again."""
    tasks = [task("agreement", name, max_tokens=2) for name in ("everything", "base")]
    split = {"search": 2, "select": 2, "report": 2}
    path = spec_of(tmp_path, toy_base, experts, tasks, fitness__split=split)
    asked = list[tuple[str, tuple[str, ...]]]()
    answered = TeacherTask.teacher_answers

    def watched(self: TeacherTask, handle: Any, items: Sequence[Any]) -> list[TeacherAnswer]:
        asked.append((self.name, tuple(item.id for item in items)))
        return answered(self, handle, items)

    monkeypatch.setattr(TeacherTask, "teacher_answers", watched)
    plan = build_plan(load_spec(path))
    ids = {
        split: {name: tuple(i.id for i in found.items) for name, found in of.items()}
        for split, of in plan.items.items()
    }

    def listen(event: object) -> None:
        wanted = {one for split in ("search", "select", "report") for one in ids[split].items()}
        if type(event).__name__ == "TrialDone":
            wanted = set(ids["search"].items())
        elif type(event).__name__ == "SplitStarting":
            before = ("search",) if event.split == "select" else ("search", "select")  # type: ignore[attr-defined]
            wanted = {one for split in before for one in ids[split].items()}
        assert set(asked) <= wanted, "a split's items are asked for when it comes"

    report = run(load_spec(path), tmp_path / "whole", on_event=listen)
    assert sorted(asked) == sorted((name, found) for of in ids.values() for name, found in of.items()), "once"
    assert report.is_over
    for record in records_of(tmp_path / "whole"):
        if record["kind"] == "tell" and record["split"] == "search" and record["number"] < 2:  # the base, an expert
            name = ("base", "everything")[record["number"]]
            assert set(record["tasks"][f"agreement-{name}"]) == {"0"}, "a teacher agrees with itself"
    whole = journal_of(tmp_path / "whole")
    assert len(list((tmp_path / "whole/artifacts").glob(f"{PREFIX}*"))) == 6

    lines = (tmp_path / "whole/journal.jsonl").read_bytes().splitlines(keepends=True)
    for name, lost in (("moved", 0), ("damaged", 2)):
        shutil.copytree(tmp_path / "whole", tmp_path / name)
        (tmp_path / name / "journal.jsonl").write_bytes(b"".join(lines[:18]) + lines[18][:20])
        asked.clear()
        torn, gone, *_ = sorted((tmp_path / name / "artifacts").glob(f"{PREFIX}*"))
        if lost:
            torn.write_bytes(torn.read_bytes()[:-9])
            gone.unlink()
        run(load_spec(path), tmp_path / name)
        assert journal_of(tmp_path / name) == whole
        assert len(asked) == lost
    changed = spec_of(tmp_path, toy_base, experts, [{**tasks[0], "top_k": 9}, *tasks[1:]])
    with pytest.raises(InputError, match="another spec"):
        run(load_spec(changed), tmp_path / "whole")


def test_a_checkpoint_and_a_recipe_are_compared_with_teachers(
    tmp_path: Path, toy_base: Path, experts: dict[str, Path]
) -> None:
    path = spec_of(tmp_path, toy_base, experts, [task("agreement", "everything")])
    spec = load_spec(path)
    plan = build_plan(spec)
    assert evaluate(experts["everything"], spec).tasks["agreement-everything"].mean == 0
    base = evaluate(toy_base, spec).tasks["agreement-everything"].mean
    recipe = weighted_deltas({}, hashes=plan.structure.hashes, dtype="float32")
    assert evaluate(recipe, spec).tasks["agreement-everything"].mean == pytest.approx(base, abs=1e-6)
    assert base > 1e-3
    other = tmp_path / "other"
    shutil.copytree(toy_base, other)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 1e-3}))
    with pytest.raises(InputError, match="another config"):
        evaluate(other, spec)


def test_a_service_refuses_tasks_with_teachers(tmp_path: Path, toy_base: Path, experts: dict[str, Path]) -> None:
    path = spec_of(tmp_path, toy_base, experts, [task("entropy", "plain")], serve={"port": 0})
    with pytest.raises(InputError, match="no task of kind `entropy`"):
        open_provider(load_provider_spec(path))


@pytest.mark.parametrize("kind", ["agreement", "entropy"])
def test_the_loss_of_gradients_is_the_task_s_value(
    kind: str, tmp_path: Path, toy_base: Path, experts: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the same items, at the start of a descent and off it."""
    monkeypatch.setenv("CROSSBREED_CACHE", str(tmp_path / "cache"))
    tasks = [task(kind, name) for name in experts]
    space = {"kind": "coefficients", "operator": "task_arithmetic", "weight": [-1, 2]}
    plan = build_plan(load_spec(spec_of(tmp_path, toy_base, experts, tasks, space=space)))
    loss = MergeLoss(
        plan.calibration_inputs, plan.space, CalibrationNeeds(loss=kind, items=None, held_out=0.0, about="")
    )
    for point in ((0.5, 0.5), (0.9, -0.3)):
        found, _ = loss.slopes(point, [item for items in loss.tasks for item in items])
        values = evaluate(plan.space.decode(point), plan.spec).tasks
        assert found == pytest.approx(np.mean([values[one["name"]].mean for one in tasks]), rel=2e-4)


def _bad() -> Iterator[Any]:
    agreement = task("agreement", "everything")
    yield pytest.param(task("agreement", "everythink"), {}, "everything", id="teacher unknown")
    yield pytest.param({k: v for k, v in agreement.items() if k != "teacher"}, {}, "teacher", id="no teacher")
    yield pytest.param({**agreement, "top_k": 0}, {}, "top_k", id="no token")
    yield pytest.param({**agreement, "top_k": 5000}, {}, "1024", id="too many tokens")
    yield pytest.param({**agreement, "prompt": "the same"}, {}, "no field", id="no field")
    yield pytest.param({**agreement, "few_shot": [{"q": "x"}]}, {}, "name their field", id="examples without answers")
    yield pytest.param({**agreement, "metric": "exact_match"}, {}, "metric", id="a metric")
    yield pytest.param(agreement, {"fitness__engine": {"kind": "fake"}}, "`vllm` or `transformers`", id="engine")
    yield pytest.param(agreement, {"artifacts": {"regression": {"items": 4}}}, "no correct answers", id="regression")


@pytest.mark.parametrize(("bad", "changes", "said"), [*_bad()])
def test_bad_input_is_refused_with_what_to_do(
    bad: dict[str, Any], changes: dict[str, Any], said: str, tmp_path: Path, toy_base: Path, experts: dict[str, Path]
) -> None:
    path = spec_of(tmp_path, toy_base, experts, [bad], **changes)
    with pytest.raises(InputError, match=said):
        build_plan(load_spec(path)).measured()
