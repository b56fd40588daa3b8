"""Methods of the literature by name: `preset: m2n2` in a spec stands for the sections that define that method.

A preset is a function from the user's spec to a complete one. Its docstring begins with the method and its paper.
Presets of other packages are entry points of the group `crossbreed.presets` (docs/plugins.md).
"""

from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeAlias, cast

from crossbreed.registry import Registry

RawSpec: TypeAlias = dict[str, Any]
"""The content of a spec file, before it is parsed."""
Preset: TypeAlias = Callable[[Mapping[str, Any]], RawSpec]
"""Returns a user's spec with the preset filled in; see `fill`."""

PRESET = "preset"
"""The key of a file that names one."""
_BUDGET = "budget"
"""The key of limits, which are taken whole."""
_EITHER_PLACE = {"weight", "density"}
"""Keys that a space may have beside `params` or inside it."""
_OF_OPERATOR = {"params", *_EITHER_PLACE}
"""Keys of a space whose meaning depends on its operator."""


def evolutionary_recipes(given: Mapping[str, Any]) -> RawSpec:
    """CMA-ES over weights and densities of DARE-TIES (after arXiv 2403.13187; start, step and ranges are our own).

    The paper spends 1000 trials. It does not describe its grouping of layers; the preset uses four bands. Its search
    starts at 0.5 in every coordinate with a step of 1/6, and densities begin at 0; here it starts at the best merge
    among the baselines, with the optimizer's step, and densities begin where the operator's range does. What DARE keeps
    is divided by the density; mergekit, which the paper uses, keeps the sum of magnitudes instead.
    """
    space = {"kind": "coefficients", "operator": "dare_ties", "groups": {"layers": 4}, "weight": [0.0, 1.0]}
    return fill({"space": space, "optimizer": {"kind": "cma_es", "budget": {"trials": 1000}}}, given)


def m2n2(given: Mapping[str, Any]) -> RawSpec:
    """M2N2 over bred merges (arXiv 2508.16204, experiment 2: an archive of 15, 1000 trials)."""
    optimizer = {"kind": "m2n2", "budget": {"trials": 1000}, "options": {"archive": 15, "alpha": 1.0}}
    return fill({"space": {"kind": "lineage"}, "optimizer": optimizer}, given)


def frank_wolfe(given: Mapping[str, Any]) -> RawSpec:
    """Hard Frank-Wolfe by gradients, a vertex for each band of layers and module type (FW-Merging, arXiv 2503.12649).

    The paper uses 10 iterations and a vertex for each tensor. Small calibration sets do not resolve more than bands of
    a few layers.
    """
    groups = {"layers": 4, "modules": ["attention", "mlp"]}
    space = {"kind": "coefficients", "operator": "task_arithmetic", "groups": groups}
    return fill({"space": space, "optimizer": {"kind": "frank_wolfe", "budget": {"trials": 30}}}, given)


def bmm(given: Mapping[str, Any]) -> RawSpec:
    """Regression around TSV-M, strength and scale searched by a GP: a reconstruction of arXiv 2605.12843 (abstract).

    Grams are those of the experts' activations on their own items; `space: {params: {grams: deltas}}` does not collect
    any, and gained much less on SmolLM2. Ranges and trials were not published; on SmolLM2, no merge with a scale above
    1.2 did well.
    """
    space = {
        "kind": "coefficients",
        "operator": "bmm",
        "groups": {"layers": 3, "modules": ["attention", "mlp"]},
        "params": {"anchor": "tsv_m", "weight": 1.0, "grams": "data", "lambda": [1e-3, 1e3], "scale": [0.2, 1.2]},
    }
    filled = fill({"space": space, "optimizer": {"kind": "gp", "budget": {"trials": 60}}}, given)
    params = filled["space"].get("params") if isinstance(filled["space"], Mapping) else None
    if isinstance(params, Mapping) and params.get("grams") in ("data", "mixed"):
        filled = fill({"artifacts": {"grams": {"items": 48}}}, filled)
    return filled


def regression(given: Mapping[str, Any]) -> RawSpec:
    """Regression layer by layer around TSV-M on search items with their answers, and no search (our own).

    Half of the targets are the experts' own outputs, as nobody's paper has them; the rest is RegMean++ (arXiv
    2508.03121) with an anchor. Settings were chosen on selection items of SmolLM2's example.
    """
    return _without_search({"items": 48}, given)


def data_free(given: Mapping[str, Any]) -> RawSpec:
    """Regression layer by layer on texts that each expert writes itself, and no search (our own).

    The items of the spec are only scored. `crossbreed regress MODEL EXPERT...` does the same without a spec.
    """
    return _without_search({"items": 0, "samples": {}}, given)


def _without_search(settings: Mapping[str, Any], given: Mapping[str, Any]) -> RawSpec:
    usual = {
        "space": {"kind": "coefficients", "operator": "task_arithmetic", "weight": [-0.5, 1.5]},
        "optimizer": {"kind": "cma_es", "budget": {"trials": 0}},
        "artifacts": {"regression": settings},
    }
    return fill(usual, given)


def best(given: Mapping[str, Any]) -> RawSpec:
    """Regression, then gradients on rank components around it: for people with local weights (our own).

    No search items are held out from the gradients: on SmolLM2's example all of them are worth more than an early end.
    """
    stages = [{"kind": "regression", "items": 48}, {"kind": "gradient", "options": {"held_out": 0}}]
    return fill({"stages": stages}, given)


