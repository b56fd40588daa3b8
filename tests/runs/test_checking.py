"""What `check` shows of what will be asked, what it costs, and what publishing will need."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from toy_runs import write_spec
from typer.testing import CliRunner

from crossbreed.cli import app
from crossbreed.errors import InputError, Mistakes
from crossbreed.fitness import Loglikelihood, Prompt
from crossbreed.fitness.engines.encoder import Encoder
from crossbreed.runs import check, check_spec, load_spec, run
from crossbreed.runs.check import Findings
from crossbreed.runs.checking import rates
from crossbreed.runs.checking.cost import Cost
from crossbreed.runs.checking.questions import Option, TaskFindings
from crossbreed.runs.checking.rates import Rate
from crossbreed.runs.checking.text import findings_text
from crossbreed.runs.plan import build_plan
from crossbreed.runs.plan_text import plan_text
from crossbreed.runs.results.show import show_json
from crossbreed.runs.search.pace import Budget
from crossbreed.runs.stages.naming import stage_names
from crossbreed.testing.toys import make_checkpoint

TRANSFORMERS = {"kind": "transformers"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where no rate is known yet; what else is cached stays where it is."""
    monkeypatch.setattr(rates, "cache_folder", lambda: tmp_path)
    monkeypatch.setattr(rates, "is_ours", lambda path: path.exists())
    return tmp_path


@pytest.fixture
def spec_with(folder: Path, toy_base: Path, toy_adapters: dict[str, Path]) -> Any:
    def write(*tasks: dict[str, Any], items: list[dict[str, Any]] | None = None, **changes: Any) -> Path:
        if items is not None:
            (folder / "items.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
        if tasks:
            whole = [{"items": str(folder / "items.jsonl"), "answer": "a"} | task for task in tasks]
            changes["fitness__tasks"] = whole
            changes["fitness__objectives"] = [{"task": task["name"]} for task in whole]
        return write_spec(folder / "spec", base=toy_base, experts=toy_adapters, trials=2, **changes)

    return write


def questions(num: int = 60, **fields: Any) -> list[dict[str, Any]]:
    return [{"id": str(i), "q": f"Which is {i}?", "a": str(i), **fields} for i in range(num)]


def found(path: Path, *changes: str, engine: Any = TRANSFORMERS, answer: bool = False) -> Findings:
    return check_spec(load_spec(path, [f"fitness.engine={json.dumps(engine)}", *changes]), answer=answer)


def the_task(path: Path, *changes: str, **others: Any) -> TaskFindings:
    [task] = found(path, *changes, **others).tasks
    return task


CHAT = {
    "name": "chat",
    "kind": "generate",
    "prompt": "{q} ",
    "chat_template": True,
    "system": "Be brief.",
    "few_shot": [{"q": "Which is one?", "a": "1"}],
    "max_tokens": 4,
}
CHOICE = {"name": "pick", "kind": "choice", "prompt": "{q}\nAnswer:", "choices": ["x", "y", "z"]}


def test_a_chat_is_shown_as_the_model_gets_it(spec_with: Any, toy_base: Path) -> None:
    """Template, system message, examples: decoded from the very tokens that an engine is sent."""
    path = spec_with(CHAT, items=questions())
    findings = found(path)
    [task], [example] = findings.plan.tasks, findings.examples
    item = next(item for item in task.items if item.id == example.item_id)
    encoder = Encoder(toy_base)
    [request] = task.requests(item)
    sent = encoder.encode(request).token_ids
    assert example.prompt == encoder.tokenizer.decode(sent)
    assert example.prompt_tokens == len(sent)
    assert "Be brief." in example.prompt
    assert "Which is one? 1\n\n" in example.prompt
    shown = [line.removeprefix("    | ") for line in findings_text(findings).splitlines() if line.startswith("    | ")]
    assert [line.replace("␣", " ") for line in shown] == example.prompt.split("\n")


def test_a_chat_whose_template_is_elsewhere_is_shown_by_turns(spec_with: Any) -> None:
    [example] = found(spec_with(CHAT, items=questions()), engine={"kind": "fake"}).examples
    assert example.prompt.startswith("system: Be brief.\nuser: Which is one? 1\n\nWhich is ")
    assert example.prompt_tokens is None


def test_special_tokens_before_a_plain_prompt_are_shown(tmp_path: Path, toy_base: Path) -> None:
    base = make_checkpoint(tmp_path / "base", num_layers=2)
    made = json.loads((base / "tokenizer.json").read_text())
    made["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<eos>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<eos>": {"id": "<eos>", "ids": [256], "tokens": ["<eos>"]}},
    }
    (base / "tokenizer.json").write_text(json.dumps(made))
    assert Encoder(base).shown(Prompt(text="Which?")) == "<eos>Which?"
    assert Encoder(toy_base).shown(Prompt(text="Which?")) == "Which?"


