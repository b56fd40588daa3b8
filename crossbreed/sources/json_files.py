"""JSON files in models' folders. They come from strangers, so a reader says what is wrong with one in a line.

Every configuration, index and generation setting of a source is read here: regular files of a bounded size, objects of
a bounded depth, no key twice, no number of thousands of digits. `Infinity` and `NaN` are not JSON, but Mamba's and
Nemotron's configurations hold them and transformers reads them: they are taken as they are.
"""

import os
from pathlib import Path
from typing import Any

from crossbreed.errors import InputError
from crossbreed.json_text import parse_json
from crossbreed.parsing import type_name
from crossbreed.text_files import regular_text

MAX_BYTES = 64 << 20
"""The largest index of a published model takes 15 MB."""
DOWNLOAD_AGAIN = "download or copy it again, whole (for a clone: `git lfs pull`)"


def read_json(path: Path) -> dict[str, Any]:
    """Returns the JSON object in `path`.

    Raises:
        InputError: there is no such file, it is larger or deeper than any that a model needs, or no JSON object.
    """
    try:
        value = parse_json(regular_text(path, max_bytes=MAX_BYTES))
    except FileNotFoundError:
        raise InputError(
            f"`{path.name}` is missing",
            expected="a JSON object",
            got="no such file",
            where=str(path),
            fix="name the folder that `save_pretrained` wrote, whole",
        ) from None
    except (OSError, ValueError) as error:
        problem, got = "cannot read a source's JSON file", str(error) or type(error).__name__
    else:
        if isinstance(value, dict):
            return value
        problem, got = "a source's JSON file holds no object", type(value).__name__
    raise InputError(problem, expected="a JSON object", got=got, where=str(path), fix=DOWNLOAD_AGAIN)


def read_json_if_there(path: Path) -> dict[str, Any]:
    """Returns the JSON object in `path`, an empty one where there is no such file.

    Raises:
        InputError: as `read_json`.
    """
    return read_json(path) if os.path.lexists(path) else {}


def require_text(config: dict[str, Any], key: str, *, where: Path) -> None:
    """Checks that a key of a configuration holds text, where it is there and not null.

    Raises:
        InputError: something else stands there.
    """
    if not isinstance(config.get(key), str | None):
        raise _other_kind(key, "is no text", "a text", config[key], where)


def require_texts(config: dict[str, Any], key: str, *, where: Path) -> None:
    """Checks that a key of a configuration holds a list of texts, where it is there and not null.

    Raises:
        InputError: something else stands there.
    """
    value = config.get(key)
    if value is not None and not (isinstance(value, list) and all(isinstance(one, str) for one in value)):
        raise _other_kind(key, "is no list of texts", "a list of texts", value, where)


def mapping_at(config: dict[str, Any], key: str, *, where: Path) -> dict[str, Any]:
    """Returns the mapping under a key of a configuration, an empty one where it is absent or null.

    Raises:
        InputError: something else stands there.
    """
    value = config.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise _other_kind(key, "is no mapping", "keys and values", value, where)
    return value


def _other_kind(key: str, problem: str, expected: str, value: Any, where: Path) -> InputError:  # any JSON value
    return InputError(
        f"`{key}` {problem}",
        expected=expected,
        got=type_name(value),
        where=str(where),
        fix="copy the file again from where the model came from",
    )
