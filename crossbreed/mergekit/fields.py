"""The parts of a mergekit configuration that stand in many places: models, values of parameters, tokens.

mergekit reads over keys that it does not know. So does this, and notes them: `KeyReader.ignored`.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, Literal

from crossbreed.errors import InputError
from crossbreed.mergekit.config import FLOATS, Conditional, Ignored, ModelReference, TokenizerConfig, TokenRow
from crossbreed.mergekit.methods import METHODS, Parameter
from crossbreed.parsing import any_of, hint_at_boolean, require_keys, suggestion, type_name

TOP_KEYS = (
    *("merge_method", "models", "slices", "modules", "base_model", "dtype", "out_dtype", "parameters"),
    *("tokenizer_source", "tokenizer", "chat_template"),
)
PARAMETERS = frozenset(parameter.name for method in METHODS.values() for parameter in method.parameters)
"""Of any method."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyReader:
    """Checks the keys of mappings, and collects those that nothing reads."""

    ignored: list[Ignored] = field(default_factory=list)

    def take(self, value: Any, allowed: Collection[str], *, needed: Collection[str] = (), where: str) -> None:
        """Raises InputError unless `value` is a mapping with all needed keys; notes keys that are not allowed."""
        if not isinstance(value, Mapping) or any(key not in value for key in needed):
            require_keys(value, allowed, needed=needed, where=where)  # an unknown key may be the misspelt missing one
        self.ignored.extend(_ignored(str(key), allowed, where) for key in value if key not in allowed)

    def reference(self, value: Any, where: str) -> ModelReference:
        """Parses a string, or mergekit's longer form: a mapping of `model` and `lora` to paths."""
        if isinstance(value, Mapping):
            self.take(value, ("model", "lora", "override_architecture"), needed=("model",), where=where)
            return ModelReference(
                model=self._path(value["model"], where),
                lora=self._path(value["lora"], where) if value.get("lora") else "",
                architecture=str(value.get("override_architecture") or ""),
            )
        text = self._path(value, where)
        model, plus, lora = text.partition("+")
        if not model or (plus and not lora) or "+" in lora:
            raise InputError("this names no model", expected="MODEL or MODEL+ADAPTER", got=repr(text), where=where)
        return ModelReference(model=model, lora=lora)

    def _path(self, value: Any, where: str) -> str:
        if isinstance(value, Mapping):
            self.take(value, ("path", "revision"), needed=("path",), where=where)
            path = self._path(value["path"], where)
            return f"{path}@{value['revision']}" if value.get("revision") else path
        if not isinstance(value, str) or not value:
            raise InputError(
                "this names no model",
                expected="MODEL or MODEL+ADAPTER",
                got=type_name(value),
                where=where,
                fix=hint_at_boolean(value),
            )
        return value

    def conditionals(self, value: Any, parameter: Parameter, where: str) -> Iterator[Conditional]:
        """Parses the value of a parameter: a number, a gradient, or several of them with filters."""
        entries = [value] if isinstance(value, Mapping) else value
        if not isinstance(entries, list) or not any(isinstance(entry, Mapping) for entry in entries):
            yield Conditional(filter=None, anchors=_anchors(value, parameter, where))
            return
        for entry in entries:
            self.take(entry, ("filter", "value"), needed=("value",), where=where)
            part = entry.get("filter")
            if part is not None and not isinstance(part, str):
                raise InputError(
                    "`filter` is not part of a tensor's name",
                    expected="text, `*` or null",
                    got=type_name(part),
                    where=where,
                    fix=f'quote it: filter: "{part}"',
                )
            anchors = _anchors(entry["value"], parameter, where)
            yield Conditional(filter=None if part == "*" else part, anchors=anchors)

    def tokenizer(self, content: Mapping[str, Any], where: str) -> TokenizerConfig | None:
        """Parses `tokenizer_source`, or the longer `tokenizer`."""
        short, long = content.get("tokenizer_source"), content.get("tokenizer")
        if short is not None and long is not None:
            raise InputError("two vocabularies", expected="one of `tokenizer_source` and `tokenizer`", where=where)
        if short is not None:
            return TokenizerConfig(source=self._vocabulary(short, f"{where}, tokenizer_source"))
        if long is None:
            return None
        where = f"{where}, tokenizer"
        self.take(long, ("source", "tokens", "pad_to_multiple_of"), where=where)
        multiple = 1 if long.get("pad_to_multiple_of") is None else long["pad_to_multiple_of"]
        if not isinstance(multiple, int) or multiple < 1:
            raise InputError(
                "`pad_to_multiple_of` is invalid", expected="a whole number", got=repr(multiple), where=where
            )
        tokens = long.get("tokens") or {}
        if not isinstance(tokens, Mapping):
            raise InputError("`tokens` is not a mapping", expected="token -> row", got=type_name(tokens), where=where)
        return TokenizerConfig(
            source=self._vocabulary(long.get("source", "union"), f"{where}.source"),
            tokens={str(token): self._token_row(row, f"{where}.tokens.{token}") for token, row in tokens.items()},
            pad_to_multiple_of=multiple,
        )

    def _vocabulary(self, value: Any, where: str) -> Literal["union", "base"] | ModelReference:
        return value if value in ("union", "base") else self.reference(value, where)

    def _token_row(self, value: Any, where: str) -> TokenRow:
        self.take(value, ("source", "force"), where=where)
        source, force = value.get("source"), value.get("force", False)
        if not isinstance(force, bool):
            raise InputError("`force` is not a flag", expected="true or false", got=type_name(force), where=where)
        if source is None:
            return TokenRow(force=force)
        if not isinstance(source, Mapping) or "kind" not in source:
            return TokenRow(model=self.reference(source, where), force=force)
        match source["kind"]:
            case "zero":
                self.take(source, ("kind",), where=where)
                return TokenRow(is_zero=True, force=force)
            case "model_token":
                self.take(source, ("kind", "model", "token", "token_id"), needed=("kind", "model"), where=where)
                given = [source[key] for key in ("token", "token_id") if source.get(key) is not None]
                if len(given) == 1 and isinstance(given[0], str | int):
                    return TokenRow(model=self.reference(source["model"], where), token=given[0], force=force)
                raise InputError(
                    "the row is not defined", expected="one of `token` and `token_id`", got=any_of(source), where=where
                )
        raise InputError("no such kind of row", expected="zero or model_token", got=repr(source["kind"]), where=where)


