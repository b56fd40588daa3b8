"""The walk: layer by layer, matrix by matrix, least squares between a merge and its experts.

For each expert two copies of its calibration texts are on their way through the model: one through the expert itself,
one through the merge as far as it is made. At each matrix, the inputs are what the merge feeds it, and the targets what
the expert's own pass puts out there (or what the expert's matrix makes of the merge's inputs, or in between). The
matrix is solved around an anchor (`kernels.linalg.anchored`), and the texts go on through what was solved. Matrices
that share their inputs share a Gram and a factor.

What is solved: the weights of Linears that run once on every token, and that some expert changes. Everything else keeps
the anchor's values: experts of a mixture, norms, embeddings, the head.

Memory: the hidden states of all texts, twice; the outputs of one layer's Linears for all texts; the weights of one
layer, in the dtype that is computed in, of the merge and one expert (of all where `Settings.needs_experts`);
two matrices [N, N] and one [M, N] for each output of a group, in fp64; and the merge itself, in its own dtype. Keeping
statistics (`Keeping`) takes the weights of all experts, two more matrices of each kind, and a layer's statistics.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch.nn.utils.rnn import pad_sequence

from crossbreed.fitness.engines.blocks import Blocks, Passage
from crossbreed.kernels.artifacts.files import SUFFIX
from crossbreed.kernels.artifacts.walk_statistics import stored_as
from crossbreed.kernels.linalg.anchored import AnchoredSums, row_space
from crossbreed.kernels.linalg.decompositions import eigh
from crossbreed.kernels.linalg.walked import Walked, walked
from crossbreed.recipes.named import weighted_deltas
from crossbreed.runs.weights import Weights
from crossbreed.sources import Adapter
from crossbreed.sources.files import write_tensors
from crossbreed.sources.naming import is_stored_transposed
from crossbreed.types import Recipe, WeightStream


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """A calibration text in tokens."""

    token_ids: tuple[int, ...]
    num_prompt: int
    """How many of them are not the answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How matrices are solved."""

    ridge: float
    """Lambda, in mean eigenvalues of the inputs' Gram."""
    own: float = 1.0
    """1: the targets are the experts' own outputs; 0: what their matrices make of the merge's inputs."""
    off_diagonal: float = 1.0
    """Factor on the Grams' elements off the diagonal; in its place, columns are held to the experts' own."""
    is_fed_by_experts: bool = False
    """Whether, within a layer, inputs are what the expert's own matrices make of the merge's hidden states."""
    answer_weight: float = 1.0
    """Weight of an answer's tokens; those of prompts weigh 1."""
    in_row_space: bool = False
    """Whether a matrix's change stays within the rows that the experts' deltas have."""
    tokens: int = 2048
    """Tokens of a batch, padding included."""
    dtype: torch.dtype = torch.float32
    """The dtype to compute in."""
    device: str = "cpu"
    is_solved: Callable[[str], bool] = field(default=lambda name: True)
    """Which of the matrices are solved, by name."""

    @property
    def needs_experts(self) -> bool:
        """Whether the experts' matrices are needed beside what their own passes put out."""
        return self.own < 1 or self.off_diagonal < 1 or self.is_fed_by_experts


@dataclass(frozen=True, slots=True, kw_only=True)
class Keeping:
    """Where to write the statistics from which other settings are solved (`WalkStatistics`), and of which anchor."""

    folder: Path
    """Gets a file for each layer in which something is solved."""
    anchor: Recipe
    """The anchor in fp32."""
    scale: float
    """Its scale, above 0: the statistics have the anchor's delta at a scale of 1."""


@dataclass(eq=False, slots=True, kw_only=True)
class _Batch:
    """Some texts of an expert, through the expert and through the merge."""

    expert: str
    is_token_BT: torch.Tensor
    weights_T: torch.Tensor
    """Of the tokens that are no padding, text after text; their sum over an expert's batches is 1."""
    own: Passage
    merged: Passage
    outputs: Mapping[str, torch.Tensor] = field(default_factory=dict)
    """Linear -> the expert's own outputs, without padding."""

    def without_padding(self, value_BTN: torch.Tensor) -> torch.Tensor:
        return value_BTN[self.is_token_BT]


def walk(
    weights: Weights,
    texts: Mapping[str, Sequence[Text]],
    anchor: Recipe,
    settings: Settings,
    *,
    keeping: Keeping | None = None,
    on_layer: Callable[[int, int], None] = lambda layer, number: None,
) -> WeightStream:
    """Yields the tensors of the merge, in the anchor's dtype, in the order of the walk.

    Args:
        weights: The sources.
        texts: Expert -> its calibration texts.
        anchor: A recipe of the sources.
        settings: How matrices are solved.
        keeping: Where to write statistics; None: nowhere. They change no bit of the merge.
        on_layer: Called with the number of layers that are done, and of all.

    Raises:
        InputError: the model's layers are not one list.
        EngineError: transformers cannot run it.
        InvalidWeights: NaN or Inf came up.
    """
    yield from _Walk(weights, texts, anchor, settings, keeping).steps(on_layer)


