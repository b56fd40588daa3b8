"""Runs that older versions recorded, as people have them on their disks: read, decoded, shown and gone on with today.

`tests/golden/runs/make_runs.py` says how they were made. Processors differ in the last digits of linear algebra and of
powers, so what is compared to the last digit is what every processor rounds alike.
"""

import json
import shutil
from collections.abc import Iterator, Mapping
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from crossbreed.errors import InputError
from crossbreed.kernels import inner_products
from crossbreed.runs import build_plan, load_spec, run
from crossbreed.runs.events import ignore
from crossbreed.runs.record.folder import RunFolder
from crossbreed.runs.record.history import History, fold
from crossbreed.runs.record.identity import check_same_run
from crossbreed.runs.record.journal import read
from crossbreed.runs.record.migrations import migrated
from crossbreed.runs.record.records import AskRecord, Record, RunRecord, TellRecord, without_clock
from crossbreed.runs.results.show import show_json, show_text
from crossbreed.runs.session import open_session
from crossbreed.runs.workers.grams import prepare_grams
from crossbreed.search_spaces import SearchSpace, SpaceInputs, build_space
from crossbreed.sources import open_sources

GOLDEN = Path(__file__).parents[1] / "golden/runs"
RUNS = sorted(path.parent.parent for path in GOLDEN.glob("v*/*/finished/journal.jsonl"))
FOLDERS = [run / state for run in RUNS for state in ("finished", "stopped")]
WITH_GRAMS = "bmm"
ALIKE_EVERYWHERE = ("random", "m2n2")
"""Runs that compute nothing which processors round differently."""
ASKS_OTHERWISE_NOW = ("gp", "nsga2")
"""In 0.1.0, `gp` fitted from its earlier fits, and `nsga2` bred nothing from its first generation around a start."""


