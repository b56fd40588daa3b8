"""How near to memory speed are merges on a GPU? `python -m benchmarks.kernels_cuda [--experts N] [--json]`.

Bfloat16 experts of one matrix of an 8B Llama, on the GPU already; times are medians of CUDA events, and everything is a
ratio to a copy taken in the same run. At the end: how fast sources are sent ahead that do not fit.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Callable

import torch

from crossbreed.kernels import SourceCache
from crossbreed.kernels.executors.cuda import Cuda, inner_products_of
from crossbreed.kernels.executors.cuda.stream import Lane
from crossbreed.kernels.executors.lowering import Same, lower
from crossbreed.kernels.executors.protocol import TensorMerge
from crossbreed.kernels.operators import ARITHMETIC
from crossbreed.kernels.programs import Election
from crossbreed.kernels.tensors import ExpertTensor, TensorInputs
from crossbreed.types import ParamValue, Rule

SHAPE = (14336, 4096)
RUNS = 30
OPERATORS_AND_PARAMS: dict[str, dict[str, ParamValue]] = {
    "task_arithmetic": {},
    "ties": {"density": 0.5},
    "dare_linear": {"density": 0.5},
    "dare_ties": {"density": 0.5},
    "della": {"density": 0.5},
    "breadcrumbs": {"density": 0.75, "gamma": 0.015625},
}


def seconds_of(run: Callable[[], object]) -> float:
    """Returns the median time on the device, after two runs that compile and warm up."""
    times = []
    for _ in range(RUNS + 2):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        run()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) / 1000)
    return statistics.median(times[2:])


def tensors(num_experts: int) -> TensorInputs:
    """Returns one tensor of a merge, on the GPU."""
    generator = torch.Generator(device="cuda").manual_seed(0)
    base = torch.randn(SHAPE, generator=generator, device="cuda").bfloat16()
    names = [f"expert {number}" for number in range(num_experts)]
    values = [(base + 0.01 * torch.randn(SHAPE, generator=generator, device="cuda")).bfloat16() for _ in names]
    inputs = TensorInputs(
        name="model.layers.0.mlp.up_proj.weight",
        depth=0.0,
        base_name="base",
        base=base,
        base_hash="base",
        experts=tuple(
            ExpertTensor(name=name, hash=name, value=value) for name, value in zip(names, values, strict=True)
        ),
        expert_names=tuple(names),
        expert_hashes=tuple(names),
        cache=SourceCache(),
        model=lambda: iter([inputs]),
    )
    return inputs


def measure(num_experts: int) -> dict[str, object]:
    """Times every operator, inner products, a copy, and what is sent from the host."""
    inputs = tensors(num_experts)
    out = torch.empty_like(inputs.base)
    copied = 2 * out.nbytes / seconds_of(lambda: out.copy_(inputs.base))
    moved = (num_experts + 2) * out.nbytes
    found, executor = [], Cuda()
    for operator, params in OPERATORS_AND_PARAMS.items():
        rule = Rule(match=".*", operator=operator, params={"weight": 1 / num_experts, **params})
        program = ARITHMETIC[operator](inputs, rule)
        work = lower(program, inputs.base)
        assert not isinstance(work, Same), "several experts"
        seconds = seconds_of(lambda work=work: executor.run(TensorMerge(work, out), inputs.base))
        has_ranks = isinstance(program, Election) and operator.startswith("della")
        bytes_moved = moved + has_ranks * num_experts * out.numel()
        found.append({"operator": operator, "seconds": seconds, "share_of_copy": bytes_moved / seconds / copied})
    seconds = seconds_of(lambda: inner_products_of(inputs.experts, inputs.base))
    share = (moved - out.nbytes) / seconds / copied
    found.append({"operator": "inner products", "seconds": seconds, "share_of_copy": share})
    lane, host = Lane(inputs.base.device), torch.zeros(SHAPE, dtype=torch.bfloat16)
    sent = host.nbytes / seconds_of(lambda: lane.ready({"": lane.upload(host)}))
    return {
        "device": torch.cuda.get_device_name(),
        "experts": num_experts,
        "copy_bytes_s": copied,
        "sent_bytes_s": sent,
        "operators": found,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--experts", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("no NVIDIA GPU: `python -m benchmarks.kernel_resources` says what is expected of one")
    measured = measure(arguments.experts)
    if arguments.json:
        print(json.dumps(measured, indent=2))
    else:
        print(f"{measured['device']}, {measured['experts']} experts, copy {measured['copy_bytes_s'] / 1e9:.0f} GB/s,")
        print(f"sources that do not fit {measured['sent_bytes_s'] / 1e9:.1f} GB/s")
        for line in measured["operators"]:
            print(f"{line['operator']:16} {line['seconds'] * 1e3:8.3f} ms  {line['share_of_copy']:.0%} of copy")