def dtype_of(content: Mapping[str, Any], key: str, where: str) -> str | None:
    """Returns the dtype under a key; None: there is none."""
    value = content.get(key)
    if value is not None and value not in FLOATS:
        raise InputError(
            "no such dtype",
            expected=any_of(FLOATS),
            got=repr(value),
            where=f"{where}, {key}",
            fix=suggestion(value, FLOATS),
        )
    return str(value) if value else None


def _ignored(key: str, allowed: Collection[str], where: str) -> Ignored:
    if key == "revision":
        return Ignored(key=key, where=where, fix="for that revision write MODEL@REVISION")
    if key in PARAMETERS and "parameters" in allowed:
        return Ignored(key=key, where=where, fix="to use it, write it inside `parameters`", is_slip=True)
    if key in TOP_KEYS:
        return Ignored(key=key, where=where, fix="to use it, write it at the top of the file")
    near = get_close_matches(key, list(allowed), n=1, cutoff=0.8)
    return Ignored(key=key, where=where, fix=f"did you mean `{near[0]}`?" if near else "", is_slip=bool(near))


def _anchors(value: Any, parameter: Parameter, where: str) -> tuple[float | bool, ...]:
    values = value if isinstance(value, list) else [value]
    anchors = tuple(_single(one, parameter) for one in values)
    wanted = next((fault for one in anchors if (fault := parameter.why_invalid(one))), None if anchors else "a value")
    if wanted is None and any(one is None for one in anchors):
        wanted = "a finite number"
    if wanted is None and len(anchors) > 1 and isinstance(parameter.default, int) and isinstance(anchors[0], float):
        wanted = "one whole number for all layers"
    if wanted is not None:
        raise InputError(f"`{parameter.name}` has no valid value", expected=wanted, got=repr(value), where=where)
    return anchors


def _single(value: Any, parameter: Parameter) -> Any:  # of any type: `Parameter.why_invalid` checks it
    """Converts flags given as 0 or 1, as in mergekit, and numbers that YAML reads as text, such as 1e-5."""
    if isinstance(parameter.default, bool):
        return bool(value) if value in (0, 1) else value
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return value
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value
