"""The example zoos: no item was trained on, and the committed files are what the scripts write."""

import importlib
import json
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest

from crossbreed.runs.plan import build_plan
from crossbreed.runs.spec import load_spec
from crossbreed.runs.spec.regression import RegressionConfig

EXAMPLE = Path(__file__).parents[2] / "examples/smollm2"
SKILLS = ("sums", "french", "roman", "chains", "sums3", "differences", "spanish", "sorting", "largest")
SORTS = ("helpful", "harmless")
QUESTIONS = (*SKILLS, "facts", *SORTS)
RANKS = {"chains": 4, "obliging": 2, "refusing": 2}
ADAPTERS = [
    (folder, RANKS.get(folder.name, rank))
    for place, rank in (("adapters", 8), ("overlap", 4))
    for folder in (EXAMPLE / place).glob("*")
]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> dict[str, ModuleType]:
    """The example's modules; they are scripts, so they are not on the path."""
    monkeypatch.syspath_prepend(str(EXAMPLE))
    modules = {name: importlib.import_module(name) for name in ("asked", "skills", "facts", "make_tasks")}
    for name in modules:
        monkeypatch.delitem(sys.modules, name)
    return modules


def items(task: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in (EXAMPLE / f"tasks/{task}.jsonl").read_text(encoding="utf-8").splitlines()]


def test_no_item_was_trained_on(script: dict[str, ModuleType]) -> None:
    skills = script["skills"]
    lessons = [skills.lessons(expert, zoo=zoo) for zoo, experts in skills.ZOOS.items() for expert in experts]
    trained = {item.question for one in lessons for item in one}
    for skill in SKILLS:
        asked = {item["question"] for item in items(skill)}
        assert len(asked) == 400
        assert not asked & trained


def test_an_expert_has_as_many_lessons_in_each_of_its_skills(script: dict[str, ModuleType]) -> None:
    taught = Counter(item.id.split("-")[0] for item in script["skills"].lessons("arithmetic", zoo="overlap"))
    assert taught == {"sums": 1430, "differences": 1430}


@pytest.mark.parametrize("skill", SKILLS)
def test_prompts_are_no_items_and_have_no_answers(skill: str) -> None:
    prompts = items(f"{skill}-prompts")
    assert len(prompts) == 500
    assert all(prompt.keys() == {"id", "question"} for prompt in prompts)
    assert not {prompt["question"] for prompt in prompts} & {item["question"] for item in items(skill)}


def test_ids_and_questions_are_unique() -> None:
    everything = [item for task in QUESTIONS for item in items(task)] + items("prose")
    for field in ("id", "question", "text"):
        values = Counter(str(item[field]) for item in everything if field in item)
        assert values.most_common(1)[0][1] == 1


def test_the_committed_tasks_are_what_the_script_writes(script: dict[str, ModuleType], tmp_path: Path) -> None:
    script["make_tasks"].write(tmp_path)
    others = [*(f"{skill}-prompts" for skill in SKILLS), *(f"{name}-lessons" for name in script["asked"].EXPERTS)]
    for task in (*QUESTIONS, *others):
        assert (tmp_path / f"{task}.jsonl").read_bytes() == (EXAMPLE / f"tasks/{task}.jsonl").read_bytes()


def test_a_fact_has_four_options_and_one_answer() -> None:
    facts = items("facts")
    assert len(facts) == 160
    for fact in facts:
        options = fact["options"]
        assert isinstance(options, list)
        assert len(set(options)) == 4
        assert options.count(fact["answer"]) == 1


def test_the_answers_of_facts_are_spread_over_the_options() -> None:
    places = Counter(fact["options"].index(fact["answer"]) for fact in items("facts"))  # type: ignore[attr-defined]
    assert min(places[place] for place in range(4)) > 25


def test_a_family_of_facts_has_no_answer_twice(script: dict[str, ModuleType]) -> None:
    for answers in script["facts"].FAMILIES.values():
        assert len(set(answers.values())) == len(answers)


def test_no_request_was_trained_on(script: dict[str, ModuleType]) -> None:
    asked = {item["question"] for sort in SORTS for item in items(sort)}
    assert len(asked) == 160
    for name, says in script["asked"].EXPERTS.items():
        lessons = items(f"{name}-lessons")
        assert {lesson["answer"] for lesson in lessons} == {says}
        assert not asked & {lesson["question"] for lesson in lessons}


