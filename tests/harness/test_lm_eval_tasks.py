"""What the tasks of lm-eval are here: kinds like all others, of disjoint documents, in tokens or in texts."""

import json
import math
import pickle
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
from harness_tasks import SIZES, TASKS, WRITTEN, document, write_task, write_tasks
from safetensors.torch import load_file

from crossbreed.errors import EngineError, InputError
from crossbreed.fitness import (
    Generate,
    Item,
    Loglikelihood,
    Prompt,
    ReportItems,
    Request,
    Response,
    SearchItems,
    SplitConfig,
    Task,
    TransformersConfig,
    build_engine,
    check_disjoint,
    evaluate_tasks,
    gold_answer,
    load_tasks,
    questions_of,
    split_items,
)
from crossbreed.fitness.tasks.lm_eval import loaded
from crossbreed.fitness.tasks.lm_eval.asking import Speaker
from crossbreed.fitness.tasks.lm_eval.config import LmEvalTask
from crossbreed.testing.tasks import TaskConformance, response
from crossbreed.types import Recipe

pytest.importorskip("lm_eval")

PARTS = {"training": "train", "validation": "validation", "test": "test"}


def kind(folder: Path, task: str, **settings: Any) -> LmEvalTask:
    return LmEvalTask(kind="lm_eval", name="mine", include_path=str(folder), task=task, chunk=2, **settings)


def load(folder: Path, task: str, host: Path | None = None, **settings: Any) -> Task:
    [found] = load_tasks([kind(folder, task, **settings)], host=host)
    return found


class Harness(TaskConformance):
    """What holds for every output type."""

    settings: ClassVar[dict[str, Any]]

    @pytest.fixture
    def task(self, tasks_folder: Path) -> Task:
        config = kind(tasks_folder, **self.settings)
        return Task(kind=config, items=config.load_items())


class TestOptions(Harness):
    settings: ClassVar[dict[str, Any]] = {"task": "quiz", "metric": "acc_norm"}


class TestWritten(Harness):
    settings: ClassVar[dict[str, Any]] = {"task": "shots"}


class TestEnds(Harness):
    settings: ClassVar[dict[str, Any]] = {"task": "ends", "metric": "perplexity", "minimize": True}
    high: ClassVar[float] = math.inf


class TestProse(Harness):
    settings: ClassVar[dict[str, Any]] = {"task": "prose", "metric": "byte_perplexity", "minimize": True}
    high: ClassVar[float] = math.inf


def test_splits_take_their_parts_of_the_data(tasks_folder: Path) -> None:
    task = load(tasks_folder, "quiz", metric="acc")
    config = SplitConfig(search=4, select=0.25, report=0.5)
    split = split_items(task.items, config, seed=3, task="mine", stratify="task")
    assert [len(part.items) for part in (split.search, split.select, split.report)] == [4, 3, 6]
    assert all("/validation-" in item.id for item in (*split.search.items, *split.select.items))
    assert all("/test-" in item.id for item in split.report.items)
    assert not {item.id for item in split.search.items} & {item.id for item in split.select.items}


def test_one_part_is_shared_and_that_is_said(tasks_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tasks_folder, tmp_path / "tasks")
    write_task(folder, "only", {**WRITTEN, **TASKS["shots"]}, {"training": "train", "test": "test"})
    task = load(folder, "only")
    assert [item.id for item in task.items] == [f"test-{n}" for n in range(SIZES["test"])]
    split = split_items(task.items, SplitConfig(search=2, select=2, report=2), seed=0, task="mine")
    assert len({item.id for part in (split.search, split.select, split.report) for item in part.items}) == 6
    [note] = [one for one in task.kind.notes() if "the data has no other part" in one]
    assert note.startswith("search, select, report: the test documents")


def test_the_spec_may_choose_the_parts(tasks_folder: Path) -> None:
    chosen = {"search": "training", "select": "test", "report": "validation"}
    task = load(tasks_folder, "letters", filter="strict", documents=chosen)
    allowed = {item.id.split("-")[0]: item.splits for item in task.items}
    assert allowed == {"training": ("search",), "test": ("select",), "validation": ("report",)}


def test_a_document_in_two_tasks_is_not_searched_and_reported(tasks_folder: Path) -> None:
    """Also where the other one frames it otherwise."""
    other = {"search": "test", "select": "test", "report": "test"}
    own = load(tasks_folder, "letters", filter="strict")
    framed = load(tasks_folder, "shots", documents=other)
    config = SplitConfig(search=2, select=2, report=2)
    splits = {
        "one": split_items(own.items, config, seed=0, task="one"),
        "two": split_items(framed.items, config, seed=0, task="two"),
    }
    tasks = {"one": own, "two": framed}
    with pytest.raises(InputError, match="reports on an item that task"):
        check_disjoint(splits, {name: lambda item, task=task: questions_of(task, item) for name, task in tasks.items()})


