"""Models of which mergekit 0.1.5 reproduces an exported recipe, by their architecture and the names of their tensors.

mergekit lists the tensors of architectures by name: others it leaves out of a merge, and those that it misses end it.
Of an architecture that it does not list it takes all tensors that the files have in common, but merges no adapter.
So a recipe is exported only for models with exactly the tensors of one that `tests/parity` has merged.
"""

import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType

from crossbreed.sources.naming import DERIVED, HEAD, place_of
from crossbreed.types import Recipe

_QKVO = "self_attn.q_proj self_attn.k_proj self_attn.v_proj self_attn.o_proj"
_QKV_BIASED = "self_attn.q_proj+ self_attn.k_proj+ self_attn.v_proj+"
_QK_NORMS = "self_attn.q_norm self_attn.k_norm"
_GATED = "mlp.gate_proj mlp.up_proj mlp.down_proj"
_NORMS = "input_layernorm post_attention_layernorm"
_MORE_NORMS = "pre_feedforward_layernorm post_feedforward_layernorm"
_OUTSIDE = "model.embed_tokens model.norm"
_LLAMA = f"{_NORMS} {_QKVO} {_GATED}"
_H = "transformer.h"
_GPT2 = "ln_1+ ln_2+ attn.c_attn+ attn.c_proj+ mlp.c_fc+ mlp.c_proj+"
_LISTED: Mapping[str, tuple[str, str, str]] = MappingProxyType(
    {
        **dict.fromkeys(
            ("LlamaForCausalLM", "MistralForCausalLM", "GemmaForCausalLM", "GraniteForCausalLM"),
            ("model.layers", _LLAMA, _OUTSIDE),
        ),
        "ArceeForCausalLM": ("model.layers", f"{_NORMS} {_QKVO} mlp.up_proj mlp.down_proj", _OUTSIDE),
        "Cohere2ForCausalLM": ("model.layers", f"input_layernorm {_QKVO} {_GATED}", _OUTSIDE),
        "GPT2LMHeadModel": (_H, _GPT2, "transformer.wte transformer.wpe transformer.ln_f+"),
        "Gemma2ForCausalLM": ("model.layers", f"{_LLAMA} {_MORE_NORMS}", _OUTSIDE),
        "Gemma3ForCausalLM": ("model.layers", f"{_LLAMA} {_MORE_NORMS} {_QK_NORMS}", _OUTSIDE),
        "Glm4ForCausalLM": (
            "model.layers",
            f"{_NORMS} post_self_attn_layernorm post_mlp_layernorm {_QKV_BIASED} self_attn.o_proj "
            "mlp.gate_up_proj mlp.down_proj",
            _OUTSIDE,
        ),
        "Olmo2ForCausalLM": (
            "model.layers",
            f"post_attention_layernorm post_feedforward_layernorm {_QKVO} {_QK_NORMS} {_GATED}",
            _OUTSIDE,
        ),
        "Phi3ForCausalLM": (
            "model.layers",
            f"{_NORMS} self_attn.qkv_proj self_attn.o_proj mlp.gate_up_proj mlp.down_proj",
            _OUTSIDE,
        ),
        "PhiForCausalLM": (
            "model.layers",
            f"input_layernorm+ {_QKV_BIASED} self_attn.dense+ mlp.fc1+ mlp.fc2+",
            "model.embed_tokens model.final_layernorm+ lm_head+",
        ),
        "Qwen2ForCausalLM": ("model.layers", f"{_NORMS} {_QKV_BIASED} self_attn.o_proj {_GATED}", _OUTSIDE),
        "Qwen3ForCausalLM": ("model.layers", f"{_LLAMA} {_QK_NORMS}", _OUTSIDE),
        "StableLmForCausalLM": (
            "model.layers",
            f"input_layernorm+ post_attention_layernorm+ {_QKVO} {_GATED}",
            "model.embed_tokens model.norm+",
        ),
        "Starcoder2ForCausalLM": (
            "model.layers",
            f"input_layernorm+ post_attention_layernorm+ {_QKV_BIASED} self_attn.o_proj+ mlp.c_fc+ mlp.c_proj+",
            "model.embed_tokens model.norm+",
        ),
    }
)
"""Architecture (as in config.json) -> its stack of layers, the modules in each, the modules outside; `+`: with a bias.

A head may be tied."""
_INFERRED: Mapping[str, tuple[str, str, str]] = MappingProxyType(
    {
        **dict.fromkeys(("MinistralForCausalLM", "SmolLM3ForCausalLM"), ("model.layers", _LLAMA, _OUTSIDE)),
        "BloomForCausalLM": (
            _H,
            "input_layernorm+ post_attention_layernorm+ self_attention.query_key_value+ self_attention.dense+ "
            "mlp.dense_h_to_4h+ mlp.dense_4h_to_h+",
            "transformer.word_embeddings transformer.word_embeddings_layernorm+ transformer.ln_f+",
        ),
        "CTRLLMHeadModel": (
            _H,
            "layernorm1+ layernorm2+ multi_head_attention.Wq+ multi_head_attention.Wk+ multi_head_attention.Wv+ "
            "multi_head_attention.dense+ ffn.0+ ffn.2+",
            "transformer.w transformer.layernorm+ lm_head+",
        ),
        "Exaone4ForCausalLM": (
            "model.layers",
            f"post_attention_layernorm post_feedforward_layernorm {_QKVO} {_QK_NORMS} {_GATED}",
            _OUTSIDE,
        ),
        "GPTBigCodeForCausalLM": (_H, _GPT2, "transformer.wte transformer.wpe transformer.ln_f+"),
        "GPTJForCausalLM": (
            _H,
            "ln_1+ attn.q_proj attn.k_proj attn.v_proj attn.out_proj mlp.fc_in+ mlp.fc_out+",
            "transformer.wte transformer.ln_f+ lm_head+",
        ),
        "GPTNeoForCausalLM": (
            _H,
            "ln_1+ ln_2+ attn.attention.q_proj attn.attention.k_proj attn.attention.v_proj attn.attention.out_proj+ "
            "mlp.c_fc+ mlp.c_proj+",
            "transformer.wte transformer.wpe transformer.ln_f+",
        ),
        "MptForCausalLM": (
            "transformer.blocks",
            "norm_1 norm_2 attn.Wqkv attn.out_proj ffn.up_proj ffn.down_proj",
            "transformer.wte transformer.norm_f",
        ),
        "NemotronForCausalLM": (
            "model.layers",
            f"input_layernorm+ post_attention_layernorm+ {_QKVO} mlp.up_proj mlp.down_proj",
            "model.embed_tokens model.norm+",
        ),
        "OPTForCausalLM": (
            "model.decoder.layers",
            f"self_attn_layer_norm+ final_layer_norm+ {_QKV_BIASED} self_attn.out_proj+ fc1+ fc2+",
            "model.decoder.embed_tokens model.decoder.embed_positions model.decoder.final_layer_norm+",
        ),
        "OlmoForCausalLM": ("model.layers", f"{_QKVO} {_GATED}", "model.embed_tokens"),
        "OpenAIGPTLMHeadModel": (_H, _GPT2, "transformer.tokens_embed transformer.positions_embed"),
    }
)
"""The same for architectures that mergekit does not list: it infers their tensors from the files."""
ARCHITECTURES = (*_LISTED, *_INFERRED)


