"""The question that an item asks the model: no two splits may share one, whatever other fields a file has."""

from collections.abc import Sequence

from crossbreed.errors import InputError, excerpt
from crossbreed.fitness.item_mistakes import ItemMistakes
from crossbreed.fitness.items import Item, Split
from crossbreed.fitness.requests import Generate, Loglikelihood, Prompt, Request
from crossbreed.fitness.tasks.config import PromptTaskConfig, TaskConfig
from crossbreed.fitness.tasks.prompts import folded
from crossbreed.fitness.tasks.remote import RemoteTask
from crossbreed.fitness.tasks.task import Kind, Task
from crossbreed.fitness.values import is_unicode

_WORDS_OF_A_QUESTION = 4
"""A field of at least as many words is the question itself, in whatever frame; fewer fill a gap: `France`, `2 + 2`."""


def questions_of(task: Task, item: Item) -> frozenset[str]:
    """Returns texts, one of which two items share if they ask the same, in one task or in two.

    They are what is asked without examples and the task's system message; and the question with each of its answers,
    in whatever frame and case.
    """
    kind = own_kind(task)
    if not _asks(kind):
        return frozenset()  # ids and contents are compared
    if not isinstance(kind, PromptTaskConfig):
        own = kind.questions(item) if isinstance(kind, TaskConfig) else frozenset[str]()
        return own | {_rendered(task.requests(item))}
    options = sorted(folded(r.continuation) for r in task.requests(item) if isinstance(r, Loglikelihood))
    values = " ".join(map(folded, kind.shown_values(item)))
    framed = "\n".join((folded(kind.question(item)), *options))
    if len(values.split()) < _WORDS_OF_A_QUESTION:
        return frozenset((framed,))
    answers = [folded(answer).casefold() for answer in {kind.shown(item), *_texts(kind, item)}]
    return frozenset((framed, *(f"{values.casefold()}\n{answer}" for answer in answers)))


def check_questions(task: Task) -> None:
    """Checks that every item of a task that makes requests asks the model something, and no two the same.

    Raises:
        InputError: items ask nothing, or in something else than texts; or two ask the same: the message names both.
    """
    if not _asks(own_kind(task)):
        return
    first: dict[str, Item] = {}
    mistakes = ItemMistakes(of=f"task `{task.name}`", among=len(task.items))
    for item in task.items:
        with mistakes.noted():
            requests = list(task.requests(item))
            _check_requests(requests, item, task=task.name)
            key = "\n".join((*_systems(requests), _rendered(requests)))
            other = first.setdefault(key, item)
            if other is not item:
                raise _asked_twice(task, other, item, key)
    mistakes.require_none()


def _asked_twice(task: Task, other: Item, item: Item, key: str) -> InputError:
    golds = [task.kind.shown(one) for one in (other, item)]
    differ = folded(golds[0]) != folded(golds[1])
    return InputError(
        "two items ask the model the same" + ", with different answers" * differ,
        expected="a prompt of its own for each item: the same one could be in two splits at once",
        got=f"`{other.id}` and `{item.id}`: {excerpt(key, at_most=120)!r}"
        + f", answers {golds[0]!r} and {golds[1]!r}" * differ,
        where="; ".join(filter(None, (f"task `{task.name}`", other.where, item.where))),
        fix="delete one"
        + " and give the other the list of right answers, or show what tells them apart" * differ
        + "; other fields (an index, a source) do not make a question another",
    )


def _asks(kind: Kind) -> bool:
    return not isinstance(kind, TaskConfig) or kind.asks


def own_kind(task: Task) -> Kind:
    """Returns the kind that a task was made with, also if a spec holds the task as an object."""
    inner = getattr(task.kind, "task", None)
    return own_kind(inner) if isinstance(inner, Task) else task.kind


def judge_calls(task: Task) -> int:
    """Returns how often judges are asked about the answers to one item of a task, at most."""
    kind = own_kind(task)
    return kind.num_calls if isinstance(kind, TaskConfig) else 0


def own_split(task: Task) -> Split | None:
    """Returns the split of a task that its provider has split, and tells nothing of but means; None for all others."""
    kind = own_kind(task)
    return kind.split if isinstance(kind, RemoteTask) else None


def _texts(kind: PromptTaskConfig, item: Item) -> tuple[str, ...]:
    """Returns the texts of all right answers; of a list of them, a choice has none but the shown one."""
    gold = kind.gold(item)
    return tuple(text for text in gold if isinstance(text, str)) if isinstance(gold, list) else ()


def _check_requests(requests: Sequence[Request], item: Item, *, task: str) -> None:
    wrong: list[object] = []
    for request in requests:
        if isinstance(request, Generate | Loglikelihood) and isinstance(request.prompt, Prompt):
            wrong += [text for text in _texts_of(request) if not isinstance(text, str) or not is_unicode(text)]
        else:
            wrong.append(request)
    if wrong or not requests:
        raise InputError(
            f"item `{item.id}` cannot be asked",
            expected="at least one Generate or Loglikelihood, of Unicode texts",
            got=f"{wrong[0]!r:.120} ({type(wrong[0]).__name__})" if wrong else "no request",
            where=item.place(task),
            fix="correct what the task's `requests` returns for it",
        )


def _texts_of(request: Request) -> list[object]:
    prompt = request.prompt
    system = [] if prompt.system is None else [prompt.system]
    ends = [request.continuation] if isinstance(request, Loglikelihood) else list(request.stop)
    return [prompt.text, *system, *(text for turn in prompt.turns for text in turn), *ends]


def _systems(requests: Sequence[Request]) -> list[str]:
    """Returns the system messages: an item may have one of its own."""
    return sorted({folded(request.prompt.system) for request in requests if request.prompt.system})


def _rendered(requests: Sequence[Request]) -> str:
    parts = [
        "\n".join(
            folded(text)
            for text in (
                *(content for _, content in request.prompt.turns),
                request.prompt.text,
                request.continuation if isinstance(request, Loglikelihood) else "",
            )
        )
        for request in requests
    ]
    return "\n".join(sorted(parts)).strip()
