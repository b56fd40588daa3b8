"""Does `check` know what memory a run takes? `python -m benchmarks.walk_memory OUT [--only NAME ...]` (minutes).

What `check` says of a regression, of a gradient's slopes and of Frank-Wolfe's, beside the most anonymous memory (what
is not a file's) that each of them adds to a process that has imported all and opened the sources. Shapes: SmolLM2-135M
with its three adapters, and Qwen2.5-1.5B with random weights and three adapters of rank 16, which OUT is filled with.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml

from benchmarks.slopes_memory import Peak
from crossbreed.fitness import build_engine
from crossbreed.runs import Spec, build_plan, parse_spec
from crossbreed.runs.calibration.loss import MergeLoss
from crossbreed.runs.calibration.memory import gradient_bytes, slopes_bytes
from crossbreed.runs.plan import Plan
from crossbreed.runs.regression.artifact import making_of
from crossbreed.runs.regression.memory import walk_bytes
from crossbreed.runs.workers.gradients import Slopes
from crossbreed.sources.files import write_tensors

EXAMPLE = Path(__file__).parents[1] / "examples/smollm2"
SKILLS = ("sums", "french", "roman")
RANK = 16
QWEN = {
    "vocab_size": 151_936,
    "hidden_size": 1536,
    "intermediate_size": 8960,
    "num_hidden_layers": 28,
    "num_attention_heads": 12,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": True,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "dtype": "bfloat16",
}
"""Qwen2.5-1.5B, but for its tokens."""
SOME_LAYERS = [r"layers\.(0|13)\."]
"""Layers are of one size, and have their memory one after the other: two are solved, which is a matter of minutes."""
WALKS: dict[str, dict[str, Any]] = {
    "135M, float32": {"items": 16},
    "135M, bfloat16, own outputs": {"dtype": "bfloat16", "items": 16, "own": 1.0},
    "1.5B, bfloat16": {"dtype": "bfloat16", "items": 4},
    "1.5B, bfloat16, own outputs": {"dtype": "bfloat16", "items": 4, "own": 1.0},
}
GRADIENTS = ("135M, bfloat16", "135M, float32", "1.5B, bfloat16")
FRANK_WOLFE = ("135M, bfloat16", "135M, float32")
NAMES = (
    *(f"regression: {name}" for name in WALKS),
    *(f"gradient: {name}" for name in GRADIENTS),
    *(f"frank_wolfe: {name}" for name in FRANK_WOLFE),
)


def write_models(out: Path) -> None:
    """Writes a base of the shape of Qwen2.5-1.5B, and adapters of all its matrices, with random weights."""
    from transformers import AutoModelForCausalLM, Qwen2Config

    chance, settings = torch.Generator().manual_seed(0), Qwen2Config(**QWEN)
    like = EXAMPLE / "models/smollm2-135m-instruct"
    with torch.device("meta"):
        shapes = {name: value.shape for name, value in AutoModelForCausalLM.from_config(settings).named_parameters()}
    base = out / "base"
    base.mkdir(parents=True)
    write_tensors(base / "model.safetensors", {name: _random(shape, chance) for name, shape in shapes.items()})
    settings.architectures = ["Qwen2ForCausalLM"]
    settings.save_pretrained(base)
    for file in like.iterdir():
        if file.suffix in (".json", ".txt", ".jinja") and file.name not in ("config.json", "generation_config.json"):
            shutil.copyfile(file, base / file.name)
    for skill in SKILLS:
        factors = dict[str, torch.Tensor]()
        for name, shape in shapes.items():
            if name.endswith("_proj.weight"):
                module = f"base_model.model.{name.removesuffix('.weight')}"
                factors[f"{module}.lora_A.weight"] = _random((RANK, shape[1]), chance)
                factors[f"{module}.lora_B.weight"] = _random((shape[0], RANK), chance)
        (out / skill).mkdir()
        write_tensors(out / skill / "adapter_model.safetensors", factors)
        adapter = json.loads((EXAMPLE / "adapters" / skill / "adapter_config.json").read_text())
        (out / skill / "adapter_config.json").write_text(json.dumps(adapter | {"r": RANK, "lora_alpha": RANK}))


def _random(shape: tuple[int, ...], chance: torch.Generator) -> torch.Tensor:
    return (0.02 * torch.randn(*shape, generator=chance)).bfloat16()


def spec_of(name: str, models: Path) -> Spec:
    """Returns the spec of a measurement: the example's tasks, and a regression or a gradient."""
    what, _, rest = name.partition(": ")
    shape, dtype, *_ = rest.split(", ")
    raw: dict[str, Any] = yaml.safe_load((EXAMPLE / "cma_es.yaml").read_text())
    raw["fitness"]["engine"] = {"kind": "transformers", "dtype": "bfloat16", "max_model_len": 512}
    raw["fitness"]["split"] = {"search": 16 if shape == "135M" else 4, "select": 1, "report": 1}
    raw["fitness"]["slopes"] = {"dtype": dtype} if what != "regression" else {}
    if shape == "1.5B":
        raw["sources"] = {"base": str(models / "base"), "experts": {skill: str(models / skill) for skill in SKILLS}}
    if what == "regression":
        raw["artifacts"] = {"regression": {"modules": SOME_LAYERS} | WALKS[rest]}
        raw["optimizer"] = {"kind": "cma_es", "budget": {"trials": 0}}
    else:
        raw["optimizer"] = {"kind": what, "budget": {"trials": 1}}
        raw["space"] = {"kind": "components"} if what == "gradient" else raw["space"]
    return parse_spec(raw, folder=EXAMPLE)


