"""M2N2's first experiment (arXiv 2508.16204): 19,210 weights of a small network, bred on 8x8 pictures of digits.

The problem is a function of an array, searched by the same proposer, loop, journal and optimizer as a merge of
checkpoints. It shows how to search something other than language models, and is the reference for M2N2.

The pictures are the test part of "Optical Recognition of Handwritten Digits" (E. Alpaydin and C. Kaynak, UCI Machine
Learning Repository 1998, doi 10.24432/C50P49, CC BY 4.0), as scikit-learn ships them. The first 80 % are searched on,
the last 20 % reported on, as the paper does: they are other people's handwriting.

Shapes: B pictures, P pixels and a constant 1 (so that biases are a row of the weights), H hidden units, C classes.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from crossbreed.optimizer import M2n2, M2n2Options, SearchInputs
from crossbreed.randomness import spawn
from crossbreed.runs.record.history import History
from crossbreed.runs.record.identity import check_same_run
from crossbreed.runs.record.journal import Journal
from crossbreed.runs.record.records import RunRecord, SplitName
from crossbreed.runs.search.asking import Search
from crossbreed.runs.search.loop import Loop
from crossbreed.runs.search.pace import Limits
from crossbreed.runs.search.pool import Job
from crossbreed.runs.search.proposer import Proposer
from crossbreed.runs.spec.objectives import Objective
from crossbreed.runs.workers.local_pool import LocalPool
from crossbreed.search_spaces import Genome, VectorSpace
from crossbreed.types import Cost, ItemScores, Score, Status

F = TypeVar("F", np.float32, np.float64)

TASK = "digits"
NUM_PIXELS, NUM_HIDDEN, NUM_CLASSES = 64, 256, 10
EDGE = (NUM_PIXELS + 1) * NUM_HIDDEN
"""Where the second layer begins in a genome. A layer's biases are its last row."""
NUM_WEIGHTS = EDGE + (NUM_HIDDEN + 1) * NUM_CLASSES
"""19,210."""
INITIAL_STD = 0.01
GROUP_S = 0.2
"""An evaluation takes a millisecond, an fsync several: the journal is synced so often."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pictures:
    """A subset of the pictures, with labels."""

    pixels_BP: NDArray[np.float32]
    labels_B: NDArray[np.int64]
    ids: tuple[str, ...]


@cache
def pictures() -> dict[SplitName, Pictures]:
    """Returns the pictures by split."""
    table = np.loadtxt(Path(__file__).with_name("digits.csv.gz"), delimiter=",", dtype=np.int64)
    edge = int(0.8 * len(table))

    def part(first: int, last: int) -> Pictures:
        return Pictures(
            pixels_BP=np.insert(table[first:last, :NUM_PIXELS], NUM_PIXELS, 1, axis=1).astype(np.float32),
            labels_B=table[first:last, NUM_PIXELS],
            ids=tuple(f"{TASK}-{i}" for i in range(first, last)),
        )

    return {"search": part(0, edge), "select": part(edge, edge), "report": part(edge, len(table))}


def layers(genome: NDArray[F]) -> tuple[NDArray[F], NDArray[F]]:
    """Returns the weights of both layers, [P, H] and [H + 1, C], biases last: views of a genome."""
    return genome[:EDGE].reshape(-1, NUM_HIDDEN), genome[EDGE:].reshape(-1, NUM_CLASSES)


class Classifier:
    """Evaluates jobs on one core, in fp32: which pictures does the network classify correctly?"""

    def evaluate(self, job: Job) -> Score:
        """Returns 1 or 0 for each picture of the job's split; INVALID where a weight is not finite."""
        start = time.perf_counter()
        assert job.genome is not None
        shown = pictures()[job.split]
        w_PH, v_HC = layers(job.genome.astype(np.float32))
        hidden_BH = shown.pixels_BP @ w_PH
        np.maximum(hidden_BH, 0.0, out=hidden_BH)
        logits_BC = hidden_BH @ v_HC[:-1] + v_HC[-1]
        if not np.isfinite(logits_BC).all():
            return Score(status=Status.INVALID, error="a logit is not finite")
        right_B = logits_BC.argmax(axis=1) == shown.labels_B
        values = tuple(right_B.astype(np.float64).tolist())
        return Score(
            status=Status.OK,
            tasks={TASK: ItemScores(item_ids=shown.ids, values=values)},
            cost=Cost(items=len(values), seconds={"answer": time.perf_counter() - start}),
        )

    def close(self) -> None:
        """Does nothing: no resource is held."""


def random_networks(seed: int) -> list[Genome]:
    """Returns the two networks from which a search from scratch starts."""
    return [INITIAL_STD * spawn(seed, TASK, "network", str(i)).standard_normal(NUM_WEIGHTS) for i in range(2)]


