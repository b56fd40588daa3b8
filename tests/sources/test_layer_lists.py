"""What rules of a configuration say of layers that are cut, or come from several models."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest

from crossbreed.errors import InputError
from crossbreed.sources.layer_lists import LayerOrigin, config_of_layers

WHERE = Path("config.json")


def of(numbers: Iterable[int], *configs: dict[str, Any]) -> dict[str, Any]:
    """The layers with these numbers: the first of the first model, the next of the second ..."""
    return config_of_layers(
        configs[0], configs[0]["num_hidden_layers"], [*origins(list(numbers), configs)], where=WHERE
    )


def origins(numbers: Sequence[int], configs: Sequence[dict[str, Any]]) -> Iterable[LayerOrigin]:
    for place, number in enumerate(numbers):
        config = configs[min(place, len(configs) - 1)]
        yield LayerOrigin(config=config, num_layers=config["num_hidden_layers"], number=number)


@pytest.mark.parametrize("above", [None, "text_config"])
def test_a_rule_that_counts_from_the_end_needs_all_layers(above: str | None) -> None:
    rule = {"num_kv_shared_layers": 2}
    config = {"num_hidden_layers": 4, **(rule if above is None else {above: rule})}
    assert of(range(4), config) == config
    for numbers in (range(3), [0, 1, 2, 3, 3]):
        with pytest.raises(InputError, match="num_kv_shared_layers"):
            of(numbers, config)
    with pytest.raises(InputError, match="counted from the last"):
        of(range(4), config, config | {"num_hidden_layers": 6})


def test_a_rule_that_counts_from_the_start_bears_a_cut() -> None:
    config = {"num_hidden_layers": 4, "first_k_dense_replace": 1}
    assert of(range(3), config) == config | {"num_hidden_layers": 3}


@pytest.mark.parametrize("theirs", [3, 0, None])
def test_models_with_other_rules_do_not_share_layers(theirs: int | None) -> None:
    ours = {"num_hidden_layers": 4, "first_k_dense_replace": 1}
    with pytest.raises(InputError, match="1 in one model"):
        of(range(4), ours, ours | {"first_k_dense_replace": theirs})
    if theirs:
        with pytest.raises(InputError, match="None in one model, 3 in another"):
            of(range(4), {"num_hidden_layers": 4}, ours | {"first_k_dense_replace": theirs})
