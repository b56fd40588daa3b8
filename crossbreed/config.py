"""The base of settings parsed from outside: frozen pydantic models that reject unknown keys.

Every part declares its own settings beside its code; `crossbreed.runs.spec` only composes them.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeAlias

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationInfo, model_validator

from crossbreed.cache import expanded
from crossbreed.parsing import require_keys


class Config(BaseModel):
    """Base of every settings model. The string literal under a field is its documentation."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _keys_are_known(cls, given: Any) -> Any:  # whatever the caller gave pydantic
        """Raises InputError with a suggestion; pydantic's own message would only call the key extra."""
        if isinstance(given, Mapping):
            require_keys(given, cls.model_fields)
        return given


def _resolve(value: str, info: ValidationInfo) -> str:
    folder = (info.context or {}).get("folder")
    path = expanded(value)
    return str((Path(folder) / path).resolve()) if folder and not path.is_absolute() else str(path)


def _resolve_local(value: str, info: ValidationInfo) -> str:
    local = _resolve(value, info)
    looks_local = value.startswith((".", "/", "~")) or value.count("/") != 1
    looks_local = looks_local or ("@" not in value and Path(local).parent.is_dir())
    return local if looks_local or Path(local).exists() else value


InputPath: TypeAlias = Annotated[str, AfterValidator(_resolve)]
"""A file, relative to the folder of the spec that names it; absolute once parsed."""
ModelId: TypeAlias = Annotated[str, AfterValidator(_resolve_local)]
"""A local folder (absolute once parsed) or a hub id, optionally `@revision`."""
