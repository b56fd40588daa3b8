"""The registry of engines: what they take, their settings, and the location of their code, imported on start."""

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator

from crossbreed.config import Config
from crossbreed.errors import MissingExtra, is_installed, require
from crossbreed.fitness.engines.library import engine_code
from crossbreed.fitness.protocol import AdapterEngine, EndsAnswers, RecipeEngine, WeightEngine
from crossbreed.fitness.requests import Request
from crossbreed.fitness.tasks.remote import ServedItems
from crossbreed.objects import OBJECT, RECIPE_OBJECT
from crossbreed.registry import OURS, Registry, Tagged, resolve
from crossbreed.sources.causal import require_causal
from crossbreed.sources.structure import Structure
from crossbreed.types import Dtype, Recipe

InnerProducts: TypeAlias = Callable[[Sequence[str]], NDArray[np.float64]]
Takes: TypeAlias = Literal["weights", "adapter", "recipe"]
"""What an engine takes."""


class EngineConfig(Config):
    """Base of every engine's settings."""

    kind: str
    tokenizes_on_host: ClassVar[bool] = False
    """Whether it uses the tokenizer of its host folder: then the lengths of requests are checked before a run."""
    scores_items: ClassVar[bool] = False
    """Whether it scores items itself instead of answering requests: then all tasks are such (`is_scored_by_engine`)."""

    builds_model: ClassVar[bool] = False
    """Whether it builds a model of its host's configuration: merges of fewer layers are then filled up to its depth."""
    predicts: ClassVar[bool] = False
    """Whether its candidates tell the log-probabilities of chosen tokens (`Predicts`), as tasks with a teacher need."""

    @property
    def context_tokens(self) -> int | None:
        """Maximum length of prompt plus answer in tokens, as far as the settings limit it; None: no limit."""
        return None

    def check_base(self, host: Path, shapes: Mapping[str, Sequence[int]]) -> None:
        """Refuses a base that the engine could not answer with, without reading weights.

        Args:
            host: The base's folder.
            shapes: Its tensors.

        Raises:
            InputError: saying what is wrong with it.
        """

    def identity(self) -> dict[str, Any]:
        """Returns what may not change when a run goes on: unless a kind says less, every setting.

        Left out is what changes no answer, such as the address of a service.
        """
        return self.model_dump(mode="json")


class RecipeEngineConfig(EngineConfig, ABC):
    """Base of the settings of engines that take recipes."""

    names_sources: ClassVar[bool] = False
    """Whether sources are the engine's own names. Then a spec lists the names of experts, or has no `sources`; else it
    names models: local folders and hub ids."""

    publishes: ClassVar[bool] = False
    """Whether the engine can write a candidate where its weights are: then it is a `Publishes`."""

    @abstractmethod
    def describe_sources(self, base: str, experts: Mapping[str, str]) -> Structure:
        """Returns the structure of the sources: shapes and hashes, as `Structure.from_json` reads them from a service.

        Args:
            base: The base, as the spec names it; empty if it does not.
            experts: Expert name -> expert, as the spec names it; empty: all that the engine has.

        Raises:
            InputError: the engine does not have one of them.
            EngineError: the engine could not be reached.
        """

    def served_items(self) -> Mapping[str, ServedItems]:
        """Returns the tasks that the engine scores itself, for `kind: remote`. Called after `describe_sources`."""
        return {}

    def inner_products(self) -> InnerProducts | None:
        """Returns a function of tensors' names: their inner products of base and deltas, in the sources' order.

        None: the engine tells none, and no space that needs them can be searched. Called after `describe_sources`.
        """
        return None

    def check_recipes(self, recipes: Iterable[Recipe]) -> None:
        """Refuses recipes that the engine does not make. Called after `describe_sources`, before a run.

        Args:
            recipes: Those that need no search, and some of the space: its middle, and its ends.

        Raises:
            InputError: saying which, and what the engine takes.
        """

    def check_requests(self, requests: Mapping[str, Request]) -> None:
        """Refuses tasks that the engine cannot answer. Called after `describe_sources`.

        Args:
            requests: Task -> one of its requests.

        Raises:
            InputError: naming each such task.
        """


class TokenizingConfig(EngineConfig):
    """Base of the settings of engines that use the host's tokenizer."""

    tokenizes_on_host: ClassVar[bool] = True
    max_model_len: Annotated[int, Field(ge=2)] | None = None
    """Maximum length of prompt plus answer, in tokens. Default: that of the model's config."""

    @property
    def context_tokens(self) -> int | None:
        """See EngineConfig."""
        return self.max_model_len

    def check_base(self, host: Path, shapes: Mapping[str, Sequence[int]]) -> None:
        """See EngineConfig."""
        require("transformers", extra="torch")
        require_causal(host)


