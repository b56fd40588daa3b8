"""What experts have otherwise than the base, through the commands: refused, accepted, said, published."""

import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from toy_runs import write_spec
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from crossbreed.errors import InputError
from crossbreed.fitness import Generate, Loglikelihood, Prompt, TransformersConfig, build_engine
from crossbreed.fitness.engines.encoder import Encoder
from crossbreed.kernels import materialize
from crossbreed.runs.check import check_spec
from crossbreed.runs.checking.text import findings_text
from crossbreed.runs.plan import build_plan
from crossbreed.runs.publishing.checkpoint import Merge, write_checkpoint
from crossbreed.runs.publishing.merge_recipes import merge_recipe
from crossbreed.runs.record.identity import check_same_run
from crossbreed.runs.spec import load_spec
from crossbreed.sources import Sources, open_sources
from crossbreed.testing.toys import make_adapter, make_checkpoint, make_expert
from crossbreed.types import Recipe, Rule


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.fixture
def models(tmp_path: Path) -> dict[str, Path]:
    base = make_checkpoint(tmp_path / "base", num_layers=2)
    return {
        "base": base,
        "red": make_expert(tmp_path / "red", base=base, seed=1),
        "blue": make_adapter(tmp_path / "blue", base=base, seed=2),
    }


def spec_of(models: dict[str, Path], folder: Path, **changes: Any) -> Any:
    experts = {name: path for name, path in models.items() if name != "base"}
    return load_spec(write_spec(folder, base=models["base"], experts=experts, **changes))


def sources_of(models: dict[str, Path]) -> Sources:
    return open_sources(str(models["base"]), {name: str(path) for name, path in models.items() if name != "base"})


def expert_alone(sources: Sources, name: str) -> Recipe:
    """The expert's own weights, as a recipe."""
    rule = Rule(match=".*", operator="task_arithmetic", params={"weight": {name: 1.0}})
    return Recipe(base="base", sources=sources.structure.hashes, rules=(rule,))


def answer(sources: Sources, recipe: Recipe, *, ends: bool) -> list[int]:
    extra = sources.end_token_ids if ends else ()
    engine = build_engine(TransformersConfig(kind="transformers"), sources.base.path, end_token_ids=extra)
    handle = engine.adopt(recipe, materialize(recipe, sources))
    (response,) = handle.answer([Generate(prompt=Prompt(text="Say it."), max_tokens=12)])
    return list(response.token_ids)


@pytest.mark.parametrize("where", ["generation_config.json", "list", "tokenizer", "adapter"])
def test_an_answer_ends_where_the_expert_would_have_ended_it(
    where: str, models: dict[str, Path], tmp_path: Path
) -> None:
    """The token that the expert writes third becomes its end, as chat models have one that their base lacks."""
    name = "blue" if where == "adapter" else "red"
    sources = sources_of(models)
    recipe = expert_alone(sources, name)
    written = answer(sources, recipe, ends=False)
    end = written[2]
    assert len(written) == 12
    assert end not in written[:2]
    folder = models[name]
    if where in ("tokenizer", "adapter"):
        text = AutoTokenizer.from_pretrained(models["base"]).convert_ids_to_tokens(end)
        tokenizer = json.loads((models["base"] / "tokenizer.json").read_text())
        special = tokenizer["added_tokens"][0] | {"id": end, "content": text}
        edit(models["base"] / "tokenizer.json", added_tokens=[special, *tokenizer["added_tokens"]])
        for file in ("tokenizer.json", "tokenizer_config.json"):
            for other in (folder, models["red"]):
                shutil.copyfile(models["base"] / file, other / file)
        edit(folder / "tokenizer_config.json", eos_token=text)
    else:
        edit(folder / "generation_config.json", eos_token_id=[end, 256] if where == "list" else end)
    sources = sources_of(models)
    assert sources.end_token_ids == {end, 256}
    assert answer(sources, recipe, ends=True) == written[:3]
    (note,) = sources.notes
    assert note.startswith(f"`{name}` ends a text with ")
    assert f"({end}) too, the base with <eos> (256)" in note

    out = tmp_path / "published"
    write_checkpoint(Merge(recipe=recipe, sources=sources, stream_factory=partial(materialize, recipe, sources)), out)
    published = GenerationConfig.from_pretrained(out)
    assert sorted(published.eos_token_id) == sorted([end, 256])
    model = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)
    prompt = Encoder(models["base"]).encode(Generate(prompt=Prompt(text="Say it."), max_tokens=12)).token_ids
    again = model.generate(torch.tensor([prompt]), max_new_tokens=12, do_sample=False)[0, len(prompt) :]
    assert again.tolist() == written[:3]


