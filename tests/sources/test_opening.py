import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from copies import Copy

from crossbreed.errors import InputError, Mistakes
from crossbreed.sources import Adapter, Checkpoint, open_sources
from crossbreed.testing.toys import make_checkpoint, make_expert

EMBEDDING, NORM = "model.embed_tokens.weight", "model.norm.weight"
POSITIONS = "model.position_ids"


def refusal(base: Path, expert: Path) -> InputError:
    with pytest.raises(InputError) as caught:
        open_sources(str(base), {"french": str(expert)})
    return caught.value


def test_opens_checkpoints_and_adapters_together(
    toy_base: Path, toy_experts: dict[str, Path], toy_adapters: dict[str, Path]
) -> None:
    folders = {name: str(folder) for name, folder in (toy_experts | toy_adapters).items()}
    sources = open_sources(str(toy_base), folders)
    kinds = {name: type(expert) for name, expert in sources.experts.items()}
    assert kinds == {"attention": Checkpoint, "everything": Checkpoint, "plain": Adapter, "stabilised": Adapter}
    assert sources.structure.experts == tuple(folders)
    assert sources.structure.tensors == sources.base.tensors
    assert list(sources.structure.hashes) == ["base", *folders]
    assert len(set(sources.structure.hashes.values())) == 5
    assert sources.structure.num_layers == 4
    assert sources.structure.tied


def test_experts_of_the_same_weights_are_noted(toy_base: Path, toy_experts: dict[str, Path]) -> None:
    one, other = toy_experts["everything"], toy_experts["attention"]
    [note] = open_sources(str(toy_base), {"a": str(one), "b": str(other), "c": str(one)}).notes
    assert note == "`a` and `c` have the same weights: operators that compare experts count them twice"
    assert open_sources(str(toy_base), {"a": str(one), "b": str(other)}).notes == ()


def test_finds_what_each_expert_touched(
    toy_base: Path, toy_experts: dict[str, Path], toy_adapters: dict[str, Path]
) -> None:
    folders = {name: str(folder) for name, folder in (toy_experts | toy_adapters).items()}
    structure = open_sources(str(toy_base), folders).structure
    matrices = {name for name, info in structure.tensors.items() if len(info.shape) == 2}
    assert structure.touched["everything"] == matrices
    assert structure.touched["attention"] == {name for name in matrices if "self_attn" in name}
    assert structure.touched["plain"] == matrices - {EMBEDDING}


def test_the_base_as_its_own_expert_touches_nothing(toy_base: Path) -> None:
    sources = open_sources(str(toy_base), {"itself": str(toy_base)})
    assert sources.structure.touched == {"itself": frozenset()}
    assert sources.base.touched == frozenset()


def test_another_dtype_alone_touches_nothing(toy_base: Path, copy: Callable[[Path], Copy]) -> None:
    wide = copy(toy_base).tensors(lambda tensors: tensors.update({k: t.float() for k, t in tensors.items()}))
    same = open_sources(str(toy_base), {"wide": str(wide.path)}).structure
    assert same.touched["wide"] == frozenset()
    assert same.hashes["wide"] != same.hashes["base"]
    wide.tensors(lambda tensors: tensors[NORM].add_(1e-6))
    assert open_sources(str(toy_base), {"wide": str(wide.path)}).structure.touched["wide"] == {NORM}


def test_another_shape_is_refused_naming_the_tensor(toy_base: Path, copy: Callable[[Path], Copy]) -> None:
    error = refusal(toy_base, copy(toy_base).tensors(lambda t: t.update({NORM: torch.ones(64)})).path)
    assert error.problem == f"`{NORM}` of expert `french` has another shape than the base's"
    assert (error.expected, error.got) == ("(128,)", "(64,)")


@pytest.mark.parametrize(("edit", "words"), [("missing", "lacks"), ("extra", "has")])
def test_a_stray_tensor_is_named(edit: str, words: str, toy_base: Path, copy: Callable[[Path], Copy]) -> None:
    def stray(tensors: dict[str, torch.Tensor]) -> None:
        if edit == "missing":
            del tensors[NORM]
        else:
            tensors[NORM + ".extra"] = torch.ones(1)

    assert f"expert `french` {words} `{NORM}" in refusal(toy_base, copy(toy_base).tensors(stray).path).problem


def test_tied_and_untied_do_not_mix(tmp_path: Path, toy_base: Path) -> None:
    error = refusal(toy_base, make_checkpoint(tmp_path / "untied", tied=False))
    assert error.problem == "expert `french` has another `tie_word_embeddings` than the base"
    assert error.got == "False"


def test_another_architecture_is_refused(tmp_path: Path, toy_base: Path) -> None:
    error = refusal(toy_base, make_checkpoint(tmp_path / "qwen", architecture="qwen2"))
    assert error.problem == "expert `french` has another `model_type` than the base"


