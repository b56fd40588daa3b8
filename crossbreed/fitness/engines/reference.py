"""What transformers itself says of a checkpoint: the truth that the canary compares an engine with.

The model is loaded as `from_pretrained` loads the published folder, by the names in the file, and not as our own
engine overwrites parameters. Nothing is written to disk.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.utils import logging

from crossbreed.errors import EngineError
from crossbreed.fitness.engines.encoder import Encoder
from crossbreed.fitness.engines.library import library_call
from crossbreed.fitness.protocol import Logprobs, Truth
from crossbreed.fitness.requests import Loglikelihood
from crossbreed.sources.model_config import load_config
from crossbreed.types import Dtype, WeightStream

MAX_BYTES = 6 << 30
"""The largest model, in float32, that is loaded beside an engine: a larger one would take minutes on a CPU."""
_MEMORY_PART = 0.4
"""The largest part of the machine's memory that it may take."""


def truth_of(
    host: Path, encoder: Encoder, weights: WeightStream, requests: Sequence[Loglikelihood], *, dtype: Dtype
) -> Truth:
    """Loads the weights with transformers on the CPU and scores the requests, exactly and as rounded; see `Truth`.

    Args:
        host: The folder with the model's configuration.
        encoder: The engine's own, so that both score the same tokens.
        weights: All tensors of a checkpoint, by the names in its file.
        requests: The requests to score.
        dtype: The dtype in which the engine computes.

    Raises:
        EngineError: it cannot be done here; the message says why.
    """
    state: dict[str, torch.Tensor] = {}
    num_bytes, limit = 0, min(MAX_BYTES, int(_MEMORY_PART * _memory_bytes()))
    for name, tensor in weights:
        num_bytes += 4 * tensor.numel()
        if num_bytes > limit:
            raise EngineError(f"the model is larger than {limit / 2**30:.1f} GiB in float32")
        state[name] = tensor
    with library_call("transformers does not load it"):
        model = _loaded(host, state)
        exact = _logprobs(model, encoder, requests)
        if dtype == "float32":
            return Truth(exact=exact, rounded=exact)
        return Truth(exact=exact, rounded=_logprobs(model.to(getattr(torch, dtype)), encoder, requests))


def _loaded(host: Path, state: dict[str, torch.Tensor]) -> PreTrainedModel:
    config = load_config(host)
    with torch.device("meta"):
        kind = type(AutoModelForCausalLM.from_config(config, trust_remote_code=False))
    had_bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        with torch.random.fork_rng(devices=[]):  # for what is missing, which is refused
            model, found = kind.from_pretrained(
                None, config=config, state_dict=state, dtype=torch.float32, output_loading_info=True
            )
    finally:
        if had_bars:
            logging.enable_progress_bar()
    if wrong := [*found["missing_keys"], *found["mismatched_keys"]]:
        raise EngineError(f"transformers finds no weights for {sorted(map(str, wrong))[:3]}")
    loaded: PreTrainedModel = model.eval()
    return loaded


@torch.inference_mode()
def _logprobs(model: PreTrainedModel, encoder: Encoder, requests: Sequence[Loglikelihood]) -> Logprobs:
    found = []
    for request in requests:
        encoded = encoder.encode(request)
        logits_TV = model(torch.tensor([encoded.token_ids]), use_cache=False).logits[0].float().log_softmax(-1)
        scored = torch.tensor(encoded.token_ids[encoded.num_prompt :])
        found.append(tuple(logits_TV[encoded.num_prompt - 1 : -1].gather(1, scored[:, None])[:, 0].tolist()))
    return tuple(found)


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
