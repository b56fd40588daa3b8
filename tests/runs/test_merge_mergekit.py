"""`crossbreed merge` of mergekit configurations: our numerics agree with mergekit's, and what cannot be done is named.

That mergekit's numerics are mergekit's is for tests/parity to show.
"""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from crossbreed.cli import app
from crossbreed.errors import InputError, InvalidWeights
from crossbreed.kernels import fingerprint_checkpoint
from crossbreed.recipes import load_recipe
from crossbreed.runs import Event, merge_recipe
from crossbreed.testing.toys import make_adapter, make_checkpoint, make_expert

Merge = Callable[..., Path]


@pytest.fixture(scope="module")
def toys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A base in float32, where rounding hides nothing, and what was made of it."""
    root = tmp_path_factory.mktemp("models")
    base = make_checkpoint(root / "base", num_layers=2, dtype=torch.float32)
    made = {name: make_expert(root / name, base=base, seed=seed) for seed, name in enumerate("abc", start=1)}
    made |= {name: make_adapter(root / name, base=base, seed=seed) for seed, name in enumerate(("p", "q"), start=5)}
    return {name: str(path) for name, path in {"base": base, **made}.items()}


@pytest.fixture
def merge(tmp_path: Path) -> Merge:
    """Writes a configuration and merges it; returns the folder."""

    def call(config: dict[str, Any], numerics: str = "mergekit", **options: Any) -> Path:
        path, out = tmp_path / "merge.yml", tmp_path / numerics
        path.write_text(yaml.safe_dump(config))
        merge_recipe(path, out, numerics=numerics, **options)  # type: ignore[arg-type]
        return out

    return call


def of(method: str, *models: str, **keys: Any) -> dict[str, Any]:
    return {"merge_method": method, "models": [{"model": model} for model in models], **keys}


def layers(model: str, first: int, end: int, **keys: Any) -> dict[str, Any]:
    return {"sources": [{"model": model, "layer_range": [first, end], **keys}]}


METHODS: dict[str, dict[str, Any]] = {
    "linear": {"weight": 0.3},
    "task_arithmetic": {"weight": 0.4, "lambda": 0.7, "density": 0.5},
    "ties": {"weight": 0.6, "density": [0.3, 0.8], "normalize": False},
    "breadcrumbs": {"weight": 0.6, "density": 0.7, "gamma": 0.05},
    "breadcrumbs_ties": {"weight": 0.6, "density": 0.7, "lambda": 1.2},
    "dare_ties": {"weight": 0.6, "density": 1.0},
    "della": {"weight": 0.6, "density": 1.0},
    "sce": {"select_topk": 0.5},
    "nuslerp": {"weight": [{"filter": "mlp", "value": 0.7}, {"value": 0.3}]},
    "multislerp": {"weight": 0.5, "normalize_weights": False},
    "karcher": {"max_iter": 1200},
    "model_stock": {"filter_wise": True},
    "ram": {"epsilon": 0.02},
    "ramplus_tl": {"epsilon": 0.02, "r": 0.3},
    "slerp": {"t": [{"filter": "self_attn", "value": 0.2}, {"value": 0.7}]},
    "arcee_fusion": {},
    "nearswap": {"t": 0.01},
}
OF_ONE = {"slerp", "arcee_fusion", "nearswap"}


@pytest.mark.parametrize("method", METHODS)
def test_both_numerics_mean_the_same(method: str, toys: dict[str, str], merge: Merge) -> None:
    experts = [toys["a"]] if method in OF_ONE else [toys["a"], toys["b"]]
    config = of(method, *experts, base_model=toys["base"], parameters=METHODS[method])
    theirs, ours = (load_file(merge(config, numerics) / "model.safetensors") for numerics in ("mergekit", "accurate"))
    assert ours.keys() == theirs.keys()
    off = sum(int((~torch.isclose(ours[name], theirs[name], rtol=1e-4, atol=1e-5)).sum()) for name in theirs)
    # breadcrumbs rounds what it keeps once, and mergekit twice: an element of each tensor and expert
    assert off <= 2 * len(theirs), f"{off} elements"


def without_base(method: str, a: str, b: str, **parameters: Any) -> dict[str, Any]:
    return of(method, a, b, parameters=parameters)


def by_slices(method: str, a: str, b: str, **parameters: Any) -> dict[str, Any]:
    """As people write them: a base in every slice, and none at the top."""
    sources = [{"model": model, "layer_range": [0, 2]} for model in (a, b)]
    slices = [{"sources": sources, "base_model": a, "parameters": parameters}]
    return {"merge_method": method, "slices": slices}


WRITTEN: dict[str, Callable[[dict[str, str]], dict[str, Any]]] = {
    "nuslerp of weights": lambda toys: without_base("nuslerp", toys["a"], toys["b"], weight=0.4),
    "multislerp of weights": lambda toys: without_base("multislerp", toys["a"], toys["b"], weight=[0.4, 0.7]),
    "slerp by slices": lambda toys: by_slices("slerp", toys["a"], toys["b"], t=[0, 0.5, 1]),
    "normalized deltas": lambda toys: of(
        "task_arithmetic",
        *(toys[name] for name in "abc"),
        base_model=toys["base"],
        parameters={"weight": [{"filter": "mlp", "value": 0.7}, {"value": 0.2}], "normalize": True},
    ),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_so_they_do_however_it_is_written(name: str, toys: dict[str, str], merge: Merge) -> None:
    config = WRITTEN[name](toys)
    theirs, ours = (load_file(merge(config, numerics) / "model.safetensors") for numerics in ("mergekit", "accurate"))
    for tensor, values in theirs.items():
        torch.testing.assert_close(ours[tensor], values, rtol=1e-4, atol=1e-5, msg=tensor)


@pytest.mark.parametrize("numerics", ["mergekit", "accurate"])
@pytest.mark.parametrize(
    ("template", "written"), [("chatml", "<|im_start|>user\nhi<|im_end|>\n"), ("auto", "other: hi")]
)
def test_a_chat_template_is_chosen(
    template: str, written: str, numerics: str, toys: dict[str, str], merge: Merge, tmp_path: Path
) -> None:
    for name in ("b", "c"):
        shutil.copytree(toys[name], tmp_path / name)
        (tmp_path / name / "chat_template.jinja").write_text("other: {{ messages[0].content }}")
    models = [toys["a"], *(str(tmp_path / name) for name in ("b", "c"))]
    accept = ["chat_template"] if numerics == "accurate" else []
    out = merge(of("linear", *models, parameters={"weight": 1}, chat_template=template), numerics, accept=accept)
    said = AutoTokenizer.from_pretrained(out).apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False)
    assert said == written


@pytest.mark.parametrize("numerics", ["mergekit", "accurate"])
def test_the_chosen_template_stands_wherever_transformers_looks_first(
    numerics: str, toys: dict[str, str], merge: Merge, tmp_path: Path
) -> None:
    models = [str(shutil.copytree(toys[name], tmp_path / name)) for name in ("a", "b")]
    for model in models:
        other = Path(model) / "additional_chat_templates" / "default.jinja"
        other.parent.mkdir()
        other.write_text("other: {{ messages[0].content }}")
    out = merge(of("linear", *models, parameters={"weight": 1}, chat_template="chatml"), numerics)
    said = AutoTokenizer.from_pretrained(out).apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False)
    assert said == "<|im_start|>user\nhi<|im_end|>\n"


def test_a_base_that_is_an_adapter_is_written_first(toys: dict[str, str], merge: Merge, tmp_path: Path) -> None:
    base = f"{toys['base']}+{toys['p']}"
    config = of("ties", toys["a"], base_model=base, parameters={"weight": 1})
    with pytest.raises(InputError) as caught:
        merge(config, "accurate")
    assert f"{{merge_method: passthrough, models: [{{model: {base}}}]}}" in str(caught.value)
    written = tmp_path / "written"
    merge(of("passthrough", base), "accurate").rename(written)
    merge({**config, "base_model": str(written)}, "accurate")


def test_accurate_numerics_leave_a_recipe(toys: dict[str, str], merge: Merge) -> None:
    config = of("linear", f"{toys['base']}+{toys['p']}", toys["a"], parameters={"weight": 1}, out_dtype="bfloat16")
    out = merge(config, "accurate", sources=())
    recipe = load_recipe(out / "recipe.yaml")
    assert recipe.dtype == "bfloat16"
    assert list(recipe.sources) == ["base", "p", "a"]
    sources = [f"{name}={toys[name]}" for name in recipe.sources]
    merge_recipe(out / "recipe.yaml", out.with_name("again"), sources=sources)
    assert fingerprint_checkpoint(out.with_name("again")) == fingerprint_checkpoint(out)


def test_layers_may_be_swapped_in_accurate_numerics(toys: dict[str, str], merge: Merge) -> None:
    config = {"merge_method": "passthrough", "slices": [layers(toys["a"], 0, 1), layers(toys["b"], 1, 2)]}
    merged = load_file(merge(config, "accurate") / "model.safetensors")
    for name, tensor in merged.items():
        of_a = ".0." in name or "embed" in name
        assert torch.equal(tensor, load_file(f"{toys['a' if of_a else 'b']}/model.safetensors")[name])


STACKED = {"models": None, "parameters": {"weight": 1}}


@pytest.mark.parametrize(
    ("method", "keys", "names"),
    [
        ("ties", {"parameters": {"weight": 1, "rescale": True}}, ["`ties` has no `rescale`"]),
        ("task_arithmetic", {"parameters": {"weight": 1, "densty": 0.5}}, ["`density`", "--numerics mergekit"]),
        ("linear", {"parameters": {"weight": 1}, "base_model": {"model": "@base", "override_architecture": "X"}}, []),
        ("linear", {"parameters": {"weight": 1}, "dtype": "float64"}, ["float64"]),
        ("linear", {"parameters": {"weight": 1}, "tokenizer_source": "@b"}, ["the base's vocabulary"]),
        ("linear", {"parameters": {"weight": 1}, "tokenizer": {"pad_to_multiple_of": 8}}, ["pad_to_multiple_of"]),
        ("linear", {"parameters": {"weight": 1}, "base_model": "@base+@p"}, ["adapter's model"]),
        ("linear", {"parameters": {"weight": 1}, "base_model": "@c", "models": ["@base+@p"]}, ["another model than"]),
        ("ties", {"parameters": {"weight": 1, "density": 1.5}}, ["density"]),
        ("linear", {**STACKED, "slices": [("@a", 0, 1), ("@b", 0, 1)]}, ["does not stack", "layers.1."]),
        ("linear", {**STACKED, "slices": [("@a", 0, 1)]}, ["stacks layers of single", "--numerics mergekit"]),
        ("passthrough", {**STACKED, "slices": [("@a", 0, 1)], "parameters": {"scale": 0.5}}, ["nothing else in it"]),
    ],
    ids=lambda value: str(value) if isinstance(value, list) else "",
)  # fmt: skip
def test_what_no_recipe_says_is_named(
    method: str, keys: dict[str, Any], names: list[str], toys: dict[str, str], merge: Merge
) -> None:
    config = {"base_model": "@base", **of(method, "@a", "@b"), **keys}
    if config["models"] is not None:
        config["models"] = [one if isinstance(one, dict) else {"model": one} for one in config["models"]]
    if "slices" in config:
        config["slices"] = [layers(*entry) for entry in config["slices"]]
    text = json.dumps({key: value for key, value in config.items() if value is not None})
    for name, path in toys.items():
        text = text.replace(f'@{name}"', f'{path}"').replace(f"@{name}+", f"{path}+")
    with pytest.raises(InputError) as caught:
        merge(json.loads(text), "accurate")
    assert all(name in str(caught.value) for name in names), str(caught.value)


@pytest.mark.parametrize("factors", [(1.0, 1.0, 1.0), (0.5, 1.0, 2.0)], ids=["as they are", "scaled"])
def test_stacked_layers_are_a_recipe_s_own(
    toys: dict[str, str], merge: Merge, factors: tuple[float, ...], tmp_path: Path
) -> None:
    """Slices of single models, in our arithmetic and mergekit's: the same bits, and a recipe that is slices again."""
    chosen = zip((("a", 0, 2), ("b", 1, 2), ("a", 0, 1)), factors, strict=True)
    config = {
        "merge_method": "passthrough",
        "slices": [scaled(toys[name], *ends, by=by) for (name, *ends), by in chosen],
    }
    ours, theirs = merge(config, "accurate"), merge(config, "mergekit")
    assert fingerprint_checkpoint(ours) == fingerprint_checkpoint(theirs)
    assert AutoModelForCausalLM.from_pretrained(ours).config.num_hidden_layers == 4
    recipe = load_recipe(ours / "recipe.yaml")
    assert [step[:2] for step in recipe.layers] == [("base", 0), ("base", 1), ("b", 1), ("base", 0)]
    assert [step[2] for step in recipe.layers] == [
        1 / factors[0],
        1.0,
        factors[0] / factors[1],
        factors[1] / factors[2],
    ]
    assert bool(recipe.rules) is False, "the last slice's model has the same head"
    again = yaml.safe_load((ours / "mergekit_config.yml").read_text())
    for entry in again["slices"]:
        [source] = entry["sources"]
        source["model"] = toys["b" if source["model"].endswith("b") else "a"]
    again["base_model"] = toys["a"]
    exported = tmp_path / "exported.yml"
    exported.write_text(yaml.safe_dump(again))
    merge_recipe(exported, tmp_path / "exported", numerics="mergekit")
    assert fingerprint_checkpoint(tmp_path / "exported") == fingerprint_checkpoint(ours)