class _Walk:
    def __init__(
        self,
        weights: Weights,
        texts: Mapping[str, Sequence[Text]],
        anchor: Recipe,
        settings: Settings,
        keeping: Keeping | None,
    ) -> None:
        self._weights, self._anchor, self._settings, self._keeping = weights, anchor, settings, keeping
        self._stored = getattr(torch, anchor.dtype)
        self._blocks = Blocks(weights.host, weights.shapes, dtype=settings.dtype, device=settings.device)
        self._texts = texts
        hashes = weights.structure.hashes
        self._own = {name: weighted_deltas({name: 1.0}, hashes=hashes, dtype="float32") for name in texts}
        self._to_solve = frozenset(filter(settings.is_solved, weights.projections))

    def steps(self, on_layer: Callable[[int, int], None]) -> WeightStream:
        """See `walk`."""
        outside = self._anchored(self._blocks.outside)
        batches = list(self._begun(outside))
        yield from outside.items()
        for layer in range(len(self._blocks)):
            yield from self._layer(layer, batches)
            on_layer(layer + 1, len(self._blocks))

    def _begun(self, outside: Mapping[str, torch.Tensor]) -> Iterator[_Batch]:
        blocks, first = self._blocks, self._blocks.place(iter(self._anchored(self._blocks.tensors_of(0)).items()))
        merged = blocks.place(iter(outside.items()))
        for expert, texts in self._texts.items():
            own = blocks.place(self._made(self._own[expert], blocks.outside))
            total = sum(sum(self._token_weights(text)) for text in texts)
            for some in _batches(texts, self._settings.tokens):
                ids_BT = pad_sequence([torch.tensor(text.token_ids) for text in some], batch_first=True)
                lengths_B = torch.tensor([len(text.token_ids) for text in some])
                yield _Batch(
                    expert=expert,
                    is_token_BT=(torch.arange(ids_BT.shape[1]) < lengths_B[:, None]).to(self._settings.device),
                    weights_T=torch.tensor(
                        [weight / total for text in some for weight in self._token_weights(text)],
                        dtype=self._settings.dtype,
                        device=self._settings.device,
                    ),
                    own=blocks.begin(own, first, ids_BT),
                    merged=blocks.begin(merged, first, ids_BT),
                )

    def _layer(self, layer: int, batches: Sequence[_Batch]) -> WeightStream:
        """Solves a block, and brings all texts behind it."""
        blocks, tensors = self._blocks, self._blocks.tensors_of(layer)
        made = self._anchored(tensors)
        values = blocks.place(iter(made.items()))
        groups = blocks.groups(layer, values, batches[0].merged, filter(self._to_solve.__contains__, tensors))
        solved = [name for group in groups for name in group]
        experts = dict[str, dict[str, torch.Tensor]]()
        for expert in self._texts:
            own = blocks.place(self._made(self._own[expert], tensors))
            for batch in batches:
                if batch.expert == expert:
                    batch.own, outputs = blocks.run(layer, own, batch.own, solved)
                    batch.outputs = {name: batch.without_padding(value) for name, value in outputs.items()}
            if self._settings.needs_experts or self._keeping:
                experts[expert] = own
        kept = dict[str, torch.Tensor]()
        for group in groups:
            sums = self._sums(layer, group, values, batches, experts)
            if self._keeping:
                kept |= stored_as(self._walked(group, values, sums, self._keeping))
            for name, changed in [(name, self._changed(name, values, sums)) for name in group]:
                made[name] = changed
                values |= blocks.place(iter([(name, changed)]))
        if self._keeping and kept:
            write_tensors(self._keeping.folder / f"layer-{layer:05}{SUFFIX}", kept)
        for batch in batches:
            batch.merged, _ = blocks.run(layer, values, batch.merged)
            batch.outputs = {}
        yield from made.items()

    def _sums(
        self,
        layer: int,
        group: Sequence[str],
        values: Mapping[str, torch.Tensor],
        batches: Iterable[_Batch],
        experts: Mapping[str, Mapping[str, torch.Tensor]],
    ) -> AnchoredSums:
        """Returns what the matrices of a group of Linears are solved from, that share their inputs."""
        blocks, own, alpha, sums = self._blocks, self._settings.own, self._settings.off_diagonal, None
        for batch in batches:
            feeding = experts[batch.expert] if self._settings.is_fed_by_experts else values
            inputs_BTN = blocks.inputs(layer, feeding, batch.merged, group[0])
            x_TN = batch.without_padding(inputs_BTN)
            residuals = dict[str, torch.Tensor]()
            for name in group:
                anchor = values if own == 1 else _less(values, experts[batch.expert], 1 - own, blocks.parameters(name))
                residuals[name] = own * batch.outputs[name] - blocks.apply(name, anchor, x_TN)
                if self._keeping:
                    theirs = blocks.apply(name, experts[batch.expert], x_TN)
                    residuals[_between(name)] = batch.outputs[name] - theirs
            if sums is None:
                rows = {name: residual.shape[1] for name, residual in residuals.items()}
                sums = AnchoredSums(x_TN.shape[1], rows, device=x_TN.device)
            sums.add(x_TN, residuals, share=alpha, weights_T=batch.weights_T)
            if alpha < 1:
                squares_N = batch.weights_T.double() @ x_TN.double().square()
                differences = {name: self._less_anchor(name, experts[batch.expert], values) for name in group}
                sums.hold(squares_N, differences, share=1 - alpha)
        assert sums is not None, "every expert has texts"
        return sums

    def _walked(
        self, group: Sequence[str], values: Mapping[str, torch.Tensor], sums: AnchoredSums, keeping: Keeping
    ) -> dict[str, Walked]:
        """Returns what each matrix of a group is solved from, whatever the settings."""
        eigenvalues_N, vectors_NN = eigh(sums.gram_NN)
        anchor, own, found = dict(self._made(keeping.anchor, group)), self._settings.own, dict[str, Walked]()
        for name in group:
            base_MN = self._rows_first(name, self._weights.sources.base.tensor(name).to(vectors_NN))
            placed_MN = self._rows_first(name, values[self._blocks.parameter(name)].double())
            cross_MN = sums.cross(name) + (placed_MN - base_MN) @ sums.gram_NN  # beside the base's outputs
            between_MN = sums.cross(_between(name))
            parts = walked(
                eigenvalues_N,
                vectors_NN,
                own_MN=cross_MN + (1 - own) * between_MN,
                experts_MN=cross_MN - own * between_MN,
                anchor_MN=(self._rows_first(name, anchor[name].to(vectors_NN)) - base_MN) / keeping.scale,
            )
            found[name] = Walked(*(part.cpu().contiguous() for part in parts))
        return found

    def _changed(self, name: str, values: Mapping[str, torch.Tensor], sums: AnchoredSums) -> torch.Tensor:
        """Returns the anchor's matrix with its change, as it is stored."""
        within_NR = self._row_space(name) if self._settings.in_row_space else None
        change_MN = sums.change(name, ridge=self._settings.ridge, within_NR=within_NR)
        anchor = values[self._blocks.parameter(name)]
        return (anchor.double() + self._rows_first(name, change_MN)).to(self._stored).cpu()

    def _rows_first(self, name: str, matrix: torch.Tensor) -> torch.Tensor:
        """Turns a matrix as it is stored into a Linear's [M, N], and back."""
        return matrix.T if is_stored_transposed(name, self._weights.sources.base.config.get("model_type")) else matrix

    def _less_anchor(
        self, name: str, expert: Mapping[str, torch.Tensor], values: Mapping[str, torch.Tensor]
    ) -> torch.Tensor:
        """Returns an expert's matrix less the anchor's, as a Linear's."""
        parameter = self._blocks.parameter(name)
        return self._rows_first(name, expert[parameter].double() - values[parameter].double())

    def _row_space(self, name: str) -> torch.Tensor:
        """The rows of the experts' deltas, as a Linear's rows."""
        base, rows = self._weights.sources.base.tensor(name).float(), list[torch.Tensor]()
        is_turned = is_stored_transposed(name, self._weights.sources.base.config.get("model_type"))
        for expert in (self._weights.sources.experts[expert] for expert in self._texts):
            if name not in expert.touched:
                continue
            if isinstance(expert, Adapter):
                factors = expert.factors(name)
                assert factors is not None, "touched"
                rows.append(factors.b_MR.T if is_turned else factors.a_RN)
            else:
                delta = expert.tensor(name).float() - base
                rows.append(delta.T if is_turned else delta)
        return row_space(rows)

    def _anchored(self, names: Iterable[str]) -> dict[str, torch.Tensor]:
        """The anchor's tensors, as they are stored."""
        return {name: tensor.to(self._stored) for name, tensor in self._made(self._anchor, names)}

    def _made(self, recipe: Recipe, names: Iterable[str]) -> WeightStream:
        return self._weights.materialize(recipe, without=self._weights.shapes.keys() - set(names))

    def _token_weights(self, text: Text) -> list[float]:
        """Of the inputs: the last of the prompt is answered, too."""
        num_asked = max(0, text.num_prompt - 1)
        return [1.0] * num_asked + [self._settings.answer_weight] * (len(text.token_ids) - num_asked)


def _between(name: str) -> str:
    """What sums call the difference of the two targets of a Linear."""
    return f"{name}, own outputs less those of the merge's inputs"


def _less(
    some: Mapping[str, torch.Tensor], others: Mapping[str, torch.Tensor], part: float, names: Iterable[str]
) -> dict[str, torch.Tensor]:
    """Returns parameters of one model, less a part of another's: what a Linear makes of inputs is linear in them."""
    return {name: torch.sub(some[name], others[name], alpha=part) for name in names}


def _batches(texts: Sequence[Text], tokens: int) -> Iterator[list[Text]]:
    """Yields texts of similar length, as many as fit."""
    batch: list[Text] = []
    for text in sorted(texts, key=lambda text: len(text.token_ids)):
        if batch and (len(batch) + 1) * len(text.token_ids) > tokens:
            yield batch
            batch = []
        batch.append(text)
    yield batch
