"""A descent by gradient from spec to published model: real slopes of toy models, resume, and what is told of it."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from toy_runs import SKILLS, journal_of, records_of, write_spec
from transformers import AutoModelForCausalLM
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from crossbreed.errors import InputError
from crossbreed.fitness import TransformersConfig
from crossbreed.kernels.reference import materialize_fp64
from crossbreed.optimizer import CalibrationNeeds
from crossbreed.recipes import load_recipe, parse_recipe
from crossbreed.recipes.grammar import dump_recipe
from crossbreed.runs import build_plan, check_spec, load_spec, publish_run, run
from crossbreed.runs.calibration import model
from crossbreed.runs.calibration.loss import MergeLoss
from crossbreed.runs.checking.text import findings_text
from crossbreed.runs.driver import report_on
from crossbreed.runs.plan import Plan
from crossbreed.testing.tiny_models import ARCHITECTURES
from crossbreed.testing.toys import byte_tokenizer, load_weights, make_expert

COMPONENTS = {"kind": "components", "rank": 3}
WEIGHTS = {"kind": "coefficients", "groups": {"layers": "each", "modules": ["mlp", "embedding"]}}
GENERATE = [
    {
        "name": skill,
        "kind": "generate",
        "items": f"{skill}.jsonl",
        "prompt": skill + "|{q}|",
        "answer": "a",
        "max_tokens": 4,
    }
    for skill in SKILLS
]


def of_teacher(kind: str, top_k: int) -> list[dict[str, Any]]:
    """Tasks without right answers; each has a teacher."""
    usual = {"kind": kind, "items": "red.jsonl", "prompt": "{q}|", "max_tokens": 3, "top_k": top_k}
    return [{"name": f"like-{teacher}", "teacher": teacher, **usual} for teacher in ("everything", "plain")]


def gradient(**options: Any) -> dict[str, Any]:
    return {
        "kind": "gradient",
        "budget": {"trials": 10},
        "options": {"steps": 6, "steps_per_trial": 2, "batch": 2, "warmup": 1, **options},
    }


def spec_of(folder: Path, base: Path, experts: Mapping[str, Path], **changes: Any) -> Path:
    usual = {"space": COMPONENTS, "optimizer": gradient(), "fitness__tasks": GENERATE}
    small = {"fitness__split": {"search": 8, "select": 4, "report": 4}, "fitness__slopes": {"tokens": 128}}
    return write_spec(folder, base=base, experts=experts, **{**usual, **small, **changes})


@pytest.fixture(scope="module")
def experts(toy_experts: dict[str, Path], toy_adapters: dict[str, Path]) -> dict[str, Path]:
    """A full checkpoint and adapters of two ranks."""
    return {"everything": toy_experts["everything"], **toy_adapters}


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models that compute in float64, norms too: for finite differences."""

    def norm(self: LlamaRMSNorm, hidden: torch.Tensor) -> torch.Tensor:
        scale = (hidden.square().mean(-1, keepdim=True) + self.variance_epsilon).rsqrt()
        return self.weight * hidden * scale

    def config(**settings: Any) -> TransformersConfig:
        return TransformersConfig.model_construct(
            kind="transformers", dtype="float64", device="cpu", max_model_len=settings["context_tokens"]
        )

    monkeypatch.setattr(model, "reference_config", config)
    monkeypatch.setattr(LlamaRMSNorm, "forward", norm)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CROSSBREED_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "slopes"


def loss_of(plan: Plan, loss: str = "cross_entropy", held_out: float = 0.25) -> MergeLoss:
    given: Any = {"temperature": 2.0, "hidden": 0.5, "hidden_layers": (1, 4)} if loss == "distillation" else {}
    needs = CalibrationNeeds(loss=loss, items=None, held_out=held_out, about="", **given)
    return MergeLoss(plan.calibration_inputs, plan.space, needs)


def all_items(loss: MergeLoss) -> list[int]:
    return [item for items in loss.tasks for item in items]