def scaled(model: str, first: int, end: int, *, by: float) -> dict[str, Any]:
    """A slice whose layers add a multiple to their input."""
    entry = layers(model, first, end)
    filters = [{"filter": name, "value": by} for name in ("o_proj", "down_proj")]
    entry["sources"][0]["parameters"] = {"scale": [*filters, {"value": 1.0}]}
    return entry


def test_stacked_layers_make_a_model_that_loads(toys: dict[str, str], merge: Merge, tmp_path: Path) -> None:
    base = make_checkpoint(tmp_path / "qwen", architecture="qwen3", num_layers=2)
    config = {"merge_method": "passthrough", "slices": [layers(str(base), 0, 2), layers(str(base), 1, 2)]}
    out = merge({**config, "chat_template": "{% for m in messages %}{{ m.content }}{% endfor %}"})
    model = AutoModelForCausalLM.from_pretrained(out)
    assert model.config.num_hidden_layers == len(model.config.layer_types) == 3
    assert model.config.tie_word_embeddings
    assert (out / "mergekit_config.yml").read_text() == (tmp_path / "merge.yml").read_text()
    said = AutoTokenizer.from_pretrained(out).apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False)
    assert said == "hi"
    record = json.loads((out / "crossbreed.json").read_text())
    assert record["fingerprint"] == fingerprint_checkpoint(out)
    assert list(record["sources"]) == ["qwen"]