def test_settings_that_change_nothing_may_differ(toy_base: Path, copy: Callable[[Path], Copy]) -> None:
    other = copy(toy_base).json("config.json", lambda c: c.update(transformers_version="4.0", use_cache=False))
    assert open_sources(str(toy_base), {"french": str(other.path)}).experts["french"].path == other.path


def test_another_vocabulary_is_refused_naming_tokens(toy_base: Path, copy: Callable[[Path], Copy]) -> None:
    def swap(tokenizer: dict[str, dict[str, dict[str, int]]]) -> None:
        vocabulary = tokenizer["model"]["vocab"]
        vocabulary["A"], vocabulary["B"] = vocabulary["B"], vocabulary["A"]

    error = refusal(toy_base, copy(toy_base).json("tokenizer.json", swap).path)
    assert error.problem == "expert `french` has another vocabulary than the base"
    row = json.loads((toy_base / "tokenizer.json").read_text())["model"]["vocab"]["A"]
    assert f"'A' is row {row} there, row {row + 1} here" in error.got
    assert "2 of them different" in error.got


def test_an_added_token_is_another_vocabulary(toy_base: Path, copy: Callable[[Path], Copy]) -> None:
    added = {"id": 257, "content": "<pad>", "special": True, "normalized": False}
    added |= {"single_word": False, "lstrip": False, "rstrip": False}
    other = copy(toy_base).json("tokenizer.json", lambda tokenizer: tokenizer["added_tokens"].append(added))
    assert "'<pad>' is unknown there, row 257 here" in refusal(toy_base, other.path).got


def test_an_expert_may_come_without_tokenizer_but_not_with_a_broken_one(
    toy_base: Path, copy: Callable[[Path], Copy]
) -> None:
    other = copy(toy_base)
    (other.path / "tokenizer.json").write_text("{}")
    assert refusal(toy_base, other.path).problem == "cannot read a tokenizer"
    (other.path / "tokenizer.json").unlink()
    assert open_sources(str(toy_base), {"french": str(other.path)}).experts.keys() == {"french"}


def test_buffers_must_be_equal(toy_base: Path, tmp_path: Path) -> None:
    base = Copy(toy_base, tmp_path / "base").tensors(lambda t: t.update({POSITIONS: torch.arange(4)}))
    expert = Copy(base.path, tmp_path / "expert")
    assert open_sources(str(base.path), {"french": str(expert.path)}).base.tensors[POSITIONS].dtype == "int64"
    expert.tensors(lambda t: t[POSITIONS].add_(1))
    assert f"`{POSITIONS}` of expert `french` is no weight" in refusal(base.path, expert.path).problem


def test_nan_in_an_expert_is_named(toy_base: Path, copy: Callable[[Path], Copy]) -> None:
    diverged = copy(toy_base).tensors(lambda tensors: tensors[NORM].fill_(torch.nan))
    error = refusal(toy_base, diverged.path)
    assert (error.problem, str(diverged.path) in error.where) == (f"`{NORM}` holds NaN or Inf", True)


def test_all_wrong_folders_are_told_at_once(toy_base: Path, toy_adapters: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs/config.json").write_text("{}")
    experts = {"empty": tmp_path / "empty", "logs": tmp_path / "logs", "gone": tmp_path / "gone", **toy_adapters}
    for base in (toy_base, tmp_path / "logs"):
        with pytest.raises(Mistakes) as caught:
            open_sources(str(base), {name: str(folder) for name, folder in experts.items()})
        told = [error.where for error in caught.value.errors]
        assert [any(str(folder) in where for where in told) for folder in experts.values()] == [True] * 3 + [False] * 2


def test_an_adapter_is_no_base_and_base_no_experts_name(toy_base: Path, toy_adapters: dict[str, Path]) -> None:
    with pytest.raises(InputError, match="an adapter cannot stand alone"):
        open_sources(str(toy_adapters["plain"]), {})
    with pytest.raises(InputError, match="`base` is the base's own name"):
        open_sources(str(toy_base), {"base": str(toy_base)})


def test_sharded_and_untied_sources_merge_as_others_do(tmp_path: Path) -> None:
    base = make_checkpoint(tmp_path / "base", architecture="qwen3", tied=False, num_layers=1)
    expert = make_expert(tmp_path / "expert", base=base, seed=0, pattern="lm_head")
    sharded = Copy(expert, tmp_path / "sharded").sharded()
    structure = open_sources(str(base), {"whole": str(expert), "sharded": str(sharded.path)}).structure
    assert structure.touched == {"whole": {"lm_head.weight"}, "sharded": {"lm_head.weight"}}
    assert structure.hashes["whole"] == structure.hashes["sharded"]
