"""What architectures call their tensors, and where a tensor stands in its model by its name. No other module knows.

A language model is a stack of layers, with embeddings before it, and a final norm and an output head behind it. Beside
it may stand towers for images or sound, an encoder, and layers that draft: their layers are not counted. The
tables below are the conventions: an architecture with other names is a word in a table. Recipes are written in names
and patterns, so a word that moves tensors to another layer or module type changes what recorded runs decode to:
`tests/golden/names` holds what follows for more than 100 architectures.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from types import MappingProxyType


class ModuleType(StrEnum):
    """The kinds of module that a search space may give coordinates of their own."""

    ATTENTION = "attention"
    MLP = "mlp"
    """MLPs, the experts of a mixture among them."""
    ROUTER = "router"
    """The modules that choose and weigh the experts of a mixture."""
    MIXER = "mixer"
    """The modules that mix tokens without attention: state spaces, convolutions, recurrences."""
    NORM = "norm"
    EMBEDDING = "embedding"
    """Input embeddings and output head."""
    VISION = "vision"
    """Towers for images and videos, with their projectors."""
    AUDIO = "audio"
    """Towers for sound, and modules that make sound."""
    ENCODER = "encoder"
    """The encoder of an encoder-decoder."""
    DRAFT = "draft"
    """Layers and heads that predict further tokens (MTP): no part of the answers."""
    OTHER = "other"


STACKS = ("layers", "h", "blocks", "block", "layer")
"""Lists of layers: what stands before a layer's number."""
TOWERS: Mapping[ModuleType, str] = MappingProxyType(
    {
        ModuleType.DRAFT: r"\b(?:mtp\w*|nextn\w*|medusa\w*)\.",
        ModuleType.AUDIO: (
            r"\b(?:\w*(?:audio|speech|sound|codec)\w*|talker|token2wav|tts|apm|depth_decoder|conformer)(?:\.|$)"
        ),
        ModuleType.VISION: (
            r"\b(?:\w*(?:vision|visual|image|img|video|pixel)\w*|vit|vpm|siglip|clip|vq_?model|\w*q_?former|resampler"
            r"|perceiver\w*|multi_?modal\w*|mm_\w+|\w*projector|connector|aligner|mlp1|merger)(?:\.|$)"
        ),
        ModuleType.ENCODER: r"^(?:model\.)?encoder\.(?:layers|block|embed\w*|final\w*|layer_?norm\w*)\.",
    }
)
"""Parts of a model beside its language model, by a module of theirs that stands before all numbers of layers."""
MODULE_WORDS: tuple[tuple[ModuleType, tuple[str, ...]], ...] = (
    (ModuleType.NORM, (r"(?<!_prelayer)(?i:norm)", r"ln_\d", "ln_f", r"(?:^|[._])ln(?:\d|_[a-z]+)?\.")),
    (ModuleType.ROUTER, (r"\brouter\b", r"(?:mlp|ffn|feed_forward|moe|mixer)\.(?:shared_expert_)?gate\.")),
    (ModuleType.ROUTER, ("e_score_correction_bias", "expert_bias", "shared_expert_gate")),
    (ModuleType.ATTENTION, ("attn", "(?i:attention)")),
    (ModuleType.MLP, ("mlp", "feed_forward", "ffn", "experts")),
    (ModuleType.EMBEDDING, ("embed", "lm_head", "wte", "wpe")),
    (ModuleType.ATTENTION, (r"\b[qkvo]_proj\b",)),
    (ModuleType.MLP, (r"\bfc[12]\b", "block_sparse_moe", r"\bmoe\b", "DenseReluDense", r"\bff\b")),
    (ModuleType.MLP, (r"\b(?:up|gate|down)_proj\b", r"^(?:intermediate|output)\.\w+\.")),
    (
        ModuleType.MIXER,
        (r"\bmixer\b", "mamba", r"\bssm\b", r"\bconv\b", "temporal_block", "lstm", "rg_lru", r"\brwkv\d?\."),
    ),
)
"""Regular expressions, found anywhere in a name; the first type with one that is found."""
EMBEDDINGS = (
    *("embed_tokens", "wte", "embed_in", "word_embeddings", "word_embedding", "tok_embeddings", "tokens_embed"),
    *("embeddings", "embedding", "shared", "embed_tokens_per_layer", "w"),
)
"""Modules with a row for each input token."""
HEADS = (
    "lm_head",
    "embed_out",
    "output",
    "output_layer",
    "head",
    "lm_loss",
    "predictions",
    "decoder",
    "generator_lm_head",
)
"""Modules outside the layers with a row for each output token; not in the file where they are tied."""
NEVER_TIED = frozenset({"embed_in", "embed_tokens_per_layer"})
"""Embeddings that make no logits."""
BEFORE_LAYERS = (
    *EMBEDDINGS,
    *("wpe", "embed_positions", "positions_embed", "embeddings_project", "project_in"),
    *("word_embeddings_layernorm", "emb_norm", "embed_norm", "embed_layer_norm", "per_layer_model_projection"),
    *("per_layer_projection_norm",),
)
"""How modules before the layers end: embeddings of tokens and positions, and what is done to them."""
DERIVED = ("rotary_emb.inv_freq",)
"""Buffers in checkpoints of 2023 and before, which every loader recomputes from the configuration."""
PREFIXES = ("model", "transformer")
"""The model inside the one with the head; some files leave it out."""
DEPTH_KEYS = (
    "num_hidden_layers",
    "n_layer",
    "num_layers",
    "n_layers",
    "num_blocks",
    "num_decoder_layers",
    "decoder_layers",
)
"""Keys of config.json that hold the number of layers."""
TRANSPOSED_TYPES = frozenset({"gpt2", "gpt-sw3", "openai-gpt", "imagegpt", "decision_transformer"})
"""Architectures (`model_type`) that store the matrices of `TRANSPOSED_MODULES` as (inputs, outputs): Conv1D layers."""
TRANSPOSED_MODULES = ("c_attn", "q_attn", "c_proj", "c_fc")
RESIDUAL_WRITERS = ("o_proj", "down_proj", "c_proj", "out_proj", "fc_out", "fc2", "dense", "dense_4h_to_h", "w2")
"""Modules inside a layer whose outputs are added to the residual stream."""
HEAD = "lm_head.weight"
"""The head that may be tied to the input embedding; tied, it is not listed."""

