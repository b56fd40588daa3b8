"""Tasks that compare generated text with the gold answer."""

import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from math import fsum, nan
from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, PrivateAttr, model_validator

from crossbreed.errors import MissingExtra
from crossbreed.fitness.items import Item, field_of
from crossbreed.fitness.lengths import answer_length
from crossbreed.fitness.protocol import Surroundings
from crossbreed.fitness.requests import Generate, Loglikelihood, Request, Response
from crossbreed.fitness.tasks.config import PromptTaskConfig
from crossbreed.fitness.tasks.metrics import METRICS, Comparison, MetricField, WrittenMetric, comparison_of
from crossbreed.fitness.tasks.metrics.metric import Abstention, Asker, Verdict
from crossbreed.fitness.tasks.metrics.plain import check_pattern, searched
from crossbreed.fitness.tasks.sampling import best_of, most_said, sample_seeds
from crossbreed.fitness.tasks.task import Answer

_DECIMAL_COMMA = re.compile(r"[-+\u2212]?\d+,\d+")


class GenerateTask(PromptTaskConfig):
    """A prompt whose answer is compared with a gold text: the greedy one, or several that are sampled."""

    model_config = ConfigDict(json_schema_extra={"anyOf": [{"required": ["answer"]}, {"required": ["metric"]}]})

    kind: Literal["generate"]
    answer: str = ""
    """The field that holds the gold answer. May be left out where the metric looks at the text alone."""
    metric: Annotated[WrittenMetric, MetricField()] = "exact_match"
    """The comparison of the text with the gold: a metric, `{NAME: SETTING}`, or several combined: `{all: [...]}` is the
    lowest of their values, `{any: [...]}` the highest (docs/tasks.md)."""
    pattern: str | None = None
    """For `metric: regex`: a regular expression whose first group is the answer. It may take 5 s for one text."""
    max_tokens: Annotated[int, Field(ge=1)] = 16
    """Maximum number of generated tokens."""
    stop: list[Annotated[str, Field(min_length=1)]] | None = None
    """Texts that end an answer, besides the model's end token. Default: a newline, if the gold is a single line and
    there is no `thinking`."""
    thinking: str | None = None
    """A regular expression of what is cut from an answer before it is compared: `<think>.*?(</think>|$)`, where `.` is
    any character."""
    temperature: Annotated[float, Field(ge=0, le=100)] = 0.0
    """0: the most likely token at each place; above: tokens are drawn, from seeds of the run, the task and the item."""
    samples: Annotated[int, Field(ge=1, le=1000)] = 1
    """Answers to each item; several need a temperature."""
    take: Annotated[str, Field(pattern=r"^(mean|majority|pass@[1-9][0-9]{0,3})$")] = "mean"
    """What is made of several answers: the `mean` of their values; `pass@K`, the expected best of K of them; or the
    value of what the `majority` says."""
    _comparison: Comparison = PrivateAttr()
    _seed: int = PrivateAttr(default=0)

    @model_validator(mode="after")
    def _pattern_goes_with_its_metric(self) -> "GenerateTask":
        if self.pattern is not None and not (isinstance(self.metric, str) and METRICS[self.metric].takes_pattern):
            raise ValueError(f"`metric: {self.metric}` takes no `pattern`; `regex` does")
        self._comparison = comparison_of(self.metric, pattern=self.pattern)
        if self._comparison.uses_gold and not self.answer:
            raise ValueError(
                f"`metric: {self.metric}` compares with a gold answer: name the field that holds it in `answer`"
            )
        return self

    @model_validator(mode="after")
    def _samples_make_sense(self) -> "GenerateTask":
        if self.thinking is not None:
            check_pattern(self.thinking, key="thinking", has_group=False)
        if self.samples > 1 and self.temperature == 0:
            raise ValueError("`samples` above 1 need a `temperature`: without one all answers are the same")
        if self.samples < self._best_of:
            raise ValueError(f"`take: {self.take}` needs at least {self._best_of} `samples`, got {self.samples}")
        if self.take == "majority" and not self._comparison.votes:
            raise ValueError(
                f"`take: majority` counts answers that say the same, and `metric: {self.metric}` tells of none what it "
                "says: use exact_match, number, choice_letter or regex, or `take: mean`"
            )
        return self

    @property
    def _best_of(self) -> int:
        """The K of `pass@K`; 0 if something else is taken."""
        return int(self.take.removeprefix("pass@")) if self.take.startswith("pass@") else 0

    @property
    def metric_name(self) -> str:
        """The name of the metric, and what is taken of several answers; see Kind."""
        taken = "" if self.samples == 1 else f", {self.take} of {self.samples}"
        return self._comparison.label + taken

    @property
    def higher_is_better(self) -> bool:
        """Whether larger values of the metric are better; see Kind."""
        return self._comparison.higher_is_better

    @property
    def span(self) -> tuple[float, float] | None:
        """Of metrics that are our own, 0 and 1; see TaskConfig."""
        are_ours = all(single.name in METRICS.ours for single in self._comparison.singles())
        return (0.0, 1.0) if are_ours else None

    @property
    def most_tokens(self) -> int:
        """See TaskConfig."""
        return self.max_tokens

    def require(self) -> None:
        """Refuses a metric that cannot work here."""
        for single in self._comparison.singles():
            try:
                single.require()
            except MissingExtra as error:
                where = f"task `{self.name}`, metric `{single.name}`"
                raise MissingExtra(error.problem, where=where, fix=error.fix) from None

    def with_seed(self, seed: int) -> Self:
        """Returns the task with the run's seed."""
        seeded = self.model_copy()
        seeded._seed = seed
        return seeded if self.temperature > 0 else self

    def requests(self, item: Item) -> list[Request]:
        """Returns a Generate for each sample."""
        self._reachable(item)
        prompt = self.render(item)
        self.require_question(item)
        asked = Generate(
            prompt=prompt, max_tokens=self.max_tokens, stop=self._stops(item), temperature=self.temperature
        )
        if self.temperature == 0:
            return [asked]
        return [replace(asked, seed=one) for one in sample_seeds(self._seed, self.name, item.id, self.samples)]

    def needed(self, item: Item) -> tuple[str, ...]:
        """Returns the golds, for a metric that looks for one in the text."""
        return self._reachable(item) if self._comparison.needs_gold else ()

    def right_texts(self, item: Item) -> tuple[str, ...]:
        """Returns the golds."""
        return tuple(gold.strip() for gold in self._texts(item)) if self.answer else ()

    def calibration(self, item: Item) -> Loglikelihood:
        """Returns the gold answer in the form of few-shot examples: after a space, and ended by the first stop.

        Both are omitted in a chat: templates end the prompt where the answer begins, and mark the end of a turn
        themselves.
        """
        if not self.answer:
            return super().calibration(item)
        prompt, gold = self.render(item), self.shown(item).strip()
        if not self.chat_template:
            gold = self.delimiter_after(prompt.text) + gold + (*self._stops(item), "")[0]
        return Loglikelihood(prompt=prompt, continuation=gold)

    def score(self, item: Item, responses: Sequence[Response]) -> Answer:
        """Returns the metric's value of the text: the best over all golds; of several texts, what is to be taken."""
        said = [self._without_thinking(response.text) for response in responses]
        cut = [*map(_cut_tokens, responses, said)]
        thinking = None if self.thinking is None else sum(cut)
        pairs = zip(responses, cut, strict=True)
        length = fsum(answer_length(one, max_tokens=self.max_tokens, thinking=out) for one, out in pairs)
        length /= len(responses)
        if self.take == "majority":
            place = most_said([self._comparison.key(text) for text in said])
            said, text = [said[place]], responses[place].text
        else:
            text = "\n--\n".join(response.text for response in responses)
        value, why, heard = nan, "", list[Verdict]()
        try:
            value = self._taken([self._value_of(self._comparison, item, one, heard) for one in said])
        except Abstention as error:
            why = str(error)
        repeated = [one.agrees for one in heard if one.agrees is not None]
        agrees = all(repeated) if repeated else None
        return Answer(value=value, text=text, thinking=thinking, abstains=why, agrees=agrees, length=length)

    def score_chunk(self, items: Sequence[Item], responses: Sequence[Sequence[Response]]) -> list[Answer]:
        """Scores a chunk of items; where judges are asked, several at a time."""
        at_once = min((asker.concurrency for asker in self._askers), default=1)
        if at_once == 1 or len(items) < 2:
            return list(map(self.score, items, responses))
        threads = ThreadPoolExecutor(min(at_once, len(items)))
        try:
            return list(threads.map(self.score, items, responses))
        finally:  # after Ctrl-C nobody waits for a judge: the connection is closed next
            threads.shutdown(wait=False, cancel_futures=True)

    def _taken(self, values: Sequence[float]) -> float:
        """Returns what is made of the values of several answers."""
        if k := self._best_of:
            sign = 1 if self.higher_is_better else -1
            return sign * best_of([sign * value for value in values], k)
        return fsum(values) / len(values)

    @property
    def num_calls(self) -> int:
        """See TaskConfig."""
        of_a_sample = sum(asker.num_calls for asker in self._askers)
        return of_a_sample * (1 if self.take == "majority" else self.samples)

    @property
    def most_abstentions(self) -> float:
        """See TaskConfig."""
        return min((asker.most_abstentions for asker in self._askers), default=0.0)

    def begun(self, around: Surroundings, closing: ExitStack) -> Self:
        """Returns the task with judges that can be asked."""
        if not self._askers:
            return self
        begun = self.model_copy()
        begun._comparison = self._comparison.begun(around, closing)
        return begun

    def judged(self, item: Item, text: str) -> tuple[str, ...]:
        """See TaskConfig."""
        return tuple(asker.question(text, item, task=self.name) for asker in self._askers)

    @property
    def _askers(self) -> tuple[Asker, ...]:
        return tuple(single.asker for single in self._comparison.singles() if single.asker is not None)

    def gold_values(self, item: Item) -> Mapping[str, float]:
        """Returns the values of the first gold, as an answer, by the metrics that are combined."""
        singles = list(self._comparison.singles()) if self.answer and not self._askers else []
        gold = self.shown(item)
        return {one.label: self._value_of(one, item, gold) for one in singles} if len(singles) > 1 else {}

    def shown(self, item: Item) -> str:
        """Returns the first right answer; an empty text if the task has none."""
        return self._texts(item)[0]

    def identity(self) -> dict[str, Any]:
        """Returns all settings except paths: the contents of files that the metric reads."""
        return super().identity() | {"metric": self._comparison.identity() if self.pattern is None else self.metric}

    def _without_thinking(self, text: str) -> str:
        if self.thinking is None:
            return text
        pattern = re.compile(self.thinking, re.DOTALL)
        while (found := searched(text, pattern)) is not None and found.end() > found.start():
            text = text[: found.start()] + text[found.end() :]
        return text.lstrip()

    def _value_of(self, comparison: Comparison, item: Item, text: str, heard: list[Verdict] | None = None) -> float:
        values, missing = list[float](), list[Abstention]()
        for gold in self._texts(item):
            try:
                values.append(comparison.value(text, gold, item.fields, heard))
            except Abstention as error:
                missing.append(error)
        if missing and 1.0 not in values:
            raise missing[0]
        return max(values) if comparison.higher_is_better else min(values)

    def _texts(self, item: Item) -> tuple[str, ...]:
        return self.golds(item, by_value=self._comparison.by_value)

    def _reachable(self, item: Item) -> tuple[str, ...]:
        """Returns the golds that some text can match; raises InputError if there is none."""
        comparison, stops = self._comparison, self._stops(item)
        self.judged(item, "")  # refuses an item that cannot be asked about
        for name in (name for single in comparison.singles() for name in single.reads):
            field_of(item, name, task=self.name)
        if not comparison.uses_gold:
            return ()
        golds = [gold.strip() for gold in self._texts(item) if comparison.can_match(gold)]
        whole = [gold for gold in golds if not (comparison.needs_gold and any(stop in gold for stop in stops))]
        if golds and not whole:
            cut = next(stop for stop in stops if stop in golds[0])
            raise self.unscorable(
                item,
                expected=f"an answer without {cut!r}, at which texts end",
                fix="remove it from `stop`, or from the item",
            )
        if not whole:
            comma = comparison.by_value and _DECIMAL_COMMA.fullmatch(self._texts(item)[0].strip())
            fix = "a comma divides thousands: write decimals after a point, as in 83.2" if comma else ""
            raise self.unscorable(item, expected=f"an answer that `metric: {self.metric}` can match", fix=fix)
        return tuple(whole)

    def _stops(self, item: Item) -> tuple[str, ...]:
        if self.stop is not None:
            return tuple(self.stop)
        if not self.answer or self.thinking is not None:
            return ()
        return ("\n",) * (not any("\n" in gold.strip() for gold in self._texts(item)))


def _cut_tokens(response: Response, rest: str) -> int:
    """Returns how many tokens of a response were cut: by the share of its characters, since tokens have no places."""
    cut = len(response.text) - len(rest)
    return round(len(response.token_ids) * cut / max(1, len(response.text)))