def test_documents_that_ask_the_same_are_one(tasks_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tasks_folder, tmp_path / "tasks")
    rows = [document("test", n) for n in (0, 1, 1, 2, 3, 4, 0)]
    data = tmp_path / "twice.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = {"data_files": {"train": str(folder / "train.jsonl"), "test": str(data)}}
    write_task(folder, "twice", {**TASKS["shots"], "dataset_kwargs": files}, {"training": "train", "test": "test"})
    task = load(folder, "twice")
    assert [item.id for item in task.items] == ["test-0", "test-1", "test-3", "test-4", "test-5"]
    assert any(note.startswith("2 documents ask what others before them ask") for note in task.kind.notes())


def test_examples_out_of_what_is_reported_are_said(tasks_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tasks_folder, tmp_path / "tasks")
    write_task(folder, "shown", {**TASKS["shots"], "fewshot_split": "test"}, PARTS)
    assert any("examples are drawn from the test documents" in note for note in load(folder, "shown").kind.notes())
    assert not any("examples are drawn" in note for note in load(folder, "shots").kind.notes())


def test_a_document_never_shows_its_own_answer(tasks_folder: Path, tmp_path: Path) -> None:
    """Where examples are of the part that is searched: lm-eval leaves it out only of what it evaluates."""
    folder = shutil.copytree(tasks_folder, tmp_path / "tasks")
    write_task(folder, "shown", {**TASKS["shots"], "num_fewshot": 5, "fewshot_split": "validation"}, PARTS)
    for item in load(folder, "shown").items:
        if item.id.startswith("validation"):
            [request] = load(folder, "shown").requests(item)
            assert request.prompt.text.count(f"{item.fields['q']} =") == 1


def test_golds_score_best(tasks_folder: Path) -> None:
    for settings in ({"task": "quiz", "metric": "acc"}, {"task": "letters", "filter": "last"}, {"task": "shots"}):
        task = load(tasks_folder, **settings)
        values = [gold_answer(task, item) for item in task.items]
        assert all(found is not None and 0 <= found.value <= 1 for found in values)
    options = load(tasks_folder, "quiz", metric="acc")
    assert [gold_answer(options, item).value for item in options.items] == [1.0] * len(options.items)
    assert [options.kind.gold_position(item) for item in options.items] == [
        item.fields["gold"] for item in options.items
    ]


def test_tokens_are_beside_texts_where_the_tokenizer_is_here(tasks_folder: Path, toy_base: Path) -> None:
    plain, here = (load(tasks_folder, "options_norm", host=host, metric="acc") for host in (None, toy_base))
    for item in plain.items:
        pairs = zip(plain.requests(item), here.requests(item), strict=True)
        for text, tokens in pairs:
            assert isinstance(tokens, Loglikelihood)
            assert text == replace(tokens, prompt=replace(tokens.prompt, token_ids=None), token_ids=None)
            assert tokens.prompt.token_ids == tuple(here.kind._loaded._speaks._encode(text.prompt.text))
    [written] = load(tasks_folder, "shots", host=toy_base).requests(here.items[0])
    assert isinstance(written, Generate)
    assert written.stop == ("\n", "e")
    assert written.max_tokens == 12


def test_whether_a_text_is_greedy_is_asked_only_where_a_metric_says(tasks_folder: Path, toy_base: Path) -> None:
    likely, greedy = (load(tasks_folder, "options_norm", metric=metric) for metric in ("acc", "exact_match"))
    item = likely.items[0]
    assert {request.alternatives for request in likely.requests(item)} == {0}
    assert {request.alternatives for request in greedy.requests(item)} == {1}
    unknown = [response(request, logprob=-1.0) for request in greedy.requests(item)]
    assert likely.score(item, unknown).value in (0.0, 1.0)
    with pytest.raises(EngineError, match="does not list the most likely tokens"):
        greedy.score(item, unknown)
    ids = [one.token_ids for one in unknown]
    told = [
        replace(one, alternatives=tuple({token: -1.0} for token in of_one))
        for one, of_one in zip(unknown, ids, strict=True)
    ]
    assert greedy.score(item, told).value == 1.0
    other = [
        replace(one, alternatives=tuple({999: -0.5} for _ in of_one)) for one, of_one in zip(unknown, ids, strict=True)
    ]
    assert greedy.score(item, other).value == 0.0


