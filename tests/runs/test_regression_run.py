"""A regression from a spec to a published model: walked once, found again, moved, searched around."""

import json
import shutil
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from toy_runs import journal_of, write_spec
from transformers import AutoModelForCausalLM

from crossbreed.errors import InputError, MachineError
from crossbreed.fitness import Generate
from crossbreed.recipes import dump_recipe
from crossbreed.recipes.named import weighted_deltas
from crossbreed.runs import build_plan, check_spec, load_spec, merge_recipe, publish_run, run
from crossbreed.runs.checking.text import findings_text
from crossbreed.runs.made_sources import keep_made
from crossbreed.runs.regression import writing
from crossbreed.runs.regression.artifact import asked_of, making_of, prepare_regression
from crossbreed.runs.regression.walk import Settings, Text, walk
from crossbreed.runs.regression.writing import regress, regress_without_data
from crossbreed.runs.spec.regression import SamplesConfig
from crossbreed.runs.weights import Weights
from crossbreed.sources import open_sources
from crossbreed.sources.opening import with_made
from crossbreed.testing.tiny_models import ARCHITECTURES
from crossbreed.testing.toys import byte_tokenizer, load_weights, make_expert
from crossbreed.types import ProposedBy, Recipe, Rule

QUERY, NORM, EMBEDDING = "model.layers.1.self_attn.q_proj.weight", "model.norm.weight", "model.embed_tokens.weight"
DRAW = torch.Generator().manual_seed(0)
TEXTS = [
    Text(token_ids=tuple(torch.randint(250, (length,), generator=DRAW).tolist()), num_prompt=3) for length in (60, 90)
]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CROSSBREED_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "artifacts"


def spec(tmp_path: Path, toy_base: Path, experts: Mapping[str, Path], /, *, trials: int = 2, **regression: Any) -> Path:
    given = {"warm_start": regression.pop("warm_start", [])}
    settings = {"items": 4} | regression
    return write_spec(
        tmp_path / "spec",
        base=toy_base,
        experts=experts,
        trials=trials,
        artifacts={"regression": settings},
        fitness__split={"search": 4, "select": 4, "report": 4},
        **given,
    )


def opened(base: Path, experts: Mapping[str, Path]) -> Weights:
    return Weights(sources=open_sources(str(base), {name: str(path) for name, path in experts.items()}))


def summed(weights: Weights, scale: float, names: list[str] | None = None) -> Recipe:
    coefficients = dict.fromkeys(names or weights.sources.experts, scale)
    return weighted_deltas(coefficients, hashes=weights.structure.hashes, dtype="float32")


def walked(weights: Weights, anchor: Recipe, *, texts: Any = None, **settings: Any) -> dict[str, torch.Tensor]:
    texts = texts or dict.fromkeys(weights.sources.experts, TEXTS)
    return dict(walk(weights, texts, anchor, Settings(**{"ridge": 0.1, "own": 1.0} | settings)))


def furthest(some: Mapping[str, torch.Tensor], others: Mapping[str, torch.Tensor]) -> float:
    assert some.keys() == others.keys()
    return max(float((some[name].float() - others[name].float()).abs().max()) for name in some)


def test_a_large_lambda_keeps_the_anchor(toy_base: Path, toy_adapters: dict[str, Path]) -> None:
    weights = opened(toy_base, toy_adapters)
    anchor = summed(weights, 0.4)
    made = walked(weights, anchor, ridge=1e12)
    assert furthest(made, dict(weights.materialize(anchor))) < 1e-6
    assert furthest(walked(weights, anchor), made) > 0.01


@pytest.mark.parametrize("own", [0.5, 1.0])
def test_one_expert_that_is_the_anchor_comes_back(own: float, toy_base: Path, toy_adapters: dict[str, Path]) -> None:
    weights = opened(toy_base, {"plain": toy_adapters["plain"]})
    expert = summed(weights, 1.0)
    assert furthest(walked(weights, expert, own=own), dict(weights.materialize(expert))) < 1e-5


