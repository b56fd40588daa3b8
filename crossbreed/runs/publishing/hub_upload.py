"""Uploads a published folder to the Hugging Face hub."""

from collections.abc import Mapping
from glob import escape
from pathlib import Path
from typing import Protocol

from crossbreed.errors import InputError, first_line
from crossbreed.runs.publishing.manifest import RECORD_FILE, published_folder


class Hub(Protocol):
    """The part of `huggingface_hub.HfApi` that publishing uses."""

    def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> object:
        """Creates the repository, unless it exists."""
        ...

    def upload_folder(
        self, *, repo_id: str, folder_path: str, allow_patterns: list[str], commit_message: str
    ) -> object:
        """Uploads changed files whose names match a pattern."""
        ...


def push(
    folder: Path,
    repo_id: str,
    *,
    private: bool = True,
    dry_run: bool = False,
    is_verified: bool = False,
    hub: Hub | None = None,
) -> str:
    """Uploads the files that a published folder lists, and nothing else in it.

    Args:
        folder: A folder written by `publish_checkpoint`.
        repo_id: `org/name`.
        private: Whether a new repository is visible only to its owner.
        dry_run: Upload nothing, only list what would be uploaded.
        is_verified: The caller has just compared the folder's files with its list, or has just written them.
        hub: The hub's client; default: the Hugging Face hub.

    Returns:
        The address; for a dry run, the files with their sizes.

    Raises:
        InputError: the folder is not a published checkpoint, it has changed, or the hub rejects the upload.
    """
    published = published_folder(folder)
    if published is None:
        raise InputError(
            "this folder was not published by crossbreed",
            expected=f"{RECORD_FILE} beside the weights",
            where=str(folder),
            fix="crossbreed publish RUN --out DIR",
        )
    if not is_verified:
        published.verify()
    if dry_run:
        return upload_listing(published.uploads, repo_id, private=private)
    try:
        if hub is None:
            from huggingface_hub import HfApi

            hub = HfApi()
        hub.create_repo(repo_id, private=private, exist_ok=True)
        hub.upload_folder(
            repo_id=repo_id,
            folder_path=str(folder),
            allow_patterns=[escape(name) for name in published.uploads],
            commit_message="Publish a merge",
        )
    except (OSError, ValueError) as error:  # every error of the hub client is one of the two
        raise InputError(
            "the hub rejected the upload",
            expected="a token with write access to this repository",
            got=f"{type(error).__name__}: {first_line(error)}",
            where=repo_id,
            fix="run `hf auth login` and check ORG/NAME; the same command continues where it stopped",
        ) from error
    return f"https://huggingface.co/{repo_id}"


def upload_listing(sizes: Mapping[str, int], repo_id: str, *, private: bool = True) -> str:
    """Returns what an upload would send: `sizes` is name -> bytes."""
    lines = [f"{size:>15,}  {name}" for name, size in sizes.items()]
    visible = "private" if private else "public"
    return "\n".join([f"would upload to {repo_id} ({visible}):", *lines, f"{sum(sizes.values()):>15,}  bytes"])
