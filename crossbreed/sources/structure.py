"""Names, shapes and layers of a checkpoint, without its weights: enough for search spaces, `check` and a service.

It travels as JSON, so that a service can say what it can merge and keep the weights to itself:

    {"schema": 1,
     "base": {"hash": "4f2a...", "tied": true, "tensors": {"model.norm.weight": {"shape": [576], "dtype": "bfloat16"}}},
     "experts": [{"name": "french", "hash": "90c1...", "touched": ["model.norm.weight"], "ranks": {}}]}

Experts are a list, for their order counts. `ranks` is optional. Parsing is strict: whatever is odd is refused here,
never met by a space.
"""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any, TypeVar

from crossbreed.errors import InputError
from crossbreed.parsing import any_of, require_keys, suggestion, type_name
from crossbreed.sources.naming import count_layers
from crossbreed.types import BASE

T = TypeVar("T")

SCHEMA = 1
_FLOATS = ("bfloat16", "float16", "float32", "float64")
_JSON_NAMES: Mapping[type, str] = {dict: "an object", list: "a list", bool: "true or false"}
_DTYPES = (*_FLOATS, "bool", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)))


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorInfo:
    """A tensor's place in a checkpoint file, without its values."""

    shape: tuple[int, ...]
    dtype: str
    """torch's name, for example `bfloat16`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Structure:
    """A base and what its experts change in it."""

    tensors: Mapping[str, TensorInfo]
    """The base's tensors, sorted by name; a tied lm_head is absent."""
    touched: Mapping[str, frozenset[str]]
    """Expert name -> names of the tensors in which it differs from the base."""
    hashes: Mapping[str, str]
    """Source name (`base` and experts) -> content hash."""
    tied: bool
    """lm_head is the input embedding."""
    ranks: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """Expert name -> tensor that it touches -> rank of its factors; of a full checkpoint none. An expert that is absent
    is not known to be the one or the other."""

    @property
    def touched_by_any(self) -> frozenset[str]:
        """Names of the tensors in which some expert differs from the base."""
        return frozenset[str]().union(*self.touched.values())

    @property
    def num_layers(self) -> int:
        """Transformer blocks."""
        return count_layers(self.tensors)

    @property
    def dtype(self) -> str:
        """The floating-point dtype that most of the base's numbers are stored in."""
        counts: Counter[str] = Counter()
        for info in self.tensors.values():
            if "float" in info.dtype:
                counts[info.dtype] += prod(info.shape)
        return counts.most_common(1)[0][0]

    @property
    def experts(self) -> tuple[str, ...]:
        """Expert names in the order of the Spec."""
        return tuple(self.touched)

    def to_json(self) -> dict[str, Any]:
        """Returns the JSON value that `from_json` reads; `crossbreed.sources.structure_json` describes it."""
        return _dump(self)

    @staticmethod
    def from_json(value: Any, *, where: str = "structure") -> "Structure":  # any JSON value
        """Returns the structure that a JSON value describes.

        Args:
            value: The value from a service or a file.
            where: The name of that, for errors.

        Raises:
            InputError: naming the first thing that is wrong, and where.
        """
        return _parse(value, where=where)


def _dump(structure: Structure) -> dict[str, Any]:
    """Returns the JSON value of a structure."""
    tensors = {name: {"shape": list(info.shape), "dtype": info.dtype} for name, info in structure.tensors.items()}
    return {
        "schema": SCHEMA,
        "base": {"hash": structure.hashes[BASE], "tied": structure.tied, "tensors": tensors},
        "experts": [
            {"name": name, "hash": structure.hashes[name], "touched": sorted(touched)}
            | ({"ranks": dict(sorted(structure.ranks[name].items()))} if name in structure.ranks else {})
            for name, touched in structure.touched.items()
        ],
    }


