"""What crossbreed adds to vLLM's worker through `worker_extension_cls`, vLLM's documented place for such code.

On CPU, vLLM packs the weights of linear layers into copies. A reload packs each layer that receives a tensor again; an
lm_head that is tied to the input embedding receives none of its own, and would go on answering with the old weights.

The KV cache is never cleared: attention gives what is left in it of old prompts a weight of 0. But 0 * NaN is NaN, so
one candidate whose answers are NaN would spoil those of the next ones.
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
        """Packs the lm_head from the weights that it has now; where nothing is packed, this does nothing."""
        model: torch.nn.Module = self.get_model()
        for module in model.modules():
            if isinstance(module, ParallelLMHead):
                module.quant_method.process_weights_after_loading(module)

    def clear_kv_cache(self) -> None:
        """Overwrites what is left of old prompts with zeros."""
        for cache in self.model_runner.kv_caches:
            for tensor in cache if isinstance(cache, list | tuple) else [cache]:
                tensor.zero_()
