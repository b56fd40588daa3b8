"""The command line: parses arguments, calls `crossbreed.runs`, turns the error tree into exit codes. Nothing else."""

import json
import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, Literal

import typer

from crossbreed.errors import CrossbreedError, InputError

app = typer.Typer(
    help="Breeds merged language models: search over merge recipes, scored on your own items.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

SpecPath = Annotated[Path, typer.Argument(help="The spec, a YAML file.", metavar="SPEC.yaml")]
RunPath = Annotated[Path, typer.Argument(help="A run folder.", metavar="RUN")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on stdout, nothing else.")]
Overrides = Annotated[list[str] | None, typer.Option("--set", help="dotted.key=value; may be repeated.")]
Out = Annotated[Path, typer.Option("--out", help="Folder to write; it must be new or empty.")]


@app.command()
def run(
    spec: SpecPath,
    out: Annotated[Path | None, typer.Option("--out", help="Run folder; default runs/NAME.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Number of workers.")] = None,
    set_: Overrides = None,
) -> None:
    """Start a run, or go on where it stopped."""
    from crossbreed.runs import load_spec, run

    overrides = [*(set_ or []), *([f"workers.count={workers}"] if workers else [])]
    loaded = load_spec(spec, overrides)
    run(loaded, out or Path("runs") / loaded.name)


@app.command()
def check(
    spec: SpecPath,
    answer: Annotated[
        bool, typer.Option("--answer", help="Start the engine and answer one item of each task.")
    ] = False,
    set_: Overrides = None,
) -> None:
    """Validate a spec in seconds, without an engine."""
    from crossbreed.runs import check_spec, load_spec

    check_spec(load_spec(spec, set_ or []), answer=answer)


@app.command()
def show(
    run: RunPath,
    as_json: AsJson = False,
    trial: Annotated[int | None, typer.Option(help="One trial in full.")] = None,
    answers: Annotated[bool, typer.Option("--answers", help="With --trial: what the model said.")] = False,
) -> None:
    """State, archive, best trials, baselines."""
    from crossbreed.runs.show import show_json, show_text, show_trial

    if trial is not None and as_json:
        raise InputError("--json shows all trials", expected="--json, or --trial N", got="both")
    if trial is not None:
        typer.echo(show_trial(run, trial, answers=answers))
    elif as_json:
        _print_json(show_json(run))
    else:
        typer.echo(show_text(run))


@app.command()
def report(run: RunPath) -> None:
    """Answer what the report still needs, and write report.html and report.json."""
    from crossbreed.runs import report_on

    report_on(run)


@app.command()
def publish(
    run: RunPath,
    out: Out,
    trial: Annotated[int | None, typer.Option(help="Publish this trial instead of the winner.")] = None,
    licence: Annotated[str | None, typer.Option(help="Licence id, when the parents' do not agree.")] = None,
    push: Annotated[str | None, typer.Option(help="ORG/NAME on the hub; private.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="With --push: show what would be uploaded.")] = False,
) -> None:
    """Write the winner as an ordinary checkpoint with a model card."""
    from crossbreed.runs import publish_run

    publish_run(run, out, trial=trial, licence=licence, push_to=push, dry_run=dry_run)


@app.command()
def merge(
    recipes: Annotated[
        list[Path],
        typer.Argument(help="Our recipe (YAML or JSON), or a mergekit YAML; or several.", metavar="RECIPE..."),
    ],
    out: Annotated[
        Path,
        typer.Option("--out", help="Folder to write, new or empty; of several recipes, one for each in it."),
    ],
    source: Annotated[list[str] | None, typer.Option("--source", help="NAME=FOLDER, of a recipe.")] = None,
    numerics: Annotated[
        Literal["accurate", "mergekit"],
        typer.Option(help="fp32 and one rounding; or, for a mergekit YAML, the bits that mergekit 0.1.5 gives."),
    ] = "accurate",
    lora_merge_dtype: Annotated[
        Literal["bfloat16", "float16", "float32"] | None,
        typer.Option(help="With mergekit numerics: round models with an adapter to this; default, their own dtype."),
    ] = None,
) -> None:
    """Write the checkpoint of a recipe, or of a mergekit YAML; of several, in one pass."""
    from crossbreed.runs import merge_recipe, merge_recipes

    if len(recipes) == 1:
        merge_recipe(recipes[0], out, sources=source or [], numerics=numerics, lora_dtype=lora_merge_dtype)
    else:
        merge_recipes(recipes, out, sources=source or [], numerics=numerics, lora_dtype=lora_merge_dtype)


@app.command()
def evaluate(
    model: Annotated[str, typer.Argument(help="Checkpoint folder or hub id.")],
    spec: Annotated[Path, typer.Option(help="Whose tasks, splits and engine to use.")],
    split: Annotated[Literal["search", "select", "report"], typer.Option(help="Which items.")] = "search",
    as_json: AsJson = False,
    set_: Overrides = None,
) -> None:
    """Score one checkpoint on a spec's tasks."""
    from crossbreed.runs import evaluate_model, load_spec

    result = evaluate_model(model, load_spec(spec, set_ or []), split=split)
    if as_json:
        _print_json(result)
    else:
        for name, task in result["tasks"].items():
            typer.echo(f"{name:20} {task['mean']:.4f}  [{task['low']:.4f}, {task['high']:.4f}]  n={task['n']}")


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """What works on this machine and what does not."""
    from crossbreed.runs.doctor import examine, render

    findings = examine()
    if as_json:
        _print_json(findings)
    else:
        typer.echo(render(findings))


_STOPS = (signal.SIGINT, signal.SIGTERM)


def main() -> None:
    """Runs the command; exit codes: 0 done, 1 the machine's fault, 2 the user's input, 130 Ctrl-C or SIGTERM."""
    for number in _STOPS:
        signal.signal(number, _interrupt)
    try:
        code = app(standalone_mode=False)
        if code == 130:
            raise KeyboardInterrupt  # which typer has made a code of
    except InputError as error:
        code = _fail(2, str(error))
    except (CrossbreedError, OSError) as error:
        code = _fail(1, str(error))
    except (KeyboardInterrupt, typer.Abort):
        code = _fail(130, "stopped; give the same command again")
    except Exception as error:
        show = getattr(error, "show", None)  # click's own: a wrong option or argument
        if show is None:
            raise
        show()
        code = 2
    sys.stdout.flush()
    sys.exit(code or 0)


def _interrupt(signum: int, frame: FrameType | None) -> None:
    """The first Ctrl-C unwinds, so that workers stop; the second ends the process: the journal needs no goodbye."""
    for number in _STOPS:
        signal.signal(number, lambda *_: os._exit(130))
    raise KeyboardInterrupt


def _fail(code: int, message: str) -> int:
    typer.echo(f"crossbreed: {message}", err=True)
    return code


def _print_json(value: Any) -> None:  # any JSON value
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False))


if __name__ == "__main__":
    main()