def _parse(value: Any, *, where: str) -> Structure:
    """Returns the structure of a JSON value; see `Structure.from_json`."""
    _require_exactly(value, "schema", "base", "experts", where=where)
    if type(value["schema"]) is not int or value["schema"] != SCHEMA:
        raise _wrong("the structure has another schema", f"{SCHEMA}", value["schema"], where)
    base, where_base = value["base"], f"{where}.base"
    _require_exactly(base, "hash", "tied", "tensors", where=where_base)
    tensors = _tensors(base["tensors"], where=f"{where_base}.tensors")
    hashes = {BASE: _name(base["hash"], where=f"{where_base}.hash")}
    touched: dict[str, frozenset[str]] = {}
    ranks: dict[str, dict[str, int]] = {}
    for index, expert in enumerate(_of(list, value["experts"], where=f"{where}.experts")):
        at = f"{where}.experts[{index}]"
        require_keys(expert, ("name", "hash", "touched", "ranks"), needed=("name", "hash", "touched"), where=at)
        name = _name(expert["name"], where=f"{at}.name")
        if name in hashes:
            raise _wrong("two sources have one name", "a name for each; `base` is the base's", name, f"{at}.name")
        hashes[name] = _name(expert["hash"], where=f"{at}.hash")
        touched[name] = _touched(expert["touched"], tensors, where=f"{at}.touched")
        if "ranks" in expert:
            ranks[name] = _ranks(expert["ranks"], touched[name], where=f"{at}.ranks")
    tied = _of(bool, base["tied"], where=f"{where_base}.tied")
    return Structure(tensors=tensors, touched=touched, hashes=hashes, tied=tied, ranks=ranks)


def _tensors(value: Any, *, where: str) -> dict[str, TensorInfo]:
    parsed = {
        _name(name, where=where): _tensor(info, where=f"{where}[{name}]")
        for name, info in _of(dict, value, where=where).items()
    }
    found = dict(sorted(parsed.items()))
    if not any(info.dtype in _FLOATS for info in found.values()):
        raise _wrong("the base has no weights", f"a tensor in {any_of(_FLOATS)}", list(found), where)
    return found


def _tensor(value: Any, *, where: str) -> TensorInfo:
    _require_exactly(value, "shape", "dtype", where=where)
    shape = _of(list, value["shape"], where=f"{where}.shape")
    if not all(type(size) is int and size >= 0 for size in shape):
        raise _wrong("a shape is no list of sizes", "whole numbers from 0 up", shape, f"{where}.shape")
    if value["dtype"] not in _DTYPES:
        raise _wrong("no such dtype", any_of(_DTYPES), value["dtype"], f"{where}.dtype")
    return TensorInfo(shape=tuple(shape), dtype=value["dtype"])


def _touched(value: Any, tensors: Mapping[str, TensorInfo], *, where: str) -> frozenset[str]:
    names = [_name(name, where=where) for name in _of(list, value, where=where)]
    if strays := sorted(set(names) - tensors.keys()):
        raise InputError(
            "an expert touches a tensor that the base does not have",
            expected="names of the base's tensors",
            got=repr(strays[0]),
            where=where,
            fix=suggestion(strays[0], tensors),
        )
    if len(set(names)) < len(names):
        raise _wrong("a tensor is listed twice", "each once", sorted(names), where)
    return frozenset(names)


def _ranks(value: Any, touched: frozenset[str], *, where: str) -> dict[str, int]:
    ranks = dict(sorted(_of(dict, value, where=where).items()))
    if ranks and ranks.keys() != touched:
        raise _wrong(
            "the ranks are not those of the tensors that the expert touches",
            "a rank for each, or none for a full checkpoint",
            sorted(map(str, ranks.keys() ^ touched))[0],
            where,
        )
    for name, rank in ranks.items():
        if type(rank) is not int or rank < 1:
            raise _wrong("a rank is no number of rows", "a whole number from 1 up", rank, f"{where}[{name}]")
    return ranks


def _name(value: Any, *, where: str) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"\S+", value):
        raise _wrong("a name or a hash is no word", "text without spaces", value, where)
    return value


def _of(type_: type[T], value: Any, *, where: str) -> T:
    if not isinstance(value, type_):
        raise _wrong("a value has the wrong type", _JSON_NAMES[type_], value, where)
    return value


def _require_exactly(value: Any, *keys: str, where: str) -> None:
    require_keys(value, keys, needed=keys, where=where)


def _wrong(problem: str, expected: str, got: object, where: str) -> InputError:
    return InputError(problem, expected=expected, got=type_name(got)[:200], where=where)
