import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from crossbreed.errors import EngineError, InputError, InvalidWeights
from crossbreed.fitness import Generate, Loglikelihood, Prompt, Request, TransformersConfig, build_engine, check_swap
from crossbreed.fitness.engines.encoder import Encoder, TooLong, check_tasks
from crossbreed.fitness.engines.loading import check_places
from crossbreed.fitness.engines.transformers import TransformersEngine
from crossbreed.fitness.items import Item
from crossbreed.fitness.tasks import GenerateTask, PerplexityTask, Task
from crossbreed.sources.tokenization import load_tokenizer
from crossbreed.types import Recipe, WeightStream

BASE, EXPERT = (Recipe(base="base", sources={"base": name}, rules=()) for name in ("hash-base", "hash-expert"))
REQUESTS: list[Request] = [
    Generate(prompt=Prompt(text="34 + 12 ="), max_tokens=12),
    Generate(prompt=Prompt(text="hello", chat=True, system="Be brief."), max_tokens=5),
    Loglikelihood(prompt=Prompt(text="The capital of France is"), continuation=" Paris"),
    Loglikelihood(prompt=Prompt(text=""), continuation="Once upon a time"),
]


@pytest.fixture
def folders(toy_base: Path, toy_experts: dict[str, Path]) -> dict[str, Path]:
    return {BASE.id: toy_base, EXPERT.id: toy_experts["everything"]}


@pytest.fixture
def engine(folders: dict[str, Path]) -> TransformersEngine:
    built = build_engine(TransformersConfig(kind="transformers"), folders[BASE.id])
    assert isinstance(built, TransformersEngine)
    return built


def stream(folder: Path) -> WeightStream:
    return iter(sorted(load_file(folder / "model.safetensors").items()))


def test_answers_are_those_of_transformers_itself(engine: TransformersEngine, folders: dict[str, Path]) -> None:
    model = AutoModelForCausalLM.from_pretrained(folders[EXPERT.id], dtype=torch.float32)
    encoder = Encoder(folders[BASE.id])
    handle = engine.adopt(EXPERT, stream(folders[EXPERT.id]))
    for request, response in zip(REQUESTS, handle.answer(REQUESTS), strict=True):
        encoded = encoder.encode(request)
        ids = encoded.token_ids
        if isinstance(request, Generate):
            tensor = torch.tensor([ids])
            ids = tuple(model.generate(tensor, max_new_tokens=request.max_tokens, do_sample=False)[0].tolist())
        assert response.token_ids == ids[encoded.num_prompt :]
        with torch.inference_mode():
            logprobs_TV = model(torch.tensor([ids])).logits[0].log_softmax(-1)
        expected = [logprobs_TV[i - 1, ids[i]].item() for i in range(encoded.num_prompt, len(ids))]
        assert response.logprobs == pytest.approx(expected, abs=1e-4)  # fp32, sums in another order


IN_THE_FILE = {
    "return_dict": False,
    "use_cache": False,
    "attn_implementation": "somebody/attention",
    "_attn_implementation": "somebody/attention",
    "experts_implementation": "somebody/experts",
    "use_kernels": True,
    "kernel_config": {"RMSNorm": "somebody/norms:Norm"},
    "auto_map": {"AutoModelForCausalLM": "somebody/model--code.Model"},
}
"""What may stand in config.json and is not for it to say: how a model is computed, and what a call returns."""


