"""Bad input through the command line: one screen, exit 2, nothing half-written, no traceback. Sixty kinds of it."""

import errno
import io
import json
import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
import yaml
from in_process import exit_code_of

from crossbreed.cache import cache_folder, is_ours, sealed, unsealed
from crossbreed.durable import write_atomically
from crossbreed.errors import InputError, printable
from crossbreed.fitness.tasks.metrics import plain as metrics
from crossbreed.recipes import load_recipe, parse_recipe, rule_finder
from crossbreed.runs import load_spec
from crossbreed.sources import open_sources
from crossbreed.yaml_files import MAX_DEPTH

BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{name}: &{name} [{','.join(['*' + before] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
LONG_ALIASES = "s: &s " + "z" * 200_000 + "\nwarm_start: [" + ",".join(["*s"] * 10_000) + "]\n"
EVIL = "open('CODE_RAN', 'w').close()\n"


class Place:
    """A folder with a toy base, an adapter, a spec and a recipe, and the command line called in it."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str], patch: pytest.MonkeyPatch) -> None:
        self.folder, self._capsys, self._patch = folder, capsys, patch
        self.out = ""
        self.spec, self.recipe = folder / "spec.yaml", folder / "recipe.yaml"

    def call(self, *arguments: object) -> tuple[int, str]:
        """Returns exit code and what is said on stderr."""
        code = exit_code_of(*arguments)
        self.out, err = self._capsys.readouterr()
        return code, err

    def edit_spec(self, key: str, value: Any) -> None:
        raw = yaml.safe_load(self.spec.read_text())
        set_at(raw, key, value)
        self.spec.write_text(yaml.safe_dump(raw, sort_keys=False))

    def edit_json(self, name: str, **values: Any) -> None:
        path = self.folder / name
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    def edit_recipe(self, key: str, value: Any) -> None:
        raw = yaml.safe_load(self.recipe.read_text())
        set_at(raw, key, value)
        self.recipe.write_text(yaml.safe_dump(raw, sort_keys=False))


def set_at(raw: Any, key: str, value: Any) -> None:
    *parents, last = key.split(".")
    for parent in parents:
        raw = raw[int(parent) if parent.isdigit() else parent]
    raw[last] = value


@pytest.fixture
def place(
    tmp_path: Path,
    toy_base: Path,
    toy_adapters: dict[str, Path],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Place:
    shutil.copytree(toy_base, tmp_path / "base")
    shutil.copytree(toy_adapters["plain"], tmp_path / "red")
    for path in tmp_path.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    items = [{"id": str(i), "q": f"red {i}", "a": str(i * 7 % 97)} for i in range(12)]
    (tmp_path / "red.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    task = {"name": "red", "kind": "generate", "items": "red.jsonl", "prompt": "red|{q}|{a}", "answer": "a"}
    spec = {
        "name": "toy",
        "sources": {"base": "./base", "experts": {"red": "./red"}},
        "space": {"kind": "coefficients", "operator": "task_arithmetic"},
        "optimizer": {"kind": "random", "budget": {"trials": 2}},
        "fitness": {"engine": {"kind": "fake"}, "tasks": [task], "split": {"search": 4, "select": 4, "report": 4}},
        "workers": {"executor": "local"},
    }
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(spec, sort_keys=False))
    rule = {"match": ".*", "operator": "task_arithmetic", "params": {"weight": 0.5}}
    sources = {"base": "?" * 32, "red": "?" * 32}
    recipe = {"schema": 1, "base": "base", "sources": sources, "rules": [rule]}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    monkeypatch.chdir(tmp_path)
    return Place(tmp_path, capsys, monkeypatch)


def spec_text(text: str) -> Callable[[Place], None]:
    return lambda place: (place.spec.write_text(text), None)[1]


def more_spec(text: str) -> Callable[[Place], None]:
    return lambda place: (place.spec.write_text(place.spec.read_text() + text), None)[1]


def in_spec(key: str, value: Any) -> Callable[[Place], None]:
    return lambda place: place.edit_spec(key, value)


def in_recipe(key: str, value: Any) -> Callable[[Place], None]:
    return lambda place: place.edit_recipe(key, value)


def in_json(name: str, **values: Any) -> Callable[[Place], None]:
    return lambda place: place.edit_json(name, **values)


def file_text(name: str, text: str) -> Callable[[Place], None]:
    return lambda place: ((place.folder / name).write_text(text), None)[1]


def pipe(name: str) -> Callable[[Place], None]:
    def make(place: Place) -> None:
        (place.folder / name).unlink(missing_ok=True)
        os.mkfifo(place.folder / name)

    return make


CHECK = ("check", "spec.yaml")
CHOICE = {
    "kind": "choice",
    "name": "red",
    "items": "red.jsonl",
    "prompt": "{q}",
    "answer": "a",
    "choices": [True, False],
}
MERGE = ("merge", "recipe.yaml", "--out", "out", "--source", "base=base", "--source", "red=red")
RULE = "rules.0."
LOSS = {"kind": "likelihood", "name": "loss", "items": "red.jsonl", "prompt": "{q}", "answer": "a"}


def judged_by(key: str, *configs: dict[str, Any]) -> Callable[[Place], None]:
    """Objectives or constraints, over the task `red` and a loss on the same items."""

    def spoil(place: Place) -> None:
        tasks = yaml.safe_load(place.spec.read_text())["fitness"]["tasks"]
        place.edit_spec("fitness.tasks", [*tasks, LOSS])
        place.edit_spec("fitness.objectives", [{"task": "red"}])
        place.edit_spec(f"fitness.{key}", list(configs))

    return spoil


def bounded(**config: Any) -> Callable[[Place], None]:
    return judged_by("constraints", config)


def sought(**config: Any) -> Callable[[Place], None]:
    return judged_by("objectives", config)


BAD: dict[str, tuple[Callable[[Place], None], tuple[str, ...], str]] = {
    # specs
    "spec: bomb": (more_spec(BOMB), CHECK, "with aliases expanded"),
    "spec: long aliases": (more_spec(LONG_ALIASES), CHECK, "with aliases expanded"),
    "spec: deep": (spec_text("a: " + "[" * 1500), CHECK, f"more than {MAX_DEPTH} levels"),
    "spec: a little deep": (spec_text("a: " + "[" * 60 + "]" * 60), CHECK, f"more than {MAX_DEPTH} levels"),
    "spec: alias in itself": (spec_text("a: &a [*a]"), CHECK, "an alias inside"),
    "spec: no such date": (more_spec("dtype: 2024-02-30\n"), CHECK, "day is out of range"),
    "spec: a date": (more_spec("dtype: 2024-02-28\n"), CHECK, "dtype"),
    "spec: huge integer": (more_spec("seed: 1" + "0" * 5000 + "\n"), CHECK, "an integer of"),
    "spec: key twice": (more_spec("name: other\n"), CHECK, "the key `name` stands twice"),
    "spec: Python tag": (more_spec("dtype: !!python/object/apply:os.system [id]\n"), CHECK, "python/object"),
    "spec: wrong tag": (more_spec("dtype: !!bool perhaps\n"), CHECK, "perhaps"),
    "spec: broken binary": (more_spec("dtype: !!binary é\n"), CHECK, "base64"),
    "spec: list as key": (more_spec("? [a]\n: b\n"), CHECK, "line"),
    "spec: NUL": (spec_text("name: a\x00b"), CHECK, "special characters"),
    "spec: two documents": (more_spec("---\nname: x\n"), CHECK, "not one YAML document"),
    "spec: empty": (spec_text(""), CHECK, "not a mapping"),
    "spec: pipe": (pipe("spec.yaml"), CHECK, "not a regular file"),
    "spec: folder": (lambda place: None, ("check", "base"), "a folder"),
    "spec: absent": (lambda place: None, ("check", "nowhere.yaml"), "no such file"),
    "spec: no text": (lambda place: (place.spec.write_bytes(b"\xff\xfe\x00"), None)[1], CHECK, "cannot be read"),
    "name: escapes": (in_spec("name", "a/../../b"), ("run", "spec.yaml"), "not a path"),
    "name: absolute": (in_spec("name", "/tmp/x"), ("run", "spec.yaml"), "not a path"),
    "name: NUL": (in_spec("name", "a\0b"), CHECK, "control characters"),
    "name: escape code": (in_spec("sources.experts", {"a\x1b[31m": "./red"}), CHECK, "control characters"),
    "name: two lines": (in_spec("fitness.tasks.0.name", "a\n---\nb"), CHECK, "control characters"),
    "name: long": (in_spec("name", "x" * 3000), CHECK, "at most 100"),
    "text: yes": (in_spec("fitness.tasks.0.answer", True), CHECK, 'quote it: "'),
    "text: no as key": (in_spec("sources.experts", {False: "./red"}), CHECK, 'quote it: "no"'),
    "text: no in a list": (in_spec("fitness.tasks.0.stop", [False]), CHECK, 'quote it: "no"'),
    "text: no for a list": (in_spec("fitness.tasks.0.stop", False), CHECK, 'quote it, as in "no", in a list'),
    "text: yes as kind": (in_spec("optimizer.kind", True), CHECK, 'quote it, as in "yes"'),
    "text: yes or": (in_spec("space.groups", {"modules": [True]}), CHECK, 'quote it: "yes"'),
    "text: yes and no": (in_spec("fitness.tasks", [CHOICE]), CHECK, "choices.0` must be a text"),
    "text: number": (in_spec("fitness.tasks.0.answer", 7), CHECK, 'quote it: "7"'),
    "key: long": (more_spec("x" * 500 + ": 1\n"), CHECK, "unknown key"),
    "keys: thousands": (in_spec("fitness.engine", {f"k{i}": i for i in range(3000)}), CHECK, "kind"),
    "value: long": (in_spec("optimizer.budget.trials", "9" * 100_000), CHECK, "trials"),
    "pattern: none": (in_spec("fitness.tasks.0.metric", "regex"), CHECK, "needs a `pattern`"),
    "override: no such entry": (lambda place: None, (*CHECK, "--set", "fitness.tasks.3.items=x"), "no entry `3`"),
    "override: no such name": (lambda place: None, (*CHECK, "--set", "fitness.tasks.rad.items=x"), "mean `red`"),
    "override: yes for a number": (lambda place: None, (*CHECK, "--set", "seed=yes"), "write a number"),
    "override: no value": (lambda place: None, (*CHECK, "--set", "seed"), "has no value"),
    "override: bomb": (lambda place: None, (*CHECK, "--set", "seed=&a [*a]"), "an alias inside"),
    # objectives and constraints
    "objective: unknown task": (sought(task="rde"), CHECK, "write `red`"),
    "objective: two kinds": (sought(task="red", length="red"), CHECK, "task and length"),
    "objective: no weight above 0": (sought(mean=["red"], weights=[-1]), CHECK, "{task: red, minimize: true}"),
    "objective: quantile of nothing": (sought(quantile=["red"]), CHECK, "needs `at`"),
    "objective: quantile outside": (sought(quantile=["red"], at=1.5), CHECK, "fitness.objectives.0.at"),
    "objective: relative to what": (sought(task="red", relative_to="expert"), CHECK, "'base' or 'experts'"),
    "objective: no experts": (
        lambda place: (sought(task="red", relative_to="experts")(place), place.edit_spec("sources.experts", {}))[1],
        CHECK,
        "sources.experts",
    ),
    "objective: length of no text": (sought(length="loss"), CHECK, "write `length: red`"),
    "objective: mixed": (sought(worst=["red", "loss"]), CHECK, "take loss out"),
    "constraint: unknown task": (bounded(task="rde", at_least=0.5), CHECK, "write `red`"),
    "constraint: no bound": (bounded(task="red"), CHECK, "add one of them, as in at_least: 0.8"),
    "constraint: two bounds": (bounded(task="red", at_least=0.1, at_most=0.2), CHECK, "make two constraints"),
    "constraint: no such bound": (bounded(task="red", at_least="bse - 1"), CHECK, "95% base"),
    "constraint: percent of a loss": (bounded(task="loss", at_most="105% base"), CHECK, "base + 0.02"),
    "constraint: above the range": (bounded(task="red", at_least=95), CHECK, "no model keeps this bound"),
    "constraint: below the range": (bounded(task="red", at_least=0), CHECK, "every model keeps this bound"),
    "constraint: longer than max_tokens": (bounded(length="red", at_most=4000), CHECK, "from 0 to 16"),
    "constraint: no direction": (bounded(task="red", at_least=0.5, minimize=True), CHECK, "unknown key `minimize`"),
    # paths of models
    "path: missing": (in_spec("sources.experts.red", "./rad"), CHECK, "did you mean `red`"),
    "path: missing beside others": (
        lambda place: ((place.folder / "experts").mkdir(), place.edit_spec("sources.experts.red", "experts/full"))[1],
        CHECK,
        "expert `red`:",
    ),
    "path: a file": (in_spec("sources.base", "./red.jsonl"), CHECK, "a file"),
    "path: no model": (
        lambda place: ((place.folder / "up").mkdir(), place.edit_spec("sources.base", "./up"))[1],
        CHECK,
        "holds no model",
    ),
    # JSON of models
    "config: pipe": (pipe("base/config.json"), CHECK, "neither a file nor a folder"),
    "config: deep": (file_text("base/config.json", '{"a":' * 5000 + "1" + "}" * 5000), CHECK, "deep"),
    "config: huge integer": (file_text("base/config.json", '{"a": 1' + "0" * 5000 + "}"), CHECK, "digits"),
    "config: list": (file_text("base/config.json", "[]"), CHECK, "no object"),
    "config: text_config a list": (in_json("base/config.json", text_config=[1]), CHECK, "text_config"),
    "config: long quantization": (
        in_json("base/config.json", quantization_config={str(i): "x" * 100 for i in range(9000)}),
        CHECK,
        "quantization_config",
    ),
    "adapter: no object": (file_text("red/adapter_config.json", "null"), CHECK, "no object"),
    "adapter: rank pattern a list": (in_json("red/adapter_config.json", rank_pattern=["a"]), CHECK, "rank_pattern"),
    "adapter: look-around": (
        in_json("red/adapter_config.json", rank_pattern={"(?=a)b": 4}),
        CHECK,
        "matches in linear time",
    ),
    "adapter: rank 0": (in_json("red/adapter_config.json", r=0), CHECK, "a rank of 0"),
    "adapter: alpha NaN": (in_json("red/adapter_config.json", lora_alpha=float("nan")), CHECK, "lora_alpha"),
    "weights: cut": (file_text("base/model.safetensors", "x"), CHECK, "not a whole safetensors file"),
    "index: numbers": (
        lambda place: (
            (place.folder / "base/model.safetensors").unlink(),
            (place.folder / "base/model.safetensors.index.json").write_text('{"weight_map": {"a": 1}}'),
            None,
        )[2],
        CHECK,
        "lists no tensors",
    ),
    # recipes
    "recipe: bomb": (file_text("recipe.yaml", BOMB), MERGE, "with aliases expanded"),
    "recipe: pipe": (pipe("recipe.yaml"), MERGE, "not a regular file"),
    "recipe: look-around": (in_recipe(RULE + "match", "(?!a).*"), MERGE, "not a regular expression"),
    "recipe: huge repeat": (in_recipe(RULE + "match", "a{99999999999999999999}"), MERGE, "not a regular expression"),
    "recipe: pattern a list": (in_recipe(RULE + "match", ["a"]), MERGE, "not a regular expression"),
    "recipe: long pattern": (in_recipe(RULE + "match", "x" * 500_000), MERGE, ""),
    "recipe: base a list": (in_recipe("base", []), MERGE, "`base` is not one of the sources"),
    "recipe: huge weight": (in_recipe(RULE + "params.weight", 10**350), MERGE, "weight"),
    "recipe: hash": (lambda place: None, MERGE, "hash"),
    # outputs
    "out: in use": (lambda place: None, (*MERGE[:3], "base", *MERGE[4:]), "in use"),
    "out: dangling link": (
        lambda place: ((place.folder / "out").symlink_to("nowhere"), None)[1],
        MERGE,
        "which does not exist",
    ),
}


def assert_one_screen(code: int, err: str) -> None:
    assert code == 2, err
    assert "Traceback" not in err
    assert len(err.splitlines()) <= 25, err
    assert len(err) <= 2000, err
    assert ".str" not in err
    assert "[key]" not in err
    assert err == "\n".join(map(printable, err.split("\n")))


@pytest.mark.timeout(30)
@pytest.mark.parametrize("kind", BAD)
def test_bad_input_is_refused_on_one_screen(kind: str, place: Place) -> None:
    spoil, arguments, says = BAD[kind]
    spoil(place)
    before = set(place.folder.rglob("*"))
    code, err = place.call(*arguments)
    assert_one_screen(code, err)
    assert says in err
    assert set(place.folder.rglob("*")) == before


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_no_code_of_a_model_runs(name: str, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even where somebody, or `yes`, says yes to whatever is asked."""
    (place.folder / "base" / "evil.py").write_text(EVIL)
    classes = {"AutoConfig": "evil.C", "AutoTokenizer": ["evil.T", "evil.T"], "AutoModelForCausalLM": "evil.M"}
    place.edit_json(f"base/{name}", auto_map=classes, model_type="evil", tokenizer_class="EvilTokenizer")
    place.edit_spec("fitness.engine", {"kind": "transformers", "dtype": "float32"})
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n" * 100))
    code, err = place.call("check", "spec.yaml")
    assert not (place.folder / "CODE_RAN").exists()
    assert "Traceback" not in err
    if name == "config.json":
        assert_one_screen(code, err)


def good_merge(place: Place) -> None:
    sources = open_sources("base", {"red": "red"})
    place.edit_recipe("sources", dict(sources.structure.hashes))


@pytest.mark.parametrize("kind", ["link", "current folder", "link in a path"])
def test_a_link_or_the_current_folder_is_written_where_it_leads(
    kind: str, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    good_merge(place)
    real = place.folder / "disk" / "out"
    real.mkdir(parents=True)
    if kind == "current folder":
        monkeypatch.chdir(real)
        out = "."
    else:
        (place.folder / "out").symlink_to(real if kind == "link" else real.parent)
        out = "out" if kind == "link" else "out/out"
    sources = [f"--source={name}={place.folder / name}" for name in ("base", "red")]
    code, err = place.call("merge", place.recipe, "--out", out, *sources)
    assert code == 0, err
    assert (real / "model.safetensors").is_file()
    assert [path.name for path in real.parent.iterdir()] == ["out"]


def test_links_carry_no_file_from_elsewhere_into_a_published_folder(place: Place) -> None:
    good_merge(place)
    (place.folder / "secret").write_text("token")
    (place.folder / "base" / "LICENSE").symlink_to(place.folder / "secret")
    code, err = place.call(*MERGE)
    assert_one_screen(code, err)
    assert "`LICENSE` is a link" in err
    assert not (place.folder / "out").exists()


def test_links_of_the_hub_cache_and_within_the_folder_are_followed(place: Place) -> None:
    good_merge(place)
    snapshot = place.folder / "models--a--b" / "snapshots" / "1234"
    shutil.copytree(place.folder / "base", snapshot)
    blobs = snapshot.parent.parent / "blobs"
    blobs.mkdir()
    (snapshot / "tokenizer.json").rename(blobs / "f00")
    (snapshot / "tokenizer.json").symlink_to("../../blobs/f00")
    (snapshot / "NOTICE").symlink_to("config.json")
    code, err = place.call(*MERGE[:5], f"base={snapshot}", *MERGE[6:])
    assert code == 0, err
    assert not (place.folder / "out" / "tokenizer.json").is_symlink()


def test_the_folder_a_model_was_loaded_from_is_not_published(place: Place) -> None:
    place.edit_json("base/config.json", _name_or_path="/home/me/secret")
    good_merge(place)
    assert place.call(*MERGE)[0] == 0
    for path in (place.folder / "out").glob("*.json"):
        assert "/home/me" not in path.read_text()


@pytest.mark.parametrize("mask", [0o077, 0o022])
def test_derived_files_honour_the_umask(mask: int, tmp_path: Path) -> None:
    before = os.umask(mask)
    try:
        write_atomically(tmp_path / "file", b"x")
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o666 & ~mask


def test_a_write_that_fails_names_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*/report.json'"):
        write_atomically(tmp_path / "report.json", b"x")


def test_what_others_can_write_in_a_cache_is_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CROSSBREED_CACHE", str(tmp_path))
    entry = tmp_path / "digests" / "x.json"
    entry.parent.mkdir()
    entry.write_text("{}")
    for path in (tmp_path, entry.parent, entry):
        path.chmod(0o700)
    assert is_ours(entry)
    for path in (tmp_path, entry.parent, entry):
        path.chmod(0o777)
        assert not is_ours(entry)
        path.chmod(0o700)
    os.chown(entry, 12345, -1)
    assert not is_ours(entry)


def test_digests_of_others_are_found_again(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CROSSBREED_CACHE", str(tmp_path / "cache"))
    right = open_sources("base", {"red": "red"}).base.hash
    for entry in (tmp_path / "cache" / "digests").iterdir():
        entry.write_bytes(sealed(json.dumps(dict.fromkeys(json.loads(unsealed(entry) or b""), "0" * 32)).encode()))
    assert open_sources("base", {"red": "red"}).base.hash != right  # ours are believed
    for entry in (tmp_path / "cache" / "digests").iterdir():
        entry.chmod(0o666)
    assert open_sources("base", {"red": "red"}).base.hash == right


def test_a_user_without_a_home_has_a_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless(path: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in ("CROSSBREED_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "expanduser", homeless)
    assert cache_folder().name == f"crossbreed-{os.getuid()}"


def test_names_with_markup_are_shown_as_they_are(place: Place, toy_adapters: dict[str, Path]) -> None:
    """`[/b]` ended `run` with a MarkupError, and `t[red]` was shown as `t`."""
    place.edit_spec("fitness.tasks.0.name", "t[red]")
    place.edit_spec("sources.experts", {"[/b]": "./red", "blue": str(toy_adapters["stabilised"])})
    assert main_output(place, "run", "spec.yaml", "--out", "run")
    shown = main_output(place, "report", "run")
    assert "t[red]" in shown
    assert "[/b]" in shown


def main_output(place: Place, *arguments: object) -> str:
    code, err = place.call(*arguments)
    assert code == 0, err
    return place.out


def test_an_override_reaches_a_task_by_number_and_by_name(place: Place) -> None:
    for key in ("0", "red"):
        loaded = load_spec(place.spec, [f"fitness.tasks.{key}.max_tokens=3"])
        assert loaded.fitness.tasks[0].max_tokens == 3


def test_old_recipes_with_pythons_patterns_are_read_from_journals(place: Place) -> None:
    raw = yaml.safe_load(place.recipe.read_text())
    raw["rules"][0]["match"] = r"(?!lm_head).*"
    with pytest.raises(InputError):
        parse_recipe(raw)
    find = rule_finder(parse_recipe(raw, is_recorded=True))
    assert find("model.norm.weight") is not None
    assert find("lm_head.weight") is None


@pytest.mark.timeout(20)
def test_a_metric_pattern_that_never_ends_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "_MOST_SECONDS", 0.2)
    with pytest.raises(InputError, match="takes more than"):
        metrics.regex("a" * 60, "a", re.compile(r"((a|a)+)+!"))


JUNK: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    1.5,
    10**30,
    "",
    "x" * 300,
    "[/b]",
    [],
    [[]],
    {},
    {"a": {}},
    [1, "a"],
    "\x1b",
)


def mutated(value: Any, random: Random) -> Any:
    """Returns a JSON value with one node replaced, doubled or taken away."""
    if isinstance(value, dict) and value and random.random() < 0.8:
        key = random.choice(sorted(value, key=str))
        return {**value, key: mutated(value[key], random)}
    if isinstance(value, list) and value and random.random() < 0.8:
        place = random.randrange(len(value))
        return [*value[:place], mutated(value[place], random), *value[place + 1 :]]
    return random.choice(JUNK)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", ["spec.yaml", "recipe.yaml", "red/adapter_config.json", "base/config.json"])
def test_random_changes_never_end_in_a_traceback(name: str, place: Place) -> None:
    path, random = place.folder / name, Random(7)
    original = yaml.safe_load(path.read_text())
    for _ in range(60):
        path.write_text(json.dumps(mutated(original, random)))
        said = ""
        try:
            if name == "spec.yaml":
                load_spec(path)
            elif name == "recipe.yaml":
                load_recipe(path)
            else:
                open_sources("base", {"red": "red"})
        except InputError as error:
            said = str(error)
        assert len(said) <= 2000
        assert len(said.splitlines()) <= 25


@pytest.mark.parametrize("command", ["check", "run"])
def test_mistakes_of_keys_values_and_items_come_at_once(place: Place, command: str) -> None:
    raw = yaml.safe_load(place.spec.read_text())
    raw["sead"], raw["workers"]["retries"] = 3, -1
    raw["fitness"]["objectives"] = [{"task": "green"}]
    place.spec.write_text(yaml.safe_dump(raw))
    path = place.folder / "red.jsonl"
    path.write_text(path.read_text() + "[]\n" + '{"id": "x", "q": "red 0", "a": "0"}\n{"a": "1"}\n')
    code, err = place.call(command, "spec.yaml")
    lines = [line for line in err.splitlines() if re.match(r"\d+\. ", line)]
    assert (code, len(lines)) == (2, 6), err
    for said in (
        "unknown key `sead`",
        "`workers.retries` is wrong",
        "unknown task `green`",
        "red.jsonl, line 13",
        "red.jsonl, lines 1 and 14",
        "red.jsonl, line 15",
    ):
        assert sum(said in line for line in lines) == 1, (said, err)
    assert not (place.folder / "runs").exists()