class AdapterEngineConfig(EngineConfig):
    """Base of the settings of engines that take adapters."""

    max_rank: Annotated[int, Field(ge=1)]
    """Largest rank of an adapter's matrix. A candidate that needs more, or is no sum of adapters, is cut to it."""
    max_loss: Annotated[float, Field(ge=0, le=1)] = 0.01
    """Largest part of a candidate's change that a cut may lose (relative Frobenius norm over all matrices). The run
    stops at a candidate that would lose more; it may go on with another value."""

    def identity(self) -> dict[str, Any]:
        """See EngineConfig."""
        return self.model_dump(mode="json", exclude={"max_loss"})


class VllmConfig(TokenizingConfig):
    """vLLM in the worker's own process, on CPU or CUDA: the engine for searches."""

    predicts: ClassVar[bool] = True
    builds_model: ClassVar[bool] = True

    kind: Literal["vllm"]
    dtype: Dtype = "bfloat16"
    """The dtype in which the model computes."""
    gpu_memory_utilization: Annotated[float, Field(gt=0, le=1)] = 0.9
    """CUDA: the fraction of the GPU's memory that the engine may use."""
    kv_cache_gb: Annotated[float, Field(gt=0)] | None = None
    """Memory for the KV cache, in GiB. Default: 1 on CPU; on CUDA the rest of `gpu_memory_utilization`."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Passed to `vllm.LLM` unchanged; some of them run code (`trust_remote_code`, `worker_cls`), so read a stranger's
    spec before you run it. One device per engine: a sharded engine could not take a stream of weights."""

    @field_validator("options")
    @classmethod
    def _ours_stay_ours(cls, options: dict[str, Any]) -> dict[str, Any]:
        if taken := sorted(options.keys() & {"model", "worker_extension_cls", *cls.model_fields}):
            raise ValueError(f"`{taken[0]}` is set by crossbreed or by a field of `engine`")
        return options


class TransformersConfig(TokenizingConfig):
    """Hugging Face transformers, one request at a time: slow and simple, the reference for the other engines."""

    predicts: ClassVar[bool] = True
    builds_model: ClassVar[bool] = True

    kind: Literal["transformers"]
    dtype: Dtype = "float32"
    """The dtype in which the model computes."""
    device: str = "cpu"
    """The device, as torch names it."""

    def check_base(self, host: Path, shapes: Mapping[str, Sequence[int]]) -> None:
        """See EngineConfig."""
        super().check_base(host, shapes)
        from crossbreed.fitness.engines.loading import check_places

        check_places(host, shapes)


class FakeConfig(EngineConfig):
    """No model: see `crossbreed.testing.fakes`. For tests of everything except models."""

    kind: Literal["fake"]
    delay_s: Annotated[float, Field(ge=0)] = 0.0
    """Time that it takes to answer a chunk."""
    fail: Literal["start", "answer", "exit"] | None = None
    """Fail on start, fail at the `fail_at`-th answer of an engine, or end the process there."""
    fail_at: Annotated[int, Field(ge=1)] = 1
    """Number of the answer that fails, counted from 1."""


