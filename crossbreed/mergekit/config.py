"""mergekit 0.1.5 configurations as values: parsed from YAML and checked against the methods' declarations.

Stricter than mergekit, which ignores unknown keys: a `weight` beside `parameters` instead of inside has no effect
there, and is an error here. Only parameters of other methods may be unused (`idle`): people change the method of a file
and leave the rest.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self, TypeAlias

from crossbreed.errors import InputError
from crossbreed.mergekit.methods import METHODS, Method, Parameter, Scope
from crossbreed.parsing import any_of, kind, require_keys, suggestion
from crossbreed.yaml_files import read_documents

FLOATS = ("bfloat16", "float16", "float32", "float64")
"""The dtypes in which a merge can be computed and stored."""
_OTHER_TOOLS = {
    "experts": "a configuration of mergekit-moe, which builds a mixture of experts",
    "genome": "a configuration of mergekit-evolve, which is a search, not a merge",
}
_KEYS = (
    *("merge_method", "models", "slices", "base_model", "dtype", "out_dtype", "parameters"),
    *("tokenizer_source", "tokenizer", "chat_template"),
)
_PARAMETERS = frozenset(parameter.name for method in METHODS.values() for parameter in method.parameters)


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class ModelReference:
    """A reference to a model: `MODEL` or `MODEL+ADAPTER`, each a folder or `org/name[@revision]`."""

    model: str
    lora: str = ""
    """The adapter; empty: none."""

    def __str__(self) -> str:
        return f"{self.model}+{self.lora}" if self.lora else self.model


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditional:
    """A parameter's value for the tensors that match a filter."""

    filter: str | None
    """Part of the tensor's name; None: every tensor."""
    anchors: tuple[float | bool, ...]
    """Equally spaced over a slice's layers; one for a constant."""

    def at(self, t: float) -> float | bool:
        """Returns the value at a depth of the slice, from 0 to 1: numbers are interpolated, flags step.

        >>> Conditional(filter=None, anchors=(0.0, 1.0, 0.0)).at(0.25)
        0.5
        """
        place = t * (len(self.anchors) - 1)
        left = int(place)
        if isinstance(self.anchors[left], bool):
            return self.anchors[left]
        share = place - left
        return (1 - share) * self.anchors[left] + share * self.anchors[min(left + 1, len(self.anchors) - 1)]


