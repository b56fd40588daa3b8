"""The findings of `crossbreed check` as text: the plan, what it costs, what publishing will ask, and each task."""

from collections.abc import Iterator, Sequence
from textwrap import wrap
from typing import TYPE_CHECKING

from crossbreed.errors import printable
from crossbreed.parsing import counted
from crossbreed.runs.checking.cost import Cost, StageCost
from crossbreed.runs.checking.questions import Example, TaskFindings
from crossbreed.runs.plan_text import plan_text
from crossbreed.runs.record.phase import duration

if TYPE_CHECKING:
    from crossbreed.runs.check import Findings

_SHOWN_GROUPS = 12
"""The most lines of groups."""
_SHOWN_LINES = 24
"""The most lines of a prompt: of longer ones the middle is left out, `--json` has it."""
_SHOWN_CHARACTERS = 400
"""The most of a line, and of an option: the text that is scored may be a chapter."""
_SHOWN_POSITIONS = 8
_WIDTH = 110


def findings_text(findings: "Findings") -> str:
    """Returns the output of `crossbreed check`."""
    plan = findings.plan
    lines = [plan_text(plan), *_cost_lines(findings.cost)]
    if gigabytes := plan.merged_bytes / 1e9:
        memory, disk = (f"{size / 1e9:.0f} GB" for size in (findings.memory_bytes, findings.free_disk_bytes))
        where = f"of this machine's {memory}" if plan.spec.workers.address is None else "on a machine of the cluster"
        lines.append(f"  memory  each worker's engine holds {gigabytes:.2f} GB of weights and a cache, {where}")
        lines.append(f"  disk    publishing takes {gigabytes:.2f} GB; {disk} are free in this folder")
    lines += _memory_lines(findings)
    lines += [f"  note    {note}" for note in findings.notes]
    for note in findings.publish_notes:
        lines += _labelled("  publish ", note)
    lines += _groups_lines(findings)
    for task in findings.tasks:
        lines += ["", *_task_lines(task)]
    num_notes = sum(len(task.notes) for task in findings.tasks)
    ending = f"; {counted(num_notes, 'note')} on the tasks above" if num_notes else ""
    return "\n".join([*lines, "", f"no problems found{ending}"])


def _memory_lines(findings: "Findings") -> Iterator[str]:
    needs, plan = findings.memory, findings.plan
    if needs.walk is not None and (config := plan.spec.regression) is not None:
        from crossbreed.runs.regression.memory import num_tokens, statistics_bytes

        yield (
            f"  walk    {needs.walk / 1e9:.2f} GB beside the sources while the regression is made, "
            f"on about {num_tokens(plan, config):,} tokens"
        )
        if kept := statistics_bytes(plan):
            yield f"          {kept / 1e9:.2f} GB of statistics on disk, in the cache and in the run's folder each"
    for stage in plan.stages:
        if (size := needs.slopes.get(stage.number)) is not None:
            where = "" if stage.optimizer.slope_kind is None else " in each worker"
            yield f"  slopes  about {size / 1e9:.2f} GB beside the sources for slopes{where}"


def _cost_lines(cost: Cost) -> Iterator[str]:
    trials = cost.num_models["search"]
    each = f"{cost.items['search']} items" + (
        f" and about {cost.tokens['search']:,} tokens" if cost.tokens and cost.tokens["search"] else ""
    )
    yield f"  cost    {'trials' if trials is None else f'{trials} trials'} of {each} each"
    yield from map(_stage_line, cost.of_stages)
    if calls := cost.judge_calls.get("search"):
        total_calls = cost.all_judge_calls
        in_all = "" if total_calls is None else f", {total_calls:,} in all with selection and report"
        yield f"  judge   {counted(calls, 'request')} a trial{in_all}, at most: about equal answers it is asked once"
    one, total = cost.model_s("search"), cost.total_s
    if cost.rate is None or one is None:
        yield "  time    not known yet: this engine and base were not measured on this machine; --answer does it"
        return
    by = f"{cost.rate.num_trials} trials of a run" if cost.rate.num_trials else "the first answers of the base"
    at_once = f", {cost.num_workers} workers" if cost.num_workers > 1 else ""
    yield f"  time    {one:.3g} s a trial{at_once}, as measured on {by}" + (
        f"; about {duration(total)} with selection and report" if total is not None else ""
    )
    if cost.budget_s is not None:
        allowed = cost.num_in_budget
        fits = f"is enough: the search takes about {duration(cost.search_s or 0.0)}"
        ends = f"ends the search after about {allowed} trials"
        yield f"          the budget of {cost.budget_s / 60:g} min {fits if allowed is None else ends}"


def _stage_line(stage: StageCost) -> str:
    trials = "trials" if stage.num_models is None else counted(stage.num_models, "trial")
    within = "" if stage.budget_s is None else f" within {stage.budget_s / 60:g} min"
    about = "" if stage.seconds is None else f", about {duration(stage.seconds)}"
    return f"          {stage.name}: {trials}{within}{about}"


