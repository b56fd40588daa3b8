"""What a service says of its models is read strictly, and comes back as it was."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossbreed.errors import InputError
from crossbreed.sources import Structure, TensorInfo
from crossbreed.types import canonical_json

words = st.text(st.characters(min_codepoint=33, max_codepoint=0x2FF, exclude_categories=("Z", "C")), min_size=1)
infos = st.builds(
    TensorInfo,
    shape=st.lists(st.integers(0, 1 << 20), max_size=3).map(tuple),
    dtype=st.sampled_from(["bfloat16", "float16", "float32", "float64", "int64", "bool", "uint8"]),
)


@st.composite
def structures(draw: st.DrawFn) -> Structure:
    tensors = draw(st.dictionaries(words, infos, max_size=5))
    tensors["model.norm.weight"] = TensorInfo(shape=(8,), dtype="bfloat16")
    experts = draw(st.lists(words.filter(lambda name: name != "base"), unique=True, max_size=3))
    touched = {name: draw(st.frozensets(st.sampled_from(sorted(tensors)))) for name in experts}
    hashes = {name: draw(words) for name in ("base", *experts)}
    kinds = {name: draw(st.sampled_from(["unknown", "full", "adapter"])) for name in experts}
    ranks = {
        name: {tensor: draw(st.integers(1, 64)) for tensor in touched[name]} if kind == "adapter" else {}
        for name, kind in kinds.items()
        if kind != "unknown"
    }
    return Structure(
        tensors=dict(sorted(tensors.items())), touched=touched, hashes=hashes, tied=draw(st.booleans()), ranks=ranks
    )


@given(structures())
def test_a_structure_comes_back_whole(structure: Structure) -> None:
    """In whatever order an encoder writes the keys of objects."""
    read = Structure.from_json(json.loads(canonical_json(structure.to_json())))
    assert read == structure
    for field in ("tensors", "touched", "hashes"):
        assert list(getattr(read, field)) == list(getattr(structure, field))


def valid() -> dict[str, Any]:
    norm, ids = {"shape": [8], "dtype": "bfloat16"}, {"shape": [8], "dtype": "int64"}
    return {
        "schema": 1,
        "base": {"hash": "4f2a", "tied": True, "tensors": {"model.norm.weight": norm, "ids": ids}},
        "experts": [{"name": "french", "hash": "90c1", "touched": ["model.norm.weight"]}],
    }


def setting(value: Any, *path: str | int) -> Callable[[dict[str, Any]], Any]:
    """Returns what puts a value into a JSON object."""

    def put(whole: Any) -> Any:
        place = whole
        for step in path[:-1]:
            place = place[step]
        place[path[-1]] = value
        return whole

    return put


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda whole: [whole], "not a mapping"),
        (lambda whole: {**whole, "license": "mit"}, "unknown key `license`"),
        (lambda whole: {"schema": 1, "base": whole["base"]}, "`experts` is missing"),
        (setting(2, "schema"), "another schema"),
        (setting(True, "schema"), "another schema"),
        (setting("yes", "base", "tied"), "true or false"),
        (setting("", "base", "hash"), "structure.base.hash"),
        (setting(7, "base", "hash"), "int 7"),
        (setting([], "base", "tensors"), "an object"),
        (setting({}, "base", "tensors"), "no weights"),
        (setting({"ids": {"shape": [8], "dtype": "int64"}}, "base", "tensors"), "no weights"),
        (setting([8, -1], "base", "tensors", "ids", "shape"), "from 0 up"),
        (setting([8.0], "base", "tensors", "ids", "shape"), "from 0 up"),
        (setting([True], "base", "tensors", "ids", "shape"), "from 0 up"),
        (setting(8, "base", "tensors", "ids", "shape"), "a list"),
        (setting("float8_e4m3fn", "base", "tensors", "ids", "dtype"), "no such dtype"),
        (setting(["int64"], "base", "tensors", "ids", "dtype"), "no such dtype"),
        (setting({"shape": [8]}, "base", "tensors", "ids"), "`dtype` is missing"),
        (setting({"shape": [8], "dtype": "int64"}, "base", "tensors", "two words"), "no word"),
        (setting({}, "experts"), "a list"),
        (setting("base", "experts", 0, "name"), "`base` is the base's"),
        (setting([{"name": "a", "hash": "1", "touched": []}] * 2, "experts"), "two sources have one name"),
        (setting(["model.nrom.weight"], "experts", 0, "touched"), "did you mean `model.norm.weight`"),
        (setting(["ids", "ids"], "experts", 0, "touched"), "listed twice"),
        (setting([None], "experts", 0, "touched"), "experts[0].touched"),
        (setting("ids", "experts", 0, "touched"), "a list"),
        (setting(4, "experts", 0, "ranks"), "an object"),
        (setting({"ids": 4}, "experts", 0, "ranks"), "a rank for each"),
        (setting({"model.norm.weight": 0}, "experts", 0, "ranks"), "from 1 up"),
        (setting({"model.norm.weight": True}, "experts", 0, "ranks"), "from 1 up"),
        (setting(8, "experts", 0, "rank"), "did you mean `ranks`"),
    ],
)
def test_what_is_odd_is_refused_by_its_place(spoil: Callable[[Any], Any], said: str) -> None:
    assert Structure.from_json(valid()).experts == ("french",)
    with pytest.raises(InputError) as caught:
        Structure.from_json(spoil(valid()))
    assert said in str(caught.value)
    assert "structure" in str(caught.value)