Settings: TypeAlias = Mapping[str, tuple[Conditional, ...]]
"""Parameter -> its values; of several, the first whose filter matches."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SliceInput:
    """A model's share in a slice."""

    model: ModelReference
    layers: range | None
    """None: all."""
    settings: Settings = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """Layers of the merge, and the models' layers that they are merged from."""

    inputs: tuple[SliceInput, ...]
    base: ModelReference | None
    settings: Settings = field(default_factory=dict)

    @property
    def models(self) -> tuple[ModelReference, ...]:
        """The models of the inputs."""
        return tuple(source.model for source in self.inputs)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRow:
    """The source of a token's embedding for models that lack it."""

    model: ModelReference | None
    """None: zeros."""
    token: str | int | None = None
    """The row of that model, by token or id; None: that of the token itself."""
    force: bool = False
    """Whether models that have the token take this row too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerConfig:
    """The vocabulary of the merge."""

    source: Literal["union", "base"] | ModelReference
    tokens: Mapping[str, TokenRow] = field(default_factory=dict)
    pad_to_multiple_of: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeConfig:
    """A whole configuration."""

    method: Method
    slices: tuple[Slice, ...]
    """A `models` list is one slice of all layers, with the base at its end unless it is listed."""
    base: ModelReference | None
    settings: Settings
    dtype: str | None
    """The dtype in which tensors are merged; None: the widest of their own."""
    out_dtype: str | None
    """The dtype in which they are stored; None: as merged."""
    tokenizer: TokenizerConfig | None
    chat_template: str | None
    idle: tuple[str, ...]
    """Parameters that are set but that the method does not use there."""

    @property
    def models(self) -> tuple[ModelReference, ...]:
        """Every model, the donor of configuration and tokenizer first."""
        named = [self.base, *(entry.base for entry in self.slices)]
        listed = [model for entry in self.slices for model in entry.models]
        chosen = self.tokenizer.source if self.tokenizer else None
        named += [*listed, chosen if isinstance(chosen, ModelReference) else None]
        return tuple(dict.fromkeys(model for model in named if model is not None))


def read_config(path: Path) -> MergeConfig | None:
    """Returns the mergekit configuration in a file, None if the file holds anything else.

    Raises:
        InputError: it is an invalid configuration, or one for another tool of mergekit.
    """
    try:
        text = path.read_text(encoding="utf-8")
        documents = read_documents(text, what="the configuration", where=str(path))
    except (OSError, UnicodeDecodeError):
        return None  # the reader of recipes reports it
    except InputError:
        if path.suffix == ".json":
            return None  # not all JSON is YAML
        raise
    if not documents or not isinstance(documents[0], Mapping):
        return None
    for key, tool in _OTHER_TOOLS.items():
        if key in documents[0]:
            raise InputError(f"this is {tool}", expected="`merge_method` with `models` or `slices`", where=str(path))
    if not documents[0].keys() & {"merge_method", "models", "slices"}:
        return None
    if len(documents) > 1:
        raise InputError(
            "several configurations in one file",
            expected="one merge",
            got=f"{len(documents)} documents, as for mergekit-multi",
            where=str(path),
            fix="split the file at `---`, and name the folder of one merge in the next",
        )
    return parse_config(documents[0], where=str(path))


def parse_config(content: Mapping[str, Any], *, where: str = "configuration") -> MergeConfig:
    """Returns the parsed configuration.

    Args:
        content: The content of its YAML.
        where: The file, for errors.

    Raises:
        InputError: it is invalid or not supported; the message gives the first problem.
    """
    if "modules" in content:
        raise InputError("`modules`: models of several modules are not merged", expected="`models`", where=where)
    require_keys(content, _KEYS, needed=("merge_method",), where=where)
    return _Parser.of(content["merge_method"], where).config(content)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Parser:
    """Parses the parts of a configuration of one method; `where` is the location of a part, for errors."""

    method: Method
    where: str
    idle: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, name: object, where: str) -> Self:
        method = METHODS.get(name) if isinstance(name, str) else None
        if method is None:
            raise InputError(
                "no such merge method",
                expected=any_of(METHODS),
                got=repr(name),
                where=f"{where}, merge_method",
                fix=suggestion(name, METHODS),
            )
        return cls(method=method, where=where)

    def config(self, content: Mapping[str, Any]) -> MergeConfig:
        where = self.where
        base = _reference(content["base_model"], f"{where}, base_model") if content.get("base_model") else None
        if (content.get("models") is None) == (content.get("slices") is None):
            raise InputError(
                "the configuration needs models",
                expected="one of `models` and `slices`",
                got="both or neither",
                where=where,
            )
        slices = (
            (self._models(content["models"], base),)
            if content.get("models") is not None
            else tuple(
                self._slice(entry, base, f"{where}, slices[{index}]")
                for index, entry in _entries(content["slices"], f"{where}, slices")
            )
        )
        return MergeConfig(
            method=self.method,
            slices=slices,
            base=base,
            settings=self._settings(content.get("parameters"), where),
            dtype=_dtype(content, "dtype", where),
            out_dtype=_dtype(content, "out_dtype", where),
            tokenizer=_tokenizer(content, where),
            chat_template=_chat_template(content.get("chat_template"), where),
            idle=tuple(sorted(self.idle)),
        )

    def _models(self, value: Any, base: ModelReference | None) -> Slice:
        inputs = []
        for index, entry in _entries(value, f"{self.where}, models"):
            place = f"{self.where}, models[{index}]"
            require_keys(entry, ("model", "parameters"), needed=("model",), where=place)
            settings = self._settings(entry.get("parameters"), place, of_model=True)
            inputs.append(SliceInput(model=_reference(entry["model"], place), layers=None, settings=settings))
        if base is not None and base not in [one.model for one in inputs]:
            inputs.append(SliceInput(model=base, layers=None))
        return self._checked(Slice(inputs=tuple(inputs), base=base), f"{self.where}, models")

    def _slice(self, entry: Any, base: ModelReference | None, where: str) -> Slice:
        if isinstance(entry, Mapping) and "residual_weight" in entry:
            raise InputError("`residual_weight` does nothing in mergekit 0.1.5", where=where, fix="remove it")
        require_keys(entry, ("sources", "base_model", "parameters"), needed=("sources",), where=where)
        own = _reference(entry["base_model"], f"{where}.base_model") if entry.get("base_model") else base
        inputs = tuple(
            self._source(source, f"{where}.sources[{index}]")
            for index, source in _entries(entry["sources"], f"{where}.sources")
        )
        settings = self._settings(entry.get("parameters"), where)
        return self._checked(Slice(inputs=inputs, base=own, settings=settings), where)

    def _source(self, entry: Any, where: str) -> SliceInput:
        require_keys(entry, ("model", "layer_range", "parameters"), needed=("model", "layer_range"), where=where)
        ends = entry["layer_range"]
        if not (
            isinstance(ends, Sequence)
            and len(ends) == 2
            and all(isinstance(end, int) and not isinstance(end, bool) for end in ends)
            and 0 <= ends[0] < ends[1]
        ):
            raise InputError(
                "`layer_range` is not a range of layers",
                expected="[FIRST, LAST + 1], for example [0, 16]",
                got=repr(ends),
                where=where,
            )
        settings = self._settings(entry.get("parameters"), where, of_model=True)
        return SliceInput(model=_reference(entry["model"], where), layers=range(*ends), settings=settings)

    def _checked(self, entry: Slice, where: str) -> Slice:
        models = entry.models
        if doubled := next((model for model in models if models.count(model) > 1), None):
            raise InputError("a model is listed twice", expected="each once", got=str(doubled), where=where)
        fault = self.method.why_invalid(num_models=len(models), has_base=entry.base in models)
        if fault is not None:
            fix = "list the base among the sources of every slice too" if entry.base not in (None, *models) else ""
            got = f"{any_of(models)}; base_model: {entry.base or 'none'}"
            raise InputError(f"{self.method.name} needs {fault}", expected=fault, got=got, where=where, fix=fix)
        return entry

    def _settings(self, value: Any, where: str, *, of_model: bool = False) -> Settings:
        if value is None:
            return {}
        where = f"{where}.parameters"
        require_keys(value, sorted(_PARAMETERS), where=where)
        settings = {}
        for name, given in value.items():
            parameter = self.method.parameter(name)
            if parameter is None or (of_model and parameter.scope is Scope.GLOBAL):
                self.idle.add(name)
            else:
                settings[name] = tuple(_conditionals(given, parameter, f"{where}.{name}"))
        return settings


def _entries(value: Any, where: str) -> Iterator[tuple[int, Any]]:
    if not isinstance(value, list) or not value:
        raise InputError("a list is missing", expected="one entry or more", got=kind(value), where=where)
    return enumerate(value)


def _reference(value: Any, where: str) -> ModelReference:
    """Parses a string, or mergekit's longer form: a mapping of `model` and `lora` to paths."""
    if isinstance(value, Mapping):
        require_keys(value, ("model", "lora"), needed=("model",), where=where)
        return ModelReference(
            model=_path(value["model"], where), lora=_path(value["lora"], where) if value.get("lora") else ""
        )
    text = _path(value, where)
    model, plus, lora = text.partition("+")
    if not model or (plus and not lora) or "+" in lora:
        raise InputError("this names no model", expected="MODEL or MODEL+ADAPTER", got=repr(text), where=where)
    return ModelReference(model=model, lora=lora)


