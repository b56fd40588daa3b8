"""What crossbreed adds to vLLM's worker through `worker_extension_cls`, vLLM's documented place for such code.

On CPU, vLLM packs the weights of linear layers into copies. A reload packs each layer that receives a tensor again; an
lm_head that is tied to the input embedding receives none of its own, and would go on answering with the old weights.
"""

from typing import TYPE_CHECKING, Any

from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead

if TYPE_CHECKING:
    import torch


class SwapExtension:
    """Methods that `collective_rpc` calls by name."""

    if TYPE_CHECKING:
        get_model: Any

    def repack_lm_head(self) -> None:
        """Packs the lm_head from the weights that it has now; where nothing is packed, this does nothing."""
        model: torch.nn.Module = self.get_model()
        for module in model.modules():
            if isinstance(module, ParallelLMHead):
                module.quant_method.process_weights_after_loading(module)
