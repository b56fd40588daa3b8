"""`crossbreed doctor`: what works on this machine and what does not, with remedies."""

import os
import shutil
from collections.abc import Iterator
from importlib import metadata
from typing import Any

from crossbreed.errors import InputError, is_installed
from crossbreed.recipes.operators import OPERATORS
from crossbreed.registry import OURS
from crossbreed.runs.spec import serve
from crossbreed.runs.spec.listing import REGISTRIES

_NEEDED = {
    "torch": "merging tensors",
    "safetensors": "reading and writing checkpoints",
    "transformers": "tokenizers",
    "ray": "workers",
    "pyarrow": "Parquet items",
}
"""Module -> its purpose in runs; parts declare their own needs."""
_OPTIONAL = {"pyarrow", "nevergrad", *serve.MODULES}
"""What hardly anybody needs: missing, it is no problem."""


def examine() -> dict[str, Any]:
    """Returns the findings as JSON: packages, parts, processors, memory, disk, and problems."""
    purposes = _purposes()
    packages = {name: _version(name) for name in purposes}
    return {
        "schema": 1,
        "packages": packages,
        "purposes": purposes,
        "plugins": [*_plugins()],
        "cpus": len(os.sched_getaffinity(0)),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "disk_free_gb": round(shutil.disk_usage(".").free / 1e9, 1),
        "kernels": _kernels() if packages["torch"] else None,
        "gpus": _gpus() if packages["torch"] else [],
        "problems": [*_problems(packages, purposes)],
    }


def render(findings: dict[str, Any]) -> str:
    """Returns the findings as text."""
    purposes = findings["purposes"]
    lines = [f"{name:14} {version or 'missing':16} {purposes[name]}" for name, version in findings["packages"].items()]
    lines += [f"{p['package']:31} the {p['noun']} {p['name']}" for p in findings["plugins"]]
    gpus = ", ".join(findings["gpus"]) or "none: CPU only"
    lines += [
        "",
        f"machine    {findings['cpus']} processors, {findings['memory_gb']} GB of memory; "
        f"{findings['disk_free_gb']} GB of disk are free in this folder",
        f"GPU        {gpus}",
        f"kernels    {findings['kernels'] or 'none: no torch'}",
        "",
        *[f"problem: {problem}" for problem in findings["problems"] or ["none found"]],
    ]
    return "\n".join(lines)


def _purposes() -> dict[str, str]:
    """Module -> what it is needed for: by runs, and by the parts of this package and others."""
    found = {module: [purpose] for module, purpose in _NEEDED.items()}
    found |= {module: ["`crossbreed serve`: pip install 'crossbreed[serve]'"] for module in serve.MODULES}
    for registry in REGISTRIES.values():
        for name, part in registry.working().items():
            for module in getattr(part, "needs", ()):
                found.setdefault(module, []).append(f"the {registry.noun} {name}")
    return {module: ", ".join(purposes) for module, purposes in found.items()}


def _needed_by_us() -> frozenset[str]:
    """The modules that the extras of this package bring."""
    parts = [registry[name] for registry in REGISTRIES.values() for name in registry.ours]
    return frozenset(_NEEDED).union(*(getattr(part, "needs", ()) for part in parts))


def _of_own_extras() -> frozenset[str]:
    """The modules of parts with an extra of their own, which names itself where such a part is used."""
    parts = [registry[name] for registry in REGISTRIES.values() for name in registry.ours]
    return frozenset[str]().union(*(part.needs for part in parts if getattr(part, "extra", "")))


def _plugins() -> Iterator[dict[str, Any]]:
    """Yields the parts of other packages, with the error if one cannot be imported."""
    for registry in REGISTRIES.values():
        faults = registry.faults()
        for name in dict.fromkeys([*registry, *faults]):
            if (package := registry.package_of(name)) != OURS:
                fault = faults.get(name) or (_functions_fault(name) if registry is OPERATORS else None)
                problem = str(fault) if fault else None
                yield {"noun": registry.noun, "name": name, "package": package, "problem": problem}


def _functions_fault(operator: str) -> InputError | None:
    """What keeps an operator's arithmetic, check or reference from being imported; without torch none can be."""
    if not is_installed("torch"):
        return None
    from crossbreed.kernels import operators, reference

    try:
        for functions in (operators.ARITHMETIC, operators.CHECKS, reference.REFERENCES):
            if operator in functions:
                functions[operator]
    except InputError as error:
        return error
    return None


def _version(name: str) -> str | None:
    if not is_installed(name):
        return None
    for distribution in metadata.packages_distributions().get(name, []):
        return metadata.version(distribution)
    return "unknown"


def _kernels() -> str:
    import torch

    from crossbreed.kernels import native

    found = native.compiler()
    if found is None:
        return "plain torch: no g++, so merges are slow"
    works = native.product(torch.ones(1, 1), torch.ones(1, 1)) is not None
    return f"compiled by {found}" if works else f"plain torch: {found} does not compile them, so merges are slow"


def _gpus() -> list[str]:
    import torch

    return (
        [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    )


def _problems(packages: dict[str, str | None], purposes: dict[str, str]) -> list[str]:
    ours = _needed_by_us()
    extras = "pip install 'crossbreed[cpu]' or 'crossbreed[cuda]'"
    problems = [
        f"{name} is missing ({purposes[name]}): {extras if name in ours else 'install what brings it'}"
        for name, version in packages.items()
        if version is None and name not in _OPTIONAL | _of_own_extras()
    ]
    problems += [plugin["problem"] for plugin in _plugins() if plugin["problem"]]
    if is_installed("torchvision") and (packages["torch"] or "").endswith("+cpu"):
        problems.append(
            "torchvision is installed beside a CPU build of torch; PyPI's build cannot be imported there, which breaks "
            "transformers. crossbreed does not need it: pip uninstall torchvision torchaudio torchcodec"
        )
    return problems
