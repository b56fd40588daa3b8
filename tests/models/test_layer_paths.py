"""Paths of layers through tiny models of many architectures: what is folded, idle or published computes rightly."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf

from crossbreed.errors import InputError
from crossbreed.fitness import Loglikelihood, Prompt
from crossbreed.fitness.engines import TransformersConfig, build_engine
from crossbreed.kernels import check_recipe, materialize
from crossbreed.runs.publishing.checkpoint import Merge, write_checkpoint
from crossbreed.sources import Sources, open_sources
from crossbreed.sources.depth import filling, require_depth, write_host
from crossbreed.sources.output_tensors import PRE_NORM
from crossbreed.testing.tiny_models import ARCHITECTURES, make_model
from crossbreed.types import BASE, LayerStep, Recipe

ALWAYS = ("llama", "mistral", "qwen2", "gpt2")
KINDS = [
    pytest.param(name, marks=[] if name in ALWAYS else pytest.mark.slow)
    for name in ARCHITECTURES
    if ARCHITECTURES[name]().model_type in PRE_NORM
]
LAYERS = 3
PATH: tuple[LayerStep, ...] = ((BASE, 0, 1.0), ("other", 1, 0.6), ("other", 1, 1.5), (BASE, 2, 1.3), ("other", 0, 0.8))
REQUESTS = [Loglikelihood(prompt=Prompt(text="What is it?"), continuation=" A path of layers.")]
Opened = Callable[[str], Sources]


def _depth(name: str) -> dict[str, Any]:
    key = "n_layer" if "n_layer" in ARCHITECTURES[name]().to_dict() else "num_hidden_layers"
    return {key: LAYERS}


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Opened:
    """Opens two random models of an architecture, in fp32."""
    found: dict[str, Sources] = {}

    def sources(name: str) -> Sources:
        if name not in found:
            folder = tmp_path_factory.mktemp(name)
            one, other = (make_model(name, folder / str(seed), seed=seed, **_depth(name)) for seed in (0, 1))
            found[name] = open_sources(str(one), {"other": str(other)})
        return found[name]

    return sources


def recipe_of(sources: Sources, layers: tuple[LayerStep, ...] = PATH, dtype: str = "float32") -> Recipe:
    return Recipe(base=BASE, sources=sources.structure.hashes, rules=(), layers=layers, dtype=dtype)


def write(sources: Sources, recipe: Recipe, out: Path) -> Path:
    write_checkpoint(Merge(recipe=recipe, sources=sources, stream_factory=lambda: materialize(recipe, sources)), out)
    return out


def logprobs(sources: Sources, recipe: Recipe, host: Path, *, depth: int | None = None) -> tuple[float, ...]:
    engine = build_engine(TransformersConfig(kind="transformers"), host)
    stream = materialize(recipe, sources)
    handle = engine.adopt(recipe, stream if depth is None else filling(recipe, sources, depth).filled(stream))
    return tuple(handle.answer(REQUESTS)[0].logprobs)


@pytest.mark.parametrize("name", KINDS)
def test_idle_layers_change_no_log_probability(name: str, opened: Opened, tmp_path: Path) -> None:
    """Not a bit of it: neither in an engine's model, nor beside the published one at its true depth."""
    sources = opened(name)
    require_depth(sources, 8)
    recipe = recipe_of(sources)
    (tmp_path / "host").mkdir()
    host, published = write_host(sources, 8, tmp_path / "host"), write(sources, recipe, tmp_path / "out")
    assert tf.AutoConfig.from_pretrained(published).num_hidden_layers == len(PATH)
    assert tf.AutoConfig.from_pretrained(host).num_hidden_layers == 8
    filled = logprobs(sources, recipe, host, depth=8)
    assert filled == logprobs(sources, recipe, published)
    plain = recipe_of(sources, ())
    assert logprobs(sources, plain, host, depth=8) == logprobs(sources, plain, sources.base.path)
    assert filled != logprobs(sources, plain, host, depth=8)


def without_eps(model: torch.nn.Module) -> torch.nn.Module:
    """Takes the eps out of all norms, so that they take no notice of a factor at all."""
    for module in model.modules():
        for name in ("variance_epsilon", "eps"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 1e-30)
    return model


def layers_of(model: torch.nn.Module) -> torch.nn.ModuleList:
    [found] = [m for m in model.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == len(PATH)]
    return found


