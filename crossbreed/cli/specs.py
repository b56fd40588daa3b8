"""Commands before a run: what a spec asks, what it may name, and a first one."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from crossbreed.cli import completing
from crossbreed.cli.options import AsJson, Overrides, SpecPath
from crossbreed.cli.output import print_json


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
    """Validate a spec in seconds, without an engine, and show what will be asked and what it costs."""
    from crossbreed.cli.checking import checked

    typer.echo(checked(spec, set_ or [], answer=answer, resolved=resolved, as_json=as_json))


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
    print_json(found) if as_json else typer.echo(render(found))


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
    path = shlex.quote(str(out))
    typer.echo(f"{out}: `crossbreed check {path}` shows what will be asked; `crossbreed run {path}` starts", err=True)


def import_(
    file: Annotated[Path, typer.Argument(help="A configuration of mergekit-evolve.", metavar="EVOLVE.yml")],
    out: Annotated[Path, typer.Option("--out", help="The spec to write; never one that exists.")] = Path("spec.yaml"),
    trials: Annotated[int, typer.Option(min=1, help="Its --max-fevals.")] = 100,
    sigma0: Annotated[float, typer.Option(min=0.001, max=1.5, help="Its --sigma0.")] = 1 / 6,
    popsize: Annotated[int | None, typer.Option(min=4, help="Its --force-population-size.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Its --random-seed; here of everything.")] = 0,
    tasks: Annotated[Path | None, typer.Option(help="Its --task-search-path.")] = None,
    vllm: Annotated[bool, typer.Option("--vllm", help="Its --vllm.")] = False,
) -> None:
    """Write the spec of a configuration of mergekit-evolve."""
    from crossbreed.runs.drafting.evolve import Arguments, import_evolve

    given = Arguments(trials=trials, sigma0=sigma0, popsize=popsize, seed=seed, tasks=tasks, is_vllm=vllm)
    for remark in import_evolve(file, out=out, arguments=given).remarks:
        typer.echo(f"differs  {remark.what}: {remark.why}", err=True)
    path = shlex.quote(str(out))
    typer.echo(f"{out}: `crossbreed check {path}` shows what will be asked; `crossbreed run {path}` starts", err=True)


def schema() -> None:
    """Print the JSON schema of specs, for editors."""
    from crossbreed.runs.spec.json_schema import schema_text

    typer.echo(schema_text(), nl=False)
