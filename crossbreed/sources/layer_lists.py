"""What in config.json belongs to single layers, and how it follows them when layers are stacked, dropped or reordered.

A list with an entry for each layer follows its layers, whatever its key. What transformers makes by a rule from the
layers' numbers (Gemma 2 slides in every second layer) is written out where the rule would say something else of the
new order. A rule that no list can express is refused by name.
"""

import copy
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from crossbreed.errors import InputError
from crossbreed.sources.model_config import HARMLESS, RULED_BY, as_transformers_reads
from crossbreed.sources.naming import DEPTH_KEYS

_OTHER_LISTS = frozenset(
    {
        *("rope_scaling", "rope_parameters", "mrope_section", "short_factor", "long_factor", "time_step_limit"),
        *("ssm_multipliers", "mlp_multipliers"),
        *("attention_types", "block_types", "keys_to_ignore_at_inference"),
    }
)
"""Their lengths say nothing of layers."""
_NUMBERS = ("mlp_only_layers", "full_attn_idxs", "attn_layer_indices", "cross_attention_layers")
"""Lists of the numbers of some layers."""
_STRINGS = ("hybrid_override_pattern",)
"""A letter for each layer."""
_RULES = re.compile(
    r".*(?:layer|attn|attention|moe|expert|window|sparse|rope).*_(?:period|offset|interval|pattern|step|freq)"
    r"|first_k_dense_replace|num_dense_layers|moe_layer_(?:start|end)_index|max_window_layers|num_kv_shared_layers"
    r"|scale_attn_by_inverse_layer_idx|per_layer_config|hybrid_layer_ids"
)
"""Keys of rules by which a layer's number says what it is."""
_EVERY = ("_period", "_interval", "_step", "_freq")
"""Ends of keys of rules that hold for all layers where the number is 1."""
_FROM_END = frozenset({"num_kv_shared_layers"})
"""Rules of the last layers, however many there are."""
_BY_NUMBER = frozenset({"diffllama"})
"""Architectures (`model_type`) whose code reads the layer's number."""

_MOST_SHOWN = 100

Keys: TypeAlias = tuple[str, ...]
"""A nested key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerOrigin:
    """Where a layer of a merge comes from."""

    config: Mapping[str, Any]
    """Its model's config.json."""
    num_layers: int
    """Of its model."""
    number: int
    """Its number there."""


def config_of_layers(
    donor: Mapping[str, Any], num_layers: int, layers: Sequence[LayerOrigin], *, where: Path
) -> dict[str, Any]:
    """Returns the configuration of a model that is made of other models' layers.

    >>> one = {"num_hidden_layers": 2, "kinds": ["full", "sliding"]}
    >>> layers = [LayerOrigin(config=one, num_layers=2, number=number) for number in (0, 1, 1)]
    >>> config_of_layers(one, 2, layers, where=Path("config.json"))
    {'num_hidden_layers': 3, 'kinds': ['full', 'sliding', 'sliding']}

    Args:
        donor: The configuration to start from.
        num_layers: The donor's number of layers.
        layers: The layers of the merge, in order.
        where: The donor's file, for messages.

    Raises:
        InputError: the configuration holds a rule by layers' numbers that the merge breaks.
    """
    reads = [as_transformers_reads(layer.config, where) for layer in layers]
    mine = as_transformers_reads(donor, where)
    wanted: dict[Keys, Any] = {}
    for path, value in _per_layer(mine, num_layers):
        theirs = [_at(read, path) for read in reads]
        wanted[path] = [
            (own if isinstance(own, list | str) and len(own) == layer.num_layers else value)[layer.number]
            for own, layer in zip(theirs, layers, strict=True)
        ]
        if isinstance(value, str):
            wanted[path] = "".join(wanted[path])
    _refuse_rules((mine, num_layers), layers, reads, where)
    config = copy.deepcopy(dict(donor))
    config |= {key: len(layers) for key in DEPTH_KEYS if (key in config or key in mine) and mine.get(key) == num_layers}
    for path, value in wanted.items():
        if _at(donor, path) is not None:
            _put(config, path, value)
    _put_special(config, mine, layers, wanted)
    return _written_out(config, wanted, where)


def require_alike(config: Mapping[str, Any], num_layers: int, *, where: Path) -> None:
    """Refuses a model whose configuration says something of single layers: then none can stand in another's place.

    Args:
        config: config.json.
        num_layers: The model's.
        where: The file, for messages.

    Raises:
        InputError: a list has different entries, or a rule holds for some numbers alone.
    """
    if num_layers < 2:
        return
    for path, value in _per_layer(as_transformers_reads(config, where), num_layers):
        if any(entry != value[0] for entry in value):
            raise InputError(
                f"the layers are not alike: `{'.'.join(path)}` of the configuration says what each is",
                expected="one entry for all layers: an engine cannot change it with each candidate",
                got=repr(value)[:_MOST_SHOWN],
                where=str(where),
                fix="search the coefficients of the layers in their places: `space: {kind: coefficients}`",
            )
    reversed_ = [
        LayerOrigin(config=config, num_layers=num_layers, number=number) for number in reversed(range(num_layers))
    ]
    config_of_layers(config, num_layers, reversed_, where=where)