def _path(value: Any, where: str) -> str:
    if isinstance(value, Mapping):
        require_keys(value, ("path", "revision"), needed=("path",), where=where)
        return f"{value['path']}@{value['revision']}" if value.get("revision") else _path(value["path"], where)
    if not isinstance(value, str) or not value:
        raise InputError("this names no model", expected="MODEL or MODEL+ADAPTER", got=kind(value), where=where)
    return value


def _conditionals(value: Any, parameter: Parameter, where: str) -> Iterator[Conditional]:
    entries = [value] if isinstance(value, Mapping) else value
    if not isinstance(entries, list) or not any(isinstance(entry, Mapping) for entry in entries):
        yield Conditional(filter=None, anchors=_anchors(value, parameter, where))
        return
    for entry in entries:
        require_keys(entry, ("filter", "value"), needed=("value",), where=where)
        part = entry.get("filter")
        if part is not None and not isinstance(part, str):
            raise InputError(
                "`filter` is not part of a tensor's name",
                expected="text, `*` or null",
                got=kind(part),
                where=where,
                fix=f'quote it: filter: "{part}"',
            )
        anchors = _anchors(entry["value"], parameter, where)
        yield Conditional(filter=None if part == "*" else part, anchors=anchors)


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


def _dtype(content: Mapping[str, Any], key: str, where: str) -> str | None:
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


