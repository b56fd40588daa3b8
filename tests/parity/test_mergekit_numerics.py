"""mergekit 0.1.5, called in this process on the same tensors, gives the same bits; so it did when goldens were made.

The goldens (tests/golden/mergekit) hold without mergekit, and so do the tests after them.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crossbreed.errors import InputError, InvalidWeights
from crossbreed.mergekit.methods import METHODS, BaseRole, Method, Scope
from crossbreed.mergekit.numerics.arithmetic import merge_tensor, merged_dtype
from crossbreed.mergekit.numerics.inputs import Input

parity = pytest.mark.parity
needs_mergekit = pytest.mark.skipif(find_spec("mergekit") is None, reason="mergekit 0.1.5 is not installed")

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "fp64": torch.float64}
SHAPES = {"matrix": (12, 40), "vector": (90,)}
GOLDEN = Path(__file__).parent.parent / "golden" / "mergekit"
RANDOM = frozenset({"dare_linear", "dare_ties", "della", "della_linear"})
REFUSING = frozenset({"della", "della_linear", "multislerp"})
"""Methods that have no answer for some tensors."""
TRIMMED = frozenset({"ties", "breadcrumbs", "breadcrumbs_ties"})
PORTABLE = TRIMMED | {"task_arithmetic", "nearswap", "ram", "ramplus_tl", "passthrough"}
"""Methods with the same bits on every processor: no fused multiply-add, sine, exponential or sum over a tensor."""

NUMBERS: Mapping[str, st.SearchStrategy[float | bool | None]] = MappingProxyType(
    {
        "weight": st.floats(-1, 2) | st.just(1.0) | st.just(0.0),
        "density": st.floats(0.02, 1) | st.sampled_from([1.0, 0.0, 0.5]),
        "gamma": st.floats(0, 0.3),
        "lambda": st.floats(-1, 2) | st.just(1.0),
        "select_topk": st.floats(0, 1) | st.just(1.0),
        "t": st.floats(-0.2, 1.2),
        "scale": st.none() | st.floats(-2, 2),
        "eps": st.sampled_from([1e-8, 1e-4]),
        "tol": st.sampled_from([1e-5, 1e-2]),
        "max_iter": st.integers(1, 10),
        "r": st.floats(0, 1),
        "alpha": st.floats(0, 2),
        "epsilon": st.sampled_from([0.0, 1e-5, 1e-2]),
    }
)
"""Parameter -> what a test tells it; flags are true or false, and della's epsilon depends on its density."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A merge of one tensor."""

    method: str
    inputs: tuple[Input, ...]
    parameters: Mapping[str, float | bool]
    seed: int

    def ours(self) -> torch.Tensor:
        return merge_tensor(
            self.method, self.inputs, self.parameters, generator=torch.Generator().manual_seed(self.seed)
        )

    def theirs(self) -> torch.Tensor:
        """What mergekit's own method makes of the tensors, with the global generator seeded alike."""
        from mergekit.merge_methods import merge_tensors

        method = METHODS[self.method]
        each = {
            parameter.name: {
                number: one.parameters[parameter.name]
                for number, one in enumerate(self.inputs)
                if parameter.name in one.parameters
            }
            for parameter in method.parameters
            if parameter.scope is not Scope.GLOBAL
        }
        base = next((number for number, one in enumerate(self.inputs) if one.is_base), None)
        with torch.random.fork_rng():
            torch.default_generator.manual_seed(self.seed)
            return merge_tensors(
                [one.tensor for one in self.inputs],
                self.method,
                parameters={**self.parameters, **{name: values for name, values in each.items() if values}},
                base_index=base,
            )


@st.composite
def cases(draw: st.DrawFn, method: Method, dtype: torch.dtype, shape: tuple[int, ...]) -> Case:
    """Models around a base, near (as fine-tuned ones are) or far, with parameters of all kinds."""
    seed, spread = draw(st.integers(0, 2**31)), draw(st.sampled_from([3e-4, 0.05, 1.0]))
    has_base = method.base is BaseRole.REQUIRED or (method.base is BaseRole.OPTIONAL and draw(st.booleans()))
    most = 4 if method.most is None else method.most
    num_experts = draw(st.integers(method.least, most))
    position = draw(st.integers(0, num_experts)) if has_base else None
    chance = torch.Generator().manual_seed(seed)
    base = 0.5 * torch.randn(shape, generator=chance)
    inputs = []
    for number in range(num_experts + (position is not None)):
        changed = spread * torch.randn(shape, generator=chance) * (torch.rand(shape, generator=chance) < 0.7)
        is_base = number == position
        kind = "base" if is_base else draw(st.sampled_from(["changed"] * 6 + ["base", "opposite", "nothing"]))
        tensor = {"base": base, "changed": base + changed, "opposite": -base, "nothing": 0 * base}[kind].to(dtype)
        inputs.append(Input(tensor=tensor, is_base=is_base, parameters=_told(draw, method, is_base=is_base)))
    shared = {
        parameter.name: draw(st.booleans() if isinstance(parameter.default, bool) else NUMBERS[parameter.name])
        for parameter in method.parameters
        if parameter.scope is Scope.GLOBAL and (parameter.required or draw(st.booleans()))
    }
    return Case(method=method.name, inputs=tuple(inputs), parameters=shared, seed=seed)


