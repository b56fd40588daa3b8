"""A preset is a spec: it builds, the user's word wins, and what nobody knows is refused."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from toy_runs import write_spec

from crossbreed.errors import InputError
from crossbreed.runs import build_plan, load_spec
from crossbreed.runs.spec.presets import PRESETS, fill_in
from crossbreed.testing.toys import make_adapter


@pytest.fixture
def bare(tmp_path: Path, toy_base: Path, toy_adapters: dict[str, Path]) -> Path:
    """A spec that says neither how to search nor where."""
    path = write_spec(tmp_path / "spec", base=toy_base, experts=toy_adapters)
    raw = yaml.safe_load(path.read_text())
    del raw["space"], raw["optimizer"]
    path.write_text(yaml.safe_dump(raw))
    return path


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_all_that_a_spec_lacks(name: str, bare: Path, toy_base: Path, tmp_path: Path) -> None:
    sections: dict[str, Any] = PRESETS[name]({})
    if "stages" in sections:
        plan = build_plan(load_spec(bare, [f"preset={name}"]))
        assert len(plan.stage_names) == len(sections["stages"])
        return
    if sections["optimizer"]["kind"] == "nevergrad":
        pytest.importorskip("nevergrad")
    overrides = [f"preset={name}"]
    if sections["space"].get("operator") == "lora_factors":  # wants adapters of one rank
        overrides += [f"sources.experts.stabilised={make_adapter(tmp_path / 'twin', base=toy_base, seed=9)}"]
    plan = build_plan(load_spec(bare, overrides))
    assert plan.spec.space.kind == sections["space"]["kind"]
    assert plan.spec.optimizer.kind == sections["optimizer"]["kind"]
    assert plan.limits.trials == sections["optimizer"]["budget"]["trials"]


def test_the_user_wins_field_by_field(bare: Path) -> None:
    overrides = ["preset=m2n2", "optimizer.options.alpha=2", "space.chromosomes=[mlp]"]
    spec = load_spec(bare, overrides).model_dump()
    assert spec["optimizer"]["options"]["alpha"] == 2
    assert spec["optimizer"]["options"]["archive"] == 15
    assert spec["optimizer"]["budget"] == {"trials": 1000, "minutes": None}
    assert spec["space"] == {"kind": "lineage", "chromosomes": ("mlp",)}


def test_a_section_of_another_kind_is_the_users_alone() -> None:
    filled = fill_in({"preset": "m2n2", "optimizer": {"kind": "random", "budget": {"trials": 3}}})
    assert filled["optimizer"] == {"kind": "random", "budget": {"trials": 3}}
    assert filled["space"] == {"kind": "lineage"}


@pytest.mark.parametrize(
    ("preset", "operator", "params"), [("bmm", "regmean", {}), ("evolutionary_recipes", "ties", {"density": 0.5})]
)
def test_another_operator_has_parameters_of_its_own(
    preset: str, operator: str, params: dict[str, float], bare: Path
) -> None:
    """What the preset says of its own operator would be refused, by names that the user never wrote."""
    spec = load_spec(bare, [f"preset={preset}", f"space.operator={operator}", f"space.params={params}"])
    assert spec.space.model_dump(include={"operator", "params"}) == {"operator": operator, "params": params}
    groups = PRESETS[preset]({})["space"]["groups"]
    filled = fill_in({"preset": preset, "space": {"operator": operator}})["space"]
    assert filled == {"kind": "coefficients", "operator": operator, "groups": groups}


def test_the_preset_s_own_operator_keeps_its_parameters() -> None:
    space = fill_in({"preset": "bmm", "space": {"operator": "bmm", "params": {"grams": "deltas"}}})["space"]
    assert space["params"] == PRESETS["bmm"]({})["space"]["params"] | {"grams": "deltas"}


@pytest.mark.parametrize(
    ("space", "collected"),
    [
        ({}, {"grams": {"items": 48}}),
        ({"params": {"grams": "mixed"}}, {"grams": {"items": 48}}),
        ({"params": {"grams": "deltas"}}, None),
        ({"operator": "ties"}, None),
        ({"kind": "lineage"}, None),
    ],
)
def test_grams_are_collected_only_for_who_reads_them(space: dict[str, Any], collected: dict[str, Any] | None) -> None:
    assert fill_in({"preset": "bmm", "space": space}).get("artifacts") == collected
    given = fill_in({"preset": "bmm", "artifacts": {"grams": {"items": 7}}})
    assert given["artifacts"] == {"grams": {"items": 7}}


def test_a_budget_is_the_users_alone(bare: Path) -> None:
    spec = load_spec(bare, ["preset=frank_wolfe", "optimizer.budget.minutes=5"]).model_dump()
    assert spec["optimizer"]["budget"] == {"trials": None, "minutes": 5}


@pytest.mark.parametrize(
    ("preset", "space"),
    [
        ("bmm", {"weight": [0.0, 1.5]}),
        ("bmm", {"operator": ["bmm"], "weight": [0.0, 1.5]}),
        ("evolutionary_recipes", {"params": {"weight": [0.0, 2.0]}}),
    ],
)
def test_a_weight_is_said_once_wherever_the_user_says_it(preset: str, space: dict[str, Any], bare: Path) -> None:
    build_plan(load_spec(bare, [f"preset={preset}", f"space={space}"]))
    filled, usual = fill_in({"preset": preset, "space": space})["space"], PRESETS[preset]({})["space"]
    places = filled.get("weight"), filled.get("params", {}).get("weight")
    assert sorted(place is None for place in places) == [False, True]
    assert filled.get("params", {}).get("anchor") == usual.get("params", {}).get("anchor")


def test_no_preset_fills_in_nothing() -> None:
    assert fill_in({"space": {"kind": "lineage"}}) == {"space": {"kind": "lineage"}}


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("space", [None, "lineage", []])
def test_a_space_that_is_none_is_refused_as_without_a_preset(name: str, space: object, bare: Path) -> None:
    bare.write_text(yaml.safe_dump(yaml.safe_load(bare.read_text()) | {"preset": name, "space": space}))
    if space is None and "stages" in PRESETS[name]({}):
        assert load_spec(bare).space is None, "its stages have their own"
        return
    with pytest.raises(InputError, match="space"):
        load_spec(bare)


@pytest.mark.parametrize("name", ["m2n3", 7, ["m2n2"]])
def test_an_unknown_preset_is_refused(name: object) -> None:
    with pytest.raises(InputError, match="unknown preset") as caught:
        fill_in({"preset": name})
    assert "m2n2" in str(caught.value)
