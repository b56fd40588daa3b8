"""Publishes a run whose weights are behind an engine: the provider writes the checkpoint, or the user sends the recipe.

Needs no tensor library.
"""

from collections.abc import Sequence
from pathlib import Path

from crossbreed.durable import write_atomically, written_as
from crossbreed.errors import InputError, MachineError
from crossbreed.fitness import Publishes, RecipeEngineConfig, Surroundings, UsesRun, build_recipe_engine
from crossbreed.recipes.grammar import dump_recipe
from crossbreed.runs.driver import report_on
from crossbreed.runs.events import Listener, Note, ignore
from crossbreed.runs.publishing.folders import require_unused
from crossbreed.runs.record.folder import RunFolder
from crossbreed.runs.record.history import fold
from crossbreed.runs.record.journal import read
from crossbreed.runs.spec import load_spec

RECIPE, REPORTS = "recipe.yaml", ("report.json", "report.html")


def is_elsewhere(path: Path) -> bool:
    """Returns whether the weights of a run are behind an engine that may write checkpoints."""
    engine = load_spec(RunFolder(path).existing().spec).fitness.engine
    return isinstance(engine, RecipeEngineConfig) and engine.publishes


def publish_elsewhere(
    path: Path, out: Path, *, trial: int | None = None, refused: Sequence[str] = (), on_event: Listener = ignore
) -> None:
    """Writes the recipe and the report of a run's winner, and has the engine write the checkpoint where it may.

    Args:
        path: The run folder.
        out: A new or empty folder, for recipe and report; or one that an earlier attempt at the same has written to.
        trial: Number of the trial to publish instead of the winner.
        refused: Options that were given, and that say something of a checkpoint on this machine.
        on_event: As for `run`.

    Raises:
        InputError: the run, the folder or the trial is invalid.
        MachineError: the engine's weights are not those that were scored.
    """
    if refused:
        raise InputError(
            f"{refused[0]} is of checkpoints that are written here",
            expected="--out, and --trial",
            got=" ".join(refused),
            fix="leave it out: the weights of this run are its provider's",
        )
    _require_free(out)
    plan, report = report_on(path, trial=trial, on_event=on_event)
    folder, number = RunFolder(path), report.winner.number
    found = fold(read(folder.journal)).publishable(number, where=str(path))
    recipe = dump_recipe(found.recipe).encode()
    _require_free(out, recipe)
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / RECIPE, recipe)
    for name in REPORTS if trial is None else ():  # the folder's are the winner's
        write_atomically(out / name, (folder.path / name).read_bytes())
    engine = build_recipe_engine(plan.spec.fitness.engine)
    try:
        if isinstance(engine, UsesRun):
            engine.begin(Surroundings(seed=plan.spec.seed))
        assert isinstance(engine, Publishes), "its settings say so"
        name, fingerprint = engine.publish(found.recipe)
    except InputError as error:
        on_event(
            Note(
                text=f"{error.problem}: recipe and report of trial {number} are in {out}. Send {RECIPE} to the "
                f"provider: where the weights are, `crossbreed merge {RECIPE} --out DIR` writes the checkpoint"
            )
        )
        return
    finally:
        engine.close()
    if found.score.fingerprint is not None and fingerprint != found.score.fingerprint:
        raise MachineError(f"the provider wrote weights {fingerprint}; trial {number} was {found.score.fingerprint}")
    on_event(
        Note(
            text=f"the provider wrote trial {number} as checkpoint `{name}`, fingerprint {fingerprint}; recipe and "
            f"report are in {out}"
        )
    )


def _require_free(out: Path, recipe: bytes | None = None) -> None:
    """Refuses a folder that holds anything else than what an attempt that was cut short wrote, of the same recipe."""
    names = {written_as(file.name) for file in out.iterdir()} if out.is_dir() else set[str]()
    is_other = recipe is not None and (out / RECIPE).is_file() and (out / RECIPE).read_bytes() != recipe
    if not names or names - {RECIPE, *REPORTS} or is_other:
        require_unused(out)