def test_a_head_of_its_own_unties_the_configuration(toys: dict[str, str], merge: Merge, tmp_path: Path) -> None:
    untied = make_checkpoint(tmp_path / "untied", num_layers=2, tied=False, dtype=torch.float32)
    out = merge(of("linear", str(untied), base_model=toys["base"], parameters={"weight": 1}))
    assert json.loads((out / "config.json").read_text())["tie_word_embeddings"] is False
    head = load_file(out / "model.safetensors")["lm_head.weight"]
    embedding = load_file(f"{toys['base']}/model.safetensors")["model.embed_tokens.weight"]
    assert torch.allclose(head, (load_file(untied / "model.safetensors")["lm_head.weight"] + embedding) / 2)


def test_a_configuration_as_it_was_is_written_as_it_was(toys: dict[str, str], merge: Merge, tmp_path: Path) -> None:
    """Whatever it holds: the folder that it was loaded from, infinity, keys that transformers understands otherwise."""
    donor = Path(shutil.copytree(toys["a"], tmp_path / "donor"))
    config = json.loads((donor / "config.json").read_text())
    odd = {"attention_bias": True, "limit": {"__float__": "Infinity"}}
    (donor / "config.json").write_text(json.dumps({**config, **odd, "_name_or_path": "/home/somebody/model"}))
    out = merge(of("linear", str(donor), toys["b"], parameters={"weight": 1}))
    written = json.loads((out / "config.json").read_text())
    assert {key: written[key] for key in odd} == odd
    assert "_name_or_path" not in written