_LAYER = re.compile(rf"(?:^|\.)(?:{'|'.join(STACKS)})\.(?P<number>\d+)\.")
_TOWERS = {kind: re.compile(words) for kind, words in TOWERS.items()}
_DRAFTS = re.compile(r"(?:eh_proj|enorm|hnorm|shared_head)\b")
_MODULES = tuple((kind, re.compile("|".join(words))) for kind, words in MODULE_WORDS)
_BEFORE_LAYERS = re.compile(rf"(?:{'|'.join(BEFORE_LAYERS)})\b")


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a tensor stands in its model."""

    stack: str | None
    """The list that its layer is in, such as `model.layers`; None outside the language model's layers."""
    layer: int | None
    """The layer's number in the list; None for embeddings, final norm, head and whole towers."""
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
    found = _LAYER.search(name)
    if tower := _tower_of(name if found is None else name[: found.start("number")]):
        return Place(stack=None, layer=None, within=name, module=tower)
    if found is None:
        module = _kind_of(name)
        is_end = module is ModuleType.OTHER and _last_module(name) in {*EMBEDDINGS, *HEADS}
        return Place(stack=None, layer=None, within=name, module=ModuleType.EMBEDDING if is_end else module)
    start, end = found.span("number")
    within = name[end + 1 :]
    return Place(stack=name[: start - 1], layer=int(found["number"]), within=within, module=_kind_of(within))


def layer_of(name: str) -> int | None:
    """Returns the layer of the language model that a tensor belongs to; None for what stands beside its layers.

    >>> [layer_of(name) for name in ("model.layers.7.mlp.up_proj.weight", "lm_head.weight", "visual.blocks.3.ln.bias")]
    [7, None, None]
    """
    return place_of(name).layer