def forward_only(given: Mapping[str, Any]) -> RawSpec:
    """CMA-ES over TSV-M's weights for each expert, band and kind of module: scores alone (our own).

    For engines that give neither activations nor gradients. TSV-M (arXiv 2412.00081) keeps experts out of each other's
    way: on SmolLM2's example it ends above a search over task arithmetic.
    """
    space = {"kind": "coefficients", "operator": "tsv_m", "groups": {"layers": 3, "modules": ["attention", "mlp"]}}
    return fill({"space": space, "optimizer": {"kind": "cma_es", "budget": {"trials": 160}}}, given)


def api(given: Mapping[str, Any]) -> RawSpec:
    """CMA-ES over one weight an expert, then over a factor on each band: for services that bill answers (our own)."""
    coarse = {"kind": "coefficients", "operator": "task_arithmetic"}
    fine = {"kind": "scales", "groups": {"layers": 3, "modules": ["attention", "mlp"]}}
    searches = ((coarse, 60), (fine, 24))
    stages = [{"kind": "cma_es", "space": space, "budget": {"trials": trials}} for space, trials in searches]
    return fill({"stages": stages}, given)


def evo_merging(given: Mapping[str, Any]) -> RawSpec:
    """Densities, then weights of LoRA adapters' factors, by CMA-ES (Evo-Merging, arXiv 2509.12951).

    The paper's loss is the cross-entropy of the right answers (tasks of kind `likelihood`); here any objective will do,
    and the penalties are in its units. A candidate is measured on all search items, where the paper draws 300 anew.
    """
    space = {"kind": "coefficients", "operator": "lora_factors"}
    return fill({"space": space, "optimizer": {"kind": "evo_merging", "budget": {"trials": 1200}}}, given)


def lorahub(given: Mapping[str, Any]) -> RawSpec:
    """Weights of LoRA adapters' factors, by nevergrad's NGOpt in 40 trials (LoraHub, arXiv 2307.13269).

    As in the paper's code, whose loss is the cross-entropy of five examples (a task of kind `likelihood`, `split:
    {search: 5, ...}`) plus 0.05 times the mean magnitude of the weights; the paper has their sum. Which adapters take
    part is the user's choice, where the paper draws 20 of 196.
    """
    space = {"kind": "coefficients", "operator": "lora_factors", "weight": [-1.5, 1.5], "params": {"density": 1.0}}
    options = {"name": "NGOpt", "start": 0.0, "weight_penalty": 0.05}
    return fill(
        {"space": space, "optimizer": {"kind": "nevergrad", "budget": {"trials": 40}, "options": options}}, given
    )


PRESETS = Registry[Preset](
    "preset",
    "crossbreed.presets",
    {
        "evolutionary_recipes": f"{__name__}:evolutionary_recipes",
        "m2n2": f"{__name__}:m2n2",
        "frank_wolfe": f"{__name__}:frank_wolfe",
        "bmm": f"{__name__}:bmm",
        "regression": f"{__name__}:regression",
        "best": f"{__name__}:best",
        "forward_only": f"{__name__}:forward_only",
        "api": f"{__name__}:api",
        "data_free": f"{__name__}:data_free",
        "evo_merging": f"{__name__}:evo_merging",
        "lorahub": f"{__name__}:lorahub",
    },
    part=cast(type, Callable),
)
"""Name -> preset."""


def fill_in(raw: Mapping[str, Any]) -> RawSpec:
    """Returns `raw` with its preset filled in; `raw` itself if it names none.

    Raises:
        InputError: there is no such preset.
    """
    given = dict(raw)
    name = given.pop(PRESET, None)
    return given if name is None else PRESETS.look_up(name, where=PRESET)(given)


def fill(usual: Mapping[str, Any], given: Mapping[str, Any]) -> RawSpec:
    """Returns the spec with missing fields filled in from a preset's sections; given fields win.

    A section of another `kind` is not filled in, since the preset's fields belong to its own kind. With another
    `operator`, the preset's parameters and ranges are dropped, since they belong to its own operator. A budget is taken
    whole: a user's `minutes` must not be cut short by the preset's `trials`.

    >>> fill({"optimizer": {"kind": "gp", "options": {"startup": 9}}}, {"optimizer": {"options": {"spread": 0.5}}})
    {'optimizer': {'kind': 'gp', 'options': {'startup': 9, 'spread': 0.5}}}

    Args:
        usual: Sections of the preset.
        given: The user's spec.
    """
    sections = {key: _section(value, given[key]) for key, value in usual.items() if key in given and key != _BUDGET}
    return {**usual, **given, **sections}


def _section(usual: Mapping[str, Any], given: object) -> object:
    if not isinstance(given, Mapping):
        return given
    kind, operator = usual.get("kind"), usual.get("operator")
    if given.get("kind", kind) != kind:
        return given
    if _listed(given.get("operator", operator)) != _listed(operator):
        usual = _without(_OF_OPERATOR, usual)
    return _merged(_without_said(usual, given), given)


def _without_said(usual: Mapping[str, Any], given: Mapping[str, Any]) -> RawSpec:
    """Drops the preset's weight or density if the user gives one in either of its two places."""
    params = given.get("params")
    said = _EITHER_PLACE & {*given, *(params if isinstance(params, Mapping) else ())}
    kept = _without(said, usual)
    return {**kept, "params": _without(said, kept["params"])} if "params" in kept else kept


def _merged(usual: Mapping[str, Any], given: Mapping[str, Any]) -> RawSpec:
    """Returns the preset's values overridden by the user's, at every depth except inside a budget."""
    both = {
        key: _merged(usual[key], given[key])
        for key in (usual.keys() & given.keys()) - {_BUDGET}
        if isinstance(usual[key], Mapping) and isinstance(given[key], Mapping)
    }
    return {**usual, **given, **both}


def _without(keys: Collection[str], section: Mapping[str, Any]) -> RawSpec:
    return {key: value for key, value in section.items() if key not in keys}


def _listed(value: object) -> list[object]:
    return value if isinstance(value, list) else [value]
