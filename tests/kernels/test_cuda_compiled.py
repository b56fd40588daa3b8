"""The CUDA kernels as a GPU would get them, compiled here for Ampere and Hopper; and on a GPU where there is one."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from cuda_laws import CudaLaws

import crossbreed
from crossbreed.kernels.executors.cuda.resources import compile_for, samples, usage_of


@pytest.mark.parametrize("arch", [80, 90])
@pytest.mark.parametrize("num_experts", [3, 8])
def test_no_kernel_spills(num_experts: int, arch: int) -> None:
    spilled = {
        name: usage
        for name, launch in samples(num_experts).items()
        if (usage := usage_of(compile_for(launch, arch))).stack_bytes > 0
    }
    assert not spilled


@pytest.mark.parametrize("arch", [80, 90])
@pytest.mark.parametrize("name", ["linear", "linear, by columns", "threshold, elect, mean"])
def test_experts_are_read_and_merges_written_16_bytes_at_a_time(name: str, arch: int) -> None:
    code = compile_for(samples(3)[name], arch).asm["ptx"]
    assert re.findall(r"st\.global\S*", code) == ["st.global.v4.b32"]
    wide = code.count("ld.global.v4.b32")
    assert wide == 4 + (name == "linear, by columns") * 6, "base and experts; 8 fp32 coefficients of each are two reads"


def test_nothing_is_contracted() -> None:
    """A fused multiply-add would round once where the CPU rounds twice."""
    code = compile_for(samples(3)["linear"], 90).asm["ptx"]
    assert "mul.rn" in code or "mul.f32" in code
    assert "fma" not in code


def test_triton_is_imported_by_the_cuda_package_alone_and_when_it_is_wanted() -> None:
    root = Path(crossbreed.__file__).parent
    importing = [
        path for path in root.rglob("*.py") if re.search(r"^\s*(import|from) triton\b", path.read_text(), re.M)
    ]
    assert {path.parent for path in importing} == {root / "kernels/executors/cuda"}
    lines = (
        "import sys, crossbreed.cli, crossbreed.kernels\nassert 'crossbreed.kernels.executors.cuda' not in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", lines], check=False).returncode == 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU")
class TestOnGpu(CudaLaws):
    device = "cuda"
    bfloat16_steps = 0
