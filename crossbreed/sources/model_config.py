"""What in config.json changes the function of the same weights: a merge runs under the base's.

Nobody can list all keys that matter: architectures of next year have others. So every key counts, nested ones too,
but those of `HARMLESS`. Two configurations are compared as transformers reads them, so that old and new spellings of
one thing (`rope_scaling` and `rope_parameters`) are equal, and a key that is left out has its architecture's default.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from crossbreed.errors import InputError, first_line

_REASONS = {
    "says who wrote the file, and with what": """
        _name_or_path name_or_path model_name _commit_hash transformers_version architectures auto_map tokenizer_class
        trust_remote_code transformers.js_config is_llama_config unsloth_fixed unsloth_version
        """,
    "tensors say their dtype themselves, and the engine computes in a dtype of its own": """
        torch_dtype dtype use_bfloat16
        """,
    "what a call returns beside the logits": """
        return_dict return_dict_in_generate output_attentions output_hidden_states output_router_logits output_scores
        num_logits_to_keep torchscript
        """,
    "how the same numbers are computed": """
        use_cache cache_implementation attn_implementation _attn_implementation _attn_implementation_internal
        _attn_implementation_autoset use_flash_attn use_flash_attention _flash_attn_2_enabled use_mamba_kernels
        experts_implementation _experts_implementation use_mambapy use_mem_eff_path chunk_size_feed_forward
        pretraining_tp
        """,
    "read in training alone": """
        attention_dropout attention_probs_dropout_prob attn_dropout attn_pdrop activation_dropout dropout dropout_rate
        emb_pdrop embd_pdrop embed_dropout embedding_dropout ffn_dropout hidden_dropout hidden_dropout_prob layerdrop
        mlp_dropout resid_dropout resid_pdrop residual_dropout initializer_range initializer_factor init_std init_method
        init_device gradient_checkpointing neftune_noise_alpha router_aux_loss_coef aux_loss_coef aux_loss_alpha seq_aux
        router_z_loss_coef z_loss_coefficient moe_loss_weight
        """,
    "of a head that language models do not have": """
        id2label label2id num_labels label_names problem_type finetuning_task task_specific_params classifier_dropout
        classifier_dropout_prob classifier_bias classifier_activation summary_type summary_use_proj summary_activation
        summary_proj_to_labels summary_first_dropout summary_last_dropout
        """,
    "tokenizers say which token does what, and ends of a text are compared by themselves": """
        bos_token_id eos_token_id pad_token_id unk_token_id sep_token_id cls_token_id mask_token_id bos_token eos_token
        pad_token decoder_start_token_id forced_bos_token_id forced_eos_token_id
        """,
    "every request says itself how it is sampled": """
        do_sample temperature top_k top_p typical_p min_p num_beams num_beam_groups num_return_sequences
        repetition_penalty diversity_penalty length_penalty early_stopping no_repeat_ngram_size
        encoder_no_repeat_ngram_size bad_words_ids remove_invalid_values max_length min_length max_new_tokens
        exponential_decay_length_penalty suppress_tokens begin_suppress_tokens prefix
        """,
    "shapes of tensors say it, and are compared": "vocab_size",
    "how long texts in training were": "max_sequence_length model_max_length",
    "a rule by which a list is made that is compared": """
        max_window_layers sliding_window_pattern _sliding_window_pattern no_rope_layer_interval
        """,
    "found out from all files, and compared by itself": "tie_word_embeddings",
}
HARMLESS: Mapping[str, str] = MappingProxyType({key: why for why, keys in _REASONS.items() for key in keys.split()})
"""Keys that experts may have otherwise than the base, and why. Everything else must agree."""

RULED_BY = {
    "max_window_layers": "layer_types",
    "sliding_window_pattern": "layer_types",
    "_sliding_window_pattern": "layer_types",
    "no_rope_layer_interval": "no_rope_layers",
}
"""Rules -> the list that they make: they are harmless where it is there to be compared."""
_FLOAT = "__float__"
_LENGTH_READERS = frozenset({"dynamic", "yarn", "longrope", "su"})
"""Kinds of rotary positions in which `max_position_embeddings` is a number of the formula."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigDifference:
    """A key that changes answers, in two configurations."""

    key: str
    """The key, with dots where it is nested."""
    ours: Any
    """The base's value; None where it has none."""
    theirs: Any
    """The expert's value; None where it has none."""


