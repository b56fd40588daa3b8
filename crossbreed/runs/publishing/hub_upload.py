"""Uploads a published folder to the Hugging Face hub."""

import json
from pathlib import Path
from typing import Protocol

from crossbreed.errors import InputError


class Hub(Protocol):
    """The part of `huggingface_hub.HfApi` that publishing uses."""

    def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> object:
        """Creates the repository, unless it exists."""
        ...

    def upload_folder(self, *, repo_id: str, folder_path: str, commit_message: str) -> object:
        """Uploads changed files."""
        ...


def published_fingerprint(out: Path) -> str | None:
    """Returns the fingerprint of a published folder; None for any other."""
    record = out / "crossbreed.json"
    return str(json.loads(record.read_text())["fingerprint"]) if record.is_file() else None


def push(folder: Path, repo_id: str, *, private: bool = True, dry_run: bool = False, hub: Hub | None = None) -> str:
    """Uploads a published folder to the hub.

    Args:
        folder: A folder written by `publish_checkpoint`.
        repo_id: `org/name`.
        private: Whether a new repository is visible only to its owner.
        dry_run: Upload nothing, only list what would be uploaded.
        hub: The hub's client; default: the Hugging Face hub.

    Returns:
        The address; for a dry run, the files with their sizes.

    Raises:
        InputError: the folder is not a published checkpoint, or the hub rejects the upload.
    """
    if not (folder / "crossbreed.json").is_file() or not (folder / "README.md").is_file():
        raise InputError(
            "this folder was not published by crossbreed",
            expected="crossbreed.json and README.md beside the weights",
            where=str(folder),
            fix="crossbreed publish RUN --out DIR",
        )
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    if dry_run:
        lines = [f"{path.stat().st_size:>15,}  {path.relative_to(folder)}" for path in files]
        total = sum(path.stat().st_size for path in files)
        visible = "private" if private else "public"
        return "\n".join([f"would upload to {repo_id} ({visible}):", *lines, f"{total:>15,}  bytes"])
    try:
        if hub is None:
            from huggingface_hub import HfApi

            hub = HfApi()
        hub.create_repo(repo_id, private=private, exist_ok=True)
        hub.upload_folder(repo_id=repo_id, folder_path=str(folder), commit_message="Publish a merge")
    except (OSError, ValueError) as error:  # every error of the hub client is one of the two
        raise InputError(
            "the hub rejected the upload",
            expected="a token with write access to this repository",
            got=f"{type(error).__name__}: {str(error).strip().splitlines()[0]}",
            where=repo_id,
            fix="run `hf auth login` and check ORG/NAME; the same command continues where it stopped",
        ) from error
    return f"https://huggingface.co/{repo_id}"
