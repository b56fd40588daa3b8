"""Methods of the literature by name: `preset: m2n2` in a spec stands for the sections that make a run that method.

A preset is a function from what a user's spec says to a whole one. What the user says wins, field by field; a section
whose `kind` the user changes is the user's alone, for the preset's fields belong to the other kind. With another
`operator` go the preset's parameters and ranges, which are the other operator's. A budget is the user's or the
preset's: minutes that a user grants are not to end with the preset's trials.
"""

from collections.abc import Callable, Collection, Mapping
from types import MappingProxyType
from typing import Any, TypeAlias

from crossbreed.errors import InputError
from crossbreed.parsing import suggestion

RawSpec: TypeAlias = dict[str, Any]
"""What a spec file holds, before it is parsed."""
_EITHER_PLACE = {"weight", "density"}
"""Keys that a space may have beside `params` or inside."""
_OF_OPERATOR = ("params", "weight", "density")
"""Keys of a space that mean what they do with its operator alone."""


def evolutionary_recipes(given: Mapping[str, Any]) -> RawSpec:
    """CMA-ES over weights and densities of DARE-TIES (arXiv 2403.13187, merging in parameter space).

    The paper spends 1000 trials. It does not say how its layers were grouped: four bands here.
    """
    space = {"kind": "coefficients", "operator": "dare_ties", "groups": {"layers": 4}, "weight": [0.0, 1.0]}
    return _merged({"space": space, "optimizer": {"kind": "cma_es", "budget": {"trials": 1000}}}, given)


def m2n2(given: Mapping[str, Any]) -> RawSpec:
    """M2N2 over merges that are bred (arXiv 2508.16204, experiment 2: an archive of 15, 1000 trials)."""
    optimizer = {"kind": "m2n2", "budget": {"trials": 1000}, "options": {"archive": 15, "alpha": 1.0}}
    return _merged({"space": {"kind": "lineage"}, "optimizer": optimizer}, given)


def frank_wolfe(given: Mapping[str, Any]) -> RawSpec:
    """Hard Frank-Wolfe by gradients, a vertex for each band of layers and module type (FW-Merging, arXiv 2503.12649).

    The paper takes 10 iterations and a vertex for each tensor. Bands of a few layers are as fine as small calibration
    sets can tell apart.
    """
    groups = {"layers": 4, "modules": ["attention", "mlp"]}
    space = {"kind": "coefficients", "operator": "task_arithmetic", "groups": groups}
    return _merged({"space": space, "optimizer": {"kind": "frank_wolfe", "budget": {"trials": 30}}}, given)


def bmm(given: Mapping[str, Any]) -> RawSpec:
    """Bayesian model merging (arXiv 2605.12843): regression around TSV-M, its strength and scale found by a GP.

    Grams are those of the experts' activations on their own items; `space: {params: {grams: deltas}}` needs none
    collected, and found much less on SmolLM2. Ranges and trials were not published; there nothing with a scale above
    1.2 anywhere did well.
    """
    space = {
        "kind": "coefficients",
        "operator": "bmm",
        "groups": {"layers": 3, "modules": ["attention", "mlp"]},
        "params": {"anchor": "tsv_m", "weight": 1.0, "grams": "data", "lambda": [1e-3, 1e3], "scale": [0.2, 1.2]},
    }
    filled = _merged({"space": space, "optimizer": {"kind": "gp", "budget": {"trials": 60}}}, given)
    params = filled["space"].get("params") if isinstance(filled["space"], Mapping) else None
    if isinstance(params, Mapping) and params.get("grams") in ("data", "mixed"):
        filled = _merged({"artifacts": {"grams": {"items": 48}}}, filled)
    return filled


PRESETS: Mapping[str, Callable[[Mapping[str, Any]], RawSpec]] = MappingProxyType(
    {preset.__name__: preset for preset in (evolutionary_recipes, m2n2, frank_wolfe, bmm)}
)
"""Name -> what fills a spec in."""


def fill_in(raw: Mapping[str, Any]) -> RawSpec:
    """Returns the spec that `raw` and the preset it names make together; `raw` itself where it names none.

    Raises:
        InputError: there is no such preset.
    """
    given = dict(raw)
    name = given.pop("preset", None)
    if name is None:
        return given
    if not isinstance(name, str) or name not in PRESETS:
        raise InputError(
            "unknown preset",
            expected=f"one of {', '.join(PRESETS)}",
            got=repr(name),
            where="preset",
            fix=suggestion(str(name).lower(), PRESETS),
        )
    return PRESETS[name](given)


def _merged(usual: Mapping[str, Any], given: Mapping[str, Any]) -> RawSpec:
    """What is given over what is usual, key by key; another `kind` takes nothing over, another `operator` less."""
    if given.get("kind", usual.get("kind")) != usual.get("kind"):
        return dict(given)
    if _listed(given.get("operator", usual.get("operator"))) != _listed(usual.get("operator")):
        usual = _without(_OF_OPERATOR, usual)
    params = given.get("params")
    said = _EITHER_PLACE & {*given, *(params if isinstance(params, Mapping) else ())}
    usual = {key: _without(said, value) if key == "params" else value for key, value in _without(said, usual).items()}
    both = {
        key: _merged(usual[key], given[key])
        for key in (usual.keys() & given.keys()) - {"budget"}
        if isinstance(usual[key], Mapping) and isinstance(given[key], Mapping)
    }
    return {**usual, **given, **both}


def _without(keys: Collection[str], section: Mapping[str, Any]) -> RawSpec:
    return {key: value for key, value in section.items() if key not in keys}


def _listed(value: object) -> list[object]:
    return value if isinstance(value, list) else [value]
