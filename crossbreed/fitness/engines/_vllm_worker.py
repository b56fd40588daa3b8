"""Extends vLLM's worker through `worker_extension_cls`, vLLM's documented extension point.

A layer computes with more than its parameters: on CPU, vLLM packs weights into copies when a model is loaded. A reload
processes each layer that receives a tensor, as loading does, with two exceptions in vLLM 0.32 (no upstream issue is
known), which leave a layer with the copies of other weights, or with none:

- a layer whose weight is another's, such as an lm_head tied to the input embedding, receives no tensor of its own;
- the method of a layer of experts processes fully only the first time, while it has no `moe_kernel`
  (`UnquantizedFusedMoEMethod._setup_kernel`): its weights would come unpacked to a kernel that expects packed ones.

On CUDA the second is intended: nothing is packed outside the parameters, and recorded graphs hold the kernel.

vLLM never clears the KV cache: attention gives the remains of old prompts a weight of 0. But 0 * NaN is NaN, so one
candidate whose activations are NaN would corrupt the answers of the next ones.

`tests/fitness/test_vllm_engine.py` fails without any one of the three, and says when vLLM no longer needs it.
"""

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from crossbreed.fitness.engines.library import internals, other_version, require_internals

with internals("vllm"):
    from vllm.model_executor.layers.fused_moe.fused_moe_method_base import FusedMoEMethodBase
    from vllm.model_executor.layers.quantization.base_config import QuantizeMethodBase
    from vllm.platforms import current_platform

if TYPE_CHECKING:
    import torch


class SwapExtension:
    """Methods that `collective_rpc` calls by name."""

    if TYPE_CHECKING:
        get_model: Any
        model_runner: Any

    def check_internals(self) -> None:
        """Refuses a version of vLLM in which the methods below would find nothing to do. Called once."""
        require_internals("vllm", self, ("get_model", "model_runner", "reload_weights"))
        require_internals("vllm", self.model_runner, ("kv_caches",))
        require_internals("vllm", QuantizeMethodBase, ("process_weights_after_loading",))
        model: torch.nn.Module = self.get_model()
        methods = [getattr(module, "quant_method", None) for module in model.modules()]
        if not any(isinstance(method, QuantizeMethodBase) for method in methods):
            raise other_version("vllm", "no layer has a `quant_method`")

    def process_experts_fully(self) -> None:
        """Makes every later reload process layers of experts as the first load did. Called once, before any reload."""
        if not current_platform.is_cpu():
            return
        model: torch.nn.Module = self.get_model()
        for module in model.modules():
            method = getattr(module, "quant_method", None)
            if isinstance(method, FusedMoEMethodBase):
                object.__setattr__(method, "process_weights_after_loading", _as_if_first(method))

    def process_sharing_layers(self) -> None:
        """Processes the layers whose parameters are also another's, which a reload passes over."""
        model: torch.nn.Module = self.get_model()
        owners = Counter(id(parameter) for module in model.modules() for parameter in _own(module))
        for module in model.modules():
            method = getattr(module, "quant_method", None)
            if isinstance(method, QuantizeMethodBase) and any(owners[id(own)] > 1 for own in _own(module)):
                method.process_weights_after_loading(module)

    def clear_kv_cache(self) -> None:
        """Overwrites the KV cache with zeros."""
        for cache in self.model_runner.kv_caches:
            for tensor in cache if isinstance(cache, list | tuple) else [cache]:
                tensor.zero_()


def _own(module: "torch.nn.Module") -> "list[torch.nn.Parameter]":
    return list(module.parameters(recurse=False))


def _as_if_first(method: FusedMoEMethodBase) -> "Callable[[torch.nn.Module], None]":
    require_internals("vllm", method, ("moe_kernel",))  # or a new attribute would be set, and nothing said
    process = method.process_weights_after_loading

    def process_fully(layer: "torch.nn.Module") -> None:
        method.moe_kernel = None
        process(layer)

    return process_fully
