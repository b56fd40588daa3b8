"""How near to memory speed are merges? `python -m benchmarks.kernels [--json] [--size 135m|1.5b] [--mergekit]`.

Everything is a ratio taken in one run. A merge reads the base and each expert once and writes the result once: those
bytes, over its time, against the bandwidth of a copy. Experts are full checkpoints that differ from the base in
every tensor; coefficients change from merge to merge, as in a search. The first merge, which compiles kernels and finds
what depends on sources alone (thresholds, random numbers, ranks), is reported apart.
"""

import argparse
import json
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from crossbreed.kernels import SourceCache, materialize, materialize_many
from crossbreed.kernels.native import compiler
from crossbreed.runs.publishing.checkpoint import Merge, write_checkpoint
from crossbreed.runs.workers.memory import keep_freed_memory
from crossbreed.sources import Sources, open_sources
from crossbreed.types import ParamValue, Recipe, Rule

EXPERTS = ("a", "b", "c")
OPERATORS: Mapping[str, Mapping[str, ParamValue]] = {
    "linear": {},
    "task_arithmetic": {},
    "ties": {"density": 0.5},
    "dare_linear": {"density": 0.5},
    "dare_ties": {"density": 0.5},
    "della": {"density": 0.5},
    "breadcrumbs": {"density": 0.75, "gamma": 0.015625},
}
TARGETS = {"linear": 0.8, "task_arithmetic": 0.8} | dict.fromkeys(
    ("ties", "dare_linear", "dare_ties", "della", "breadcrumbs"), 0.45
)
AGAINST_MERGEKIT = {"task_arithmetic": (10, 3), "dare_ties": (80, 10), "ties": (150, 10)}
"""Operator -> how many times faster in memory, and from files to files."""
SHAPES = {"135m": (30, 576, 1536, 192, 49152), "1.5b": (28, 1536, 8960, 256, 151936)}
"""Layers, width, inner width, width of keys and values, vocabulary."""


def write_models(folder: Path, size: str) -> None:
    """Writes a base and three experts in the shapes of a Llama, with random values."""
    layers, width, inner, keys, vocabulary = SHAPES[size]
    shapes = {"model.embed_tokens.weight": (vocabulary, width), "model.norm.weight": (width,)}
    for layer in range(layers):
        block = f"model.layers.{layer}"
        shapes |= {
            f"{block}.self_attn.q_proj.weight": (width, width),
            f"{block}.self_attn.k_proj.weight": (keys, width),
            f"{block}.self_attn.v_proj.weight": (keys, width),
            f"{block}.self_attn.o_proj.weight": (width, width),
            f"{block}.mlp.gate_proj.weight": (inner, width),
            f"{block}.mlp.up_proj.weight": (inner, width),
            f"{block}.mlp.down_proj.weight": (width, inner),
            f"{block}.input_layernorm.weight": (width,),
            f"{block}.post_attention_layernorm.weight": (width,),
        }
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": width // 64,
        "num_key_value_heads": keys // 64,
        "vocab_size": vocabulary,
        "tie_word_embeddings": True,
        "dtype": "bfloat16",
    }
    for number, model in enumerate(("base", *EXPERTS)):
        (folder / model).mkdir()
        (folder / model / "config.json").write_text(json.dumps(config))
        weights = {}
        for index, (name, shape) in enumerate(shapes.items()):
            base = torch.randn(shape, generator=torch.Generator().manual_seed(index)).mul_(0.02)
            if number:
                noise = torch.randn(shape, generator=torch.Generator().manual_seed(1000 * number + index))
                base += noise.mul_(0.002)
            weights[name] = base.bfloat16()
        save_file(weights, folder / model / "model.safetensors", metadata={"format": "pt"})


def weights_of(step: int) -> dict[str, float]:
    """Weights that change with every step."""
    return {name: 0.3 + 0.1 * index + 0.001 * step for index, name in enumerate(EXPERTS)}


def recipe_of(sources: Sources, operator: str, step: int) -> Recipe:
    """A recipe whose coefficients change with every step."""
    rule = Rule(match=".*", operator=operator, params={**OPERATORS[operator], "weight": weights_of(step)})
    return Recipe(base="base", sources=sources.structure.hashes, rules=(rule,))


def seconds_of(work: Callable[[], object]) -> float:
    """Returns how long some work takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def copy_bandwidth(num_bytes: int = 1 << 29) -> float:
    """Returns bytes read and written per second by the fastest of ten copies."""
    source, target = torch.ones(num_bytes, dtype=torch.uint8), torch.zeros(num_bytes, dtype=torch.uint8)
    return 2 * num_bytes / min(seconds_of(lambda: target.copy_(source)) for _ in range(10))


def exhaust(stream: Any) -> None:
    """Takes every tensor, and keeps none."""
    for _ in stream:
        pass


def in_memory(sources: Sources, operator: str, repeats: int) -> tuple[float, float, float]:
    """Returns seconds of the first merge, the median of the others, and of each of four made together."""
    cache = SourceCache()
    times = [
        seconds_of(lambda step=step: exhaust(materialize(recipe_of(sources, operator, step), sources, cache)))
        for step in range(repeats + 1)
    ]
    four = [recipe_of(sources, operator, step) for step in range(4)]
    together = min(seconds_of(lambda: exhaust(materialize_many(four, sources, cache))) for _ in range(2))
    return times[0], statistics.median(times[1:]), together / 4


def to_files(folder: Path, operator: str) -> float:
    """Returns seconds from opening sources to the published folder. Libraries are imported before, like mergekit's."""
    from transformers import AutoConfig, AutoTokenizer  # noqa: F401 - what writing imports when it verifies

    def work(out: Path) -> None:
        sources = open_sources(str(folder / "base"), {name: str(folder / name) for name in EXPERTS})
        recipe = recipe_of(sources, operator, 0)
        write_checkpoint(
            Merge(recipe=recipe, sources=sources, stream_factory=lambda: materialize(recipe, sources, once=True)), out
        )

    with tempfile.TemporaryDirectory(dir=folder) as out:
        return seconds_of(lambda: work(Path(out) / "merged"))