def module_of(name: str) -> ModuleType:
    """Returns the kind of module that a tensor belongs to.

    >>> module_of("model.layers.7.self_attn.q_proj.weight").value
    'attention'
    """
    return place_of(name).module


def count_layers(names: Iterable[str]) -> int:
    """Returns how many layers a language model with these tensors has, without those that only draft.

    >>> count_layers(["model.layers.7.mlp.up_proj.weight", "lm_head.weight"])
    8
    """
    places = [place for name in names if (place := place_of(name)).layer is not None]
    drafts = {place.layer for place in places if _DRAFTS.match(place.within)}
    return 1 + max((place.layer or 0 for place in places if place.layer not in drafts), default=-1)


def depth_of(name: str, num_layers: int) -> float | None:
    """Returns where a tensor's layer is, from 0 (first) to 1 (last); None outside the layers.

    >>> depth_of("model.layers.7.mlp.up_proj.weight", 15), depth_of("lm_head.weight", 15)
    (0.5, None)
    """
    layer = layer_of(name)
    return None if layer is None else min(1.0, layer / max(1, num_layers - 1))


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

    Nor is it a bias or a state space's matrix: experts' biases have a row each, and so have Mamba's states.

    >>> is_projection("model.layers.7.mlp.up_proj.weight", (8, 4)), is_projection("lm_head.weight", (8, 4))
    (True, False)
    >>> is_projection("backbone.layers.0.mixer.A_log", (8, 4))
    False
    """
    place = place_of(name)
    embeds = ModuleType.EMBEDDING in (place.module, _kind_of(place.within))
    return len(shape) == 2 and name.endswith(".weight") and not embeds


def is_input_embedding(name: str) -> bool:
    """Returns whether a tensor embeds inputs, so that a row is a token or a position, also in a tower.

    GPT-NeoX's head, `embed_out`, counts as one: it does in recorded genomes.
    """
    by_word = _kind_of(place_of(name).within) is ModuleType.EMBEDDING and HEAD.removesuffix(".weight") not in name
    return by_word or _is_end_of(name, EMBEDDINGS)


def embedding_names(names: Iterable[str]) -> tuple[str, ...]:
    """Returns the names of the tensors with a row for each input token.

    >>> embedding_names(["rwkv.embeddings.weight", "rwkv.blocks.0.pre_ln.weight", "head.weight"])
    ('rwkv.embeddings.weight',)
    """
    return tuple(name for name in names if _is_end_of(name, EMBEDDINGS) and name.endswith(".weight"))


def head_names(names: Iterable[str]) -> tuple[str, ...]:
    """Returns the names of the tensors that make the logits: the head's, else the embedding that is the head too.

    >>> head_names(["embed_in.weight", "embed_out.weight"]), head_names(["word_embeddings.weight"])
    (('embed_out.weight',), ('word_embeddings.weight',))
    """
    held = tuple(names)
    return tuple(name for name in held if _is_end_of(name, HEADS)) or tuple(filter(may_be_tied, held))


def has_token_rows(name: str) -> bool:
    """Returns whether a tensor has a row for each token by its name: of an input embedding or a head, biases too.

    >>> [has_token_rows(name) for name in ("lm_head.bias", "h.0.attention.output.weight", "output.weight")]
    [True, False, True]
    """
    return _is_end_of(name, (*EMBEDDINGS, *HEADS))


def may_be_tied(name: str) -> bool:
    """Returns whether a tensor is the embedding that the head is tied to, where it is tied."""
    return name.endswith(".weight") and _is_end_of(name, tuple(e for e in EMBEDDINGS if e not in NEVER_TIED))


def may_be_head(name: str) -> bool:
    """Returns whether a tensor makes the logits: a head's, or an embedding that the head may be tied to."""
    return _is_end_of(name, HEADS) or may_be_tied(name)


