"""What crossbreed can do with an architecture: each cell of docs/models.md is one of these functions, executed.

A function returns nothing, and raises where crossbreed refuses or something is not as it should be.
"""

import atexit
import json
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import cache, cached_property
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import transformers as tf
import yaml
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from crossbreed import run
from crossbreed.errors import CrossbreedError, SwapError, first_line
from crossbreed.fitness import Loglikelihood, Prompt, TransformersConfig, build_engine
from crossbreed.mergekit import to_mergekit
from crossbreed.recipes.named import weighted_deltas
from crossbreed.runs.check import check_spec
from crossbreed.runs.publishing.checkpoint import Merge, write_checkpoint
from crossbreed.runs.publishing.contents import mergekit_config
from crossbreed.runs.publishing.publish_run import publish_run
from crossbreed.runs.spec import parse_spec
from crossbreed.runs.weights import Weights
from crossbreed.sources import open_sources
from crossbreed.testing.tiny_models import make_model
from crossbreed.testing.toys import load_weights, make_expert
from crossbreed.types import Recipe

LENGTH = 96
ASKED = Loglikelihood(prompt=Prompt(text="The red thing"), continuation=" stands beside the green one.")
MERGEKIT = """
import sys, yaml
from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.options import MergeOptions

for line in sys.stdin:
    folder, said = line.strip(), "done"
    try:
        config = MergeConfiguration.model_validate(yaml.safe_load(open(folder + "/config.yml")))
        run_merge(config, folder + "/out", MergeOptions(quiet=True, write_model_card=False))
    except Exception as error:
        said = f"{type(error).__name__}: {error}".splitlines()[0]
    print("answer:", said, flush=True)
"""


class Wrong(Exception):
    """Something was done, and is not right."""


@dataclass(frozen=True)
class Subject:
    """An architecture's toys, made when they are first needed."""

    name: str
    folder: Path

    @cached_property
    def base(self) -> Path:
        return make_model(self.name, self.folder / "base")

    @cached_property
    def expert(self) -> Path:
        return make_expert(self.folder / "expert", base=self.base, seed=1)

    @cached_property
    def spec(self) -> Mapping[str, Any]:
        items = [{"id": str(i), "text": f"Line {i}: the red thing stands beside the green one."} for i in range(8)]
        file = self.folder / "items.jsonl"
        file.write_text("".join(json.dumps(item) + "\n" for item in items))
        return {
            "name": self.name,
            "sources": {"base": str(self.base), "experts": {"expert": str(self.expert)}},
            "space": {"kind": "coefficients", "operator": "task_arithmetic"},
            "optimizer": {"kind": "random", "budget": {"trials": 1}},
            "workers": {"executor": "local"},
            "fitness": {
                "engine": {"kind": "transformers", "max_model_len": LENGTH},
                "tasks": [{"name": "ppl", "kind": "perplexity", "items": str(file)}],
                "split": {"search": 3, "select": 2, "report": 3},
            },
        }

    @cached_property
    def run(self) -> Path:
        if said := _run_on(self.spec, self.folder / "run"):
            raise Wrong(said)
        return self.folder / "run"


def check(subject: Subject) -> None:
    """`crossbreed check` finds nothing wrong."""
    check_spec(parse_spec(subject.spec))


def merge(subject: Subject) -> None:
    """The written tensors are base plus half the delta, and transformers loads all of them."""
    out = _written(subject, {"expert": subject.expert}, 0.5)
    base, expert, merged = (load_weights(folder) for folder in (subject.base, subject.expert, out))
    for name, tensor in base.items():
        _require_equal(name, merged[name], tensor + 0.5 * (expert[name] - tensor))
    _loaded(out)


def transformers(subject: Subject) -> None:
    """A run, with canary, search, selection and report."""
    _ = subject.run


def lora(subject: Subject) -> None:
    """An adapter that PEFT makes for all linear modules that it takes gives the model that PEFT merges."""
    model = tf.AutoModelForCausalLM.from_pretrained(subject.base, dtype=torch.float32)
    try:
        adapted = get_peft_model(model, LoraConfig(r=2, lora_alpha=4, target_modules=_linears(model)))
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in adapted.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
        adapted.save_pretrained(subject.folder / "lora")
        merged = adapted.merge_and_unload().state_dict()
    except Exception as error:
        raise Wrong(f"PEFT cannot make one: {first_line(error)}") from error
    out = _written(subject, {"expert": subject.folder / "lora"}, 1.0)
    for name, tensor in _loaded(out).state_dict().items():
        _require_equal(name, tensor, merged[name])


def publish(subject: Subject) -> None:
    """The published folder loads in transformers, and answers as what was scored."""
    out = subject.folder / "published"
    publish_run(subject.run, out, licence="mit")
    engine = build_engine(TransformersConfig(kind="transformers", max_model_len=LENGTH), subject.base)
    recipe = Recipe(base="base", sources={"base": "published"}, rules=())
    [answer] = engine.adopt(recipe, iter(load_weights(out).items())).answer([ASKED])
    tokenizer = tf.AutoTokenizer.from_pretrained(out)
    ids = tokenizer(ASKED.prompt.text + ASKED.continuation, return_tensors="pt").input_ids
    with torch.no_grad():
        logprobs_TV = _loaded(out)(ids, use_cache=False).logits[0].log_softmax(-1)
    start = ids.shape[1] - len(answer.token_ids)
    said = logprobs_TV[range(start - 1, ids.shape[1] - 1), ids[0, start:].tolist()]
    _require_equal("the log-probabilities", torch.tensor(answer.logprobs), said)


