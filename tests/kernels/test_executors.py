"""What a program comes to is decided once, for every executor; and which executor runs it, in one place."""

from dataclasses import replace

import pytest
import torch

from crossbreed.kernels import native
from crossbreed.kernels.executors import NATIVE, TORCH_BLOCKS, Executor, execute, executor_of, start_programs
from crossbreed.kernels.executors.lowering import Apply, Delta, Full, Pass, Product, Same, lower
from crossbreed.kernels.masks import Band, Keep, Mask, MaskKind, RandomMask, Threshold
from crossbreed.kernels.masks import lower as lower_mask
from crossbreed.kernels.programs import Affine, Consensus, Dense, Election, Elementwise, Pick, Program, Voter
from crossbreed.kernels.tensors import ExpertTensor
from crossbreed.sources import LowRank

BASE = torch.arange(12.0).view(3, 4)
FULL = ExpertTensor(name="a", hash="a", value=BASE + 1)
LOW = [
    ExpertTensor(name=name, hash=name, value=LowRank(a_RN=torch.ones(2, 4), b_MR=torch.ones(3, 2), scale=scale))
    for name, scale in (("p", 0.5), ("q", 2.0))
]
VOTE = Election(
    voters=(Voter(expert=FULL, weight=0.5), Voter(expert=LOW[0], weight=0.7)),
    scale=1.5,
    consensus=Consensus.SUM,
    pick=Pick.MEAN,
)
APPLIED = Elementwise(body=lambda base, deltas, sides, numbers: deltas[0] * numbers[0], experts=(FULL,), numbers=(2.0,))


@pytest.mark.parametrize(
    "program",
    [
        Affine(shares=()),
        Affine(shares=((0.0, FULL), (0, LOW[0]))),
        replace(VOTE, voters=()),
        replace(VOTE, scale=0.0),
        replace(APPLIED, experts=()),
        replace(APPLIED, factor=0.0),
    ],
)
def test_what_changes_nothing_is_the_base_s_own_tensor(program: Program) -> None:
    assert lower(program, BASE) == Same(BASE)


def test_one_whole_expert_is_its_own_tensor_and_an_adapter_is_not() -> None:
    assert lower(Affine(shares=((1.0, FULL), (0.0, LOW[0]))), BASE) == Same(FULL.value)
    assert isinstance(lower(Affine(shares=((1.0, LOW[0]),)), BASE), Pass)
    assert isinstance(lower(Affine(shares=((1.0, FULL),), of_base=0.5), BASE), Pass)


def test_adapters_of_a_sum_are_one_product_and_those_of_an_election_are_several() -> None:
    summed = lower(Affine(shares=((0.5, LOW[0]), (0.25, FULL), (2.0, LOW[1]))), BASE)
    assert isinstance(summed, Pass)
    full, product = summed.values
    assert isinstance(full, Full)
    assert isinstance(product, Product)
    assert (summed.weights, product.b_MR.shape, product.a_RN.shape) == ([0.25, 1.0], (3, 4), (4, 4))
    elected = lower(VOTE, BASE)
    assert isinstance(elected, Pass)
    assert [type(value) for value in elected.values] == [Full, Product]
    assert elected.weights == [0.5, 0.7]


def test_a_ready_delta_and_a_function_of_elements_are_lowered_too() -> None:
    ready = lower(Dense(delta=torch.ones(3, 4), factor=0.3), BASE)
    assert isinstance(ready, Pass)
    assert isinstance(ready.values[0], Delta)
    applied = lower(replace(APPLIED, sides=(torch.zeros(12),)), BASE)
    assert isinstance(applied, Apply)
    assert applied.sides_MN[0].shape == BASE.shape


LOW_END, HIGH_END = Threshold(0.5, 7), Threshold(2.0, 3)
RANDOM = RandomMask(key=(1, 2), density=0.25, rescale=True)
RANKS = torch.zeros(12, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("keep", "mask"),
    [
        (None, Mask()),
        (Band(low=LOW_END), Mask(MaskKind.LOW, (0.5, 0.0), (7, 0))),
        (Band(low=LOW_END, high=HIGH_END), Mask(MaskKind.BAND, (0.5, 2.0), (7, 3))),
        (RANDOM, Mask(MaskKind.RANDOM, (16384.0, 4.0), key=(1, 2))),
        (replace(RANDOM, rescale=False), Mask(MaskKind.RANDOM, (16384.0, 1.0), key=(1, 2))),
    ],
)
def test_masks_have_one_form(keep: Keep | None, mask: Mask) -> None:
    assert lower_mask(keep) == mask


@pytest.mark.parametrize(("rescale", "kind"), [(True, MaskKind.RANKED_RESCALED), (False, MaskKind.RANKED)])
def test_a_mask_by_rank_goes_from_the_least_probability_to_the_largest(rescale: bool, kind: MaskKind) -> None:
    mask = lower_mask(replace(RANDOM, rescale=rescale, ranks=RANKS, spread=0.125))
    least, slope = mask.numbers
    assert mask.kind is kind
    assert mask.ranks is RANKS
    assert (least / 65536, (least + 255 * slope) / 65536) == (0.125, 0.375)


def test_the_device_and_the_compiler_choose(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CROSSBREED_COMPILER", "")
    assert executor_of(BASE) is TORCH_BLOCKS
    monkeypatch.setenv("CROSSBREED_COMPILER", "sh")  # any program: it is looked for, not run
    assert executor_of(BASE) is NATIVE
    assert executor_of(BASE.to("meta")) is TORCH_BLOCKS


@pytest.mark.parametrize(
    "executor",
    [
        pytest.param(NATIVE, marks=pytest.mark.skipif(native.compiler() is None, reason="no C++ compiler")),
        TORCH_BLOCKS,
    ],
    ids=["native", "torch_blocks"],
)
@pytest.mark.parametrize("program", [VOTE, APPLIED, Affine(shares=((0.3, FULL),)), Affine(shares=((1.0, FULL),))])
def test_the_given_memory_is_written_and_nothing_beside_it(executor: Executor, program: Program) -> None:
    memory = torch.full((40,), 7.0)
    out = memory[10:22].view(3, 4)
    assert execute(program, BASE, torch.float32, out=out, executor=executor) is out
    assert torch.equal(out, execute(program, BASE, torch.float32))
    assert memory[:10].eq(7).all()
    assert memory[22:].eq(7).all()


def test_results_come_in_the_order_of_the_programs() -> None:
    programs = [APPLIED, Affine(shares=()), VOTE, Affine(shares=((1.0, FULL),)), Dense(delta=torch.ones(3, 4))]
    together = [waiting() for waiting in start_programs(programs, BASE, torch.bfloat16)]
    assert all(map(torch.equal, together, [execute(program, BASE, torch.bfloat16) for program in programs]))
