"""`--set KEY=VALUE`: one key of a spec, written over what its file says."""

from collections.abc import Iterable, Sequence
from typing import Any

from crossbreed.errors import InputError
from crossbreed.fitness import SHOWN_KEYS
from crossbreed.parsing import any_of, suggestion, type_name
from crossbreed.yaml_files import read_yaml

RULES = """`--set KEY=VALUE` writes over one key of the file; it may be repeated, and later ones win. KEY is the way to
it: names with dots between them, as messages print them. An entry of a list is called by its `name`, as tasks have one
(`fitness.tasks.sums.items`), or else by its number from 0 (`fitness.tasks.0.items`). A name that holds dots is written
as it is. VALUE is YAML: `--set optimizer.budget.trials=50`, `--set 'fitness.objectives=[{worst: [sums, french]}]'`.
Keys that the file does not have are added; entries of lists are not."""
"""For docs/spec.md."""


def apply_override(raw: dict[str, Any], override: str) -> tuple[int | str, ...]:
    """Writes one override into a raw spec.

    Returns:
        The keys that lead to what it has changed: to the first one that was not there, if there was none.

    Raises:
        InputError: it has no value, or its key leads nowhere.
    """
    key, equals, value = override.partition("=")
    where = f"--set {override}"
    if not equals:
        raise InputError("an override has no value", expected="--set key=value", got=where, where=where)
    under = next((one for one in key.split(".") if one in SHOWN_KEYS), "")
    parsed = read_yaml(value, what="an override", where=where, texts=SHOWN_KEYS, under=under)
    place: Any = raw
    keys: list[int | str] = []
    added: int | None = None
    rest = key
    while True:
        found, rest = _next(place, rest, tuple(keys), where)
        keys.append(found)
        if isinstance(place, dict) and found not in place:
            added = len(keys) if added is None else added
        if not rest:
            place[found] = parsed
            return tuple(keys[:added])
        if isinstance(place, dict) and place.get(found) is None:
            place[found] = {}
        place = place[found]


def _next(place: object, rest: str, before: Sequence[int | str], where: str) -> tuple[int | str, str]:
    """Returns the key of a mapping or the index of a list with which a dotted key begins, and what follows it."""
    if isinstance(place, list):
        return _entry(place, rest, where)
    if not isinstance(place, dict):
        raise InputError(
            f"`{'.'.join(map(str, before))}` holds no keys",
            expected="a key of a mapping or of a list",
            got=f"{type_name(place)[:120]} there",
            where=where,
            fix=f"end the key there: --set {'.'.join(map(str, before))}=VALUE",
        )
    key, rest = _longest((key for key in place if isinstance(key, str)), rest) or _up_to_dot(rest)
    if not key:
        raise InputError("an override names no key", expected="a dotted key of the spec", got=where, where=where)
    return key, rest


def _entry(entries: list[Any], rest: str, where: str) -> tuple[int, str]:
    """Returns where an entry of a list is: by its `name`, or by its number, as messages count."""
    names = [str(entry.get("name", "")) if isinstance(entry, dict) else "" for entry in entries]
    if found := _longest(filter(None, names), rest):
        return names.index(found[0]), found[1]
    given, rest = _up_to_dot(rest)
    if given.isdecimal() and len(given) < 10 and int(given) < len(entries):
        return int(given), rest
    named = any_of(filter(None, names)) if any(names) else ""
    numbers = f"a number from 0 to {len(entries) - 1}" if entries else "nothing: the list is empty"
    raise InputError(
        f"a list has no entry `{given}`",
        expected=numbers + (f", or a name: {named}" if named else ""),
        got=where,
        where=where,
        fix=suggestion(given, names),
    )


def _longest(names: Iterable[str], rest: str) -> tuple[str, str] | None:
    """Returns the longest of the names with which a dotted key begins, and what follows it."""
    begun = [name for name in names if rest == name or rest.startswith(f"{name}.")]
    best = max(begun, key=len, default=None)
    return None if best is None else (best, rest[len(best) + 1 :])


def _up_to_dot(rest: str) -> tuple[str, str]:
    key, _, rest = rest.partition(".")
    return key, rest
