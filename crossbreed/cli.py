"""The command line: parses arguments and calls `crossbreed.runs`; `cli_exit` maps errors to exit codes."""

import json
import shlex
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from crossbreed import completing
from crossbreed.cli_exit import end
from crossbreed.errors import InputError
from crossbreed.stopping import Stop
from crossbreed.types import Dtype

if TYPE_CHECKING:
    from crossbreed.runs.events import Event, Listener

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None)


def _print_version(is_asked: bool) -> None:
    if is_asked:
        from importlib.metadata import version

        typer.echo(f"crossbreed {version('crossbreed')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Breeds merged language models: search over merge recipes, scored on your own items."""


SpecPath = Annotated[
    Path, typer.Argument(help="The spec, a YAML file.", metavar="SPEC.yaml", autocompletion=completing.specs)
]
RunPath = Annotated[Path, typer.Argument(help="A run folder.", metavar="RUN", autocompletion=completing.runs)]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on stdout, nothing else.")]
Overrides = Annotated[list[str] | None, typer.Option("--set", help="dotted.key=value; may be repeated.")]
Out = Annotated[Path, typer.Option("--out", help="Output folder, new or empty.")]
As = Annotated[Literal["checkpoint", "adapter"], typer.Option("--as", help="A checkpoint, or a LoRA adapter.")]
Rank = Annotated[int | None, typer.Option(min=1, help="Of an adapter: cut each matrix to this rank.")]


@app.command()
def run(
    spec: SpecPath,
    out: Annotated[Path | None, typer.Option("--out", help="Run folder; default runs/NAME.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Number of workers.")] = None,
    set_: Overrides = None,
) -> None:
    """Start a run, or resume it where it stopped."""
    overrides = [*(set_ or []), *([f"workers.count={workers}"] if workers else [])]
    with _shown(doing=f"reading {spec}") as show:
        from crossbreed.runs import load_spec, run  # seconds

        loaded = load_spec(spec, overrides, with_items=True)
        run(loaded, out or Path("runs") / loaded.name, on_event=show)


@app.command()
def check(
    spec: SpecPath,
    answer: Annotated[
        bool, typer.Option("--answer", help="Start the engine: the base answers, and the time of a trial is measured.")
    ] = False,
    resolved: Annotated[
        bool, typer.Option("--resolved", help="Only print the whole spec, with defaults and preset filled in.")
    ] = False,
    as_json: AsJson = False,
    set_: Overrides = None,
) -> None:
    """Validate a spec in seconds, without an engine, and show what will be asked or served, and what it costs."""
    from crossbreed.cli_check import checked

    typer.echo(checked(spec, set_ or [], answer=answer, resolved=resolved, as_json=as_json))


@app.command()
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
        if as_json or trial is not None:
            raise InputError("--watch shows the whole run, for people", expected="--watch alone")
        from crossbreed.runs.results.watch import Watched
        from crossbreed.terminal import watch as show_text_live

        with _stop.as_end():
            show_text_live(Watched(run).look)
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
        _print_json(show_json(run))
    else:
        typer.echo(show_text(run))


@app.command()
def report(
    run: RunPath,
    trial: Annotated[int | None, typer.Option(help="Have this trial answer them, not the winner.")] = None,
) -> None:
    """Answer the report items, and write report.html and report.json."""
    with _shown(doing=f"reading {run}") as show:
        from crossbreed.runs import report_on  # seconds

        report_on(run, trial=trial, on_event=show)


@app.command()
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
        _print_json(comparing.comparison_json(found))
    else:
        typer.echo(comparing.comparison_text(found))


@app.command()
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


@app.command()
def dashboard(
    run: RunPath,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Default: 8765, or a free one where that is taken.")
    ] = None,
) -> None:
    """Serve a live, read-only page of a run on this machine, until Ctrl-C."""
    from crossbreed.runs.page.server import serve

    with _stop.as_end():
        serve(
            run,
            port=port,
            on_start=lambda url: typer.echo(f"{url}   (Ctrl-C ends it; the run goes on)"),
            on_wait=typer.echo,
        )


@app.command()
def serve(
    spec: SpecPath,
    host: Annotated[str | None, typer.Option(help="The address to listen at; default: the spec's.")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="0: any free one; default: the spec's.")] = None,
    set_: Overrides = None,
) -> None:
    """Serve merges of the spec's sources to clients, who see answers and no weights, until Ctrl-C."""
    from crossbreed.terminal import Terminal

    given = [f"serve.{name}={value}" for name, value in (("host", host), ("port", port)) if value is not None]
    with _stop.as_end(), ExitStack() as starting:
        starting.enter_context(Terminal(sys.stderr, doing=f"opening {spec}"))
        from crossbreed.runs.spec.provider import load_provider_spec
        from crossbreed.service import require_packages

        require_packages()
        from crossbreed.service.server import serve_spec  # seconds

        def on_start(line: str) -> None:
            starting.close()
            typer.echo(line)

        serve_spec(load_provider_spec(spec, [*(set_ or []), *given]), on_start=on_start)


