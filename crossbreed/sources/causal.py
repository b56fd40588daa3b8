"""What continues texts and what does not: transformers' own tables say what loads a configuration, and as what."""

from pathlib import Path
from typing import Any

from crossbreed.errors import InputError
from crossbreed.sources.model_config import load_config


def require_causal(folder: Path) -> None:
    """Refuses a model that does not continue texts: an encoder, an encoder-decoder, one that also reads images.

    Such models may have weights to merge, but no engine can ask them: `AutoModelForCausalLM` does not load them, or
    loads one whose tokens see those after them.

    Raises:
        InputError: it is none that `AutoModelForCausalLM` loads as a causal language model.
    """
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

    config = load_config(folder)
    kind = type(config)
    if config.is_encoder_decoder:
        found = "an encoder-decoder"
    elif kind not in MODEL_FOR_CAUSAL_LM_MAPPING:
        sees = kind in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
        found = "a model of images and text" if sees else "a model that `AutoModelForCausalLM` does not load"
    elif _sees_what_follows(config):
        found = "an encoder: each token sees those after it"
    else:
        return
    raise InputError(
        "the base is not a causal language model",
        expected="a model that continues a text, as `AutoModelForCausalLM` loads them",
        got=f"`model_type: {config.model_type}`, {found}",
        where=str(folder),
        fix="take a decoder as base, or merge without a search: `crossbreed merge`",
    )


def _sees_what_follows(config: Any) -> bool:  # transformers has no types
    """Whether attention is bidirectional: masked language models, unless they are set to be decoders, and XLNet."""
    from transformers import MODEL_FOR_MASKED_LM_MAPPING

    is_masked = type(config) in MODEL_FOR_MASKED_LM_MAPPING
    is_causal = getattr(config, "is_decoder", None) or getattr(config, "causal", False)
    return (is_masked and not is_causal) or getattr(config, "attn_type", "") == "bi"
