"""Registries of parts by name: our own, and those that other packages provide as entry points.

Another package adds, for example, an optimizer by declaring it in its own `pyproject.toml`:

    [project.entry-points."crossbreed.optimizers"]
    hill_climbing = "my_package.hill_climbing:PART"

Specs can then use `optimizer: {kind: hill_climbing}`. docs/plugins.md describes each group.
"""

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, TypeVar, cast, get_args

from pydantic import BaseModel, GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationInfo
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from crossbreed.errors import InputError
from crossbreed.parsing import any_of, suggestion, type_name

T = TypeVar("T")

OURS = "crossbreed"
"""The package of our own parts, and the first word of every group."""


_NAME = re.compile(r"[A-Za-z][\w.-]*", re.ASCII)
"""What a part may be called: the journal writes names beside colons."""


class Registry(Mapping[str, T], Generic[T]):
    """Name -> part, imported on first look-up.

    >>> Registry[type]("number", "crossbreed.numbers", {"fraction": "fractions:Fraction"})["fraction"]
    <class 'fractions.Fraction'>
    """

    def __init__(
        self,
        noun: str,
        group: str,
        ours: Mapping[str, str],
        *,
        part: type = object,
        config: type[BaseModel] | None = None,
        hidden: Collection[str] = (),
    ) -> None:
        """Lists the parts of this package.

        Args:
            noun: The name of a part in messages.
            group: The group of entry points: `crossbreed.` and a plural.
            ours: Name -> `module:attribute`.
            part: What a part is an instance of; `type` where parts are settings classes themselves.
            config: Base of the settings that parts declare, with the part's name as their `kind`.
            hidden: Names that can be looked up, but are neither listed nor suggested: no file can hold them.
        """
        self._hidden = frozenset(hidden)
        self.noun, self.group, self._part, self._config = noun, group, part, config
        self._ours = {name: EntryPoint(name=name, value=value, group=group) for name, value in ours.items()}
        self._loaded: dict[str, T] = {}

    def __iter__(self) -> Iterator[str]:
        return (name for name in self._entries if name not in self._hidden)

    def __len__(self) -> int:
        return len(self._entries.keys() - self._hidden)

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __getitem__(self, name: str) -> T:
        """Returns a part.

        Raises:
            KeyError: there is no such name; `look_up` raises InputError instead.
            InputError: its package cannot be imported, or provides something else.
        """
        if name not in self._loaded:
            self._loaded[name] = self._load(self._entries[name])
        return self._loaded[name]

    @property
    def plural(self) -> str:
        """The name of the registry for `crossbreed list`."""
        return self.group.removeprefix(f"{OURS}.")

    @property
    def ours(self) -> tuple[str, ...]:
        """The names that this package brings, but the hidden ones."""
        return tuple(name for name in self._ours if name not in self._hidden)

    def look_up(self, name: object, *, where: str = "") -> T:
        """Returns the part with a name given by the user.

        Raises:
            InputError: there is no such part.
        """
        self.require(name, where=where)
        return self[cast(str, name)]

    def require(self, name: object, *, where: str = "") -> None:
        """Raises InputError unless an installed package provides a part with this name. Imports nothing."""
        if isinstance(name, str) and name in self:
            return
        others_first = sorted(self, key=lambda known: known in self._ours)  # a long list is cut in its middle
        raise InputError(
            f"unknown {self.noun} `{name}`"[:200],
            expected=f"one of {any_of(map(self._with_package, others_first))}",
            where=where,
            fix=suggestion(name if isinstance(name, bool) else str(name).lower(), self)
            or f"install the package that provides it; `crossbreed list {self.plural}` shows the installed ones",
        )

    def package_of(self, name: str) -> str:
        """Returns which package brings a part, or what `faults` lists, with its version unless it is this one."""
        return OURS if name in self._ours else _package(self._entries.get(name) or self._shadowed[name])

    def working(self) -> dict[str, T]:
        """Returns the parts that can be imported."""
        faults = self.faults()
        return {name: self[name] for name in self if name not in faults}

    def faults(self) -> dict[str, InputError]:
        """Returns what keeps parts of other packages from being used, by name.

        A part with a name of ours is listed as `name of package`: the name itself is our part's.
        """
        found = {label: self._clash(self._ours[entry.name], entry) for label, entry in self._shadowed.items()}
        for name in self:
            try:
                self[name]
            except InputError as error:
                found[name] = error
        return found

    @contextmanager
    def holding(self, name: str, part: T) -> Iterator[None]:
        """Registers one more part while the block runs, in this process: for tests of parts without a package."""
        assert name not in self, f"there is a {self.noun} `{name}`"
        self._entries[name], self._loaded[name] = EntryPoint(name=name, value="", group=self.group), part
        try:
            yield
        finally:
            del self._entries[name], self._loaded[name]

    @cached_property
    def _entries(self) -> dict[str, EntryPoint]:
        """Ours first, then those of other packages by name; of several with one name the first."""
        theirs = {entry.name: entry for entry in reversed(self._theirs) if entry.name not in self._ours}
        return self._ours | dict(sorted(theirs.items()))

    @cached_property
    def _theirs(self) -> list[EntryPoint]:
        return sorted(entry_points(group=self.group), key=lambda entry: (entry.name, _package(entry)))

    @cached_property
    def _shadowed(self) -> dict[str, EntryPoint]:
        """Parts of other packages with a name of ours."""
        return {f"{entry.name} of {_package(entry)}": entry for entry in self._theirs if entry.name in self._ours}

    def _clash(self, entry: EntryPoint, other: EntryPoint) -> InputError:
        return InputError(
            f"two packages bring the {self.noun} `{entry.name}`",
            expected="one package a name",
            got=f"{_package(entry)} and {_package(other)}",
            where=f"entry points of the group {self.group}",
            fix=f"uninstall {'the other' if entry.name in self._ours else 'one of them'}",
        )

    def _with_package(self, name: str) -> str:
        return name if name in self._ours else f"{name} ({self.package_of(name)})"

    def _load(self, entry: EntryPoint) -> T:
        if entry.name in self._ours:
            return cast(T, resolve(entry.value))
        if not _NAME.fullmatch(entry.name):
            raise self._fault(entry, "is no name", expected="a letter, then letters, digits, `_`, `.` and `-`")
        if rivals := [other for other in self._theirs if other.name == entry.name and other != entry]:
            raise self._clash(entry, rivals[0])
        try:
            found = entry.load()
        except Exception as error:  # another package's module may raise anything
            raise self._fault(entry, f"cannot be imported: {type(error).__name__}: {error}") from error
        if not isinstance(found, self._part):
            raise self._fault(entry, f"is {type_name(found)[:200]}", expected=self._wanted)
        self._check_settings(entry, found)
        return cast(T, found)

    @property
    def _wanted(self) -> str:
        """What a part is, in words."""
        if self._part is type and self._config is not None:
            return f"a subclass of {self._config.__name__}"
        return f"of type {self._part.__name__}"

    def _check_settings(self, entry: EntryPoint, part: Any) -> None:  # a part of any registry
        """Raises InputError unless the part's settings are such as a spec can name."""
        if self._config is None:
            return
        config = part if self._part is type else part.config
        if not (isinstance(config, type) and issubclass(config, self._config)):
            wanted = f"a subclass of {self._config.__name__}"
            raise self._fault(entry, f"has {type_name(config)[:200]} for its settings", expected=wanted)
        field = config.model_fields.get("kind")
        if field is None or entry.name not in get_args(field.annotation):
            wanted = f'kind: Literal["{entry.name}"]'
            raise self._fault(entry, f"has settings of another `kind`: {config.__name__}", expected=wanted)

    def _fault(self, entry: EntryPoint, problem: str, *, expected: str = "") -> InputError:
        return InputError(
            f"the {self.noun} `{entry.name}` {problem}",
            expected=expected,
            got=f"{entry.value} of {_package(entry)}",
            where=f"entry points of the group {self.group}",
            fix="repair or uninstall that package; docs/plugins.md describes the group",
        )