def export(subject: Subject) -> None:
    """mergekit 0.1.5 makes the same tensors of the exported configuration."""
    sources = open_sources(str(subject.base), {"expert": str(subject.expert)})
    recipe = weighted_deltas({"expert": 0.5}, hashes=sources.structure.hashes, dtype="float32")
    if mergekit_config(recipe, sources) is None:
        raise Wrong("not written: none of the models that mergekit was found to merge exactly")
    paths = {"base": str(subject.base), "expert": str(subject.expert)}
    config = to_mergekit(recipe, sources.structure, paths, {})
    folder = subject.folder / "mergekit"
    folder.mkdir()
    (folder / "config.yml").write_text(yaml.safe_dump(config))
    if (said := _mergekit(folder)) != "done":
        raise Wrong(f"mergekit fails: {said}")
    ours = _written(subject, {"expert": subject.expert}, 0.5, name="ours")
    theirs = load_file(folder / "out/model.safetensors")
    save_file(theirs, folder / "out/model.safetensors", metadata={"format": "pt"})
    expected = _loaded(ours).state_dict()
    for name, tensor in _loaded(folder / "out").state_dict().items():
        _require_equal(name, tensor, expected[name])


def vllm(subject: Subject) -> None:
    """A run on vLLM, in a process of its own: it frees no memory before its process ends, and may end it."""
    engine = {"kind": "vllm", "dtype": "float32", "max_model_len": LENGTH, "kv_cache_gb": 0.05}
    spec = {**subject.spec, "fitness": {**subject.spec["fitness"], "engine": engine}}
    context = get_context("forkserver")
    context.set_forkserver_preload(["vllm.entrypoints.llm", "vllm.v1.worker.cpu_worker", "crossbreed.runs.driver"])
    with ProcessPoolExecutor(max_workers=1, mp_context=context) as pool:
        try:
            said = pool.submit(_run_on, spec, subject.folder / "run-vllm").result()
        except BrokenProcessPool:
            raise Wrong("vLLM ends the process") from None
    if said:
        raise Wrong(said)


COLUMNS: Mapping[str, Callable[[Subject], None]] = {
    "check": check,
    "merge": merge,
    "run: transformers": transformers,
    "run: vLLM": vllm,
    "LoRA": lora,
    "publish": publish,
    "mergekit": export,
}
"""Heading -> what is executed."""


def outcome(subject: Subject, column: str) -> str:
    """Returns `yes`, or in one line what was refused or went wrong."""
    try:
        COLUMNS[column](subject)
    except (CrossbreedError, Wrong) as error:
        said = first_line(error).replace(str(subject.folder), "FOLDER").replace("|", "/")
        return re.sub(r"`(\w+): \[[^`]*`", r"`\1`", said)  # PEFT writes sets as lists, in any order
    return "yes"


def _run_on(spec: Mapping[str, Any], folder: Path) -> str:
    """Returns what went wrong; nothing if all was measured."""
    try:
        report = run(spec, folder)
    except SwapError as error:
        return f"the canary refuses it: {first_line(error).partition(', by ')[0]}"
    except CrossbreedError as error:
        return str(error).splitlines()[-1].removeprefix("EngineError: ").partition(". ")[0]  # why no worker started
    if set(report.num_trials) != {"OK"} or report.unmeasured:
        return f"trials: {dict(report.num_trials)}, {report.unmeasured}"
    return ""


@cache
def _mergekit_process() -> "subprocess.Popen[str]":
    """One for all configurations: importing it takes seconds, and changes torch's settings."""
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", MERGEKIT]
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True)
    atexit.register(process.kill)
    return process


def _mergekit(folder: Path) -> str:
    process = _mergekit_process()
    assert process.stdin, "it is a pipe"
    assert process.stdout, "it is a pipe"
    print(folder, file=process.stdin, flush=True)
    said = next((line for line in process.stdout if line.startswith("answer: ")), "answer: it ended")
    return said.removeprefix("answer: ").strip()


def _written(subject: Subject, experts: Mapping[str, Path], weight: float, *, name: str = "") -> Path:
    sources = open_sources(str(subject.base), {expert: str(path) for expert, path in experts.items()})
    recipe = weighted_deltas(dict.fromkeys(experts, weight), hashes=sources.structure.hashes, dtype="float32")
    out = subject.folder / (name or f"merge-{weight}")
    weights = Weights(sources=sources)
    write_checkpoint(
        Merge(recipe=recipe, sources=sources, stream_factory=lambda: weights.materialize_once(recipe)), out
    )
    return out


def _linears(model: Any) -> list[str]:
    """All but the head, and what PEFT refuses: the last projection of Mamba's mixers."""
    refused = (".out_proj",) if model.config.model_type in ("mamba", "mamba2", "falcon_h1") else ()
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear | tf.pytorch_utils.Conv1D)
        and module is not model.get_output_embeddings()
        and not name.endswith(refused)
    ]


def _loaded(folder: Path) -> Any:
    model, info = tf.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    if found := {key: sorted(keys)[:1] for key, keys in info.items() if keys}:
        raise Wrong(f"transformers does not load it whole: {found}")
    return model.eval()


def _require_equal(name: str, found: torch.Tensor, expected: torch.Tensor) -> None:
    if found.shape != expected.shape or not torch.allclose(found, expected, rtol=1e-4, atol=1e-5):
        raise Wrong(
            f"{name} differs by {float((found - expected).abs().max()) if found.shape == expected.shape else '?'}"
        )
