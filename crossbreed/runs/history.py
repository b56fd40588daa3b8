"""What a journal says, folded: candidates, their scores on each split, and the records that say so."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from crossbreed.errors import MachineError
from crossbreed.recipes import parse_recipe
from crossbreed.runs.journal import CLOCK, Record, damaged
from crossbreed.types import Birth, Candidate, Cost, Cross, ItemScores, Score, Seed, Status, Trial

SplitName: TypeAlias = Literal["search", "select", "report"]
ItemIds: TypeAlias = Mapping[str, Mapping[str, tuple[str, ...]]]
"""Split -> task -> item ids, in the order in which they are offered."""


@dataclass(slots=True)
class History:
    """The fold. `apply` takes records in journal order."""

    item_ids: ItemIds
    candidates: dict[int, Candidate] = field(default_factory=dict)
    scores: dict[tuple[SplitName, int], Score] = field(default_factory=dict)
    trials: dict[int, Trial] = field(default_factory=dict)
    """The answered candidates of the search, by number."""
    elapsed_s: float = 0.0
    """Time spent searching, over all resumes."""
    is_finished: bool = False
    """Nothing was asked since the last `end`: what was told is of other splits."""
    published: list[Record] = field(default_factory=list)
    """The `publish` records: which trial went to which folder."""

    def extend(self, records: Iterable[Record]) -> None:
        """Takes the records of a journal in, those after its first line.

        Raises:
            InputError: a record is well-formed JSON and still none of ours; the message names its line.
        """
        for line, record in enumerate(records, start=2):
            try:
                self.apply(record)
            except (KeyError, TypeError, ValueError, AssertionError) as error:
                raise damaged(f"line {line}", f"{type(error).__name__}: {error}") from None

    def apply(self, record: Record) -> None:
        """Takes one record in."""
        self.is_finished = record["kind"] == "end" or (self.is_finished and record["kind"] != "ask")
        if record["kind"] == "publish":
            self.published.append(record)
        elif record["kind"] == "ask":
            candidate = candidate_of(record)
            self.candidates[candidate.number] = candidate
        elif record["kind"] == "tell":
            self._tell(record)

    def _tell(self, record: Record) -> None:
        split, number = record["split"], record["number"]
        score = score_of(record, self.item_ids[split])
        self.scores[split, number] = score
        if split == "search":
            self.elapsed_s = max(self.elapsed_s, record[CLOCK]["elapsed"])
            objectives = record["objectives"]
            self.trials[number] = Trial(
                candidate=self.candidates[number],
                score=score,
                objectives=None if objectives is None else tuple(objectives),
                provenance={key: str(record[CLOCK][key]) for key in ("attempts", "worker") if key in record[CLOCK]},
            )

    def check_same_weights(self, number: int, score: Score) -> None:
        """Refuses an answer to a trial's recipe that was given with other weights than its score in the search.

        Raises:
            MachineError: the fingerprints differ.
        """
        searched = self.trials[number].score.fingerprint
        if score.status is Status.OK and score.fingerprint != searched:
            raise MachineError(
                f"trial {number} was searched with weights of fingerprint {searched}; its recipe makes weights of "
                f"{score.fingerprint} now. Use the versions of crossbreed and torch, the processor and the number of "
                "threads that the search was made with, or search again in a new folder"
            )

    @property
    def pending(self) -> list[Candidate]:
        """Asked and never answered: in flight when the last driver ended."""
        return [c for number, c in sorted(self.candidates.items()) if number not in self.trials]

    def scores_of(self, split: SplitName) -> dict[int, Score]:
        """Trial number -> score on a split."""
        return {number: score for (where, number), score in self.scores.items() if where == split}

    @property
    def ok_trials(self) -> list[Trial]:
        """Trials that have a value, by number."""
        return [t for _, t in sorted(self.trials.items()) if t.score.status is Status.OK]


def fold(records: Iterable[Record]) -> History:
    """Returns what a whole journal says; its first record names the items."""
    records = list(records)
    history = History(item_ids=item_ids_of(records[0]) if records else {})
    history.extend(records[1:])
    return history


def item_ids_of(run_record: Record) -> ItemIds:
    """Returns the splits that the first record of a journal states."""
    return {split: {task: tuple(ids) for task, ids in tasks.items()} for split, tasks in run_record["items"].items()}


def ask_record(candidate: Candidate) -> Record:
    """A candidate as the journal has it."""
    return {
        "kind": "ask",
        "number": candidate.number,
        "origin": candidate.origin,
        "point": None if candidate.point is None else list(candidate.point),
        "parents": list(candidate.parents),
        "birth": None if candidate.birth is None else _birth_json(candidate.birth),
        "recipe": None if candidate.recipe is None else candidate.recipe.to_json(),
    }


def candidate_of(record: Record) -> Candidate:
    """The candidate of an `ask` record."""
    return Candidate(
        number=record["number"],
        recipe=None if record["recipe"] is None else parse_recipe(record["recipe"]),
        origin=record["origin"],
        point=None if record["point"] is None else tuple(record["point"]),
        birth=None if record.get("birth") is None else _birth_of(record["birth"], record["parents"]),
    )


def _birth_json(birth: Birth) -> Record:
    if isinstance(birth, Seed):
        return {"seed": birth.index, "scale": birth.scale}
    return {"splits": list(birth.splits), "weights": list(birth.weights), "noise": birth.noise}


def _birth_of(record: Record, parents: Sequence[int]) -> Birth:
    if "seed" in record:
        return Seed(index=record["seed"], scale=record["scale"])
    a, b = parents
    splits, weights = tuple(record["splits"]), tuple(record["weights"])
    return Cross(parents=(a, b), splits=splits, weights=weights, noise=record["noise"])


def tell_record(
    number: int, split: SplitName, score: Score, *, objectives: tuple[float, ...] | None, clock: Mapping[str, Any]
) -> Record:
    """A score as the journal has it: values in the order of the split's item ids."""
    return {
        "kind": "tell",
        "number": number,
        "split": split,
        "status": score.status.value,
        "objectives": None if objectives is None else list(objectives),
        "tasks": {name: _written(scores.values) for name, scores in score.tasks.items()},
        "slopes": None if score.slopes is None else list(score.slopes),
        "fingerprint": score.fingerprint,
        "items": score.cost.items,
        "tokens": score.cost.tokens,
        CLOCK: {"seconds": dict(score.cost.seconds), "error": score.error, **clock},
    }


