"""Law 9 with the real vLLM: a hot-swapped engine answers as a fresh one started on the exported checkpoint."""

import shutil
from pathlib import Path
from typing import Literal

import pytest
import torch
from safetensors.torch import save_file
from vllm_process import (
    fail_inside_vllm,
    fresh,
    gap,
    in_its_own_process,
    plain,
    predictions,
    stream,
    swap,
    swap_tests,
    swap_without_processing_experts,
)

from crossbreed.fitness import (
    Generate,
    Loglikelihood,
    Predict,
    Prompt,
    Request,
    TransformersConfig,
    VllmConfig,
)
from crossbreed.fitness.canary import TRUTH_TOLERANCE
from crossbreed.fitness.lengths import answer_length
from crossbreed.testing.tiny_models import make_model
from crossbreed.testing.toys import Architecture, make_checkpoint, make_expert

pytestmark = pytest.mark.engine

TOLERANCE = 1e-3
_HEADINGS, *_ROWS = [
    line.strip("| ").split(" | ")
    for line in (Path(__file__).parents[2] / "docs/models.md").read_text().splitlines()
    if line.startswith("| ") and "---" not in line
]
OTHERS = [row[0] for row in _ROWS if row[_HEADINGS.index("run: vLLM")] == "yes" and row[0] not in ("mixtral", "bloom")]
"""What vLLM runs on a CPU, as `tests/models` has found."""
SHARED = "The quick brown fox jumps over the lazy dog, again and again. " * 7  # 434 tokens: three KV blocks of 128
REQUESTS: list[Request] = [
    *(Generate(prompt=Prompt(text=f"{a} + {a + 3} ="), max_tokens=12) for a in range(6)),
    *(Generate(prompt=Prompt(text=SHARED + end), max_tokens=8) for end in ("A", "B", "C")),
    Generate(prompt=Prompt(text="Hello", chat=True, system="Be brief."), max_tokens=8),
    Loglikelihood(prompt=Prompt(text="The capital of France is"), continuation=" Paris"),
    Loglikelihood(prompt=Prompt(text=""), continuation="Once upon a time"),
    Loglikelihood(prompt=Prompt(text=SHARED), continuation="the end"),
]


def export_merge(folder: Path, base: Path, expert: Path, weight: float) -> Path:
    """Writes base + weight * (expert - base) as a checkpoint."""
    folder.mkdir()
    merged = {
        name: (w0.float() + weight * (w1.float() - w0.float())).to(w0.dtype)
        for (name, w0), (_, w1) in zip(stream(base), stream(expert), strict=True)
    }
    save_file(merged, folder / "model.safetensors", metadata={"format": "pt"})
    for file in base.iterdir():
        if file.suffix != ".safetensors":
            (folder / file.name).write_bytes(file.read_bytes())
    return folder


def export_part(folder: Path, old: Path, new: Path) -> Path:
    """Writes `old` with other keys in one layer, another gate in another, and other embeddings."""
    changed = {"layers.1.self_attn.k_proj", "layers.2.mlp.gate_proj", "embed_tokens"}
    shutil.copytree(old, folder)
    tensors = {
        name: t1 if any(part in name for part in changed) else t0
        for (name, t0), (_, t1) in zip(stream(old), stream(new), strict=True)
    }
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize(
    ("architecture", "tied", "dtype"),
    [
        pytest.param("llama", False, "bfloat16", marks=pytest.mark.slow),
        pytest.param("qwen3", True, "float32", marks=pytest.mark.slow),
        pytest.param("llama", True, "bfloat16", marks=pytest.mark.slow),
    ],
)
def test_a_swapped_engine_answers_as_a_fresh_one(
    tmp_path: Path, architecture: Architecture, tied: bool, dtype: Literal["bfloat16", "float32"]
) -> None:
    base = make_checkpoint(tmp_path / "base", architecture=architecture, tied=tied, dtype=getattr(torch, dtype))
    expert = make_expert(tmp_path / "expert", base=base, seed=1)
    a, b = (export_merge(tmp_path / name, base, expert, weight) for name, weight in (("a", -0.5), ("b", 0.7)))
    part = export_part(tmp_path / "part", a, b)
    config = VllmConfig(kind="vllm", dtype=dtype, kv_cache_gb=0.25)

    swapped = in_its_own_process(swap, config, base, a, b, part, REQUESTS)
    expected = in_its_own_process(fresh, config, b, REQUESTS)
    expected_part = in_its_own_process(fresh, config, part, REQUESTS)

    assert gap(swapped.b, expected) <= TOLERANCE
    assert gap(swapped.a, expected) > TOLERANCE, "the two merges must differ, or nothing is shown"
    assert gap(swapped.b_after_torn_stream, expected) <= TOLERANCE
    assert gap(swapped.b_after_nan, expected) <= TOLERANCE
    assert gap(swapped.part, expected_part) <= TOLERANCE
    assert gap(swapped.a, expected_part) > TOLERANCE
    outside = set() if tied else {"lm_head.weight"}
    assert swapped.kept == outside | {name for name, _ in stream(base) if "layers.0" in name or "layers.3" in name}
    assert len(swapped.errors) == 2
    assert swapped.errors[0] == "NaN in layer 1"
    assert "weights are gone" in swapped.errors[1]

    # The comparison has teeth: it fails without any one of the steps, and when fused tensors are sent alone.
    assert gap(swapped.b_after_nan_without_clear, expected) > TOLERANCE
    assert gap(swapped.b_without_reset, expected) > TOLERANCE
    assert (gap(swapped.b_without_repack, expected) > TOLERANCE) == tied
    assert gap(swapped.part_without_siblings, expected_part) > TOLERANCE
    # So has the canary, which has no fresh engine to compare with.
    assert "prefix cache" in swapped.canary_without_reset
    assert ("output head" in swapped.canary_without_repack) == tied
    assert "sending only the changed tensors" in swapped.canary_without_siblings
    if dtype == "float32":
        assert gap(swapped.b, plain(b, REQUESTS)) <= TOLERANCE


