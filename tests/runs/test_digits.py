"""The digits problem: what its networks are, and that killed searches with grouped commits end where others do."""

import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from forked import IMPORTED_BY_RUNS
from toy_runs import journal_of, records_of

from crossbreed.errors import InputError
from crossbreed.optimizer import M2n2Options
from crossbreed.runs.search.pool import Job
from crossbreed.testing import digits
from crossbreed.types import Score

OPTIONS = M2n2Options(archive=20, mutation=0.01)
NUM_TRIALS = 400


def search(out: Path, trials: int = NUM_TRIALS) -> digits.Bred:
    return digits.breed(out, digits.random_networks(1), OPTIONS, trials=trials, seed=1)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("digits") / "run"
    search(out)
    return out


def test_the_networks_are_the_papers() -> None:
    assert digits.NUM_WEIGHTS == 19_210
    assert {split: len(part.ids) for split, part in digits.pictures().items()} == {
        "search": 1437,
        "select": 0,
        "report": 360,
    }
    first, second = digits.random_networks(1)
    assert first.std() == pytest.approx(0.01, rel=0.05)
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.05


def test_a_network_that_fails_last_needs_no_genome_that_was_freed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate = digits.Classifier.evaluate

    def at(self: digits.Classifier, job: Job) -> Score:
        if job.split == "search" and job.number == 29:
            raise OSError(5, "Input/output error")
        return evaluate(self, job)

    monkeypatch.setattr(digits.Classifier, "evaluate", at)
    search(tmp_path / "run", trials=30)  # one more is asked in its place
    told = {r["number"]: r["status"] for r in records_of(tmp_path / "run") if r.get("split") == "search"}
    assert [number for number, status in told.items() if status == "FAILED"] == [29]


def test_the_gradient_is_that_of_finite_differences() -> None:
    shown, network = digits.pictures()["search"], 5 * digits.random_networks(2)[0]
    pixels, labels = shown.pixels_BP[:40].astype(np.float64), shown.labels_B[:40]
    gradient = digits._gradient(network, pixels, labels)

    def loss(weights: np.ndarray) -> float:
        w, v = digits.layers(weights)
        logits = np.maximum(pixels @ w, 0) @ v[:-1] + v[-1]
        return float(np.mean(np.log(np.exp(logits).sum(1)) - logits[np.arange(40), labels]))

    rng = np.random.default_rng(0)
    for _ in range(5):
        direction = rng.standard_normal(len(network))
        slope = (loss(network + 1e-6 * direction) - loss(network - 1e-6 * direction)) / 2e-6
        assert gradient @ direction == pytest.approx(slope, rel=1e-4)


def test_ten_steps_teach_each_half_of_the_digits_and_nothing_of_the_other() -> None:
    shown = digits.pictures()["search"]
    for network, known in zip(digits.trained_networks(1), (shown.labels_B < 5, shown.labels_B >= 5), strict=True):
        score = digits.Classifier().evaluate(Job(number=0, split="search", recipe=None, genome=network))
        right = np.array(score.tasks["digits"].values)
        assert right[known].mean() > 0.6
        assert right[~known].mean() < 0.02


def test_a_broken_network_is_invalid() -> None:
    network = np.full(digits.NUM_WEIGHTS, np.nan)
    score = digits.Classifier().evaluate(Job(number=0, split="search", recipe=None, genome=network))
    assert score.status == "INVALID"


def test_a_journal_holds_births_and_no_weights(whole: Path) -> None:
    asks = [record for record in records_of(whole) if record["kind"] == "ask"]
    assert len(asks) == NUM_TRIALS
    assert all(record["recipe"] is None and record["point"] is None for record in asks)
    assert [record["birth"] for record in asks[:2]] == [{"seed": i, "scale": 1.0} for i in range(2)]
    assert all(len(record["parents"]) == 2 and record["birth"]["noise"] == 0.01 for record in asks[2:])
    assert (whole / "journal.jsonl").stat().st_size < NUM_TRIALS * 2500


def test_kills_change_nothing_though_commits_are_grouped(whole: Path, tmp_path: Path) -> None:
    rng, out = random.Random(5), tmp_path / "killed"
    size, context = (whole / "journal.jsonl").stat().st_size, multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*IMPORTED_BY_RUNS, "test_digits"])
    for moment in sorted(rng.randrange(size) for _ in range(6)):
        process = context.Process(target=search, args=(out,))
        process.start()
        journal = out / "journal.jsonl"
        while process.is_alive() and (not journal.exists() or journal.stat().st_size < moment):
            time.sleep(0.001)
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    search(out)
    assert journal_of(out) == journal_of(whole)


@pytest.mark.parametrize("seed", range(3))
def test_a_journal_that_lost_its_last_group_grows_back(whole: Path, tmp_path: Path, seed: int) -> None:
    content = (whole / "journal.jsonl").read_bytes()
    (tmp_path / "journal.jsonl").write_bytes(content[: random.Random(seed).randrange(len(content))])
    search(tmp_path)
    assert journal_of(tmp_path) == journal_of(whole)


def test_a_larger_budget_goes_on(whole: Path, tmp_path: Path) -> None:
    search(tmp_path, trials=150)
    found = search(tmp_path)
    assert found.evaluations == NUM_TRIALS
    searched = [r for r in journal_of(tmp_path) if r.get("split") == "search"]
    assert searched == [r for r in journal_of(whole) if r.get("split") == "search"]


def test_a_finished_run_gives_its_result_and_evaluates_nothing(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = search(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(digits.Classifier, "evaluate", lambda self, job: pytest.fail(f"{job.number} is evaluated"))
        assert search(tmp_path) == first
    assert journal_of(tmp_path) == journal_of(whole)


@pytest.mark.parametrize("lacking", ["end", "report"])
def test_a_run_that_was_stopped_between_its_search_and_its_end_is_completed(
    lacking: str, whole: Path, tmp_path: Path
) -> None:
    lines = (whole / "journal.jsonl").read_text().splitlines(keepends=True)
    assert '"kind":"end"' in lines[-1]
    assert '"split":"report"' in lines[-2]
    (tmp_path / "journal.jsonl").write_text("".join(lines[: {"end": -1, "report": -2}[lacking]]))
    search(tmp_path)
    assert journal_of(tmp_path) == journal_of(whole)


def test_a_search_does_not_go_on_from_other_networks(whole: Path, tmp_path: Path) -> None:
    (tmp_path / "journal.jsonl").write_bytes((whole / "journal.jsonl").read_bytes())
    with pytest.raises(InputError, match=r"sources\.network 0"):
        digits.breed(tmp_path, digits.random_networks(2), OPTIONS, trials=NUM_TRIALS, seed=1)


def test_breeding_is_better_than_what_it_began_with(whole: Path) -> None:
    told = [r for r in records_of(whole) if r["kind"] == "tell" and r["split"] == "search"]
    accuracies = [record["objectives"][0] for record in told]
    assert max(accuracies[:2]) < 0.2
    assert max(accuracies) > max(accuracies[:2]) + 0.1
