"""The page in a real, headless browser: drawn, kept up to date, used by keyboard, dark, and large."""

import fcntl
import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from browser import Browser, opened
from made_runs import HOSTILE, grown, made_run, rest, stopped
from serving import served

from crossbreed.runs.page.data import frozen_data
from crossbreed.runs.page.html import page_html
from crossbreed.runs.record.journal import Journal
from crossbreed.runs.results.answers import Questions
from crossbreed.runs.results.show import open_run

GOLDEN = Path(__file__).parents[1] / "golden/runs"
DRAWN = "return performance.getEntriesByName('drawn').length > 0"
PAINTED = "return performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? 0"
IS_DRAWN = """
const canvas = document.querySelector(arguments[0] + ' canvas');
const blank = Object.assign(document.createElement('canvas'), { width: canvas.width, height: canvas.height });
return canvas.width > 300 && canvas.toDataURL().length > blank.toDataURL().length + 2000;
"""
PIXELS = "return document.querySelector('#search canvas').toDataURL()"
UNNAMED = """
return [...document.querySelectorAll('button, select, a, canvas')]
  .filter(e => !(e.innerText || e.ariaLabel || e.closest('label'))).map(e => e.outerHTML)
"""
"""What a screen reader has no words for."""
CONTRAST = """
const channels = text => text.match(/[0-9.]+/g).slice(0, 3).map(Number);
const linear = c => (c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
const light = text => channels(text).reduce((sum, c, i) => sum + linear(c / 255) * [0.2126, 0.7152, 0.0722][i], 0);
const isClear = e => /, 0\\)|transparent/.test(getComputedStyle(e).backgroundColor);
const behind = e => {
  while (e.parentElement && isClear(e)) e = e.parentElement;
  return getComputedStyle(isClear(e) ? document.body : e).backgroundColor;
};
return [...document.querySelectorAll('p, th, td, small, dt, dd, a, h1, h2, h3, button, li, summary')].filter(e => {
  if (!e.innerText || e.disabled || !behind(e).startsWith('rgb')) return false;
  const [less, more] = [light(getComputedStyle(e).color), light(behind(e))].sort((x, y) => x - y);
  return (more + 0.05) / (less + 0.05) < 4.5;
}).map(e => e.tagName + ': ' + e.innerText.slice(0, 40));
"""
"""Elements whose text does not stand out from what is behind it by 4.5 to 1 (WCAG AA)."""
BLOCKED = """
const script = document.createElement('script');
script.textContent = 'window.bad = 1';
document.body.append(script);
return window.bad ?? null;
"""
READ = """
const trials = document.querySelector('[data-key=table-Trials]');
trials.focus();
trials.scrollLeft = 40;
window.read = document.querySelector('#settings summary');
"""
STILL_READ = """
const trials = document.querySelector('[data-key=table-Trials]');
return [document.activeElement.dataset.key, trials.scrollLeft, window.read.isConnected];
"""
LEFT = """
document.querySelector('#search canvas').dispatchEvent(new KeyboardEvent('keydown', { key: 'ArrowLeft' }))
"""


@pytest.fixture
def browser(has_browser: None) -> Iterator[Browser]:
    with opened() as found:
        yield found
        assert found.complaints() == [], "the console is silent"
        assert "cannot be drawn" not in found.text("main")


@contextmanager
def watched(browser: Browser, run: Path) -> Iterator[str]:
    """Serves a run and opens its page, which is left before the server ends."""
    with served(run) as url:
        browser.open(url)
        browser.wait(DRAWN)
        yield url
        assert "cannot be drawn" not in browser.text("main")
        browser.open("about:blank")


def rows(browser: Browser, section: str) -> int:
    return int(browser.run("return document.querySelectorAll(arguments[0] + ' tbody tr').length", f"#{section}"))


def test_the_page_is_drawn_and_follows_a_run(browser: Browser, hostile: Path, tmp_path: Path) -> None:
    """The one of `make test`: everything once."""
    out = stopped(hostile, tmp_path / "run", trials=12)
    with served(out, locked=True) as url:
        browser.open(url)
        browser.wait(DRAWN)
        assert "running" in browser.text("#state")
        assert "12 of 21 trials" in browser.text("#state")
        assert "Best so far" in browser.text(".verdict")
        assert browser.run(IS_DRAWN, "#search")
        assert rows(browser, "trials") == 12
        browser.wait("return document.querySelectorAll('#answers tbody tr').length > 0")
        assert HOSTILE in browser.text("#answers"), "as text"
        assert browser.run("return document.images.length") == 0
        browser.run("document.querySelector('[data-key=pick-11]').click()")
        browser.wait("return document.querySelectorAll('#trial tbody tr').length === 6")  # three bands x two modules
        assert "[12 of" in browser.text("#log")
    browser.wait("return document.querySelector('.pill.offline')")
    browser.complaints()  # the browser itself says that nobody answers


