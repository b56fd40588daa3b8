"""Recipes become folders: the winner of a run with its card (`publish_run`), or any recipe (`merge_recipe`)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from crossbreed.errors import InputError
from crossbreed.kernels import materialize
from crossbreed.mergekit import read_config
from crossbreed.recipes import load_recipe
from crossbreed.runs.card import Origins, choose_licence, parents_of
from crossbreed.runs.driver import note_published, report_on
from crossbreed.runs.mergekit import Dtype, merge_accurately, merge_as_mergekit
from crossbreed.runs.plan import Plan
from crossbreed.runs.publish import (
    publish_checkpoint,
    published_fingerprint,
    push,
    require_unused,
    write_checkpoint,
)
from crossbreed.sources import open_sources
from crossbreed.types import Recipe, WeightStream


def publish_run(
    path: Path,
    out: Path,
    *,
    trial: int | None = None,
    licence: str | None = None,
    push_to: str | None = None,
    dry_run: bool = False,
) -> None:
    """Writes a run's winner (or another trial) as a checkpoint, after reporting on it if that was not done.

    Args:
        path: The run folder.
        out: A new or empty folder.
        trial: Number of the trial to publish instead of the winner.
        licence: Hub's id of the licence, when the parents do not state a common one.
        push_to: Hub repository to upload to, private.
        dry_run: With `push_to`: say what would be uploaded.

    Raises:
        InputError: the run, the folder, the licence or the trial is wrong.
        MachineError: what would be published is not what was scored.
    """

    def check(plan: Plan) -> None:  # what can be refused is refused before an engine is started for a report
        choose_licence(parents_of(plan.firsts()[-1][1], plan.sources), licence)
        if published_fingerprint(out) is None:
            require_unused(out)

    plan, report = report_on(path, trial=trial, before=check)
    winner = report.winner
    assert winner.fingerprint is not None, "a scored trial has a fingerprint"
    if published_fingerprint(out) != winner.fingerprint:  # else it is there: only the push is to be done (again)
        publish_checkpoint(
            recipe=winner.recipe,
            sources=plan.sources,
            out=out,
            stream_factory=lambda: _as_in_a_worker(plan, winner.recipe),
            expected_fingerprint=winner.fingerprint,
            origins=Origins.of(plan.spec, report),
            licence=licence,
        )
        note_published(path, winner.number, winner.fingerprint, out)
    print(f"published trial {winner.number} to {out}")
    if push_to:
        print(push(out, push_to, dry_run=dry_run))


def _as_in_a_worker(plan: Plan, recipe: Recipe) -> WeightStream:
    """The recipe's weights, made with as many threads as a worker has: decompositions and solutions depend on them."""
    import torch

    if plan.spec.workers.executor == "ray":
        torch.set_num_threads(max(1, int(plan.spec.workers.cpus)))
    return materialize(recipe, plan.sources, once=True)


def merge_recipe(
    path: Path,
    out: Path,
    *,
    sources: Sequence[str] = (),
    numerics: Literal["accurate", "mergekit"] = "accurate",
    lora_dtype: Dtype | None = None,
) -> None:
    """Writes the checkpoint of a recipe file, or of a mergekit configuration.

    Args:
        path: A recipe (YAML or JSON), or mergekit's YAML.
        out: A new or empty folder.
        sources: `NAME=FOLDER` of every source of a recipe; a configuration says where its models are.
        numerics: `accurate`, or for a configuration mergekit's own.
        lora_dtype: With mergekit's numerics, in which adapters are merged into their models.

    Raises:
        InputError: the recipe or a source is wrong, or a source is not the one that the recipe names by hash.
        InvalidWeights: the merge holds NaN or Inf.
    """
    config = read_config(path)
    if lora_dtype is not None and (config is None or numerics == "accurate"):
        raise InputError("accurate numerics never round an adapter's model", expected="no --lora-merge-dtype")
    if config is None:
        _merge_ours(path, out, sources=sources, numerics=numerics)
        return
    if sources:
        raise InputError("a mergekit configuration says where its models are", expected="no --source", where=str(path))
    if config.idle:
        print(f"note: {config.method.name} has no use for {', '.join(config.idle)} there; mergekit passes over it too")
    if numerics == "accurate":
        fingerprint = merge_accurately(config, out)
    else:
        fingerprint = merge_as_mergekit(config, path.read_text(encoding="utf-8"), out, lora_dtype=lora_dtype)
    print(f"wrote {out}, fingerprint {fingerprint}")


def _merge_ours(path: Path, out: Path, *, sources: Sequence[str], numerics: str) -> None:
    recipe = load_recipe(path)
    if numerics == "mergekit":
        raise InputError(
            "a recipe has no mergekit numerics",
            expected="a mergekit configuration (`merge_method: ...`), or --numerics accurate",
            where=str(path),
        )
    folders = dict(_named(source) for source in sources)
    if missing := sorted(recipe.sources.keys() - folders.keys()):
        raise InputError(
            f"the recipe does not say where `{missing[0]}` is",
            expected=" ".join(f"--source {name}=FOLDER" for name in recipe.sources),
            where=str(path),
        )
    base = folders.pop(recipe.base)
    opened = open_sources(base, {name: folder for name, folder in folders.items() if name in recipe.sources})
    for name, content in opened.structure.hashes.items():
        if recipe.sources[name] != content:
            raise InputError(
                f"`{name}` is not the model that the recipe was made for",
                expected=f"content hash {recipe.sources[name]}",
                got=content,
                where=folders.get(name, base),
            )
    fingerprint = write_checkpoint(
        recipe=recipe, sources=opened, out=out, stream_factory=lambda: materialize(recipe, opened, once=True)
    )
    print(f"wrote {out}, fingerprint {fingerprint}")


def _named(source: str) -> tuple[str, str]:
    name, equals, folder = source.partition("=")
    if not (name and equals and folder):
        raise InputError("a source has no name or no folder", expected="--source NAME=FOLDER", got=source)
    return name, folder
