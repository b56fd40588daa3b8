"""What a task asks: one item as the model gets it, and what can be known of all of them before a run."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from crossbreed.fitness import (
    Answer,
    Item,
    Loglikelihood,
    Prompt,
    Task,
    TaskConfig,
    TaskLengths,
    gold_answer,
    own_kind,
    right_request,
)
from crossbreed.runs.plan import Plan
from crossbreed.runs.record.records import SplitName
from crossbreed.runs.results.base_rates import chance_of, positions_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """A text whose likelihood after the prompt is scored."""

    text: str
    """With the delimiter before it, as it is scored."""
    is_right: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One item of a task, as the model gets it."""

    task: str
    item_id: str
    prompt: str
    """Through the chat template, with system message, examples and the special tokens before it; empty if a provider
    asks it."""
    prompt_tokens: int | None
    """None where the engine has a tokenizer of its own."""
    options: tuple[Option, ...]
    """The texts whose likelihood is scored; empty where the model writes."""
    gold: str
    """The gold answer; empty if there is none."""
    gold_tokens: int | None
    gold_value: float | None
    """The score of a model that answers exactly the gold; None if there is none."""
    gold_parts: Mapping[str, float] = field(default_factory=dict)
    """The same by each of the metrics that a task combines."""
    judged: tuple[str, ...] = ()
    """What judges are asked about the gold answer."""
    answer: str | None = None
    """The base's answer, if the engine was started."""
    value: float | None = None
    """The score of that answer."""

    def to_json(self) -> dict[str, Any]:
        """Returns the example for `check --json`."""
        return {
            "item": self.item_id,
            "prompt": self.prompt,
            "prompt_tokens": self.prompt_tokens,
            "options": [{"text": option.text, "right": option.is_right} for option in self.options],
            "gold": self.gold,
            "gold_tokens": self.gold_tokens,
            "gold_score": self.gold_value,
            "gold_scores": dict(self.gold_parts),
            "judge_prompts": list(self.judged),
            "answer": self.answer,
            "score": self.value,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskFindings:
    """What is known of a task before a run."""

    name: str
    metric: str
    num_items: int
    """Items of the file; the splits need not use all of them."""
    num_split: Mapping[SplitName, int]
    """Split -> items."""
    lengths: TaskLengths | None
    """None where the engine has a tokenizer of its own."""
    gold_values: tuple[float, ...]
    """The score of each item's gold answer; empty if there are none."""
    constant: tuple[str, float] | None
    """The text that is right most often, and for which share of the items; None if each item has one of its own."""
    positions: Mapping[str, float]
    """Where options are offered: letter -> share of the items whose right option it is."""
    notes: tuple[str, ...]
    """What is suspicious, one sentence each."""
    example: Example
    higher_is_better: bool = True
    base_values: tuple[float, ...] = ()
    """The base's scores on a chunk of search items, if the engine was started."""

    @property
    def num_golds_fit(self) -> int | None:
        """Items of which a right answer fits into `max_tokens`; None if that is not known or does not apply."""
        if self.lengths is None or self.lengths.max_tokens is None or not self.lengths.golds:
            return None
        return len(self.lengths.golds) - len(self.lengths.cut_golds)

    def answered(self, answer: str, value: float, values: Sequence[float]) -> "TaskFindings":
        """Returns the findings with the base's answers.

        Args:
            answer: The one to the example.
            value: Its score.
            values: The scores of a chunk of search items; none if there was no time.
        """
        notes = self.notes
        if self.higher_is_better and self.gold_values and len(values) > 1 and min(values) >= max(self.gold_values):
            notes += (f"the base answers all {len(values)} items right that it was asked: there is nothing to gain",)
        example = replace(self.example, answer=answer, value=value)
        return replace(self, example=example, base_values=tuple(values), notes=notes)

    def to_json(self) -> dict[str, Any]:
        """Returns the findings for `check --json`."""
        lengths = self.lengths
        return {
            "name": self.name,
            "metric": self.metric,
            "items": {"file": self.num_items, **self.num_split},
            "prompt_tokens": lengths and _range(lengths.prompts),
            "prompts_fit": lengths and 1.0,  # else the spec is refused
            "context_tokens": lengths and lengths.context,
            "gold_tokens": lengths and _range(lengths.golds),
            "max_tokens": lengths and lengths.max_tokens,
            "golds_fit": None if self.num_golds_fit is None else self.num_golds_fit / self.num_items,
            "gold_score": {
                "mean": sum(self.gold_values) / len(self.gold_values),
                "low": min(self.gold_values),
                "n": len(self.gold_values),
            }
            if self.gold_values
            else None,
            "most_frequent_gold": self.constant and {"text": self.constant[0], "share": self.constant[1]},
            "gold_positions": dict(self.positions),
            "base": {"mean": sum(self.base_values) / len(self.base_values), "n": len(self.base_values)}
            if self.base_values
            else None,
            "example": self.example.to_json(),
            "notes": list(self.notes),
        }


_PERMUTE = "; `permute: true` in the task offers the options of each item in an order of its own"
_SIGMAS = 4


def examine_task(plan: Plan, task: Task) -> TaskFindings:
    """Returns what is known of a task before a run."""
    lengths = plan.lengths.get(task.name)
    cut = lengths.cut_golds if lengths else {}
    golds = {item.id: gold_answer(task, item, cut=cut.get(item.id)) for item in task.items}
    values = {name: answer.value for name, answer in golds.items() if answer is not None}
    return TaskFindings(
        name=task.name,
        metric=task.kind.metric_name,
        num_items=sum(item.count for item in task.items),
        num_split={split: tasks[task.name].count for split, tasks in plan.items.items()},
        lengths=lengths,
        gold_values=tuple(values.values()),
        constant=_constant(task, task.items),
        positions=positions_of(task, task.items),
        notes=(*_own_notes(task), *_gold_notes(task, values, cut), *_signal_notes(plan, task)),
        example=_example(plan, task, golds, lengths),
        higher_is_better=task.higher_is_better,
    )


def _example(plan: Plan, task: Task, golds: Mapping[str, Answer | None], lengths: TaskLengths | None) -> Example:
    item = plan.items["search"][task.name].items[0]
    requests = task.requests(item)
    right = right_request(task, item)
    scored = [request for request in requests if isinstance(request, Loglikelihood)]
    gold, place = golds[item.id], task.items.index(item)
    return Example(
        task=task.name,
        item_id=item.id,
        prompt=_shown(plan, requests[0].prompt, is_known=lengths is not None) if requests else "",
        prompt_tokens=lengths.prompts[place] if lengths and requests else None,
        options=tuple(Option(text=one.continuation, is_right=one == right and len(scored) > 1) for one in scored),
        gold=task.kind.shown(item),
        gold_tokens=lengths.golds[place] if lengths and lengths.golds else None,
        gold_value=None if gold is None else gold.value,
        gold_parts=_gold_parts(task, item),
        judged=_judged(task, item),
    )


def _shown(plan: Plan, prompt: Prompt, *, is_known: bool) -> str:
    """Returns a prompt as the model gets it; of a chat whose template is not here, the turns."""
    if is_known and plan.weights:
        return plan.weights.shown(prompt)
    if not prompt.chat:
        return prompt.text
    system = () if prompt.system is None else (("system", prompt.system),)
    return "\n".join(f"{role}: {text}" for role, text in (*system, *prompt.turns, ("user", prompt.text)))


def _right_texts(task: Task, item: Item) -> tuple[str, ...]:
    kind = own_kind(task)
    return kind.right_texts(item) if isinstance(kind, TaskConfig) else ()


def _gold_parts(task: Task, item: Item) -> Mapping[str, float]:
    kind = own_kind(task)
    return kind.gold_values(item) if isinstance(kind, TaskConfig) else {}


def _own_notes(task: Task) -> tuple[str, ...]:
    kind = own_kind(task)
    return kind.notes() if isinstance(kind, TaskConfig) else ()


def _judged(task: Task, item: Item) -> tuple[str, ...]:
    kind = own_kind(task)
    return kind.judged(item, task.kind.shown(item)) if isinstance(kind, TaskConfig) else ()


def _constant(task: Task, items: Sequence[Item]) -> tuple[str, float] | None:
    """Returns the text that is right most often, with its share of the items."""
    found = Counter(text for item in items for text in dict.fromkeys(_right_texts(task, item)))
    [(text, number)] = found.most_common(1) or [("", 0)]
    return (text, number / len(items)) if number > 1 else None


def _gold_notes(task: Task, values: Mapping[str, float], cut: Mapping[str, str]) -> list[str]:
    """Says which gold answers do not get the full score, where more is better."""
    kind = own_kind(task)
    if not task.higher_is_better or (isinstance(kind, TaskConfig) and kind.best is None):
        return []
    low = [name for name, value in values.items() if value < 1]
    if not low:
        return []
    item = next(item for item in task.items if item.id == low[0])
    parts = ", ".join(f"{name} {value:g}" for name, value in _gold_parts(task, item).items())
    why = "no answer that is the gold alone is right: look at `metric`, `pattern` and `stop`" + f" ({parts})" * bool(
        parts
    )
    if low[0] in cut:
        why = f"`max_tokens` leaves {cut[low[0]]!r} of it: raise it"
    return [
        f"the gold answers of {len(low)} of {len(values)} items score below 1 when they are given exactly, as "
        f"{task.kind.shown(item)[:80]!r} of item `{low[0]}`, which scores {values[low[0]]:g}; {why}"
    ]


def _signal_notes(plan: Plan, task: Task) -> list[str]:
    """Says where a model that always answers the same is right."""
    notes = []
    if (constant := _constant(task, plan.items["search"][task.name].items)) and constant[1] >= 0.9:
        share = "every" if constant[1] == 1 else f"{constant[1]:.0%} of the"
        notes.append(
            f"{share} gold of the search items is {constant[0][:80]!r}: a model that always answers it scores "
            f"{constant[1]:.2g}, so there is "
            + ("no signal to search for" if constant[1] == 1 else "little signal to search for")
        )
    for letter, part in positions_of(task, task.items).items():
        if part == 1 and len(task.items) > 1:
            notes.append(
                f"every gold is option {letter}: a model that prefers this place is always right"
                + (", and ties count for the first option" if letter == "A" else "")
                + _PERMUTE
            )
        elif part > (chance := chance_of(task, task.items) or 1.0) and _is_skewed(part, chance, len(task.items)):
            notes.append(
                f"{part:.0%} of the golds are option {letter}, where {chance:.0%} would be chance: a model that "
                f"prefers this place is right as often{_PERMUTE}"
            )
    return notes


def _is_skewed(part: float, chance: float, number: int) -> bool:
    """Whether a place has half as many golds again as chance gives it, and far more than chance would."""
    return part >= 1.5 * chance and part - chance > _SIGMAS * (chance * (1 - chance) / number) ** 0.5


def _range(sizes: Sequence[int]) -> dict[str, int] | None:
    return {"low": min(sizes), "high": max(sizes)} if sizes else None
