"""From what the user wrote to a folder: a local path, or a hub id with an optional revision."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from crossbreed.cache import expanded
from crossbreed.errors import InputError, first_line, require
from crossbreed.parsing import suggestion

_HUB_ID = re.compile(r"(?P<id>[\w.-]+/[\w.-]+)(?:@(?P<revision>\S+))?")
_WANTED = ["*.safetensors", "*.json", "*.jinja", "*.model", "*.txt", "README.md"]
MODEL_FILES = ("config.json", "adapter_config.json")
"""One of them is in every model's folder."""
_UNWANTED = ["*/*", "consolidated*"]
"""Other formats of the same weights, which some repositories carry beside the ordinary ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceLocation:
    """Where a source lies, and how others can find it."""

    path: Path
    """Its folder; for a hub source, the snapshot in the hub's cache."""
    hub_id: str | None = None
    """`org/name`, None for a local folder."""
    revision: str | None = None
    """The commit that the hub id stood for when it was opened."""

    @property
    def reference(self) -> str:
        """What to write to open exactly this source again."""
        return f"{self.hub_id}@{self.revision}" if self.hub_id else str(self.path)


def locate(source: str) -> SourceLocation:
    """Returns the folder of `source`, downloading it from the hub if it is no local folder.

    Only safetensors, configuration, tokenizer and card are fetched; what the hub's cache has is not fetched again.

    Args:
        source: A local folder, or `org/name`, or `org/name@revision` (branch, tag or commit).

    Raises:
        InputError: it is neither, or the hub does not give it.
    """
    folder = expanded(source)
    if os.path.isdir(folder):  # unlike Path's own, it raises for no name
        folder = folder.resolve()
        _check_folder(folder)
        return SourceLocation(path=folder)
    named = _HUB_ID.fullmatch(source)
    is_path = source.startswith((".", "~")) or folder.is_symlink() or is_beside_others(source, folder)
    if os.path.exists(folder) or named is None or is_path:
        raise InputError(
            f"`{source}` is not a model folder",
            expected="a folder with config.json and safetensors weights, or a hub id `org/name[@revision]`",
            got="a file" if os.path.exists(folder) else "no such folder",
            where=str(folder.absolute()),
            fix=_fix_for_path(source, folder),
        )
    return _download(named["id"], named["revision"])


def is_beside_others(source: str, folder: Path) -> bool:
    """Returns whether `a/b` is meant as a path: there is a folder `a`. A revision says that the hub's is."""
    return "@" not in source and source.count("/") == 1 and folder.parent.is_dir()


def _check_folder(folder: Path) -> None:
    """Refuses folders that hold no model, and pipes and devices: whoever opens those waits for ever."""
    for path in (*folder.iterdir(), *folder.glob("additional_chat_templates/*")):
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise InputError(
                f"`{path.name}` is neither a file nor a folder",
                expected="a model's files",
                where=str(folder),
                fix="remove it",
            )
    if not any((folder / name).exists() for name in MODEL_FILES):
        inside = [str(path) for path in _models_inside(folder)]
        raise InputError(
            f"`{folder}` holds no model",
            expected=" or ".join(MODEL_FILES),
            got=", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "an empty folder",
            where=str(folder),
            fix=f"did you mean {' or '.join(inside[:3])}?"
            if inside
            else "name the folder that `save_pretrained` wrote",
        )


def _fix_for_path(source: str, folder: Path) -> str:
    names = sorted(path.name for path in folder.parent.iterdir()) if folder.parent.is_dir() else []
    near = suggestion(folder.name, names)
    hub = f"; for the hub's model of that name write {source}@main" if is_beside_others(source, folder) else ""
    return (near or "name the folder itself; a path in a spec starts at the spec's folder") + hub


def _models_inside(folder: Path) -> Iterator[Path]:
    """Yields the snapshots of a folder of the hub's cache, `main`'s first; the adapters that PEFT saved by name."""
    main = folder / "refs" / "main"
    first = main.read_text().strip() if main.is_file() else ""
    snapshots = sorted(folder.glob("snapshots/*"), key=lambda path: (path.name != first, path.name))
    for inner in (*snapshots, *sorted(folder.glob("*"))):
        if any((inner / name).is_file() for name in MODEL_FILES):
            yield inner


def _download(hub_id: str, revision: str | None) -> SourceLocation:
    require("huggingface_hub", extra="torch")
    from huggingface_hub import snapshot_download

    try:
        snapshot = snapshot_download(hub_id, revision=revision, allow_patterns=_WANTED, ignore_patterns=_UNWANTED)
    except (OSError, ValueError) as error:  # every error of the hub client is one of the two
        raise InputError(
            f"`{hub_id}` is neither a local folder nor a model that the hub gives",
            expected="a local folder, or a public (or permitted) model repository",
            got=f"{type(error).__name__}: {first_line(error)}",
            where=f"no folder {expanded(hub_id).absolute()}, then the hub's {hub_id}@{revision or 'main'}",
            fix=f"for a folder write ./{hub_id} (in a spec, paths start at its folder); for the hub's, check name and "
            "revision, `hf auth login` for a private one; offline, it must be in the hub's cache",
        ) from error
    return SourceLocation(path=Path(snapshot), hub_id=hub_id, revision=Path(snapshot).name)
