"""What a run makes before it searches, and what is wrong with a spec's settings of it."""

from collections.abc import Collection, Iterator, Sequence
from typing import Annotated

from pydantic import Field

from crossbreed.config import Config
from crossbreed.errors import InputError
from crossbreed.parsing import suggestion
from crossbreed.runs.spec.grams_check import why_grams_are_wrong
from crossbreed.runs.spec.regression import RegressionConfig
from crossbreed.runs.spec.stages import RegressionStageConfig
from crossbreed.runs.spec.statistics_check import why_no_statistics
from crossbreed.search_spaces import SpaceConfig
from crossbreed.types import REGRESSION, Dtype


class GramsConfig(Config):
    """Grams of the inputs of each expert's matrices, teacher-forced on answers to search items.

    Read by operators whose description names the artifact `grams`. Collected with transformers before the search, and
    kept in the cache folder (`CROSSBREED_CACHE`), where all runs of the same experts and items share them.
    """

    items: Annotated[int, Field(ge=1)] = 32
    """Maximum number of search items per task and expert: the first ones of the split."""
    tasks: dict[str, Annotated[list[str], Field(min_length=1)]] = Field(default_factory=dict)
    """Expert -> its tasks. Default: the task with the expert's own name, or else all tasks."""
    dtype: Dtype = "float32"
    """The dtype in which the experts compute. Grams are float32."""
    device: str = "cpu"
    """The device on which the experts compute, as torch names it."""
    max_columns: Annotated[int, Field(ge=1)] = 4096
    """For inputs wider than this, only `rank` directions and the diagonal of the Gram are kept."""
    rank: Annotated[int, Field(ge=1)] = 256
    """Number of directions kept. Exact for up to that many tokens; beyond, the error in the spectral norm is at most
    the sum of all eigenvalues but the first k, divided by rank - k, for any k (Frequent Directions). Diagonal and trace
    are exact."""

    def tasks_of(self, expert: str, tasks: Sequence[str]) -> Sequence[str]:
        """Returns the tasks on which an expert's Grams are collected."""
        return self.tasks.get(expert) or ([expert] if expert in tasks else tasks)


class ArtifactsConfig(Config):
    """Artifacts computed before the search."""

    grams: GramsConfig | None = None
    """Grams of inputs. None: they are not collected, and operators that read Grams cannot be used."""
    regression: RegressionConfig | None = None
    """A merge by regression, layer by layer, which recipes name `regression`, and which is scored before the search.
    None: there is none."""


def mistakes_in_artifacts(
    artifacts: ArtifactsConfig,
    *,
    stages: Sequence[Config],
    spaces: Sequence[SpaceConfig],
    experts: Sequence[str],
    tasks: Sequence[str],
) -> Iterator[InputError]:
    """Yields what is wrong with what is made before the search, as an artifact or a first stage.

    Args:
        artifacts: The section.
        stages: The stages of the spec.
        spaces: The spaces that are searched, as far as they are valid.
        experts: The names of the experts; empty: not known.
        tasks: Those of the tasks.
    """
    yield from why_grams_are_wrong(spaces, collected=artifacts.grams is not None)
    yield from why_no_statistics(spaces, artifacts.regression, stages)
    staged = next((stage for stage in stages if isinstance(stage, RegressionStageConfig)), None)
    if staged is not None and artifacts.regression is not None:
        yield InputError(
            "there are two regressions: an artifact and a stage",
            expected="one",
            where="artifacts.regression",
            fix="remove one of them",
        )
    named = [*_named_by("artifacts.grams", artifacts.grams, experts, tasks)]
    named += _named_by("artifacts.regression", artifacts.regression, experts, tasks)
    named += _named_by("stages.0", staged, experts, tasks)
    for where, kind, names, known in named:
        for unknown in sorted(set(names) - set(known)) if known else ():
            yield InputError(
                f"`{where}` names the unknown {kind} `{unknown}`; known are {', '.join(known)}",
                where=where,
                fix=suggestion(unknown, known),
            )
    if (staged or artifacts.regression) is not None and REGRESSION in experts:
        yield InputError(
            f"`{REGRESSION}` names what this run makes, in recipes",
            expected="an expert of another name",
            where=f"sources.experts.{REGRESSION}",
            fix="rename the expert",
        )


def _named_by(
    at: str, config: GramsConfig | RegressionConfig | None, experts: Sequence[str], tasks: Sequence[str]
) -> Iterator[tuple[str, str, Collection[str], Sequence[str]]]:
    """Yields which experts and tasks are named where, and which there are."""
    if config is not None:
        yield f"{at}.tasks", "expert", [*config.tasks], experts
        yield f"{at}.tasks", "task", [name for names in config.tasks.values() for name in names], tasks
    if isinstance(config, RegressionConfig):
        yield f"{at}.prompts", "task", [*config.prompts], tasks