def test_ends_that_agree_leave_the_bases_file_as_it_is(models: dict[str, Path], tmp_path: Path) -> None:
    sources, out = sources_of(models), tmp_path / "published"
    assert sources.notes == ()
    recipe = expert_alone(sources, "red")
    write_checkpoint(Merge(recipe=recipe, sources=sources, stream_factory=partial(materialize, recipe, sources)), out)
    name = "generation_config.json"
    assert (out / name).read_bytes() == (models["base"] / name).read_bytes()


def test_a_base_without_a_generation_config_gets_one_where_ends_differ(models: dict[str, Path], tmp_path: Path) -> None:
    (models["base"] / "generation_config.json").unlink()
    edit(models["red"] / "generation_config.json", eos_token_id=[7, 256])
    sources, out = sources_of(models), tmp_path / "published"
    recipe = expert_alone(sources, "red")
    write_checkpoint(Merge(recipe=recipe, sources=sources, stream_factory=partial(materialize, recipe, sources)), out)
    written = json.loads((out / "generation_config.json").read_text())
    assert written == {"bos_token_id": 256, "eos_token_id": [7, 256], "pad_token_id": 256}


def test_an_end_beyond_the_vocabulary_is_no_end(models: dict[str, Path]) -> None:
    """Configurations keep the ends of the model that they were copied from."""
    edit(models["red"] / "config.json", eos_token_id=50256)
    assert sources_of(models).end_token_ids == {256}


def test_what_a_tokenizer_puts_behind_a_text_is_cut_off(models: dict[str, Path]) -> None:
    plain = Encoder(models["base"])
    asked = [
        Generate(prompt=Prompt(text="Say it."), max_tokens=4),
        Loglikelihood(prompt=Prompt(text="Say it."), continuation=" now"),
        Loglikelihood(prompt=Prompt(text=""), continuation="Said."),
        Generate(prompt=Prompt(text="Say it.", chat=True), max_tokens=4),
    ]
    expected = [plain.encode(request) for request in asked]
    made = json.loads((models["base"] / "tokenizer.json").read_text())
    made["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "<eos>", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<eos>": {"id": "<eos>", "ids": [256], "tokens": ["<eos>"]}},
    }
    (models["base"] / "tokenizer.json").write_text(json.dumps(made))
    assert [Encoder(models["base"]).encode(request) for request in asked] == expected
    assert [note for note in sources_of(models).notes if "behind every text" in note] == [
        "the base's tokenizer puts <eos> behind every text: it is cut off where a model goes on"
    ]


def test_check_says_what_differs_and_is_accepted(models: dict[str, Path], tmp_path: Path) -> None:
    edit(models["red"] / "config.json", rms_norm_eps=1e-3)
    with pytest.raises(InputError, match="another `rms_norm_eps`"):
        check_spec(spec_of(models, tmp_path / "run"))
    sources = {"base": str(models["base"]), "experts": {"red": str(models["red"])}, "accept": ["rms_norm_eps"]}
    text = findings_text(check_spec(spec_of(models, tmp_path / "run", sources=sources)))
    assert "  note    rms_norm_eps: 0.001 in `red`, 1e-06 in the base, whose is used\n" in text


