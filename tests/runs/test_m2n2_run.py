"""M2N2 over lineages: whole runs on toy models, cut anywhere and gone on with."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
from toy_runs import SKILLS, journal_of, records_of, write_spec

from crossbreed.errors import InputError
from crossbreed.optimizer import M2n2
from crossbreed.runs import Event, build_plan, dump_spec, load_spec, parse_spec, report_on, run
from crossbreed.runs.results.show import open_run, show_json
from crossbreed.runs.results.winner import tuned_scalar_trial
from crossbreed.runs.spec.objectives import item_values
from crossbreed.types import Cross, ItemScores, Outcome, Seed, Status

M2N2 = {"kind": "m2n2", "budget": {"trials": 24}, "options": {"archive": 6, "mutation": 0.02}}


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory, toy_base: Path, toy_adapters: dict[str, Path]) -> Path:
    return write_spec(
        tmp_path_factory.mktemp("spec"),
        base=toy_base,
        experts=toy_adapters,
        space={"kind": "lineage", "chromosomes": ["attention", "mlp"]},
        optimizer=M2N2,
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, spec: Path) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    run(load_spec(spec), out)
    return out


def test_seeds_of_the_best_tuned_scale_then_children_of_measured_parents(finished: Path) -> None:
    shown = open_run(finished)
    best = tuned_scalar_trial(shown.history.ok_trials, shown.objectives)
    assert best is not None
    scale = best.candidate.proposed_by.global_scalar
    bred = [trial.candidate for trial in shown.trials if str(trial.candidate.proposed_by) == "m2n2"]
    assert [candidate.birth for candidate in bred[:2]] == [Seed(index=i, scale=scale) for i in range(2)]
    assert len(bred) == 24
    for candidate in bred[2:]:
        assert isinstance(candidate.birth, Cross)
        assert all(bred[0].number <= parent < candidate.number for parent in candidate.parents)
        assert len(candidate.birth.splits) == 2 + 1
        assert candidate.birth.noise == 0.02


def test_a_search_that_ends_early_says_so(spec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where too few seeds can be measured for a child."""
    monkeypatch.setattr(M2n2, "ask", lambda self, number: None)
    events: list[Event] = []
    run(load_spec(spec), tmp_path / "run", on_event=events.append)
    assert any("the search ends before its budget" in str(event) for event in events)
    assert show_json(tmp_path / "run")["state"] == "finished"
    kinds = [record["kind"] for record in records_of(tmp_path / "run")]
    assert kinds.count("end") == 1
    _, report = report_on(tmp_path / "run", trial=1)
    assert report.is_over
    assert show_json(tmp_path / "run")["state"] == "finished"


def test_a_journal_holds_the_recipe_of_every_child_and_all_it_takes_to_bear_it_again(
    finished: Path, spec: Path
) -> None:
    plan = build_plan(load_spec(spec))
    decoder = plan.space.decoder(seed=plan.spec.seed)
    born = [candidate for candidate in open_run(finished).history.candidates.values() if candidate.birth is not None]
    assert len(born) == 24
    for candidate in born:
        assert decoder.create(candidate.number, candidate.birth) == candidate.recipe


def test_a_cut_journal_grows_back(finished: Path, spec: Path, tmp_path: Path) -> None:
    content, rng = (finished / "journal.jsonl").read_bytes(), random.Random(3)
    for cut in sorted(rng.randrange(len(content)) for _ in range(4)):
        out = tmp_path / f"{cut}"
        out.mkdir()
        (out / "journal.jsonl").write_bytes(content[:cut])
        run(load_spec(spec), out)
        assert journal_of(out) == journal_of(finished)


def test_a_larger_budget_goes_on_with_the_archive(spec: Path, finished: Path, tmp_path: Path) -> None:
    run(load_spec(spec, ["optimizer.budget.trials=9"]), tmp_path / "run")
    run(load_spec(spec), tmp_path / "run")

    def searched(out: Path) -> list[object]:
        return [r for r in journal_of(out) if r["kind"] == "ask" or r.get("split") == "search"]

    assert searched(tmp_path / "run") == searched(finished)


