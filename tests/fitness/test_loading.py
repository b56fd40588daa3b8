"""Every architecture's checkpoint is loaded tensor by tensor as `from_pretrained` loads it."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers as tf
from safetensors.torch import load_file, save_file
from transformers.core_model_loading import revert_weight_conversion

from crossbreed.errors import EngineError, InputError
from crossbreed.fitness import Generate, Loglikelihood, Prompt, TransformersConfig, build_engine
from crossbreed.fitness.engines.loading import check_places
from crossbreed.fitness.engines.transformers import TransformersEngine
from crossbreed.testing.tiny_models import ARCHITECTURES, make_model
from crossbreed.testing.toys import load_weights
from crossbreed.types import Recipe

RECIPE = Recipe(base="base", sources={"base": "hash"}, rules=())
ASKED = Generate(prompt=Prompt(text="ab cd"), max_tokens=6)
SCORED = Loglikelihood(prompt=Prompt(text="ab"), continuation=" cd ef")
OTHERWISE_IN_MEMORY = ("gpt_neox", "mixtral", "deepseek_v3", "mamba", "rwkv", "falcon_h1", "bloom")
"""These are tried by default; the others are slow together."""


def architectures() -> list[object]:
    return [
        name if name in OTHERWISE_IN_MEMORY else pytest.param(name, marks=pytest.mark.slow) for name in ARCHITECTURES
    ]


def engine_on(folder: Path) -> TransformersEngine:
    engine = build_engine(TransformersConfig(kind="transformers", max_model_len=64), folder)
    assert isinstance(engine, TransformersEngine)
    return engine


def shapes_of(folder: Path) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in load_weights(folder).items()}


def assert_is_loaded_as_transformers_does(folder: Path) -> None:
    weights, engine = load_weights(folder), engine_on(folder)
    check_places(folder, shapes_of(folder))
    handle = engine.adopt(RECIPE, iter(weights.items()))
    model = tf.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    loaded = engine._model.state_dict()
    assert [name for name, tensor in model.state_dict().items() if not torch.equal(tensor, loaded[name])] == []

    prompt = list(engine._encoder.encode(ASKED).token_ids)
    [answer] = handle.answer([ASKED])
    ids = prompt + list(answer.token_ids)
    with torch.no_grad():
        logits_TV = model(torch.tensor([ids]), use_cache=False).logits[0]
    assert logits_TV[len(prompt) - 1 : -1].argmax(-1).tolist() == list(answer.token_ids)
    logprobs = logits_TV.log_softmax(-1)[range(len(prompt) - 1, len(ids) - 1), ids[len(prompt) :]]
    assert answer.logprobs == pytest.approx(logprobs.tolist(), abs=1e-4)


@pytest.mark.parametrize("name", architectures())
def test_tensors_of_a_file_find_their_places(name: str, tmp_path: Path) -> None:
    assert_is_loaded_as_transformers_does(make_model(name, tmp_path))


@pytest.mark.parametrize(
    ("name", "renamed"),
    [
        ("gpt2", lambda name: name.removeprefix("transformer.")),
        ("bloom", lambda name: name.removeprefix("transformer.")),
        ("llama", lambda name: name.removeprefix("model.")),
        ("qwen3_moe", lambda name: name.removeprefix("model.")),
    ],
)
def test_files_of_the_model_without_its_head_load(name: str, renamed: Callable[[str], str], tmp_path: Path) -> None:
    folder = make_model(name, tmp_path, tie_word_embeddings=True)
    weights = {renamed(name): tensor for name, tensor in load_weights(folder).items()}
    if name == "gpt2":
        weights |= {f"h.{i}.attn.bias": torch.ones(1, 1, 64, 64) for i in range(2)}  # as on the hub
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert_is_loaded_as_transformers_does(folder)


@pytest.mark.parametrize("name", ["llama", "gpt_neox", "mixtral", "deepseek_v3"])
def test_a_gradient_is_that_of_the_checkpoints_tensors(name: str, tmp_path: Path) -> None:
    folder = make_model(name, tmp_path)
    engine = engine_on(folder)
    engine.adopt(RECIPE, iter(load_weights(folder).items()))
    found = dict(engine.gradient([SCORED], [2.0], tokens=64))
    assert list(found) == sorted(found)
    assert all(parameter.grad is None for parameter in engine._model.parameters())

    model = tf.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    encoded = engine._encoder.encode(SCORED)
    ids = torch.tensor(encoded.token_ids)
    logits_TV = model(ids[None], use_cache=False).logits[0, encoded.num_prompt - 1 : -1]
    (2 * torch.nn.functional.cross_entropy(logits_TV, ids[encoded.num_prompt :])).backward()
    gradients = {name: tensor.grad for name, tensor in model.named_parameters() if tensor.grad is not None}
    expected = revert_weight_conversion(model, gradients)
    assert found.keys() == expected.keys()
    for tensor in found:
        torch.testing.assert_close(found[tensor], expected[tensor], rtol=1e-4, atol=1e-6)


def test_kept_tensors_of_a_stack_stay(tmp_path: Path) -> None:
    folder = make_model("mixtral", tmp_path, num_experts_per_tok=4)
    weights, engine = load_weights(folder), engine_on(folder)
    before = engine.adopt(RECIPE, iter(weights.items())).answer([ASKED, SCORED])
    changed = next(name for name in weights if "experts.1.w3" in name)
    assert engine.keeps(weights.keys()) == weights.keys()
    for value in (torch.zeros_like(weights[changed]), weights[changed]):
        kept = weights.keys() - {changed}
        handle = engine.adopt(RECIPE, iter([(changed, value)]), kept=kept)
        assert (handle.answer([ASKED, SCORED]) == before) is bool(value.any())


def test_what_has_no_place_or_no_weights_is_refused(tmp_path: Path) -> None:
    folder = make_model("mixtral", tmp_path)
    shapes = shapes_of(folder)
    one = next(name for name in shapes if "experts.1.w3" in name)
    with pytest.raises(InputError, match=r"no place for the checkpoint's `model.layers.0.other.weight`"):
        check_places(folder, {**shapes, "model.layers.0.other.weight": (2, 2)})
    with pytest.raises(InputError, match=r"no place for the checkpoint's .*experts.9"):
        check_places(folder, {**shapes, one.replace("experts.1", "experts.9"): shapes[one]})
    with pytest.raises(InputError, match=rf"no place for the checkpoint's `{one}`"):
        check_places(folder, {**shapes, one: (3, 3)})
    with pytest.raises(InputError, match=r"no weights for the model's `model.layers.0.mlp.experts.gate_up_proj`"):
        check_places(folder, {name: shape for name, shape in shapes.items() if name != one})
    with pytest.raises(InputError, match=r"no Grams of the inputs of `.*experts.1.w3.weight`"):
        check_places(folder, shapes, linears=[one])


def test_two_tensors_in_one_place_must_agree(tmp_path: Path) -> None:
    weights = load_weights(make_model("bloom", tmp_path))
    embeddings = weights["transformer.word_embeddings.weight"]
    engine = engine_on(tmp_path)
    engine.adopt(RECIPE, iter({"lm_head.weight": embeddings, **weights}.items()))
    with pytest.raises(EngineError, match=r"the model ties `transformer.word_embeddings.weight` to `lm_head.weight`"):
        engine.adopt(RECIPE, iter({"lm_head.weight": embeddings + 1, **weights}.items()))


def test_a_model_whose_answers_change_its_weights_does_not(tmp_path: Path) -> None:
    folder = make_model("rwkv", tmp_path, rescale_every=1)
    weights, engine = load_weights(folder), engine_on(folder)
    first, second = (engine.adopt(RECIPE, iter(weights.items())).answer([ASKED, SCORED]) for _ in range(2))
    assert first == second


def test_the_models_own_code_is_not_run(tmp_path: Path) -> None:
    folder = make_model("llama", tmp_path)
    shutil.copyfile(__file__, folder / "modeling.py")
    (folder / "config.json").write_text('{"model_type": "mine", "auto_map": {"AutoConfig": "modeling.C"}}')
    with pytest.raises(InputError, match="cannot read the model's configuration"):
        check_places(folder, load_file(folder / "model.safetensors"))
