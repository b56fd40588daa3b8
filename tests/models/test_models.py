"""What docs/models.md says of an architecture is so, and what is no causal language model is refused before a run."""

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from cells import COLUMNS, LENGTH, Subject, outcome
from make_models_page import PAGE, VLLM, read, render

from crossbreed import run
from crossbreed.errors import InputError
from crossbreed.runs import build_plan
from crossbreed.runs.spec import parse_spec
from crossbreed.testing.tiny_models import ARCHITECTURES, OTHERS

CELLS = read()
SHORT = {
    *("llama", "qwen3", "gemma2", "phi3", "olmo2", "gpt2", "gpt_neox", "bloom", "falcon", "opt", "mpt"),
    *("mamba",),
}
SHORT |= {"rwkv", "jamba", "mixtral", "deepseek_v3"}
"""Whose `check` is tried by default; the others are slow together, and so are other columns of all but one."""
WHOLE = "qwen3_moe"


def cells() -> Iterator[object]:
    for name in ARCHITECTURES:
        for column in COLUMNS:
            is_short = (column == "check" and name in SHORT) or (name == WHOLE and column not in ("mergekit", VLLM))
            marks = [] if is_short else [pytest.mark.slow]
            if column == VLLM:
                marks.append(pytest.mark.engine)
            if column == "mergekit":
                marks += [pytest.mark.parity, pytest.mark.skipif(find_spec("mergekit") is None, reason="no mergekit")]
            yield pytest.param(name, column, marks=marks, id=f"{name}-{column}")


@pytest.fixture(scope="session")
def subjects(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Subject]:
    return {name: Subject(name, tmp_path_factory.mktemp(name)) for name in ARCHITECTURES}


@pytest.mark.parametrize(("name", "column"), [*cells()])
def test_a_cell_of_the_page_is_so(name: str, column: str, subjects: dict[str, Subject]) -> None:
    assert outcome(subjects[name], column) == CELLS[name, column], "if meant: python tests/models/make_models_page.py"


def test_the_page_is_of_these_architectures_and_columns() -> None:
    assert render(CELLS) == PAGE.read_text()
    assert {name for name, _ in CELLS} == ARCHITECTURES.keys()


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("groups", [{}, {"layers": 2, "modules": ["attention", "mlp"]}])
def test_what_is_no_causal_language_model_is_refused_first(name: str, groups: dict[str, Any], tmp_path: Path) -> None:
    spec = dict(Subject(name, tmp_path).spec)
    spec["space"] = {**spec["space"], "groups": groups} if groups else spec["space"]
    with pytest.raises(InputError, match="the base is not a causal language model"):
        build_plan(parse_spec(spec))


def with_grams(subject: Subject) -> dict[str, Any]:
    space = {"kind": "coefficients", "operator": "bmm", "params": {"grams": "data"}}
    return {**subject.spec, "space": space, "artifacts": {"grams": {"items": 2}}}


@pytest.mark.parametrize(("name", "tensor"), [("mixtral", r"experts\.0\.w1"), ("mamba", "dt_proj")])
def test_grams_that_cannot_be_had_are_refused_before_a_run(
    name: str, tensor: str, subjects: dict[str, Subject]
) -> None:
    with pytest.raises(InputError, match=f"there are no Grams of the inputs of .*{tensor}"):
        build_plan(parse_spec(with_grams(subjects[name])))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gpt2", "falcon_h1", "lfm2", "rwkv"])
def test_grams_of_transposed_matrices_and_of_mixers_are_collected(name: str, tmp_path: Path) -> None:
    report = run(with_grams(Subject(name, tmp_path)), tmp_path / "run")
    assert set(report.num_trials) == {"OK"}


@pytest.mark.parametrize("name", ["bloom", "mamba"])
def test_a_model_that_says_no_longest_text_needs_a_limit(name: str, tmp_path: Path) -> None:
    subject = Subject(name, tmp_path)
    spec: dict[str, Any] = {**subject.spec}
    spec["fitness"] = {**spec["fitness"], "engine": {"kind": "transformers"}}
    with pytest.raises(InputError, match="does not limit the length of a text") as caught:
        build_plan(parse_spec(spec)).measured()
    assert "max_model_len: 2048" in caught.value.fix
    spec["fitness"]["engine"]["max_model_len"] = LENGTH
    build_plan(parse_spec(spec)).measured()
