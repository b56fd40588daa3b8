"""Writes experts that know nothing: python examples/smollm2/distractors.py [--count 8] (seconds).

Each is a LoRA adapter of the rank and on the matrices of the real ones, with random factors. In every matrix its delta
is as large as the real experts' on average, so that it can be told from them by what it does alone. What a search does
with experts that nobody should have added is seen by adding these: `benchmarks/distractors.py`.
"""

import argparse
import shutil
from pathlib import Path
from statistics import fmean

import torch
from safetensors.torch import load_file, save_file

HERE = Path(__file__).parent
REAL = ("sums", "french", "roman")


def norm_of(b: torch.Tensor, a: torch.Tensor) -> float:
    """The Frobenius norm of B A, from its small factors: tr((B^T B)(A A^T))."""
    b, a = b.double(), a.double()
    return float(((b.T @ b) * (a @ a.T)).sum().sqrt())


def delta_norms(folder: Path) -> dict[str, float]:
    """Module -> norm of what an adapter adds, but for its scale."""
    factors = load_file(folder / "adapter_model.safetensors")
    modules = [name.removesuffix(".lora_A.weight") for name in factors if name.endswith(".lora_A.weight")]
    return {m: norm_of(factors[f"{m}.lora_B.weight"], factors[f"{m}.lora_A.weight"]) for m in modules}


def write(out: Path, *, norms: dict[str, float], seed: int) -> None:
    """Writes one adapter, with a norm for each module."""
    like = load_file(HERE / "adapters" / REAL[0] / "adapter_model.safetensors")
    generator = torch.Generator().manual_seed(seed)
    factors = {}
    for module, norm in sorted(norms.items()):
        a, b = (torch.randn(like[f"{module}.lora_{s}.weight"].shape, generator=generator) for s in "AB")
        factors[f"{module}.lora_A.weight"] = a.to(torch.bfloat16)
        factors[f"{module}.lora_B.weight"] = (b * norm / norm_of(b, a)).to(torch.bfloat16)
    out.mkdir(parents=True, exist_ok=True)
    save_file(factors, out / "adapter_model.safetensors", metadata={"format": "pt"})
    shutil.copyfile(HERE / "adapters" / REAL[0] / "adapter_config.json", out / "adapter_config.json")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=8)
    parser.add_argument("--out", type=Path, default=HERE / "models/distractors")
    args = parser.parse_args()
    real = [delta_norms(HERE / "adapters" / name) for name in REAL]
    norms = {module: fmean(of_one[module] for of_one in real) for module in real[0]}
    for number in range(1, args.count + 1):
        write(args.out / f"noise-{number}", norms=norms, seed=number)
    print(f"wrote {args.count} adapters to {args.out}")