def test_a_file_does_not_say_by_whose_code_a_model_is_computed(
    engine: TransformersEngine, folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """transformers fetches an implementation `org/name` from the hub, whatever `trust_remote_code` says."""
    fetched: list[object] = []
    monkeypatch.setattr("transformers.modeling_utils.lazy_import_flash_attention", lambda *a, **_: fetched.append(a))
    right = engine.adopt(BASE, stream(folders[BASE.id])).answer(REQUESTS)
    shutil.copytree(folders[BASE.id], tmp_path, dirs_exist_ok=True)
    config = json.loads((tmp_path / "config.json").read_text())
    scored = [request for request in REQUESTS if isinstance(request, Loglikelihood)]
    for keys in ({"output_attentions": True, "output_hidden_states": True}, IN_THE_FILE):
        (tmp_path / "config.json").write_text(json.dumps({**config, **keys}))
        check_places(tmp_path, {name: tensor.shape for name, tensor in stream(tmp_path)})
        same = build_engine(TransformersConfig(kind="transformers"), tmp_path)
        assert isinstance(same, TransformersEngine)
        assert same.adopt(BASE, stream(tmp_path)).answer(REQUESTS) == right
        assert same.truth_of(stream(tmp_path), scored) == engine.truth_of(stream(tmp_path), scored)
        assert [name for name, _ in same.gradient(scored, [1.0] * len(scored), tokens=64)]
    assert not fetched


def test_a_model_that_its_own_code_cannot_run_is_refused_before_it_is_asked(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    shutil.copytree(folders[BASE.id], tmp_path, dirs_exist_ok=True)
    config = json.loads((tmp_path / "config.json").read_text())
    sliding = {"layer_types": ["sliding_attention"] * config["num_hidden_layers"]}
    (tmp_path / "config.json").write_text(json.dumps({**config, **sliding}))
    with pytest.raises(InputError, match="cannot run it") as caught:
        check_places(tmp_path, {name: tensor.shape for name, tensor in stream(tmp_path)})
    assert "sliding_window" in caught.value.got
    engine = build_engine(TransformersConfig(kind="transformers"), tmp_path)
    assert isinstance(engine, TransformersEngine)
    handle = engine.adopt(BASE, stream(tmp_path))
    for request in REQUESTS:
        with pytest.raises(EngineError, match="cannot run the model of this configuration: AttributeError"):
            handle.answer([request])


def test_weights_come_and_go_without_a_trace(engine: TransformersEngine, folders: dict[str, Path]) -> None:
    check_swap(engine, BASE, EXPERT, lambda recipe: stream(folders[recipe.id]), REQUESTS)


def test_a_stop_ends_a_text_and_is_not_in_it(engine: TransformersEngine, folders: dict[str, Path]) -> None:
    handle = engine.adopt(BASE, stream(folders[BASE.id]))
    [free] = handle.answer([Generate(prompt=Prompt(text="a"), max_tokens=12)])
    stop = free.text[4]
    [stopped] = handle.answer([Generate(prompt=Prompt(text="a"), max_tokens=12, stop=("never said", stop))])
    assert stopped.text == free.text[: free.text.index(stop)]
    assert len(stopped.token_ids) == len(stopped.logprobs) < 12
    assert stopped.text_tokens == len(stopped.token_ids) - 1  # one byte a token
    assert (free.text_tokens, free.ended) == (12, "length")


def test_the_models_own_end_ends_a_text(engine: TransformersEngine, folders: dict[str, Path]) -> None:
    ending = {name: torch.zeros_like(tensor) for name, tensor in stream(folders[BASE.id])}  # all logits equal: token 0
    handle = engine.adopt(BASE, iter(ending.items()))
    engine._encoder.eos_ids = frozenset({0})
    [response] = handle.answer([Generate(prompt=Prompt(text="a"), max_tokens=9)])
    assert response.token_ids == (0,)
    assert response.logprobs == pytest.approx((-math.log(272),))


def test_sampling_repeats_with_its_seed(engine: TransformersEngine, folders: dict[str, Path]) -> None:
    handle = engine.adopt(BASE, stream(folders[BASE.id]))
    one, same, other = handle.answer(
        [Generate(prompt=Prompt(text="a"), max_tokens=20, temperature=1.0, seed=seed) for seed in (1, 1, 2)]
    )
    assert one == same
    assert one.token_ids != other.token_ids


def test_an_adopted_candidate_answers_for_no_other(engine: TransformersEngine, folders: dict[str, Path]) -> None:
    old = engine.adopt(BASE, stream(folders[BASE.id]))
    engine.adopt(EXPERT, stream(folders[EXPERT.id]))
    with pytest.raises(EngineError, match="weights are gone"):
        old.answer(REQUESTS)


def test_a_broken_stream_passes_through_and_the_next_one_counts(
    engine: TransformersEngine, folders: dict[str, Path]
) -> None:
    expected = engine.adopt(BASE, stream(folders[BASE.id])).answer(REQUESTS)
    with pytest.raises(InvalidWeights, match="NaN in layer 1"):
        engine.adopt(EXPERT, torn(folders[EXPERT.id]))
    assert engine.adopt(BASE, stream(folders[BASE.id])).answer(REQUESTS) == expected


def torn(folder: Path) -> Iterator[tuple[str, torch.Tensor]]:
    for number, item in enumerate(stream(folder)):
        if number == 7:
            raise InvalidWeights("NaN in layer 1")
        yield item


def test_weights_of_another_model_are_refused(engine: TransformersEngine, folders: dict[str, Path]) -> None:
    tensors = dict(stream(folders[BASE.id]))
    with pytest.raises(EngineError, match="there are no weights for"):
        engine.adopt(BASE, iter(list(tensors.items())[:-1]))
    with pytest.raises(EngineError, match=r"no place for the checkpoint's `model.norm.weight`\n.*\[7\]"):
        engine.adopt(BASE, iter([("model.norm.weight", torch.ones(7))]))


def test_a_continuations_tokens_are_the_whole_texts_after_the_prompts(folders: dict[str, Path]) -> None:
    encoder = Encoder(folders[BASE.id])
    encoded = encoder.encode(Loglikelihood(prompt=Prompt(text="ab"), continuation=" cd"))
    assert (encoder.decode(encoded.token_ids), encoded.num_prompt) == ("ab cd", 2)
    alone = encoder.encode(Loglikelihood(prompt=Prompt(text=""), continuation="abc"))
    assert (encoder.decode(alone.token_ids), alone.num_prompt) == ("abc", 1)
    with pytest.raises(InputError, match="too short to score"):
        encoder.encode(Loglikelihood(prompt=Prompt(text=""), continuation="a"))


def test_a_chat_is_rendered_by_the_template(folders: dict[str, Path]) -> None:
    encoder = Encoder(folders[BASE.id])
    chat = Prompt(text="hello", chat=True, system="Be brief.")
    encoded = encoder.encode(Loglikelihood(prompt=chat, continuation="yes"))
    assert encoder.decode(encoded.token_ids) == "<|system|>Be brief.\n<|user|>hello\n<|assistant|>yes"
    assert encoder.decode(encoded.token_ids[encoded.num_prompt :]) == "yes"
    encoder.tokenizer = load_tokenizer(folders[BASE.id])  # its own: encoders share one
    encoder.tokenizer.chat_template = None
    with pytest.raises(InputError, match="no chat template"):
        encoder.encode(Generate(prompt=chat, max_tokens=1))


def test_what_does_not_fit_the_context_is_refused_and_found_by_check(folders: dict[str, Path]) -> None:
    encoder = Encoder(folders[BASE.id], max_model_len=10)
    encoder.encode(Generate(prompt=Prompt(text="x" * 6), max_tokens=4))
    with pytest.raises(TooLong, match="needs 11 tokens"):
        encoder.encode(Generate(prompt=Prompt(text="x" * 7), max_tokens=4))
    items = tuple(Item(id=str(n), fields={"text": "x" * n}) for n in (511, 512))
    task = Task(kind=PerplexityTask(kind="perplexity", name="prose", items=""), items=items)
    with pytest.raises(InputError, match="item `512` does not fit"):
        check_tasks([task], folders[BASE.id], max_model_len=None)


def test_turns_of_a_chat_are_rendered_in_order(folders: dict[str, Path]) -> None:
    encoder = Encoder(folders[BASE.id])
    chat = Prompt(text="two", chat=True, system="Brief.", turns=(("user", "one"), ("assistant", "yes")))
    text = encoder.decode(encoder.encode(Generate(prompt=chat, max_tokens=1)).token_ids)
    places = [text.index(part) for part in ("Brief.", "one", "yes", "two")]
    assert places == sorted(places)


def test_answers_that_do_not_fit_max_tokens_are_counted_and_named(folders: dict[str, Path]) -> None:
    items = tuple(
        Item(id=str(i), fields={"q": str(i), "a": a}) for i, a in enumerate(("abc", "abcd", ["abcdef", "b"], "abcdef"))
    )
    kind = GenerateTask(kind="generate", name="t", items="", prompt="{q}", answer="a", max_tokens=3)
    with pytest.raises(InputError, match="2 of 4 items can never be given") as caught:
        check_tasks([Task(kind=kind, items=items)], folders[BASE.id], max_model_len=None)
    assert "4 tokens in 'abcd'" in caught.value.got
    limit = int(caught.value.fix.split(":")[1].split(",")[0])
    enough = kind.model_copy(update={"max_tokens": limit})
    check_tasks([Task(kind=enough, items=items)], folders[BASE.id], max_model_len=None)


def test_a_text_too_short_to_score_is_named(folders: dict[str, Path]) -> None:
    task = Task(
        kind=PerplexityTask(kind="perplexity", name="prose", items=""), items=(Item(id="x", fields={"text": "a"}),)
    )
    with pytest.raises(InputError, match="item `x`: a text is too short to score") as caught:
        check_tasks([task], folders[BASE.id], max_model_len=None)
    assert caught.value.where == "task `prose`"


def test_a_template_that_writes_the_date_is_the_same_every_day(folders: dict[str, Path]) -> None:
    encoder = Encoder(folders[BASE.id])
    encoder.tokenizer = load_tokenizer(folders[BASE.id])  # its own: encoders share one
    encoder.tokenizer.chat_template = "{{ strftime_now('%d %b %Y') }}: {{ messages[0].content }}"
    encoded = encoder.encode(Generate(prompt=Prompt(text="hello", chat=True), max_tokens=1))
    assert encoder.decode(encoded.token_ids) == "26 Jul 2024: hello"


def test_check_finds_a_base_without_chat_template(folders: dict[str, Path], tmp_path: Path) -> None:
    for file in folders[BASE.id].iterdir():
        if file.suffix == ".json":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    kind = GenerateTask(
        kind="generate", name="chat", items="", prompt="{q}", answer="a", max_tokens=1, chat_template=True
    )
    task = Task(kind=kind, items=(Item(id="1", fields={"q": "q", "a": "a"}),))
    with pytest.raises(InputError, match="the base has no chat template"):
        check_tasks([task], tmp_path, max_model_len=None)


def test_masks_and_angles_of_old_checkpoints_are_passed_over(folders: dict[str, Path], tmp_path: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((folders[BASE.id] / name).read_bytes())
    config = GPT2Config(vocab_size=272, n_positions=64, n_embd=16, n_layer=1, n_head=2)
    model = GPT2LMHeadModel(config)
    config.save_pretrained(tmp_path)
    engine = build_engine(TransformersConfig(kind="transformers"), tmp_path)
    weights = {name: tensor.detach() for name, tensor in model.named_parameters()}
    request = Loglikelihood(prompt=Prompt(text="a"), continuation="b")
    expected = engine.adopt(BASE, iter(weights.items())).answer([request])
    old = {"transformer.h.0.attn.bias": torch.zeros(1, 1, 64, 64), "h.0.rotary_emb.inv_freq": torch.zeros(4)}
    assert engine.adopt(BASE, iter((weights | old).items())).answer([request]) == expected