def test_a_changed_journal_is_refused(finished: Path, spec: Path, tmp_path: Path) -> None:
    lines = (finished / "journal.jsonl").read_text().splitlines(keepends=True)
    place = next(i for i, line in enumerate(lines) if '"splits"' in line)
    record = json.loads(lines[place])
    record["birth"]["weights"][0] /= 2
    lines[place] = json.dumps(record) + "\n"
    (tmp_path / "journal.jsonl").write_text("".join(lines))
    with pytest.raises(InputError, match="its checksum is wrong"):
        run(load_spec(spec), tmp_path)


def test_less_is_better_too(tmp_path: Path, toy_base: Path, toy_adapters: dict[str, Path]) -> None:
    """With a real model's perplexities: negative items, shifted by the archive's worst."""
    tasks = [{"name": skill, "kind": "perplexity", "items": f"{skill}.jsonl", "text": "q"} for skill in SKILLS]
    spec = write_spec(
        tmp_path / "spec",
        base=toy_base,
        experts=toy_adapters,
        space={"kind": "lineage"},
        optimizer={**M2N2, "budget": {"trials": 6}, "options": {"archive": 3}},
        fitness__engine={"kind": "transformers", "dtype": "bfloat16"},
        fitness__tasks=tasks,
        fitness__split={"search": 4, "select": 4, "report": 4},
    )
    run(load_spec(spec), tmp_path / "run")
    trials = open_run(tmp_path / "run").trials
    assert sum(isinstance(trial.candidate.birth, Cross) for trial in trials) == 4
    assert len({trial.score.fingerprint for trial in trials[-4:]}) == 4
    assert np.isfinite([trial.objectives for trial in trials]).all()


@pytest.mark.parametrize("alpha", [0.0, 2.0])
def test_weights_of_tasks_are_those_of_the_objective_whatever_alpha(spec: Path, alpha: float) -> None:
    """Two specialists, each right in all of one task: parents are drawn as the objective values them, 3 to 1."""
    objectives = f"fitness.objectives=[{{mean: {list(SKILLS)}, weights: [3, 1]}}]"
    plan = build_plan(load_spec(spec, [objectives, f"optimizer.options.alpha={alpha}"]))
    optimizer = plan.stages[0].make_optimizer(plan.space, None, None)
    num_items = [len(plan.item_ids["search"][skill]) for skill in SKILLS]
    for number in range(2):
        optimizer.ask(number)
        values = {skill: (float(place == number),) * num_items[place] for place, skill in enumerate(SKILLS)}
        scores = {skill: ItemScores(item_ids=own, values=own) for skill, own in values.items()}
        items = item_values(plan.objectives, scores)
        optimizer.tell(Outcome(number=number, status=Status.OK, values=(0.5,), items=items))
    initial_candidates = [optimizer.ask(number).parents[0] for number in range(2, 2002)]
    assert np.mean(initial_candidates) == pytest.approx(0.25, abs=0.04)


def test_optimizer_and_space_must_be_of_one_kind(spec: Path, tmp_path: Path) -> None:
    for override, optimizer, space in (
        ("optimizer={kind: cma_es, budget: {trials: 3}}", "m2n2", "coefficients"),
        ("space={operator: task_arithmetic}", "cma_es", "lineage"),
    ):
        with pytest.raises(InputError, match="does not search this kind of space") as caught:
            run(load_spec(spec, [override]), tmp_path / "run")
        assert optimizer in caught.value.expected
        assert f"another space, such as `{space}`" in caught.value.fix


def test_a_spec_of_lineage_comes_back_whole_and_its_mistakes_are_named(spec: Path, tmp_path: Path) -> None:
    import yaml

    loaded = load_spec(spec)
    assert parse_spec(yaml.safe_load(dump_spec(loaded)), folder=tmp_path) == loaded
    for override, message in (
        ("space.chromosome=[mlp]", "did you mean `chromosomes`?"),
        ("space.kind=linage", "did you mean `lineage`?"),
        ("optimizer.options.alpha=-1", "`optimizer.options.alpha` is wrong"),
        ("space=3", "the space is not a mapping"),
    ):
        with pytest.raises(InputError) as caught:
            load_spec(spec, [override])
        assert message in str(caught.value)
