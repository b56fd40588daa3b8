"""The command line: parses arguments and calls `crossbreed.runs`; `ending` maps errors to exit codes.

Each command imports what it needs when it is called: `crossbreed --help` waits for no library.
"""

from collections.abc import Callable
from functools import partial
from typing import Annotated

import typer

from crossbreed.cli import machine, models, runs, specs
from crossbreed.cli.ending import end
from crossbreed.cli.output import STOP

_COMMANDS: tuple[Callable[..., None], ...] = (
    *(runs.run, specs.check, runs.show, runs.report, runs.compare, runs.export, runs.dashboard),
    *(machine.serve, models.publish, models.merge, models.regress, models.evaluate),
    *(specs.list_, specs.init, specs.import_, specs.schema, models.inspect, machine.doctor),
)
"""In the order of `crossbreed --help`."""


def _print_version(is_asked: bool) -> None:
    if is_asked:
        from importlib.metadata import version

        typer.echo(f"crossbreed {version('crossbreed')}")
        raise typer.Exit


def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Breeds merged language models: search over merge recipes, scored on your own items."""


def _app() -> typer.Typer:
    made = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None)
    made.callback()(_options)
    for command in _COMMANDS:
        made.command(command.__name__.rstrip("_"))(command)
    return made


app = _app()


def main() -> None:
    """Runs the command; see `ending` for the exit codes."""
    end(partial(app, standalone_mode=False), STOP)
