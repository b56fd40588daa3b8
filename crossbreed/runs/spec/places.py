"""Where the keys of a spec stand: in a line of its file, or in an argument `--set`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from crossbreed.yaml_files import line_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """The origins of a raw spec."""

    where: str
    """The file, or what stands for it in messages."""
    text: str = ""
    """Its content; empty if the spec was made in Python."""
    overrides: Mapping[tuple[int | str, ...], str] = field(default_factory=dict)
    """Keys -> the `--set` that has written them."""

    def of(self, keys: Sequence[int | str]) -> str:
        """Returns the argument or the file and line that the value at these keys is from."""
        for changed in sorted(self.overrides, key=len, reverse=True):
            if tuple(keys[: len(changed)]) == changed:
                return self.overrides[changed]
        line = self.line(keys)
        return f"{self.where}, line {line}" if line else self.where

    def line(self, keys: Sequence[int | str]) -> int | None:
        """Returns the line of the value at these keys, or of the nearest around it; None without any."""
        return line_of(self.text, keys) if self.text and keys else None