def test_without_lambda_one_expert_comes_back_from_any_anchor(toy_base: Path, toy_adapters: dict[str, Path]) -> None:
    """As far as its texts say what it is: in every direction of its inputs."""
    weights = opened(toy_base, {"plain": toy_adapters["plain"]})
    texts = [replace(TEXTS[0], token_ids=tuple(torch.randint(250, (400,), generator=DRAW).tolist()))]
    made = walked(weights, summed(weights, 0.3), ridge=0.0, texts={"plain": texts})
    expert = dict(weights.materialize(summed(weights, 1.0)))
    assert furthest(made, expert) < 1e-2 * furthest(expert, dict(weights.materialize(summed(weights, 0.3))))


SLOW = (pytest.param(kind, marks=pytest.mark.slow) for kind in ("qwen3", "gemma2"))


@pytest.mark.parametrize("kind", ["qwen2", "gemma3_text", "gpt2", "mixtral", *SLOW])
def test_architectures(kind: str, tmp_path: Path) -> None:
    """What the expert's matrices make of the merge's inputs says which they are, stored either way round.

    But for the mean of the inputs, which GPT-2's norms take away.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # noqa: TID251 - transformers initialises from the global generator, restored after
        made = AutoModelForCausalLM.from_config(ARCHITECTURES[kind](), dtype=torch.float32)
    made.save_pretrained(tmp_path / "base")
    byte_tokenizer().save_pretrained(tmp_path / "base")
    weights = opened(tmp_path / "base", {"one": make_expert(tmp_path / "one", base=tmp_path / "base", seed=1)})
    tokens = (torch.randint(250, (400,), generator=DRAW).tolist() for _ in range(2))
    texts = {"one": [Text(token_ids=tuple(ids), num_prompt=3) for ids in tokens]}
    anchor = summed(weights, 0.5)
    merged, expert = walked(weights, anchor, texts=texts, ridge=0.0, own=0.0), load_weights(tmp_path / "one")
    kept = dict(weights.materialize(anchor))
    for name in merged:
        is_solved = name in weights.projections and "experts" not in name and "gate.weight" not in name
        wanted, part = (expert[name], 0.12) if is_solved else (kept[name], 1e-5)
        assert (merged[name] - wanted).norm() <= part * (expert[name] - kept[name]).norm(), name


@pytest.mark.parametrize("alpha", [0.9, 0.5])
def test_regmean_plus_plus(alpha: float, toy_base: Path, toy_adapters: dict[str, Path]) -> None:
    """As its paper has it (arXiv 2508.03121), by hooks of whole models: merged layers below, an expert's from there on.

    W = (sum We Ce) (sum Ce)^-1, C the Gram of a matrix's inputs, off-diagonal elements times alpha; from any anchor.
    """
    weights = opened(toy_base, toy_adapters)
    texts = {"plain": TEXTS[:1], "stabilised": TEXTS[1:]}
    how = {"ridge": 0.0, "own": 0.0, "off_diagonal": alpha, "is_fed_by_experts": True, "dtype": torch.float64}
    made = walked(weights, summed(weights, 0.5), texts=texts, **how)
    own = {name: dict(weights.materialize(summed(weights, 1.0, [name]))) for name in toy_adapters}
    model = AutoModelForCausalLM.from_pretrained(toy_base, dtype=torch.float64)
    for layer in (0, 2):
        prefix, grams = f"model.layers.{layer}.", dict[str, dict[str, torch.Tensor]]()
        solved = [name for name in weights.projections if name.startswith(prefix)]
        below = tuple(f"model.layers.{number}." for number in range(layer))
        for expert, [text] in texts.items():
            model.load_state_dict(
                {**own[expert], **{n: v for n, v in made.items() if n.startswith(below)}}, strict=False
            )
            grams[expert] = {}

            def see(name: str, inputs: torch.Tensor, into: dict[str, torch.Tensor] = grams[expert]) -> None:
                gram_NN = inputs[0].T @ inputs[0] / inputs.shape[1]
                into[name] = alpha * gram_NN + (1 - alpha) * gram_NN.diagonal().diag()

            with ExitStack() as hooks, torch.no_grad():
                for name in solved:
                    module = model.get_submodule(name.removesuffix(".weight"))
                    hook = module.register_forward_pre_hook(lambda _, given, name=name, see=see: see(name, given[0]))
                    hooks.callback(hook.remove)
                model(torch.tensor([text.token_ids]))
        for name in solved:
            top = sum(own[expert][name].double() @ grams[expert][name] for expert in texts)
            wanted = torch.linalg.solve(sum(grams[expert][name] for expert in texts), top.T).T
            assert (made[name] - wanted).abs().max() < 1e-4, name
    other = walked(weights, summed(weights, 0.2), texts=texts, **how)
    assert furthest(made, other) < 1e-4, "there is no anchor"


def test_names_and_order_of_experts_change_rounding_alone(toy_base: Path, toy_adapters: dict[str, Path]) -> None:
    first = opened(toy_base, toy_adapters)
    second = opened(toy_base, {"b": toy_adapters["stabilised"], "a": toy_adapters["plain"]})
    texts = {"plain": TEXTS[:1], "stabilised": TEXTS[1:]}
    made = walked(first, summed(first, 0.4), texts=texts)
    other = walked(second, summed(second, 0.4), texts={"b": TEXTS[1:], "a": TEXTS[:1]})
    assert furthest(made, other) < 1e-4


def test_batches_change_rounding_alone(toy_base: Path, toy_adapters: dict[str, Path]) -> None:
    weights = opened(toy_base, toy_adapters)
    made, other = (walked(weights, summed(weights, 0.4), tokens=tokens, answer_weight=3.0) for tokens in (64, 2048))
    assert furthest(made, other) < 1e-4


def test_within_the_row_space_the_rank_is_the_experts_together(toy_base: Path, toy_adapters: dict[str, Path]) -> None:
    weights = opened(toy_base, toy_adapters)
    base, made = load_weights(toy_base), walked(weights, summed(weights, 0.4), in_row_space=True)
    values = torch.linalg.svdvals(made[QUERY].double() - base[QUERY].double())
    assert values[4 + 8] < 1e-4 * values[0] < values[4 + 7]


def test_some_modules_alone_are_solved(toy_base: Path, toy_adapters: dict[str, Path]) -> None:
    weights = opened(toy_base, toy_adapters)
    anchor = summed(weights, 0.4)
    made, before = walked(weights, anchor, is_solved=lambda name: "mlp" in name), dict(weights.materialize(anchor))
    changed = {name for name in made if not torch.allclose(made[name], before[name], atol=1e-5)}
    assert changed == {name for name in made if "mlp" in name}


def test_a_run_searches_around_it_publishes_it_and_moves(
    tmp_path: Path, cache: Path, toy_base: Path, toy_adapters: dict[str, Path]
) -> None:
    path, events = spec(tmp_path, toy_base, toy_adapters), []
    run(load_spec(path), tmp_path / "run", on_event=events.append)
    layers = [str(event) for event in events if str(event).startswith("regression: layer")]
    assert layers == [f"regression: layer {n} of 4 ..." for n in (1, 2, 3, 4)]
    begun, *asks = journal_of(tmp_path / "run")
    content = begun["artifacts"]["regression"]
    assert "regression" not in begun["sources"]
    origins = [record["origin"] for record in asks if record["kind"] == "ask"]
    assert origins[-3:] == ["made:regression", "cma_es", "cma_es"]
    number = origins.index("made:regression")
    publish_run(tmp_path / "run", tmp_path / "out", trial=number, with_scores=False, licence="mit")
    kept = tmp_path / "run" / "artifacts" / f"regression-{content}"
    assert furthest(load_weights(tmp_path / "out"), load_weights(kept)) == 0
    assert not (tmp_path / "out" / "mergekit_config.yml").exists()
    assert json.loads((tmp_path / "out" / "regression.json").read_text())["settings"]["ridge"] == 1.0
    shutil.move(cache, tmp_path / "elsewhere")  # another machine: the run's own copy is taken, and goes on
    before = len(events)
    run(load_spec(path, ["optimizer.budget.trials=3"]), tmp_path / "run", on_event=events.append)
    assert not [event for event in events[before:] if str(event).startswith("regression:")]
    assert [one.name for one in cache.glob("regression-*")] == [kept.name]
    sources = [f"base={toy_base}", *(f"{name}={path}" for name, path in toy_adapters.items()), f"regression={kept}"]
    merge_recipe(tmp_path / "out" / "recipe.yaml", tmp_path / "merged", sources=sources)
    assert furthest(load_weights(tmp_path / "merged"), load_weights(kept)) == 0


def test_it_is_made_once(tmp_path: Path, cache: Path, toy_base: Path, toy_adapters: dict[str, Path]) -> None:
    path, events = spec(tmp_path, toy_base, toy_adapters), []
    first, second = (prepare_regression(build_plan(load_spec(path)), on_event=events.append) for _ in range(2))
    assert len(events) == 1 + 4
    assert first.structure.hashes == second.structure.hashes
    [made] = [recipe for by, recipe in first.initial_candidates() if by.kind == "made"]
    assert first.space.encode(made) is not None, "a search may start there"
    shutil.rmtree(cache)
    assert prepare_regression(build_plan(load_spec(path))).structure.hashes == first.structure.hashes
    other = prepare_regression(build_plan(load_spec(path, ["artifacts.regression.ridge=2"])))
    assert other.structure.hashes["regression"] != first.structure.hashes["regression"]


def test_a_warm_start_is_the_merge_that_its_file_says(
    tmp_path: Path, cache: Path, toy_base: Path, toy_adapters: dict[str, Path]
) -> None:
    """Also beside a regression: with one more source, `model_stock` and every weight for all would merge it too."""
    hashes = opened(toy_base, toy_adapters).structure.hashes
    rule = Rule(match=".*", operator="model_stock", params={})
    given = Recipe(base="base", sources=hashes, rules=(rule,))
    (tmp_path / "warm.yaml").write_text(dump_recipe(given))
    path = spec(tmp_path, toy_base, toy_adapters, warm_start=[str(tmp_path / "warm.yaml")])
    plan = prepare_regression(build_plan(load_spec(path)))
    assert plan.initial_candidates()[-1] == (ProposedBy(kind="warm_start", index=0), given)
    assert plan.num_initial == 8 + 1 + 1


def test_a_recipe_over_another_run_s_regression_is_a_warm_start_where_that_is_an_expert(
    tmp_path: Path, cache: Path, toy_base: Path, toy_adapters: dict[str, Path]
) -> None:
    path = spec(tmp_path, toy_base, toy_adapters)
    hashes = prepare_regression(build_plan(load_spec(path))).structure.hashes
    bred = weighted_deltas({"regression": 0.75, next(iter(toy_adapters)): 0.25}, hashes=hashes, dtype="float32")
    (tmp_path / "warm.yaml").write_text(dump_recipe(bred))
    changes: dict[str, Any] = {"warm_start": [str(tmp_path / "warm.yaml")]}
    with pytest.raises(InputError, match="merges other sources") as caught:
        build_plan(load_spec(write_spec(tmp_path / "second", base=toy_base, experts=toy_adapters, **changes)))
    folder = f"regression-{hashes['regression']}"
    assert f"add it to `sources.experts` under any other name, as the folder artifacts/{folder}" in caught.value.fix
    experts = toy_adapters | {"before": cache / folder}
    plan = build_plan(load_spec(write_spec(tmp_path / "second", base=toy_base, experts=experts, **changes)))
    [(_, recipe)] = plan.warm_starts
    assert dict(recipe.sources) == dict(plan.structure.hashes)
    assert recipe.rules[0].params["weight"] == {"before": 0.75, next(iter(toy_adapters)): 0.25}


def test_what_another_process_keeps_meanwhile_stays(
    tmp_path: Path, cache: Path, toy_base: Path, toy_adapters: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have its files open, and would take others in their place for sources that were changed."""
    made = make_expert(tmp_path / "made", base=toy_base, seed=5)
    sources = with_made(opened(toy_base, toy_adapters).sources, "regression", made)
    into, inodes = tmp_path / "into", list[int]()

    def while_another_keeps_it(source: Path, target: Path) -> None:
        if not inodes:
            with monkeypatch.context() as patch:
                patch.setattr(shutil, "copyfile", copyfile)
                keep_made(sources, into)
            inodes.extend(path.stat().st_ino for path in into.glob("regression-*/model.safetensors"))
        copyfile(source, target)

    copyfile = shutil.copyfile
    monkeypatch.setattr(shutil, "copyfile", while_another_keeps_it)
    keep_made(sources, into)
    assert [path.stat().st_ino for path in into.glob("*/model.safetensors")] == inodes != []


