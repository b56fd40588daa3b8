"""Making a regression: the experts write or read their texts, the walk solves, and a checkpoint folder is written."""

import json
import shutil
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch

from crossbreed.errors import InputError
from crossbreed.fitness import Handle, Loglikelihood, Response, WeightEngine, Writing, build_engine, reference_config
from crossbreed.fitness.engines.encoder import Encoder
from crossbreed.kernels import SourceCache
from crossbreed.kernels.artifacts.walk_statistics import WalkStatistics
from crossbreed.patterns import part_matcher
from crossbreed.recipes.named import scaled_merge, weighted_deltas
from crossbreed.runs.events import Listener, Note, PhaseStarting
from crossbreed.runs.making_time import note_making
from crossbreed.runs.record.phase import Phase
from crossbreed.runs.regression.memory import CACHE_BYTES
from crossbreed.runs.regression.teachers import taught
from crossbreed.runs.regression.texts import Asked
from crossbreed.runs.regression.walk import Keeping, Settings, Text, walk
from crossbreed.runs.search.warm_starts import recipe_at
from crossbreed.runs.spec.regression import RegressionConfig
from crossbreed.runs.weights import Weights
from crossbreed.runs.workers.memory import return_freed_memory
from crossbreed.sources import Sources
from crossbreed.sources.files import write_tensors
from crossbreed.sources.hashes import hash_of
from crossbreed.sources.opening import with_made
from crossbreed.types import BASE, REGRESSION, Recipe, canonical_json

_SCHEMA = 1
"""The version of the rule. Increment it with every change of what is computed."""
_SIDE_ENDINGS = (".json", ".jinja", ".model", ".txt")
"""Of the files of configurations and tokenizers."""


