"""Extends vLLM's worker through `worker_extension_cls`, vLLM's documented extension point.

On CPU, vLLM packs the weights of linear layers into copies. A reload repacks each layer that receives a tensor; an
lm_head that is tied to the input embedding receives none of its own, and would keep using the old weights.

vLLM never clears the KV cache: attention gives the remains of old prompts a weight of 0. But 0 * NaN is NaN, so one
candidate whose activations are NaN would corrupt the answers of the next ones.
"""

from typing import TYPE_CHECKING, Any

from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead

if TYPE_CHECKING:
    import torch


class SwapExtension:
    """Methods that `collective_rpc` calls by name."""

    if TYPE_CHECKING:
        get_model: Any
        model_runner: Any

    def repack_lm_head(self) -> None:
        """Repacks the lm_head from its current weights; does nothing where layers are not packed."""
        model: torch.nn.Module = self.get_model()
        for module in model.modules():
            if isinstance(module, ParallelLMHead):
                module.quant_method.process_weights_after_loading(module)

    def clear_kv_cache(self) -> None:
        """Overwrites the KV cache with zeros."""
        for cache in self.model_runner.kv_caches:
            for tensor in cache if isinstance(cache, list | tuple) else [cache]:
                tensor.zero_()
