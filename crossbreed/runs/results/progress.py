"""The progress of a search, as the event after each trial."""

from collections.abc import Sequence

from crossbreed.runs.events import TrialDone
from crossbreed.runs.record.archive import best_trial
from crossbreed.runs.record.history import History
from crossbreed.runs.results.lead import Leads
from crossbreed.runs.search.pace import Pace
from crossbreed.runs.spec.objectives import Objective
from crossbreed.runs.stages.naming import StageName
from crossbreed.runs.stages.progress import stage_progress
from crossbreed.types import Trial


class Progress:
    """Computes progress from the history, trial by trial: the work does not grow with the trials before."""

    def __init__(self, pace: Pace, objectives: tuple[Objective, ...], stages: Sequence[StageName] = ()) -> None:
        """Starts with nothing known.

        Args:
            pace: Of the search.
            objectives: The run's objectives.
            stages: The names of its stages.
        """
        self._pace, self._objectives, self._stages = pace, objectives, stages
        self._best: Trial | None = None
        self._leads = Leads(objectives)
        self._is_begun = False

    def after(self, trial: Trial, history: History) -> TrialDone:
        """Returns the event of a trial that is in the history; called for each as it is added."""
        if (
            history.relative_criteria is not None and trial.candidate.proposed_by.is_untuned
        ):  # those before it are judged anew
            self._is_begun, self._best = False, None
        if not self._is_begun:
            self._leads = Leads(history.bound(self._objectives), base=history.base_on("search"))
        found = [trial] if self._is_begun else history.ok_trials
        for one in found:
            self._leads.add(one)
        self._best = best_trial([*found, self._best] if self._best else found, self._objectives)
        self._is_begun = True
        return TrialDone(
            trial=trial,
            num_done=len(history.trials),
            num_wanted=self._pace.num_wanted(history),
            best=self._best,
            left_s=self._pace.left_s(history),
            trial_s=self._pace.trial_s(history),
            leads=self._leads.now(),
            stage=stage_progress(self._stages, self._pace.limits, history),
        )