def gpt2(folder: Path) -> tuple[Path, dict[str, Path]]:
    """A base whose matrices are stored the other way round, and a full expert."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # noqa: TID251 - transformers initialises from the global generator, restored after
        made = AutoModelForCausalLM.from_config(ARCHITECTURES["gpt2"](), dtype=torch.float32)
    made.save_pretrained(folder / "base")
    byte_tokenizer().save_pretrained(folder / "base")
    return folder / "base", {"one": make_expert(folder / "one", base=folder / "base", seed=1)}


@pytest.mark.parametrize(
    ("space", "kind", "architecture", "tasks"),
    [
        (COMPONENTS, "cross_entropy", "llama", GENERATE),
        (COMPONENTS, "agreement", "llama", GENERATE),
        (COMPONENTS, "agreement", "llama", of_teacher("agreement", 16)),
        (WEIGHTS, "distillation", "llama", GENERATE),
        (WEIGHTS, "entropy", "llama", GENERATE),
        (WEIGHTS, "entropy", "llama", of_teacher("entropy", 272)),  # of fewer, steps change which are the most likely
        (COMPONENTS, "cross_entropy", "gpt2", GENERATE),
    ],
    ids=[
        "components",
        "components-agreement",
        "taught-agreement",
        "distillation",
        "weights-entropy",
        "taught-entropy",
        "gpt2",
    ],
)
def test_slopes_are_derivatives(
    space: dict[str, Any],
    kind: str,
    architecture: str,
    tasks: list[dict[str, Any]],
    tmp_path: Path,
    toy_base: Path,
    experts: dict[str, Path],
    exact: None,
) -> None:
    """By finite differences: of each loss, along the coordinates of each expert, from a point off the start."""
    base, experts = gpt2(tmp_path) if architecture == "gpt2" else (toy_base, experts)
    changes: dict[str, Any] = {"space": space, "fitness__tasks": tasks, "dtype": "float32"}
    if tasks is not GENERATE:
        objectives = [{"mean": [task["name"] for task in tasks], "minimize": True}]
        changes |= {"fitness__objectives": objectives, "fitness__engine": {"kind": "transformers"}}
    plan = build_plan(load_spec(spec_of(tmp_path, base, experts, **changes)))
    loss, rng = loss_of(plan, kind), np.random.default_rng(0)
    items, box = all_items(loss), plan.space.domain
    point = 0.2 * rng.standard_normal(box.dim)
    _, slopes = loss.slopes(tuple(point), items)
    for expert in experts:
        mine = np.array([coordinate.owner == expert for coordinate in box.coordinates])
        chance = rng.standard_normal(box.dim)
        direction = np.where(mine, slopes / np.linalg.norm(slopes[mine]) + chance / np.linalg.norm(chance[mine]), 0.0)

        def along(step: float, direction: Any = direction) -> float:
            ends = [loss.slopes(tuple(point + way * step * direction), items)[0] for way in (1, -1)]
            return (ends[0] - ends[1]) / (2 * step)

        near, far = along(1e-3), along(2e-3)
        assert float(slopes @ direction) == pytest.approx((4 * near - far) / 3, rel=1e-4), expert


def test_what_is_remembered_is_of_the_requests_as_they_are(
    tmp_path: Path, toy_base: Path, toy_adapters: dict[str, Path], cache: Path
) -> None:
    """A chat of the same words, another system message or another limit has another loss."""
    chat = [{**task, "chat_template": True} for task in GENERATE]
    variants = {
        "plain": {},
        "chat": {"fitness__tasks": chat},
        "system": {"fitness__tasks": [{**task, "system": "Be brief."} for task in chat]},
        "limit": {"fitness__tasks": [{**task, "max_tokens": 3} for task in GENERATE]},
    }
    folders = set()
    for name, changes in variants.items():
        plan = build_plan(load_spec(spec_of(tmp_path / name, toy_base, toy_adapters, **changes)))
        loss = loss_of(plan)
        loss.slopes((0.0,) * plan.space.domain.dim, all_items(loss)[:1])
        folders |= {*cache.iterdir()}
    assert len(folders) == len(variants)


def test_a_component_s_slope_is_the_full_gradient_s(
    tmp_path: Path, toy_base: Path, toy_adapters: dict[str, Path], exact: None
) -> None:
    """<G, b a> with the gradient of each whole matrix, taken by torch of the merged model."""
    plan = build_plan(load_spec(spec_of(tmp_path, toy_base, toy_adapters, dtype="float32")))
    loss = loss_of(plan, held_out=0.0)
    point = tuple(0.1 * np.random.default_rng(1).standard_normal(plan.space.domain.dim))
    _, slopes = loss.slopes(point, all_items(loss))
    engine = loss._model._engine
    sources, place = plan.weights.sources, 0
    whole = {term.tensor: engine._state[engine._places.of(term.tensor)[0].parameter] for term in plan.space.terms}
    for parameter in whole.values():
        parameter.requires_grad_(True)
    texts = [text for found in loss._model._texts for text in found]
    weights = [question.weight / 8 for question in loss._model._questions]
    engine.loss(
        point,
        [model.replace(text, weight=weight) for text, weight in zip(texts, weights, strict=True)],
        loss._model._measure,
        tokens=128,
        slopes=True,
    )
    for term in plan.space.terms:
        low = sources.experts[term.expert].factors(term.tensor)
        full = whole[term.tensor].grad
        for b_M, a_N in zip((low.scale * low.b_MR.double()).T, low.a_RN.double(), strict=True):
            assert slopes[place] == pytest.approx(float(b_M @ full @ a_N), rel=1e-4, abs=1e-7)
            place += 1
    assert place == len(slopes)


def test_recipes_merge_as_their_definition_says(tmp_path: Path, toy_base: Path, experts: dict[str, Path]) -> None:
    """To and from a file, around the mean of the experts; a full checkpoint's leading components included."""
    plan = build_plan(load_spec(spec_of(tmp_path, toy_base, experts, dtype="float32")))
    rng = np.random.default_rng(0)
    recipe = plan.space.decode(tuple(rng.standard_normal(plan.space.domain.dim)))
    path = tmp_path / "recipe.yaml"
    path.write_text(dump_recipe(recipe))
    assert load_recipe(path) == recipe == parse_recipe(recipe.to_json())
    assert len(path.read_text()) < 20 * plan.space.domain.dim + 200 * len(recipe.rules)
    assert len(max(path.read_text().splitlines(), key=len)) <= 130
    merged, defined = dict(plan.weights.materialize(recipe)), dict(materialize_fp64(recipe, plan.weights.sources))
    start = dict(plan.weights.materialize(plan.space.origin))
    for name, tensor in merged.items():
        step = (defined[name] - start[name]).abs().max()
        assert (tensor - defined[name]).abs().max() <= 1e-5 * max(1.0, float(step)), name
    assert any(not torch.equal(merged[name], start[name]) for name in merged)


