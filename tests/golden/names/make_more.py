"""Writes types.json: the module types of every language model that transformers can build small.

Nothing is allocated: names come from models on the meta device, as they are in memory. Of each architecture stands
where -> module type -> names, one for each that differs in more than the numbers of layers and experts.

    python tests/golden/names/make_more.py
"""

import json
import re
from pathlib import Path
from typing import Any

import torch
import transformers as tf
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from crossbreed.sources.naming import place_of

HERE = Path(__file__).parent
SMALL: dict[str, Any] = {
    **dict.fromkeys(("num_hidden_layers", "n_layer", "num_layers", "n_layers", "decoder_layers", "encoder_layers"), 4),
    **dict.fromkeys(("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_decoder_layers", "num_blocks"), 4),
    **dict.fromkeys(("vocab_size", "vocab_size_per_layer_input"), 64),
    "pad_token_id": 0,
}


def names_of(kind: str) -> list[str]:
    """Returns the names of the parameters of a small model."""
    default = tf.CONFIG_MAPPING[kind]().to_dict()
    small = {key: value for key, value in SMALL.items() if isinstance(default.get(key), int)}
    config = tf.CONFIG_MAPPING[kind](**small)
    with torch.device("meta"):
        model = tf.AutoModelForCausalLM.from_config(config)
    return sorted(name for name, _ in model.named_parameters())


def types_of(names: list[str]) -> dict[str, list[str]]:
    """Returns where and module type -> names."""
    found: dict[str, dict[str, str]] = {}
    for name in names:
        place = place_of(name)
        where = "outside" if place.layer is None else "layer"
        found.setdefault(f"{where}: {place.module}", {}).setdefault(re.sub(r"\.\d+(?=\.)", "", name), name)
    return {key: sorted(found[key].values()) for key in sorted(found)}


def all_types() -> dict[str, dict[str, list[str]]]:
    """Returns architecture -> types; what transformers cannot build small is left out."""
    tf.logging.set_verbosity_error()
    types = {}
    for kind in sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES):
        try:
            types[kind] = types_of(names_of(kind))
        except Exception as error:  # its checks of a configuration raise all kinds
            print(f"{kind}: {type(error).__name__}: {str(error).splitlines()[0][:100]}")
    return types


def main() -> None:
    """Writes the types."""
    (HERE / "types.json").write_text(json.dumps(all_types(), indent=0) + "\n")


if __name__ == "__main__":
    main()
