"""`crossbreed publish` where the weights are a provider's: it writes the checkpoint, or the user sends the recipe."""

from pathlib import Path

import pytest
import yaml
from api_specs import raw_spec, spec_over, written
from fake_service import FakeService

from crossbreed.errors import InputError, MachineError, ServiceOutage
from crossbreed.fitness.engines.api.engine import ApiEngine
from crossbreed.fitness.wire import Right
from crossbreed.recipes import load_recipe
from crossbreed.runs import load_spec, run
from crossbreed.runs.publishing import elsewhere
from crossbreed.runs.publishing.elsewhere import is_elsewhere, publish_elsewhere
from crossbreed.runs.spec import Spec
from crossbreed.types import Recipe

ALL: tuple[Right, ...] = ("answers", "logprobs", "publish")


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> FakeService:
    """Every spec that is loaded for publishing asks it."""
    service = FakeService()

    def loaded(path: Path) -> Spec:
        return spec_over(path, service)

    monkeypatch.setattr(elsewhere, "load_spec", loaded)
    monkeypatch.setattr("crossbreed.runs.driver.load_spec", loaded)
    return service


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("published")
    run(spec_over(written(folder, raw_spec(folder, trials=1)), FakeService()), folder / "run")
    return folder / "run"


def published(path: Path, out: Path, trial: int | None = None) -> str:
    told = list[str]()
    publish_elsewhere(path, out, trial=trial, on_event=lambda event: told.append(str(event)))
    return told[-1]


def test_the_provider_writes_the_checkpoint(finished: Path, service: FakeService, tmp_path: Path) -> None:
    assert is_elsewhere(finished)
    assert "the provider wrote trial" in published(finished, tmp_path / "out")
    [asked] = [body["model"] for path, body in service.asked if path == "/v1/checkpoints"]
    assert asked == f"crossbreed:{load_recipe(tmp_path / 'out/recipe.yaml').id}"
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"recipe.yaml", "report.json", "report.html"}


def test_without_the_right_recipe_and_report_are_given(finished: Path, service: FakeService, tmp_path: Path) -> None:
    service.rights = ("answers", "logprobs")
    said = published(finished, tmp_path / "out", trial=4)
    assert "no right to write checkpoints: recipe and report of trial 4" in said
    assert "crossbreed merge recipe.yaml" in said
    assert yaml.safe_load((tmp_path / "out/recipe.yaml").read_text())["sources"]
    assert not service.count("/v1/checkpoints")


def test_other_weights_than_the_scored_ones_are_told(finished: Path, service: FakeService, tmp_path: Path) -> None:
    service.salt = "-moved"
    with pytest.raises(MachineError, match=r"the provider wrote weights .*-moved; trial 4 was"):
        published(finished, tmp_path / "out", trial=4)


def test_an_outage_of_the_provider_is_not_the_end_of_the_folder(
    finished: Path, service: FakeService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same command goes on, as it says; another trial is not written over what is there."""

    def away(engine: ApiEngine, recipe: Recipe) -> tuple[str, str]:
        raise ServiceOutage("the service is away")

    with monkeypatch.context() as patch:
        patch.setattr(ApiEngine, "publish", away)
        with pytest.raises(ServiceOutage):
            published(finished, tmp_path / "out", trial=4)
    (tmp_path / "out/.report.json-a1b2c3d4").touch()  # as a kill leaves it
    with pytest.raises(InputError, match="in use"):
        published(finished, tmp_path / "out", trial=3)
    assert "the provider wrote trial 4" in published(finished, tmp_path / "out", trial=4)
    (tmp_path / "out/mine").touch()
    with pytest.raises(InputError, match="in use"):
        published(finished, tmp_path / "out", trial=4)


def test_options_of_checkpoints_here_are_refused(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--push is of checkpoints that are written here"):
        publish_elsewhere(finished, tmp_path / "out", refused=["--push"])
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine").touch()
    with pytest.raises(InputError, match="in use"):
        publish_elsewhere(finished, tmp_path / "out")


def test_a_run_with_weights_here_is_not_elsewhere(finished: Path) -> None:
    assert load_spec(finished / "spec.yaml").fitness.engine.kind == "api"
