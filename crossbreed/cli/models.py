"""Commands that write, score or look at models."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from crossbreed.cli.options import As, AsJson, Out, Overrides, Rank, RunPath
from crossbreed.cli.output import print_json, shown
from crossbreed.errors import InputError
from crossbreed.types import Dtype

if TYPE_CHECKING:
    from crossbreed.runs.events import Listener


def publish(
    run: RunPath,
    out: Out,
    trial: Annotated[int | None, typer.Option(help="Publish this trial instead of the winner.")] = None,
    prefer: Annotated[
        list[str] | None,
        typer.Option(help="TASK=WEIGHT, may be repeated: the trial that suits best, not the winner.", metavar="TASK=W"),
    ] = None,
    knee: Annotated[
        bool, typer.Option("--knee", help="The trial in the middle of the front, by search items.")
    ] = False,
    constraint: Annotated[
        list[str] | None,
        typer.Option(help="'TASK>=BOUND' or <=, may be repeated: only trials that keep it.", metavar="BOUND"),
    ] = None,
    no_report: Annotated[
        bool, typer.Option("--no-report", help="Evaluate nothing; the card has no held-out scores.")
    ] = False,
    licence: Annotated[str | None, typer.Option(help="Licence id, if the parents' licences differ.")] = None,
    push: Annotated[str | None, typer.Option(help="ORG/NAME on the hub; created as private.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="With --push: show what would be uploaded.")] = False,
    form: As = "checkpoint",
    rank: Rank = None,
) -> None:
    """Write the winner as an ordinary checkpoint, or a LoRA adapter, with a model card."""
    from crossbreed.runs.publishing.elsewhere import is_elsewhere, publish_elsewhere

    options: dict[str, Any] = {"licence": licence, "push_to": push, "dry_run": dry_run, "form": form, "rank": rank}
    with shown() as show:
        if prefer or knee or constraint:
            trial = _chosen(run, prefer or [], constraint or [], knee=knee, trial=trial, tell=show)
        if is_elsewhere(run):
            given = {
                "--no-report": no_report,
                "--licence": licence,
                "--push": push,
                "--dry-run": dry_run,
                "--rank": rank,
            }
            given["--as"] = form != "checkpoint"
            publish_elsewhere(run, out, trial=trial, refused=[flag for flag in given if given[flag]], on_event=show)
            return
        from crossbreed.runs import publish_run

        publish_run(run, out, trial=trial, with_scores=not no_report, **options, on_event=show)


def _chosen(
    run: Path, weights: list[str], bounds: list[str], *, knee: bool, trial: int | None, tell: "Listener"
) -> int:
    """Returns the number of the trial that suits what was asked for."""
    from crossbreed.runs.events import Note
    from crossbreed.runs.results.choice import Preference, choose
    from crossbreed.runs.results.show import open_run

    if trial is not None or (knee and weights):
        raise InputError(
            "a trial is named twice",
            expected="one of --trial, --prefer and --knee; --constraint with either of the last two",
            got="--trial beside the others" if trial is not None else "--knee and --prefer",
        )
    found = choose(open_run(run), Preference.parse(weights, bounds))
    tell(Note(text=found.why))
    return found.trial.number


def merge(
    recipes: Annotated[
        list[Path],
        typer.Argument(help="Recipes (YAML or JSON) or mergekit YAML files.", metavar="RECIPE..."),
    ],
    out: Annotated[
        Path,
        typer.Option("--out", help="Output folder, new or empty; for several recipes, the parent of one for each."),
    ],
    source: Annotated[list[str] | None, typer.Option("--source", help="NAME=FOLDER for a source of a recipe.")] = None,
    numerics: Annotated[
        Literal["accurate", "mergekit"],
        typer.Option(help="fp32 with one rounding; or, for mergekit YAML files, the bits of mergekit 0.1.5."),
    ] = "accurate",
    lora_merge_dtype: Annotated[
        Dtype | None,
        typer.Option(help="With mergekit numerics: dtype of models with an adapter; default: their own."),
    ] = None,
    accept: Annotated[
        list[str] | None,
        typer.Option(help="A key of config.json, or tokenizer, in which models may differ from the base."),
    ] = None,
    form: As = "checkpoint",
    rank: Rank = None,
) -> None:
    """Write the checkpoints of recipes or mergekit YAML files, several of them in one pass."""
    from crossbreed.runs import merge_recipe, merge_recipes

    options: dict[str, Any] = {"sources": source or [], "accept": accept or [], "form": form, "rank": rank}
    with shown() as show:
        options |= {"numerics": numerics, "lora_dtype": lora_merge_dtype, "on_event": show}
        merge_recipe(recipes[0], out, **options) if len(recipes) == 1 else merge_recipes(recipes, out, **options)


def regress(
    models: Annotated[list[str], typer.Argument(help="Or a base and experts.", metavar="SPEC.yaml | MODEL EXPERT...")],
    out: Out,
    set_: Overrides = None,
) -> None:
    """Write a merge by regression, layer by layer, without a search; without a spec, experts write their texts."""
    with shown() as show:
        from crossbreed.runs.regression.writing import write_regression

        write_regression(models, out, overrides=set_ or [], on_event=show)


def evaluate(
    model: Annotated[str, typer.Argument(help="Checkpoint folder or hub id.")],
    spec: Annotated[Path, typer.Option(help="The spec with tasks, splits and engine.")],
    split: Annotated[Literal["search", "select", "report"], typer.Option(help="The split of the items.")] = "search",
    as_json: AsJson = False,
    set_: Overrides = None,
) -> None:
    """Score one checkpoint on a spec's tasks."""
    from crossbreed.terminal import Terminal

    with Terminal(sys.stderr, doing=f"evaluating {model}"):
        from crossbreed.runs import load_spec
        from crossbreed.runs.evaluate import evaluate  # seconds

        found = evaluate(model, load_spec(spec, set_ or [], with_items=True), split=split)
    if as_json:
        print_json(found.to_json())
    else:
        for name, task in found.tasks.items():
            bounds = f"{task.low:.4f}, {task.high:.4f}" if task.is_known else "not known"
            typer.echo(f"{name:20} {task.mean:.4f}  [{bounds}]  {task.n} {split} items")
        for name, judged in found.judged.items():
            typer.echo(f"judge: {judged.said(name)}")


def inspect(
    models: Annotated[
        list[str], typer.Argument(help="Folders or hub ids of checkpoints and adapters.", metavar="MODEL...")
    ],
    as_json: AsJson = False,
) -> None:
    """Show hashes and structure of models, and whether several can be merged."""
    from crossbreed.runs.inspect import inspect_models
    from crossbreed.runs.inspect_text import render

    found = inspect_models(models)
    print_json(found) if as_json else typer.echo(render(found))
