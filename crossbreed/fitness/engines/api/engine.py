"""The engine `api`: posts recipes to a merge service and asks the merges that it makes.

A chunk is one body, so one call of the engine behind the service, with the tokens that a local engine would get. What
the service has forgotten is posted again; what it once answered a candidate is not asked again by a run that goes on.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

from crossbreed.errors import EngineError, InputError
from crossbreed.fitness import wire
from crossbreed.fitness.engines.api.abilities import probe
from crossbreed.fitness.engines.api.completions import Asked, body_of, grouped, read_completion
from crossbreed.fitness.engines.api.config import ApiConfig, read_sources
from crossbreed.fitness.engines.api.requests import RequestJournal
from crossbreed.fitness.engines.api.tokens import Tokens
from crossbreed.fitness.engines.library import engine_code
from crossbreed.fitness.protocol import SplitMean, Surroundings
from crossbreed.fitness.requests import Loglikelihood, Request, Response
from crossbreed.fitness.services.begun import ENGINE, HOST, Begun
from crossbreed.fitness.services.faults import ModelForgotten, WrongAnswer
from crossbreed.types import BASE, Recipe

T = TypeVar("T")
_MOST_POSTS = 3
"""Times in a row that a recipe is posted again because the service has forgotten it."""


class ApiEngine:
    """A connection to a merge service."""

    def __init__(self, config: ApiConfig) -> None:
        """Asks what the service has and may be asked.

        Raises:
            InputError: the service refuses the key.
            EngineError: it answers something else.
            ServiceOutage: it does not answer.
        """
        self.config, self.notes = config, tuple[str, ...]()
        self.transport = config.connect()
        self.tokens = Tokens(self.transport)
        self._around = Surroundings()
        self._journal: RequestJournal | None = None
        self._is_asking_anew = False
        self.begun = Begun(config.url)
        sources, _ = self.transport.get("/v1/sources", read_sources)
        self.abilities = sources.abilities

    def begin(self, around: Surroundings) -> None:
        """Takes what the run lets it use, and tries out what the service can do; see UsesRun."""
        self._around = around
        self.transport.use(seed=around.seed, say=around.say)
        if around.folder is not None:
            self.begun.keep_in(around.folder)
            self.tokens.keep_in(around.folder / "tokens.jsonl")
        self._require_as_begun(self.abilities)
        self.notes = tuple(probe(self.abilities, self._asking_base))

    def _require_as_begun(self, said: wire.Abilities | wire.Merge) -> None:
        """Refuses to go on where the service is not what it was at the beginning."""
        for what, now in ((HOST, said.host), (ENGINE, said.engine)):
            self.begun.require(what, now)

    def adopt(self, recipe: Recipe) -> "ApiHandle":
        """Has the service make the merge."""
        merge = self.post_recipe(recipe)
        if self._is_asking_anew:
            return ApiHandle(self, recipe, merge, RequestJournal(None, recipe.id, merge.fingerprint))
        if self._journal is not None:
            self._journal.forget()
        self._journal = RequestJournal(self._around.folder, recipe.id, merge.fingerprint)
        return ApiHandle(self, recipe, merge, self._journal)

    @contextmanager
    def asking_anew(self) -> Iterator[None]:
        """Neither reads nor writes what candidates were answered; see Remembers."""
        before, self._is_asking_anew = self._is_asking_anew, True
        try:
            yield
        finally:
            self._is_asking_anew = before

    def post_recipe(self, recipe: Recipe) -> wire.Merge:
        """Posts a recipe; returns what the service calls its merge."""
        body = {"recipe": recipe.to_json()}
        merge = self.transport.post("/v1/merges", body, partial(_read_merge, expected=wire.MODEL_PREFIX + recipe.id))
        self._require_as_begun(merge)
        return merge

    def publish(self, recipe: Recipe) -> tuple[str, str]:
        """Has the service write a merge as a checkpoint of its own; see Publishes."""
        if "publish" not in self.abilities.rights:
            raise InputError(
                "the service gives no right to write checkpoints",
                expected="the right `publish`",
                got=f"{', '.join(self.abilities.rights) or 'no right at all'}, at {self.config.url}",
            )
        merge = self.post_recipe(recipe)
        found = self.transport.post("/v1/checkpoints", {"model": merge.id}, wire.Checkpoint.model_validate)
        if found.fingerprint != merge.fingerprint:
            raise EngineError(f"the service wrote weights {found.fingerprint}, not {merge.fingerprint}")
        return found.name, found.fingerprint

    def ask(self, asked: Sequence[Asked], model: str) -> list[Response]:
        """Asks one body of requests, without a journal."""
        return self._complete(asked, model)[1]

    def completion(self, asked: Sequence[Asked], model: str) -> tuple[dict[str, Any], Callable[[Any], list[Response]]]:
        """Returns a body, but for its model, and the reading of its answer."""
        with_logprobs = "logprobs" in self.abilities.rights
        read = partial(read_completion, asked=asked, model=model, with_logprobs=with_logprobs)
        return body_of(asked, with_logprobs=with_logprobs), read

    def encode(self, requests: Sequence[Request]) -> list[Asked]:
        """Returns requests in tokens.

        Raises:
            InputError: one needs what the service does not give.
        """
        rights, longest = self.abilities.rights, self.abilities.max_model_len
        if requests and "answers" not in rights:
            raise InputError("the service gives no texts", expected="the right `answers`", where=self.config.url)
        for request in requests:
            wanted = 0 if isinstance(request, Loglikelihood) else request.alternatives
            scores = isinstance(request, Loglikelihood) or request.scores_prompt or wanted
            if (scores and "logprobs" not in rights) or wanted > self.abilities.alternatives:
                raise InputError(
                    "a request needs log-probabilities that the service does not give",
                    expected=f"the right `logprobs`, and {wanted} alternatives at each place",
                    got=f"{', '.join(rights) or 'no right'}, and {self.abilities.alternatives} alternatives",
                    where=self.config.url,
                )
        asked = self.tokens.encode(requests)
        for one in asked:
            if longest is not None and one.num_tokens > longest:
                raise InputError(
                    "a request does not fit the service's context",
                    expected=f"prompt and answer in {longest} tokens",
                    got=f"{one.num_tokens} tokens: {one.request.prompt.text[:60]!r}",
                    where=self.config.url,
                    fix="shorten the item or `max_tokens`",
                )
        return asked

    def close(self) -> None:
        """Closes the connection."""
        self.transport.close()

    def _complete(self, asked: Sequence[Asked], model: str) -> tuple[Any, list[Response]]:
        body, read = self.completion(asked, model)
        tokens = sum(one.num_tokens for one in asked)
        return self.transport.post("/v1/completions", {"model": model, **body}, _both(read), tokens=tokens)

    def _asking_base(self, requests: Sequence[Request]) -> list[Response]:
        return self.ask(self.encode(requests), BASE)


class ApiHandle:
    """A candidate, as the service knows it."""

    def __init__(self, engine: ApiEngine, recipe: Recipe, merge: wire.Merge, journal: RequestJournal) -> None:
        self.engine, self._recipe, self._merge, self._journal = engine, recipe, merge, journal

    @property
    def fingerprint(self) -> str:
        """The service's word on the merged weights."""
        return self._merge.fingerprint

    def answer(self, requests: Sequence[Request]) -> list[Response]:
        """Answers one chunk: one body, or several where requests cannot share one or the service takes fewer."""
        with engine_code("the service's answer could not be used"):
            asked = self.engine.encode(requests)
            found: dict[int, Response] = {}
            for group in grouped(asked):
                for start in range(0, len(group), self.engine.abilities.chunk):
                    places = group[start : start + self.engine.abilities.chunk]
                    found |= zip(places, self._complete([asked[place] for place in places]), strict=True)
            return [found[place] for place in range(len(asked))]

    def score_items(self, task: str, items: Sequence[str]) -> list[float]:
        """Returns the provider's values of a task of its own; see ScoresItems."""
        question = {"task": task, "items": list(items)}
        read = partial(_read_values, task=task, items=items, merge=self._merge)
        found = self._journalled(
            question, "/v1/evaluations", read, tokens=0, accept=lambda found: self._require_content(task, found)
        )
        return found[0]

    def score_split(self, task: str, split: str, *, count: int) -> SplitMean:
        """Returns the provider's mean of a task of its own; see ScoresSplits."""
        question = {"task": task, "split": split}
        read = partial(_read_mean, task=task, split=split, count=count, merge=self._merge)
        found = self._journalled(
            question, "/v1/evaluations", read, tokens=0, accept=lambda found: self._require_content(task, found)
        )
        return found[0]

    def _require_content(self, task: str, found: tuple[object, str]) -> None:
        self.engine.begun.require(f"task `{task}`", found[1])

    def _complete(self, asked: Sequence[Asked]) -> list[Response]:
        body, read = self.engine.completion(asked, self._merge.id)
        return self._journalled(body, "/v1/completions", read, tokens=sum(one.num_tokens for one in asked))

    def _journalled(
        self,
        question: Mapping[str, Any],
        path: str,
        read: Callable[[Any], T],
        *,
        tokens: int,
        accept: Callable[[T], None] = lambda _: None,  # before it is noted: later processes would read it
    ) -> T:
        """Asks, unless an earlier process was answered; posts the recipe again where the service has forgotten it."""
        if (known := self._journal.asked(question, read)) is not None:
            return known
        body = {"model": self._merge.id, **question}
        for _ in range(_MOST_POSTS):
            try:
                answer, found = self.engine.transport.post(path, body, _both(read), tokens=tokens)
            except ModelForgotten:
                self._post_again()
                continue
            accept(found)
            self._journal.note(question, answer)
            return found
        raise EngineError(f"the service forgets the merge {self._merge.id} as soon as it has made it")

    def _post_again(self) -> None:
        merge = self.engine.post_recipe(self._recipe)
        if merge.fingerprint != self._merge.fingerprint:
            raise EngineError(
                f"the service makes other weights from recipe {self._recipe.id} than before: {merge.fingerprint}, "
                f"not {self._merge.fingerprint}"
            )