@pytest.mark.slow
def test_a_damaged_copy_is_made_again(
    tmp_path: Path, cache: Path, toy_base: Path, toy_adapters: dict[str, Path]
) -> None:
    path = spec(tmp_path, toy_base, toy_adapters)
    made = prepare_regression(build_plan(load_spec(path))).structure.hashes["regression"]
    weights = cache / f"regression-{made}" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    assert prepare_regression(build_plan(load_spec(path))).structure.hashes["regression"] == made


@pytest.mark.slow
def test_passes_begin_where_the_last_one_ended(
    tmp_path: Path, cache: Path, toy_base: Path, toy_adapters: dict[str, Path]
) -> None:
    makings = [
        making_of(
            plan := build_plan(load_spec(spec(tmp_path, toy_base, toy_adapters, passes=n, ridge=3.0))),
            plan.spec.artifacts.regression,
        )
        for n in (1, 2)
    ]
    found = []
    for number, making in enumerate(makings):
        (tmp_path / str(number)).mkdir()
        made = making.make(tmp_path / str(number), lambda event: None)
        found.append(load_weights(made.sources.experts["regression"].path))
    anchor = dict(makings[0].weights.materialize(makings[0].anchor()))
    assert furthest({QUERY: found[0][QUERY]}, {QUERY: found[1][QUERY]}) > 0
    steps = [(one[QUERY].float() - anchor[QUERY].float()).norm() for one in found]
    assert steps[1] > steps[0]


