"""Whole runs whose answers a judge scores: asked once, killed and gone on with, shown, reported, and refused."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from forked import IMPORTED_BY_RUNS
from in_process import exit_code_of
from judge_server import JudgeServer, completion, judging, refused
from judge_specs import setting, task_of, write_spec

from crossbreed.errors import InputError, ServiceOutage
from crossbreed.fitness import load_tasks
from crossbreed.runs import load_spec, run
from crossbreed.runs.evaluate import evaluate
from crossbreed.runs.record.journal import read
from crossbreed.runs.record.records import TellRecord, without_clock
from crossbreed.runs.spec.provider import load_provider_spec
from crossbreed.service.provider import open_provider
from crossbreed.types import Status, canonical_json

MAX_LINES = 24


def journal_of(out: Path) -> list[dict[str, Any]]:
    return [without_clock(record) for record in read(out / "journal.jsonl")]


def tells_of(out: Path) -> list[TellRecord]:
    return [record for record in read(out / "journal.jsonl") if isinstance(record, TellRecord)]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, JudgeServer]:
    """A run to its end: one item gets no verdict where the answer is wrong, and repeats differ on another."""
    folder = tmp_path_factory.mktemp("judged")
    with judging(fault=capricious) as server:
        spec = write_spec(folder, server.url, repeats=2, most_abstentions=0.5)
        run(load_spec(spec), folder / "run")
    return spec, folder / "run", server


def capricious(body: dict[str, Any], _: int) -> str | None:
    text = body["messages"][-1]["content"]
    if "Answer: ?" in text and "red 3\n" in text:
        return "Who knows?"
    if "Answer: ?" in text and "red 4\n" in text:
        return "no" if body["seed"] else "yes"
    return None


def test_each_question_is_asked_once(finished: tuple[Path, Path, JudgeServer]) -> None:
    server = finished[2]
    assert len(server.asked) == server.num_different > 20


def test_right_answers_score_as_by_an_exact_match(finished: tuple[Path, Path, JudgeServer], tmp_path: Path) -> None:
    exact = write_spec(tmp_path, "", metric="exact_match")
    run(load_spec(exact), tmp_path / "run")
    pairs = list(zip(tells_of(finished[1]), tells_of(tmp_path / "run"), strict=True))
    abstained = 0
    for judged, plain in pairs:
        without = judged.judged["red"].abstained
        abstained += len(without)
        kept = [i for i in range(len(plain.tasks["red"])) if i not in without]
        assert [judged.tasks["red"][i] for i in kept] == [plain.tasks["red"][i] for i in kept]
        mean = sum(plain.tasks["red"][i] for i in kept) / len(kept)
        assert all(judged.tasks["red"][i] == pytest.approx(mean) for i in without)
    assert abstained > 0


def test_a_run_that_goes_on_asks_nothing_again_wherever_the_judge_is(
    finished: tuple[Path, Path, JudgeServer], tmp_path: Path
) -> None:
    """Half of the journal is gone, and the judge has moved: what it said is in the folder."""
    spec, out, _ = finished
    before = journal_of(out)
    lines = (out / "journal.jsonl").read_bytes().splitlines(keepends=True)
    gone_on = tmp_path / "run"
    gone_on.mkdir()
    for path in (*out.glob("*.yaml"), *out.glob("requests/*")):
        copy = gone_on / path.relative_to(out)
        copy.parent.mkdir(exist_ok=True)
        copy.write_bytes(path.read_bytes())
    (gone_on / "journal.jsonl").write_bytes(b"".join(lines[: len(lines) // 2]) + lines[-1][:30])
    with judging() as moved:
        raw = yaml.safe_load(spec.read_text())
        raw["fitness"]["tasks"][0]["metric"]["judge"]["url"] = moved.url
        spec.with_name("moved.yaml").write_text(yaml.safe_dump(raw, sort_keys=False))
        run(load_spec(spec.with_name("moved.yaml")), gone_on)
        assert moved.asked == []
    assert journal_of(gone_on) == before


def test_show_and_report_say_what_the_judge_did_not(
    finished: tuple[Path, Path, JudgeServer], capsys: pytest.CaptureFixture[str]
) -> None:
    _, out, _ = finished
    assert exit_code_of("show", out) == 0
    [line] = [one for one in capsys.readouterr().out.splitlines() if one.startswith("judge: ")]
    assert "answers in red (items i" in line
    assert "repeats agreed on" in line
    assert exit_code_of("show", out, "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    base = shown["trials"][0]["judged"]["red"]
    assert base["abstentions"] == len(base["abstained"]) > 0
    assert base["n"] == 8
    assert 0 < base["agreement"] < 1
    assert exit_code_of("show", out, "--trial", 0) == 0
    assert "judge: no verdict on" in capsys.readouterr().out
    assert exit_code_of("report", out) == 0
    assert "Judge, of the baselines:" in " ".join(capsys.readouterr().out.split())
    report = json.loads((out / "report.json").read_text())
    assert report["judged"]["red"]["n"] == 8
    assert report["judged_baselines"]["red"]["abstentions"] >= 0


def test_a_recipe_is_evaluated_by_the_same_judge(finished: tuple[Path, Path, JudgeServer]) -> None:
    spec, out, _ = finished
    with judging(fault=capricious) as server:
        raw = yaml.safe_load(spec.read_text())
        raw["fitness"]["tasks"][0]["metric"]["judge"]["url"] = server.url
        loaded = spec.with_name("again.yaml")
        loaded.write_text(yaml.safe_dump(raw, sort_keys=False))
        winner = run(load_spec(loaded), out).winner
        found = evaluate(winner.recipe, load_spec(loaded), split="report")
        assert found.tasks["red"].mean == pytest.approx(winner.tasks["red"].mean)
        assert found.to_json()["judged"] == json.loads((out / "report.json").read_text())["judged"]


def test_too_many_abstentions_fail_a_trial_and_no_other(tmp_path: Path) -> None:
    def fault(body: dict[str, Any], _: int) -> str | None:
        return None if "Answer: ?" in body["messages"][-1]["content"] else "Hm."

    with judging(fault=fault) as server:
        run(load_spec(write_spec(tmp_path, server.url, most_abstentions=0.5)), tmp_path / "run")
    tells = tells_of(tmp_path / "run")
    failed = [tell for tell in tells if tell.status is Status.FAILED]
    assert 0 < len(failed) < len(tells)
    assert all("no verdict on" in (tell.clock.error or "") and not tell.tasks for tell in failed)
    measured = [tell for tell in tells if tell.status is Status.OK]
    assert all(set(tell.tasks["red"]) == {0.0} for tell in measured), "the mean of those with a verdict"


def test_an_outage_ends_the_run_and_it_goes_on(tmp_path: Path) -> None:
    with judging(fault=lambda _, number: refused(503, "closed") if number > 12 else None) as server:
        spec = write_spec(tmp_path, server.url, patience=0.2, concurrency=1)
        with pytest.raises(ServiceOutage):
            run(load_spec(spec), tmp_path / "run")
        num_asked, server.fault = len(server.asked), None
        spec.write_text(spec.read_text().replace("patience: 0.2", "patience: 60"))  # as the message advises
        run(load_spec(spec), tmp_path / "run")
        assert num_asked > 12
        answered = [body for i, body in enumerate(server.asked) if i < 12 or i >= num_asked]
        assert len(answered) == server.num_different, "what was answered before is not asked again"
    assert all(tell.status is Status.OK for tell in tells_of(tmp_path / "run"))


@pytest.mark.engine
@pytest.mark.slow
def test_workers_share_what_the_judge_said(tmp_path: Path) -> None:
    """Two Ray workers; but for what both asked at the same time, each question is asked once."""
    with judging(fault=capricious) as server:
        spec = write_spec(tmp_path, server.url, repeats=2, most_abstentions=0.5)
        alone = tmp_path / "alone"
        run(load_spec(spec), alone)
        num_different, server.asked = server.num_different, []
        ray = ("workers.executor=ray", "workers.count=2", "workers.cpus=1")
        run(load_spec(spec, ray), tmp_path / "run")
        assert server.num_different == num_different
        assert len(server.asked) < 1.5 * num_different
    assert sorted(map(canonical_json, journal_of(tmp_path / "run"))) == sorted(map(canonical_json, journal_of(alone)))


@pytest.mark.slow
def test_a_client_without_torch_is_enough(tmp_path: Path) -> None:
    with judging() as server:
        spec = write_spec(tmp_path, server.url)
        code = (
            "import sys\n"
            "for name in ('torch', 'transformers', 'safetensors', 'vllm', 'ray'): sys.modules[name] = None\n"
            "from crossbreed.cli import main\nmain()"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, "run", spec, "--out", tmp_path / "run"], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert server.asked
    assert all(tell.status is Status.OK for tell in tells_of(tmp_path / "run"))


def drive(spec: Path, out: Path) -> None:
    run(load_spec(spec), out)


@pytest.mark.slow
def test_a_run_that_is_killed_asks_again_only_what_was_under_way(tmp_path: Path) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(IMPORTED_BY_RUNS)
    with judging(fault=lambda *_: 0.01) as server:
        spec = write_spec(tmp_path, server.url, concurrency=2)
        process = context.Process(target=drive, args=(spec, tmp_path / "run"))
        process.start()
        while len(server.asked) < 15:
            time.sleep(0.001)
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        run(load_spec(spec), tmp_path / "run")
        assert len(server.asked) - server.num_different <= 2
        run(load_spec(spec), tmp_path / "whole")
    assert journal_of(tmp_path / "run") == journal_of(tmp_path / "whole")


def test_check_shows_a_prompt_of_the_judge_and_its_calls_and_asks_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with judging() as server:
        spec = write_spec(tmp_path, server.url, repeats=3)
        assert exit_code_of("check", spec) == 0
        said = capsys.readouterr().out
        assert server.asked == []
        trials = 8 + 3
        assert (
            f"judge   24 requests a trial, {24 * trials + 12 * 8 + 24 * 6:,} in all with selection and report" in said
        )
        assert "the judge is asked, of the gold:" in said
        assert "| Right answer: 0" in said or "| Answer: " in said
        assert exit_code_of("check", spec, "--answer", "--json") == 0
        found = json.loads(capsys.readouterr().out)
        assert len(server.asked) == 3
    [task] = found["tasks"]
    assert task["example"]["score"] in (0, 1)
    gold = task["example"]["gold"]
    assert task["example"]["judge_prompts"] == [
        f"Question: {task['example']['prompt'].split('|')[1]}\nRight answer: {gold}\nAnswer: {gold}\n"
        "Is the answer right? Say yes or no."
    ]
    assert found["cost"]["judge_calls"]["search"] == 24


def test_a_task_given_from_python_is_judged_too(tmp_path: Path) -> None:
    with judging() as server:
        spec = load_spec(write_spec(tmp_path, server.url, metric="exact_match"))
        given = task_of(tmp_path, {"judge": setting(server.url)}, number=20, prompt="red|{q}|{a}", max_tokens=4)
        run(spec, tmp_path / "run", tasks=load_tasks([given]))
        assert len(server.asked) == server.num_different > 20
    assert all(tell.status is Status.OK for tell in tells_of(tmp_path / "run"))


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "a prompt that shows no answer": ({"prompt": "Is {q} right?"}, "does not show what is judged: write {response}"),
    "a field that no item has": ({"prompt": "{quest} {response}"}, "no field `quest`"),
    "a brace that is none": ({"prompt": 'As {"a": 1}: {response}'}, "double a literal brace"),
    "no model": ({"model": ""}, "`model` of the metric `judge`"),
    "no address": ({"url": "localhost:8000/v1"}, "`url` is no address"),
    "a password in the address": ({"url": "http://me:pw@a.test"}, "use `key_env`"),
    "a key that is not there": ({"key_env": "NOBODY_HAS_IT"}, "export NOBODY_HAS_IT=..."),
    "a key in the file": ({"key": "sk-1"}, "key"),
    "a scale upside down": ({"scale": [10, 1]}, "`scale` is the lowest and the highest mark"),
    "a scale of one mark": ({"scale": [10]}, "`scale.1` of the metric `judge`"),
    "a pattern without a group": ({"pattern": "yes"}, "has no group"),
    "two places for a verdict": ({"pattern": "(yes)", "json_key": "ok"}, "remove one"),
    "no repeats": ({"repeats": 0}, "`repeats` of the metric `judge`"),
    "all may abstain": ({"most_abstentions": 1}, "`most_abstentions"),
    "an option that is fixed": ({"options": {"temperature": 1}}, "`options` cannot set temperature"),
    "a misspelt key": ({"repeat": 2}, "did you mean `repeats`?"),
    "yes and no together": ({"tolerance": 1, "repeats": 2}, "lower it"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_wrong_with_a_judge(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings, said = BAD[case]
    spec = write_spec(tmp_path, "", metric={"judge": {**setting("http://a.test"), **settings}})
    assert exit_code_of("check", spec) == 2
    err = capsys.readouterr().err
    assert said in err
    assert "Traceback" not in err
    assert len(err.splitlines()) <= MAX_LINES


def test_an_item_s_own_response_is_not_mistaken_for_the_model_s(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = write_spec(tmp_path, "http://a.test")
    items = [json.loads(line) | {"response": "x"} for line in (tmp_path / "red.jsonl").read_text().splitlines()]
    (tmp_path / "red.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    assert exit_code_of("check", spec) == 2
    assert "is the text that is judged" in capsys.readouterr().err


def test_a_judge_of_votes_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = write_spec(tmp_path, "http://a.test")
    raw = yaml.safe_load(spec.read_text())
    raw["fitness"]["tasks"][0] |= {"samples": 3, "temperature": 1.0, "take": "majority"}
    spec.write_text(yaml.safe_dump(raw))
    assert exit_code_of("check", spec) == 2
    assert "`take: majority` counts answers that say the same" in capsys.readouterr().err


def test_a_wrong_key_is_the_user_s_and_stands_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("JUDGE_KEY", "sk-secret-1")
    with judging(key="sk-another") as server:
        spec = write_spec(tmp_path, server.url, key_env="JUDGE_KEY")
        assert exit_code_of("run", spec, "--out", tmp_path / "run") == 2
        assert server.asked == []
    err = capsys.readouterr().err
    assert "export JUDGE_KEY=..." in err
    assert "sk-secret" not in err
    for path in (tmp_path / "run").rglob("*"):
        assert path.is_dir() or b"sk-secret" not in path.read_bytes()


def test_a_judge_is_not_served(tmp_path: Path) -> None:
    spec = write_spec(tmp_path, "http://a.test")
    raw = yaml.safe_load(spec.read_text()) | {"serve": {"port": 8000}}
    spec.write_text(yaml.safe_dump(raw))
    with pytest.raises(InputError, match="task `red` asks a judge, whose abstentions a service cannot tell"):
        open_provider(load_provider_spec(spec))


def test_a_first_answer_without_a_verdict_is_told_by_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with judging(fault=lambda *_: completion("Well ...")) as server:
        assert exit_code_of("check", write_spec(tmp_path, server.url), "--answer") == 1
    assert "no verdict in 'Well ...'" in capsys.readouterr().err
