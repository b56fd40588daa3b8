"""The one reader of YAML that people write: specs, recipes, overrides and mergekit's files.

Stricter than YAML: a key that stands twice in a mapping is an error, where YAML keeps the last value. Under some keys
scalars are meant as texts: `no`, `12:30`, `007` and `1.10` are a boolean, 750, 7 and 1.1 in YAML, and are refused there
unless they are quoted.

What a stranger wrote ends in one message: depth, digits, and what aliases expand to are bounded (a "billion laughs"
file is a hundred bytes).
"""

from collections.abc import Collection, Iterator, Sequence
from functools import cached_property
from typing import Any

import yaml

from crossbreed.errors import InputError, first_line
from crossbreed.parsing import hint_at_commas

MAX_BYTES = 16 << 20
"""Recipes that list the names of all tensors take a few MB."""
MAX_DEPTH = 40
MAX_NODES = 500_000
"""Values in all, those behind aliases counted at each place."""
MAX_CHARACTERS = 64 << 20
"""Characters of all texts, likewise counted."""
_MAX_DIGITS = 400
_YAML = "tag:yaml.org,2002:"
_MERGE = f"{_YAML}merge"
_CHANGED_BY_YAML = tuple(f"{_YAML}{kind}" for kind in ("bool", "null", "timestamp", "int", "float"))


def read_yaml(
    text: str, *, what: str, where: str, texts: Collection[str] = (), under: str = ""
) -> Any:  # any YAML value
    """Returns the value of a YAML document.

    Args:
        text: The document.
        what: What it should be, for messages: "the spec".
        where: The file, for messages.
        texts: Keys under which scalars are texts: one that YAML would change is refused.
        under: Such a key, if the whole document is the value of one.

    Raises:
        InputError: it is not one well-formed document, a key stands twice, or YAML would change a text.
    """
    documents = read_documents(text, what=what, where=where, texts=texts, under=under)
    if len(documents) > 1:
        raise InputError(
            f"{what} is not one YAML document",
            got=f"{len(documents)} documents",
            where=where,
            fix="remove what follows the line `---`",
        )
    return documents[0] if documents else None


def read_documents(
    text: str, *, what: str, where: str, texts: Collection[str] = (), under: str = ""
) -> list[Any]:  # any YAML values
    """Returns the values of the documents in a file that `---` divides; see `read_yaml`."""
    try:
        loader = _Loader(text, where=where, texts=texts, under=under)
        documents = []
        while loader.check_data():  # type: ignore[no-untyped-call]  # untyped in types-PyYAML
            documents.append(loader.get_data())
    except InputError:
        raise
    except yaml.YAMLError as error:
        raise InputError(f"{what} is not YAML", got=_told(error), where=where) from None
    except RecursionError:
        raise InputError(f"{what} is not YAML", got=f"more than {MAX_DEPTH} levels", where=where) from None
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError, MemoryError) as error:
        # PyYAML lets them through: the date 2026-02-31, `!!bool maybe`, `!!binary` of no text
        raise InputError(f"{what} is not YAML", got=first_line(error), where=where) from None
    return documents


