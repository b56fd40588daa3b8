"""What architectures call their tensors, and where a tensor stands in its model by its name. No other module knows.

A language model is a stack of layers, with embeddings before it, and a final norm and an output head behind it. The
tables below are the conventions: an architecture with other names is a word in a table. Recipes are written in names
and patterns, so a word that moves tensors to another layer or module type changes what recorded runs decode to:
`tests/golden/names` holds what follows for 40 architectures.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from types import MappingProxyType


class ModuleType(StrEnum):
    """The kinds of module that a search space may give coordinates of their own."""

    ATTENTION = "attention"
    MLP = "mlp"
    NORM = "norm"
    EMBEDDING = "embedding"
    """Input embeddings and lm_head."""
    OTHER = "other"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ends:
    """What an architecture calls the modules with a row for each token."""

    embedding: str
    """Of input tokens."""
    head: str
    """Of output tokens; not in the file where it is tied."""


STACKS = ("layers", "h", "blocks", "block")
"""Lists of layers: what stands before a layer's number."""
MODULE_WORDS: Mapping[ModuleType, tuple[str, ...]] = MappingProxyType(
    {
        ModuleType.NORM: ("norm", r"ln_\d", "ln_f"),
        ModuleType.ATTENTION: ("attn", "attention"),
        ModuleType.MLP: ("mlp", "feed_forward", "ffn", "experts"),
        ModuleType.EMBEDDING: ("embed", "lm_head", "wte", "wpe"),
    }
)
"""Regular expressions, found anywhere in a name; the first type with one that is found."""
ENDS = (
    Ends(embedding="embed_tokens", head="lm_head"),
    Ends(embedding="wte", head="lm_head"),
    Ends(embedding="embed_in", head="embed_out"),
)
POSITIONS = ("embedding", "embeddings", "wpe")
"""How other modules before the layers end, such as embeddings of positions."""
DERIVED = ("rotary_emb.inv_freq",)
"""Buffers in checkpoints of 2023 and before, which every loader recomputes from the configuration."""
PREFIXES = ("model", "transformer")
"""The model inside the one with the head; some files leave it out."""
DEPTH_KEYS = ("num_hidden_layers", "n_layer", "num_layers")
"""Keys of config.json that hold the number of layers."""
TRANSPOSED_TYPES = frozenset({"gpt2", "gpt-sw3", "openai-gpt", "imagegpt", "decision_transformer"})
"""Architectures (`model_type`) that store the matrices of `TRANSPOSED_MODULES` as (inputs, outputs): Conv1D layers."""
TRANSPOSED_MODULES = ("c_attn", "q_attn", "c_proj", "c_fc")
HEAD = "lm_head.weight"
"""The head that may be tied to the input embedding; tied, it is not listed."""

_LAYER = re.compile(rf"(?:^|\.)(?:{'|'.join(STACKS)})\.(?P<number>\d+)\.")
_MODULES = {kind: re.compile("|".join(words)) for kind, words in MODULE_WORDS.items()}
_EMBEDDINGS = {ends.embedding for ends in ENDS}
_HEADS = {ends.head for ends in ENDS}
_MAY_BE_TIED = {ends.embedding for ends in ENDS if f"{ends.head}.weight" == HEAD}
_BEFORE_LAYERS = re.compile(rf"(?:{'|'.join([*sorted(_EMBEDDINGS), *POSITIONS])})\b")


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a tensor stands in its model."""

    stack: str | None
    """The list that its layer is in, such as `model.layers`; None outside the layers."""
    layer: int | None
    """The layer's number in the list; None for embeddings, final norm and head."""
    within: str
    """Its name inside the layer; outside the layers, its whole name."""
    module: ModuleType
    """The kind of module that it belongs to."""


@lru_cache(maxsize=1 << 16)
def place_of(name: str) -> Place:
    """Returns where a tensor stands.

    >>> place_of("model.layers.7.mlp.up_proj.weight").within
    'mlp.up_proj.weight'
    """
    module = next((kind for kind, words in _MODULES.items() if words.search(name)), ModuleType.OTHER)
    if (found := _LAYER.search(name)) is None:
        return Place(stack=None, layer=None, within=name, module=module)
    start, end = found.span("number")
    return Place(stack=name[: start - 1], layer=int(found["number"]), within=name[end + 1 :], module=module)


def layer_of(name: str) -> int | None:
    """Returns the layer that a tensor belongs to, None for embeddings, final norm and head.

    >>> layer_of("model.layers.7.mlp.up_proj.weight"), layer_of("lm_head.weight")
    (7, None)
    """
    return place_of(name).layer


def module_of(name: str) -> ModuleType:
    """Returns the kind of module that a tensor belongs to.

    >>> module_of("model.layers.7.self_attn.q_proj.weight").value
    'attention'
    """
    return place_of(name).module


