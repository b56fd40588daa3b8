"""Commands of a run: start it, look at it, report, compare, export."""

import shlex
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from crossbreed.cli.options import AsJson, Overrides, RunPath, SpecPath
from crossbreed.cli.output import STOP, print_json, shown
from crossbreed.errors import InputError


def run(
    spec: SpecPath,
    out: Annotated[Path | None, typer.Option("--out", help="Run folder; default runs/NAME.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Number of workers.")] = None,
    set_: Overrides = None,
) -> None:
    """Start a run, or resume it where it stopped."""
    overrides = [*(set_ or []), *([f"workers.count={workers}"] if workers else [])]
    with shown(doing=f"reading {spec}") as show:
        from crossbreed.runs import load_spec, run  # seconds

        loaded = load_spec(spec, overrides, with_items=True)
        run(loaded, out or Path("runs") / loaded.name, on_event=show)


def show(
    run: RunPath,
    as_json: AsJson = False,
    trial: Annotated[int | None, typer.Option(help="One trial in full.")] = None,
    answers: Annotated[bool, typer.Option("--answers", help="With --trial: what was asked and answered.")] = False,
    wrong: Annotated[bool, typer.Option("--wrong", help="With --answers: those that are not right.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Keep it up to date until the run ends, or Ctrl-C.")] = False,
) -> None:
    """Show state, archive, best trials and baselines of a run."""
    if watch:
        if as_json or answers or wrong or trial is not None:
            raise InputError("--watch shows the whole run, for people", expected="--watch alone")
        from crossbreed.runs.results.watch import Watched
        from crossbreed.terminal import line_width
        from crossbreed.terminal import watch as show_text_live

        with STOP.as_end():
            show_text_live(Watched(run, width=line_width).look)
        return
    from crossbreed.runs.results.show import show_json, show_text, show_trial

    if trial is not None and as_json:
        raise InputError(
            "--json shows all trials",
            expected="--json, or --trial N",
            got="both",
            fix=f"for items and answers: crossbreed export {shlex.quote(str(run))} --csv items.csv --items",
        )
    if (answers and trial is None) or (wrong and not answers):
        raise InputError("answers are of one trial", expected="--trial N --answers, with or without --wrong")
    if trial is not None:
        typer.echo(show_trial(run, trial, answers=answers, only_wrong=wrong))
    elif as_json:
        print_json(show_json(run))
    else:
        from crossbreed.terminal import line_width

        typer.echo(show_text(run, width=line_width()))


def report(
    run: RunPath,
    trial: Annotated[int | None, typer.Option(help="Have this trial answer them, not the winner.")] = None,
) -> None:
    """Answer the report items, and write report.html and report.json."""
    with shown(doing=f"reading {run}") as show:
        from crossbreed.runs import report_on  # seconds

        report_on(run, trial=trial, on_event=show)


def compare(
    models: Annotated[
        list[str],
        typer.Argument(
            help="Run folders, for their winners; RUN:NAME for a baseline, RUN:N for a trial.", metavar="RUN[:MODEL]..."
        ),
    ],
    as_json: AsJson = False,
) -> None:
    """Compare the first model with each of the others, paired on the report items that both answered."""
    from crossbreed.runs.results import compare as comparing

    found = comparing.compare(models)
    if as_json:
        print_json(comparing.comparison_json(found))
    else:
        typer.echo(comparing.comparison_text(found))


def export(
    run: RunPath,
    optuna: Annotated[str | None, typer.Option(help="sqlite:///FILE: a study, as optuna-dashboard opens it.")] = None,
    csv: Annotated[Path | None, typer.Option(help="A new CSV file, a row for each trial.")] = None,
    parquet: Annotated[Path | None, typer.Option(help="A new Parquet file with the same rows.")] = None,
    items: Annotated[
        bool, typer.Option("--items", help="In CSV and Parquet: a row for each item that a trial answered.")
    ] = False,
) -> None:
    """Write the trials of a run for other tools."""
    from crossbreed.runs.exports.export import export_run

    with_note = partial(typer.echo, err=True)
    for file in export_run(run, optuna=optuna, csv=csv, parquet=parquet, items=items, on_note=with_note):
        typer.echo(f"wrote {file}")


def dashboard(
    run: RunPath,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Default: 8765, or a free one where that is taken.")
    ] = None,
) -> None:
    """Serve a live, read-only page of a run on this machine, until Ctrl-C."""
    from crossbreed.runs.page.server import serve

    with STOP.as_end():
        serve(
            run,
            port=port,
            on_start=lambda url: typer.echo(f"{url}   (Ctrl-C ends it; the run goes on)"),
            on_wait=typer.echo,
        )
