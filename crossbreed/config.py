"""The base of settings parsed from outside: frozen pydantic models that reject unknown keys.

Every part declares its own settings beside its code; `crossbreed.runs.spec` only composes them.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Self, TypeAlias, Union, get_args, get_origin

from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    ValidationError,
    ValidationInfo,
    model_validator,
)
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError
from pydantic_core.core_schema import ErrorType

from crossbreed.cache import expanded
from crossbreed.errors import InputError, printable
from crossbreed.field_docs import Documented
from crossbreed.parsing import shown, unknown_key
from crossbreed.patterns import part_matcher

_LONGEST_NAME = 100
"""Longer than any that a table can show."""


class Config(Documented):
    """Base of every settings model. The string literal under a field is its documentation."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @classmethod
    def known_keys(cls) -> Collection[str]:
        """Returns the keys that a mapping may have, for suggestions."""
        return cls.model_fields

    @model_validator(mode="wrap")
    @classmethod
    def _keys_are_known(
        cls, given: Any, handler: ModelWrapValidatorHandler[Self]
    ) -> Self:  # whatever pydantic is given
        """Says of unknown keys what else is known, and refuses `seed: yes`, which pydantic reads as 1."""
        booleans = [
            InitErrorDetails(type=_BOOLEAN, loc=(name,), input=given[name])
            for name, field in cls.model_fields.items()
            if isinstance(given, Mapping) and isinstance(given.get(name), bool) and _is_number(field.annotation)
        ]
        try:
            made = handler(given)
        except ValidationError as error:
            found = error.errors(include_url=False)
            if not booleans and not any(map(_is_unknown_key, found)):
                raise
            told = [
                _renewed(one, cls.known_keys()) for one in found if one["loc"][:1] not in {b["loc"] for b in booleans}
            ]
            raise refusal(cls.__name__, [*booleans, *told]) from None
        if booleans:
            raise refusal(cls.__name__, booleans)
        return made


_BOOLEAN = PydanticCustomError("boolean", "YAML reads yes, no, on and off as true and false")


def _is_number(annotation: Any) -> bool:  # a type expression
    """Whether a value may be a number, but not true or false."""
    kinds = _kinds_of(annotation)
    return bool(kinds & {int, float}) and not kinds & {bool, Any}


def _kinds_of(annotation: Any) -> set[Any]:  # a type expression
    """Returns the types of which a value may be one."""
    if get_origin(annotation) in (Union, UnionType, Annotated):
        return set[Any]().union(*(_kinds_of(one) for one in get_args(annotation)))
    return {annotation}


def refusal(title: str, found: Iterable[InitErrorDetails]) -> ValidationError:
    """Returns several errors as one, for a validator to raise: pydantic adds each to its own."""
    return ValidationError.from_exception_data(title, list(found))


def refused(errors: Sequence[InputError]) -> ValidationError:
    """Returns the InputErrors that a validator of several keys has found, for it to raise."""
    found = (InitErrorDetails(type="value_error", input=None, ctx={"error": error}) for error in errors)
    return refusal("settings", found)


def _is_unknown_key(found: ErrorDetails) -> bool:
    return found["type"] == "extra_forbidden" and len(found["loc"]) == 1


def _renewed(found: ErrorDetails, known: Collection[str]) -> InitErrorDetails:
    """Returns an error to raise again; one about an unknown key as an InputError with a suggestion."""
    kind: str | PydanticCustomError = found["type"]
    context = found.get("ctx", {})
    if _is_unknown_key(found):
        kind, context = "value_error", {"error": unknown_key(found["loc"][0], known)}
    elif kind not in get_args(ErrorType):
        kind = PydanticCustomError(found["type"], "{said}", {"said": found["msg"]})
    return InitErrorDetails(type=kind, loc=found["loc"], input=found["input"], ctx=context)


def _one_line(name: str) -> str:
    """Names stand in tables, cards and paths, on terminals and on the hub."""
    is_line = name == printable(name) and not {"\n", "\t"} & set(name) and name.strip()
    if not is_line or len(name) > _LONGEST_NAME:
        raise ValueError(
            f"a name is one line of at most {_LONGEST_NAME} characters, without control characters, got {shown(name)}"
        )
    return name


def _resolve(value: str, info: ValidationInfo) -> str:
    folder = (info.context or {}).get("folder")
    path = expanded(value)
    return str((Path(folder) / path).resolve()) if folder and not path.is_absolute() else str(path)


def _resolve_local(value: str, info: ValidationInfo) -> str:
    local = _resolve(value, info)
    looks_local = value.startswith((".", "/", "~")) or value.count("/") != 1
    looks_local = looks_local or ("@" not in value and Path(local).parent.is_dir())
    return local if looks_local or Path(local).exists() else value


def _are_patterns(patterns: list[str]) -> list[str]:
    for pattern in patterns:
        try:
            part_matcher(pattern)
        except ValueError as error:
            raise ValueError(f"no regular expression over names of tensors: {shown(pattern)} ({error})") from None
    return patterns


TensorPatterns: TypeAlias = Annotated[list[str], AfterValidator(_are_patterns)]
"""Regular expressions (RE2) that are found anywhere in a tensor's name."""
Name: TypeAlias = Annotated[str, Field(min_length=1), AfterValidator(_one_line)]
"""A name that can be shown."""
InputPath: TypeAlias = Annotated[str, AfterValidator(_resolve)]
"""A file, relative to the folder of the spec that names it; absolute once parsed."""
ModelId: TypeAlias = Annotated[str, AfterValidator(_resolve_local)]
"""A local folder (absolute once parsed) or a hub id, optionally `@revision`."""
