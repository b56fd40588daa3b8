"""An artifact: safetensors files that are mapped, and together have a content hash."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Self

from crossbreed.errors import InputError
from crossbreed.sources.files import Shards, open_shards
from crossbreed.sources.hashes import digests_of, hash_of
from crossbreed.sources.pages import MappedPages

SUFFIX = ".safetensors"


@dataclass(frozen=True, eq=False, kw_only=True)
class Artifact:
    """Files, opened: together they are one artifact."""

    name: ClassVar[str]
    """What a recipe calls it."""
    title: ClassVar[str]
    """What messages call what is in the files, in the plural."""
    shards: Shards

    @classmethod
    def open(cls, *paths: Path) -> Self:
        """Maps its files.

        Raises:
            InputError: there is no such file, or it is broken.
        """
        for path in paths:
            if not path.is_file():
                raise InputError(f"no such file of {cls.title}", expected=f"a {SUFFIX} file", got=str(path))
        opened = (open_shards(path.parent, stem=path.name.removesuffix(SUFFIX)) for path in paths)
        return cls(shards={file: tensors for shards in opened for file, tensors in shards.items()})

    @cached_property
    def hash(self) -> str:
        """Content hash: the same for every copy, in however many files."""
        digests = (digest for file, held in self.shards.items() for digest in digests_of(file, held).items())
        return hash_of(f"{name} {digest}" for name, digest in digests)

    @property
    def where(self) -> str:
        """The files, for messages."""
        return ", ".join(map(str, self.shards))

    @cached_property
    def _pages(self) -> MappedPages:
        return MappedPages(file.path for file in self.shards)
