"""Does mergekit write what was published? `python -m benchmarks.mergekit_parity MODEL`.

Runs the command of the model card (mergekit 0.1.5) on MODEL/mergekit_config.yml and compares every tensor.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file


def load(folder: Path) -> dict[str, torch.Tensor]:
    """Returns all tensors of a checkpoint."""
    return {name: tensor for file in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(file).items()}


def steps_apart(ours: torch.Tensor, theirs: torch.Tensor) -> torch.Tensor:
    """Returns how many representable bfloat16 numbers lie between the elements."""

    def position(tensor: torch.Tensor) -> torch.Tensor:
        bits = tensor.view(torch.int16).to(torch.int32)
        return torch.where(bits < 0, -(bits & 0x7FFF), bits)

    return (position(ours) - position(theirs)).abs()


def main(model: Path) -> None:
    """Prints how many elements differ, and by how much."""
    with tempfile.TemporaryDirectory() as temporary:
        out = Path(temporary) / "merged"
        command = [str(Path(sys.executable).with_name("mergekit-yaml")), str(model / "mergekit_config.yml"), str(out)]
        options = ["--lora-merge-dtype", "float32", "--lora-merge-cache", str(Path(temporary) / "cache"), "--quiet"]
        subprocess.run([*command, *options], check=True)
        ours, theirs = load(model), load(out)
    assert ours.keys() == theirs.keys(), f"names differ: {sorted(ours.keys() ^ theirs.keys())[:5]}"
    apart = torch.cat([steps_apart(ours[name], theirs[name]).flatten() for name in sorted(ours)])
    differing = int((apart > 0).sum())
    far = torch.cat([(ours[name].float() - theirs[name].float()).flatten() for name in sorted(ours)])[apart > 1]
    share = differing / apart.numel()
    print(f"{differing} of {apart.numel()} elements differ ({share:.5%}), {len(far)} of them by more than one ulp")
    if len(far):
        print(f"those are sums that cancel to almost nothing: their largest difference is {far.abs().max():.2g}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    main(parser.parse_args().model)