def test_any_recipe_of_the_sources_may_be_the_anchor(
    tmp_path: Path, cache: Path, toy_base: Path, toy_adapters: dict[str, Path]
) -> None:
    """What an earlier run has found: with a large lambda it comes back, and another file is another regression."""
    weights, path = opened(toy_base, toy_adapters), tmp_path / "found.yaml"
    given = weighted_deltas({"plain": 0.9, "stabilised": 0.2}, hashes=weights.structure.hashes, dtype="float32")
    path.write_text(dump_recipe(given))
    written = spec(tmp_path, toy_base, toy_adapters, anchor_recipe=str(path), ridge=1e9)
    plan = build_plan(load_spec(written, ["dtype=float32"]))
    making = making_of(plan, plan.spec.artifacts.regression)
    rule = making.rule()
    made = making.make(tmp_path, lambda event: None).sources.experts["regression"].path
    assert furthest(load_weights(made), dict(weights.materialize(given))) < 1e-5
    raw = yaml.safe_load(written.read_text())
    settings, _, _ = (raw.pop(key) for key in ("artifacts", "optimizer", "space"))
    raw["stages"] = [{"kind": "regression", **settings["regression"]}, {"kind": "gradient"}]
    (staged := tmp_path / "spec" / "staged.yaml").write_text(yaml.safe_dump(raw))
    assert build_plan(load_spec(staged)).spec.regression == plan.spec.regression
    path.write_text(dump_recipe(summed(weights, 0.1)))
    assert making.rule() != rule
    path.write_text(dump_recipe(replace(given, sources={**given.sources, "plain": "another"})))
    with pytest.raises(InputError, match="the anchor of the regression merges other sources"):
        build_plan(load_spec(written))