def regression(plan: Plan) -> tuple[int, Callable[[], object]]:
    """Returns what `check` says, and the walk."""
    config = plan.spec.regression
    assert config is not None, "the spec has one"
    making = making_of(plan, config)
    return walk_bytes(plan, config), lambda: making.make(Path(tempfile.mkdtemp()), lambda event: None)


def gradient(plan: Plan) -> tuple[int, Callable[[], object]]:
    """Returns what `check` says, and a step."""
    [stage] = plan.stages
    needs = stage.optimizer.calibration
    assert needs is not None, "it goes down a loss"
    loss = MergeLoss(plan.calibration_inputs, stage.space, needs)
    point, items = (0.0,) * len(plan.coordinates), [item for task in loss.tasks for item in task[: needs.batch]]
    return slopes_bytes(plan, stage.space, needs), lambda: loss.slopes(point, items)


def frank_wolfe(plan: Plan) -> tuple[int, Callable[[], object]]:
    """Returns what `check` says, and the slopes of a candidate."""
    assert plan.weights is not None, "there are sources"
    recipe = plan.space.decoder(seed=0).create(0, (0.3,) * len(plan.coordinates))
    scoring = build_engine(plan.spec.fitness.engine, plan.weights.host)
    scoring.adopt(recipe, plan.weights.materialize(recipe))
    return gradient_bytes(plan), lambda: Slopes(plan, scoring).at(recipe, stage=0)


def measure(name: str, models: Path) -> dict[str, float]:
    """Returns what was planned and what was taken, in GB, and the seconds."""
    plan = build_plan(spec_of(name, models)).measured()
    of_kind = {"regression": regression, "gradient": gradient, "frank_wolfe": frank_wolfe}
    planned, work = of_kind[name.partition(":")[0]](plan)
    before, began_s = _anonymous(), time.perf_counter()
    peak = Peak()
    work()
    return {"planned": planned / 1e9, "taken": (peak.end() - before) / 1e9, "seconds": time.perf_counter() - began_s}


def _anonymous() -> int:
    return 1024 * int(Path("/proc/self/status").read_text().partition("RssAnon:")[2].split()[0])


def main() -> None:
    """Measures what is named, each in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="a folder for 3 GB of random weights")
    parser.add_argument("--only", nargs="+", choices=NAMES, default=list(NAMES), metavar="NAME", help="; ".join(NAMES))
    parser.add_argument("--here", action="store_true", help="measure in this process, and print JSON")
    given = parser.parse_args()
    models = given.out.absolute() / "qwen2.5-1.5b-random"
    if given.here:
        print(json.dumps(measure(given.only[0], models)))
        return
    if any("1.5B" in name for name in given.only) and not models.exists():
        write_models(models)
    print("| what | planned, GB | taken, GB | planned / taken | s |\n|---|---|---|---|---|", flush=True)
    for name in given.only:
        command = [sys.executable, "-m", "benchmarks.walk_memory", str(given.out), "--here", "--only", name]
        with tempfile.TemporaryDirectory(dir=given.out) as scratch:
            own = {**os.environ, "CROSSBREED_CACHE": f"{scratch}/cache", "TMPDIR": scratch}
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=own)
        found = json.loads(done.stdout.splitlines()[-1])
        planned, taken, seconds = (found[key] for key in ("planned", "taken", "seconds"))
        print(f"| {name} | {planned:.2f} | {taken:.2f} | {planned / taken:.2f} | {seconds:.0f} |", flush=True)


if __name__ == "__main__":
    main()
