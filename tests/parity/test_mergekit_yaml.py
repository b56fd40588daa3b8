"""`crossbreed merge X.yml --numerics mergekit` writes the tensors that mergekit 0.1.5 writes, to the bit.

mergekit runs in a process of its own, once for all cases (mergekit_cases.yml): it sets global state on import.
"""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from crossbreed.mergekit import METHODS
from crossbreed.mergekit.methods import Scope
from crossbreed.runs import merge_recipe
from crossbreed.testing.toys import make_adapter, make_checkpoint, make_expert

pytestmark = [
    pytest.mark.parity,
    pytest.mark.skipif(find_spec("mergekit") is None, reason="mergekit 0.1.5 is not installed (pip install --no-deps)"),
]

RUN = """
import json, logging, sys, torch, yaml
from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.options import MergeOptions

torch.set_num_threads(1)
logging.disable(logging.WARNING)
cache, *folders = sys.argv[1:]
for folder in folders:
    dtype = json.load(open(folder + "/lora_dtype.json"))
    options = MergeOptions(lora_merge_cache=cache, lora_merge_dtype=dtype, quiet=True, write_model_card=False)
    run_merge(MergeConfiguration.model_validate(yaml.safe_load(open(folder + "/config.yml"))), folder + "/out", options)
"""

CASES = yaml.safe_load(Path(__file__).with_name("mergekit_cases.yml").read_text())
LORA_DTYPES = {"adapter_in_fp32": "float32"}


@pytest.fixture(scope="module")
def toys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Families of small models, in three dtypes, tied and untied, with tokens of their own and with adapters."""
    root = tmp_path_factory.mktemp("models")
    for suffix, dtype in {"": torch.bfloat16, "16": torch.float16, "32": torch.float32}.items():
        base = make_checkpoint(root / f"base{suffix}", dtype=dtype)
        for seed, name in enumerate("abc", start=1):
            make_expert(root / f"{name}{suffix}", base=base, seed=seed, scale=0.02 * seed)
    make_checkpoint(root / "stranger", seed=7)
    make_expert(root / "untied_a", base=make_checkpoint(root / "untied", tied=False, seed=8), seed=4)
    make_expert(root / "qwen_a", base=make_checkpoint(root / "qwen", architecture="qwen2", num_layers=2), seed=5)
    add_tokens(root / "tokens", ["<x>", "<y>"], of=root / "b")
    add_tokens(root / "tokens2", ["<z>", "<y>", "<x>"], of=root / "c")
    for seed, (name, rslora) in enumerate({"lora": False, "rslora": True, "lora2": False}.items(), start=6):
        make_adapter(root / name, base=root / "base", seed=seed, rslora=rslora)
    return {folder.name: folder for folder in root.iterdir()}


def add_tokens(folder: Path, tokens: list[str], *, of: Path) -> None:
    """Copies a model, cuts its padding rows off, and gives it more tokens, with random rows."""
    shutil.copytree(of, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    have = len(tokenizer)
    tokenizer.add_tokens(tokens)
    tokenizer.save_pretrained(folder)
    weights = load_file(folder / "model.safetensors")
    rows = weights["model.embed_tokens.weight"][:have]
    new = torch.randn(len(tokens), rows.shape[1], generator=torch.Generator().manual_seed(len(tokens))).to(rows.dtype)
    weights["model.embed_tokens.weight"] = torch.cat([rows, new])
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text()) | {"vocab_size": len(tokenizer)}
    (folder / "config.json").write_text(json.dumps(config))


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """A sum over a large tensor depends on the number of threads, there as here."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def merged_by_mergekit(toys: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for each case: `config.yml`, and `out`, where mergekit wrote."""
    root = tmp_path_factory.mktemp("mergekit")
    for name, config in CASES.items():
        (root / name).mkdir()
        text = yaml.safe_dump(config, sort_keys=False)
        (root / name / "config.yml").write_text(re.sub(r"@(\w+)", lambda found: str(toys[found[1]]), text))
        (root / name / "lora_dtype.json").write_text(json.dumps(LORA_DTYPES.get(name)))
    command = [sys.executable, "-c", RUN, str(root / "cache"), *(str(root / name) for name in CASES)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    return root


@pytest.mark.parametrize("name", CASES)
def test_the_tensors_are_mergekits(name: str, merged_by_mergekit: Path, tmp_path: Path) -> None:
    folder, out = merged_by_mergekit / name, tmp_path / "out"
    merge_recipe(folder / "config.yml", out, numerics="mergekit", lora_dtype=LORA_DTYPES.get(name))
    theirs, ours = load_file(folder / "out/model.safetensors"), load_file(out / "model.safetensors")
    assert ours.keys() == theirs.keys()
    for tensor, values in theirs.items():
        assert ours[tensor].dtype == values.dtype, tensor
        assert torch.equal(ours[tensor], values), f"{tensor}: {int((ours[tensor] != values).sum())} elements differ"
    check_config(json.loads((out / "config.json").read_text()), json.loads((folder / "out/config.json").read_text()))
    assert AutoTokenizer.from_pretrained(out).get_vocab() == AutoTokenizer.from_pretrained(folder / "out").get_vocab()


def check_config(ours: Mapping[str, object], theirs: Mapping[str, object]) -> None:
    for key in ("num_hidden_layers", "vocab_size", "model_type", "hidden_size"):
        assert ours[key] == theirs[key], key


def test_methods_are_declared_as_mergekit_declares_them() -> None:
    script = """
import json
from mergekit.merge_methods import registered_methods
specs = [method.spec for method in registered_methods()]
number = lambda default: default if isinstance(default, (int, float)) else None
print(json.dumps({spec.name: {
    "parameters": {p.name: [p.scope.value, number(p.default)] for p in spec.parameters},
    "base": spec.contract.base.value,
} for spec in specs}))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    scopes = {Scope.GLOBAL: "shared", Scope.MODEL: "input", Scope.EXPERT: "non_base"}
    ours = {
        method.name: {
            "parameters": {one.name: [scopes[one.scope], one.default] for one in method.parameters},
            "base": "ignored" if method.base.value == "ordinary" else method.base.value,
        }
        for method in METHODS.values()
    }
    assert ours == json.loads(done.stdout.splitlines()[-1])
