"""What CUDA kernels need, compiled ahead of time: `python -m benchmarks.kernel_resources [--write docs/kernels.md]`.

Needs no GPU. Shares of bandwidth are predictions for an H100 SXM: an element takes the longer of two times, that of
moving its bytes and that of issuing its instructions. docs/kernels.md says what that leaves out.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import torch

from crossbreed.kernels.executors.cuda.launch import Launch
from crossbreed.kernels.executors.cuda.resources import compile_for, num_instructions, samples, usage_of

BANDWIDTH = 3.35e12
"""Bytes a second."""
ISSUED = 132 * 4 * 32 * 1.755e9
"""Instructions of threads a second: SMs, schedulers, lanes, boost clock under load."""
COPY = 0.92
"""The share of it that the best copies reach; nothing is predicted to be faster."""
REGISTERS, THREADS = 65536, 2048
"""Of an SM."""
SIZE = 1 << 16
MARKS = "<!-- resources: begin -->\n", "<!-- resources: end -->\n"


def tensors_in(arguments: object) -> Iterator[torch.Tensor]:
    """Yields every tensor among a launch's arguments, however deep."""
    if isinstance(arguments, torch.Tensor):
        yield arguments
    elif isinstance(arguments, tuple):
        for argument in arguments:
            yield from tensors_in(argument)


def bytes_of(launch: Launch) -> float:
    """Returns what an element of the merged tensor moves; of coefficients by column, rows share the reads."""
    read = [t for t in tensors_in(launch.arguments) if t.numel() == SIZE and t.dtype != torch.float32]
    return (launch.out.nbytes + sum(tensor.nbytes for tensor in read)) / SIZE


def row(name: str, num_experts: int, launch: Launch) -> str:
    """Returns a kernel's line of the table."""
    kernels = {arch: compile_for(launch, arch) for arch in (80, 90)}
    usage = {arch: usage_of(kernel) for arch, kernel in kernels.items()}
    threads = 32 * launch.num_warps
    resident = min(THREADS, REGISTERS // usage[90].registers // threads * threads)
    columns = [
        name,
        num_experts,
        " / ".join(str(used.registers) for used in usage.values()),
        " / ".join(str(used.stack_bytes) for used in usage.values()),
        " / ".join(str(used.shared_bytes) for used in usage.values()),
        f"{resident / THREADS:.0%}",
    ]
    if "BLOCK" in launch.constants:
        instructions = num_instructions(kernels[90]) * threads / int(str(launch.constants["BLOCK"]))
        share = min(COPY, ISSUED / instructions / (BANDWIDTH / bytes_of(launch)))
        columns += [f"{bytes_of(launch):.0f}", f"{instructions:.0f}", f"{share:.0%}"]
    else:
        columns += ["4", "2 for each rank", "-"]
    return "| " + " | ".join(map(str, columns)) + " |\n"


def table() -> str:
    """Returns the report."""
    heads = ["kernel", "experts", "registers", "spilled bytes", "shared bytes", "resident threads"]
    heads += ["bytes an element", "instructions an element", "share of 3.35 TB/s"]
    lines = [f"| {' | '.join(heads)} |\n", "|" + " --- |" * len(heads) + "\n"]
    for num_experts in (3, 8, 16):
        lines += [row(name, num_experts, launch) for name, launch in samples(num_experts, SIZE).items()]
    return "".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", type=Path, help="put the table between the marks of this page")
    page = parser.parse_args().write
    if page is None:
        print(table())
    else:
        before, _, rest = page.read_text().partition(MARKS[0])
        _, _, after = rest.partition(MARKS[1])
        page.write_text(before + MARKS[0] + table() + MARKS[1] + after)
