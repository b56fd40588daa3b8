"""Runs whose tasks draw something of each item: orders of options, samples, thoughts that are cut."""

import json
from pathlib import Path
from typing import Any

import pytest
from toy_runs import journal_of, write_spec

from crossbreed.errors import InputError
from crossbreed.runs import check_spec, load_spec, run
from crossbreed.runs.results.report_text import sentences

WORDS = ("right", "wrong", "worse")
OPTIONS = [
    {"q": f"Which is {n}?", "options": [f"{word} {n}" for word in WORDS], "a": f"{WORDS[n % 10 == 0]} {n}"}
    for n in range(60)
]
QUIZ = {
    "name": "quiz",
    "kind": "choice",
    "prompt": "red|{q}|{options[0]} {options[1]} {options[2]}",
    "choices": "options",
    "answer": "a",
    "items": "quiz.jsonl",
}
SAMPLED = {
    "name": "sampled",
    "kind": "generate",
    "prompt": "red|{q}|well: {a}",
    "answer": "a",
    "items": "red.jsonl",
    "thinking": "^well:",
    "samples": 3,
    "temperature": 0.7,
    "take": "pass@2",
    "max_tokens": 16,
}


@pytest.fixture
def spec_with(tmp_path: Path, toy_base: Path, toy_adapters: dict[str, Path]) -> Any:
    def write(*tasks: dict[str, Any], **changes: Any) -> Path:
        path = write_spec(
            tmp_path / "spec",
            base=toy_base,
            experts=toy_adapters,
            trials=2,
            fitness__tasks=list(tasks),
            fitness__objectives=[],
            **changes,
        )
        (path.parent / "quiz.jsonl").write_text("".join(json.dumps(item) + "\n" for item in OPTIONS))
        return path

    return write


def test_a_run_tells_what_is_right_unread_and_how_long_thoughts_are(spec_with: Any, tmp_path: Path) -> None:
    """And another run of the same spec is the same."""
    path = spec_with(QUIZ | {"permute": True}, SAMPLED)
    report = run(load_spec(path), tmp_path / "run")
    rate = report.base_rates["quiz"]
    assert rate.chance == pytest.approx(1 / 3)
    assert rate.chance < rate.constant < 0.7
    assert 0 < report.thinking["sampled"] < 3 * len("well: ")  # where the fake engine knows the answer
    told = " ".join(sentences(report))
    assert f"of quiz by always taking option {rate.place}, 33% by chance" in told
    assert "Tokens of thinking in an answer of the winner, on average: " in told
    written = json.loads((tmp_path / "run/report.json").read_text())
    assert written["base_rates"]["quiz"]["constant"] == rate.constant
    run(load_spec(path), tmp_path / "again")
    assert journal_of(tmp_path / "run") == journal_of(tmp_path / "again")
    with pytest.raises(InputError, match=r"started with another spec(?s:.*)tasks\[0\]\.permute: True -> False"):
        run(load_spec(spec_with(QUIZ, SAMPLED)), tmp_path / "run")


def test_golds_at_one_place_are_said_and_permuting_mends_it(spec_with: Any) -> None:
    """The advice of the note works."""
    [task] = check_spec(load_spec(spec_with(QUIZ))).tasks
    [note] = task.notes
    assert note == (
        "90% of the golds are option A, where 33% would be chance: a model that prefers this place is right as often; "
        "`permute: true` in the task offers the options of each item in an order of its own"
    )
    [task] = check_spec(load_spec(spec_with(QUIZ | {"permute": True}))).tasks
    assert not task.notes
    assert set(task.positions) == {"A", "B", "C"}
