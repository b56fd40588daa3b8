"""Conformance tests of merge operators.

Subclass `OperatorConformance` in a test module and override its one fixture; parameters are drawn from the operator's
declaration:

    class TestMine(OperatorConformance):
        @pytest.fixture
        def operator(self) -> str:
            return "my_operator"
"""

from collections.abc import Mapping
from contextlib import suppress
from itertools import permutations
from pathlib import Path
from random import Random
from typing import ClassVar

import pytest
import torch
from hypothesis import HealthCheck, Phase, assume, find, given, settings
from hypothesis import strategies as st
from hypothesis.errors import NoSuchExample

from crossbreed.errors import InputError, InvalidWeights
from crossbreed.kernels import SourceCache
from crossbreed.kernels.executors import execute
from crossbreed.kernels.materialize import program_of
from crossbreed.kernels.reference import merged_fp64
from crossbreed.kernels.reference.tensor import Tensor, full_tensor
from crossbreed.kernels.tensors import TensorInputs
from crossbreed.recipes.grammar import renamed
from crossbreed.recipes.operators import DEPTH_PROFILE, OPERATOR_SPECS, OperatorSpec, ParamKind, ParamSpec
from crossbreed.testing.toy_merges import BASE, MATRIX, SHAPES, ToyMerge, choices, params_of
from crossbreed.types import ParamValue, Rule

Params = Mapping[str, ParamValue]

_ROW = 3
_EXAMPLES = settings(
    max_examples=10,
    deadline=None,
    # `merge` has no state, and every subclass is meant to meet the same examples
    suppress_health_check=[
        HealthCheck.function_scoped_fixture,
        HealthCheck.differing_executors,
        HealthCheck.filter_too_much,
    ],
)
_ANY = settings(max_examples=20, database=None, phases=[Phase.generate])
"""The first example will do."""


