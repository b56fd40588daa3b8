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

from crossbreed.kernels.cuda.election import elect
from crossbreed.kernels.cuda.gram import inner_products
from crossbreed.kernels.cuda.launch import Launch
from crossbreed.kernels.cuda.linear import linear
from crossbreed.kernels.cuda.product import product
from crossbreed.kernels.cuda.ratio import ratio
from crossbreed.kernels.cuda.values import Values
from crossbreed.kernels.programs import Band, Chance, Consensus, Cut, Election, Keep, Pick, Voter
from crossbreed.kernels.tensors import Parent


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
        driver.set_active(None)  # whoever asks next finds the real one


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
    base, *experts = (torch.zeros(size, dtype=torch.bfloat16) for _ in range(num_experts + 1))
    out, values = torch.empty_like(base), Values.of(experts, base.device)
    share, cut = [1 / num_experts] * num_experts, Cut(0.5, size // 2)
    chance = Chance(key=(1, 2), density=0.5, rescale=True)
    keeps: dict[str, Keep] = {
        "cut": Band(low=cut),
        "band": Band(low=cut, high=cut),
        "random": chance,
        "ranked": replace(chance, ranks=torch.zeros(size, dtype=torch.uint8), spread=0.1),
    }

    def election(keep: Keep, consensus: Consensus, pick: Pick) -> Launch:
        parents = [Parent(name=str(i), hash=str(i), value=expert) for i, expert in enumerate(experts)]
        voters = tuple(Voter(parent=parent, weight=0.5, keep=keep) for parent in parents)
        return elect(Election(voters=voters, scale=1.0, consensus=consensus, pick=pick), base, out)

    columns = [torch.ones(1, size)] * num_experts
    return {
        "linear": linear(base, values, share, 1.0, out),
        "linear, by columns": linear(base.view(1, size), values, columns, 1.0, out),
        **{f"{name}, elect, mean": election(keep, Consensus.SUM, Pick.MEAN) for name, keep in keeps.items()},
        "cut, count, largest": election(keeps["cut"], Consensus.COUNT, Pick.MAX),
        "gram": inner_products(base, values),
        "ratio": ratio(base, values, experts, share, out),
        "product of factors": product(torch.zeros(64, 8 * num_experts), torch.zeros(8 * num_experts, 64)),
    }
