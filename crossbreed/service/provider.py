"""What a provider offers: sources, an engine to start and to verify, tasks, and the sources as models."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

from crossbreed.errors import Collector, InputError
from crossbreed.fitness import (
    AnyItems,
    EngineConfig,
    Generate,
    Item,
    Loglikelihood,
    Prompt,
    RecipeEngineConfig,
    Request,
    Task,
    TaskConfig,
    judge_calls,
    load_tasks,
    own_kind,
    require_code,
)
from crossbreed.fitness.wire import InnerProducts
from crossbreed.recipes.named import weighted_deltas
from crossbreed.runs.opening import described_sources
from crossbreed.runs.spec import SourcesConfig
from crossbreed.runs.spec.provider import Provided
from crossbreed.runs.spec.serve import ServeConfig
from crossbreed.runs.splits import split_tasks
from crossbreed.runs.teachers.checks import teacher_tasks
from crossbreed.runs.workers.adopted import Adopted
from crossbreed.runs.workers.candidate_engine import CandidateEngine, start_candidate_engine, verified
from crossbreed.service.answers import finite_answers
from crossbreed.service.texts import Texts
from crossbreed.sources import Structure, require_tensors
from crossbreed.types import BASE, Recipe, SplitName, canonical_json, content_id

if TYPE_CHECKING:
    from crossbreed.runs.weights import Weights

_PROBES: tuple[Request, ...] = (
    Generate(prompt=Prompt(text="The capital of France is"), max_tokens=8),
    Loglikelihood(prompt=Prompt(text="Two and two are"), continuation=" four, and three and three are six."),
    Generate(prompt=Prompt(text="Once upon a time, there was"), max_tokens=8),
)
"""What the engine is verified with, besides some of the tasks' own questions."""
_MOST_PROBES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Repeats:
    """What answers were found to depend on, when the engine started."""

    deterministic: bool
    batch_invariant: bool


@dataclass(eq=False, slots=True, kw_only=True)
class Provider:
    """Opened sources and everything that the service knows of them."""

    config: ServeConfig
    engine: EngineConfig
    structure: Structure
    weights: "Weights | None"
    """None if the engine takes recipes."""
    tasks: Mapping[str, Task]
    items: Mapping[str, tuple[Item, ...]]
    """Task -> the items that are scored."""
    contents: Mapping[str, str]
    """Task -> content hash of its items, of how they are asked and scored, and of the splits they are told by."""
    splits: Mapping[str, Mapping[SplitName, tuple[Item, ...]]] = field(default_factory=dict)
    """Task -> split -> its items, where only means are told; empty: there are no splits."""
    texts: Texts | None
    """None if the engine does not use the base's tokenizer."""
    sources: Mapping[str, Recipe]
    """Source name -> the recipe of the source itself."""
    notes: tuple[str, ...] = ()
    """What could not be verified."""
    repeats: Repeats = field(default_factory=lambda: Repeats(deterministic=False, batch_invariant=False))
    """Measured when the engine starts."""
    products: InnerProducts | None = None
    """Once they were asked for."""
    _multiplied: dict[str, list[list[float]]] = field(default_factory=dict)
    """Tensor -> its inner products, as far as they are computed."""

    @property
    def base_recipe(self) -> Recipe:
        """The recipe of the base."""
        return self.sources[BASE]

    @property
    def host_hash(self) -> str:
        """Content hash of tokenizer, configuration and templates; empty if the engine alone knows them."""
        return content_id(canonical_json(self.weights.host_hashes)) if self.weights else ""

    @property
    def engine_hash(self) -> str:
        """Content hash of the engine's settings."""
        return content_id(canonical_json(self.engine.identity()))

    def start(self) -> CandidateEngine:
        """Starts the engine; verifies it with base and uniform merge, as before a run.

        Raises:
            EngineError: it does not start.
            SwapError: it does not answer with the weights it was given.
            InputError: no plain merge can be written in the dtype of merges.
        """
        engine = start_candidate_engine(self.engine, self.weights)
        try:
            requests, experts = self._probes(), self.structure.experts
            mixes = [dict.fromkeys(experts, 1.0 / len(experts)), *({name: 1.0} for name in experts)]
            hashes, dtype = self.structure.hashes, self.base_recipe.dtype
            merges = (weighted_deltas(weights, hashes=hashes, dtype=dtype) for weights in mixes)
            self.notes = verified(engine, self.base_recipe, merges, requests)
            self.repeats = _repeats(engine.adopt(self.base_recipe), requests)
        except BaseException:
            engine.close()
            raise
        return engine

    def probe(self, adopted: Adopted) -> None:
        """Asks the base for an answer; raises EngineError or InvalidWeights if there is none."""
        finite_answers(adopted, self._probes()[:2])

    def require_unchanged(self) -> None:
        """Raises MachineError if the sources' files have changed since they were opened."""
        if self.weights:
            self.weights.sources.require_unchanged()

    def check(self, recipe: Recipe) -> None:
        """Raises InputError if a recipe cannot be merged; reads no weights."""
        if self.weights:
            self.weights.check(recipe)

    def multiply(self, seconds: float) -> None:
        """Goes on with the inner products of each tensor: for so long, and a tensor at least.

        When all are done, they are in `products`.
        """
        assert self.weights is not None, "asked of weights alone"
        self.require_unchanged()
        until_s = monotonic() + seconds
        for name in sorted(self.structure.tensors.keys() - self._multiplied.keys()):
            self._multiplied[name] = self.weights.inner_products([name]).tolist()
            if monotonic() >= until_s:
                return
        self.products = InnerProducts(tensors=self._multiplied)

    def _probes(self) -> list[Request]:
        """Returns a few requests, the tasks' own first."""
        of_tasks = [
            r for name, task in self.tasks.items() for item in self.items[name][:2] for r in task.requests(item)
        ]
        return [*of_tasks[: _MOST_PROBES - len(_PROBES)], *_PROBES]