def test_what_is_accepted_belongs_to_the_run(models: dict[str, Path], tmp_path: Path) -> None:
    accepting = {"base": str(models["base"]), "experts": {"red": str(models["red"])}, "accept": ["rms_norm_eps"]}
    records = [
        build_plan(spec_of(models, tmp_path / "run", sources=sources)).run_record()
        for sources in (accepting, {**accepting, "accept": []})
    ]
    assert [record.spec["sources"] for record in records] == [{"accept": ["rms_norm_eps"]}, {"accept": []}]
    with pytest.raises(InputError, match="another spec"):
        check_same_run(*records, where=tmp_path)


def test_chats_are_refused_only_where_they_are_asked(models: dict[str, Path], tmp_path: Path) -> None:
    (models["red"] / "chat_template.jinja").write_text("{% for m in messages %}{{ m.content }}!{% endfor %}")
    spec = spec_of(models, tmp_path / "run")
    build_plan(spec)
    tasks = [task.model_copy(update={"chat_template": True}) for task in spec.fitness.tasks]
    asking = spec.model_copy(update={"fitness": spec.fitness.model_copy(update={"tasks": tasks})})
    with pytest.raises(InputError, match="`red` writes a chat down otherwise than the base"):
        build_plan(asking)
    accepting = asking.sources.model_copy(update={"accept": ("chat_template",)})
    build_plan(asking.model_copy(update={"sources": accepting}))


def test_a_full_expert_that_is_the_base_is_named_beside_others(models: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(models["base"], tmp_path / "copied")
    with pytest.raises(InputError, match="expert `same` equals the base in every tensor: was it trained"):
        build_plan(spec_of({**models, "same": tmp_path / "copied"}, tmp_path / "run"))
    build_plan(spec_of(models, tmp_path / "run"))  # the advice: leave it out


@pytest.mark.parametrize("accept", [(), ("rms_norm_eps",)])
def test_merge_takes_the_bases_where_it_is_told_to(
    accept: tuple[str, ...], models: dict[str, Path], tmp_path: Path
) -> None:
    edit(models["red"] / "config.json", rms_norm_eps=1e-3)
    recipe = tmp_path / "merge.yml"
    recipe.write_text(
        json.dumps(
            {
                "merge_method": "task_arithmetic",
                "base_model": str(models["base"]),
                "models": [{"model": str(models["red"]), "parameters": {"weight": 1.0}}],
                "dtype": "bfloat16",
            }
        )
    )
    merge = partial(merge_recipe, recipe, tmp_path / "out", accept=accept)
    if not accept:
        with pytest.raises(InputError, match="--accept rms_norm_eps"):
            merge()
        return
    merge()
    assert json.loads((tmp_path / "out" / "config.json").read_text())["rms_norm_eps"] == 1e-6
    merged, red = (load_file(folder / "model.safetensors") for folder in (tmp_path / "out", models["red"]))
    assert all(torch.equal(merged[name], tensor) for name, tensor in red.items())


@pytest.mark.parametrize("numerics", ["accurate", "mergekit"])
def test_a_configuration_without_end_is_written_as_it_was_read(
    numerics: Any, models: dict[str, Path], tmp_path: Path
) -> None:
    """Mamba 2 and Nemotron-H have an Infinity in theirs, which is no JSON."""
    for name in ("base", "red"):
        edit(models[name] / "config.json", time_step_limit=[0.0, float("inf")])
    recipe = tmp_path / "merge.yml"
    models_ = [{"model": str(models[name]), "parameters": {"weight": 0.5}} for name in ("base", "red")]
    recipe.write_text(json.dumps({"merge_method": "linear", "models": models_, "dtype": "bfloat16"}))
    merge_recipe(recipe, tmp_path / "out", numerics=numerics)
    assert '"time_step_limit": [\n    0.0,\n    Infinity\n  ]' in (tmp_path / "out" / "config.json").read_text()
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").config.time_step_limit == [0.0, float("inf")]
