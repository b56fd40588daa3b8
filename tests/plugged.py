"""Packages that bring parts: modules on disk, announced by entry points as pip would write them."""

from collections.abc import Mapping
from pathlib import Path


def write_package(
    folder: Path, name: str, *, files: Mapping[str, str], entry_points: Mapping[str, Mapping[str, str]]
) -> Path:
    """Writes what an installed package looks like, and returns the folder for `sys.path`.

    Args:
        folder: Where; several packages may share one.
        name: Of the distribution; its version is 1.0.
        files: File -> its text.
        entry_points: Group -> name -> `module:attribute`.
    """
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    lines = [
        f"[{group}]\n" + "".join(f"{n} = {v}\n" for n, v in found.items()) for group, found in entry_points.items()
    ]
    (info / "entry_points.txt").write_text("\n".join(lines))
    for file, text in files.items():
        (folder / file).write_text(text)
    return folder