def test_full_experts_give_norms_and_embeddings_their_mean(tmp_path: Path, cache: Path, toy_base: Path) -> None:
    experts = {name: make_expert(tmp_path / name, base=toy_base, seed=n) for n, name in enumerate("ab")}
    regress(load_spec(spec(tmp_path, toy_base, experts)), tmp_path / "out")
    made, base = load_weights(tmp_path / "out"), load_weights(toy_base)
    mean = sum(load_weights(path)[EMBEDDING].float() for path in experts.values()) / 2
    assert torch.allclose(made[EMBEDDING].float(), mean, rtol=1e-2, atol=1e-3)
    assert torch.equal(made[NORM], base[NORM])


def test_prompts_without_answers_are_answered_by_the_expert(
    tmp_path: Path, cache: Path, toy_base: Path, toy_adapters: dict[str, Path]
) -> None:
    lines = [json.dumps({"q": f"more {i}", "a": ""}) for i in range(3)]
    (tmp_path / "more.jsonl").write_text("\n".join(lines))
    path = spec(tmp_path, toy_base, toy_adapters, items=0, prompts={"red": str(tmp_path / "more.jsonl")})
    plan = build_plan(load_spec(path))
    asked = asked_of(plan, plan.spec.artifacts.regression, "plain")
    assert [one.prompt.text for one in asked.prompts] == [f"red|more {i}|" for i in range(3)]
    assert all(isinstance(one, Generate) and one.temperature == 0 for one in asked.prompts)
    assert "regression" in prepare_regression(plan).structure.hashes


