"""Several recipes in one command: the bits of single merges, a folder each, and no folder by halves."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from toy_runs import call
from typer.testing import CliRunner

from crossbreed.cli import app
from crossbreed.errors import InputError, InvalidWeights, MachineError
from crossbreed.kernels import fingerprint_checkpoint
from crossbreed.recipes import dump_recipe, load_recipe
from crossbreed.recipes.named import weighted_deltas
from crossbreed.runs import merge_recipe, merge_recipes
from crossbreed.runs.publishing.contents import checkpoint_contents
from crossbreed.runs.publishing.folders import new_folders
from crossbreed.runs.publishing.merge_recipes import _rows
from crossbreed.sources import Sources, open_sources
from crossbreed.testing.toys import make_adapter, make_checkpoint, make_expert
from crossbreed.types import ParamValue, Recipe, Rule

FULL = {"a": 0.4, "b": -0.3, "p": 0.8}
RECIPES: dict[str, tuple[str, dict[str, ParamValue]]] = {
    "sum": ("task_arithmetic", {"weight": FULL}),
    "more": ("task_arithmetic", {"weight": 0.7, "lines_beta": 0.5}),
    "sparse": ("ties", {"weight": 0.7, "density": 0.3}),
    "denser": ("ties", {"weight": FULL, "density": 0.6}),
    "whole": ("ties", {"weight": FULL, "density": 0.5, "trim": "model"}),
    "random": ("dare_ties", {"weight": FULL, "density": 0.5}),
    "round": ("karcher", {}),
    "chosen": ("pcb", {"weight": FULL}),
    "turned": ("tsv_m", {"weight": FULL}),
}


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Sources:
    root = tmp_path_factory.mktemp("models")
    base = make_checkpoint(root / "base", num_layers=2)
    experts = {
        "a": make_expert(root / "a", base=base, seed=1, pattern="self_attn"),
        "b": make_expert(root / "b", base=base, seed=2),
        "p": make_adapter(root / "p", base=base, seed=3),
    }
    return open_sources(str(base), {name: str(path) for name, path in experts.items()})


@pytest.fixture(scope="module")
def flags(sources: Sources) -> list[str]:
    folders = {"base": sources.base.path, **{name: expert.path for name, expert in sources.experts.items()}}
    return [f"{name}={folder}" for name, folder in folders.items()]


def write(path: Path, sources: Sources, operator: str, params: dict[str, ParamValue], dtype: str = "bfloat16") -> Path:
    rule = Rule(match=r"model\.layers\..*", operator=operator, params=params)
    path.parent.mkdir(exist_ok=True)
    path.write_text(dump_recipe(Recipe(base="base", sources=sources.structure.hashes, rules=(rule,), dtype=dtype)))
    return path


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_together_they_are_what_each_is_alone(tmp_path: Path, sources: Sources, flags: list[str]) -> None:
    paths = [write(tmp_path / f"{name}.yaml", sources, *recipe) for name, recipe in RECIPES.items()]
    paths.append(write(tmp_path / "wide.yaml", sources, *RECIPES["sum"], dtype="float32"))  # a pass of its own
    merge_recipes(paths, tmp_path / "out", sources=flags)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(path.stem for path in paths)
    for path in paths:
        merge_recipe(path, tmp_path / "alone" / path.stem, sources=flags)
        assert contents(tmp_path / "out" / path.stem) == contents(tmp_path / "alone" / path.stem), path.stem


@pytest.mark.parametrize("numerics", ["accurate", "mergekit"])
def test_the_command_takes_mergekits_files_too(numerics: str, tmp_path: Path, sources: Sources) -> None:
    models = [{"model": str(sources.experts[name].path)} for name in ("a", "b")]
    for stem, weight in {"x": 0.3, "y": 0.7}.items():
        config = {
            "merge_method": "task_arithmetic",
            "base_model": str(sources.base.path),
            "models": models,
            "parameters": {"weight": weight},
        }
        (tmp_path / f"{stem}.yml").write_text(yaml.safe_dump(config))
    files = [str(tmp_path / name) for name in ("x.yml", "y.yml")]
    done = CliRunner().invoke(app, ["merge", *files, "--out", str(tmp_path / "out"), "--numerics", numerics])
    assert done.exit_code == 0, done.output
    for stem in ("x", "y"):
        found = fingerprint_checkpoint(tmp_path / "out" / stem)
        assert f"wrote {tmp_path / 'out' / stem}, fingerprint {found}" in done.output
        merge_recipe(tmp_path / f"{stem}.yml", tmp_path / stem, numerics=numerics)  # type: ignore[arg-type]
        assert fingerprint_checkpoint(tmp_path / stem) == found


def test_one_recipe_goes_to_the_folder_itself(tmp_path: Path, sources: Sources, flags: list[str]) -> None:
    path = write(tmp_path / "sum.yaml", sources, *RECIPES["sum"])
    arguments = [part for flag in flags for part in ("--source", flag)]
    done = CliRunner().invoke(app, ["merge", str(path), "--out", str(tmp_path / "out"), *arguments])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "out" / "model.safetensors").is_file()


def test_what_would_collide_is_refused_before_anything_is_written(
    tmp_path: Path, sources: Sources, flags: list[str]
) -> None:
    first, second = (write(tmp_path / folder / "x.yaml", sources, *RECIPES["sum"]) for folder in ("f", "g"))
    with pytest.raises(InputError, match=r"two recipes would be written to .*out/x"):
        merge_recipes([first, second], tmp_path / "out", sources=flags)
    other = write(tmp_path / "y.yaml", sources, *RECIPES["sum"])
    (tmp_path / "out" / "y").mkdir(parents=True)
    (tmp_path / "out" / "y" / "mine").touch()
    with pytest.raises(InputError, match="the output folder is in use"):
        merge_recipes([first, other], tmp_path / "out", sources=flags)
    assert [path.name for path in (tmp_path / "out").rglob("*")] == ["y", "mine"]


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ("bse=x", "(?s)no recipe has a source `bse`.*did you mean `base`"),
        ("base=elsewhere", "`--source base` is given twice"),
    ],
)
def test_a_source_that_no_recipe_has_is_refused(
    more: str, says: str, tmp_path: Path, sources: Sources, flags: list[str]
) -> None:
    path = write(tmp_path / "sum.yaml", sources, *RECIPES["sum"])
    with pytest.raises(InputError, match=says):
        merge_recipe(path, tmp_path / "out", sources=[*flags, more])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("match", "fix"),
    [("modle.*", "correct or remove the rule"), ("up_proj", r"write \.\*\(up_proj\)\.\*")],
    ids=["misspelt", "a part of names"],
)
def test_a_rule_that_fits_no_tensor_is_refused(
    match: str, fix: str, tmp_path: Path, sources: Sources, flags: list[str]
) -> None:
    rules = [Rule(match=pattern, operator="task_arithmetic", params={"weight": 1.0}) for pattern in (".*", match)]
    path = tmp_path / "slip.yaml"
    path.write_text(dump_recipe(Recipe(base="base", sources=sources.structure.hashes, rules=tuple(rules))))
    with pytest.raises(InputError, match=rf"(?s)matches no tensor.*model\.layers.*{match}.*rules\[1\].*{fix}"):
        merge_recipe(path, tmp_path / "out", sources=flags)
    assert not (tmp_path / "out").exists()


def test_a_rule_behind_others_that_take_all_it_fits_is_merged(
    tmp_path: Path, sources: Sources, flags: list[str]
) -> None:
    rule = Rule(match=".*", operator="task_arithmetic", params={"weight": 1.0})
    path = tmp_path / "twice.yaml"
    path.write_text(dump_recipe(Recipe(base="base", sources=sources.structure.hashes, rules=(rule, rule))))
    merge_recipe(path, tmp_path / "out", sources=flags)
    assert (tmp_path / "out" / "model.safetensors").is_file()


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_what_cannot_be_merged_is_found_before_the_others_are(
    dtype: str, tmp_path: Path, sources: Sources, flags: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    good = write(tmp_path / "good.yaml", sources, *RECIPES["sum"])
    bad = write(tmp_path / "bad.yaml", sources, "bmm", {"weight": 1.0, "grams": "data"}, dtype=dtype)
    made: list[object] = []
    monkeypatch.setattr(
        "crossbreed.runs.publishing.merge_recipes.materialize_many", lambda *args, **options: made.append(args)
    )
    with pytest.raises(InputError, match="Grams"):
        merge_recipes([good, bad], tmp_path / "out", sources=flags)
    assert not (tmp_path / "out").exists()
    assert not made


def test_a_configuration_that_is_refused_stops_the_others(tmp_path: Path, sources: Sources) -> None:
    for stem, model in {"good": sources.experts["b"].path, "bad": tmp_path / "nowhere"}.items():
        models = [{"model": str(path), "parameters": {"weight": 0.5}} for path in (sources.base.path, model)]
        (tmp_path / f"{stem}.yml").write_text(yaml.safe_dump({"merge_method": "linear", "models": models}))
    with pytest.raises(InputError, match="nowhere"):
        merge_recipes([tmp_path / "good.yml", tmp_path / "bad.yml"], tmp_path / "out", numerics="mergekit")
    assert not (tmp_path / "out").exists()


def test_there_must_be_room_for_all(
    tmp_path: Path, sources: Sources, flags: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [write(tmp_path / f"{name}.yaml", sources, *RECIPES[name]) for name in ("sum", "more")]
    num_bytes = checkpoint_contents(load_recipe(paths[0]), sources).num_bytes
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage._replace(free=int(1.5 * num_bytes)))
    with pytest.raises(InputError, match="not enough disk"):
        merge_recipes(paths, tmp_path / "out", sources=flags)
    assert not list((tmp_path / "out").iterdir())
    merge_recipes(paths[:1], tmp_path / "out", sources=flags)


def test_folders_appear_together_or_not_at_all(tmp_path: Path) -> None:
    outs = [tmp_path / name for name in "abc"]
    outs[0].mkdir()

    def fill(meanwhile: Callable[[], None]) -> None:
        with new_folders(dict.fromkeys(outs, 0)) as folders:
            for folder in folders.values():
                (folder / "weights").touch()
            assert not any((out / "weights").exists() for out in outs)
            meanwhile()

    with pytest.raises(MachineError, match=r"\.b\.crossbreed-partial"):
        fill(lambda: (outs[1] / "of somebody else").mkdir(parents=True))
    assert [path.name for path in tmp_path.rglob("*")] == ["b", "of somebody else"]
    (outs[1] / "of somebody else").rmdir()
    fill(lambda: None)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "c"]
    assert all((out / "weights").exists() for out in outs)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_a_merge_that_means_nothing_leaves_nothing(
    dtype: str, tmp_path: Path, sources: Sources, flags: list[str]
) -> None:
    """In the same pass as the good one, or in the pass after it."""
    good = write(tmp_path / "good.yaml", sources, *RECIPES["sum"])
    infinite: dict[str, ParamValue] = {"weight": {"a": 1e38, "b": 1e38}, "scale": 1e30}
    bad = write(tmp_path / "bad.yaml", sources, "task_arithmetic", infinite, dtype=dtype)
    with pytest.raises(InvalidWeights, match=r"model\.layers\."):
        merge_recipes([good, bad], tmp_path / "out", sources=flags)
    assert not list((tmp_path / "out").iterdir())


def test_a_folder_that_cannot_be_written_stops_the_others(tmp_path: Path, sources: Sources, flags: list[str]) -> None:
    paths = [write(tmp_path / f"{name}.yaml", sources, *RECIPES[name]) for name in ("sum", "more", "sparse")]
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".more.crossbreed-partial").touch()  # a file where the temporary folder goes
    with pytest.raises(InputError, match="the output folder cannot be written"):
        merge_recipes(paths, tmp_path / "out", sources=flags)
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".more.crossbreed-partial"]


def test_a_new_process_does_the_same(tmp_path: Path, sources: Sources, flags: list[str]) -> None:
    """Where nobody has imported yet what reads a checkpoint back, and every folder's thread wants it at once."""
    names = ("sum", "more", "sparse", "denser")
    paths = [write(tmp_path / f"{name}.yaml", sources, *RECIPES[name]) for name in names]
    called = call("merge", *paths, "--out", tmp_path / "out", *(part for flag in flags for part in ("--source", flag)))
    assert called.returncode == 0, called.stderr
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(names)