class OperatorConformance:
    """Tests an operator; override `operator`. Class variables state how exact it is."""

    ulps: ClassVar[float] = 8
    """Largest error of an element: in units of 2^-24 of the largest magnitude of the sources and the merge."""
    may_differ: ClassVar[float] = 0.0
    """Share of elements that may be off by more, where a rounded delta decides whether an element is kept."""

    @pytest.fixture
    def operator(self) -> str:
        """Override: the operator's name."""
        raise NotImplementedError

    @pytest.fixture
    def merge(self, operator: str, tmp_path: Path) -> ToyMerge:
        """Returns as many experts as the operator merges, at most three; if there are several, one is an adapter.

        All are, if it mixes their factors.
        """
        spec = OPERATOR_SPECS[operator]
        if spec.mixes_factors:
            return ToyMerge.of_adapters(["a", "b", "p"])
        most = 3 if spec.num_experts[1] is None else spec.num_experts[1]
        made = ToyMerge.make(["a", "p", "b"][:most])
        if spec.reads_statistics:
            return made.with_statistics(tmp_path / "statistics.safetensors")
        return made.with_grams(tmp_path / "grams.safetensors") if spec.grams else made

    @pytest.mark.parametrize("name", SHAPES)
    @_EXAMPLES
    @given(data=st.data())
    def test_it_is_its_definition(self, operator: str, merge: ToyMerge, name: str, data: st.DataObject) -> None:
        """Equals the fp64 definition within the stated bound."""
        params = data.draw(params_of(OPERATOR_SPECS[operator], sorted(merge.experts)))
        inputs, rule = merge.inputs(name), _rule(operator, params)
        ours = _valid(inputs, rule)
        meant = merged_fp64(Tensor.of(inputs), rule)
        self.check_it_is_near(ours, meant, inputs)

    @_EXAMPLES
    @given(data=st.data())
    def test_permuting_experts_with_their_coefficients_changes_no_bit(
        self, operator: str, merge: ToyMerge, data: st.DataObject
    ) -> None:
        """Depends on the experts' content, not on the names that a recipe gives them."""
        experts = sorted(merge.experts)
        params = data.draw(params_of(OPERATOR_SPECS[operator], experts))
        first = _valid(merge.inputs(MATRIX), _rule(operator, params))
        for permuted in permutations(experts):
            names = dict(zip(experts, permuted, strict=True))
            rule = _rule(operator, {key: _renamed(value, names) for key, value in params.items()})
            assert _bits(_merged(merge.inputs(MATRIX, names=names), rule)) == _bits(first)

    @pytest.mark.parametrize("name", SHAPES)
    def test_a_tensor_that_no_expert_changes_stays_the_base_s(self, operator: str, merge: ToyMerge, name: str) -> None:
        """Returns the base's bits with default parameters."""
        untouched = merge.with_experts({key: {} for key in merge.experts})
        inputs, rule = untouched.inputs(name), _rule(operator, _least(OPERATOR_SPECS[operator], sorted(merge.experts)))
        assert _bits(_merged(inputs, rule)) == _bits(inputs.base)

    @_EXAMPLES
    @given(data=st.data())
    def test_no_weight_is_the_base(self, operator: str, merge: ToyMerge, data: st.DataObject) -> None:
        """Where the delta is declared to be of degree 1 in the weights: with default words, and none normalised."""
        spec, experts = OPERATOR_SPECS[operator], sorted(merge.experts)
        if spec.degree != 1 or spec.param("weight") is None:
            pytest.skip("its weights are no factors of the delta")
        params = data.draw(params_of(spec, experts)) | {"weight": 0.0}
        params |= {param.name: param.default for param in spec.params if param.kind is ParamKind.CHOICE}
        params |= _no_numbers(spec)
        if spec.param("normalize"):
            params["normalize"] = False
        inputs = merge.inputs(MATRIX)
        assert _bits(_merged(inputs, _rule(operator, params))) == _bits(inputs.base)

    @_EXAMPLES
    @given(data=st.data())
    def test_an_adapter_is_the_checkpoint_with_its_delta(
        self, operator: str, merge: ToyMerge, data: st.DataObject
    ) -> None:
        """Within the stated bound: the base plus s B A, in fp32."""
        spec = OPERATOR_SPECS[operator]
        if spec.mixes_factors:
            pytest.skip("it merges adapters alone")
        adapted = ToyMerge.make(["p"]) if len(merge.experts) == 1 else merge
        low = adapted.inputs(MATRIX).experts[-1]
        full = full_tensor(low, adapted.base[MATRIX].double()).float()
        params = data.draw(params_of(spec, sorted(adapted.experts))) | _no_numbers(spec)  # an adapter's are its ranks'
        rule = _rule(operator, params)
        inputs = adapted.inputs(MATRIX)
        ours = _valid(inputs, rule)
        theirs = _merged(adapted.with_value("p", MATRIX, full).inputs(MATRIX), rule)
        self.check_it_is_near(ours, theirs.double(), inputs)

    @pytest.mark.parametrize(("depth", "factor"), [(None, 0.5), (0.0, 0.5), (0.6, 0.95)])
    @_EXAMPLES
    @given(data=st.data())
    def test_a_depth_profile_scales_what_is_added(
        self, operator: str, merge: ToyMerge, depth: float | None, factor: float, data: st.DataObject
    ) -> None:
        """By lines_alpha + lines_beta depth, within the stated bound."""
        params = data.draw(params_of(OPERATOR_SPECS[operator], sorted(merge.experts)))
        inputs = merge.inputs(MATRIX, depth=depth)
        whole = _valid(inputs, _rule(operator, params)).double()
        ours = _merged(inputs, _rule(operator, {**params, "lines_alpha": 0.5, "lines_beta": 0.75}))
        self.check_it_is_near(ours, inputs.base + factor * (whole - inputs.base), inputs, whole)

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    @_EXAMPLES
    @given(data=st.data())
    def test_nan_and_infinity_are_not_lost(
        self, operator: str, merge: ToyMerge, value: float, data: st.DataObject
    ) -> None:
        """A row of an expert's that has a part in the merge makes it invalid, or is there to be seen."""
        rule = _rule(operator, data.draw(params_of(OPERATOR_SPECS[operator], sorted(merge.experts))))
        merged = _valid(merge.inputs(MATRIX), rule)
        for expert in merge.inputs(MATRIX).experts:
            if isinstance(expert.value, torch.Tensor):
                other, broken = expert.value.clone(), expert.value.clone()
                other[_ROW] = 3 * other[_ROW] + 1
                broken[_ROW] = value
                if _bits(_merged(merge.with_value(expert.hash, MATRIX, other).inputs(MATRIX), rule)) != _bits(merged):
                    with suppress(InvalidWeights):
                        spoilt = _merged(merge.with_value(expert.hash, MATRIX, broken).inputs(MATRIX), rule)
                        assert not spoilt.isfinite().all()

    def test_every_parameter_is_read(self, operator: str, merge: ToyMerge) -> None:
        """Changes a tensor for some value of every parameter: a search would pay for one without effect."""
        spec, experts = OPERATOR_SPECS[operator], sorted(merge.experts)
        unread = [param.name for param in spec.params if param not in DEPTH_PROFILE]
        unread = [name for name in unread if not _is_read(merge, spec, name, experts)]
        assert not unread

    def test_twice_the_weights_do_what_is_declared(self, operator: str, merge: ToyMerge) -> None:
        """Twice the delta (degree 1), the same one (0), or neither: by definition, with default words."""
        spec = OPERATOR_SPECS[operator]
        if (weight := spec.param("weight")) is None:
            pytest.skip("it has no weights")
        params = _least(spec, sorted(merge.experts)) | ({"normalize": False} if spec.param("normalize") else {})
        weights = {"a": 0.7, "b": 0.4, "p": 0.5} | ({BASE: 0.3} if weight.kind is ParamKind.SOURCE else {})
        tensor = Tensor.of(merge.inputs(MATRIX))
        once, twice = (
            merged_fp64(tensor, _rule(operator, {**params, "weight": {key: times * w for key, w in weights.items()}}))
            - tensor.base
            for times in (1, 2)
        )
        degrees = [degree for degree in (0, 1) if torch.allclose(twice, 2**degree * once, rtol=1e-6, atol=1e-9)]
        assert degrees == ([] if spec.degree is None else [spec.degree])

    @pytest.mark.parametrize("name", SHAPES)
    @_EXAMPLES
    @given(data=st.data())
    def test_what_is_cached_changes_no_bit(
        self, operator: str, merge: ToyMerge, name: str, data: st.DataObject
    ) -> None:
        """Merges a candidate to the same bits after others and alone."""
        drawn = params_of(OPERATOR_SPECS[operator], sorted(merge.experts))
        rules, cache = [_rule(operator, data.draw(drawn)) for _ in range(3)], SourceCache()
        alone = [_bits(_valid(merge.inputs(name), rule)) for rule in rules]
        for _ in range(2):
            assert [_bits(_merged(merge.inputs(name, cache=cache), rule)) for rule in rules] == alone

    def check_it_is_near(
        self, ours: torch.Tensor, meant: torch.Tensor, inputs: TensorInputs, *others: torch.Tensor
    ) -> None:
        """Compares every element with the definition."""
        sources = [inputs.base, *(full_tensor(expert, inputs.base.double()) for expert in inputs.experts)]
        size = max(float(tensor.abs().max()) for tensor in (*sources, meant, *others))
        is_off = (ours.double() - meant).abs() > self.ulps * 2**-24 * size
        worst = float((ours.double() - meant).abs().max()) / (2**-24 * size)
        share = float(is_off.double().mean())
        assert share <= self.may_differ, f"{share:.2%} of elements are off by more than {self.ulps}, up to {worst:.0f}"