def test_a_descent_is_journalled_resumed_and_published(
    tmp_path: Path, toy_base: Path, experts: dict[str, Path], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between its checkpoints, with slopes still in the cache or without; the report needs no gradient."""
    path = spec_of(tmp_path, toy_base, experts)
    run(load_spec(path), tmp_path / "whole")
    whole = journal_of(tmp_path / "whole")
    asks = [record for record in records_of(tmp_path / "whole") if record["kind"] == "ask"]
    descent = [record for record in asks if record["origin"] == "gradient"]
    assert len(descent) == 3, "6 steps, 2 a trial"
    start = (0.0,) * len(descent[0]["point"])
    losses = [loss_of(build_plan(load_spec(path)), held_out=0.125)]
    items = all_items(losses[0])
    found = [losses[0].slopes(tuple(point), items)[0] for point in (start, *(one["point"] for one in descent))]
    assert found[-1] < found[0]
    lines = (tmp_path / "whole" / "journal.jsonl").read_bytes().splitlines(keepends=True)
    second = next(n for n, record in enumerate(records_of(tmp_path / "whole")) if record == descent[1])
    for name, keep in (("cached", True), ("computed", False)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "journal.jsonl").write_bytes(b"".join(lines[: second + 1]))
        if not keep:
            shutil.rmtree(cache)
        run(load_spec(path), tmp_path / name)
        assert journal_of(tmp_path / name) == whole
    shutil.rmtree(cache)
    monkeypatch.setattr(model, "CalibrationModel", None)
    report_on(tmp_path / "whole")
    publish_run(tmp_path / "whole", tmp_path / "out", trial=descent[-1]["number"], with_scores=False, licence="mit")
    recipe = load_recipe(tmp_path / "out" / "recipe.yaml")
    made = dict(build_plan(load_spec(path)).weights.materialize(recipe))
    published = load_weights(tmp_path / "out")
    assert all(torch.equal(published[name], tensor) for name, tensor in made.items())


def test_it_goes_on_from_a_regression(tmp_path: Path, toy_base: Path, toy_adapters: dict[str, Path]) -> None:
    """Which the space is then around: the components start at 0, and the regression is the start."""
    path = spec_of(tmp_path, toy_base, toy_adapters, artifacts={"regression": {"items": 4}})
    events: list[str] = []
    run(load_spec(path, ["optimizer.options.steps=2"]), tmp_path / "run", on_event=lambda e: events.append(str(e)))
    asks = [record for record in records_of(tmp_path / "run") if record["kind"] == "ask"]
    last = parse_recipe(asks[-1]["recipe"])
    assert asks[-1]["origin"] == "gradient"
    weights = [rule.params["weight"] for rule in last.rules]
    assert all(weight == {"regression": 1.0} for weight in weights)
    assert all(abs(x) <= 0.11 for x in asks[-1]["point"]), "two steps"
    [told] = [event for event in events if event.startswith("calibration loss")]
    assert "in steps 1 to 2, then" in told
    assert told.endswith("on 2 held-out items")


def test_held_out_items_are_in_no_slope(tmp_path: Path, toy_base: Path, toy_adapters: dict[str, Path]) -> None:
    plan = build_plan(load_spec(spec_of(tmp_path, toy_base, toy_adapters)))
    loss = loss_of(plan, held_out=0.25)
    assert [len(items) for items in loss.tasks] == [6, 6]
    assert loss.num_held_out == 4
    searched = {item.id for items in plan.items["search"].values() for item in items.items}
    read = [question.item.id for question in (*loss._questions, *loss._held)]
    assert len(read) == len(set(read))
    assert {*read} == searched
    assert loss_of(plan, held_out=0.0).held_out((0.0,) * plan.space.domain.dim) is None


def test_experts_answer_prompts_themselves(tmp_path: Path, toy_base: Path, toy_adapters: dict[str, Path]) -> None:
    """Beside the items with right answers, and in slopes alone."""
    (tmp_path / "more.jsonl").write_text("".join(json.dumps({"q": f"more {i}", "a": ""}) + "\n" for i in range(3)))
    prompts = {"red": str(tmp_path / "more.jsonl")}
    path = spec_of(tmp_path, toy_base, toy_adapters, optimizer=gradient(prompts=prompts))
    plan = build_plan(load_spec(path))
    needs = plan.spec.optimizer.calibration
    loss = MergeLoss(plan.calibration_inputs, plan.space, needs)
    assert [len(items) for items in loss.tasks] == [7 + 3, 7]
    point = (0.0,) * plan.space.domain.dim
    value, slopes = loss.slopes(point, loss.tasks[0][-3:])
    assert value > 0
    assert np.linalg.norm(slopes) > 0
    read = [loss._model._texts[number] for number in loss.tasks[0][-3:]]
    assert all(len(text.token_ids) > text.num_prompt for [text] in read)
    compared = MergeLoss(plan.calibration_inputs, plan.space, replace(needs, loss="distillation"))
    assert np.linalg.norm(compared.slopes(point, loss.tasks[0][-3:])[1]) > 0, "experts are compared with there, too"
    alone = loss_of(plan, held_out=0.125)
    assert alone._folder != loss._folder, "another loss"
    assert alone.held_out(point) == pytest.approx(loss.held_out(point))


def test_check_says_what_it_costs(tmp_path: Path, toy_base: Path, toy_adapters: dict[str, Path]) -> None:
    text = findings_text(check_spec(load_spec(spec_of(tmp_path, toy_base, toy_adapters))))
    assert "6 steps of 2 items per task, a trial every 2" in text
    assert "1 of 8 items per task held out" in text
    assert "GB beside the sources for slopes" in text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer": gradient(rate=0)}, "rate"),
        ({"optimizer": gradient(warmup=6)}, "`warmup` must be less than `steps`"),
        ({"optimizer": gradient(held_out=0.9)}, "held_out"),
        ({"optimizer": gradient(loss="hinge")}, "loss"),
        ({"optimizer": gradient(temperature=2)}, "`temperature` is of `loss: distillation`"),
        ({"optimizer": gradient(hidden=1)}, "`hidden` needs `loss: distillation` or `agreement`"),
        ({"optimizer": gradient(loss="distillation", hidden_layers=[1])}, "set `hidden`"),
        ({"optimizer": gradient(loss="distillation", hidden=1, hidden_layers=[5])}, "no such layer"),
        ({"optimizer": gradient(prompts={"rad": "red.jsonl"})}, "unknown task `rad`"),
        ({"optimizer": gradient(prompts={"red": "red.jsonl"})}, r"is one of the (select|report) items"),
        ({"space": {"kind": "coefficients", "operator": "ties"}}, "no sums of the experts' deltas"),
        ({"space": {"kind": "lineage"}}, "no sums of the experts' deltas"),
        ({"space": COMPONENTS | {"modules": ["nothing"]}}, "there is nothing to search"),
        ({"space": COMPONENTS | {"modules": ["("]}}, "no regular expression"),
        ({"fitness__objectives": [{"task": "red"}, {"task": "blue"}]}, "one objective only"),
    ],
)
def test_settings_that_mean_nothing_are_refused(
    changes: dict[str, Any], message: str, tmp_path: Path, toy_base: Path, toy_adapters: dict[str, Path]
) -> None:
    with pytest.raises(InputError, match=message) as refused:
        build_plan(load_spec(spec_of(tmp_path, toy_base, toy_adapters, **changes)))
    assert "Traceback" not in str(refused.value)


def test_a_cache_that_cannot_be_written_costs_time_alone(
    tmp_path: Path, toy_base: Path, toy_adapters: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = build_plan(load_spec(spec_of(tmp_path, toy_base, toy_adapters)))
    point = (0.0,) * plan.space.domain.dim
    right, _ = loss_of(plan).slopes(point, [0])
    (tmp_path / "file").touch()
    monkeypatch.setenv("CROSSBREED_CACHE", str(tmp_path / "file" / "cache"))
    assert loss_of(plan).slopes(point, [0])[0] == right
