"""Records what mergekit 0.1.5 makes of four small tensors: `python tests/golden/mergekit/make_mergekit_golden.py`.

A file a method: what it was told, and the bytes of its result in each dtype, in hexadecimal. Made on one thread with
torch 2.13 on x86-64; random masks come from the global generator, seeded with 0.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import torch

HERE = Path(__file__).parent
DTYPES = ("float32", "bfloat16", "float16")
SHAPE = (4, 6)
TOLD: dict[str, dict[str, float | list[float | None]]] = {
    "linear": {"weight": [0.4, 0.7, 0.3, -0.2]},
    "task_arithmetic": {"weight": [None, 0.7, 0.3, -0.2], "lambda": 0.8},
    "ties": {"weight": [None, 0.7, 0.3, 0.6], "density": [None, 0.4, 0.6, 1.0], "lambda": 1.2},
    "dare_linear": {"weight": [None, 0.7, 0.3, 0.6], "density": [None, 0.4, 0.6, 0.8]},
    "dare_ties": {"weight": [None, 0.7, 0.3, 0.6], "density": [None, 0.4, 0.6, 0.8]},
    "della": {"weight": [None, 0.7, 0.3, 0.6], "density": [None, 0.4, 0.6, 0.8], "epsilon": [None, 0.3, 0.1, 0.15]},
    "della_linear": {"weight": [None, 0.7, 0.3, 0.6], "density": [None, 0.4, 0.6, 0.8]},
    "breadcrumbs": {"weight": [None, 0.7, 0.3, 0.6], "density": [None, 0.4, 0.6, 0.9], "gamma": [None, 0.1, 0.2, 0.3]},
    "breadcrumbs_ties": {"weight": [None, 0.7, 0.3, 0.6], "density": [None, 0.4, 0.6, 0.9]},
    "sce": {"select_topk": 0.6},
    "slerp": {"t": 0.3},
    "nuslerp": {"weight": [None, 0.7, 0.4], "nuslerp_flatten": False},
    "multislerp": {"weight": [None, 0.7, 0.3, 0.6]},
    "karcher": {},
    "model_stock": {},
    "arcee_fusion": {},
    "nearswap": {"t": 0.05},
    "ram": {"epsilon": 0.1},
    "ramplus_tl": {"epsilon": 0.1},
    "passthrough": {"scale": [0.7]},
}
"""Method -> its parameters; a list has a value for each model, of which the first is the base."""
NUM_MODELS = {"slerp": 2, "arcee_fusion": 2, "nearswap": 2, "nuslerp": 3, "passthrough": 1}
"""How many of the tensors are merged, where it is not all."""


def tensors() -> list[list[float]]:
    """A base, and three that are near it here and far from it there."""
    chance = torch.Generator().manual_seed(0)
    base = torch.randn(SHAPE, generator=chance)
    spread = torch.tensor([0.02, 0.2, 0.2, 1.0]).view(4, 1)
    made = [base, *(base + spread * torch.randn(SHAPE, generator=chance) for _ in range(3))]
    return [[round(number, 3) for number in tensor.flatten().tolist()] for tensor in made]


def merged(method: str, inputs: list[torch.Tensor], told: Mapping[str, float | list[float | None]]) -> torch.Tensor:
    from mergekit.merge_methods import merge_tensors  # here, so that pytest can collect this file without mergekit

    given = {
        name: {number: of_model for number, of_model in enumerate(value) if of_model is not None}
        if isinstance(value, list)
        else value
        for name, value in told.items()
    }
    torch.default_generator.manual_seed(0)
    base = None if method in ("linear", "karcher", "passthrough") else 0
    return merge_tensors(inputs, method, parameters=given, base_index=base)


if __name__ == "__main__":
    torch.set_num_threads(1)
    stored = tensors()
    (HERE / "inputs.json").write_text(json.dumps({"shape": SHAPE, "tensors": stored}) + "\n")
    for method, told in TOLD.items():
        results = {}
        for dtype in DTYPES:
            inputs = [torch.tensor(numbers).view(SHAPE).to(getattr(torch, dtype)) for numbers in stored]
            result = merged(method, inputs[: NUM_MODELS.get(method, 4)], told)
            name = str(result.dtype).removeprefix("torch.")
            results[dtype] = {"dtype": name, "bytes": result.contiguous().view(torch.uint8).numpy().tobytes().hex()}
        golden = {"num_models": NUM_MODELS.get(method, 4), "told": told, "results": results}
        (HERE / f"{method}.json").write_text(json.dumps(golden, indent=1) + "\n")