def _groups_lines(findings: "Findings") -> list[str]:
    """What shares coordinates: a line for each group, with one of its tensors."""
    shown, more = findings.groups[:_SHOWN_GROUPS], len(findings.groups) - _SHOWN_GROUPS
    width = max((len(group.label) for group in shown), default=0)
    lines = [
        f"  group   {group.label:{width}}  {counted(len(group.tensors), 'tensor')}, as {group.tensors[0]}"
        for group in shown
    ]
    lines += [f"  group   ... and {more} more"] if more > 0 else []
    if findings.unplaced:
        of = counted(len(findings.unplaced), "tensor")
        lines.append(f"  other   {of} of no known module type, as {findings.unplaced[0]}")
    return lines


def _task_lines(task: TaskFindings) -> Iterator[str]:
    splits = ", ".join(f"{number} {split}" for split, number in task.num_split.items())
    yield f"{task.name}: {counted(task.num_items, 'item')} ({splits}), {task.metric}"
    if task.lengths and any(task.lengths.prompts):
        yield f"  prompts {_tokens(task.lengths.prompts)}; all fit into {task.lengths.context} with their answers"
    if task.gold_values:
        yield f"  golds   {_golds(task)}"
    if parts := list(_guesses(task)):
        yield f"  guess   {'; '.join(parts)}"
    if task.base_values:
        mean = sum(task.base_values) / len(task.base_values)
        yield f"  base    {mean:.3g} on the first {counted(len(task.base_values), 'search item')}"
    for note in task.notes:
        yield from _labelled("  note    ", note)
    yield from _example_lines(task.example)


def _golds(task: TaskFindings) -> str:
    full = sum(value == 1 for value in task.gold_values)
    scores = f"{full} of {len(task.gold_values)} score 1 when given exactly"
    if full == len(task.gold_values):
        scores = "all score 1 when given exactly"
    if not task.lengths or not task.lengths.golds:
        return scores
    fit = task.num_golds_fit
    limit = task.lengths.max_tokens
    number = "all" if fit == len(task.lengths.golds) else f"{fit} of {len(task.lengths.golds)}"
    fits = "" if fit is None else f"{number} fit into max_tokens: {limit}; "
    return f"{_tokens(task.lengths.golds)}; {fits}{scores}"


def _guesses(task: TaskFindings) -> Iterator[str]:
    """What a model gets that does not read the question."""
    if task.constant is not None:
        yield f"always {_quoted(task.constant[0], 80)} is right for {_percent(task.constant[1])}"
    if task.positions:
        shown = list(task.positions.items())[:_SHOWN_POSITIONS]
        more = f" and {len(task.positions) - len(shown)} more" if len(task.positions) > len(shown) else ""
        yield "right option " + ", ".join(f"{letter} {_percent(share)}" for letter, share in shown) + more


def _example_lines(example: Example) -> Iterator[str]:
    size = "" if example.prompt_tokens is None else f", a prompt of {counted(example.prompt_tokens, 'token')}"
    yield f"  item {printable(example.item_id)}{size}:"
    if example.prompt or not example.options:
        yield from (f"    | {line}" for line in _lines(example.prompt))
    for option in example.options:
        mark = "  text:" if len(example.options) == 1 else "    *" if option.is_right else "     "
        yield f"{mark} {_quoted(option.text, _SHOWN_CHARACTERS)}"
    if example.gold:
        tokens = "" if example.gold_tokens is None else f", {counted(example.gold_tokens, 'token')}"
        value = "" if example.gold_value is None else f", score {example.gold_value:g}"
        if example.gold_parts:
            value += f" ({', '.join(f'{name} {part:g}' for name, part in example.gold_parts.items())})"
        yield f"  gold: {_quoted(example.gold, _SHOWN_CHARACTERS)}{tokens}{value}"
    for question in example.judged:
        of = "the gold" if example.gold else "an empty answer"
        yield f"  the judge is asked, of {of}:"
        yield from (f"    | {line}" for line in _lines(question))
    if example.value is not None:
        answer = f"{_quoted(example.answer or '', _SHOWN_CHARACTERS)}, " if example.answer or example.gold else ""
        yield f"  base: {answer}score {example.value:g}"


def _lines(prompt: str) -> list[str]:
    """Returns a prompt's lines; spaces at their ends, which a model sees, are made visible."""
    lines = [_cut(_visible(printable(line)), _SHOWN_CHARACTERS) for line in prompt.split("\n")]
    if len(lines) <= _SHOWN_LINES:
        return lines
    half = _SHOWN_LINES // 2
    return [*lines[:half], f"... ({len(lines) - 2 * half} more lines; --json has all)", *lines[-half:]]


def _visible(line: str) -> str:
    kept = line.rstrip(" ")
    return kept + "␣" * (len(line) - len(kept))


def _cut(text: str, at_most: int) -> str:
    more = len(text) - at_most
    return text if more <= 0 else f"{text[:at_most]} ... and {more} more characters"


def _quoted(text: str, at_most: int) -> str:
    more = len(text) - at_most
    return repr(text[:at_most]) + (f" and {more} more characters" if more > 0 else "")


def _labelled(label: str, text: str) -> Iterator[str]:
    lines = wrap(printable(text), _WIDTH - len(label), break_long_words=False, break_on_hyphens=False) or [""]
    yield label + lines[0]
    yield from (" " * len(label) + line for line in lines[1:])


def _tokens(sizes: Sequence[int]) -> str:
    low, high = min(sizes), max(sizes)
    return counted(low, "token") if low == high else f"{low} to {high} tokens"


def _percent(share: float) -> str:
    return f"{share:.0%}" if share >= 0.01 else f"{share:.1%}"