def is_stored_transposed(name: str, model_type: object) -> bool:
    """Returns whether an architecture stores a matrix as (inputs, outputs), the other way round than Linear layers.

    >>> [is_stored_transposed("h.0.attn.c_proj.weight", kind) for kind in ("gpt2", "gpt_bigcode")]
    [True, False]
    """
    return model_type in TRANSPOSED_TYPES and name.endswith(".weight") and _last_module(name) in TRANSPOSED_MODULES


def writes_residual(name: str) -> bool:
    """Returns whether a tensor is of a module whose output a layer adds to its input: a matrix or its bias.

    >>> [writes_residual(f"model.layers.7.mlp.{name}.weight") for name in ("up_proj", "down_proj")]
    [False, True]
    """
    place = place_of(name)
    return place.layer is not None and _last_module(name) in RESIDUAL_WRITERS


def is_end(module: str) -> bool:
    """Returns whether a module has a row for each token: an input embedding or a head.

    >>> is_end("model.embed_tokens"), is_end("model.layers.0.mlp.up_proj")
    (True, False)
    """
    return _is_end_of(f"{module}.weight", (*EMBEDDINGS, *HEADS))


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


def layers_pattern(layers: Iterable[int], names: Iterable[str] = ()) -> str:
    """Returns a regular expression that matches the names of all tensors in some layers.

    Args:
        layers: Their numbers.
        names: All tensors of the model. If a tower has layers too, the pattern names the language model's.

    >>> bool(re.fullmatch(layers_pattern([0, 7]), "model.layers.7.mlp.up_proj.weight"))
    True
    """
    places = {name: place_of(name) for name in names}
    beside = any(place.layer is None and _LAYER.search(name) for name, place in places.items())
    stacks = sorted({re.escape(place.stack) for place in places.values() if place.stack is not None}) if beside else []
    stack = rf"(?:{'|'.join(stacks)})" if stacks else rf"(?:.*\.)?(?:{'|'.join(STACKS)})"
    return rf"{stack}\.(?:{'|'.join(map(str, layers))})\..*"


def stacks_of(names: Iterable[str]) -> dict[str, int]:
    """Returns list of layers -> how many it holds, those of towers too.

    >>> stacks_of(["model.layers.0.mlp.up_proj.weight", "visual.blocks.0.norm1.bias", "visual.blocks.1.norm1.bias"])
    {'model.layers': 1, 'visual.blocks': 2}
    """
    found = filter(None, map(_LAYER.search, names))
    held = {(one.string[: one.start("number") - 1], one["number"]) for one in found}
    return dict(Counter(stack for stack, _ in sorted(held)))


def numbered_lists(names: Iterable[str]) -> dict[str, int]:
    """Returns list of modules -> its length, the longest first: where layers are sought that no table knows.

    >>> numbered_lists(["net.cells.0.w", "net.cells.1.w", "norm.weight"])
    {'net.cells': 2}
    """
    found: dict[str, int] = {}
    for name in names:
        if match := re.match(r"(?P<list>[^\d.][^.]*(?:\.[^\d.][^.]*)*)\.(?P<number>\d+)\.", name):
            found[match["list"]] = max(found.get(match["list"], 0), int(match["number"]) + 1)
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def _kind_of(name: str) -> ModuleType:
    """The kind of module by words alone, wherever it stands."""
    return next((kind for kind, words in _MODULES if words.search(name)), ModuleType.OTHER)


def _tower_of(above: str) -> ModuleType | None:
    """The part beside the language model that a tensor is in, by the modules above its layer's number."""
    return next((kind for kind, words in _TOWERS.items() if words.search(above)), None)


def _is_end_of(name: str, modules: Sequence[str]) -> bool:
    """Whether it is a weight or bias of one of `modules`, outside the layers and towers."""
    place = place_of(name)
    return place.module is ModuleType.EMBEDDING and place.layer is None and _last_module(name) in modules


def _last_module(name: str) -> str:
    """The module that a weight or bias belongs to."""
    path = name.split(".")
    return path[-2] if len(path) > 1 and path[-1] in ("weight", "bias") else ""