def depth_of_config(config: Mapping[str, Any]) -> int | None:
    """Returns the number of layers that a configuration states; None where it states none."""
    return next((config[key] for key in DEPTH_KEYS if isinstance(config.get(key), int)), None)


def _written_out(config: dict[str, Any], wanted: Mapping[Keys, Any], where: Path) -> dict[str, Any]:
    """Writes lists that transformers would otherwise make anew, and makes sure that it takes them."""
    derived = _differing(config, wanted, where)
    for path in derived:
        _put(config, path, wanted[path])
    if derived and (wrong := _differing(config, wanted, where)):
        raise _refusal(".".join(wrong[0]), "transformers makes it by a rule, and does not take a list", where)
    return config


def _differing(config: Mapping[str, Any], wanted: Mapping[Keys, Any], where: Path) -> list[Keys]:
    read = as_transformers_reads(config, where)
    return [path for path, value in wanted.items() if _at(read, path) != value]


def _put_special(
    config: dict[str, Any], mine: Mapping[str, Any], layers: Sequence[LayerOrigin], wanted: Mapping[Keys, Any]
) -> None:
    """Lists that are no list of one entry a layer: numbers of layers, repeated patterns."""
    for key in _NUMBERS:
        if isinstance(config.get(key), list):
            config[key] = [i for i, layer in enumerate(layers) if layer.number in (layer.config.get(key) or ())]
    if isinstance(cycle := mine.get("block_types"), list) and cycle:
        config["block_types"] = [cycle[layer.number % len(cycle)] for layer in layers]
    if "attention_types" in mine and ("attention_layers",) in wanted:
        config["attention_types"] = [[wanted["attention_layers",], 1]]


def _refuse_rules(
    donor: tuple[Mapping[str, Any], int], layers: Sequence[LayerOrigin], reads: Sequence[Mapping[str, Any]], where: Path
) -> None:
    """A rule holds for layers in their places, of models that have it alike; counted from the end, for all layers."""
    sources = [donor, *((read, layer.num_layers) for read, layer in zip(reads, layers, strict=True))]
    in_order = [layer.number for layer in layers] == list(range(len(layers)))
    is_whole = {depth for _, depth in sources} == {len(layers)}
    for config, _ in sources:
        if not in_order and config.get("model_type") in _BY_NUMBER:
            raise _refusal("model_type", f"a layer of {config['model_type']} computes with its own number", where)
    found = [_rules(config, depth) for config, depth in sources]
    for path in dict.fromkeys(path for rules in found for path in rules):
        key, value = ".".join(path), found[0].get(path)
        for other in (rules.get(path) for rules in found):
            if other != value:
                raise _refusal(key, f"it is {value!r} in one model, {other!r} in another", where)
        if not in_order:
            raise _refusal(key, f"{value!r} says by a layer's number what it is", where)
        if path[-1] in _FROM_END and not is_whole:
            raise _refusal(key, f"{value!r} is counted from the last layer", where)


def _rules(config: Mapping[str, Any], num_layers: int) -> dict[Keys, Any]:
    """Returns the rules that say something and are not written out as lists, in the text model's part too."""
    found = {}
    text = config.get("text_config")
    for above, part in (((), config), (("text_config",), text if isinstance(text, Mapping) else {})):
        slides = part.get("use_sliding_window", True) and part.get("sliding_window", 1)
        for key, value in part.items():
            made = RULED_BY.get(key)
            listed = made is not None and isinstance(part.get(made), list)
            idle = value in (None, False, 0, [], {}) or ("window" in key and not slides)
            idle |= value == 1 and key.endswith(_EVERY)
            follows = isinstance(value, list | str) and len(value) == num_layers
            if _RULES.fullmatch(key) and not (listed or idle or follows):
                found[*above, key] = value
    return found


def _refusal(key: str, why: str, where: Path) -> InputError:
    return InputError(
        f"`{key}` of the configuration cannot follow the layers: {why}",
        expected="rules that all models have alike, for all layers in their order; or lists with an entry for each",
        where=str(where),
        fix="keep all layers of one model in their places: `models` without `layer_range` in a configuration of "
        "mergekit, no `layers` in a recipe, `space: {kind: coefficients}` in a spec",
    )


def _per_layer(config: Mapping[str, Any], num_layers: int, above: Keys = ()) -> Iterator[tuple[Keys, Any]]:
    for key, value in config.items():
        if key in _OTHER_LISTS or key in _NUMBERS or (key in HARMLESS and key not in RULED_BY):
            continue
        if isinstance(value, Mapping):
            yield from _per_layer(value, num_layers, (*above, key))
        elif isinstance(value, str if key in _STRINGS else list) and len(value) == num_layers:
            yield (*above, key), value


def _at(config: Any, path: Keys) -> Any:  # any JSON value
    for key in path:
        config = config.get(key) if isinstance(config, Mapping) else None
    return config


def _put(config: dict[str, Any], path: Keys, value: Any) -> None:  # any JSON value
    for key in path[:-1]:
        config = config.setdefault(key, {})
    config[path[-1]] = value