def test_prompts_that_are_report_items_are_refused(
    tmp_path: Path, cache: Path, toy_base: Path, toy_adapters: dict[str, Path]
) -> None:
    path = spec(tmp_path, toy_base, toy_adapters, prompts={"red": "red.jsonl"})
    with pytest.raises(InputError, match=r"is one of the (select|report) items"):
        prepare_regression(build_plan(load_spec(path)))


def test_without_any_data_experts_write_their_texts(
    tmp_path: Path, cache: Path, toy_base: Path, toy_adapters: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "SamplesConfig", partial(SamplesConfig, texts=4, max_tokens=6))
    regress_without_data(str(toy_base), [*map(str, toy_adapters.values())], tmp_path / "out")
    assert furthest(load_weights(tmp_path / "out"), load_weights(toy_base)) > 0


def test_check_says_what_it_costs(tmp_path: Path, toy_base: Path, toy_adapters: dict[str, Path]) -> None:
    findings = check_spec(load_spec(spec(tmp_path, toy_base, toy_adapters)))
    text = findings_text(findings)
    assert "prepare a regression, transformers in float32, up to 4 items per task" in text
    assert "GB beside the sources while the regression is made, on about" in text
    assert "11 trials of 8 items" in text  # 8 baselines, the regression, and 2