def scaled_explicitly(model: torch.nn.Module, scales: list[float]) -> torch.nn.Module:
    """Multiplies the hidden state that each layer reads, as the paper does."""
    for layer, scale in zip(layers_of(model), scales, strict=True):

        def multiply(_: object, args: tuple[Any, ...], kwargs: Mapping[str, Any], scale: float = scale) -> Any:
            if args:
                return (scale * args[0], *args[1:]), kwargs
            return args, {**kwargs, "hidden_states": scale * kwargs["hidden_states"]}

        layer.register_forward_pre_hook(multiply, with_kwargs=True)
    return model


@pytest.mark.parametrize("name", [kind for kind in KINDS if kind.values != ("olmo",)])  # its eps is written in its code
def test_folded_scales_are_scaled_hidden_states(name: str, opened: Opened, tmp_path: Path) -> None:
    sources = opened(name)
    scales = [scale for *_, scale in PATH]
    plain = recipe_of(sources, tuple((source, number, 1.0) for source, number, _ in PATH))
    folders = write(sources, recipe_of(sources), tmp_path / "folded"), write(sources, plain, tmp_path / "plain")
    folded, explicit, unscaled = (
        without_eps(tf.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval())
        for folder in (*folders, folders[1])
    )
    scaled_explicitly(explicit, scales)
    ids = torch.arange(24)[None] * 7 % 256
    with torch.inference_mode():
        one, other, third = (model(ids).logits.log_softmax(-1) for model in (folded, explicit, unscaled))
    assert (one - other).abs().max() < 1e-5
    assert (one - third).abs().max() > 1e-2, "scales change something"


def test_a_norm_s_eps_is_all_that_separates_them(opened: Opened, tmp_path: Path) -> None:
    """Folded layers read with eps what scaled ones would read with eps times the square of the product of scales."""
    sources, product = opened("llama"), 1.0
    plain = recipe_of(sources, tuple((source, number, 1.0) for source, number, _ in PATH))
    folders = write(sources, recipe_of(sources), tmp_path / "folded"), write(sources, plain, tmp_path / "plain")
    folded, explicit = (tf.AutoModelForCausalLM.from_pretrained(folder).eval() for folder in folders)
    scales = [scale for *_, scale in PATH]
    for layer, scale in zip(layers_of(scaled_explicitly(explicit, scales)), scales, strict=True):
        product *= scale
        for norm in (layer.input_layernorm, layer.post_attention_layernorm):
            norm.variance_epsilon *= product**2
    explicit.model.norm.variance_epsilon *= product**2
    ids = torch.arange(24)[None] * 7 % 256
    with torch.inference_mode():
        one, other = (model(ids).logits.log_softmax(-1) for model in (folded, explicit))
    assert (one - other).abs().max() < 1e-5


REFUSED = {
    "gemma2": "once more",
    "gemma3_text": "once more",
    "olmo2": "without a norm",
    "exaone4": "without a norm",
    "openai-gpt": "itself after each layer",
    "mamba": "with a state",
    "deepseek_v3": "not known here",
}


@pytest.mark.parametrize("name", REFUSED)
def test_other_architectures_are_refused_by_name(name: str, tmp_path: Path) -> None:
    sources = open_sources(str(make_model(name, tmp_path / "base")), {})
    with pytest.raises(InputError, match=REFUSED[name]) as refused:
        require_depth(sources, 8)
    assert sources.base.config["model_type"] in str(refused.value)
    with pytest.raises(InputError, match=REFUSED[name]):
        check_recipe(recipe_of(sources, ((BASE, 0, 0.9),)), sources)
    check_recipe(recipe_of(sources, ((BASE, 1, 1.0), (BASE, 0, 1.0))), sources)


def test_layers_that_are_not_alike_cannot_fill_up_a_model(tmp_path: Path) -> None:
    """An engine's model has its lists from the start; the published one's follow the path."""
    base = make_model("smollm3", tmp_path / "base", num_hidden_layers=4, no_rope_layers=[1, 1, 1, 0])
    sources = open_sources(str(base), {})
    with pytest.raises(InputError, match="no_rope_layers"):
        require_depth(sources, 6)
    recipe = recipe_of(sources, ((BASE, 3, 1.0), (BASE, 0, 1.0), (BASE, 3, 1.0)))
    published = tf.AutoConfig.from_pretrained(write(sources, recipe, tmp_path / "out"))
    assert published.no_rope_layers == [0, 1, 0]


def test_a_layer_that_the_base_does_not_have_is_refused(opened: Opened) -> None:
    sources = opened("llama")
    with pytest.raises(InputError, match="layers from 0 to 2"):
        check_recipe(recipe_of(sources, ((BASE, 3, 1.0),)), sources)