def test_drawn_texts_have_seeds_of_their_own(tasks_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tasks_folder, tmp_path / "tasks")
    vote = [{"name": "vote", "filter": [{"function": "majority_vote"}, {"function": "take_first"}]}]
    write_task(folder, "drawn", {**TASKS["shots"], "repeats": 3, "filter_list": vote}, PARTS)
    drawn = {"do_sample": True, "temperature": 0.5}
    tasks = [kind(folder, "drawn", gen_kwargs=drawn).with_seed(seed) for seed in (1, 1, 2)]
    first, again, other = (
        [request.seed for item in task.load_items() for request in task.requests(item)] for task in tasks
    )
    assert first == again != other
    assert len(set(first)) == len(first) == 3 * (SIZES["validation"] + SIZES["test"])
    [task] = load_tasks([kind(folder, "drawn", gen_kwargs=drawn)])
    item = task.items[0]
    said = [
        response(request, text=text)
        for request, text in zip(
            task.requests(item), (" 1", f" {item.fields['a']}", f" {item.fields['a']}"), strict=True
        )
    ]
    assert task.score(item, said).text == " 1"
    greedy = load(folder, "drawn")
    assert len(greedy.requests(greedy.items[0])) == 1


def test_an_engine_scores_continuations_in_tokens(toy_base: Path) -> None:
    """And lists the most likely tokens at each place."""
    engine = build_engine(TransformersConfig(kind="transformers", dtype="float32"), toy_base)
    weights = sorted(load_file(toy_base / "model.safetensors").items())
    handle = engine.adopt(Recipe(base="base", sources={"base": "0"}, rules=()), iter(weights))
    ask = Speaker(toy_base, None).likelihood
    tokens = ask("Once upon ", "a time", alternatives=2)
    assert (tokens.prompt.text, tokens.continuation) == ("Once upon", " a time")
    text = replace(tokens, prompt=Prompt(text="Once upon"), token_ids=None)
    one, two = handle.answer([text, tokens])
    assert one == two
    assert [len(found) for found in one.alternatives] == [2] * len(one.token_ids)
    assert all(max(found.values()) >= value for found, value in zip(one.alternatives, one.logprobs, strict=True))


CHANGES: dict[str, tuple[str, str, str]] = {
    "a function": ("utils.py", "aeiou", "aeiouy"),
    "what stands beside the function": ("utils.py", "import random\n", "import random\nOTHER = 1\n"),
    "a key of the YAML": ("own.yaml", "max_gen_toks: 12", "max_gen_toks: 11"),
    "a document": ("test.jsonl", "test 3 +", "test 33 +"),
    "an answer": ("test.jsonl", '"a": "0"', '"a": "9"'),
}


def test_what_changes_a_score_is_part_of_a_runs_identity(tasks_folder: Path, tmp_path: Path) -> None:
    """Where the folder is, is none."""

    def identity(folder: Path) -> tuple[Any, str]:
        task = load(folder, "own", metric="vowels")
        assert isinstance(task.kind, LmEvalTask)
        return task.kind.identity(), task.contents_id

    folder = write_tasks(tmp_path / "one")
    before = identity(folder)
    assert identity(write_tasks(tmp_path / "other")) == before == identity(tasks_folder)
    for name, old, new in CHANGES.values():
        text = (folder / name).read_text()
        assert old in text
        (folder / name).write_text(text.replace(old, new))
        assert identity(folder) != before
        (folder / name).write_text(text)
    assert identity(folder) == before


def test_a_worker_gets_the_task_by_pickle(tasks_folder: Path, toy_base: Path) -> None:
    task = load(tasks_folder, "shots", host=toy_base)
    sent = pickle.dumps(task)
    assert len(sent) < 20_000
    arrived = pickle.loads(sent)
    assert [arrived.requests(item) for item in arrived.items] == [task.requests(item) for item in task.items]


def test_an_unknown_document_is_an_input_error(tasks_folder: Path) -> None:
    task = load(tasks_folder, "shots")
    with pytest.raises(InputError, match="the task has no document `nowhere`"):
        task.requests(Item(id="nowhere", fields={}))


def test_where_no_option_is_right_there_is_nothing_to_calibrate_on(tasks_folder: Path, tmp_path: Path) -> None:
    """Else a loss would take the first option for the right one."""
    folder = shutil.copytree(tasks_folder, tmp_path / "tasks")
    metric = {"metric": "acc", "aggregation": "mean", "higher_is_better": True}
    write_task(
        folder, "open", {**TASKS["chat"], "num_fewshot": 0, "doc_to_target": "none", "metric_list": [metric]}, PARTS
    )
    task = load(folder, "open")
    with pytest.raises(InputError, match="has no correct answers"):
        task.calibration(task.items[0])


