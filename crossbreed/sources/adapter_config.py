"""adapter_config.json: what PEFT's options make of an adapter, and which of them crossbreed can read.

PEFT's own rules are followed: ranks and alphas by the first pattern that matches a module, alpha / sqrt(rank) when
rank-stabilised. The file is a stranger's, so patterns are of a dialect that matches in linear time.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from crossbreed.errors import InputError
from crossbreed.parsing import shown
from crossbreed.patterns import full_matcher, part_matcher
from crossbreed.sources.adapter_advice import Advice
from crossbreed.sources.json_files import read_json

ADAPTER_CONFIG = "adapter_config.json"

_READ = {
    *("peft_type", "r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern", "fan_in_fan_out"),
    *("base_model_name_or_path", "ensure_weight_tying", "use_qalora"),
}
_BESIDE_THE_POINT = {
    *("task_type", "auto_mapping", "peft_version", "revision", "inference_mode"),
    *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern"),  # the file says which
    *("lora_dropout", "megatron_config", "megatron_core", "runtime_config", "velora_config"),  # training only
    *("loftq_config", "eva_config", "corda_config", "lora_ga_config"),  # of initialisations; judged by their name
    "qalora_group_size",  # without the option that it refines
}
_HARMLESS = {"bias": ("none",), "init_lora_weights": (True, False, "gaussian", "eva", "orthogonal", "mica")}
"""Options with a value that leaves the base alone, and those values."""
_MADE_AGAIN = ("pissa", "olora")
"""Initialisations that move the base, and that PEFT makes again when it loads the adapter."""
_NO_WEIGHTS = {"layer_replication", "alora_invocation_tokens", "arrow_config"}
"""Options of adapters that PEFT merges into no model of the base's shape."""
_PROMPTS = {
    *("PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "ADAPTION_PROMPT", "CPT", "CARTRIDGE"),
    *("POLY", "XLORA"),
}
"""Types of adapters that change no weights, or choose between several."""
_KINDS = {
    "peft_type": "a text",
    "base_model_name_or_path": "a text",
    "modules_to_save": "a list of texts",
    "r": "a number",
    "lora_alpha": "a number",
    "rank_pattern": "a mapping of patterns to numbers",
    "alpha_pattern": "a mapping of patterns to numbers",
}
"""What options are, where they are given."""
_MAX_PATTERN = 4000


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterConfig:
    """An adapter's options."""

    folder: Path
    values: Mapping[str, Any]

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Reads `adapter_config.json`.

        Raises:
            InputError: it cannot be read, or an option is of a kind that PEFT never writes.
        """
        config = cls(folder=folder, values=read_json(folder / ADAPTER_CONFIG))
        for key, kind in _KINDS.items():
            value = config.values.get(key)
            if value is not None and not _is_of(kind, value):
                raise config._wrong(f"`{key}` of the adapter is of the wrong kind", kind, got=shown(value))
        return config

    @property
    def names_base(self) -> bool:
        """Whether it says which model the adapter was trained on."""
        return bool(self.values.get("base_model_name_or_path"))

    @property
    def base(self) -> str:
        """What PEFT calls the model that the adapter was trained on."""
        return str(self.values["base_model_name_or_path"])[:200] if self.names_base else "not named"

    @property
    def says_transposed(self) -> bool:
        """The one flag for all modules. PEFT goes by the type of each, and so do we: it may be wrong."""
        return bool(self.values.get("fan_in_fan_out"))

    @property
    def ties_ends(self) -> bool:
        """Whether head and embedding were trained as one."""
        return bool(self.values.get("ensure_weight_tying"))

    @property
    def pools_inputs(self) -> bool:
        """Whether factors A of quantised modules take means of several inputs."""
        return bool(self.values.get("use_qalora"))

    def problems(self) -> Iterator[tuple[str, Advice]]:
        """Yields each option that does more than add a low-rank product, and what helps."""
        kind = self.values.get("peft_type")
        if kind != "LORA":
            yield (
                f"adapters of type {str(kind)[:80]} are not read, only LORA",
                Advice.NONE if kind in _PROMPTS else Advice.MERGE,
            )
        for key, value in self.values.items():
            if key in _HARMLESS:
                harmless = value is None or value in _HARMLESS[key]
            else:
                harmless = key in _READ or key in _BESIDE_THE_POINT or not value
            if not harmless:
                said = value[:80] if isinstance(value, str) else shown(value)
                problem = f"the adapter does more than add a low-rank product: `{key}: {said}`"
                yield problem, _advice_for(key, value)

    def rank(self, module: str) -> int:
        """Returns the rank of a module's factors.

        Raises:
            InputError: it is given none, or none that a matrix can have.
        """
        rank = self._number("rank_pattern", "r", module)
        if rank != int(rank) or rank < 1:
            raise self._wrong(f"the adapter's configuration gives `{module}` a rank of {rank:g}", "1 or more")
        return int(rank)

    def scale(self, module: str) -> float:
        """Returns the factor of a module's product.

        Raises:
            InputError: alpha is no finite number.
        """
        alpha, rank = self._number("alpha_pattern", "lora_alpha", module), self.rank(module)
        return alpha / math.sqrt(rank) if self.values.get("use_rslora") else alpha / rank

    def _number(self, patterns: str, default: str, module: str) -> float:
        """PEFT's rule: the first pattern that matches the module's name, or its end from a dot on."""
        given = (self.values.get(patterns) or {}).items()
        matching = (value for pattern, value in given if self._matches(patterns, pattern, module))
        value = next(matching, self.values.get(default))
        if value is None or not math.isfinite(value):
            problem = f"the adapter's configuration gives `{module}` no `{default}`"
            raise self._wrong(problem, "a finite number", got=shown(value))
        return float(value)

    def _matches(self, patterns: str, pattern: str, module: str) -> bool:
        try:
            if len(pattern) > _MAX_PATTERN:
                raise ValueError(f"{len(pattern):,} characters")
            part_matcher(pattern)  # alone it is a pattern too
            return full_matcher(rf"(?:.*\.)?(?:{pattern})")(module)
        except ValueError as error:
            raise self._wrong(
                f"`{patterns}` holds what is no pattern that matches in linear time",
                "a module's name, or a regular expression without look-around and back-references",
                got=f"{shown(pattern)} ({error})",
            ) from None

    def _wrong(self, problem: str, expected: str, *, got: str = "") -> InputError:
        return InputError(
            problem,
            expected=expected,
            got=got,
            where=str(self.folder / ADAPTER_CONFIG),
            fix="copy the adapter_config.json that PEFT wrote beside the weights",
        )


def _is_of(kind: str, value: object) -> bool:
    if kind == "a text":
        return isinstance(value, str)
    if kind == "a number":
        return isinstance(value, int | float) and not isinstance(value, bool)
    if kind == "a list of texts":
        return isinstance(value, list) and all(isinstance(one, str) for one in value)
    return isinstance(value, dict) and all(_is_of("a number", one) for one in value.values())


def _advice_for(key: str, value: object) -> Advice:
    if key in _NO_WEIGHTS:
        return Advice.NONE
    if key == "init_lora_weights" and value not in _MADE_AGAIN:
        return Advice.CONVERT
    return Advice.MERGE
