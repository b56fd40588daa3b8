"""Commands of a machine: serve merges to others, and say what works on it."""

import sys
from contextlib import ExitStack
from typing import Annotated

import typer

from crossbreed.cli.options import AsJson, Overrides, SpecPath
from crossbreed.cli.output import STOP, print_json


def serve(
    spec: SpecPath,
    host: Annotated[str | None, typer.Option(help="The address to listen at; default: the spec's.")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="0: any free one; default: the spec's.")] = None,
    set_: Overrides = None,
) -> None:
    """Serve merges of the spec's sources to clients, who see answers and no weights, until Ctrl-C."""
    from crossbreed.terminal import Terminal

    given = [f"serve.{name}={value}" for name, value in (("host", host), ("port", port)) if value is not None]
    with STOP.as_end(), ExitStack() as starting:
        starting.enter_context(Terminal(sys.stderr, doing=f"opening {spec}"))
        from crossbreed.runs.spec.provider import load_provider_spec
        from crossbreed.service import require_packages

        require_packages()
        from crossbreed.service.server import serve_spec  # seconds

        def on_start(line: str) -> None:
            starting.close()
            typer.echo(line)

        serve_spec(load_provider_spec(spec, [*(set_ or []), *given]), on_start=on_start)


def doctor(as_json: AsJson = False) -> None:
    """Show what works on this machine and what does not."""
    from crossbreed.runs.doctor import examine, render

    findings = examine()
    print_json(findings) if as_json else typer.echo(render(findings))
