"""What works on this machine and what does not, with the way to mend it."""

import os
import shutil
from importlib import metadata, util
from typing import Any

NEEDED = {
    "torch": "merging tensors",
    "safetensors": "reading and writing checkpoints",
    "transformers": "the reference engine, tokenizers",
    "vllm": "the fast engine",
    "ray": "workers",
    "plotly": "report.html",
    "pyarrow": "Parquet items",
}


def examine() -> dict[str, Any]:
    """Returns the findings as JSON: packages, processors, memory, disk, and problems that will bite."""
    packages = {name: _version(name) for name in NEEDED}
    return {
        "schema": 1,
        "packages": packages,
        "cpus": len(os.sched_getaffinity(0)),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "disk_free_gb": round(shutil.disk_usage(".").free / 1e9, 1),
        "kernels": _kernels() if packages["torch"] else None,
        "gpus": _gpus() if packages["torch"] else [],
        "problems": [*_problems(packages)],
    }


def render(findings: dict[str, Any]) -> str:
    """Returns the findings for a person."""
    lines = [f"{name:14} {version or 'missing':16} {NEEDED[name]}" for name, version in findings["packages"].items()]
    gpus = ", ".join(findings["gpus"]) or "none: CPU only"
    lines += [
        "",
        f"processors {findings['cpus']}, memory {findings['memory_gb']} GB, free disk {findings['disk_free_gb']} GB",
        f"GPU        {gpus}",
        f"kernels    {findings['kernels'] or 'none: no torch'}",
        "",
        *[f"problem: {problem}" for problem in findings["problems"] or ["none found"]],
    ]
    return "\n".join(lines)


def _version(name: str) -> str | None:
    if util.find_spec(name) is None:
        return None
    for distribution in metadata.packages_distributions().get(name, [name]):
        return metadata.version(distribution)
    return "unknown"


def _kernels() -> str:
    import torch

    from crossbreed.kernels import native

    found = native.compiler()
    if found is None:
        return "plain torch: no g++, so merges are slow"
    works = native.product(torch.ones(1, 1), torch.ones(1, 1)) is not None
    return f"compiled by {found}" if works else f"plain torch: {found} compiles none, so merges are slow"


def _gpus() -> list[str]:
    import torch

    return (
        [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    )


def _problems(packages: dict[str, str | None]) -> list[str]:
    problems = [
        f"{name} is missing ({NEEDED[name]}): pip install 'crossbreed[cpu]' or 'crossbreed[cuda]'"
        for name, version in packages.items()
        if version is None and name != "pyarrow"
    ]
    if util.find_spec("torchvision") is not None and (packages["torch"] or "").endswith("+cpu"):
        problems.append(
            "torchvision is installed beside a CPU build of torch; PyPI's build does not import there and then breaks "
            "transformers. Nothing here needs it: pip uninstall torchvision torchaudio torchcodec"
        )
    return problems