def _tokenizer(content: Mapping[str, Any], where: str) -> TokenizerConfig | None:
    short, long = content.get("tokenizer_source"), content.get("tokenizer")
    if short is not None and long is not None:
        raise InputError("two vocabularies", expected="one of `tokenizer_source` and `tokenizer`", where=where)
    if short is not None:
        return TokenizerConfig(source=_vocabulary(short, f"{where}, tokenizer_source"))
    if long is None:
        return None
    where = f"{where}, tokenizer"
    require_keys(long, ("source", "tokens", "pad_to_multiple_of"), where=where)
    multiple = 1 if long.get("pad_to_multiple_of") is None else long["pad_to_multiple_of"]
    if not isinstance(multiple, int) or multiple < 1:
        raise InputError("`pad_to_multiple_of` is invalid", expected="a whole number", got=repr(multiple), where=where)
    tokens = long.get("tokens") or {}
    if not isinstance(tokens, Mapping):
        raise InputError("`tokens` is not a mapping", expected="token -> row", got=kind(tokens), where=where)
    return TokenizerConfig(
        source=_vocabulary(long.get("source", "union"), f"{where}.source"),
        tokens={str(token): _token_row(row, f"{where}.tokens.{token}") for token, row in tokens.items()},
        pad_to_multiple_of=multiple,
    )


def _vocabulary(value: Any, where: str) -> Literal["union", "base"] | ModelReference:
    return value if value in ("union", "base") else _reference(value, where)


def _token_row(value: Any, where: str) -> TokenRow:
    require_keys(value, ("source", "force"), needed=("source",), where=where)
    source, force = value["source"], value.get("force", False)
    if not isinstance(force, bool):
        raise InputError("`force` is not a flag", expected="true or false", got=kind(force), where=where)
    if not isinstance(source, Mapping) or "kind" not in source:
        return TokenRow(model=_reference(source, where), force=force)
    match source["kind"]:
        case "zero":
            require_keys(source, ("kind",), where=where)
            return TokenRow(model=None, force=force)
        case "model_token":
            require_keys(source, ("kind", "model", "token", "token_id"), needed=("kind", "model"), where=where)
            given = [source[key] for key in ("token", "token_id") if source.get(key) is not None]
            if len(given) == 1 and isinstance(given[0], str | int):
                return TokenRow(model=_reference(source["model"], where), token=given[0], force=force)
            raise InputError(
                "the row is not defined", expected="one of `token` and `token_id`", got=any_of(source), where=where
            )
    raise InputError("no such kind of row", expected="zero or model_token", got=repr(source["kind"]), where=where)


def _chat_template(value: Any, where: str) -> str | None:
    if value is None or (isinstance(value, str) and ("{{" in value or "{%" in value)):
        return value
    raise InputError(
        "`chat_template` cannot be given by name",
        expected="the Jinja text of a template",
        got=repr(value),
        where=where,
        fix="paste the template itself, or omit the key to keep the base's",
    )