@pytest.mark.parametrize("content", ["{}", '{"model": {"type": "Nope"}}', '{"version": '])
def test_a_broken_tokenizer_is_named(content: str, toys: dict[str, str], merge: Merge, tmp_path: Path) -> None:
    broken = Path(shutil.copytree(toys["b"], tmp_path / "broken"))
    (broken / "tokenizer.json").write_text(content)
    with pytest.raises(InputError, match="cannot read a ") as caught:
        merge(of("linear", toys["a"], str(broken), parameters={"weight": 1}, tokenizer_source="union"))
    assert caught.value.where.startswith(str(broken))


def test_a_record_names_no_folder_of_the_machine(toys: dict[str, str], merge: Merge, tmp_path: Path) -> None:
    """Models are named by the last parts of their paths; two of one name are told apart."""
    other = shutil.copytree(toys["b"], tmp_path / "other" / "a")
    models = [toys["a"], str(other), f"{toys['base']}+{toys['p']}"]
    record = (merge(of("linear", *models, parameters={"weight": 1})) / "crossbreed.json").read_text()
    assert list(json.loads(record)["sources"]) == ["a", "a (2)", "base+p"]
    assert str(Path(toys["a"]).parent) not in record
    assert str(tmp_path) not in record


def test_random_masks_are_the_same_every_time(toys: dict[str, str], merge: Merge) -> None:
    config = of("dare_linear", toys["a"], base_model=toys["base"], parameters={"weight": 1, "density": 0.5})
    first = merge(config)
    base, expert, merged = (load_file(f"{f}/model.safetensors") for f in (toys["base"], toys["a"], first))
    name = "model.layers.0.mlp.up_proj.weight"
    kept = (merged[name] != base[name]).float().mean()
    assert (expert[name] != base[name]).all()
    assert kept.item() == pytest.approx(0.5, abs=4 * math.sqrt(0.25 / base[name].numel()))
    shutil.move(first, first.with_name("first"))
    assert fingerprint_checkpoint(merge(config)) == fingerprint_checkpoint(first.with_name("first"))