def test_a_first_stage_makes_it_and_later_ones_polish_it(
    tmp_path: Path, cache: Path, toy_base: Path, toy_adapters: dict[str, Path]
) -> None:
    """From a spec to a published model, and from a kill at each boundary to the same journal."""
    path = spec(tmp_path, toy_base, toy_adapters)
    short = prepare_regression(build_plan(load_spec(path)))
    raw = yaml.safe_load(path.read_text())
    settings, optimizer, _ = (raw.pop(key) for key in ("artifacts", "optimizer", "space"))
    descent = {"kind": "gradient", "options": {"steps": 2, "steps_per_trial": 1, "batch": 2, "warmup": 0}}
    polish = {"kind": "search", "space": {"kind": "scales", "groups": {"layers": 2}}, "optimizer": optimizer}
    raw["stages"] = [{"kind": "regression", **settings["regression"]}, descent, polish]
    path.write_text(yaml.safe_dump(raw))
    text = findings_text(check_spec(load_spec(path)))
    assert "GB beside the sources while the regression is made" in text
    assert "stage 1 of 3, regression: 1 trial" in text
    run(load_spec(path), tmp_path / "run")
    begun, *records = journal_of(tmp_path / "run")
    assert begun["artifacts"]["regression"] == short.structure.hashes["regression"], "settings alone say what it is"
    asks = [record for record in records if record["kind"] == "ask"]
    assert [(ask["origin"], ask.get("stage", 0)) for ask in asks[-5:]] == [
        ("made:regression", 0),
        *[("gradient", 1)] * 2,
        *[("cma_es", 2)] * 2,
    ]
    rows = json.loads((tmp_path / "run/report.json").read_text())["stages"]
    assert [(row["name"], row["trials"]) for row in rows] == [
        ("baselines", 8),
        ("regression", 1),
        ("gradient", 2),
        ("cma_es", 2),
    ]
    kept = tmp_path / "run/artifacts" / f"regression-{begun['artifacts']['regression']}"
    assert rows[1]["seconds"] > json.loads((kept / "seconds.json").read_text())["seconds"] > 0
    lines = (tmp_path / "run/journal.jsonl").read_bytes().splitlines(keepends=True)
    for number in (1 + 2 * 11,):
        (out := tmp_path / str(number)).mkdir()
        (out / "journal.jsonl").write_bytes(b"".join(lines[:number]))
        run(load_spec(path), out)
        assert journal_of(out) == [begun, *records]
    publish_run(tmp_path / "run", tmp_path / "out", trial=asks[-1]["number"], with_scores=False, licence="mit")
    assert furthest(load_weights(tmp_path / "out"), load_weights(toy_base)) > 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"items": 0}, "needs texts"),
        ({"anchor": "regmean"}, "no anchor of a regression"),
        ({"anchor": "nonsense"}, "nonsense"),
        ({"modules": ["("]}, "no regular expression"),
        ({"tasks": {"plane": ["red"]}}, "unknown expert `plane`"),
        ({"prompts": {"rad": "red.jsonl"}}, "unknown task `rad`"),
        ({"own": 1.5}, "own"),
        ({"off_diagonal": 1.1}, "off_diagonal"),
        ({"inputs": "expert"}, "inputs"),
        ({"anchor_recipe": "found.yaml", "anchor": "ties"}, "one anchor"),
    ],
)
def test_settings_that_mean_nothing_are_refused(
    settings: dict[str, Any], message: str, tmp_path: Path, toy_base: Path, toy_adapters: dict[str, Path]
) -> None:
    with pytest.raises(InputError, match=message):
        load_spec(spec(tmp_path, toy_base, toy_adapters, **settings))


def test_an_expert_of_its_name_is_refused(tmp_path: Path, toy_base: Path, toy_adapters: dict[str, Path]) -> None:
    with pytest.raises(InputError, match="names what this run makes"):
        load_spec(spec(tmp_path, toy_base, {"regression": toy_adapters["plain"]}))


def test_the_files_beside_a_regression_say_nothing(
    tmp_path: Path, toy_base: Path, toy_adapters: dict[str, Path]
) -> None:
    """In a cache, they may be those of another base with the same tensors, which ended texts otherwise."""
    weights, folder = opened(toy_base, toy_adapters), tmp_path / "regression"
    shutil.copytree(toy_base, folder)
    for name, change in (("generation_config.json", {"eos_token_id": [10, 256]}), ("config.json", {"rope_theta": 7.0})):
        (folder / name).write_text(json.dumps(json.loads((folder / name).read_text()) | change))
    found = with_made(weights.sources, "regression", folder)
    assert found.end_token_ids == weights.sources.end_token_ids == {256}
    assert found.notes == weights.sources.notes


def test_a_cache_that_cannot_be_written_is_said_with_what_to_do(
    tmp_path: Path, toy_base: Path, toy_adapters: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And done so, the same command goes on."""
    (tmp_path / "file").touch()
    plan = build_plan(load_spec(spec(tmp_path, toy_base, toy_adapters, items=1)))
    monkeypatch.setenv("CROSSBREED_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(MachineError, match="set CROSSBREED_CACHE to a folder that can be written"):
        prepare_regression(plan)
    monkeypatch.setenv("CROSSBREED_CACHE", str(tmp_path / "cache"))
    assert prepare_regression(plan).made_hashes
