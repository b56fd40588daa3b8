"""Options and arguments that several commands have."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from crossbreed.cli import completing

SpecPath = Annotated[
    Path, typer.Argument(help="The spec, a YAML file.", metavar="SPEC.yaml", autocompletion=completing.specs)
]
RunPath = Annotated[Path, typer.Argument(help="A run folder.", metavar="RUN", autocompletion=completing.runs)]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on stdout, nothing else.")]
Overrides = Annotated[list[str] | None, typer.Option("--set", help="dotted.key=value; may be repeated.")]
Out = Annotated[Path, typer.Option("--out", help="Output folder, new or empty.")]
As = Annotated[Literal["checkpoint", "adapter"], typer.Option("--as", help="A checkpoint, or a LoRA adapter.")]
Rank = Annotated[int | None, typer.Option(min=1, help="Of an adapter: cut each matrix to this rank.")]