def test_a_gold_is_scored_by_each_metric_that_is_combined(spec_with: Any) -> None:
    """What looks at the text alone need not be true of the gold: the note says which part it is."""
    metric = {"all": ["number", {"json_schema": {"type": "object"}}]}
    task = {"name": "sums", "kind": "generate", "prompt": "{q}", "metric": metric}
    findings = found(spec_with(task, items=questions()), engine={"kind": "fake"})
    [checked] = findings.tasks
    assert checked.example.gold_parts == {"number": 1, "json_schema": 0}
    assert "score 0 (number 1, json_schema 0)" in findings_text(findings)
    assert "look at `metric`, `pattern` and `stop` (number 1, json_schema 0)" in checked.notes[0]
    assert checked.to_json()["example"]["gold_scores"] == {"number": 1, "json_schema": 0}


def test_every_option_is_shown_as_it_is_scored(spec_with: Any) -> None:
    items = [{"id": str(i), "q": f"Which is {i}?", "a": "xyz"[i % 3], **dict.fromkeys("xyz")} for i in range(60)]
    items = [item | {name: f"{name}{item['id']}" for name in "xyz"} for item in items]
    findings = found(spec_with(CHOICE, items=items))
    [task], [checked] = findings.plan.tasks, findings.tasks
    item = next(item for item in task.items if item.id == checked.example.item_id)
    requests = [request for request in task.requests(item) if isinstance(request, Loglikelihood)]
    assert [option.text for option in checked.example.options] == [request.continuation for request in requests]
    [right] = [option.text for option in checked.example.options if option.is_right]
    assert right == f" {checked.example.gold}"
    assert checked.positions == {"A": 1 / 3, "B": 1 / 3, "C": 1 / 3}
    assert (checked.notes, checked.constant, set(checked.gold_values)) == ((), None, {1.0})
    text = findings_text(findings)
    assert f"    * {right!r}" in text
    assert "right option A 33%, B 33%, C 33%" in text


@pytest.mark.parametrize(("text", "shown"), [("a red fox", "'a red fox'"), ("x" * 500, "xxx' and 100 more characters")])
def test_a_text_whose_likelihood_is_scored_is_shown(spec_with: Any, folder: Path, text: str, shown: str) -> None:
    path = spec_with(items=[{"id": str(i), "text": f"a fox, and {i}"} for i in range(60)])
    prose = f"{{name: prose, kind: perplexity, items: {folder / 'items.jsonl'}}}"
    findings = found(path, f"fitness.tasks=[{prose}]", "fitness.objectives=[{task: prose}]")
    [task] = findings.tasks
    assert [option.text for option in task.example.options] == [f"a fox, and {task.example.item_id}"]
    assert (task.gold_values, task.example.gold, task.example.prompt) == ((), "", "")
    example = replace(task.example, options=(Option(text=text, is_right=False),), answer="", value=5.5)
    lines = findings_text(replace(findings, tasks=(replace(task, example=example),))).splitlines()
    assert lines[-4].startswith("  text: '")
    assert lines[-4].endswith(shown)
    assert lines[-3:] == ["  base: score 5.5", "", "no problems found"]


