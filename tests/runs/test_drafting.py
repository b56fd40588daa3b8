"""`crossbreed init`: a spec that `check` passes, or one clear question, for files as people have them."""

import csv
import json
import random
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pytest
import yaml
from pyarrow import parquet
from typer.testing import CliRunner

from crossbreed.cli import app
from crossbreed.errors import InputError
from crossbreed.runs import build_plan, check_spec, load_spec
from crossbreed.runs.drafting.draft import Draft, write_draft
from crossbreed.runs.spec import Spec
from crossbreed.testing.toys import make_adapter, make_checkpoint

WORDS = "apple river stone cloud lamp green seven quick brown silver window garden".split()  # noqa: SIM905


@pytest.fixture(autouse=True)
def _without_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its import takes longer than all tests of this file."""
    monkeypatch.setitem(sys.modules, "vllm", None)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def plain(toy_adapters: dict[str, Path]) -> list[str]:
    """Experts without a chat template of their own."""
    return [str(path) for path in toy_adapters.values()]


def phrases(number: int, words: int) -> list[str]:
    chance = random.Random(words)
    found: dict[str, None] = {}
    while len(found) < number:
        found[" ".join(chance.choices(WORDS, k=words))] = None
    return list(found)


def lines(path: Path, items: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(item, ensure_ascii=False) + "\n" for item in items), encoding="utf-8")
    return path


def questions(number: int = 40, **more: Any) -> list[dict[str, Any]]:
    return [{"question": phrase, "answer": str(i * 7), **more} for i, phrase in enumerate(phrases(number, 4))]


def drafted(
    base: Path, experts: list[str], *items: Path, out: str = "spec.yaml", **named: Sequence[str]
) -> tuple[Spec, Draft]:
    draft = write_draft(str(base), experts, items=items, out=Path(out), **named)
    assert Path(out).read_text(encoding="utf-8") == draft.text
    spec = load_spec(out)
    check_spec(spec)
    return spec, draft


def refused(base: Path | str, experts: list[str], *items: Path, **named: Sequence[str]) -> InputError:
    with pytest.raises(InputError) as caught:
        write_draft(str(base), experts, items=items, out=Path("spec.yaml"), **named)
    assert not Path("spec.yaml").exists()
    return caught.value


def test_questions_with_numbers(folder: Path, toy_base: Path, plain: list[str]) -> None:
    spec, draft = drafted(toy_base, plain, lines(folder / "sums.jsonl", questions(200)))
    (task,) = spec.fitness.tasks
    assert (task.name, task.kind, task.metric) == ("sums", "generate", "number")
    assert (task.prompt, task.answer, task.chat_template) == ("Question: {question}\nAnswer:", "answer", False)
    assert task.max_tokens == 8, "four digits, as bytes, and some room"
    assert spec.fitness.engine.kind == "transformers"
    assert spec.fitness.engine.dtype == "bfloat16"
    assert spec.fitness.split.model_dump() == {"search": 48, "select": 40, "report": 112}
    assert list(spec.sources.experts) == ["plain", "stabilised"]
    assert "#   sums: metric number (likely: every gold is a number)" in draft.text
    assert yaml.safe_load(draft.text)["fitness"]["tasks"][0]["items"] == str(folder / "sums.jsonl")


def test_items_that_are_left_unused_are_said(folder: Path, toy_base: Path, plain: list[str]) -> None:
    others = [item | {"question": f"Other {item['question']}"} for item in questions(60)]
    few, many = lines(folder / "few.jsonl", others), lines(folder / "many.jsonl", questions(401))
    alone, both = drafted(toy_base, plain, many)[1], drafted(toy_base, plain, few, many, out="both.yaml")[1]
    for draft, name, left, report in ((alone, "spec.yaml", 63, "313"), (both, "both.yaml", 341, "0.55")):
        [said] = [remark for remark in draft.remarks if "not used" in remark.what]
        assert said.what == f"many: {left} of 401 items are not used"
        assert f"`report: {report}`" in said.why
        better = load_spec(name, [f"fitness.split.report={report}"])
        used = sum(len(found["many"].items) for found in build_plan(better).items.values())
        assert used > 401 - left
    assert not [
        remark for remark in drafted(toy_base, plain, few, out="few.yaml")[1].remarks if "not used" in remark.what
    ]


def test_multiple_choice_as_mmlu_has_it(folder: Path, toy_base: Path, plain: list[str]) -> None:
    with (folder / "mmlu.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["", "question", "A", "B", "C", "D", "answer"])
        for i, phrase in enumerate(phrases(40, 5)):
            table.writerow([i, phrase, *(f"{word} {i}" for word in WORDS[:4]), "ABCD"[i % 4]])
    spec, _ = drafted(toy_base, plain, folder / "mmlu.csv")
    (task,) = spec.fitness.tasks
    assert (task.kind, task.choices, task.answer) == ("choice", ["A", "B", "C", "D"], "answer")


@pytest.mark.parametrize(("gold", "first"), [("label", 0), ("answer_index", 1)])
def test_multiple_choice_with_a_list_and_an_index(
    folder: Path, toy_base: Path, plain: list[str], gold: str, first: int
) -> None:
    items = [{"ctx": p, "endings": WORDS[:4], gold: i % 4 + first, "n": i} for i, p in enumerate(phrases(40, 5))]
    spec, _ = drafted(toy_base, plain, lines(folder / "x.jsonl", items))
    (task,) = spec.fitness.tasks
    assert (task.kind, task.choices, task.answer) == ("choice", "endings", gold)
    assert task.gold_is == (None if first == 0 else "index_from_1")
    assert task.prompt == "Question: {ctx}\nAnswer:"


def test_an_index_that_may_count_from_0_or_1_is_a_guess(folder: Path, toy_base: Path, plain: list[str]) -> None:
    items = [{"ctx": p, "endings": WORDS[:4], "label": i % 3 + 1} for i, p in enumerate(phrases(40, 5))]
    spec, text = drafted(toy_base, plain, lines(folder / "x.jsonl", items))
    (task,) = spec.fitness.tasks
    assert task.gold_is == "index_from_1"
    assert "counted from 1 (a guess: no gold is 0" in str(text)


def test_chats(folder: Path, toy_base: Path, plain: list[str]) -> None:
    turns = [[{"role": "system", "content": "Be brief."}, {"role": "user", "content": p}] for p in phrases(40, 4)]
    items = [{"messages": one, "answer": f"yes {i}"} for i, one in enumerate(turns)]
    spec, _ = drafted(toy_base, plain, lines(folder / "chat.jsonl", items))
    (task,) = spec.fitness.tasks
    assert (task.messages, task.chat_template, task.answer) == ("messages", True, "answer")


def test_chats_with_the_answer_inside_are_divided_by_the_advice(folder: Path, toy_base: Path, plain: list[str]) -> None:
    items = [
        {"messages": [{"role": "user", "content": p}, {"role": "assistant", "content": f"no {i}"}]}
        for i, p in enumerate(phrases(40, 4))
    ]
    said = refused(toy_base, plain, lines(folder / "it's chat.jsonl", items))
    assert "end with the model's own turn" in said.problem
    subprocess.run(["bash", "-c", said.fix.replace("python", sys.executable, 1)], check=True)
    spec, _ = drafted(toy_base, plain, folder / "it's chat-asked.jsonl")
    assert spec.fitness.tasks[0].messages == "messages"


def test_experts_that_bring_a_chat_template_are_asked_in_chats(
    folder: Path, toy_base: Path, toy_experts: dict[str, Path]
) -> None:
    experts = [str(path) for path in toy_experts.values()]
    shutil.copytree(experts[0], folder / "one")
    shutil.copy(toy_base / "chat_template.jinja", folder / "one")
    spec, draft = drafted(toy_base, ["one"], lines(folder / "x.jsonl", questions()))
    assert (spec.fitness.tasks[0].chat_template, spec.fitness.tasks[0].prompt) == (True, "{question}")
    assert "chat template (a guess" in draft.text


def test_nothing_but_texts(folder: Path, toy_base: Path, plain: list[str]) -> None:
    items = [{"id": i, "text": phrase} for i, phrase in enumerate(phrases(40, 20))]
    spec, _ = drafted(toy_base, plain, lines(folder / "prose.jsonl", items))
    assert (spec.fitness.tasks[0].kind, spec.fitness.tasks[0].text) == ("perplexity", "text")


def test_texts_beside_questions_are_an_objective_of_their_own(folder: Path, toy_base: Path, plain: list[str]) -> None:
    prose = lines(folder / "prose.jsonl", [{"text": phrase} for phrase in phrases(40, 20)])
    spec, _ = drafted(toy_base, plain, lines(folder / "x.jsonl", questions()), prose)
    assert [objective.mean for objective in spec.fitness.objectives] == [("x",), ("prose",)]
    assert spec.optimizer.kind == "nsga2"


def test_lists_of_golds(folder: Path, toy_base: Path, plain: list[str]) -> None:
    items = [{"query": p, "answers": [f"The {p}", p[:12]]} for p in phrases(40, 4)]
    spec, _ = drafted(toy_base, plain, lines(folder / "x.jsonl", items))
    (task,) = spec.fitness.tasks
    assert (task.kind, task.answer, task.metric) == ("generate", "answers", "exact_match")
    assert 12 + 4 <= task.max_tokens < 24, "the shorter of the golds has room"


def test_two_files_of_one_name(folder: Path, toy_base: Path, plain: list[str]) -> None:
    for skill in ("sums", "names"):
        (folder / skill).mkdir()
    files = [
        lines(folder / "sums/test.jsonl", questions()),
        lines(folder / "names/test.jsonl", [{"q": p, "a": p[:5]} for p in phrases(40, 3)]),
    ]
    spec, _ = drafted(toy_base, plain, *(path.relative_to(folder) for path in files))
    assert [task.name for task in spec.fitness.tasks] == ["sums-test", "names-test"]
    assert yaml.safe_load(Path("spec.yaml").read_text())["fitness"]["tasks"][0]["items"] == "sums/test.jsonl"


def test_no_gold(folder: Path, toy_base: Path, plain: list[str]) -> None:
    items = [{"question": p, "level": "easy", "n": i} for i, p in enumerate(phrases(40, 4))]
    path = lines(folder / "x.jsonl", items)
    said = refused(toy_base, plain, path)
    assert said.problem == "which field holds the gold answer?"
    assert said.fix == "add --answer-field level, or another of them"
    spec, _ = drafted(toy_base, plain, path, answers=["level"])
    assert spec.fitness.tasks[0].answer == "level"


def test_numbers_of_items_are_named_last_and_options_are_no_golds(
    folder: Path, toy_base: Path, plain: list[str]
) -> None:
    items = [{"nr": i + 1, "frage": f"Wie heißt {p}?", "stand": p[:4]} for i, p in enumerate(phrases(40, 4))]
    said = refused(toy_base, plain, lines(folder / "x.jsonl", items))
    assert said.fix == "add --answer-field stand, or another of them"
    rows = [{"frage": f"{p}?", **{k: f"{k} {p}" for k in "ABC"}, "D": "", "antwort": "A"} for p in phrases(40, 4)]
    said = refused(toy_base, plain, lines(folder / "y.jsonl", rows))
    assert said.problem == "the columns A, B, C, D look like options, but 40 of 40 lack some"
    same = lines(folder / "w.jsonl", [row | {"D": row["A"]} for row in rows])
    assert "an option twice" in refused(toy_base, plain, same).got
    kept = lines(folder / "z.jsonl", [{key: value for key, value in row.items() if key != "D"} for row in rows])
    spec, _ = drafted(toy_base, plain, kept, prompts=["frage"])
    assert (spec.fitness.tasks[0].kind, spec.fitness.tasks[0].answer) == ("choice", "antwort")


def test_files_whose_golds_have_other_names(folder: Path, toy_base: Path, plain: list[str]) -> None:
    counts = lines(folder / "x.jsonl", [{"word": p, "n": i} for i, p in enumerate(phrases(40, 4))])
    cities = lines(folder / "y.jsonl", [{"land": p, "city ": p[:4]} for p in phrases(40, 3)])
    assert "'city ': " in refused(toy_base, plain, cities).got, "a blank that cannot be seen is in quotes"
    assert refused(toy_base, plain, cities).fix.startswith("add --answer-field 'city '"), "the long one is the question"
    out = [f"--answer-field={name}" for name in ("n", "city ")]
    done = CliRunner().invoke(app, ["init", str(toy_base), *plain, "--items", str(counts), str(cities), *out])
    assert done.exit_code == 0, done.stderr
    assert [task.answer for task in load_spec("spec.yaml").fitness.tasks] == ["n", "city "]


@pytest.mark.parametrize(
    ("gold", "metric"),
    [
        ("{n}", "number"),
        ("{n} km", "number"),
        ("it is {n}. #### {n}", "number"),
        ("${n},000.50", "number"),
        ("{n}e3", "number"),
        ("B{n}", "exact_match"),
        ("{month} {n}", "exact_match"),
    ],
)
def test_numbers_are_compared_as_such_where_nothing_else_tells_golds_apart(
    folder: Path, toy_base: Path, plain: list[str], gold: str, metric: str
) -> None:
    months = ("May", "June")
    items = [{"q": p, "a": gold.format(n=i + 1, month=months[i % 2])} for i, p in enumerate(phrases(40, 4))]
    spec, _ = drafted(toy_base, plain, lines(folder / "x.jsonl", items))
    assert spec.fitness.tasks[0].metric == metric


@pytest.mark.parametrize("gap", [None, "", ...])
def test_one_item_without_its_gold(folder: Path, toy_base: Path, plain: list[str], gap: Any) -> None:
    items = questions(level="easy")
    items[7]["answer"] = gap
    if gap is ...:
        del items[7]["answer"]
    said = refused(toy_base, plain, lines(folder / "x.jsonl", items))
    assert said.problem == "`answer` holds the right answer of 39 of 40 items"
    assert said.where.endswith("x.jsonl, line 8")


def test_no_question(folder: Path, toy_base: Path, plain: list[str]) -> None:
    items = [{"left": p, "right": p[::-1], "answer": str(i)} for i, p in enumerate(phrases(40, 4))]
    path = lines(folder / "x.jsonl", items)
    assert refused(toy_base, plain, path).fix == "add --prompt-field left, or another of them"
    spec, _ = drafted(toy_base, plain, path, prompts=["right"])
    assert spec.fitness.tasks[0].prompt == "Question: {right}\nAnswer:"
    Path("spec.yaml").unlink()
    assert "did you mean" in refused(toy_base, plain, path, prompts=["rigth"]).fix
    other = lines(folder / "y.jsonl", questions())
    spec, _ = drafted(toy_base, plain, path, other, prompts=["right"])  # of no account where there is none
    assert [task.prompt for task in spec.fitness.tasks] == [
        f"Question: {{{f}}}\nAnswer:" for f in ("right", "question")
    ]


def test_no_items(folder: Path, toy_base: Path, plain: list[str]) -> None:
    (folder / "x.jsonl").write_text("")
    assert refused(toy_base, plain, folder / "x.jsonl").problem == "there are no items"
    assert "too few items" in refused(toy_base, plain, lines(folder / "x.jsonl", questions(2))).problem


def test_what_is_no_model(folder: Path, toy_base: Path, plain: list[str]) -> None:
    (folder / "empty").mkdir()
    said = refused(toy_base, ["empty", "nowhere/at/all"], lines(folder / "x.jsonl", [{"question": "a"}]))
    assert [error.problem for error in said.errors] == [
        f"`{folder}/empty` holds no model",
        "`nowhere/at/all` is not a model folder",
        "no field of the items can be the gold answer",
    ]
    assert "an adapter cannot stand alone" in refused(plain[0], plain, lines(folder / "x.jsonl", questions())).problem


def test_an_adapter_of_another_base(folder: Path, toy_base: Path) -> None:
    other = make_checkpoint(folder / "other", architecture="qwen2", num_layers=6)
    make_adapter(folder / "adapter", base=other, seed=1)
    said = refused(toy_base, ["adapter"], lines(folder / "x.jsonl", questions()))
    assert "adapter" in str(said)


def test_parquet_and_json(folder: Path, toy_base: Path, plain: list[str]) -> None:
    parquet.write_table(pyarrow.Table.from_pylist(questions()), folder / "one.parquet")
    alpaca = [{"instruction": "Spell it:", "input": p, "output": p.upper()} for p in phrases(40, 3)]
    (folder / "two.json").write_text(json.dumps(alpaca, indent=1))
    spec, _ = drafted(toy_base, plain, folder / "one.parquet", folder / "two.json")
    assert [task.prompt for task in spec.fitness.tasks] == [
        "Question: {question}\nAnswer:",
        "{instruction}\n{input}\nAnswer:",
    ]


def test_names_of_all_alphabets_and_spaces(folder: Path, toy_base: Path, toy_adapters: dict[str, Path]) -> None:
    (folder / "mé modèles").mkdir()
    shutil.copytree(toy_adapters["plain"], folder / "mé modèles/ひとつ: yes")
    shutil.copytree(toy_adapters["stabilised"], folder / "mé modèles/base")
    path = lines(folder / "mé modèles/élan #1.jsonl", [{"question": p, "answer": "été"} for p in phrases(40, 4)])
    (folder / "sub dir").mkdir()
    experts = ["mé modèles/ひとつ: yes", "mé modèles/base"]
    spec, draft = drafted(toy_base, experts, path.relative_to(folder), out="sub dir/my spec.yaml")
    assert list(spec.sources.experts) == ["ひとつ: yes", "base-expert"]
    assert spec.fitness.tasks[0].name == "élan #1"
    assert '"../mé modèles/élan #1.jsonl"' in draft.text


def test_prompts_that_are_whole_stay_as_they_are(folder: Path, toy_base: Path, plain: list[str]) -> None:
    items = [{"prompt": f"Q: {p}\nA:", "completion": p[:4]} for p in phrases(40, 4)]
    spec, _ = drafted(toy_base, plain, lines(folder / "x.jsonl", items))
    assert (spec.fitness.tasks[0].prompt, spec.fitness.tasks[0].answer) == ("{prompt}", "completion")


def test_nothing_is_written_over(folder: Path, toy_base: Path, plain: list[str]) -> None:
    (folder / "spec.yaml").write_text("mine")
    path = lines(folder / "x.jsonl", questions())
    with pytest.raises(InputError, match="writes over nothing") as caught:
        write_draft(str(toy_base), plain, items=[path], out=Path("spec.yaml"))
    assert (folder / "spec.yaml").read_text() == "mine"
    assert caught.value.fix == "name another: --out spec-2.yaml"


def test_the_command_says_what_it_guessed(folder: Path, toy_base: Path, plain: list[str]) -> None:
    one, two = lines(folder / "x.jsonl", questions()), lines(folder / "y.jsonl", [{"text": p} for p in phrases(30, 9)])
    done = CliRunner().invoke(app, ["init", str(toy_base), *plain, "--items", str(one), str(two)])
    assert (done.exit_code, done.stdout) == (0, "")
    said = done.stderr.splitlines()
    assert said[0] == "guessed  x: gold `answer` (sure: its name)"
    assert said[-1].startswith("spec.yaml: `crossbreed check spec.yaml`")
    assert [task.name for task in load_spec("spec.yaml").fitness.tasks] == ["x", "y"]


EXAMPLE = Path(__file__).parents[2] / "examples/smollm2"


@pytest.mark.slow
@pytest.mark.skipif(not (EXAMPLE / "models/smollm2-135m-instruct").is_dir(), reason="`make setup` writes the model")
def test_the_example(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "vllm")
    skills = ("sums", "french", "roman")
    spec, _ = drafted(
        EXAMPLE / "models/smollm2-135m-instruct",
        [str(EXAMPLE / f"adapters/{skill}") for skill in skills],
        *(EXAMPLE / f"tasks/{skill}.jsonl" for skill in skills),
    )
    plain = load_spec(EXAMPLE / "cma_es.yaml")
    assert spec.space == plain.space
    assert spec.optimizer.budget.trials == plain.optimizer.budget.trials
    assert [task.prompt for task in spec.fitness.tasks] == [task.prompt for task in plain.fitness.tasks]
    assert spec.fitness.engine.dtype == "bfloat16"
