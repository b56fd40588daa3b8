"""The settings of the regression that walks over the layers (`runs.regression`)."""

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from crossbreed.config import Config, InputPath, TensorPatterns
from crossbreed.recipes.named import ANCHOR, why_no_scaled_merge
from crossbreed.recipes.operators import OPERATORS
from crossbreed.registry import Named
from crossbreed.search_spaces import RegressionSettings
from crossbreed.types import Dtype


def _is_anchor(operator: str) -> str:
    if why := why_no_scaled_merge(operator):
        raise ValueError(f"`{operator}` is no anchor of a regression: {why}")
    return operator


class SamplesConfig(Config):
    """Texts that each expert writes itself, for a regression without any items.

    A template is a prompt whose fields in braces the expert writes, at a temperature, up to the end of the line (or of
    its turn, in a chat); after the last of them and what follows it, the expert's greedy answer ends the text.
    """

    texts: Annotated[int, Field(ge=1)] = 120
    """Texts per expert, before equal ones are left out."""
    templates: Annotated[tuple[str, ...], Field(min_length=1)] = ("Question: {question}\nAnswer:",)
    """Templates, taken in turns. `chat` stands for the tokenizer's chat template, with a message that the expert
    writes."""
    temperatures: Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1)] = (1.0,)
    """Temperatures, taken in turns."""
    max_tokens: Annotated[int, Field(ge=1)] = 32
    """Maximum number of tokens of each field, and of the answer."""


class RegressionConfig(Config):
    """A merge by a regression that walks over the layers, made before the search and a source of its own.

    For each matrix, the inputs are what the merge made so far feeds it, the targets what each expert's own pass puts
    out, and the solution is searched around an anchor. Recipes name the result `regression`, like an expert.
    """

    items: Annotated[int, Field(ge=0)] = 48
    """Maximum number of search items per task and expert, with their right answers: the first ones of the split."""
    tasks: dict[str, Annotated[list[str], Field(min_length=1)]] = Field(default_factory=dict)
    """Expert -> its tasks. Default: the task with the expert's own name, or else those of which it makes the right
    answers likelier than the base does, by at least half of what the best expert gains there. An expert without any is
    left out, of the anchor too."""
    prompts: dict[str, InputPath] = Field(default_factory=dict)
    """Task (of kind `generate`) -> a file of further items without answers: asked as the task asks, and answered by
    each of its experts itself, greedily. None of them may be a selection or report item."""
    samples: SamplesConfig | None = None
    """Texts that experts write themselves. None: none."""
    anchor: Annotated[str, Named(OPERATORS), AfterValidator(_is_anchor)] = ANCHOR
    """The operator around whose merge of all experts matrices are solved. Matrices that are not solved (`modules`, and
    experts of a mixture) keep it; norms, biases, embeddings and the head have the mean of the deltas."""
    anchor_recipe: InputPath | None = None
    """A recipe of base and experts, or a configuration of mergekit, whose merge is the anchor in place of all that: for
    example what an earlier run has found (`RUN/recipes/N.yaml`)."""
    anchor_scale: Annotated[float, Field(ge=0)] = 0.85
    """Factor on the anchor's delta; where the operator has no `scale`, the weight of every expert."""
    ridge: Annotated[float, Field(ge=0)] = 1.0
    """The lambda of the regression, in mean eigenvalues of the Gram of a matrix's inputs: how strongly the anchor
    holds. 0: not at all, where there are more tokens than columns."""
    own: Annotated[float, Field(ge=0, le=1)] = 0.5
    """1: the targets are the experts' own outputs; 0: what the experts' matrices make of the merge's inputs."""
    inputs: Literal["merge", "experts"] = "merge"
    """What feeds a matrix within its layer: the merge, as far as it is made; or what each expert's own matrices of the
    layer make of the merge's hidden states before it (RegMean++)."""
    off_diagonal: Annotated[float, Field(ge=0, le=1)] = 1.0
    """Factor on elements of Grams off the diagonal (RegMean's alpha). Below 1, columns are held to the experts' own in
    its place, as strongly as inputs are large there, so that `ridge: 0` needs no anchor."""
    answer_weight: Annotated[float, Field(gt=0)] = 1.0
    """Weight of the tokens of answers; those of prompts weigh 1."""
    row_space: bool = False
    """Whether the change of a matrix stays within the rows of the experts' deltas: of adapters, the result has at most
    the sum of their ranks."""
    modules: TensorPatterns = Field(default_factory=list)
    """Regular expressions (RE2), found anywhere in a tensor's name: the matrices to solve. Empty: all that some expert
    changes."""
    passes: Annotated[int, Field(ge=1)] = 1
    """Walks; each takes the result of the one before as its anchor."""
    tokens: Annotated[int, Field(ge=1)] = 2048
    """Tokens per forward pass, padding included; bounds the memory."""
    dtype: Dtype = "float32"
    """The dtype in which models compute. Sums and solutions are float64."""
    device: str = "cpu"
    """The device, as torch names it."""

    @model_validator(mode="after")
    def _has_texts(self) -> "RegressionConfig":
        if not (self.items or self.prompts or self.samples):
            raise ValueError("a regression needs texts: set `items`, `prompts` or `samples`")
        usual = {name: type(self).model_fields[name].default for name in ("anchor", "anchor_scale")}
        if self.anchor_recipe is not None and any(getattr(self, name) != value for name, value in usual.items()):
            raise ValueError("a regression has one anchor: remove `anchor` and `anchor_scale`, or `anchor_recipe`")
        return self

    @property
    def reference(self) -> RegressionSettings:
        """The settings that a search of them starts from."""
        return RegressionSettings(
            ridge=self.ridge, anchor_scale=self.anchor_scale, own=self.own, modules=tuple(self.modules)
        )

    def describe(self) -> str:
        """Returns what experts read, for people."""
        parts = [f"up to {self.items} items per task"] * bool(self.items)
        parts += [f"prompts of {', '.join(self.prompts)}"] * bool(self.prompts)
        parts += [] if self.samples is None else [f"{self.samples.texts} texts that each expert writes"]
        return ", ".join(parts)

    def tasks_of(self, expert: str, tasks: Sequence[str]) -> Sequence[str]:
        """Returns the tasks of which an expert reads items and prompts, at most."""
        return self.tasks.get(expert) or ([expert] if expert in tasks else tasks)

    def says_tasks_of(self, expert: str, tasks: Sequence[str]) -> bool:
        """Returns whether these tasks are an expert's for sure, and not all there are for want of a better word."""
        return bool(self.tasks.get(expert)) or expert in tasks
