"""Models of which mergekit 0.1.5 reproduces an exported recipe, by their architecture and the names of their tensors.

mergekit lists the tensors of architectures by name: others it leaves out of a merge, and those that it misses end it.
So a recipe is exported only for models with exactly the tensors of one that `tests/parity` has merged.
"""

import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType

from crossbreed.sources.naming import DERIVED, HEAD, place_of

_QKVO = "self_attn.q_proj self_attn.k_proj self_attn.v_proj self_attn.o_proj"
_QKV_BIASED = "self_attn.q_proj+ self_attn.k_proj+ self_attn.v_proj+"
_QK_NORMS = "self_attn.q_norm self_attn.k_norm"
_GATED = "mlp.gate_proj mlp.up_proj mlp.down_proj"
_NORMS = "input_layernorm post_attention_layernorm"
_MORE_NORMS = "pre_feedforward_layernorm post_feedforward_layernorm"
_OUTSIDE = "model.embed_tokens model.norm"
_LLAMA = f"{_NORMS} {_QKVO} {_GATED}"
_TABLE: Mapping[str, tuple[str, str, str]] = MappingProxyType(
    {
        **dict.fromkeys(
            ("LlamaForCausalLM", "MistralForCausalLM", "GemmaForCausalLM", "GraniteForCausalLM"),
            ("model.layers", _LLAMA, _OUTSIDE),
        ),
        "ArceeForCausalLM": ("model.layers", f"{_NORMS} {_QKVO} mlp.up_proj mlp.down_proj", _OUTSIDE),
        "Cohere2ForCausalLM": ("model.layers", f"input_layernorm {_QKVO} {_GATED}", _OUTSIDE),
        "GPT2LMHeadModel": (
            "transformer.h",
            "ln_1+ ln_2+ attn.c_attn+ attn.c_proj+ mlp.c_fc+ mlp.c_proj+",
            "transformer.wte transformer.wpe transformer.ln_f+",
        ),
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
ARCHITECTURES = tuple(_TABLE)


def is_reproduced(architectures: object, tensors: Iterable[str]) -> bool:
    """Returns whether mergekit 0.1.5 merges exactly the tensors of a model.

    Args:
        architectures: The value in its config.json.
        tensors: The names in its files.
    """
    if not isinstance(architectures, list) or len(architectures) != 1 or architectures[0] not in _TABLE:
        return False
    stack, inside, outside = _TABLE[architectures[0]]
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


def _tensors(modules: str) -> set[str]:
    names = {f"{module.rstrip('+')}.weight" for module in modules.split()}
    return names | {f"{module.rstrip('+')}.bias" for module in modules.split() if module.endswith("+")}