def count_layers(names: Iterable[str]) -> int:
    """Returns how many layers a model with these tensors has.

    >>> count_layers(["model.layers.7.mlp.up_proj.weight", "lm_head.weight"])
    8
    """
    return 1 + max((layer for name in names if (layer := layer_of(name)) is not None), default=-1)


def depth_of(name: str, num_layers: int) -> float | None:
    """Returns where a tensor's layer is, from 0 (first) to 1 (last); None outside the layers.

    >>> depth_of("model.layers.7.mlp.up_proj.weight", 15), depth_of("lm_head.weight", 15)
    (0.5, None)
    """
    layer = layer_of(name)
    return None if layer is None else layer / max(1, num_layers - 1)


def in_layer(name: str, layer: int) -> str:
    """Returns what the tensor of a layer is called in another layer.

    >>> in_layer("model.layers.7.mlp.up_proj.weight", 12)
    'model.layers.12.mlp.up_proj.weight'
    """
    place = place_of(name)
    assert place.stack is not None, f"{name} belongs to no layer"
    return f"{place.stack}.{layer}.{place.within}"


def is_before_layers(name: str) -> bool:
    """Returns whether a tensor outside the layers stands before them, as embeddings do; final norm and head do not."""
    return _BEFORE_LAYERS.search(name) is not None


def is_projection(name: str, shape: Sequence[int]) -> bool:
    """Returns whether a tensor is a Linear's matrix inside the model: no vector, no embedding, no head.

    >>> is_projection("model.layers.7.mlp.up_proj.weight", (8, 4)), is_projection("lm_head.weight", (8, 4))
    (True, False)
    """
    return len(shape) == 2 and module_of(name) is not ModuleType.EMBEDDING


def is_input_embedding(name: str) -> bool:
    """Returns whether a tensor embeds inputs, so that a row is a token or a position.

    GPT-NeoX's head, `embed_out`, counts as one: it does in recorded genomes.
    """
    return module_of(name) is ModuleType.EMBEDDING and HEAD.removesuffix(".weight") not in name


def has_token_rows(name: str) -> bool:
    """Returns whether mergekit's numerics align a tensor's rows with the merge's vocabulary."""
    return name == HEAD or _is_weight_of(name, _EMBEDDINGS)


def may_be_tied(name: str) -> bool:
    """Returns whether a tensor is the embedding that `lm_head.weight` is tied to, where it is tied."""
    return _is_weight_of(name, _MAY_BE_TIED)


def may_be_head(name: str) -> bool:
    """Returns whether a tensor makes the logits: a head, or an embedding that `lm_head.weight` may be tied to."""
    return _is_weight_of(name, _HEADS) or may_be_tied(name)


def is_stored_transposed(name: str, model_type: object) -> bool:
    """Returns whether an architecture stores a matrix as (inputs, outputs), the other way round than Linear layers.

    >>> [is_stored_transposed("h.0.attn.c_proj.weight", kind) for kind in ("gpt2", "gpt_bigcode")]
    [True, False]
    """
    return model_type in TRANSPOSED_TYPES and _is_weight_of(name, set(TRANSPOSED_MODULES))


def is_end(module: str) -> bool:
    """Returns whether a module has a row for each token: an input embedding or a head.

    >>> is_end("model.embed_tokens"), is_end("model.layers.0.mlp.up_proj")
    (True, False)
    """
    return module.rpartition(".")[2] in _EMBEDDINGS | _HEADS


def is_derived(name: str) -> bool:
    """Returns whether a tensor is a buffer that follows from the configuration."""
    return name.endswith(DERIVED)


def spellings(module: str) -> Iterator[str]:
    """Yields the names that files may have for a module, the given one first.

    >>> list(spellings("model.norm"))
    ['model.norm', 'norm', 'model.model.norm', 'transformer.model.norm']
    """
    yield module
    yield module.partition(".")[2]
    yield from (f"{prefix}.{module}" for prefix in PREFIXES)


def names_pattern(names: Iterable[str]) -> str:
    """Returns a regular expression that matches exactly `names`."""
    return "|".join(re.escape(name) for name in sorted(names))


def layers_pattern(layers: Iterable[int]) -> str:
    """Returns a regular expression that matches the names of all tensors in some layers.

    >>> bool(re.fullmatch(layers_pattern([0, 7]), "model.layers.7.mlp.up_proj.weight"))
    True
    """
    return rf"(?:.*\.)?(?:{'|'.join(STACKS)})\.(?:{'|'.join(map(str, layers))})\..*"


def _is_weight_of(name: str, modules: set[str]) -> bool:
    """Whether the last module in a name is one of `modules`."""
    path = name.split(".")
    return path[-1] == "weight" and len(path) > 1 and path[-2] in modules
