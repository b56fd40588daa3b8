"""The page's data: a fold over the run folder, whole or what is new, and the file that a report is."""

import json
import re
import shutil
from base64 import b64encode
from dataclasses import replace
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from made_runs import HOSTILE, HOSTILE_NAME, SKILLS, rest, stopped

import crossbreed.runs.page
from crossbreed.errors import InputError
from crossbreed.runs.page.data import Summary, _public, answers_data, frozen_data, live_data, trial_data
from crossbreed.runs.page.html import page_html
from crossbreed.runs.record.followed import FollowedRun
from crossbreed.runs.record.journal import Journal, read
from crossbreed.runs.record.records import TellRecord
from crossbreed.runs.results.answers import Questions, questions_in
from crossbreed.runs.results.show import Run, open_run, show_trial
from crossbreed.types import Status

GOLDEN = Path(__file__).parents[1] / "golden/runs/v0.1.0"
SOURCES = GOLDEN.parent / "sources"
CODE = Path(crossbreed.runs.page.__file__).parent


def frozen(run: Path) -> dict[str, Any]:
    """What report.html has embedded."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', (run / "report.html").read_text())
    assert found
    return json.loads(found.group(1))


def live_of(run: Run, **known: Any) -> dict[str, Any]:
    return live_data(run, Summary.of(run), **known)


class Structure(HTMLParser):
    """Every element that is opened is closed, in order; what stands in which."""

    VOID = ("meta", "link", "br")

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        assert not {name for name, _ in attrs if name.startswith("on") or name in ("src", "style")}
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_a_report_is_one_file_that_loads_nothing_and_that_no_text_can_break(hostile: Path) -> None:
    html = (hostile / "report.html").read_text()
    assert HOSTILE not in html
    assert "<img" not in html
    seen = Structure(html).seen
    assert seen.count("script") == 2
    assert re.findall(r'href="([^"]*)"', html) == ["data:,", "#lead"]
    data = frozen(hostile)
    assert data["name"] == HOSTILE_NAME
    assert any(HOSTILE.startswith(answer) for row in data["answers"]["rows"] for answer in row["answers"] if answer)


def test_only_our_code_and_style_may_run(hostile: Path) -> None:
    html = (hostile / "report.html").read_text()
    [policy] = re.findall(r'Content-Security-Policy" content="([^"]*)"', html)
    assert policy.startswith("default-src &#x27;none&#x27;;")
    assert "unsafe" not in policy
    assert "connect-src" not in policy
    for element in ("style", 'script type="module"'):
        text = html.partition(f"<{element}>")[2].partition(f"</{element.split()[0]}>")[0]
        assert b64encode(sha256(text.encode()).digest()).decode() in policy


MARKUP = re.compile(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|https?://(?!www\.w3\.org/2000/svg)")


@pytest.mark.parametrize("name", sorted(path.name for path in CODE.glob("*.js")))
def test_the_code_makes_no_markup_of_texts(name: str) -> None:
    assert not MARKUP.search((CODE / name).read_text())


def test_a_report_can_be_read_without_its_code(hostile: Path) -> None:
    text = (hostile / "report.html").read_text().partition("<noscript>")[2].partition("</noscript>")[0]
    report = json.loads((hostile / "report.json").read_text())
    assert report["verdict"]["line"] in text
    assert text.count("<tr>") == 2 + len(report["baselines"])
    assert f"{report['winner']['mean']:.3f}" in text


def test_a_frozen_page_has_the_report_the_trials_and_answers_but_no_log(hostile: Path) -> None:
    data, run = frozen(hostile), open_run(hostile)
    assert data["trials"]["number"] == [trial.number for trial in run.trials]
    assert data["report"]["winner"]["number"] in [shown["number"] for shown in data["shown"]]
    assert data["tasks"] == list(SKILLS)
    assert data["log"] == []
    assert str(hostile.parent) not in (hostile / "report.html").read_text(), "a report is passed on"
    values = [row["values"] for row in data["answers"]["rows"]]
    differ = [one != other for one, other in values]
    assert differ == sorted(differ, reverse=True), "those that differ come first"
    assert any(differ)


def test_a_trial_is_a_table_of_its_groups(hostile: Path) -> None:
    run = open_run(hostile)
    last = run.trials[-1]
    found = trial_data(run, last.number, run.folder.structure())
    assert found["table"]["groups"][0] == "layers 0-3 · attention"
    assert found["table"]["sources"] == sorted(SKILLS)
    weights = last.recipe.rules[0].params["weight"]
    assert found["table"]["values"]["weight"][0] == [weights[skill] for skill in sorted(SKILLS)]  # type: ignore[index,call-overload]
    assert found["splits"][0] == "search"


def test_answers_stand_side_by_side_with_what_was_asked(hostile: Path) -> None:
    run = open_run(hostile)
    data = answers_data(run, "search", [0, 1], questions_in(run.folder, run.folder.begun()))
    row = next(row for row in data["rows"] if row["values"] == [0.0, 1.0])
    assert (row["task"], row["answers"][1]) == ("sums", row["gold"])
    assert HOSTILE.startswith(row["answers"][0])
    assert re.fullmatch(r"Question: What is (\d+) \+ (\d+)\?\nAnswer:", row["question"])
    assert answers_data(run, "report", [0, 99], questions_in(run.folder, None))["rows"] == []


def test_items_that_were_changed_are_not_shown_for_those_of_the_run(hostile: Path, tmp_path: Path) -> None:
    shutil.copytree(hostile.parent, tmp_path / "made")
    run = tmp_path / "made/run"
    spec = (run / "spec.yaml").read_text().replace(str(hostile.parent), str(tmp_path / "made"))
    (run / "spec.yaml").write_text(spec)
    items = tmp_path / "made/sums.jsonl"
    assert "  right  sums-" in (shown := show_trial(run, 1, answers=True))
    assert "    gold" in shown
    items.write_text(items.read_text().replace('"answer": "', '"answer": "9'))
    rows = answers_data(opened := open_run(run), "search", [1], questions_in(opened.folder, opened.folder.begun()))[
        "rows"
    ]
    assert {row["gold"] is None for row in rows if row["task"] == "sums"} == {True}
    assert {row["gold"] is None for row in rows if row["task"] == "french"} == {False}
    items.unlink()
    assert "  right  sums-" in show_trial(run, 1, answers=True)


def test_answers_are_shown_in_rows_and_the_wrong_ones_alone(hostile: Path) -> None:
    shown = show_trial(hostile, 1, answers=True).splitlines()
    assert shown[0] == "trial 1  baseline:expert:sums  OK"
    assert "search items" in shown
    right = next(line for line in shown if line.startswith("sums: "))
    assert re.fullmatch(r"sums: \d+ of 24 right", right)
    at = next(i for i, line in enumerate(shown) if line.startswith("  wrong  french-"))
    assert shown[at + 1].startswith("    question  Question: Write")
    assert shown[at + 3].startswith("    gold      ")
    assert shown[at + 4] == f"    answer    {HOSTILE}"
    wrong = show_trial(hostile, 1, answers=True, only_wrong=True)
    assert "  right  " not in wrong
    assert wrong.count("  wrong  ") == "\n".join(shown).count("  wrong  ") > 0


def follow(path: Path) -> FollowedRun:
    followed = FollowedRun(path)
    followed.catch_up()
    return followed


def test_a_journal_is_followed_line_by_line_to_what_it_is_read_to_at_once(hostile: Path, tmp_path: Path) -> None:
    lines, path = (hostile / "journal.jsonl").read_bytes().splitlines(keepends=True), tmp_path / "journal.jsonl"
    path.write_bytes(b"")
    followed = follow(path)
    assert followed.begun is None
    for i, line in enumerate(lines):
        with path.open("ab") as file:
            file.write(line[: len(line) // 2])
        followed.catch_up()
        assert len(followed.told) == sum(b'"split":"search"' in line for line in lines[:i]), "half a line is none"
        with path.open("ab") as file:
            file.write(line[len(line) // 2 :])
        followed.catch_up()
    whole = open_run(hostile).history
    assert followed.history.trials == whole.trials
    assert followed.history.scores == whole.scores
    assert followed.history.is_finished


def test_another_journal_is_read_anew_and_a_damaged_one_is_named(hostile: Path, tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    shutil.copy(hostile / "journal.jsonl", path)
    followed = follow(path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    followed.catch_up()
    assert 0 < len(followed.told) < len(follow(hostile / "journal.jsonl").told)
    shutil.copy(GOLDEN / "nsga2/finished/journal.jsonl", tmp_path / "other")
    (tmp_path / "other").replace(path)
    followed.catch_up()
    assert followed.history.trials == follow(GOLDEN / "nsga2/finished/journal.jsonl").history.trials
    with path.open("ab") as file:
        file.write(b'{"kind":"ask"}\n')
    num_lines = path.read_bytes().count(b"\n")
    with pytest.raises(InputError, match=f"line {num_lines}"):
        followed.catch_up()


def test_only_what_was_scored_since_is_sent(hostile: Path, tmp_path: Path) -> None:
    out = stopped(hostile, tmp_path / "run", trials=10)
    followed = follow(out / "journal.jsonl")

    def data(since: int) -> dict[str, Any]:
        followed.catch_up()
        return live_of(open_run(out), begun=followed.begun, told=followed.told, since=since, structure=None)

    assert (data(0)["told"], data(0)["trials"]["number"]) == (10, list(range(10)))
    assert data(10)["trials"]["number"] == []
    journal = Journal(out / "journal.jsonl")
    for record in rest(hostile, after=10)[:1]:
        journal.append(record)
    journal.close()
    assert data(10)["trials"]["number"] == [10]
    assert data(10)["since"] == 10
    assert data(99)["since"] == 0, "the page knows another journal"
    assert data(99)["trials"]["number"] == list(range(11))


def test_what_failed_and_was_measured_later_is_sent_again(hostile: Path, tmp_path: Path) -> None:
    path, records = tmp_path / "journal.jsonl", list(read(hostile / "journal.jsonl"))[:3]
    shutil.copy(hostile / "spec.yaml", tmp_path)
    shutil.copy(hostile / "report.json", tmp_path)
    tell = records[2]
    assert isinstance(tell, TellRecord)
    lost = TellRecord(
        number=0,
        split="search",
        status=Status.FAILED,
        objectives=None,
        tasks={},
        fingerprint=None,
        items=0,
        tokens=0,
        clock=type(tell.clock)(seconds={}, error=HOSTILE, elapsed=1.0),
    )
    journal = Journal(path)
    for record in [*records[:2], lost]:
        journal.append(record)
    followed = follow(path)
    first = live_of(open_run(tmp_path), begun=followed.begun, told=followed.told, since=0, structure=None)
    assert first["trials"]["odd"] == {0: ["FAILED", HOSTILE]}
    assert (first["failed"], first["best"], first["shown"]) == (1, None, [])
    assert HOSTILE not in page_html(first)
    journal.append(tell)
    journal.close()
    followed.catch_up()
    second = live_of(open_run(tmp_path), begun=followed.begun, told=followed.told, since=1, structure=None)
    assert (second["trials"]["number"], second["trials"]["odd"], second["best"]) == ([0], {}, 0)


def test_no_message_in_a_page_that_is_passed_on_names_a_folder(hostile: Path) -> None:
    run, report = open_run(hostile), json.loads((hostile / "report.json").read_text())
    error = "no file '/home/somebody/my models/x', /home/somebody/y:3 or C:\\Users\\somebody\\z\nTrace /home/somebody/t"
    trial = run.history.trials[0]
    run.history.trials[0] = replace(trial, score=replace(trial.score, error=error))
    report |= {"unmeasured": {"base": f"FAILED: {error}"}, "notes": [f"No row for base: {error}."]}
    data = frozen_data(run, begun=run.folder.begun(), report=report, questions=Questions([]), structure=None)
    told = "no file '...', ...:3 or ..."
    assert data["trials"]["odd"][0] == ["OK", told]
    assert (data["report"]["unmeasured"], data["report"]["notes"]) == (
        {"base": f"FAILED: {told}"},
        [f"No row for base: {told}"],
    )


def test_no_setting_in_a_page_that_is_passed_on_names_a_folder(hostile: Path) -> None:
    run, begun = open_run(hostile), open_run(hostile).folder.begun()
    assert begun is not None
    prompts = {"sums": "/home/somebody/my items/more.jsonl", "french": "C:\\Users\\somebody\\more.jsonl"}
    spec = {**begun.spec, "artifacts": {"regression": {"prompts": prompts}}}
    report = json.loads((hostile / "report.json").read_text())
    data = frozen_data(run, begun=replace(begun, spec=spec), report=report, questions=Questions([]), structure=None)
    told = {key: value for key, value in data["settings"].items() if "prompts" in key}
    assert set(told.values()) == {".../more.jsonl"}
    assert data["settings"]["fitness.tasks.sums.prompt"] == "Question: {question}\nAnswer:"


@pytest.mark.parametrize(
    "text", ["https://host:80/a/b?c=d", "a/b/c and ./d/e", "1/2, 3 / 4", "Take `crossbreed report` first."]
)
def test_what_is_no_path_of_this_machine_stays(text: str) -> None:
    assert _public(text) == text


@pytest.mark.parametrize("name", ["nsga2", "m2n2", "bmm", "frank_wolfe"])
def test_runs_of_older_versions_have_a_page(name: str, tmp_path: Path) -> None:
    """They have no structure.json.gz, and their reports no verdict."""
    folder = Path(shutil.copytree(GOLDEN / name / "finished", tmp_path / "run"))
    (folder / "spec.yaml").write_text((folder / "spec.yaml").read_text().replace("@sources@", str(SOURCES)))
    followed = follow(folder / "journal.jsonl")
    data = live_of(open_run(folder), begun=followed.begun, told=followed.told, since=0, structure=None)
    assert data["report"]["winner"]["number"] in data["trials"]["number"]
    assert bool(data["front"]) is (name == "nsga2")
    Structure(page_html(data))


@pytest.mark.parametrize("damage", ["", "[", "[]", '{"winner": NaN}', "[" * 10_000])
def test_a_damaged_report_is_none(damage: str, hostile: Path, tmp_path: Path) -> None:
    shutil.copytree(hostile, tmp_path / "run")
    (tmp_path / "run/report.json").write_text(damage)
    (tmp_path / "run/structure.json.gz").write_text(damage)
    run = open_run(tmp_path / "run")
    assert run.folder.structure() is None
    data = live_of(run, begun=run.folder.begun(), told=[t.number for t in run.trials], since=0, structure=None)
    assert data["report"] is None
    assert json.loads(json.dumps(data, allow_nan=False))["live"]


def test_only_the_end_of_a_log_is_sent(hostile: Path, tmp_path: Path) -> None:
    shutil.copytree(hostile, tmp_path / "run")
    folder = open_run(tmp_path / "run").folder
    assert folder.log_tail(10**6) == (tmp_path / "run/log.txt").read_text().splitlines()
    folder.log.write_text("".join(f"line {i}\n" for i in range(10_000)))
    assert folder.log_tail(25) == ["line 9998", "line 9999"]
    folder.log.unlink()
    assert folder.log_tail(100) == []
