"""What the CUDA kernels promise, wherever they run: on CPU tensors under Triton's interpreter, or on a GPU.

The values of the CPU's kernels, element by element: float32 and float16 bit by bit (zeros of both signs are equal), and
bfloat16 as each place rounds. `bfloat16_steps` says how far that may be: the interpreter rounds towards zero.
"""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import triton
import triton.language as tl
from merges import inputs_of_tensors

from crossbreed.kernels.executors import execute
from crossbreed.kernels.executors.cuda import Cuda, average, inner_products_of
from crossbreed.kernels.executors.cuda.election import random_u16
from crossbreed.kernels.executors.lowering import Pass, lower
from crossbreed.kernels.executors.protocol import TensorMerge
from crossbreed.kernels.operators import ARITHMETIC
from crossbreed.kernels.programs import Affine, Consensus, Dense, Election, Elementwise, Pick, Program, Voter
from crossbreed.kernels.reference import REFERENCES
from crossbreed.kernels.reference.tensor import Tensor
from crossbreed.kernels.tensors import TensorInputs
from crossbreed.sources import LowRank
from crossbreed.types import Rule

ODD = (7, 157)
"""No whole number of programs' blocks."""


def random_tensors(shape: tuple[int, ...], *dtypes: torch.dtype, seed: int = 0) -> list[torch.Tensor]:
    """A base, and experts near it."""
    generator = torch.Generator().manual_seed(seed)
    base = torch.randn(shape, generator=generator)
    deltas = [torch.zeros(shape), *(0.1 * torch.randn(shape, generator=generator) for _ in dtypes[1:])]
    return [(base + delta).to(dtype) for delta, dtype in zip(deltas, dtypes, strict=True)]


def random_factors(shape: tuple[int, int], rank: int, seed: int) -> LowRank:
    generator = torch.Generator().manual_seed(seed)
    b_MR, a_RN = torch.randn(shape[0], rank, generator=generator), torch.randn(rank, shape[1], generator=generator)
    return LowRank(b_MR=0.1 * b_MR, a_RN=0.1 * a_RN, scale=0.5)


def moved(value: torch.Tensor | LowRank, device: str) -> torch.Tensor | LowRank:
    if isinstance(value, LowRank):
        return replace(value, b_MR=value.b_MR.to(device), a_RN=value.a_RN.to(device))
    return value.to(device)


def body(
    base: torch.Tensor, deltas: list[torch.Tensor], sides: list[torch.Tensor], numbers: torch.Tensor
) -> torch.Tensor:
    return torch.where(deltas[0].abs() > deltas[1].abs(), deltas[0], deltas[1]) * sides[0] * numbers[0] + base * 0.0


@triton.jit
def _store_codes(out, key, BLOCK: tl.constexpr):
    first = tl.program_id(0).to(tl.int64) * BLOCK
    tl.store(out + first + tl.arange(0, BLOCK), random_u16(first, key, BLOCK).to(tl.int32))


RANDOM = {"density": {"a": 0.3, "b": 0.6, "c": 0.8}, "seed": 5}
ELECTIONS = [
    ("ties", {"density": 0.4}),
    ("ties", {"density": {"a": 0.2, "b": 1.0, "c": 0.7}, "normalize": False, "scale": 1.3}),
    ("ties", {"density": 0.4, "consensus": "count"}),
    ("ties", {"density": 0.4, "pick": "largest"}),
    ("dare_linear", RANDOM),
    ("dare_ties", RANDOM | {"rescale": False, "normalize": True}),
    ("della_linear", RANDOM | {"epsilon": 0.1}),
    ("della", RANDOM | {"epsilon": 0.15, "rescale": False}),
    ("breadcrumbs", {"density": 0.6, "gamma": 0.05}),
    ("breadcrumbs_ties", {"density": 0.6, "gamma": 0.05}),
]
WEIGHT = {"a": 0.713, "b": 0.402, "c": -0.297}
LEAST_DENSITY, LEAST_DIVISOR = 0.15, 0.1
"""What a delta is divided by at most: with DELLA's epsilon; where b and c agree. (With these, no vote is balanced.)"""


