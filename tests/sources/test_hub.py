import shutil
from pathlib import Path

import pytest
from huggingface_hub import constants

from crossbreed.errors import InputError
from crossbreed.sources import SourceLocation, locate, open_sources

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub(tmp_path: Path, toy_base: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An offline hub cache that holds `org/toy`, as `snapshot_download` leaves it."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)  # the library reads its environment when imported
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    repository = tmp_path / "hub" / "models--org--toy"
    shutil.copytree(toy_base, repository / "snapshots" / COMMIT)
    for ref in ("main", "v1"):
        (repository / "refs").mkdir(exist_ok=True)
        (repository / "refs" / ref).write_text(COMMIT)
    return repository


@pytest.mark.parametrize("source", ["org/toy", "org/toy@v1", f"org/toy@{COMMIT}"])
def test_a_hub_id_keeps_the_commit_it_stood_for(source: str, hub: Path) -> None:
    origin = locate(source)
    assert origin == SourceLocation(path=hub / "snapshots" / COMMIT, hub_id="org/toy", revision=COMMIT)
    assert locate(origin.reference) == origin


def test_a_hub_model_opens_as_its_local_copy_does(hub: Path, toy_base: Path) -> None:
    remote, local = open_sources("org/toy", {}), open_sources(str(toy_base), {})
    assert remote.structure == local.structure
    assert (remote.base.origin.hub_id, local.base.origin.hub_id) == ("org/toy", None)


@pytest.mark.parametrize("source", ["org/absent", "org/toy@v2", "org/..name"])
def test_what_the_hub_does_not_give_is_the_users_to_mend(source: str, hub: Path) -> None:
    with pytest.raises(InputError, match="neither a local folder nor a model that the hub gives") as caught:
        locate(source)
    assert len(str(caught.value).splitlines()) <= 5
    assert f"no folder {Path(source.partition('@')[0]).absolute()}" in caught.value.where
    assert f"for a folder write ./{source.partition('@')[0]}" in caught.value.fix


def test_a_local_folder_comes_first(hub: Path, toy_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(toy_base, hub.parent / "org" / "toy")
    monkeypatch.chdir(hub.parent)
    assert locate("org/toy") == SourceLocation(path=hub.parent / "org" / "toy")


@pytest.mark.parametrize("source", ["./absent", "~/absent", "/absent/model", "deep/down/absent", "absent"])
def test_a_missing_folder_is_not_looked_for_on_the_hub(source: str, hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(hub)
    with pytest.raises(InputError, match="is not a model folder"):
        locate(source)


def test_a_file_is_no_model_folder(toy_base: Path) -> None:
    with pytest.raises(InputError, match="is not a model folder") as caught:
        locate(str(toy_base / "model.safetensors"))
    assert caught.value.got == "a file"