class Made(NamedTuple):
    """What a regression gives."""

    sources: Sources
    """Those that it was made of, and itself."""
    statistics: WalkStatistics | None
    """Of its walk, if they are kept."""


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Making:
    """All that a regression is made from."""

    weights: Weights
    """Base and experts."""
    config: RegressionConfig
    asked: Mapping[str, Asked]
    """Expert -> what it is asked for."""
    dtype: str
    """Of the result."""
    max_model_len: int | None = None
    """Longest text, in tokens; None: what the model allows."""
    keeps_statistics: bool = False
    """Whether the statistics of its walk are kept, for a search of its settings. They change no bit of it."""

    def rule(self) -> dict[str, Any]:
        """Returns what says how to make it again, as JSON. Of the texts it has hashes, not the user's items."""
        encoder, given = self._encoder(), self._given_anchor()
        return {
            "schema": _SCHEMA,
            "sources": dict(self.weights.structure.hashes),
            "host": self.weights.host_hashes,
            "settings": self.config.model_dump(mode="json", exclude={"tasks", "prompts", "anchor_recipe"}),
            **({} if given is None else {"anchor": given.to_json()}),
            "dtype": self.dtype,
            "max_model_len": self.max_model_len,
            "texts": {name: hash_of([canonical_json(one.rule(encoder))]) for name, one in self.asked.items()},
            "threads": torch.get_num_threads(),  # on which rounding depends
            "versions": {package: version(package) for package in ("torch", "transformers")},
        }

    def make(self, new: Path, on_event: Listener) -> Made:
        """Makes it in an empty folder.

        Raises:
            InputError: there are no texts for an expert, or the model cannot be walked over.
            EngineError: transformers could not run the model.
            InvalidWeights: NaN or Inf came up.
        """
        began_s = time.monotonic()
        on_event(PhaseStarting(phase=Phase.REGRESSION, detail="calibration texts"))
        texts, sources = self._texts(on_event), self.weights.sources
        anchor = self.anchor(experts=texts)
        for number in range(self.config.passes):
            cache = SourceCache(budget_bytes=CACHE_BYTES)
            opened, path = replace(self.weights, sources=sources, cache=cache), new / str(number)
            keeping = self._keeping(new / "statistics", experts=texts)
            stream = walk(opened, texts, anchor, self._settings(), keeping=keeping, on_layer=partial(_tell, on_event))
            self._write(path, dict(stream))
            note_making(path, time.monotonic() - began_s)
            sources = with_made(self.weights.sources, REGRESSION, path)
            anchor = weighted_deltas({REGRESSION: 1.0}, hashes=sources.structure.hashes, dtype=self.dtype)
        return Made(sources, WalkStatistics.open(*sorted(keeping.folder.iterdir())) if keeping else None)

    def _keeping(self, folder: Path, *, experts: Collection[str]) -> Keeping | None:
        """Returns where and how statistics are kept; None if they are not."""
        if not self.keeps_statistics:
            return None
        folder.mkdir()
        scale = self.config.anchor_scale or 1.0
        return Keeping(folder=folder, anchor=replace(self.anchor(scale, experts=experts), dtype="float32"), scale=scale)

    def anchor(self, scale: float | None = None, *, experts: Collection[str] | None = None) -> Recipe:
        """Returns the merge around which matrices are solved. Of an operator's, what is no matrix has the deltas' mean.

        Args:
            scale: Of an operator's; None: as it is set.
            experts: Those whose merge it is; None: all.

        Raises:
            InputError: the file of a recipe is none, or it cannot be merged here.
        """
        if (given := self._given_anchor()) is not None:
            return given
        config = self.config
        scale = config.anchor_scale if scale is None else scale
        whose = [*(self.asked if experts is None else experts)]
        rules = scaled_merge(config.anchor, scale, experts=whose, matrices=self.weights.projections)
        return Recipe(base=BASE, sources=self.weights.structure.hashes, rules=rules, dtype=self.dtype)

    def _given_anchor(self) -> Recipe | None:
        if (path := self.config.anchor_recipe) is None:
            return None
        structure = self.weights.structure
        recipe = recipe_at(path, structure=structure, weights=self.weights, what="the anchor of the regression")
        self.weights.check(recipe)
        return replace(recipe, dtype=self.dtype)

    def _settings(self) -> Settings:
        config, matchers = self.config, [part_matcher(pattern) for pattern in self.config.modules]
        return Settings(
            ridge=config.ridge,
            own=config.own,
            off_diagonal=config.off_diagonal,
            is_fed_by_experts=config.inputs == "experts",
            answer_weight=config.answer_weight,
            in_row_space=config.row_space,
            tokens=config.tokens,
            dtype=getattr(torch, config.dtype),
            device=config.device,
            is_solved=lambda name: not matchers or any(matches(name) for matches in matchers),
        )

    def _texts(self, on_event: Listener) -> dict[str, list[Text]]:
        """Has each expert write what is asked for, of the tasks that it teaches."""
        config, weights, found = self.config, self.weights, dict[str, list[Text]]()
        settings = reference_config(dtype=config.dtype, device=config.device, context_tokens=self.max_model_len)
        engine = build_engine(settings, weights.host, end_token_ids=weights.sources.end_token_ids)
        assert isinstance(engine, Writing), "the reference engine writes"
        encoder = self._encoder()
        encoder.end_at(weights.sources.end_token_ids)
        try:
            asked = taught(self.asked, partial(self._answers_of, engine))
            for name in self.asked.keys() - asked.keys():
                on_event(Note(text=f"regression: `{name}` makes right answers of no task likelier, and is left out"))
            for name, one in asked.items():
                self._adopt(engine, name)
                found[name] = one.texts(engine.write, encoder)
                if not found[name]:
                    raise InputError(
                        f"there are no calibration texts for expert `{name}`",
                        expected="items or prompts of one of its tasks, or samples",
                        where="artifacts.regression",
                        fix="set `artifacts: {regression: {samples: {}}}`, or prompts for one of its tasks",
                    )
        finally:
            engine.close()
            del engine
            return_freed_memory()  # the walk comes now, and needs it
        return found

    def _answers_of(self, engine: WeightEngine, name: str, requests: Sequence[Loglikelihood]) -> list[Response]:
        return self._adopt(engine, name).answer(requests)

    def _adopt(self, engine: WeightEngine, name: str) -> Handle:
        weights = {} if name == BASE else {name: 1.0}
        recipe = weighted_deltas(weights, hashes=self.weights.structure.hashes, dtype="float32")
        return engine.adopt(recipe, self.weights.materialize_once(recipe))

    def _encoder(self) -> Encoder:
        return Encoder(self.weights.host, max_model_len=self.max_model_len)

    def _write(self, path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
        """Writes a checkpoint folder with the base's configuration and tokenizer, and the rule."""
        path.mkdir()
        write_tensors(path / "model.safetensors", {name: tensor.contiguous() for name, tensor in tensors.items()})
        for file in sorted(self.weights.host.iterdir()):
            if file.suffix in _SIDE_ENDINGS and ".safetensors." not in file.name and file.is_file():
                shutil.copyfile(file, path / file.name)
        (path / f"{REGRESSION}.json").write_text(json.dumps(self.rule(), indent=2) + "\n")


def _tell(on_event: Listener, layer: int, number: int) -> None:
    on_event(PhaseStarting(phase=Phase.REGRESSION, detail=f"layer {layer} of {number}"))