def is_reproduced(architectures: object, tensors: Iterable[str], *, must_be_listed: bool = False) -> bool:
    """Returns whether mergekit 0.1.5 merges exactly the tensors of a model.

    Args:
        architectures: The value in its config.json.
        tensors: The names in its files.
        must_be_listed: Whether the merge needs an architecture that mergekit lists. Adapters do, and so do layers that
            are passed through: of others it takes the final norm from the first layer's model.
    """
    table = _LISTED if must_be_listed else {**_LISTED, **_INFERRED}
    if not isinstance(architectures, list) or len(architectures) != 1 or architectures[0] not in table:
        return False
    stack, inside, outside = table[architectures[0]]
    layers: dict[str, set[str]] = {}
    others = set()
    for name in tensors:
        place = place_of(name)
        if place.layer is None:
            others.add(name)
        elif not name.endswith(DERIVED):
            layers.setdefault(f"{place.stack}.{place.layer}", set()).add(place.within)
    of_stack = re.compile(rf"{re.escape(stack)}\.\d+")
    return (
        all(of_stack.fullmatch(layer) for layer in layers)
        and all(names == _tensors(inside) for names in layers.values())
        and others | {HEAD} == _tensors(outside) | {HEAD}
    )


def passes_layers_through(recipe: Recipe) -> bool:
    """Returns whether some of a recipe's tensors are passed through from one source."""
    return bool(recipe.layers) or any(rule.operator == "passthrough" for rule in recipe.rules)


def _tensors(modules: str) -> set[str]:
    names = {f"{module.rstrip('+')}.weight" for module in modules.split()}
    return names | {f"{module.rstrip('+')}.bias" for module in modules.split() if module.endswith("+")}