class Tagged(Generic[T]):
    """Annotates a settings field that is parsed by the part named by its `kind`.

    `Annotated[OptimizerConfig, Tagged(OPTIMIZERS, lambda part: part.config)]` takes the settings of any installed
    optimizer. Only the named one is imported.
    """

    def __init__(
        self, registry: Registry[T], config_of: Callable[[T], type[BaseModel]], *, default: str | None = None
    ) -> None:
        """Creates the annotation, without importing any part.

        Args:
            registry: The registry of the parts.
            config_of: Returns a part's settings model.
            default: The kind of a mapping without `kind`.
        """
        self._registry, self._config_of, self._default = registry, config_of, default

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:  # pydantic's name
        def parse(given: object, info: ValidationInfo) -> BaseModel:
            return given if isinstance(given, source) else self._parse(given, info.context)

        return core_schema.with_info_plain_validator_function(parse)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        models = {name: self._config_of(part) for name, part in self._registry.working().items()}
        choices = {name: model.__pydantic_core_schema__ for name, model in models.items()}
        found = handler(core_schema.tagged_union_schema(choices, discriminator="kind"))
        default = {} if self._default is None else {"x-default": self._default}
        return {**found, "x-registry": self._registry.plural, **default}

    def _parse(self, given: object, context: Any) -> BaseModel:  # whatever the caller gave pydantic
        if not isinstance(given, Mapping):
            raise InputError(
                f"the {self._registry.noun} is not a mapping", expected="keys and values", got=type_name(given)
            )
        given = {"kind": self._default, **given}
        if given["kind"] is None:
            raise InputError(
                f"the {self._registry.noun} has no `kind`",
                expected=f"kind: one of {any_of(self._registry)}",
                fix="add `kind:`",
            )
        return self._config_of(self._registry.look_up(given["kind"])).model_validate(given, context=context)


class Named(Generic[T]):
    """Annotates a text field that names a part: `Annotated[str, Named(METRICS)]`."""

    def __init__(self, registry: Registry[T]) -> None:
        self._registry = registry

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:  # pydantic's name
        return core_schema.no_info_after_validator_function(self._checked, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"type": "string", "enum": list(self._registry), "x-registry": self._registry.plural}

    def _checked(self, name: str) -> str:
        self._registry.require(name)
        return name


def resolve(reference: str) -> object:
    """Returns the object named by `module:attribute`.

    >>> resolve("fractions:Fraction")
    <class 'fractions.Fraction'>
    """
    module, _, attribute = reference.partition(":")
    return getattr(import_module(module), attribute)


def plugin_versions() -> dict[str, str]:
    """Returns package -> version for the packages that provide parts. Imports none of them."""
    groups = [group for group in entry_points().groups if group.startswith(f"{OURS}.")]
    distributions = [entry.dist for group in groups for entry in entry_points(group=group)]
    return {found.name: found.version for found in distributions if found is not None}


def _package(entry: EntryPoint) -> str:
    return OURS if entry.dist is None else f"{entry.dist.name} {entry.dist.version}"