class CudaLaws:
    """A subclass says where."""

    device: str
    bfloat16_steps: int
    cuda = Cuda(block=1000)

    def both(self, base: torch.Tensor, *experts: torch.Tensor | LowRank) -> tuple[TensorInputs, TensorInputs]:
        """The same tensors on CPU and on the device."""
        named = dict(zip("abcdefghijklmnop", experts, strict=False))
        here = inputs_of_tensors(base, named)
        there = inputs_of_tensors(base.to(self.device), {n: moved(value, self.device) for n, value in named.items()})
        return here, there

    def check(self, ours: torch.Tensor, expected: torch.Tensor) -> None:
        """Every element as on CPU."""
        assert (ours.dtype, ours.shape, ours.device.type) == (expected.dtype, expected.shape, self.device)
        ours = ours.cpu()
        if ours.dtype is not torch.bfloat16:
            assert torch.equal(ours, expected), f"{int((ours != expected).sum())} of {ours.numel()} elements differ"
        else:
            steps = ours.view(torch.int16).int() - expected.view(torch.int16).int()
            assert steps.abs().max() <= self.bfloat16_steps or torch.equal(ours, expected)

    def check_program(
        self, here: Program, there: Program, inputs: tuple[TensorInputs, TensorInputs], dtype: torch.dtype
    ) -> None:
        bases = [each.base for each in inputs]
        self.check(execute(there, bases[1], dtype, executor=self.cuda), execute(here, bases[0], dtype))

    @pytest.mark.parametrize("shape", [(1,), (5, 3), (1024,), (2049,)])
    def test_a_sum_is_the_cpu_s(self, shape: tuple[int, ...]) -> None:
        inputs = self.both(*random_tensors(shape, *[torch.bfloat16] * 4))
        here, there = (self.sum_of(p) for p in inputs)
        self.check_program(here, there, inputs, torch.float32)

    @pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16, torch.float32])
    def test_any_dtypes(self, stored: torch.dtype) -> None:
        inputs = self.both(*random_tensors(ODD, stored, stored, torch.float32, torch.float16))
        here, there = (self.sum_of(p) for p in inputs)
        for dtype in (torch.bfloat16, torch.float16, torch.float32):
            self.check_program(here, there, inputs, dtype)

    def sum_of(self, inputs: TensorInputs) -> Affine:
        return Affine(shares=tuple(zip((0.3, -0.7, 1.1), inputs.experts, strict=True)), of_base=0.9)

    @pytest.mark.parametrize("count", [1, 2, 8, 16])
    def test_any_number_of_experts(self, count: int) -> None:
        inputs = self.both(*random_tensors(ODD, *[torch.bfloat16] * (count + 1)))
        here, there = (Affine(shares=tuple((0.1 * i - 0.25, e) for i, e in enumerate(p.experts))) for p in inputs)
        self.check_program(here, there, inputs, torch.float32)
        weight = {expert.name: 0.5 for expert in inputs[0].experts}
        rule = Rule(match=".*", operator="ties", params={"weight": weight, "density": 0.5})
        self.check_program(*(ARITHMETIC["ties"](p, rule) for p in inputs), inputs, torch.float32)

    def test_a_number_for_each_row_or_column(self) -> None:
        base, *full = random_tensors(ODD, *[torch.bfloat16] * 4)
        inputs = self.both(base, *full, random_factors(ODD, 3, seed=1), random_factors(ODD, 5, seed=2))
        rows, columns = torch.linspace(-1, 1, ODD[0])[:, None], torch.linspace(0, 2, ODD[1])[None]
        coefficients = [rows, columns, 0.4, rows, columns]
        here, there = (Affine(shares=tuple(zip(coefficients, p.experts, strict=True)), of_base=1.2) for p in inputs)
        self.check_program(here, there, inputs, torch.float32)

    def test_a_vector_has_rows(self) -> None:
        inputs = self.both(*random_tensors((30,), torch.bfloat16, torch.bfloat16))
        rows = torch.linspace(-1, 1, 30)[:, None]
        here, there = (Affine(shares=((rows, p.experts[0]),)) for p in inputs)
        self.check_program(here, there, inputs, torch.float32)

    def test_adapters_to_the_bit(self) -> None:
        base, full = random_tensors(ODD, torch.bfloat16, torch.bfloat16)
        inputs = self.both(base, random_factors(ODD, 4, seed=1), full, random_factors(ODD, 8, seed=2))
        for operator in ("task_arithmetic", "dare_ties"):
            rule = Rule(match=".*", operator=operator, params={"weight": WEIGHT})
            self.check_program(*(ARITHMETIC[operator](p, rule) for p in inputs), inputs, torch.float32)

    @pytest.mark.parametrize(("operator", "params"), ELECTIONS)
    def test_an_election_is_the_cpu_s_and_means_what_it_should(self, operator: str, params: dict) -> None:
        here, there = self.both(*random_tensors(ODD, *[torch.bfloat16] * 4))
        rule = Rule(match=".*", operator=operator, params={"weight": WEIGHT, **params})
        program = ARITHMETIC[operator](there, rule)
        assert isinstance(program, Election)
        ours = execute(program, there.base, torch.float32, executor=self.cuda)
        self.check(ours, execute(ARITHMETIC[operator](here, rule), here.base, torch.float32))
        meant = REFERENCES[operator](Tensor.of(here), rule)
        deltas = sum((expert.value.double() - here.base).abs() for expert in here.experts)
        size = here.base.abs() + deltas / LEAST_DENSITY / LEAST_DIVISOR
        assert ((ours.cpu().double() - meant).abs() <= 8 * 2**-24 * size).all()

    def test_an_election_is_rounded_once(self) -> None:
        inputs = self.both(*random_tensors(ODD, *[torch.bfloat16] * 4))
        rule = Rule(match=".*", operator="ties", params={"weight": WEIGHT, "density": 0.5})
        self.check_program(*(ARITHMETIC["ties"](p, rule) for p in inputs), inputs, torch.bfloat16)

    @pytest.mark.parametrize(("count", "size"), [(1, 2100), (5, 1100), (9, 600)])
    def test_masks_do_not_depend_on_how_elements_are_dealt_to_programs(self, count: int, size: int) -> None:
        """Programs have 16, 8 or 4 elements a thread, by the number of experts."""
        inputs = self.both(*random_tensors((size,), *[torch.float32] * (count + 1)))
        weight = {expert.name: 0.5 for expert in inputs[0].experts}
        rule = Rule(match=".*", operator="dare_linear", params={"weight": weight, "density": 0.5})
        self.check_program(*(ARITHMETIC["dare_linear"](p, rule) for p in inputs), inputs, torch.float32)

    def test_equal_magnitudes_are_kept_from_the_front(self) -> None:
        base = torch.zeros(1500)
        inputs = self.both(base, (torch.arange(1500) % 3 - 1).float(), (torch.arange(1500) % 2 * 2 - 1).float())
        rule = Rule(match=".*", operator="ties", params={"weight": 1.0, "density": 0.3, "normalize": False})
        self.check_program(*(ARITHMETIC["ties"](p, rule) for p in inputs), inputs, torch.float32)

    @pytest.mark.parametrize("key", [(0, 0), (1, 2), (2**64 - 1, 2**63), (0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B)])
    def test_random_numbers_are_numpy_s(self, key: tuple[int, int]) -> None:
        block, programs = 512, 3
        signed = torch.from_numpy(np.array(key, dtype=np.uint64).view(np.int64)).to(self.device)
        ours = torch.empty(block * programs, dtype=torch.int32, device=self.device)
        _store_codes[(programs,)](ours, signed, BLOCK=block)
        words = np.random.Philox(key=np.array(key, dtype=np.uint64)).random_raw(block * programs // 4)
        assert ours.tolist() == words.astype("<u8").view("<u2").tolist()

    @pytest.mark.parametrize(("operator", "params"), [("task_arithmetic", {}), *ELECTIONS])
    def test_nan_reaches_the_output_and_inf_spoils_no_other_element(self, operator: str, params: dict) -> None:
        base, *experts = random_tensors((64,), *[torch.bfloat16] * 4)
        for i, expert in enumerate(experts):
            expert[[7 + i, 17 + i, 27 + i]] = torch.tensor([math.nan, math.inf, -math.inf], dtype=torch.bfloat16)
        _, there = self.both(base, *experts)
        rule = Rule(match=".*", operator=operator, params={"weight": 0.5, **params})
        work = lower(ARITHMETIC[operator](there, rule), there.base)
        assert isinstance(work, Pass)
        merged = self.cuda.run(TensorMerge(work, torch.empty_like(there.base)), there.base).cpu()
        assert merged[7:10].isnan().all()
        spoilt = set((~merged.isfinite()).nonzero().flatten().tolist())
        assert spoilt <= {*range(7, 10), *range(17, 20), *range(27, 30)}
        assert len(spoilt) > 3 or operator.startswith("breadcrumbs"), "only there are outliers dropped"

    def test_a_merge_that_says_one_source_is_that_source(self) -> None:
        _, there = self.both(*random_tensors(ODD, torch.bfloat16, torch.bfloat16))
        base, expert = there.base, there.experts[0]
        nobody = Election(voters=(), scale=1.0, consensus=Consensus.SUM, pick=Pick.MEAN)
        muted = replace(nobody, voters=(Voter(expert=expert, weight=1.0),), scale=0.0)
        assert execute(Affine(shares=((0.0, expert),)), base, torch.bfloat16, executor=self.cuda) is base
        assert execute(nobody, base, torch.bfloat16, executor=self.cuda) is base
        assert execute(muted, base, torch.bfloat16, executor=self.cuda) is base
        assert execute(Affine(shares=((1.0, expert),)), base, torch.bfloat16, executor=self.cuda) is expert.value
        scaled = execute(Affine(shares=(), of_base=0.5), base, torch.float32, executor=self.cuda)
        assert torch.equal(scaled, base.float() * 0.5)

    @pytest.mark.parametrize("coefficient", [0.3, 0.0, 1.0])
    def test_the_given_memory_is_written_and_nothing_beside_it(self, coefficient: float) -> None:
        _, there = self.both(*random_tensors(ODD, torch.bfloat16, torch.bfloat16))
        program = Affine(shares=((coefficient, there.experts[0]),))
        memory = torch.full((there.base.numel() + 64,), 7.0, device=self.device)
        out = memory[32:-32].view(ODD)
        assert execute(program, there.base, torch.float32, out=out, executor=self.cuda) is out
        assert torch.equal(out, execute(program, there.base, torch.float32, executor=self.cuda))
        assert memory[:32].eq(7).all()
        assert memory[-32:].eq(7).all()

    def test_other_functions_of_elements(self) -> None:
        base, *experts = random_tensors(ODD, *[torch.bfloat16] * 3)
        inputs = self.both(base, *experts)
        side = torch.linspace(0, 1, base.numel())
        here, there = (
            Elementwise(body=body, experts=p.experts, sides=(side,), numbers=(0.7,), factor=1.1) for p in inputs
        )
        self.check_program(here, there, inputs, torch.float32)

    def test_a_delta_that_is_ready(self) -> None:
        base, other = random_tensors(ODD, torch.bfloat16, torch.float32)
        inputs = self.both(base)
        here, there = (Dense(delta=other.to(p.base.device), factor=0.4) for p in inputs)
        self.check_program(here, there, inputs, torch.float32)

    @pytest.mark.parametrize("count", [1, 3, 8])
    def test_inner_products_are_exact(self, count: int) -> None:
        """Products of fp32 numbers are exact in fp64; only their sum's order differs."""
        here, there = self.both(*random_tensors(ODD, *[torch.bfloat16] * (count + 1)))
        deltas = torch.stack([expert.whole_delta(here.base).double().flatten() for expert in here.experts])
        ours = inner_products_of(there.experts, there.base)
        assert torch.equal(ours, ours.T)
        assert torch.equal(ours, inner_products_of(there.experts, there.base))
        size = deltas.abs() @ deltas.abs().T
        assert ((ours.cpu() - deltas @ deltas.T).abs() <= 1e-14 * size).all()

    def test_a_weighted_average_of_each_element(self) -> None:
        here, there = self.both(*random_tensors(ODD, *[torch.bfloat16] * 4))
        generator = torch.Generator().manual_seed(3)
        importances = [torch.rand(ODD, generator=generator).bfloat16() for _ in here.experts]
        for importance in importances:
            importance[0, :9] = 0
        coefficients = (0.5, 0.3, 0.2)
        on_device = [importance.to(self.device) for importance in importances]
        ours = average(there.experts, on_device, coefficients, there.base, torch.float32).cpu()
        base = here.base.double()
        shares = [c * importance.double() for c, importance in zip(coefficients, importances, strict=True)]
        total = sum(share * (e.value.double() - base) for share, e in zip(shares, here.experts, strict=True))
        divisor = sum(shares)
        expected = base + total / torch.where(divisor == 0, 1.0, divisor)
        assert ((ours - expected).abs() <= 8 * 2**-24 * (base.abs() + 1)).all()
        assert torch.equal(ours[0, :9], here.base[0, :9].float())