def _told(draw: st.DrawFn, method: Method, *, is_base: bool) -> dict[str, float]:
    told = {
        parameter.name: draw(NUMBERS[parameter.name])
        for parameter in method.parameters
        if parameter.scope is Scope.MODEL or (parameter.scope is Scope.EXPERT and not is_base)
    }
    if "epsilon" in told:
        density = told["density"]
        told["epsilon"] = draw(st.floats(0, 0.9)) * min(density, 1 - density)
    return {name: value for name, value in told.items() if value is not None}


def agree(case: Case) -> None:
    """Both give the same bits, or both refuse."""
    ours, theirs = (
        attempt(case.ours, InputError, InvalidWeights),
        attempt(case.theirs, ValueError, RuntimeError, IndexError),
    )
    if theirs is None:
        assert ours is None
        assert case.method in REFUSING
    else:
        assert ours is not None
        assert same_bits(ours, theirs)


def attempt(merge: Callable[[], torch.Tensor], *refusals: type[Exception]) -> torch.Tensor | None:
    try:
        return merge()
    except refusals:
        return None


def same_bits(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    """The same dtype, shape and bytes; NaN is NaN."""
    if (ours.dtype, ours.shape) != (theirs.dtype, theirs.shape):
        return False
    return torch.equal(ours.isnan(), theirs.isnan()) and torch.equal(_bits(ours), _bits(theirs))


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    whole = {2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()]
    return tensor.masked_fill(tensor.isnan(), 0).contiguous().view(whole)


@parity
@needs_mergekit
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=15, deadline=None, derandomize=True)
@given(data=st.data())
def test_every_bit_is_mergekits(method: str, dtype: str, shape: str, data: st.DataObject) -> None:
    agree(data.draw(cases(METHODS[method], DTYPES[dtype], SHAPES[shape])))


@parity
@needs_mergekit
@pytest.mark.slow
@pytest.mark.parametrize("shape", [(), (1,), (5, 1), (1, 5), (3, 4, 5), (2, 3, 4, 5)], ids=str)
@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=10, deadline=None, derandomize=True)
@given(data=st.data())
def test_odd_shapes_are_mergekits(method: str, shape: tuple[int, ...], data: st.DataObject) -> None:
    agree(data.draw(cases(METHODS[method], torch.bfloat16, shape)))


@parity
@needs_mergekit
@pytest.mark.slow
@pytest.mark.parametrize("odd", [torch.nan, torch.inf, -torch.inf], ids=str)
@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=5, deadline=None, derandomize=True)
@given(data=st.data())
def test_nan_and_inf_go_where_mergekits_go(method: str, odd: float, data: st.DataObject) -> None:
    made = cases(METHODS[method], torch.float32, (6, 7))
    # At density 0 mergekit writes zeros where a delta holds NaN; here NaN stays.
    case = data.draw(made.filter(lambda case: all(one.parameters.get("density") != 0 for one in case.inputs)))
    data.draw(st.sampled_from(case.inputs)).tensor.view(-1)[data.draw(st.integers(0, 41))] = odd
    agree(case)


@parity
@needs_mergekit
@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("method", METHODS)
def test_nine_experts_are_mergekits(method: str, dtype: str) -> None:
    agree(plain_case(method, DTYPES[dtype], (17, 33), num_experts=9))


@parity
@needs_mergekit
@pytest.mark.parametrize(
    ("method", "dtype", "shape"),
    [
        ("slerp", "fp32", (1500, 1500)),  # sums in blocks
        ("arcee_fusion", "fp32", (1100, 1000)),  # quartiles of a sample
        ("della", "bf16", (3, 5000)),  # more ranks than bfloat16 has numbers
        ("ties", "bf16", (500, 500)),  # many elements at a threshold
    ],
)
def test_large_tensors_are_mergekits(method: str, dtype: str, shape: tuple[int, ...]) -> None:
    agree(plain_case(method, DTYPES[dtype], shape, num_experts=2))


def plain_case(method: str, dtype: torch.dtype, shape: tuple[int, ...], *, num_experts: int) -> Case:
    """A base and experts that differ from it everywhere, each with its own numbers."""
    declared, chance = METHODS[method], torch.Generator().manual_seed(11)
    num_experts = min(max(num_experts, declared.least), declared.most or num_experts)
    base = torch.randn(shape, generator=chance)
    tensors = [base + torch.randn(shape, generator=chance) for _ in range(num_experts)]
    told = {"weight": 0.13, "density": 0.07, "scale": 0.7, "t": 0.37}
    inputs = tuple(
        Input(
            tensor=tensor.to(dtype),
            parameters={
                parameter.name: told[parameter.name] * (number + 1)
                for parameter in declared.parameters
                if parameter.scope is not Scope.GLOBAL and parameter.name in told
            },
        )
        for number, tensor in enumerate(tensors)
    )
    if method.startswith("della"):
        inputs = tuple(replace(one, parameters={**one.parameters, "epsilon": 0.05}) for one in inputs)
    if declared.base is not BaseRole.ORDINARY:
        inputs = (Input(tensor=base.to(dtype), is_base=True), *inputs)
    shared = {name: told[name] for name in ("t",) if declared.parameter(name)}
    return Case(method=method, inputs=inputs, parameters=shared, seed=5)


