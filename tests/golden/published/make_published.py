"""Writes two small published merges: `python tests/golden/published/make_published.py`.

`merge` merges a recipe of a full checkpoint and an adapter; `publish` publishes the recorded run of CMA-ES. Both merges
are weighted sums, which have the same bits on any processor. Versions and paths are masked.
"""

import json
import os
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

from crossbreed.recipes import dump_recipe
from crossbreed.runs import merge_recipe, publish_run
from crossbreed.sources import open_sources
from crossbreed.types import Recipe, Rule

HERE = Path(__file__).parent
RUNS = HERE.parent / "runs"
SOURCES = RUNS / "sources"
PLACE = "@sources@"
"""Stands for the folder of the sources in recorded files."""
_MASKED_FILES = ("mergekit_config.yml",)
"""Files that name the folder of the sources."""
RULES = (
    Rule(match=r".*\.self_attn\..*", operator="task_arithmetic", params={"weight": {"red": 0.3, "blue": 0.7}}),
    Rule(match=r".*\.mlp\..*", operator="linear", params={"weight": {"red": 1.5, "blue": -0.25}, "normalize": False}),
    Rule(match=r".*norm.*", operator="task_arithmetic", params={"weight": 0.5}),
)


def make(folder: Path) -> dict[str, Path]:
    """Writes the folders below `folder`; returns them by name."""
    merge(folder / "merge")
    publish(folder / "run", folder / "publish")
    return {name: folder / name for name in ("merge", "publish")}


def merge(out: Path) -> None:
    experts = {name: str(SOURCES / name) for name in ("red", "blue")}
    hashes = open_sources(str(SOURCES / "base"), experts).structure.hashes
    path = out.with_name("recipe.yaml")
    path.write_text(dump_recipe(Recipe(base="base", sources=hashes, rules=RULES)))
    merge_recipe(path, out, sources=[f"{name}={SOURCES / name}" for name in hashes])


def publish(run: Path, out: Path) -> None:
    shutil.copytree(RUNS / "v0.1.0" / "cma_es" / "finished", run)
    for path in (run / "spec.yaml", run / "journal.jsonl"):
        path.write_text(path.read_text().replace(PLACE, str(SOURCES)))
    publish_run(run, out, with_scores=False, licence="apache-2.0")


def contents(folder: Path) -> dict[str, bytes]:
    """Returns file name -> bytes, masked."""
    return {path.name: _masked(path) for path in folder.iterdir()}


def _masked(path: Path) -> bytes:
    content = path.read_bytes()
    if path.name == "crossbreed.json":
        record = json.loads(content)
        if "versions" in record:
            record["versions"] = dict.fromkeys(("python", "crossbreed"), "masked")
        record["files"] = {name: file for name, file in record["files"].items() if name not in _MASKED_FILES}
        content = (json.dumps(record, indent=2) + "\n").encode()
    return content.replace(str(SOURCES).encode(), PLACE.encode())


if __name__ == "__main__":
    with TemporaryDirectory() as scratch:
        os.environ["CROSSBREED_CACHE"] = f"{scratch}/cache"
        for name, folder in make(Path(scratch)).items():
            shutil.rmtree(HERE / name, ignore_errors=True)
            (HERE / name).mkdir()
            for file, content in contents(folder).items():
                (HERE / name / file).write_bytes(content)
