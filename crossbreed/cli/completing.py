"""What a shell may complete: kinds of parts and their names, run folders, specs. No part is loaded, so it is quick."""

from pathlib import Path

import typer

_REGISTRIES = {
    "operators": "crossbreed.recipes.operators:OPERATORS",
    "optimizers": "crossbreed.optimizer.build:OPTIMIZERS",
    "spaces": "crossbreed.search_spaces.build:SPACES",
    "engines": "crossbreed.fitness.engines.registry:ENGINES",
    "tasks": "crossbreed.fitness.tasks:TASKS",
    "metrics": "crossbreed.fitness.tasks.metrics:METRICS",
    "presets": "crossbreed.runs.spec.presets:PRESETS",
}
"""Kind of part -> its registry; only the one that is asked for is imported."""


def kinds(incomplete: str) -> list[str]:
    """Returns kinds of parts."""
    return [kind for kind in _REGISTRIES if kind.startswith(incomplete)]


def parts(ctx: typer.Context, incomplete: str) -> list[str]:
    """Returns the parts of the kind that stands before."""
    from crossbreed.registry import resolve  # imports pydantic, and every command imports this module

    place = _REGISTRIES.get(ctx.params.get("kind") or "")
    registry = resolve(place) if place else ()
    return sorted(name for name in registry if name.startswith(incomplete))  # type: ignore[attr-defined]


def runs(incomplete: str) -> list[str]:
    """Returns the run folders here and one or two levels below, the last one first; without any, shells list files."""
    found = [path.parent for levels in ("", "*/", "*/*/") for path in Path().glob(f"{levels}journal.jsonl")]
    last_first = sorted(found, key=lambda folder: (folder / "journal.jsonl").stat().st_mtime, reverse=True)
    return [str(folder) for folder in last_first if str(folder).startswith(incomplete)]


def specs(incomplete: str) -> list[str]:
    """Returns the YAML files here and one level below."""
    found = sorted(str(path) for levels in ("", "*/") for path in Path().glob(f"{levels}*.y*ml"))
    return [path for path in found if path.startswith(incomplete)]