@parity
@needs_mergekit
@pytest.mark.parametrize("method", METHODS)
def test_declarations_are_mergekits(method: str) -> None:
    from mergekit.merge_methods import get

    ours, theirs = METHODS[method], get(method).spec
    scopes = {Scope.GLOBAL: "shared", Scope.MODEL: "input", Scope.EXPERT: "non_base"}
    assert {(p.name, scopes[p.scope], p.required, p.default) for p in ours.parameters} == {
        (p.name, p.scope.value, p.required, None if p.required else p.default) for p in theirs.parameters
    }
    for has_base in (True, False):
        for count in range(1, 6):
            try:
                theirs.contract.validate_ids(range(count), 0 if has_base else None)
            except ValueError:
                accepts = False
            else:
                accepts = True
            assert (ours.why_invalid(num_models=count, has_base=has_base) is None) == accepts, (count, has_base)


def golden_case(method: str, dtype: str) -> tuple[Case, torch.Tensor]:
    stored = json.loads((GOLDEN / "inputs.json").read_text())
    golden = json.loads((GOLDEN / f"{method}.json").read_text())
    tensors = [torch.tensor(numbers).view(stored["shape"]) for numbers in stored["tensors"][: golden["num_models"]]]
    each = {name: value for name, value in golden["told"].items() if isinstance(value, list)}
    inputs = tuple(
        Input(
            tensor=tensor.to(getattr(torch, dtype)),
            is_base=number == 0 and METHODS[method].base is not BaseRole.ORDINARY,
            parameters={name: values[number] for name, values in each.items() if values[number] is not None},
        )
        for number, tensor in enumerate(tensors)
    )
    shared = {name: value for name, value in golden["told"].items() if name not in each}
    result = golden["results"][dtype]
    raw = torch.frombuffer(bytearray.fromhex(result["bytes"]), dtype=getattr(torch, result["dtype"]))
    return Case(method=method, inputs=inputs, parameters=shared, seed=0), raw.view(stored["shape"])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("method", METHODS)
def test_goldens_hold(method: str, dtype: str) -> None:
    """Bit for bit, or within two ulps of 1 where bits depend on a processor's instructions."""
    case, golden = golden_case(method, dtype)
    ours = case.ours()
    assert ours.dtype == merged_dtype(method, getattr(torch, dtype), num_models=len(case.inputs))
    if method in PORTABLE:
        assert same_bits(ours, golden)
    else:
        near = 2 * torch.finfo(getattr(torch, dtype)).eps
        torch.testing.assert_close(ours, golden, rtol=near, atol=near)


@pytest.mark.parametrize("method", sorted(RANDOM))
def test_random_masks_come_from_the_generator(method: str) -> None:
    case, _ = golden_case(method, "float32")
    assert same_bits(case.ours(), case.ours())
    assert not same_bits(case.ours(), replace(case, seed=1).ours())
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(0)
        from_global = merge_tensor(method, case.inputs, case.parameters)
    assert same_bits(case.ours(), from_global)


@pytest.mark.parametrize("told", [{"density": 0.5, "epsilon": 0.6}, {"density": 0.9, "epsilon": 0.15}])
def test_probabilities_outside_the_unit_interval_are_refused(told: dict[str, float]) -> None:
    with pytest.raises(InputError, match="density - epsilon"):
        _della(torch.ones(3, 4), told)


def test_rows_of_one_element_have_no_ranks() -> None:
    with pytest.raises(InputError, match="one element"):
        _della(torch.ones(3, 1), {"density": 0.5})
    assert torch.equal(_della(torch.ones(3, 1), {"density": 1.0}), torch.ones(3, 1))


def _della(tensor: torch.Tensor, told: dict[str, float]) -> torch.Tensor:
    base = Input(tensor=torch.zeros_like(tensor), is_base=True)
    return merge_tensor("della", [base, Input(tensor=tensor, parameters={"weight": 1.0, **told})], {})


def test_directions_that_cancel_have_no_mean() -> None:
    axes = [torch.tensor(axis) for axis in ([1.0, 0.0], [-1.0, 0.0], [1.0, 0.0], [-1.0, 0.0])]
    with pytest.raises(InvalidWeights, match="cancel"):
        merge_tensor("multislerp", [Input(tensor=axis, parameters={"weight": 1.0}) for axis in axes], {})