@pytest.mark.slow
def test_what_is_scored_appears_by_itself_and_the_end_brings_the_report(
    browser: Browser, hostile: Path, tmp_path: Path
) -> None:
    out = stopped(hostile, tmp_path / "run", trials=12)
    with watched(browser, out):
        assert "interrupted" in browser.text("#state")
        journal = Journal(out / "journal.jsonl")
        browser.resize(320, 800)
        browser.run(READ)
        before = browser.run(PIXELS)
        for i, record in enumerate(rest(hostile, after=12)):
            journal.append(record)
            if i == 2:
                browser.wait("return document.querySelectorAll('#trials tbody tr').length === 14")
                assert "running" in browser.text("#state")
                assert browser.run(PIXELS) != before
                assert browser.run(STILL_READ) == ["table-Trials", 40, True], "what is read stays where it is"
        journal.close()
        (out / "report.json").write_bytes((hostile / "report.json").read_bytes())
        verdict = json.loads((hostile / "report.json").read_text())["verdict"]["line"]
        browser.wait(f"return document.querySelector('.verdict').innerText === {json.dumps(verdict)}")
        assert "On the report items" in browser.text("#models")
        assert "finished" in browser.text("#state")
        with (out / "journal.jsonl").open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # a larger budget: the search goes on
            browser.wait("return document.querySelector('.verdict').innerText.startsWith('Searching.')")


@pytest.mark.slow
def test_what_is_wrong_with_a_run_is_said_on_the_page(browser: Browser, hostile: Path, tmp_path: Path) -> None:
    out = stopped(hostile, tmp_path / "run", trials=12)
    with watched(browser, out):
        (out / "report.json").write_text('{"winner": {"number": 3}, "baselines": []}')
        browser.wait("return document.querySelector('#models').innerText.includes('cannot be drawn')")
        assert rows(browser, "trials") == 12, "other sections are there"
        (out / "report.json").unlink()
        browser.wait("return document.querySelector('#models tbody tr')")
        with (out / "journal.jsonl").open("ab") as file:
            file.write(b"{}\n")
        browser.wait("return document.querySelector('#state').innerText.includes('the journal is damaged')")
    browser.complaints()  # the browser itself says that the server has failed


@pytest.mark.slow
def test_a_run_of_an_older_version(browser: Browser, tmp_path: Path) -> None:
    """Without structure.json.gz, and with a report that has no verdict."""
    run = Path(shutil.copytree(GOLDEN / "v0.1.0/nsga2/finished", tmp_path / "run"))
    (run / "spec.yaml").write_text((run / "spec.yaml").read_text().replace("@sources@", str(GOLDEN / "sources")))
    with watched(browser, run):
        assert browser.text(".verdict").startswith("Reported: trial ")
        assert browser.run(IS_DRAWN, "#front")
        assert f"crossbreed publish {run.resolve()}" in browser.text("#trial .command")
        browser.run("document.querySelector('[data-key=pick-8]').click()")
        browser.wait("return document.querySelector('#trial tbody th')")
        browser.wait("return document.querySelectorAll('#answers tbody tr').length > 0")
        assert "red|red " in browser.text("#answers")


@pytest.mark.slow
def test_the_keyboard_is_enough(browser: Browser, hostile: Path) -> None:
    with watched(browser, hostile):
        browser.press("tab")
        assert browser.run("return document.activeElement.className") == "skip"
        browser.wait("return document.querySelector('#answers tbody tr')")
        reached = set()
        for _ in range(120):
            browser.press("tab")
            reached.add(browser.run("return document.activeElement.dataset.key ?? document.activeElement.tagName"))
        assert {"chart-search", "only-wrong", "split", "sort-number", "kind-bred", "pick-20", "A", "PRE"} <= reached
        browser.run("document.querySelector('#search canvas').focus()")
        browser.press("home")
        browser.wait("return document.querySelector('#trial h2').innerText === 'Picked: trial 0'")
        browser.press("right", "right")
        browser.wait("return document.querySelector('#trial h2').innerText === 'Picked: trial 2'")
        assert browser.run("return document.activeElement.dataset.key") == "chart-search"
        browser.wait("return document.querySelector('#answers th:nth-child(4)').innerText === 'french'")
        browser.run("document.querySelector('[data-key=sort-seconds]').focus()")
        browser.press("enter")
        assert browser.run("return document.querySelector('[aria-sort]').innerText") == "s \u2193"
        assert browser.run("return document.activeElement.dataset.key") == "sort-seconds", "the focus stays"
        browser.run("document.querySelector('[data-key=only-all]').focus()")
        browser.press("enter")
        assert rows(browser, "answers") == 25
        assert browser.run(UNNAMED) == []


