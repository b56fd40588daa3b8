"""The CUDA kernels without a GPU: Triton's interpreter runs them on CPU tensors, in a process of its own.

Triton decides between compiler and interpreter when it is imported, so the tests below exist in that process alone.
"""

import os
import subprocess
import sys
from pathlib import Path

if os.environ.get("TRITON_INTERPRET") == "1":
    from cuda_laws import CudaLaws

    class TestInterpreted(CudaLaws):
        device = "cpu"
        bfloat16_steps = 1  # it rounds towards zero

else:

    def test_the_kernels_keep_the_laws_under_the_interpreter() -> None:
        """A pytest of its own; what fails is shown."""
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(Path(__file__))]
        environment = os.environ | {"TRITON_INTERPRET": "1", "CROSSBREED_COMPILER": "", "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-8000:] + done.stderr
