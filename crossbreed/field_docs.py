"""What the string literals under a model's fields say, read when somebody asks.

pydantic reads them (`use_attribute_docstrings`) when a class is made, which parses every module of settings again: a
third of what `crossbreed show` waits for before it reads a run.
"""

import ast
import inspect
from collections.abc import Mapping
from functools import cache
from textwrap import dedent

from pydantic import BaseModel, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema


class Documented(BaseModel):
    """Base of models whose fields are described by the string literals under them."""

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Adds the descriptions to the schema."""
        found = handler(schema)
        properties = handler.resolve_ref_schema(found).get("properties", {})
        for name, about in docs_of(cls).items():
            field = cls.model_fields.get(name)
            key = (field and field.alias) or name
            if key in properties:
                properties[key].setdefault("description", about)
        return found


@cache
def docs_of(model: type[BaseModel]) -> Mapping[str, str]:
    """Returns field -> its string literal, those of the bases among them; none where there is no source."""
    found: dict[str, str] = {}
    for part in reversed(model.__mro__):
        if issubclass(part, BaseModel) and part is not BaseModel:
            own = _own_docs(part)
            found = {name: about for name, about in found.items() if name not in part.__annotations__} | own
    return found


def _own_docs(model: type[BaseModel]) -> dict[str, str]:
    try:
        [node] = ast.parse(dedent(inspect.getsource(model))).body
    except (OSError, TypeError, SyntaxError, ValueError):  # made without a file, as in a shell
        return {}
    assert isinstance(node, ast.ClassDef)
    return {
        field.target.id: inspect.cleandoc(below.value.value)
        for field, below in zip(node.body, node.body[1:], strict=False)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(below, ast.Expr)
        and isinstance(below.value, ast.Constant)
        and isinstance(below.value.value, str)
    }