def _both(read: Callable[[Any], T]) -> Callable[[Any], tuple[Any, T]]:
    """Returns a reader of an answer that gives its JSON too, for the journal."""
    return lambda value: (value, read(value))


def _read_merge(value: Any, *, expected: str) -> wire.Merge:  # JSON
    merge = wire.Merge.model_validate(value)
    if merge.id != expected or not merge.fingerprint:
        raise WrongAnswer(f"the merge `{merge.id[:80]}`, not `{expected}`")
    return merge


def _read_mean(value: Any, *, task: str, split: str, count: int, merge: wire.Merge) -> tuple[SplitMean, str]:  # JSON
    found = wire.Evaluation.model_validate(value)
    if (found.model, found.task, found.split, found.fingerprint) != (merge.id, task, split, merge.fingerprint):
        raise WrongAnswer(f"the mean of `{found.model[:60]}` on `{found.task[:60]}`, split {found.split}")
    if found.count != count:
        raise WrongAnswer(f"the mean of {found.count} items, not of {count}")
    return SplitMean(mean=found.mean, standard_error=found.standard_error), found.content


def _read_values(
    value: Any,
    *,
    task: str,
    items: Sequence[str],
    merge: wire.Merge,  # JSON
) -> tuple[list[float], str]:
    """Returns the values, and the content hash of the task."""
    found = wire.Evaluation.model_validate(value)
    if (found.model, found.task, found.fingerprint) != (merge.id, task, merge.fingerprint):
        raise WrongAnswer(f"the values of `{found.model[:60]}` on `{found.task[:60]}`")
    if found.values is None or len(found.values) != len(items) or found.count != len(items):
        raise WrongAnswer(f"{0 if found.values is None else len(found.values)} values of {len(items)} items")
    return list(found.values), found.content
