"""What `show` says of a run that goes on: its phase, its pace, the lead so far."""

from dataclasses import dataclass
from pathlib import Path

from crossbreed.runs.record.folder import RunFolder
from crossbreed.runs.record.followed import FollowedRun
from crossbreed.runs.record.phase import Phase, PhaseNote, duration, read_phase
from crossbreed.runs.results.header import Header
from crossbreed.runs.results.lead import Lead, Leads
from crossbreed.runs.results.outlook import outlook
from crossbreed.runs.search.baselines import baselines
from crossbreed.runs.search.pace import Pace
from crossbreed.runs.stages.progress import StageProgress, stage_progress
from crossbreed.types import REGRESSION


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """What the trials so far say of the rest."""

    num_scores: int
    """On all splits."""
    num_done: int
    num_wanted: int | None
    """Trials of the whole search; None if only its time is limited, or nothing is known yet."""
    trial_s: float | None
    """Seconds a trial so far."""
    left_s: float | None
    """Estimated seconds to the end of the search; None if no driver runs."""
    leads: tuple[Lead, ...]
    told: tuple[str, ...]
    """What the baselines say."""
    stage: StageProgress | None = None
    """The stage that asks; None before the first search, and in a run without stages."""

    @property
    def sentences(self) -> list[str]:
        """Returns what people are told: the leads, then what the baselines say."""
        return [*map(str, self.leads), *self.told]

    def to_json(self) -> dict[str, object]:
        """Returns its part of the documented JSON."""
        return {
            "trials_wanted": self.num_wanted,
            "stage": self.stage and self.stage.to_json(),
            "seconds_a_trial": self.trial_s,
            "seconds_left": self.left_s,
            "leads": [lead.to_json() for lead in self.leads],
            "outlook": list(self.told),
        }


def outlook_of(followed: FollowedRun, known: Header, *, goes_on: bool) -> Outlook:
    """Returns what a journal says of the rest of its run; of the time left, only if a driver goes on with it."""
    history = followed.history
    history.measure_by(known.criteria)
    objectives = history.bound(known.objectives)
    leads = Leads(objectives, base=history.base_on("search"))
    for trial in history.trials.values():
        leads.add(trial)
    pace = Pace(known.limits, num_initial=_num_initial(followed))
    return Outlook(
        num_scores=len(history.scores),
        num_done=len(history.trials),
        num_wanted=pace.num_wanted(history) if followed.begun else None,
        trial_s=pace.trial_s(history),
        left_s=pace.left_s(history) if goes_on and not history.is_finished else None,
        leads=leads.now(),
        told=tuple(outlook(history, objectives, pace if goes_on else None)),
        stage=stage_progress(known.stages, known.limits, history),
    )


def _num_initial(followed: FollowedRun) -> int:
    """Returns the number of baselines and warm starts: those that were asked, or, while they are, by the sources."""
    candidates, run = followed.history.candidates, followed.begun
    asked = sum(c.proposed_by.kind != "optimizer" for c in candidates.values())
    if asked < len(candidates) or run is None or not run.sources:
        return asked
    made = REGRESSION in run.artifacts
    return len(run.warm_starts) + made + sum(1 for _ in baselines(run.sources, dtype="float32"))


def opening(path: Path) -> PhaseNote | None:
    """Returns the phase of a driver that has not come to its journal yet; None: there is one, or no driver."""
    folder = RunFolder(path)
    return None if folder.journal.exists() and folder.spec.exists() else read_phase(path)


def phase_json(note: PhaseNote | None) -> dict[str, object] | None:
    """Returns the documented JSON."""
    return None if note is None else {"name": note.phase.value, "seconds": round(note.lasts_s, 1)}


def phase_line(note: PhaseNote, rest: Outlook | None = None) -> str:
    """Returns the phase and how long it has lasted; of a search, its trial, pace and end."""
    parts = [f"{note.phase}"]
    is_search = note.phase in (Phase.BASELINES, Phase.SEARCH)
    if rest is not None and is_search:
        total = "" if rest.num_wanted is None else f" of {rest.num_wanted}"
        parts = [rest.stage.following] if rest.stage else [*parts, f"trial {rest.num_done + 1}{total}"]
    parts.append(f"for {duration(note.lasts_s)}")
    if rest is not None and is_search and rest.trial_s is not None:
        parts.append(f"{rest.trial_s:.3g} s a trial")
    if rest is not None and is_search and rest.left_s is not None:
        parts.append(f"about {duration(rest.left_s)} left")
    return ", ".join(parts)