def open_provider(spec: Provided) -> Provider:
    """Opens sources and tasks.

    Raises:
        MissingExtra: a package is not installed.
        InputError: a source, a task or the engine's settings are wrong.
    """
    engine, weights = spec.engine, None
    require_code(engine)
    if isinstance(engine, RecipeEngineConfig):
        structure = described_sources(engine, *spec.sources.told)
    else:
        require_tensors()
        from crossbreed.runs.weights import open_sources_of

        assert isinstance(spec.sources, SourcesConfig), "an engine that takes weights has no sources of its own"
        weights = open_sources_of(spec.sources)
        weights.sources.require_changes()
        structure = weights.structure
        engine.check_base(weights.host, weights.shapes)
    tasks = load_tasks(
        spec.tasks,
        seed=spec.run.seed if spec.run else 0,
        host=weights.host if weights and engine.tokenizes_on_host else None,
        context_tokens=engine.context_tokens,
    )
    if found := [kind for _, kind in teacher_tasks(tasks)]:
        raise InputError(
            f"a service scores no task of kind `{found[0].kind}`: its values are told without a teacher's answers",
            expected="tasks of other kinds",
            got=f"`{found[0].name}`, whose teacher is `{found[0].teacher}`",
            where="fitness.tasks",
            fix="remove it from the spec that is served",
        )
    _require_no_judges(tasks)
    if weights and engine.tokenizes_on_host:
        weights.check_lengths(tasks, context_tokens=engine.context_tokens)
    seed = spec.run.seed if spec.run else 0
    if spec.run:  # its selection and report items stay its own
        searched = split_tasks(tasks, spec.run.fitness.split, seed=seed)["search"]
        tasks = [replace(task, items=searched[task.name].items) for task in tasks]
    divided = {} if spec.serve.split is None else split_tasks(tasks, spec.serve.split, seed=seed, where="serve.split")
    dtype = structure.dtype if spec.dtype == "auto" else spec.dtype
    of_sources = {BASE: dict[str, float](), **{name: {name: 1.0} for name in structure.experts}}
    return Provider(
        config=spec.serve,
        engine=engine,
        structure=structure,
        weights=weights,
        tasks={task.name: task for task in tasks},
        items={task.name: task.items for task in tasks},
        splits={task.name: {name: found[task.name].items for name, found in divided.items()} for task in tasks}
        if divided
        else {},
        contents={task.name: _content_of(task, divided) for task in tasks},
        texts=_texts(weights.host, engine) if weights and engine.tokenizes_on_host else None,
        sources={
            name: weighted_deltas(weight, hashes=structure.hashes, dtype=dtype) for name, weight in of_sources.items()
        },
    )


def _require_no_judges(tasks: Sequence[Task]) -> None:
    """Refuses tasks whose clients would not be told on which items there is no verdict."""
    mistakes = Collector()
    for task in tasks:
        if judge_calls(task):
            mistakes.note(
                InputError(
                    f"task `{task.name}` asks a judge, whose abstentions a service cannot tell its clients",
                    expected="tasks whose every item has a value",
                    got=task.kind.metric_name,
                    where=f"fitness.tasks, `{task.name}`",
                    fix="let clients judge answers themselves: a task of theirs, with the right `answers`",
                )
            )
    mistakes.require_none()


def _content_of(task: Task, divided: Mapping[SplitName, Mapping[str, AnyItems]]) -> str:
    kind = own_kind(task)
    settings = kind.identity() if isinstance(kind, TaskConfig) else {}
    parts = {split: sorted(item.id for item in found[task.name].items) for split, found in divided.items()}
    return content_id(canonical_json([settings, task.contents_id, *([parts] if parts else [])]))


def _texts(host: Path, engine: EngineConfig) -> Texts:
    if engine.context_tokens is not None and engine.context_tokens < 2:
        raise InputError("the engine's context is too short to answer in", where="fitness.engine")
    return Texts(host, max_model_len=engine.context_tokens)


def _repeats(adopted: Adopted, requests: Sequence[Request]) -> Repeats:
    """Asks the same in one chunk, again, and one by one."""
    first, again = finite_answers(adopted, requests), finite_answers(adopted, requests)
    alone = [finite_answers(adopted, [request])[0] for request in requests]
    return Repeats(deterministic=first == again, batch_invariant=first == again == alone)
