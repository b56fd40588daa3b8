"""Screenshots of the page and of reports, light and dark, for docs: `python tests/page/make_screenshots.py`.

The run is one of `made_runs`: the page is live while half of the trials are there, the report is of all of them.
"""

import io
import sys
import tempfile
from pathlib import Path

from browser import Browser, opened
from made_runs import made_run, stopped
from PIL import Image
from serving import served

HERE = Path(__file__).parents[2] / "docs/screenshots"
SIZE = 1040, 900


def shoot(browser: Browser, url: str, name: str, folder: Path, *, sections: tuple[str, ...]) -> None:
    """Writes a screenshot of some sections, light and dark."""
    for scheme in ("light", "dark"):
        browser.emulate(scheme)
        browser.resize(*SIZE)
        browser.open(url)
        browser.wait(
            "return performance.getEntriesByName('drawn').length && !document.fonts.status.includes('loading')"
        )
        browser.wait("return document.getElementById('nav').textContent.includes('Answers')")  # which are fetched last
        browser.run(
            "for (const s of document.querySelectorAll('main > section')) if (!arguments[0].includes(s.id)) s.remove()",
            sections,
        )
        browser.run("document.querySelector('nav').style.position = 'static'")
        browser.run("for (const row of document.querySelectorAll('.answers tbody tr:nth-child(n + 7)')) row.remove()")
        height = int(browser.run("return document.documentElement.scrollHeight"))
        browser.resize(SIZE[0], height)
        browser.wait("return new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(true))))")
        with Image.open(io.BytesIO(browser.screenshot())) as taken:
            small = taken.convert("RGB").quantize(176, dither=Image.Dither.NONE)
            small.save(folder / f"{name}-{scheme}.png", optimize=True)


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch, opened() as browser:
        run = made_run(Path(scratch) / "made", trials=100)
        front = made_run(Path(scratch) / "front", trials=120, objectives=[{"task": "sums"}, {"task": "french"}])
        with served(stopped(run, Path(scratch) / "made/half", trials=58), locked=True) as url:
            shoot(browser, url, "page", folder, sections=("lead", "models", "search", "tasks"))
        shoot(
            browser, (run / "report.html").as_uri(), "report", folder, sections=("lead", "models", "trial", "answers")
        )
        shoot(browser, (front / "report.html").as_uri(), "front", folder, sections=("front",))


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE)