def test_golds_that_are_always_the_first_option_are_said(spec_with: Any) -> None:
    items = [item | {"a": "x", "x": f"x{i}", "y": f"y{i}", "z": f"z{i}"} for i, item in enumerate(questions())]
    [note] = the_task(spec_with(CHOICE, items=items)).notes
    assert note.startswith("every gold is option A: ")
    assert "`permute: true` in the task" in note


@pytest.mark.parametrize(
    ("task", "cause", "mended"),
    [
        (
            {"metric": "regex", "pattern": "the answer is (.*)"},
            "look at `metric`, `pattern` and `stop`",
            {"pattern": "(?:the answer is )?(.*)"},
        ),
        ({"metric": "number", "max_tokens": 1}, "`max_tokens` leaves '1' of it: raise it", {"max_tokens": 3}),
    ],
)
def test_golds_that_do_not_score_when_given_exactly_are_said(
    spec_with: Any, task: dict[str, Any], cause: str, mended: dict[str, Any]
) -> None:
    items = [item | {"a": str(100 + i)} for i, item in enumerate(questions())]
    task = {"name": "t", "kind": "generate", "prompt": "{q}", "max_tokens": 20} | task
    checked = the_task(spec_with(task, items=items))
    [note] = checked.notes
    assert note.startswith("the gold answers of 60 of 60 items score below 1")
    assert cause in note
    assert set(checked.gold_values) == {0.0}
    assert checked.example.gold_value == 0
    assert the_task(spec_with(task | mended, items=items)).notes == ()


def test_the_share_of_golds_that_fit_is_over_all_items(spec_with: Any) -> None:
    items = [item | {"a": str(1000 if i < 15 else 10 + i)} for i, item in enumerate(questions())]
    path = spec_with(
        {"name": "t", "kind": "generate", "prompt": "{q}", "metric": "number", "max_tokens": 2}, items=items
    )
    findings = found(path)
    [task] = findings.tasks
    assert (task.num_golds_fit, task.num_items) == (45, 60)
    assert task.num_split == {"search": 20, "select": 16, "report": 24}
    assert "45 of 60 fit into max_tokens: 2; 45 of 60 score 1 when given exactly" in findings_text(findings)
    assert task.to_json()["golds_fit"] == 0.75
    assert "60 items (20 search, 16 select, 24 report)" in findings_text(findings)


def test_an_item_that_is_too_long_is_named_with_the_number_of_the_others(spec_with: Any) -> None:
    items = [item | {"q": item["q"] + "x" * 90 * (i < 3)} for i, item in enumerate(questions())]
    path = spec_with({"name": "t", "kind": "generate", "prompt": "{q}", "max_tokens": 2}, items=items)
    with pytest.raises(InputError, match=r"item `0` does not fit the model's context, nor do 2 other of 60 items"):
        found(path, engine={"kind": "transformers", "max_model_len": 50})


def test_golds_that_are_all_the_same_are_no_signal(spec_with: Any) -> None:
    path = spec_with({"name": "t", "kind": "generate", "prompt": "{q}", "max_tokens": 4}, items=questions(a="yes"))
    findings = found(path, engine={"kind": "fake"})
    [note] = findings.tasks[0].notes
    assert note.startswith("every gold of the search items is 'yes'")
    assert "no signal" in note
    text = findings_text(findings)
    assert "always 'yes' is right for 100%" in text
    assert text.endswith("no problems found; 1 note on the tasks above")


def test_a_long_prompt_is_shown_in_part(spec_with: Any) -> None:
    shots = "".join(f"line {i}\n" for i in range(100))
    path = spec_with(
        {"name": "t", "kind": "generate", "prompt": "{q}", "few_shot": shots, "max_tokens": 4}, items=questions()
    )
    findings = found(path, engine={"kind": "fake"})
    lines = [line for line in findings_text(findings).splitlines() if line.startswith("    | ")]
    assert len(lines) == 25
    assert lines[12] == "    | ... (77 more lines; --json has all)"
    assert findings.to_json()["tasks"][0]["example"]["prompt"] == findings.examples[0].prompt
    assert "line 50" in findings.examples[0].prompt