def score_of(record: Record, item_ids: Mapping[str, tuple[str, ...]]) -> Score:
    """The score of a `tell` record; `item_ids` are its split's."""
    return Score(
        status=Status(record["status"]),
        tasks={
            name: ItemScores(item_ids=ids[: len(record["tasks"][name])], values=_read(record["tasks"][name]))
            for name, ids in item_ids.items()  # the Spec's order; a journal's keys are sorted
            if name in record["tasks"]
        },
        slopes=None if record.get("slopes") is None else tuple(record["slopes"]),
        fingerprint=record["fingerprint"],
        cost=Cost(items=record["items"], tokens=record["tokens"], seconds=record[CLOCK]["seconds"]),
        error=record[CLOCK]["error"],
    )


_DIGIT_OF = {0.0: "0", 1.0: "1"}
_VALUE_OF = {digit: value for value, digit in _DIGIT_OF.items()}


def _written(values: tuple[float, ...]) -> str | list[float]:
    """Right or wrong is one digit an item: most tasks are, and a list of floats is four times as long."""
    try:
        return "".join(map(_DIGIT_OF.__getitem__, values))
    except KeyError:
        return list(values)


def _read(written: str | list[float]) -> tuple[float, ...]:
    return tuple(map(_VALUE_OF.__getitem__, written) if isinstance(written, str) else written)