@app.command()
def publish(
    run: RunPath,
    out: Out,
    trial: Annotated[int | None, typer.Option(help="Publish this trial instead of the winner.")] = None,
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
    with _shown() as show:
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


@app.command()
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
    with _shown() as show:
        options |= {"numerics": numerics, "lora_dtype": lora_merge_dtype, "on_event": show}
        merge_recipe(recipes[0], out, **options) if len(recipes) == 1 else merge_recipes(recipes, out, **options)


@app.command()
def regress(
    models: Annotated[list[str], typer.Argument(help="Or a base and experts.", metavar="SPEC.yaml | MODEL EXPERT...")],
    out: Out,
    set_: Overrides = None,
) -> None:
    """Write a merge by regression, layer by layer, without a search; without a spec, experts write their texts."""
    with _shown() as show:
        from crossbreed.runs.regression.writing import write_regression

        write_regression(models, out, overrides=set_ or [], on_event=show)


@app.command()
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
        _print_json(found.to_json())
    else:
        for name, task in found.tasks.items():
            bounds = f"{task.low:.4f}, {task.high:.4f}" if task.is_known else "not known"
            typer.echo(f"{name:20} {task.mean:.4f}  [{bounds}]  {task.n} {split} items")


@app.command("list")
def list_(
    kind: Annotated[
        str | None,
        typer.Argument(
            help="operators, optimizers, spaces, engines, tasks, metrics or presets.", autocompletion=completing.kinds
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Argument(help="One of them: shows what it takes.", autocompletion=completing.parts)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show the parts that are installed, those of other packages among them, and what each takes."""
    from crossbreed.runs.spec import listing

    if kind is None:
        found, render = listing.list_kinds(), listing.render_kinds
    elif name is None:
        found, render = listing.list_parts(kind), listing.render_list
    else:
        found, render = listing.describe_part(kind, name), listing.render_part
    _print_json(found) if as_json else typer.echo(render(found))


@app.command()
def init(
    model: Annotated[str, typer.Argument(help="The base: a folder or hub id.", metavar="MODEL")],
    experts: Annotated[
        list[str], typer.Argument(help="Fine-tunes of it: checkpoints or adapters.", metavar="EXPERT...")
    ],
    items: Annotated[list[Path], typer.Option("--items", help="A file of items, a task; may be repeated.")],
    out: Annotated[Path, typer.Option("--out", help="The spec to write; never one that exists.")] = Path("spec.yaml"),
    answer_field: Annotated[
        list[str] | None, typer.Option(help="The field of the gold answer; may be repeated for other files.")
    ] = None,
    prompt_field: Annotated[list[str] | None, typer.Option(help="The field of the question; likewise.")] = None,
) -> None:
    """Write a first spec that runs, guessed from models and items."""
    from crossbreed.runs.drafting.draft import write_draft
    from crossbreed.runs.drafting.text import str_of

    draft = write_draft(model, experts, items=items, out=out, answers=answer_field or (), prompts=prompt_field or ())
    for remark in draft.remarks:
        typer.echo(f"guessed  {str_of(remark)}", err=True)
    typer.echo(f"{out}: `crossbreed check {out}` shows what will be asked; `crossbreed run {out}` starts", err=True)


@app.command()
def schema() -> None:
    """Print the JSON schema of specs, for editors."""
    from crossbreed.runs.spec.json_schema import schema_text

    typer.echo(schema_text(), nl=False)


@app.command()
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
    _print_json(found) if as_json else typer.echo(render(found))


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Show what works on this machine and what does not."""
    from crossbreed.runs.doctor import examine, render

    findings = examine()
    _print_json(findings) if as_json else typer.echo(render(findings))


_stop = Stop()


@contextmanager
def _shown(*, doing: str = "") -> "Iterator[Listener]":
    """Yields a listener that shows events, and ends the run at the first one after a Ctrl-C that got lost.

    Args:
        doing: What goes on before the first event.
    """
    from crossbreed.terminal import Terminal

    with Terminal(doing=doing) as show:

        def tell(event: "Event") -> None:
            show(event)
            _stop.check()

        yield tell


def main() -> None:
    """Runs the command; see `cli_exit` for the exit codes."""
    end(partial(app, standalone_mode=False), _stop)


def _print_json(value: Any) -> None:  # any JSON value
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False))


if __name__ == "__main__":
    main()