def test_what_publishing_will_ask_is_said(spec_with: Any, toy_adapters: dict[str, Path]) -> None:
    path = spec_with()
    licence, hub, fake = found(path, engine={"kind": "fake"}).publish_notes
    assert licence.startswith("--licence will be asked for: ")
    assert hub.startswith("base, ")
    assert "--no-report" in fake
    assert "  publish --licence will be asked for: " in findings_text(found(path))


def test_json_has_all_that_was_found(spec_with: Any) -> None:
    path = spec_with()
    done = CliRunner().invoke(app, ["check", str(path), "--json"], catch_exceptions=False)
    shown = json.loads(done.stdout)
    expected = json.loads(json.dumps(check_spec(load_spec(path)).to_json()))
    assert shown | {"free_disk_bytes": 0} == expected | {"free_disk_bytes": 0}
    assert shown["schema"] == 1
    assert [task["name"] for task in shown["tasks"]] == ["red", "blue"]


def test_the_time_is_not_known_until_something_was_measured(spec_with: Any, folder: Path) -> None:
    """First by `check --answer`, then by a run, which a later `--answer` does not replace."""
    path = spec_with()
    before = check_spec(load_spec(path))
    assert before.cost.rate is None
    assert "  time    not known yet" in findings_text(before)
    answered = check_spec(load_spec(path), answer=True)
    assert answered.cost.rate is not None
    assert answered.cost.rate.num_trials == 0
    assert "as measured on the first answers of the base" in findings_text(answered)
    run(load_spec(path), folder / "run")
    measured = check_spec(load_spec(path), answer=True).cost
    assert measured.rate is not None
    assert measured.rate.num_trials == 10
    assert check_spec(load_spec(path, ["workers.cpus=7"])).cost.rate is None
    done = [trial["seconds"] for trial in _trials(folder / "run")]
    middle = sorted(sum(seconds.values()) for seconds in done)[len(done) // 2]
    assert measured.model_s("search") == pytest.approx(middle, rel=0.5)


def _trials(path: Path) -> list[dict[str, Any]]:
    trials: list[dict[str, Any]] = show_json(path)["trials"]
    return trials


COST = Cost(
    num_models={"search": 110, "select": 8, "report": 7},
    items={"search": 100, "select": 50, "report": 200},
    tokens={"search": 1000, "select": 500, "report": 2000},
    num_workers=1,
    budget_s=600,
    rate=Rate(fixed_s=1.0, item_s=0.005, item_tokens=5.0, num_trials=40),
)


def test_the_minutes_are_compared_with_the_budget() -> None:
    assert COST.model_s("search") == 2.0
    assert (COST.search_s, COST.seconds("select"), COST.seconds("report")) == (220, 12, 21)
    assert (COST.total_s, COST.num_in_budget) == (253, None)
    short = replace(COST, budget_s=60)
    assert (short.search_s, short.total_s, short.num_in_budget) == (60, 93, 30)
    assert replace(short, num_workers=2).num_in_budget == 60
    endless = replace(COST, num_models={**COST.num_models, "search": None})
    assert (endless.search_s, endless.num_in_budget) == (600, 300)
    assert replace(COST, tokens=None).model_s("search") == 1.5  # as long as those that were measured
    names = stage_names({"stages": [{"kind": "one"}, {"kind": "two"}]})
    staged = replace(COST, stages=names, num_initial=8, own={0: Budget(trials=90, seconds=60), 1: Budget(seconds=30)})
    assert (staged.search_s, staged.num_in_budget) == (16 + 60 + 30, None)
    assert replace(staged, budget_s=100).num_in_budget == 50
    unknown = replace(COST, rate=None)
    assert (unknown.model_s("search"), unknown.total_s, unknown.num_in_budget) == (None, None, None)


@pytest.mark.parametrize(
    ("cost", "lines"),
    [
        (
            COST,
            [
                "2 s a trial, as measured on 40 trials of a run; about 4:13 with",
                "the budget of 10 min is enough: the search takes about 3:40",
            ],
        ),
        (replace(COST, budget_s=60), ["the budget of 1 min ends the search after about 30 trials"]),
        (replace(COST, budget_s=None, num_workers=2), ["2 s a trial, 2 workers"]),
    ],
)
def test_the_cost_is_told(spec_with: Any, cost: Cost, lines: list[str]) -> None:
    text = findings_text(replace(check_spec(load_spec(spec_with())), cost=cost))
    assert all(line in text for line in lines), text


def test_a_base_that_answers_all_is_said(spec_with: Any) -> None:
    task = the_task(spec_with(CHAT, items=questions()), engine={"kind": "fake"})
    assert task.answered("1", 1.0, [1.0] * 20).notes == (
        "the base answers all 20 items right that it was asked: there is nothing to gain",
    )
    assert task.answered("1", 1.0, [1.0] * 19 + [0.0]).notes == ()
    assert task.answered("1", 1.0, []).notes == ()


def test_the_plan_counts_no_more_items_than_there_are(spec_with: Any) -> None:
    """Of 32 wanted for Grams, the split has 20."""
    plan = build_plan(load_spec(spec_with(artifacts={"grams": {"items": 32}}, space__operator="regmean")))
    assert "20 items per task" in plan_text(plan)


def mistakes_of(path: Path, *changes: str, engine: Any = TRANSFORMERS) -> list[str]:
    with pytest.raises(Mistakes) as caught:
        found(path, *changes, engine=engine)
    return [error.problem for error in caught.value.errors]


GENERATE = {"kind": "generate", "prompt": "{q}", "max_tokens": 4}


def test_mistakes_of_sources_tasks_and_splits_are_told_at_once(spec_with: Any, folder: Path) -> None:
    few = folder / "few.jsonl"
    few.write_text("".join(json.dumps({"id": str(i), "q": f"Few {i}?", "a": "1"}) + "\n" for i in range(9)))
    tasks = [
        GENERATE | {"name": "one", "answer": "b"},
        GENERATE | {"name": "two", "items": str(few)},
        GENERATE | {"name": "three", "max_tokens": 1},
        GENERATE | {"name": "four", "prompt": "{question}"},
    ]
    path = spec_with(*tasks, items=questions())
    told = mistakes_of(path, "sources.experts.lost=experts/lost")
    assert len(told) == 4
    assert "experts/lost" in told[0]
    assert told[1:3] == ["item `0` has no field `b`", "item `0` has no field `question`"]
    assert told[3].startswith("task `two` has too few items")
    told = mistakes_of(path)
    assert len(told) == 4
    assert told[3] == "the answers of 50 of 60 items can never be given: they are too long"


def test_lengths_of_several_tasks_and_memory_are_told_at_once(spec_with: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "memory_bytes", lambda: 1000)
    items = [item | {"q": item["q"] + "x" * 90 * (i < 3)} for i, item in enumerate(questions())]
    tasks = [GENERATE | {"name": "one"}, GENERATE | {"name": "two", "max_tokens": 1, "prompt": "2: {q}"}]
    path = spec_with(*tasks, items=items)
    short = {"kind": "transformers", "max_model_len": 60}
    both = "fitness.objectives=[{mean: [one, two]}]"
    lengths = ["item `0` does not fit the model's context, nor do 2 other of 60 items"] * 2
    assert mistakes_of(path, both, engine=short) == [*lengths, "the model does not fit this machine's memory"]
    assert mistakes_of(path, engine=short) == ["optimizer `cma_es` supports one objective only", *lengths]


def test_a_space_a_warm_start_and_an_optimizer_are_refused_at_once(spec_with: Any, folder: Path) -> None:
    (folder / "lost.yaml").write_text("{}")
    told = mistakes_of(
        spec_with(space__groups={"layers": 99}), f"warm_start=[{folder / 'lost.yaml'}]", engine={"kind": "fake"}
    )
    assert told[:2] == ["there are more bands than layers", "`schema` is missing"]