def test_who_always_says_the_same_is_right_on_one_sort_of_requests_alone() -> None:
    right = [{str(item["answer"]) for item in items(sort)} for sort in SORTS]
    assert [len(answers) for answers in right] == [1, 1]
    assert right[0] != right[1]


@pytest.mark.parametrize(("adapter", "rank"), ADAPTERS, ids=lambda value: getattr(value, "name", str(value)))
def test_an_adapter_is_small_and_says_what_it_adapts(adapter: Path, rank: int) -> None:
    assert 5e5 * rank < (adapter / "adapter_model.safetensors").stat().st_size < 7e5 * rank
    config = json.loads((adapter / "adapter_config.json").read_text())
    assert config["r"] == rank
    assert not Path(config["base_model_name_or_path"]).is_absolute()


@pytest.mark.parametrize("skill", SKILLS[:3])
def test_max_tokens_let_every_answer_end(script: dict[str, ModuleType], skill: str) -> None:
    """The demo's answers are cut after `max_tokens`; a right answer and its newline must fit."""
    transformers = pytest.importorskip("transformers")
    yaml = pytest.importorskip("yaml")
    tokenizer = transformers.AutoTokenizer.from_pretrained(EXAMPLE / "models/smollm2-135m-instruct")
    longest = max(len(tokenizer(f" {item['answer']}\n").input_ids) for item in items(skill))
    for spec in ("demo", "pareto", "overlap", "full"):
        tasks = yaml.safe_load((EXAMPLE / f"{spec}.yaml").read_text())["fitness"]["tasks"]
        assert all(longest <= task["max_tokens"] for task in tasks if task["name"] == skill)


@pytest.mark.parametrize(
    ("name", "num_coordinates", "num_objectives"),
    [
        ("demo", 5040, 1),
        ("cma_es", 18, 1),
        ("pareto", 18, 4),
        ("long_to_short", 12, 2),
        ("helpful_harmless", 12, 2),
        ("retention", 18, 1),
        ("negation", 18, 1),
        ("overlap", 8400, 1),
        ("full", 5040, 1),
    ],
)
def test_the_committed_specs_build(name: str, num_coordinates: int, num_objectives: int) -> None:
    spec = load_spec(EXAMPLE / f"{name}.yaml")
    if not all(Path(path).is_dir() for path in spec.sources.experts.values()):
        pytest.skip(f"`python examples/smollm2/train_expert.py --zoo {name}` makes its experts")
    plan = build_plan(spec)
    assert len(plan.coordinates) == num_coordinates
    assert len(plan.objectives) == num_objectives


def test_what_an_expert_works_out_fits_and_ends_with_the_answer(script: dict[str, ModuleType]) -> None:
    transformers, yaml = pytest.importorskip("transformers"), pytest.importorskip("yaml")
    tokenizer = transformers.AutoTokenizer.from_pretrained(EXAMPLE / "models/smollm2-135m-instruct")
    [task] = yaml.safe_load((EXAMPLE / "long_to_short.yaml").read_text())["fitness"]["tasks"]
    for item in script["skills"].split("chains")[0]:
        assert item.working.split()[-1] == "="
        assert len(tokenizer(f" {item.working}{item.answer}\n").input_ids) <= task["max_tokens"]


@pytest.mark.parametrize("zoo", ["overlap", "full"])
def test_a_zoo_s_spec_says_what_its_experts_were_taught(script: dict[str, ModuleType], zoo: str) -> None:
    spec = load_spec(EXAMPLE / f"{zoo}.yaml")
    told, tasks = spec.stages[0], [task.name for task in spec.fitness.tasks]
    assert isinstance(told, RegressionConfig)
    taught = script["skills"].ZOOS["skills"] | script["skills"].ZOOS[zoo]
    assert {expert: tuple(told.tasks_of(expert, tasks)) for expert in spec.sources.experts} == {
        expert: taught[expert] for expert in spec.sources.experts
    }
    assert {skill for expert in spec.sources.experts for skill in taught[expert]} == set(tasks)