def mergekit_seconds(folder: Path, operator: str) -> float | None:
    """Returns mergekit's time for the same merge, config to disk; None where it is not installed."""
    with suppress(ImportError):
        from mergekit.config import MergeConfiguration
        from mergekit.merge import MergeOptions, run_merge

        models = [
            {"model": str(folder / name), "parameters": {"weight": weight, **OPERATORS[operator]}}
            for name, weight in weights_of(0).items()
        ]
        config = {"merge_method": operator, "base_model": str(folder / "base"), "models": models}
        parsed = MergeConfiguration.model_validate({**config, "dtype": "float32", "out_dtype": "bfloat16"})
        with tempfile.TemporaryDirectory(dir=folder) as out:
            options = MergeOptions(copy_tokenizer=False, quiet=True)
            return seconds_of(lambda: run_merge(parsed, out, options=options))
    return None


def measure(folder: Path, size: str, operators: Sequence[str], *, mergekit: bool, repeats: int) -> dict[str, Any]:
    """Returns the report."""
    if not (folder / "base").exists():
        write_models(folder, size)
    sources = open_sources(str(folder / "base"), {name: str(folder / name) for name in EXPERTS})
    num_bytes = 2 * (len(EXPERTS) + 2) * sum(sources.base.tensor(name).numel() for name in sources.base.tensors)
    bandwidth, rows = copy_bandwidth(), []
    if mergekit:
        mergekit_seconds(folder, "task_arithmetic")  # it imports as it goes
    for operator in operators:
        first, seconds, each_of_four = in_memory(sources, operator, repeats)
        row: dict[str, Any] = {
            "operator": operator,
            "seconds": seconds,
            "first_seconds": first,
            "seconds_of_each_of_four": each_of_four,
            "bytes": num_bytes,
            "share_of_copy": num_bytes / seconds / bandwidth,
            "target": TARGETS[operator] if compiler() else None,
        }
        if mergekit and operator in AGAINST_MERGEKIT:
            theirs = mergekit_seconds(folder, operator)
            if theirs is not None:
                files = to_files(folder, operator)
                row |= {
                    "mergekit_seconds": theirs,
                    "times_mergekit": theirs / seconds,
                    "files_seconds": files,
                    "files_times_mergekit": theirs / files,
                }
        rows.append(row)
    return {
        "size": size,
        "threads": torch.get_num_threads(),
        "compiler": compiler(),
        "copy_bytes_per_second": bandwidth,
        "peak_resident_bytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
        "operators": rows,
    }


def show(report: Mapping[str, Any]) -> None:
    """Prints the report as a table."""
    print(f"{report['size']}, {report['threads']} threads, copy {report['copy_bytes_per_second'] / 1e9:.1f} GB/s")
    heads = {"operator": -18, "bytes": 9, "first": 9, "then": 9, "4 at once": 10, "of copy": 9, "target": 8}
    heads |= {"mergekit": 12, "files": 18}
    print("".join(f"{head:{'<' if width < 0 else '>'}{abs(width)}}" for head, width in heads.items()))
    for row in report["operators"]:
        target = "" if row["target"] is None else f"{row['target']:.0%}"
        line = f"{row['operator']:18}{row['bytes'] / 1e9:7.2f}GB{row['first_seconds']:8.2f}s{row['seconds']:8.3f}s"
        line += f"{row['seconds_of_each_of_four']:9.3f}s"
        line += f"{row['share_of_copy']:9.0%}{target:>8}"
        if "times_mergekit" in row:
            line += f"{row['mergekit_seconds']:6.1f}s{row['times_mergekit']:4.0f}x"
            line += f"{row['files_seconds']:9.2f}s{row['files_times_mergekit']:7.1f}x"
        print(line)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--size", choices=SHAPES, default="135m")
    parser.add_argument("--operators", nargs="+", choices=OPERATORS, default=list(OPERATORS))
    parser.add_argument("--no-mergekit", action="store_true")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where the models are, or are to be kept; default: a temporary one")
    arguments = parser.parse_args()
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as temporary:
        found = measure(
            arguments.folder or Path(temporary),
            arguments.size,
            arguments.operators,
            mergekit=not arguments.no_mergekit,
            repeats=arguments.repeats,
        )
    print(json.dumps(found, indent=2)) if arguments.json else show(found)
