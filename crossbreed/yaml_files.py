"""The one reader of YAML that people write: specs, recipes, overrides and mergekit's files.

Stricter than YAML: a key that stands twice in a mapping is an error, where YAML keeps the last value. Under some keys
scalars are meant as texts: `no`, `12:30`, `007` and `1.10` are a boolean, 750, 7 and 1.1 in YAML, and are refused there
unless they are quoted.
"""

from collections.abc import Collection
from typing import Any

import yaml

from crossbreed.errors import InputError

_YAML = "tag:yaml.org,2002:"
_MERGE = f"{_YAML}merge"
_CHANGED_BY_YAML = tuple(f"{_YAML}{kind}" for kind in ("bool", "null", "timestamp", "int", "float"))


def read_yaml(text: str, *, what: str, where: str, texts: Collection[str] = ()) -> Any:  # any YAML value
    """Returns the value of a YAML document.

    Args:
        text: The document.
        what: What it should be, for messages: "the spec".
        where: The file, for messages.
        texts: Keys under which scalars are texts: one that YAML would change is refused.

    Raises:
        InputError: it is not one well-formed document, a key stands twice, or YAML would change a text.
    """
    documents = read_documents(text, what=what, where=where, texts=texts)
    if len(documents) > 1:
        raise InputError(
            f"{what} is not one YAML document",
            got=f"{len(documents)} documents",
            where=where,
            fix="remove what follows the line `---`",
        )
    return documents[0] if documents else None


def read_documents(text: str, *, what: str, where: str, texts: Collection[str] = ()) -> list[Any]:  # any YAML values
    """Returns the values of the documents in a file that `---` divides; see `read_yaml`."""
    try:
        loader = _Loader(text, where=where, texts=texts)
        documents = []
        while loader.check_data():  # type: ignore[no-untyped-call]  # untyped in types-PyYAML
            documents.append(loader.get_data())
    except InputError:
        raise
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: the date 2026-02-31
        got = "lists or mappings too deep" if isinstance(error, RecursionError) else str(error)
        raise InputError(f"{what} is not YAML", got=got[:800], where=where) from None
    return documents


class _Loader(yaml.SafeLoader):
    """Refuses keys that stand twice, and scalars that YAML would change where texts are meant."""

    def __init__(self, text: str, *, where: str, texts: Collection[str]) -> None:
        super().__init__(text)
        self._where, self._texts = where, texts

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
            fix="remove one, or rename it",
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