@pytest.mark.slow
def test_the_page_follows_the_colours_that_the_user_prefers(browser: Browser, hostile: Path) -> None:
    browser.emulate("light")
    browser.open((hostile / "report.html").as_uri())
    browser.wait(DRAWN)
    background = "return getComputedStyle(document.body).backgroundColor"
    light, paper = browser.run(PIXELS), browser.run(background)
    browser.emulate("dark")
    browser.wait(f"return document.querySelector('#search canvas').toDataURL() !== {json.dumps(light)}")
    assert (paper, browser.run(background)) == ("rgb(253, 253, 252)", "rgb(20, 23, 26)")
    for scheme in ("light", "dark"):
        browser.emulate(scheme)
        assert browser.run(CONTRAST) == []


@pytest.mark.slow
def test_a_report_and_several_objectives(browser: Browser, tmp_path: Path) -> None:
    run = made_run(tmp_path, trials=24, objectives=[{"task": "sums"}, {"task": "french"}, {"task": "roman"}])
    browser.open((run / "report.html").as_uri())
    browser.wait(DRAWN)
    report = json.loads((run / "report.json").read_text())
    assert browser.text(".verdict") == report["verdict"]["line"]
    assert browser.run(IS_DRAWN, "#front")
    before = browser.run("return document.querySelector('#front canvas').ariaLabel")
    browser.run(
        "const s = document.querySelector('[data-key=up]'); s.value = '2'; s.dispatchEvent(new Event('change'))"
    )
    assert browser.run("return document.querySelector('#front canvas').ariaLabel") != before
    assert browser.run("return document.querySelector('#log').hidden")
    assert browser.run("return performance.getEntriesByType('resource').length") == 0, "it loads nothing"


@pytest.mark.slow
def test_a_run_with_names_and_answers_of_strangers(browser: Browser, hostile: Path) -> None:
    browser.open((hostile / "report.html").as_uri())
    browser.wait(DRAWN)
    browser.run("document.querySelector('[data-key=only-wrong]').click()")
    assert HOSTILE in browser.text("#answers")
    assert browser.run("return document.querySelectorAll('main img, main script').length") == 0
    assert browser.run(BLOCKED) is None, "the policy stops code that is not ours"
    assert any("Content Security Policy" in said for said in browser.complaints())


@pytest.mark.slow
def test_a_report_of_ten_thousand_trials_is_small_and_quick(browser: Browser, hostile: Path, tmp_path: Path) -> None:
    run = open_run(grown(hostile, tmp_path / "run", trials=10_000))
    report = json.loads((hostile / "report.json").read_text()) | {"trials": {"OK": 10_000}}
    began_s = time.perf_counter()
    data = frozen_data(run, begun=run.folder.begun(), report=report, questions=Questions([]), structure=None)
    page = tmp_path / "report.html"
    page.write_text(page_html(data))
    assert time.perf_counter() - began_s < 5
    assert page.stat().st_size < 2e6
    browser.open(page.as_uri())
    browser.wait(DRAWN)
    assert float(browser.wait(PAINTED)) < 2000
    assert browser.text(".verdict") == report["verdict"]["line"]
    assert "10,000 trials" in browser.text("#state")


@pytest.mark.slow
def test_ten_thousand_trials_are_usable(browser: Browser, hostile: Path, tmp_path: Path) -> None:
    run = grown(hostile, tmp_path / "run", trials=10_000)
    with watched(browser, run) as url:
        painted, drawn = list[float](), list[float]()
        for _ in range(3):
            browser.open(url)
            browser.wait(DRAWN)
            painted.append(float(browser.wait(PAINTED)))
            drawn.append(float(browser.run("return performance.getEntriesByName('drawn')[0].startTime")))
        assert min(painted) < 2000, painted
        assert min(drawn) < 3000, drawn
        print(f"first paint {painted} ms, drawn {drawn} ms")
        assert "10,000 trials" in browser.text("#state")
        assert rows(browser, "trials") == 25
        for action in (
            "document.querySelector('[data-key=sort-o0]').click()",
            "document.querySelector('[data-key=\"trials-last page\"]').click()",
            LEFT,
        ):
            took = browser.run(f"const began = performance.now(); {action}; return performance.now() - began")
            assert took < 500, action
        began_s = time.perf_counter()
        browser.run("return fetch('data.json?since=10000').then(answer => answer.text()).then(text => text.length)")
        assert time.perf_counter() - began_s < 2