class Lines:
    r"""The lines of a document that can be read.

    >>> Lines("a:\n  b:\n    - {c: 1}\n").of(["a", "b", 0, "d"])
    3
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self._inner: dict[int, dict[str, tuple[yaml.Node, yaml.Node]]] = {}

    def of(self, keys: Sequence[int | str]) -> int | None:
        """Returns the line of the value that keys lead to, or of the nearest around it; None if there is none."""
        node, line = self._root, None
        for key in keys:
            if isinstance(node, yaml.MappingNode):
                inner = self._entries(node).get(str(key))
            elif isinstance(node, yaml.SequenceNode) and isinstance(key, int) and key < len(node.value):
                inner = (node.value[key], node.value[key])
            else:
                inner = None
            if inner is None:
                break
            line, node = inner[0].start_mark.line + 1, inner[1]
        return line

    @cached_property
    def _root(self) -> yaml.Node | None:
        return yaml.compose(self._text, Loader=yaml.SafeLoader)

    def _entries(self, node: yaml.MappingNode) -> dict[str, tuple[yaml.Node, yaml.Node]]:
        if id(node) not in self._inner:
            pairs = [(name, value) for name, value in node.value if isinstance(name, yaml.ScalarNode)]
            self._inner[id(node)] = {name.value: (name, value) for name, value in pairs}
        return self._inner[id(node)]


class _Loader(yaml.SafeLoader):
    """Refuses keys that stand twice, and scalars that YAML would change where texts are meant."""

    def __init__(self, text: str, *, where: str, texts: Collection[str], under: str) -> None:
        super().__init__(text)
        self._where, self._texts, self._under = where, texts, under

    def compose_document(self) -> yaml.Node | None:
        """Returns the document if it is within the limits."""
        node: yaml.Node | None = super().compose_document()
        if node is not None:
            _Size().of(node, MAX_DEPTH)
            if self._under:
                self._check_texts(node, self._under)
        return node

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        """Returns an integer; Python itself would refuse to read or to write one of thousands of digits."""
        if len(node.value) > _MAX_DIGITS:
            problem = f"an integer of {len(node.value):,} digits"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
        return int(super().construct_yaml_int(node))

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Returns the mapping as it is written: `<<` is followed later."""
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        lines: dict[object, int] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag == _MERGE:
                continue
            key, line = self.construct_object(key_node), key_node.start_mark.line + 1
            if key in lines:
                raise self._twice(key, lines[key], line)
            lines[key] = line
            if key in self._texts:
                self._check_texts(value_node, key)
        return node

    def _twice(self, key: object, first: int, second: int) -> InputError:
        return InputError(
            f"the key `{key}` stands twice in one mapping",
            expected="each key once",
            got="YAML would keep only the last value",
            where=f"{self._where}, lines {first} and {second}",
            fix=hint_at_commas(key) if isinstance(key, int) else "remove one, or rename it",
        )

    def _check_texts(self, node: yaml.Node, key: str) -> None:
        if isinstance(node, yaml.MappingNode):
            for _, value in node.value:
                self._check_texts(value, key)
        elif isinstance(node, yaml.SequenceNode):
            for value in node.value:
                self._check_texts(value, key)
        elif isinstance(node, yaml.ScalarNode) and node.tag in _CHANGED_BY_YAML and not self._survives(node):
            raise InputError(
                f"YAML does not read `{node.value}` as a text",
                expected=f"texts under `{key}`, which the model is shown as they are written",
                got=f"a {node.tag.removeprefix(_YAML)}",
                where=f"{self._where}, line {node.start_mark.line + 1}",
                fix=f'quote it: "{node.value}"',
            )

    def _survives(self, node: yaml.ScalarNode) -> bool:
        is_number = node.tag in (f"{_YAML}int", f"{_YAML}float")
        return is_number and str(self.construct_object(node)) == node.value


_Loader.add_constructor(f"{_YAML}int", _Loader.construct_yaml_int)


class _Size:
    """Counts what a document holds with its aliases expanded, each node once: expanding them may take for ever."""

    def __init__(self) -> None:
        self._found: dict[int, tuple[int, int, int]] = {}
        self._open: set[int] = set()

    def of(self, node: yaml.Node, depth: int) -> tuple[int, int, int]:
        """Returns number of nodes, characters and levels; raises MarkedYAMLError beyond the limits."""
        if (known := self._found.get(id(node))) is not None:
            found = known
        elif id(node) in self._open:
            raise self._wrong("an alias inside what it stands for", node)
        elif isinstance(node, yaml.ScalarNode):
            found = (1, len(node.value), 1)
        else:
            self._open.add(id(node))
            inner = [self.of(child, depth - 1) for child in _children(node)] if depth > 0 else [(0, 0, MAX_DEPTH)]
            self._open.discard(id(node))
            found = (
                1 + sum(nodes for nodes, _, _ in inner),
                sum(characters for _, characters, _ in inner),
                1 + max((levels for _, _, levels in inner), default=0),
            )
        self._found[id(node)] = found
        nodes, characters, levels = found
        if levels > depth + 1 or levels > MAX_DEPTH:
            raise self._wrong(f"more than {MAX_DEPTH} levels", node)
        if nodes > MAX_NODES:
            raise self._wrong(f"more than {MAX_NODES:,} values, with aliases expanded", node)
        if characters > MAX_CHARACTERS:
            raise self._wrong(f"more than {MAX_CHARACTERS:,} characters, with aliases expanded", node)
        return found

    @staticmethod
    def _wrong(problem: str, node: yaml.Node) -> yaml.MarkedYAMLError:
        return yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)


def _children(node: yaml.Node) -> Iterator[yaml.Node]:
    for child in node.value:
        if isinstance(child, tuple):
            yield from child
        else:
            yield child


def _told(error: yaml.YAMLError) -> str:
    """Returns a problem with its place in a line; PyYAML's own text has six, with pointers into "<unicode string>"."""
    if isinstance(error, yaml.MarkedYAMLError):
        problem = ", ".join(filter(None, [error.context, error.problem]))
        mark = error.problem_mark or error.context_mark
        return f"{problem} (line {mark.line + 1}, column {mark.column + 1})" if mark else str(problem)
    return " ".join(str(error).split())