def name_of(path: Path) -> str:
    return "-".join(path.relative_to(GOLDEN).parts)


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The machine's cache, with what the runs had prepared."""
    folder = tmp_path_factory.mktemp("cache")
    for cache in GOLDEN.glob("v*/cache"):
        shutil.copytree(cache, folder, dirs_exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CROSSBREED_CACHE", str(folder))
        yield


def copied(recorded: Path, out: Path) -> Path:
    """A run folder as it lay on the disk of whoever ran it: with the sources where they are."""
    shutil.copytree(recorded, out)
    for path in (out / "spec.yaml", out / "journal.jsonl"):
        path.write_text(path.read_text().replace("@sources@", str(GOLDEN / "sources")))
    return out


def history_of(run: Path) -> tuple[RunRecord, History]:
    records = list(read(run / "journal.jsonl"))
    assert isinstance(records[0], RunRecord)
    return records[0], fold(records)


def space_of(run: Path, begun: RunRecord) -> SearchSpace:
    """Today's space for a recorded spec, with the artifacts that its recipes name."""
    spec = load_spec(run / "spec.yaml")
    sources = open_sources(spec.sources.base, spec.sources.experts)
    assert dict(sources.structure.hashes) == begun.sources
    inputs = SpaceInputs(
        structure=sources.structure,
        dtype=sources.structure.dtype,
        inner_products=partial(inner_products, sources=sources),
        artifacts=begun.artifacts,
    )
    return build_space(spec.space, inputs)


def test_there_is_a_run_of_every_optimizer() -> None:
    """A new one is recorded with the next version."""
    begun = [next(iter(read(path / "finished/journal.jsonl"))) for path in RUNS]
    kinds = {record.spec["optimizer"]["kind"] for record in begun}  # type: ignore[union-attr,index,call-overload]
    assert kinds == {"cma_es", "frank_wolfe", "gp", "m2n2", "nsga2", "random"}


@pytest.mark.parametrize("recorded", FOLDERS, ids=name_of)
def test_what_was_proposed_is_decoded_to_the_recipe_that_was_asked(recorded: Path, tmp_path: Path) -> None:
    out = copied(recorded, tmp_path / "run")
    begun, history = history_of(out)
    space = space_of(out, begun)
    assert space.names == begun.coordinates
    decoder = space.decoder(seed=load_spec(out / "spec.yaml").seed)
    proposed = [candidate for candidate in history.candidates.values() if candidate.proposal is not None]
    assert len(proposed) == len(history.candidates) - 8, "all but the baselines"
    assert all(candidate.proposed_by.kind == "optimizer" for candidate in proposed)
    for candidate in proposed:
        assert candidate.proposal is not None
        assert decoder.create(candidate.number, candidate.proposal) == candidate.recipe


@pytest.mark.parametrize("recorded", FOLDERS, ids=name_of)
def test_it_is_shown(recorded: Path, tmp_path: Path) -> None:
    out = copied(recorded, tmp_path / "run")
    _, history = history_of(out)
    shown = show_json(out)
    assert json.loads(json.dumps(shown)) == shown
    assert [trial["number"] for trial in shown["trials"]] == sorted(history.trials)
    assert shown["trials"][1]["origin"] == "baseline:expert:red"
    is_finished = recorded.name == "finished"
    assert shown["state"] == ("finished" if is_finished else "interrupted")
    if is_finished:
        assert shown["archive"] == json.loads((recorded / "archive.json").read_text())["archive"]
    assert f"{recorded.parent.name}: {shown['state']}, {len(history.trials)} trials" in show_text(out)
    rows = sum(line[:6].strip().isdigit() for line in show_text(out).splitlines())
    more = [line for line in show_text(out).splitlines() if line.endswith(" more: --json, or --trial N")]
    assert rows + sum(int(line.split()[0]) for line in more) == len(history.trials)


@pytest.mark.parametrize("recorded", [path for path in RUNS if path.name != WITH_GRAMS], ids=name_of)
def test_a_finished_run_is_found_finished_and_reported_alike(recorded: Path, tmp_path: Path) -> None:
    out = copied(recorded / "finished", tmp_path / "run")
    before = (out / "journal.jsonl").read_bytes()
    run(load_spec(out / "spec.yaml"), out)
    assert (out / "journal.jsonl").read_bytes() == before
    reported, recalled = (json.loads((path / "report.json").read_text()) for path in (recorded / "finished", out))
    if "winner" in recalled["ideal"]["parents"].values():  # 0.1.0 left the winner out of the ideal
        assert recalled["ideal"]["mean"] > reported.pop("ideal")["mean"]
    assert differences(reported, recalled) == []


@pytest.mark.parametrize(
    "recorded", [path for path in RUNS if path.name not in (WITH_GRAMS, *ASKS_OTHERWISE_NOW)], ids=name_of
)
def test_a_stopped_run_ends_as_if_it_had_not_been_stopped(recorded: Path, tmp_path: Path) -> None:
    out = copied(recorded / "stopped", tmp_path / "run")
    run(load_spec(out / "spec.yaml"), out)
    found, expected = (list(read(path / "journal.jsonl")) for path in (out, recorded / "finished"))
    assert len(found) == len(expected)
    if recorded.name in ALIKE_EVERYWHERE:
        assert [without_clock(record) for record in found] == [without_clock(record) for record in expected]
    recipes = {}
    for record, wanted in zip(found, expected, strict=True):
        if isinstance(record, AskRecord) and isinstance(wanted, AskRecord):
            recipes[record.number] = record.recipe == wanted.recipe
        assert differences(_comparable(wanted, recipes), _comparable(record, recipes)) == []
    assert sum(recipes.values()) >= len(recipes) - 1, "six decimals of a recipe hide the last digits of a point"


@pytest.mark.parametrize("recorded", [path for path in RUNS if path.name in ASKS_OTHERWISE_NOW], ids=name_of)
def test_a_run_whose_optimizer_asks_otherwise_now_goes_on_from_what_it_asked(recorded: Path, tmp_path: Path) -> None:
    out = copied(recorded / "stopped", tmp_path / "run")
    before = (out / "journal.jsonl").read_bytes()
    report = run(load_spec(out / "spec.yaml"), out)
    assert (out / "journal.jsonl").read_bytes().startswith(before)
    _, history = history_of(out)
    assert len(history.ok_trials) == len(history_of(recorded / "finished")[1].ok_trials)
    assert report.is_over


def _comparable(record: Record, is_same_recipe: Mapping[int, bool]) -> dict[str, Any]:
    """A record without its clock; without the hash of weights where the recipe is one of other digits."""
    value = without_clock(record)
    if isinstance(record, TellRecord) and not is_same_recipe[record.number]:
        del value["fingerprint"]
    return value


def differences(recorded: Any, found: Any, where: str = "") -> list[str]:
    """Where a JSON value differs from a recorded one by more than processors do. New keys are no difference."""
    if isinstance(recorded, Mapping) and isinstance(found, Mapping):
        return [each for key in recorded for each in differences(recorded[key], found.get(key), f"{where}.{key}")]
    if isinstance(recorded, list) and isinstance(found, list) and len(recorded) == len(found):
        pairs = enumerate(zip(recorded, found, strict=True))
        return [each for i, (one, other) in pairs for each in differences(one, other, f"{where}[{i}]")]
    if isinstance(recorded, float) and isinstance(found, float):
        return [] if found == pytest.approx(recorded, rel=1e-4, abs=1e-5) else [f"{where}: {recorded} -> {found}"]
    return [] if recorded == found else [f"{where}: {recorded} -> {found}"]


@pytest.mark.parametrize("recorded", [path for path in RUNS if path.name == WITH_GRAMS], ids=name_of)
def test_a_run_finds_the_grams_that_it_began_with(recorded: Path, tmp_path: Path) -> None:
    """And replays. To go on it needs its own processor: regression is rounded by each in its own way."""
    out = copied(recorded / "stopped", tmp_path / "run")
    begun, history = history_of(out)
    if other := [name for name in ("torch", "transformers") if begun.clock.versions[name] != version(name)]:
        pytest.skip(f"Grams are kept by version: {other[0]} was {begun.clock.versions[other[0]]} then")
    plan = prepare_grams(build_plan(load_spec(out / "spec.yaml")), on_event=lambda event: pytest.fail(f"{event}"))
    assert plan.run_record().artifacts == begun.artifacts
    with open_session(plan, RunFolder(out), ignore) as session:
        assert session.history.candidates == history.candidates


def test_an_option_of_m2n2_has_another_name_since(tmp_path: Path) -> None:
    """`vertex_scale` is `seed_scale`: a recorded run is the same one, and its journal keeps the name that it has."""
    out = copied(GOLDEN / "v0.1.0/m2n2/stopped", tmp_path / "run")
    begun, _ = history_of(out)
    assert "vertex_scale" in _options(begun)
    run(load_spec(out / "spec.yaml"), out)
    assert "seed_scale: null" in (out / "spec.yaml").read_text()
    assert history_of(out)[0] == begun


@pytest.mark.parametrize(("chosen", "is_same"), [(1.5, True), (1.0, False)])
def test_its_value_is_compared_under_either_name(chosen: float, is_same: bool, tmp_path: Path) -> None:
    out = copied(GOLDEN / "v0.1.0/m2n2/stopped", tmp_path / "run")
    for path in (out / "spec.yaml", out / "journal.jsonl"):
        text = path.read_text().replace("vertex_scale: null", f"seed_scale: {chosen}")
        path.write_text(text.replace('"vertex_scale":null', '"vertex_scale":1.5'))
    begun, _ = history_of(out)
    plan = build_plan(load_spec(out / "spec.yaml"))
    recorded = migrated(begun, plan.spec, renamed=plan.renamed_settings)
    if is_same:
        check_same_run(recorded, plan.run_record(), where=out)
    else:
        with pytest.raises(InputError, match=r"optimizer.options.seed_scale: 1.5 -> 1.0"):
            check_same_run(recorded, plan.run_record(), where=out)


def _options(begun: RunRecord) -> Mapping[str, Any]:
    optimizer: Any = begun.spec["optimizer"]
    return optimizer["options"]
