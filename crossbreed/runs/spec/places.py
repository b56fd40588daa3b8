"""Where the keys of a spec stand: in a line of its file, or in an argument `--set`."""

from collections.abc import Mapping, Sequence

from crossbreed.yaml_files import Lines


class Places:
    """The origins of a raw spec."""

    def __init__(
        self, where: str, *, text: str = "", overrides: Mapping[tuple[int | str, ...], str] | None = None
    ) -> None:
        """Knows a file's keys.

        Args:
            where: The file, or what stands for it in messages.
            text: Its content; empty if the spec was made in Python.
            overrides: Keys -> the `--set` that has written them.
        """
        self.where = where
        self._overrides = overrides or {}
        self._lines = Lines(text) if text else None

    def of(self, keys: Sequence[int | str]) -> str:
        """Returns the argument or the file and line that the value at these keys is from."""
        for changed in sorted(self._overrides, key=len, reverse=True):
            if tuple(keys[: len(changed)]) == changed:
                return self._overrides[changed]
        line = self.line(keys)
        return f"{self.where}, line {line}" if line else self.where

    def line(self, keys: Sequence[int | str]) -> int | None:
        """Returns the line of the value at these keys, or of the nearest around it; None without any."""
        return self._lines.of(keys) if self._lines and keys else None
