"""YAML -> mergekit 0.1.5 configurations, checked against the methods' declarations.

What mergekit takes is taken. Keys that it reads over, and parameters of other methods (people change the method of a
file and leave the rest), are noted in the configuration: `ignored` and `idle`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from crossbreed.errors import InputError
from crossbreed.mergekit.chat_templates import AUTO, TEMPLATES
from crossbreed.mergekit.config import Conditional, MergeConfig, ModelReference, Settings, Slice, SliceInput
from crossbreed.mergekit.fields import PARAMETERS, TOP_KEYS, KeyReader, dtype_of
from crossbreed.mergekit.methods import METHODS, Method, Scope
from crossbreed.parsing import any_of, suggestion, type_name
from crossbreed.text_files import regular_text
from crossbreed.yaml_files import MAX_BYTES, read_documents

_OTHER_TOOLS = {
    "experts": "a configuration of mergekit-moe, which builds a mixture of experts",
    "genome": "a configuration of mergekit-evolve, which is a search, not a merge",
}
_MODULE = "default"
"""mergekit's name of the module of a model that has one."""


def read_config(path: Path) -> MergeConfig | None:
    """Returns the mergekit configuration in a file, None if the file holds anything else.

    Raises:
        InputError: it is an invalid configuration, or one for another tool of mergekit.
    """
    try:
        text = regular_text(path, max_bytes=MAX_BYTES)
    except (OSError, ValueError):
        return None  # the reader of recipes reports it
    try:
        documents = read_documents(text, what="the configuration", where=str(path))
    except InputError:
        if path.suffix == ".json":
            return None  # not all JSON is YAML
        raise
    if not documents or not isinstance(documents[0], Mapping):
        return None
    for key, tool in _OTHER_TOOLS.items():
        if key in documents[0]:
            raise InputError(f"this is {tool}", expected="`merge_method` with `models` or `slices`", where=str(path))
    if not documents[0].keys() & {"merge_method", "models", "slices", "modules"}:
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
    keys = KeyReader()
    keys.take(content, TOP_KEYS, needed=("merge_method",), where=where)
    return _Parser.of(content["merge_method"], where, keys).config(content)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Parser:
    """Parses the parts of a configuration of one method; `where` is the location of a part, for errors."""

    method: Method
    where: str
    keys: KeyReader
    idle: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, name: object, where: str, keys: KeyReader) -> Self:
        method = METHODS.get(name) if isinstance(name, str) else None
        if method is None:
            raise InputError(
                "no such merge method",
                expected=any_of(METHODS),
                got=repr(name),
                where=f"{where}, merge_method",
                fix=suggestion(name, METHODS),
            )
        return cls(method=method, where=where, keys=keys)

    def config(self, content: Mapping[str, Any]) -> MergeConfig:
        where = self.where
        base = self.keys.reference(content["base_model"], f"{where}, base_model") if content.get("base_model") else None
        settings = self._settings(content.get("parameters"), where)
        if content.get("modules"):
            part = self._only_module(content)
            of_module = self._settings(part.get("parameters"), f"{where}, modules.{_MODULE}")
            settings = _above(of_module, settings)
        else:
            part = content
        return MergeConfig(
            method=self.method,
            slices=self._slices(part, base),
            base=base,
            settings=settings,
            dtype=dtype_of(content, "dtype", where),
            out_dtype=dtype_of(content, "out_dtype", where),
            tokenizer=self.keys.tokenizer(content, where),
            chat_template=_chat_template(content.get("chat_template"), f"{where}, chat_template"),
            idle=tuple(sorted(self.idle)),
            ignored=tuple(self.keys.ignored),
        )

    def _only_module(self, content: Mapping[str, Any]) -> Mapping[str, Any]:
        """Returns the module of `modules`: mergekit's normal form of a configuration."""
        where, modules = f"{self.where}, modules", content["modules"]
        if not isinstance(modules, Mapping) or list(modules) != [_MODULE]:
            raise InputError(
                "models of several modules are not merged",
                expected=f"one module, `{_MODULE}`",
                got=any_of(modules) if isinstance(modules, Mapping) else type_name(modules),
                where=where,
            )
        if content.get("models") or content.get("slices"):
            got = "also `models` or `slices`"
            raise InputError("the models are given twice", expected="`modules` alone", got=got, where=where)
        module: Mapping[str, Any] = modules[_MODULE]
        self.keys.take(module, ("slices", "models", "parameters"), where=f"{where}.{_MODULE}")
        return module

    def _slices(self, content: Mapping[str, Any], base: ModelReference | None) -> tuple[Slice, ...]:
        models, slices = content.get("models"), content.get("slices")
        if (models is None) == (slices is None):
            raise InputError(
                "the configuration needs models",
                expected="one of `models` and `slices`",
                got="both or neither",
                where=self.where,
            )
        if models is not None:
            return (self._models(models, base),)
        entries = _entries(slices, f"{self.where}, slices")
        return tuple(self._slice(entry, base, f"{self.where}, slices[{index}]") for index, entry in entries)

    def _models(self, value: Any, base: ModelReference | None) -> Slice:
        inputs = []
        for index, entry in _entries(value, f"{self.where}, models"):
            place = f"{self.where}, models[{index}]"
            self.keys.take(entry, ("model", "parameters"), needed=("model",), where=place)
            settings = self._settings(entry.get("parameters"), place, of_model=True)
            inputs.append(SliceInput(model=self.keys.reference(entry["model"], place), layers=None, settings=settings))
        if base is not None and base not in [one.model for one in inputs]:
            inputs.append(SliceInput(model=base, layers=None))
        return self._checked(Slice(inputs=tuple(inputs), base=base), f"{self.where}, models")

    def _slice(self, entry: Any, base: ModelReference | None, where: str) -> Slice:
        self.keys.take(entry, ("sources", "base_model", "parameters"), needed=("sources",), where=where)
        named = entry.get("base_model")
        own = self.keys.reference(named, f"{where}.base_model") if named else base
        inputs = tuple(
            self._source(source, f"{where}.sources[{index}]")
            for index, source in _entries(entry["sources"], f"{where}.sources")
        )
        settings = self._settings(entry.get("parameters"), where)
        return self._checked(Slice(inputs=inputs, base=own, settings=settings), where)

    def _source(self, entry: Any, where: str) -> SliceInput:
        self.keys.take(entry, ("model", "layer_range", "parameters"), needed=("model", "layer_range"), where=where)
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
        return SliceInput(model=self.keys.reference(entry["model"], where), layers=range(*ends), settings=settings)

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
        self.keys.take(value, sorted(PARAMETERS), where=where)
        settings = {}
        for name, given in value.items():
            parameter = self.method.parameter(name)
            if name not in PARAMETERS:
                continue
            if parameter is None or (of_model and parameter.scope is Scope.GLOBAL):
                self.idle.add(name)
            else:
                settings[name] = tuple(self.keys.conditionals(given, parameter, f"{where}.{name}"))
        return settings


def _above(first: Settings, then: Settings) -> Settings:
    """Returns the settings of two levels as one: the second holds where no filter of the first matches."""
    names = dict.fromkeys([*first, *then])
    none: tuple[Conditional, ...] = ()
    return {name: first.get(name, none) + then.get(name, none) for name in names}


def _entries(value: Any, where: str) -> Iterator[tuple[int, Any]]:
    if not isinstance(value, list) or not value:
        raise InputError("a list is missing", expected="one entry or more", got=type_name(value), where=where)
    return enumerate(value)


def _chat_template(value: Any, where: str) -> str | None:
    if value in (None, "", AUTO) or (isinstance(value, str) and (value in TEMPLATES or "{" in value)):
        return value or None
    raise InputError(
        "no such chat template",
        expected=f"{any_of([AUTO, *TEMPLATES])}, or the Jinja text of a template",
        got=repr(value),
        where=where,
        fix=suggestion(value, [AUTO, *TEMPLATES]),
    )