def trained_networks(seed: int) -> list[Genome]:
    """Returns two networks, one trained on the digits 0 to 4 and one on 5 to 9, ten epochs each."""
    shown = pictures()["search"]
    halves = (shown.labels_B < 5, shown.labels_B >= 5)
    return [
        train(network, shown.pixels_BP[half_B], shown.labels_B[half_B])
        for network, half_B in zip(random_networks(seed), halves, strict=True)
    ]


def train(
    network: Genome, pixels_BP: NDArray[np.float32], labels_B: NDArray[np.int64], *, num_steps: int = 10
) -> Genome:
    """Returns the network after some full-batch steps of Adam (arXiv 1412.6980, algorithm 1), step size 3e-3."""
    first, second, weights = np.zeros_like(network), np.zeros_like(network), network
    for step in range(1, num_steps + 1):
        gradient = _gradient(weights, pixels_BP.astype(np.float64), labels_B)
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        weights = weights - 3e-3 * (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
    return weights


def _gradient(network: Genome, pixels_BP: NDArray[np.float64], labels_B: NDArray[np.int64]) -> Genome:
    """Returns the gradient of the mean cross-entropy."""
    w_PH, v_HC = layers(network)
    hidden_BH = np.maximum(pixels_BP @ w_PH, 0.0)
    logits_BC = hidden_BH @ v_HC[:-1] + v_HC[-1]
    chances_BC = np.exp(logits_BC - logits_BC.max(axis=1, keepdims=True))
    errors_BC = chances_BC / chances_BC.sum(axis=1, keepdims=True)
    errors_BC[np.arange(len(labels_B)), labels_B] -= 1
    errors_BC /= len(labels_B)
    errors_BH = (errors_BC @ v_HC[:-1].T) * (hidden_BH > 0)
    parts = (pixels_BP.T @ errors_BH, hidden_BH.T @ errors_BC, errors_BC.sum(axis=0))
    return np.concatenate([part.ravel() for part in parts])


@dataclass(frozen=True, slots=True, kw_only=True)
class Bred:
    """The result of a search."""

    number: int
    """The member of the last archive that is best on the pictures searched on."""
    search_accuracy: float
    report_accuracy: float
    evaluations: int
    seconds: float
    """Of the search alone, its journal included; over all resumes."""


def breed(folder: Path, seeds: Sequence[Genome], options: M2n2Options, *, trials: int, seed: int) -> Bred:
    """Searches, or continues where the folder's journal ends, and evaluates the best member on the report's pictures.

    A finished run gives the result that it has: nothing is evaluated again.

    Args:
        folder: The run's folder; created if missing.
        seeds: The networks to begin with.
        options: The options of M2N2.
        trials: How many networks to evaluate, the seeds included.
        seed: Seed of all randomness.
    """
    folder.mkdir(parents=True, exist_ok=True)
    parts = pictures()
    space = VectorSpace(seeds)
    inputs = SearchInputs(domain=space.domain, num_objectives=1, start=None, rng=spawn(seed, "optimizer"))
    optimizer = M2n2(inputs, options)
    search = Search(optimizer="m2n2", space_around=lambda recipe: space, make_optimizer=lambda *inputs: optimizer)
    proposer = Proposer(seed=seed, initial_candidates=[], searches=[search])
    history = History(item_ids={split: {TASK: part.ids} for split, part in parts.items()})
    journal = Journal(folder / "journal.jsonl", group_s=GROUP_S)
    try:
        loop = Loop(
            journal=journal,
            history=history,
            proposer=proposer,
            objectives=(Objective(kind="task", tasks=(TASK,)),),
            limits=Limits.of(trials=trials, seconds=None),
            keep_answers=lambda split, number, score: None,
            watch=lambda trial, history: None,
        )
        begun = RunRecord(
            spec={"seed": seed, "options": options.model_dump(mode="json")},
            sources={f"network {i}": sha256(network.tobytes()).hexdigest() for i, network in enumerate(seeds)},
            items={split: {TASK: part.ids} for split, part in parts.items()},
        )
        if journal.run:
            renamed = {f"spec.options.{old}": f"spec.options.{new}" for old, new in options.renamed.items()}
            check_same_run(journal.run, begun, where=folder, renamed=renamed)
        else:
            journal.append(begun)
        loop.replay(journal.records[1:])
        loop.restore_optimizer()  # its archive chooses the network, also of a run that is over
        pool = LocalPool(Classifier, retries=0)
        loop.search(pool)
        trial = max((history.trials[n] for n in optimizer.parents), key=lambda t: (t.objectives or (), -t.number))
        loop.evaluate_split("report", [trial], pool)
        loop.end()
    finally:
        journal.close()
    return Bred(
        number=trial.number,
        search_accuracy=trial.score.tasks[TASK].mean,
        report_accuracy=history.scores["report", trial.number].tasks[TASK].mean,
        evaluations=len(history.trials),
        seconds=history.elapsed_s,
    )