@pytest.mark.parametrize(
    "names",
    [
        pytest.param(("mixtral", "bloom"), marks=pytest.mark.slow),
        *(
            pytest.param(names, marks=pytest.mark.slow)
            for names in (OTHERS[i : i + 6] for i in range(0, len(OTHERS), 6))
        ),
    ],
)
def test_any_architecture_is_swapped_as_a_fresh_engine_starts(tmp_path: Path, names: tuple[str, ...]) -> None:
    folders = [make_model(name, tmp_path / name) for name in names]
    for name, found in zip(names, in_its_own_process(swap_tests, folders), strict=True):
        assert found.is_right, f"{name}: {found}"
        assert found.truth <= TRUTH_TOLERANCE, f"{name}: {found}"


def test_vllm_needs_experts_processed_and_the_canary_sees_it(tmp_path: Path) -> None:
    folder = make_model("mixtral", tmp_path / "mixtral")
    distance, said = in_its_own_process(swap_without_processing_experts, folder)
    assert distance > TOLERANCE, "vLLM processes experts fully at each reload: `_vllm_worker` no longer needs to"
    assert "as it did when it started on the same weights" in said


@pytest.mark.slow
def test_chosen_tokens_are_as_likely_as_transformers_says(tmp_path: Path) -> None:
    """However unlikely, more than vLLM tells at once, and the most likely ones; whatever was asked before."""
    base = make_checkpoint(tmp_path / "base", dtype=torch.float32)
    answer, prompts = (70, 80, 90), ("1 + 2 =", SHARED + "A", SHARED + "B")
    chosen = [tuple(range(start, 272, 2 + start)) for start in range(3)]
    asked = [Predict(prompt=Prompt(text=text), answer=answer, tokens=tuple(chosen)) for text in prompts]
    asked.append(Predict(prompt=Prompt(text=prompts[0]), answer=answer, alternatives=64))
    config = VllmConfig(kind="vllm", dtype="float32", kv_cache_gb=0.25)
    found, again = in_its_own_process(predictions, config, base, asked)
    [expected, _] = predictions(TransformersConfig(kind="transformers"), base, asked)
    assert found == again
    for one, other in zip(found, expected, strict=True):
        assert one.prompt_tokens == other.prompt_tokens
        for place, truth in zip(one.places, other.places, strict=True):
            assert place == pytest.approx(truth, abs=TOLERANCE)


@pytest.mark.slow
def test_answers_end_and_are_as_long_as_transformers_says(tmp_path: Path) -> None:
    """At a stop or at the limit: what a length counts."""
    base = make_checkpoint(tmp_path / "base", dtype=torch.float32)
    prompts = [Prompt(text=f"{a} + {a + 3} =") for a in range(6)]
    free = plain(base, [Generate(prompt=prompt, max_tokens=12) for prompt in prompts])
    letters = [[letter for letter in said.text if letter.isascii()] for said in free]
    asked = [
        Generate(prompt=prompt, max_tokens=12, stop=stops)
        for prompt, seen in zip(prompts, letters, strict=True)
        for stops in ((), (seen[1],), ("zz", *seen[-2:]))
    ]
    expected = plain(base, asked)
    found = in_its_own_process(fresh, VllmConfig(kind="vllm", dtype="float32", kv_cache_gb=0.25), base, asked)
    half = "\N{REPLACEMENT CHARACTER}"  # of a character that is cut: vLLM does not show it
    assert [one.text.rstrip(half) for one in found] == [one.text.rstrip(half) for one in expected]
    assert [one.ended for one in found] == [one.ended for one in expected]
    lengths = [answer_length(one, max_tokens=12) for one in found]
    assert lengths == [answer_length(one, max_tokens=12) for one in expected]
    assert {one.ended for one in found} == {"stop", "length"}
    assert len({*lengths}) > 2


def test_an_engine_that_failed_is_not_asked_again(tmp_path: Path) -> None:
    base = make_checkpoint(tmp_path / "base")
    first, *later = in_its_own_process(fail_inside_vllm, VllmConfig(kind="vllm", kv_cache_gb=0.25), base)
    assert "did not take the weights" in first
    assert len(later) == 2
    assert all("not used again (vLLM did not take the weights" in error for error in later)
