"""The paragraph after the baselines: what they say of the tasks, and how long the rest takes."""

import math

from crossbreed.runs.record.history import History
from crossbreed.runs.record.phase import duration
from crossbreed.runs.results.signal import findings
from crossbreed.runs.search.pace import Pace
from crossbreed.runs.spec.objectives import Objective


def outlook(history: History, objectives: tuple[Objective, ...], pace: Pace | None) -> list[str]:
    """Returns the sentences, once the baselines are measured; none before. Without a pace, none of the time left."""
    baselines = [t for t in history.all_trials if t.candidate.proposed_by.is_baseline]
    if not any(t.candidate.proposed_by.kind == "uniform" for t in baselines):
        return []
    found = findings(history.all_trials, objectives, num_report=history.num_items("report"))
    return [*found, *(_rest(history, pace) if pace else ())]


def _rest(history: History, pace: Pace) -> list[str]:
    """How long the search, the finalists and the report take, by what an item has taken so far."""
    left_s, num_done = pace.left_s(history), len(history.trials)
    sizes = {split: sum(history.num_items(split).values()) for split in history.item_ids}
    if left_s is None or not sizes.get("search") or history.is_finished or left_s <= 0:
        return []
    from crossbreed.runs.results.winner import NUM_FINALISTS  # imports what `show` does without

    item_s = history.elapsed_s / (num_done * sizes["search"])
    num_models = sum(t.candidate.proposed_by.is_single_model for t in history.all_trials) + 3
    after_s = item_s * (NUM_FINALISTS * sizes.get("select", 0) + num_models * sizes.get("report", 0))
    text = f"the search takes about {duration(left_s)} more"
    if math.isfinite(after_s):
        text += f", finalists and report about {duration(after_s)} after it"
    return [text]