def compare_configs(
    base: Mapping[str, Any], expert: Mapping[str, Any], *, where: tuple[Path, Path]
) -> tuple[ConfigDifference, ...]:
    """Returns what changes answers and is not the same, in the order of the base's keys.

    Args:
        base: The base's config.json.
        expert: The expert's.
        where: Their files, for messages.

    Raises:
        InputError: transformers cannot read one of them as its `model_type` says.
    """
    if canonical_config(base) == canonical_config(expert):  # nearly always, and without transformers
        return ()
    if base.get("model_type") != expert.get("model_type"):
        return (ConfigDifference(key="model_type", ours=base.get("model_type"), theirs=expert.get("model_type")),)
    ours, theirs = _counted(as_transformers_reads(base, where[0])), _counted(as_transformers_reads(expert, where[1]))
    return tuple(_differences(ours, theirs))


def load_config(folder: Path) -> Any:  # transformers has no types
    """Returns the configuration of a folder's model as transformers has it, and as engines build models of it.

    No code of the folder runs; what it says of implementations and returned values is not taken, see `_plain`.

    Raises:
        InputError: transformers does not know the architecture, or cannot read the file.
    """
    from transformers import AutoConfig

    try:
        with _silent_transformers():
            return _plain(AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False))
    except Exception as error:  # its checks of a configuration raise all kinds
        raise InputError(
            "transformers cannot read the model's configuration",
            expected="a config.json of an architecture that needs no code of the folder's own",
            got=first_line(error),
            where=str(folder),
            fix="copy config.json again from where the model came from, or update transformers",
        ) from error


def canonical_config(config: Mapping[str, Any]) -> str:
    """Returns the entries of a configuration that may change answers, as written: old names and rules too."""
    unread = HARMLESS.keys() - RULED_BY.keys()
    counted = {key: _decoded(value) for key, value in config.items() if key not in unread}
    return json.dumps(counted, sort_keys=True)


def as_transformers_reads(config: Mapping[str, Any], where: Path) -> dict[str, Any]:
    """Returns a configuration as transformers reads it, with every default and every list that a rule makes.

    It stays as it is where transformers does not know the architecture.

    Args:
        config: config.json.
        where: Its file, for messages.

    Raises:
        InputError: transformers cannot read it as its `model_type` says.
    """
    kind = config.get("model_type")
    try:
        settings = settings_of(config)
        if settings is None:
            return _renamed(_decoded(config))
        read: dict[str, Any] = json.loads(json.dumps(settings.to_dict(), default=str))
    except Exception as error:  # its checks raise all kinds
        raise InputError(
            f"transformers cannot read a configuration of `model_type: {kind}`",
            got=first_line(error),
            where=str(where),
            fix="copy config.json again from where the model came from",
        ) from error
    return read


def settings_of(config: Mapping[str, Any]) -> Any:  # transformers has no types
    """Returns the object that transformers makes of a configuration; None: it does not know the architecture.

    Its checks raise all kinds.

    Args:
        config: config.json, as it stands in the file.
    """
    from transformers import CONFIG_MAPPING

    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in CONFIG_MAPPING:
        return None
    with _silent_transformers():
        return _plain(CONFIG_MAPPING[kind].from_dict(_decoded(config)))


def named_class(config: Mapping[str, Any]) -> Any:  # transformers has no types
    """Returns the class of models that a configuration names in `architectures`; None: transformers has no such one."""
    import transformers

    named = next(iter(config.get("architectures") or ()), "")
    found = getattr(transformers, named, None)
    is_model = isinstance(found, type) and issubclass(found, transformers.PreTrainedModel)
    return found if is_model else None


def _plain(settings: Any) -> Any:  # transformers has no types
    """Sets how a model computes and what a call returns, in all parts: a file does not decide that.

    Where a file names an implementation of attention or of experts as `org/name`, transformers fetches its code from
    the hub when it builds the model, whatever `trust_remote_code` says. `None` takes the installed one.
    """
    from transformers import PreTrainedConfig

    settings._attn_implementation = settings._experts_implementation = None  # first: `output_attentions` looks at it
    settings.output_attentions = settings.output_hidden_states = False
    settings.return_dict = True
    for part in vars(settings).values():
        if isinstance(part, PreTrainedConfig):
            _plain(part)
    return settings