@pytest.mark.parametrize("numerics", ["mergekit", "accurate"])
@pytest.mark.parametrize("method", ["linear", "multislerp"])
def test_weights_that_cancel_are_refused_before_anything_is_written(
    method: str, numerics: str, toys: dict[str, str], merge: Merge, tmp_path: Path
) -> None:
    parameters = [{"weight": 1}, {"weight": -1}]
    models = [{"model": toys[name], "parameters": weight} for name, weight in zip("ab", parameters, strict=True)]
    with pytest.raises(InputError, match=rf"(?s)the weights of `{method}` sum to 0.*b: -1.*normalize.*false"):
        merge({"merge_method": method, "models": models}, numerics)
    assert [file.name for file in tmp_path.iterdir()] == ["merge.yml"]


def test_so_are_those_of_a_recipe(toys: dict[str, str], merge: Merge, tmp_path: Path) -> None:
    out = merge(of("linear", toys["a"], toys["b"], parameters={"weight": 1}), "accurate")
    recipe = yaml.safe_load((out / "recipe.yaml").read_text())
    recipe["rules"][0]["params"]["weight"] = {"base": 1, "b": -1}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    with pytest.raises(InputError, match="sum to 0"):
        merge_recipe(tmp_path / "recipe.yaml", tmp_path / "again", sources=[f"base={toys['a']}", f"b={toys['b']}"])
    assert not (tmp_path / "again").exists()


def test_an_overflow_is_refused_and_leaves_nothing(toys: dict[str, str], merge: Merge, tmp_path: Path) -> None:
    parameters = {"weight": 1e30, "normalize": False}
    with pytest.raises(InvalidWeights, match="embed_tokens"):
        merge(of("linear", toys["a"], toys["b"], parameters=parameters, out_dtype="float16"))
    assert not (tmp_path / "mergekit").exists()


