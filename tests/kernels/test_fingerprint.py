"""Law 8: the fingerprint of the stream is that of the folder, however it is sharded."""

import json
from pathlib import Path

import pytest
import torch
from merges import UP, recipe_of
from safetensors.torch import save_file

from crossbreed.errors import InputError
from crossbreed.kernels import Fingerprinted, fingerprint_checkpoint, materialize
from crossbreed.sources import Checkpoint, SourceLocation, Sources


def fingerprint(weights: dict[str, torch.Tensor]) -> str:
    stream = Fingerprinted(iter(sorted(weights.items())))
    assert dict(stream).keys() == weights.keys()
    return stream.value


@pytest.mark.parametrize("num_shards", [1, 3])
def test_what_is_published_has_the_fingerprint_that_was_scored(
    sources: Sources, tmp_path: Path, num_shards: int
) -> None:
    scored = Fingerprinted(materialize(recipe_of(sources, "ties", weight=0.5, density=0.3), sources))
    weights = {name: tensor.clone() for name, tensor in scored}
    names = sorted(weights, reverse=True)
    shards = [{name: weights[name] for name in names[number::num_shards]} for number in range(num_shards)]
    if num_shards == 1:
        save_file(shards[0], tmp_path / "model.safetensors")
    else:
        files = {f"model-{number}.safetensors": shard for number, shard in enumerate(shards)}
        for file, shard in files.items():
            save_file(shard, tmp_path / file)
        index = {"weight_map": {name: file for file, shard in files.items() for name in shard}}
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    (tmp_path / "config.json").write_text(json.dumps({"tie_word_embeddings": True}))
    published = Checkpoint.open(SourceLocation(path=tmp_path))
    assert fingerprint_checkpoint(tmp_path) == scored.value == published.hash


def test_it_is_the_hash_that_the_weights_have_as_a_source(sources: Sources) -> None:
    base = sources.base
    copies = iter([(name, base.tensor(name).clone()) for name in sorted(base.tensors)])
    stream = Fingerprinted(copies)
    assert len(list(stream)) == len(base.tensors)
    assert (stream.value, stream.digests) == (base.hash, base.digests)


def test_what_is_known_is_not_read_again(sources: Sources, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = recipe_of(sources, "task_arithmetic", match=r".*up_proj\.weight", weight=0.3)
    whole = Fingerprinted(materialize(recipe, sources))
    weights = dict(whole)
    read = []
    monkeypatch.setattr("crossbreed.kernels.fingerprint.digest_of", lambda tensor: read.append(tensor) or "changed")
    with_base = Fingerprinted(iter(weights.items()), base=sources.base)
    assert len(list(with_base)) == len(weights)
    assert [tensor.data_ptr() for tensor in read] == [weights[UP].data_ptr()]
    assert {**with_base.digests, UP: whole.digests[UP]} == whole.digests


def test_what_is_kept_counts(sources: Sources) -> None:
    recipe = recipe_of(sources, "task_arithmetic", weight=0.3)
    whole = Fingerprinted(materialize(recipe, sources))
    names = [name for name, _ in whole]
    kept = {name: whole.digests[name] for name in names[::2]}
    part = Fingerprinted(materialize(recipe, sources, without=kept), kept=kept)
    assert [name for name, _ in part] == names[1::2]
    assert part.value == whole.value
    wrong = Fingerprinted(materialize(recipe, sources, without=kept), kept=kept | {names[0]: whole.digests[names[2]]})
    assert len(list(wrong)) == len(names[1::2])
    assert wrong.value != whole.value


def test_every_part_counts() -> None:
    plain = {"a": torch.arange(6.0), "b": torch.ones(2)}
    others = [
        {"a": torch.arange(6.0), "c": torch.ones(2)},
        {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2)},
        {"a": torch.arange(6.0).view(torch.int32), "b": torch.ones(2)},
        {"a": torch.arange(6.0), "b": torch.tensor([1.0, 1.0000001])},
        {"a": torch.arange(6.0)},
    ]
    assert len({fingerprint(weights) for weights in [plain, *others]}) == 1 + len(others)
    assert fingerprint(plain) == fingerprint(
        {"b": torch.ones(2), "a": torch.stack([torch.arange(6.0)] * 2, dim=1)[:, 0]}
    )


def test_odd_shapes_have_fingerprints() -> None:
    assert fingerprint({"scalar": torch.tensor(1.0), "empty": torch.empty(0, 3)})


def test_an_unsorted_or_unfinished_stream_has_no_fingerprint() -> None:
    with pytest.raises(AssertionError, match="sorted by name"):
        list(Fingerprinted(iter([("b", torch.ones(1)), ("a", torch.ones(1))])))
    with pytest.raises(AssertionError, match="was to be kept"):
        list(Fingerprinted(iter([("b", torch.ones(1))]), kept={"b": "of b"}))
    with pytest.raises(AssertionError, match="at its end"):
        _ = Fingerprinted(iter([("a", torch.ones(1))])).value


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no weights"):
        fingerprint_checkpoint(tmp_path)