_SETTINGS: Mapping[Takes, type[EngineConfig]] = {"recipe": RecipeEngineConfig, "adapter": AdapterEngineConfig}
"""What an engine takes -> the base of its settings."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EnginePart:
    """The registration of an engine."""

    config: type[EngineConfig]
    """Its settings; a RecipeEngineConfig if it takes recipes, an AdapterEngineConfig if it takes adapters."""
    takes: Takes
    """What `adopt` takes: weights (a WeightEngine), an adapter (an AdapterEngine) or the recipe alone (a
    RecipeEngine)."""
    make: str
    """`module:attribute`, imported when an engine is started. Called with the settings and, unless the engine
    takes recipes, the host folder."""
    needs: tuple[str, ...] = ()
    """Modules that it imports and that the core does not depend on."""
    extra: str = ""
    """The extra of its package that brings them; empty: those of engines that hold weights."""
    is_fake: bool = False
    """Whether its answers are made up: such scores are not published."""

    def __post_init__(self) -> None:
        for takes, base in _SETTINGS.items():
            if issubclass(self.config, base) is not (self.takes == takes):
                article = "an" if takes == "adapter" else "a"
                raise TypeError(
                    f"the settings of an engine are {article} {base.__name__} if, and only if, it takes {takes}s: "
                    f"{self.config.__name__}"
                )


VLLM = EnginePart(
    config=VllmConfig,
    takes="weights",
    make="crossbreed.fitness.engines.vllm:VllmEngine",
    needs=("torch", "transformers", "vllm"),
)
TRANSFORMERS = EnginePart(
    config=TransformersConfig,
    takes="weights",
    make="crossbreed.fitness.engines.transformers:TransformersEngine",
    needs=("torch", "transformers"),
)
FAKE = EnginePart(config=FakeConfig, takes="weights", make="crossbreed.testing.fakes:FakeEngine", is_fake=True)

ENGINES = Registry[EnginePart](
    "engine",
    "crossbreed.engines",
    {
        "vllm": f"{__name__}:VLLM",
        "transformers": f"{__name__}:TRANSFORMERS",
        "api": "crossbreed.fitness.engines.api.config:PART",
        "python": "crossbreed.fitness.engines.python:PART",
        "fake": f"{__name__}:FAKE",
        "fake_recipes": "crossbreed.testing.fake_recipes:PART",
        "lora_server": "crossbreed.fitness.engines.lora_server.settings:PART",
        "object": "crossbreed.fitness.engines.python_object:PART",
        "recipe_object": "crossbreed.fitness.engines.python_object:RECIPE_PART",
    },
    hidden=(OBJECT, RECIPE_OBJECT),
    part=EnginePart,
    config=EngineConfig,
)
"""Kind -> part."""

AnyEngineConfig: TypeAlias = Annotated[EngineConfig, Tagged(ENGINES, lambda part: part.config)]
"""A field that takes the settings of any registered engine."""


def reference_config(*, dtype: Dtype, device: str, context_tokens: int | None) -> TransformersConfig:
    """Returns the settings of the engine that computes gradients and activations, beside the one that scores."""
    return TransformersConfig(kind="transformers", dtype=dtype, device=device, max_model_len=context_tokens)


def build_engine(
    config: EngineConfig, host: str | os.PathLike[str], *, end_token_ids: Collection[int] = ()
) -> WeightEngine:
    """Starts an engine that takes weights.

    Args:
        config: Its settings.
        host: The folder to start from: config and tokenizer, with or without weights.
        end_token_ids: Tokens that end an answer, besides those in the host's files: the experts'.

    Raises:
        MissingExtra: the engine's package is not installed.
        InputError: the engine does not have such a setting.
        EngineError: it does not start; covers all exceptions of its package.
    """
    assert ENGINES[config.kind].takes == "weights", f"{config.kind} takes no weights"
    return cast(WeightEngine, _ending(_start(config, Path(host)), end_token_ids))


def build_adapter_engine(
    config: EngineConfig, host: str | os.PathLike[str], *, end_token_ids: Collection[int] = ()
) -> AdapterEngine:
    """Starts an engine that takes adapters; arguments and errors are those of `build_engine`."""
    assert ENGINES[config.kind].takes == "adapter", f"{config.kind} takes no adapters"
    return cast(AdapterEngine, _ending(_start(config, Path(host)), end_token_ids))


def build_recipe_engine(config: EngineConfig) -> RecipeEngine:
    """Starts an engine that takes recipes; the errors are those of `build_engine`."""
    assert ENGINES[config.kind].takes == "recipe", f"{config.kind} takes no recipes"
    return cast(RecipeEngine, _start(config))


def _ending(engine: object, token_ids: Collection[int]) -> object:
    if isinstance(engine, EndsAnswers):
        engine.end_at(token_ids)
    return engine


_EXTRAS = "pip install 'crossbreed[cpu]' or 'crossbreed[cuda]'; for `transformers` alone 'crossbreed[torch]'"


def require_code(config: EngineConfig) -> object:
    """Returns what starts the engine.

    Raises:
        MissingExtra: a module that it needs is not installed.
    """
    part, package = ENGINES[config.kind], ENGINES.package_of(config.kind)
    for module in part.needs:
        if not is_installed(module):
            raise _missing(config.kind, package, f"needs `{module}`, which is not installed")
    try:
        return resolve(part.make)
    except ImportError as error:
        raise _missing(config.kind, package, f"cannot be imported: {type(error).__name__}: {error}") from error


def _missing(kind: str, package: str, problem: str) -> MissingExtra:
    extra = ENGINES[kind].extra
    ours = f"pip install '{OURS}[{extra}]'" if extra else _EXTRAS
    return MissingExtra(
        f"the engine `{kind}` {problem}",
        got=f"{ENGINES[kind].make}, which {package} brings",
        where="fitness.engine.kind",
        fix=ours if package == OURS else f"install what {package} needs for it; `crossbreed doctor` says what it is",
    )


def _start(config: EngineConfig, *host: Path) -> object:
    make = cast(Any, require_code(config))
    with engine_code(f"the {config.kind} engine did not start" + (f" on {host[0]}" if host else "")):
        return make(config, *host)
