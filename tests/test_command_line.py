"""The command line: its flags change on purpose alone, and what it shows is what the library found."""

import inspect
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from typer.models import ArgumentInfo, CommandInfo, OptionInfo
from typer.testing import CliRunner

from crossbreed.cli import app

FROZEN = Path(__file__).parent / "golden/command_line.txt"


def command_line() -> str:
    """Every command with its arguments and options: names, types, defaults, help."""
    assert app.registered_callback is not None
    commands = [CommandInfo(name="OPTION", callback=app.registered_callback.callback), *app.registered_commands]
    return "\n".join(line for command in commands for line in described(command.name, command.callback))


def described(name: str | None, callback: Any) -> Iterator[str]:
    yield f"crossbreed {name or callback.__name__}: {inspect.cleandoc(callback.__doc__)}"
    hints = get_type_hints(callback, include_extras=True)
    for parameter in inspect.signature(callback).parameters.values():
        kind, (info,) = get_args(hints[parameter.name])[0], hints[parameter.name].__metadata__
        yield f"  {'  '.join([called(parameter.name, info), shown(kind), default(parameter)])}\n      {info.help}"
    yield ""


def called(name: str, info: ArgumentInfo | OptionInfo) -> str:
    if isinstance(info, ArgumentInfo):
        return info.metavar or name.upper()
    flags = [info.default, *(info.param_decls or ())] if isinstance(info.default, str) else info.param_decls
    return ", ".join(flags or ()) or f"--{name.replace('_', '-')}"


def shown(kind: Any) -> str:
    """The type in words, the same in every version of Python."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Literal:
        return " or ".join(map(str, inner))
    if origin is list:
        return f"several of {shown(inner[0])}"
    if origin in (Union, UnionType):
        return " or ".join(shown(option) for option in inner if option is not NoneType)
    return str(kind.__name__)


def default(parameter: inspect.Parameter) -> str:
    return "required" if parameter.default is parameter.empty else f"default {parameter.default!r}"


def test_the_version_is_the_packages() -> None:
    said = CliRunner().invoke(app, ["--version"])
    assert (said.exit_code, said.stdout) == (0, f"crossbreed {version('crossbreed')}\n")


def test_command_line_is_frozen() -> None:
    assert command_line() == FROZEN.read_text(), "if the change is meant: python tests/test_command_line.py"


if __name__ == "__main__":
    FROZEN.write_text(command_line())