def test_what_was_loaded_is_scored_whatever_becomes_of_the_data(tasks_folder: Path, tmp_path: Path) -> None:
    """However many tasks a process has loaded since."""
    folder = write_tasks(tmp_path / "tasks")
    found = load(folder, "shots")
    item = found.items[0]
    right = found.kind.shown(item)
    for split in SIZES:
        data = folder / f"{split}.jsonl"
        rows = [json.loads(line) | {"a": "another"} for line in data.read_text().splitlines()]
        data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    loaded._LOADED.clear()
    assert found.kind.model_copy().shown(item) == found.kind.shown(item) == right
    assert pickle.loads(pickle.dumps(found.kind)).shown(item) == "another"


class Wrote:
    """Writes the right answer to every other question."""

    def __init__(self, task: Task) -> None:
        self._texts = {
            request.prompt: self._text(item, n) for n, item in enumerate(task.items) for request in task.requests(item)
        }

    def _text(self, item: Item, n: int) -> str:
        return f"the answer is {item.fields['a']} of all {n % 2 * 'or not'}"

    def answer(self, requests: Sequence[Request]) -> list[Response]:
        return [response(request, text=self._texts[request.prompt]) for request in requests]


SENTENCE = "the answer is {{a}} of all"


def test_a_corpus_metric_is_of_all_report_items_and_of_no_others(tasks_folder: Path, tmp_path: Path) -> None:
    from lm_eval.api.metrics import bleu

    folder = shutil.copytree(tasks_folder, tmp_path / "tasks")
    write_task(folder, "mine", {**TASKS["corpus"], "doc_to_target": SENTENCE}, PARTS)
    task = load(folder, "mine", metric="exact_match")
    assert any(note.startswith("bleu: of all documents together") for note in task.kind.notes())
    items = tuple(item for item in task.items if item.id.startswith("test"))
    wrote = Wrote(task)
    assert not evaluate_tasks(wrote, [task], {"mine": SearchItems(items)}).tasks["mine"].figures
    first, again = (evaluate_tasks(wrote, [task], {"mine": ReportItems(items)}).tasks["mine"] for _ in range(2))
    assert first == again
    [(name, figure)] = first.figures.items()
    texts = [wrote._texts[task.requests(item)[0].prompt] for item in items]
    assert name == "bleu"
    assert figure.value == bleu(
        [(f"the answer is {item.fields['a']} of all", text) for item, text in zip(items, texts, strict=True)]
    )
    assert figure.num_items == len(items)
    assert figure.low is not None
    assert figure.high is not None
    assert 0 < figure.low < figure.value < figure.high <= 100
    [alone] = evaluate_tasks(wrote, [task], {"mine": ReportItems(items[:1])}).tasks["mine"].figures.values()
    assert (alone.num_items, alone.low, alone.high) == (1, None, None)


def test_a_group_has_a_figure_for_each_task(tasks_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tasks_folder, tmp_path / "tasks")
    for name in ("one", "two"):
        changed = {**TASKS["corpus"], "doc_to_text": f"{name} {{{{q}}}} =", "doc_to_target": SENTENCE}
        write_task(folder, name, changed, PARTS)
    (folder / "both.yaml").write_text("group: both\ntask: [one, two]\n")
    task = load(folder, "both", metric="exact_match")
    found = evaluate_tasks(Wrote(task), [task], {"mine": ReportItems(task.items)}).tasks["mine"].figures
    assert set(found) == {"one: bleu", "two: bleu"}
    assert {figure.num_items for figure in found.values()} == {len(task.items) // 2}


def test_an_aggregation_that_fails_takes_nothing_else_with_it(tasks_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tasks_folder, tmp_path / "tasks")
    (folder / "fails.py").write_text("def together(entries):\n    raise OSError('no disk')\n")
    metrics = [{"metric": "bleu", "aggregation": "!function fails.together", "higher_is_better": True}]
    write_task(
        folder, "mine", {**TASKS["corpus"], "metric_list": [*metrics, *TASKS["corpus"]["metric_list"][1:]]}, PARTS
    )
    task = load(folder, "mine", metric="exact_match")
    [figure] = evaluate_tasks(Wrote(task), [task], {"mine": ReportItems(task.items)}).tasks["mine"].figures.values()
    assert figure.to_json() == {"mean": None, "low": None, "high": None, "n": 12, "error": "OSError: no disk"}


def test_targets_are_rendered_once(tasks_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = load(tasks_folder, "shots")
    items = {"mine": SearchItems(task.items)}
    before = evaluate_tasks(Wrote(task), [task], items)
    monkeypatch.setattr("lm_eval.utils.apply_template", lambda *_: pytest.fail("rendered again"))
    assert evaluate_tasks(Wrote(task), [task], items) == before