def _rule(operator: str, params: Params) -> Rule:
    return Rule(match=".*", operator=operator, params=dict(params))


def _merged(inputs: TensorInputs, rule: Rule) -> torch.Tensor:
    return execute(program_of(inputs, rule), inputs.base, torch.float32)


def _valid(inputs: TensorInputs, rule: Rule) -> torch.Tensor:
    """Merges; skips parameters that are undefined for a tensor (weights that sum to 0)."""
    try:
        return _merged(inputs, rule)
    except InvalidWeights:
        assume(False)
        raise


def _bits(tensor: torch.Tensor) -> list[int]:
    found: list[int] = tensor.float().reshape(-1).view(torch.int32).tolist()
    return found


def _renamed(value: ParamValue, names: Mapping[str, str]) -> ParamValue:
    """Returns a parameter for experts with other names."""
    if isinstance(value, Mapping):
        return renamed(value, names)
    return names.get(value, value) if isinstance(value, str) else value


def _no_numbers(spec: OperatorSpec) -> dict[str, ParamValue]:
    return {param.name: {} for param in spec.params if param.kind is ParamKind.NUMBERS}


def _least(spec: OperatorSpec, experts: list[str]) -> dict[str, ParamValue]:
    """Returns the parameters that a rule must have."""
    return {param.name: choices(param, experts)[0] for param in spec.params if param.required}


def _is_read(merge: ToyMerge, spec: OperatorSpec, name: str, experts: list[str]) -> bool:
    """Returns whether a parameter has an effect for some choice of the others."""
    param = spec.param(name)
    assert param is not None, "it is one of the operator's"

    def matters(params: dict[str, ParamValue]) -> bool:
        if param.only_if is not None:
            params = params | dict([param.only_if])
        return any(len(_outcomes(merge, spec, param, params, tensor, experts)) > 1 for tensor in SHAPES)

    try:
        find(params_of(spec, experts), matters, settings=_ANY, random=Random(0))
    except NoSuchExample:
        return False
    return True


def _outcomes(
    merge: ToyMerge, spec: OperatorSpec, param: ParamSpec, params: Params, tensor: str, experts: list[str]
) -> set[object]:
    """Returns the results of each value of one parameter; a refusal is a result too."""
    found: set[object] = set()
    for value in choices(param, experts):
        try:
            rule = _rule(spec.name, {**params, param.name: value})
            found.add(tuple(_bits(_merged(merge.inputs(tensor), rule))))
        except (InputError, InvalidWeights) as error:
            found.add(str(error))
    return found