def changed(model: str, folder: Path, **config: Any) -> str:
    shutil.copytree(model, folder)
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))
    return str(folder)


def test_models_that_are_not_merged_are_named(toys: dict[str, str], merge: Merge, tmp_path: Path) -> None:
    mixture = changed(toys["a"], tmp_path / "mixture", num_local_experts=8)
    seeing = changed(toys["a"], tmp_path / "seeing", vision_config={"depth": 2})
    other = changed(toys["a"], tmp_path / "other", model_type="mistral")
    wanted = {
        mixture: "mixture of experts",
        seeing: "vision_config",
        other: "another architecture",
        toys["p"]: "is an adapter",
        f"{toys['base']}+{toys['a']}": "adapter_config.json",
    }
    for model, problem in wanted.items():
        with pytest.raises(InputError, match=problem):
            merge(of("linear", toys["b"], model, parameters={"weight": 1}))


def test_a_buffer_that_differs_is_named(toys: dict[str, str], merge: Merge, tmp_path: Path) -> None:
    for name in "ab":
        folder = tmp_path / name
        shutil.copytree(toys[name], folder)
        weights = load_file(folder / "model.safetensors")
        weights["model.position_ids"] = torch.arange(4) + (name == "b")
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"model\.position_ids"):
        merge(of("karcher", str(tmp_path / "a"), str(tmp_path / "b")))
    out = merge(of("karcher", str(tmp_path / "a")))
    assert torch.equal(load_file(out / "model.safetensors")["model.position_ids"], torch.arange(4))


def test_a_token_s_row_must_be_there(toys: dict[str, str], merge: Merge) -> None:
    def tokenizer(token: str, source: Any) -> dict[str, Any]:
        tokens = {token: {"source": source}}
        return of("linear", toys["a"], toys["b"], parameters={"weight": 1}, tokenizer={"tokens": tokens})

    for token, source, problem in (
        ("<new>", toys["a"], "has no token `<new>`"),
        ("<new>", None, "`<new>` has no source"),
        ("a", toys["c"], "another model"),
        ("a", {"kind": "model_token", "model": toys["a"], "token": "<none>"}, "no token `<none>`"),
        ("a", {"kind": "model_token", "model": toys["a"], "token_id": 272}, "no row 272"),
    ):
        with pytest.raises(InputError, match=problem):
            merge(tokenizer(token, source))
    with pytest.raises(InputError, match="there is no base"):
        merge(of("linear", toys["a"], parameters={"weight": 1}, tokenizer_source="base"))


def test_the_command_line_says_how_adapters_are_rounded(toys: dict[str, str], tmp_path: Path) -> None:
    path, out = tmp_path / "merge.yml", tmp_path / "out"
    path.write_text(yaml.safe_dump(of("passthrough", f"{toys['base']}+{toys['p']}")))
    options = ["--numerics", "mergekit", "--lora-merge-dtype", "float16"]
    done = CliRunner().invoke(app, ["merge", str(path), "--out", str(out), *options])
    assert done.exit_code == 0, done.output
    assert {tensor.dtype for tensor in load_file(out / "model.safetensors").values()} == {torch.float16}
    assert json.loads((out / "config.json").read_text())["dtype"] == "float16"


def test_options_that_mean_nothing_are_refused(toys: dict[str, str], merge: Merge, tmp_path: Path) -> None:
    config = of("linear", toys["a"], parameters={"weight": 1})
    with pytest.raises(InputError, match="--lora-merge-dtype"):
        merge(config, "accurate", lora_dtype="float32")
    with pytest.raises(InputError, match="--source"):
        merge(config, sources=["a=b"])
    out = merge(config, "accurate")
    with pytest.raises(InputError, match="mergekit's numerics are not available for recipes"):
        merge_recipe(out / "recipe.yaml", tmp_path / "x", numerics="mergekit")


def test_idle_parameters_are_told(toys: dict[str, str], merge: Merge) -> None:
    events: list[Event] = []
    out = merge(of("karcher", toys["a"], parameters={"weight": 1}), on_event=events.append)
    told, written = map(str, events)
    assert "karcher does not use weight" in told
    assert written == f"wrote {out}, fingerprint {fingerprint_checkpoint(out)}"