def _decoded(value: Any) -> Any:  # any JSON value
    """Returns a copy in which numbers are numbers: transformers 5 writes infinity as `{"__float__": "Infinity"}`.

    `from_pretrained` reads that, and `from_dict` does not. Files that are written again keep what they hold.
    """
    if isinstance(value, Mapping):
        tag = value.get(_FLOAT)
        if len(value) == 1 and isinstance(tag, str) and tag in ("Infinity", "-Infinity", "NaN"):
            return float(tag)
        return {key: _decoded(one) for key, one in value.items()}
    return [_decoded(one) for one in value] if isinstance(value, list | tuple) else value


@contextmanager
def _silent_transformers() -> Iterator[None]:
    """It has advice on most configurations, for those who wrote them."""
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


def _renamed(config: dict[str, Any]) -> dict[str, Any]:
    """Old names of rotary positions become the new one, as transformers does for architectures that it knows."""
    theta, scaling = config.pop("rope_theta", None), config.pop("rope_scaling", None)
    rope = config.get("rope_parameters") or scaling
    if isinstance(rope, Mapping) or theta is not None:
        config["rope_parameters"] = {"rope_theta": theta, **(rope or {})}
    return config


def _counted(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the entries of a configuration, or of a part of one, that affect answers; null is absent."""
    counted = {}
    for key, value in _with_head_dim(config).items():
        if key == "rope_parameters":
            counted[key] = _rope(value)
        elif isinstance(value, Mapping):
            counted[key] = _counted(value)
        else:
            counted[key] = value
    kinds = config.get("layer_types")
    slides = not isinstance(kinds, list) or "sliding_attention" in kinds
    unread = {key for key in config if _is_harmless(key, config)}
    unread |= set() if slides else {"sliding_window", "use_sliding_window"}
    unread |= set() if _LENGTH_READERS & set(_rope_types(config)) else {"max_position_embeddings"}
    return {key: value for key, value in counted.items() if value is not None and key not in unread}


def _is_harmless(key: str, config: Mapping[str, Any]) -> bool:
    made = RULED_BY.get(key)
    return key in HARMLESS and (made is None or isinstance(config.get(made), list))


def _with_head_dim(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Models whose configuration has no `head_dim` take it from the number of heads; stating it changes nothing."""
    width, heads = config.get("hidden_size"), config.get("num_attention_heads")
    if config.get("head_dim") is None and isinstance(width, int) and isinstance(heads, int) and heads:
        return {**config, "head_dim": width // heads}
    return config


def _rope(parameters: Any) -> Any:  # any JSON value
    """Returns rotary settings under the new name of their type alone; each type of layer may have its own."""
    if not isinstance(parameters, Mapping):
        return parameters
    if any(isinstance(value, Mapping) for value in parameters.values()):
        return {key: _rope(value) for key, value in parameters.items()}
    named = {key: value for key, value in parameters.items() if key != "type" and value is not None}
    return {"rope_type": parameters.get("type", "default"), **named}


def _rope_types(config: Mapping[str, Any]) -> Iterator[str]:
    rope = _rope(config.get("rope_parameters"))
    for part in (rope, *rope.values()) if isinstance(rope, Mapping) else ():
        if isinstance(part, Mapping) and isinstance(part.get("rope_type"), str):
            yield part["rope_type"]


def _differences(ours: Mapping[str, Any], theirs: Mapping[str, Any], path: str = "") -> Iterator[ConfigDifference]:
    for key in (*ours, *(key for key in theirs if key not in ours)):
        one, other = ours.get(key), theirs.get(key)
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            yield from _differences(one, other, f"{path}{key}.")
        elif not _same(one, other):
            yield ConfigDifference(key=f"{path}{key}", ours=one, theirs=other)


def _same(one: Any, other: Any) -> bool:  # any JSON values
    """Returns whether two values are equal: NaN equals NaN, 1 equals 1.0, and true is no number."""
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, bool) is not isinstance(other, bool):
        return False
    return bool(one == other) or (one != one and other != other)
