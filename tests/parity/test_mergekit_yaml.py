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
from typing import Any

import pytest
import torch
import yaml
from jinja2 import TemplateError
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from crossbreed.mergekit import METHODS
from crossbreed.mergekit.chat_templates import TEMPLATES
from crossbreed.mergekit.methods import Scope
from crossbreed.runs import merge_recipe
from crossbreed.testing.toys import byte_tokenizer, make_adapter, make_checkpoint, make_expert

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
PUBLIC = yaml.safe_load(Path(__file__).with_name("public_cases.yml").read_text())
QUICK = list(PUBLIC)[:10]
SLOW = list(PUBLIC)[10:]
RANDOM = {"dare_ties_lazy", "dare_linear_two", "della_random"}
"""Whose masks are drawn by chance: they have mergekit's distribution."""
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
    add_tokens(root / "surplus", ["<s>", "<t>"], of=root / "base", num_rows=257)
    for seed, (name, rslora) in enumerate({"lora": False, "rslora": True, "lora2": False}.items(), start=6):
        make_adapter(root / name, base=root / "base", seed=seed, rslora=rslora)
    return {folder.name: folder for folder in root.iterdir()}


def add_tokens(folder: Path, tokens: list[str], *, of: Path, num_rows: int | None = None) -> None:
    """Copies a model, cuts its padding rows off, and gives it more tokens, with random rows (of all: `num_rows`)."""
    shutil.copytree(of, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    have = len(tokenizer)
    tokenizer.add_tokens(tokens)
    tokenizer.save_pretrained(folder)
    weights = load_file(folder / "model.safetensors")
    rows = weights["model.embed_tokens.weight"][:have]
    new = torch.randn(len(tokens), rows.shape[1], generator=torch.Generator().manual_seed(len(tokens))).to(rows.dtype)
    weights["model.embed_tokens.weight"] = torch.cat([rows, new])[:num_rows].clone()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text()) | {"vocab_size": num_rows or len(tokenizer)}
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
    quick = {name: PUBLIC[name] for name in QUICK}
    return run_mergekit(tmp_path_factory.mktemp("mergekit"), {**CASES, **quick}, toys)


@pytest.fixture(scope="module")
def public_by_mergekit(toys: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same for the other public configurations."""
    return run_mergekit(tmp_path_factory.mktemp("public"), {name: PUBLIC[name] for name in SLOW}, toys)


def run_mergekit(root: Path, cases: Mapping[str, object], toys: Mapping[str, Path]) -> Path:
    for name, config in cases.items():
        (root / name).mkdir()
        text = yaml.safe_dump(config, sort_keys=False)
        (root / name / "config.yml").write_text(re.sub(r"@(\w+)", lambda found: str(toys[found[1]]), text))
        (root / name / "lora_dtype.json").write_text(json.dumps(LORA_DTYPES.get(name)))
    command = [sys.executable, "-c", RUN, str(root / "cache"), *(str(root / name) for name in cases)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    return root


@pytest.mark.parametrize("name", [*CASES, *QUICK])
def test_the_tensors_are_mergekits(name: str, merged_by_mergekit: Path, tmp_path: Path) -> None:
    check_tensors(name, merged_by_mergekit / name, tmp_path / "out")


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_so_are_those_of_public_cards(
    name: str, public_by_mergekit: Path, toys: dict[str, Path], tmp_path: Path
) -> None:
    check_tensors(name, public_by_mergekit / name, tmp_path / "out", base=toys["base"] if name in RANDOM else None)


def check_tensors(name: str, folder: Path, out: Path, *, base: Path | None = None) -> None:
    """Compares our merge with mergekit's; of random masks (with a base), how many elements change, and by how much."""
    merge_recipe(folder / "config.yml", out, numerics="mergekit", lora_dtype=LORA_DTYPES.get(name))
    theirs, ours = load_file(folder / "out/model.safetensors"), load_file(out / "model.safetensors")
    assert ours.keys() == theirs.keys()
    unmerged = load_file(base / "model.safetensors") if base else {}
    for tensor, values in theirs.items():
        assert ours[tensor].dtype == values.dtype, tensor
        if base is None:
            assert torch.equal(ours[tensor], values), f"{tensor}: {int((ours[tensor] != values).sum())} elements differ"
        elif values.numel() > 1000:
            deltas = [merged.float() - unmerged[tensor].float() for merged in (ours[tensor], values)]
            shares = [float((delta != 0).float().mean()) for delta in deltas]
            assert shares[0] == pytest.approx(shares[1], abs=4 * (0.5 / values.numel()) ** 0.5), tensor
            assert float(deltas[0].std()) == pytest.approx(float(deltas[1].std()), rel=0.05), tensor
    check_config(json.loads((out / "config.json").read_text()), json.loads((folder / "out/config.json").read_text()))
    mine, other = AutoTokenizer.from_pretrained(out), AutoTokenizer.from_pretrained(folder / "out")
    assert mine.get_vocab() == other.get_vocab()
    chat = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes."}]
    written = [one.apply_chat_template(chat, tokenize=False, bos_token="<eos>") for one in (mine, other)]
    assert written[0] == written[1]


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("roles", ["u", "su", "ua", "suau", "uxau", "a", "s", "uu"])
def test_a_template_writes_the_prompts_of_mergekits(name: str, roles: str) -> None:
    """Theirs is a file of the installed package."""
    package = find_spec("mergekit")
    assert package is not None
    assert package.origin is not None
    theirs = (Path(package.origin).parent / "_data" / "chat_templates" / f"{name}.jinja").read_text()
    says = {
        "u": ("user", " Hi\nyou "),
        "a": ("assistant", "Yes. "),
        "s": ("system", " Be."),
        "x": ("user_context", "X"),
    }
    chat = [dict(zip(("role", "content"), says[role], strict=True)) for role in roles]
    tokenizer = byte_tokenizer()
    tokenizer.bos_token = "<bos>"
    for prompts in (True, False):
        ours, other = (written(tokenizer, chat, template, prompts) for template in (TEMPLATES[name], theirs))
        assert ours == other


def written(tokenizer: Any, chat: list[dict[str, str]], template: str, prompts: bool) -> str | None:
    """Returns the chat as text; None if the template refuses it."""
    try:
        text: str = tokenizer.apply_chat_template(
            chat, tokenize=False, chat_template=template, add_generation_prompt=prompts
        )
    except TemplateError:
        return None
    return text


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
