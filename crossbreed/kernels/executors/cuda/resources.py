"""What the kernels need of a device that is not there: they are compiled ahead of time, for any architecture.

Nothing here needs a GPU. Registers and stack are what ptxas gave a kernel; what does not fit into registers is spilled
onto the stack, so a kernel without a stack spills nothing.
"""

import re
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from tempfile import NamedTemporaryFile

import torch
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.compiler import CompiledKernel
from triton.runtime import driver

from crossbreed.kernels.executors.cuda.election import elect
from crossbreed.kernels.executors.cuda.inner_products import inner_products
from crossbreed.kernels.executors.cuda.launch import Launch
from crossbreed.kernels.executors.cuda.linear import linear
from crossbreed.kernels.executors.cuda.product import product
from crossbreed.kernels.executors.cuda.ratio import ratio
from crossbreed.kernels.executors.cuda.values import Values
from crossbreed.kernels.executors.lowering import Full, Pass
from crossbreed.kernels.masks import Band, Keep, RandomMask, Threshold, lower
from crossbreed.kernels.programs import Consensus, Pick


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What a kernel takes of a streaming multiprocessor."""

    registers: int
    """Of a thread, 32 bits each."""
    stack_bytes: int
    """Of a thread; 0: nothing is spilled."""
    shared_bytes: int
    """Of a program."""


@dataclass(frozen=True, slots=True)
class _Absent:
    """The part of a Triton driver that compiling asks for."""

    arch: int

    def get_current_device(self) -> str:
        return f"sm_{self.arch}"

    def get_current_stream(self, device: str) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.arch, 32)


@contextmanager
def _device(arch: int) -> Iterator[None]:
    driver.set_active(_Absent(arch))
    try:
        yield
    finally:
        driver.set_active(None)  # the next call finds the real one


def compile_for(launch: Launch, arch: int) -> CompiledKernel:
    """Returns the kernel of a launch, compiled as it would be on a device of compute capability `arch` (80, 90)."""
    with _device(arch):
        return launch.kernel.warmup(launch.out, *launch.arguments, grid=launch.grid, **launch.options)


def usage_of(kernel: CompiledKernel) -> Usage:
    """Reads a compiled kernel's resources from its machine code."""
    with NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        command = [knobs.nvidia.cuobjdump.path, "-res-usage", file.name]
        said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found = {key: int(number) for key, number in re.findall(r"(REG|STACK):(\d+)", said)}
    return Usage(
        registers=found["REG"],
        stack_bytes=found["STACK"],
        shared_bytes=kernel.metadata.shared,
    )


def num_instructions(kernel: CompiledKernel) -> int:
    """Returns the machine instructions of a thread, paths that are seldom taken included."""
    return sum(";" in line for line in kernel.asm["sass"].splitlines())


def samples(num_experts: int, size: int = 1 << 12) -> Mapping[str, Launch]:
    """Returns a launch of every kernel, on experts in bfloat16."""
    base, *experts = (torch.zeros(1, size, dtype=torch.bfloat16) for _ in range(num_experts + 1))
    out, full = torch.empty_like(base), [Full(expert) for expert in experts]
    values, share = Values.of(full, base.device), [1 / num_experts] * num_experts
    threshold, random = Threshold(0.5, size // 2), RandomMask(key=(1, 2), density=0.5, rescale=True)
    keeps: dict[str, Keep] = {
        "threshold": Band(low=threshold),
        "band": Band(low=threshold, high=threshold),
        "random": random,
        "ranked": replace(random, ranks=torch.zeros(size, dtype=torch.uint8), spread=0.1),
    }

    def election(keep: Keep, consensus: Consensus, pick: Pick) -> Launch:
        masks = [lower(keep)] * num_experts
        work = Pass(values=full, weights=[0.5] * num_experts, masks=masks, consensus=consensus, pick=pick)
        return elect(work, base, out)

    columns = [torch.ones(1, size)] * num_experts
    return {
        "linear": linear(base, values, share, 1.0, out),
        "linear, by columns": linear(base, values, columns, 1.0, out),
        **{f"{name}, elect, mean": election(keep, Consensus.SUM, Pick.MEAN) for name, keep in keeps.items()},
        "threshold, count, largest": election(keeps["threshold"], Consensus.COUNT, Pick.MAX),
        "inner products": inner_products(base, values),
        "ratio": ratio(base, values, experts, share, out),
        "product of factors": product(torch.zeros(64, 8 * num_experts), torch.zeros(8 * num_experts, 64)),
    }