def test_the_base_may_have_another_name(tmp_path: Path, sources: Sources, flags: list[str]) -> None:
    hashes = {"root": sources.structure.hashes["base"], "x": sources.structure.hashes["a"]}
    rule = Rule(match=".*", operator="task_arithmetic", params={"weight": 1.0})
    (tmp_path / "r.yaml").write_text(dump_recipe(Recipe(base="root", sources=hashes, rules=(rule,))))
    named = [f"root={sources.base.path}", f"x={sources.experts['a'].path}"]
    merge_recipe(tmp_path / "r.yaml", tmp_path / "out", sources=named)
    assert fingerprint_checkpoint(tmp_path / "out") == sources.structure.hashes["a"]
    with pytest.raises(InputError, match="`root` is not the model"):
        merge_recipe(tmp_path / "r.yaml", tmp_path / "again", sources=[f"root={sources.experts['b'].path}", named[1]])


def test_sources_that_change_during_a_merge_are_noticed_at_its_end(
    toy_base: Path, toy_adapters: dict[str, Path], tmp_path: Path
) -> None:
    expert = shutil.copytree(toy_adapters["plain"], tmp_path / "plain")
    opened = open_sources(str(toy_base), {"plain": str(expert)})
    recipe = weighted_deltas({"plain": 1.0}, hashes=opened.structure.hashes, dtype="float32")
    rows = _rows([recipe], opened, [])
    next(rows)
    os.utime(expert / "adapter_model.safetensors", ns=(1, 1))
    with pytest.raises(InputError, match="a file of the sources was changed"):
        list(rows)
