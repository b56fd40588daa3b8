"""Deltas thinned out, weighted, and summed where they agree on a sign: TIES, DARE, DELLA, breadcrumbs in one pass.

A threshold is a compare with a magnitude, so no candidate sorts anything. Random numbers are drawn where they are used:
Philox 4x64-10 (Salmon et al. 2011) makes 16 numbers of 16 bits of a counter and a key, those that numpy's generator
gives the CPU.
"""

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias, no_type_check

import torch
import triton
import triton.language as tl

from crossbreed.kernels.executors.cuda.launch import Launch, blocks, load_delta
from crossbreed.kernels.executors.cuda.values import Values
from crossbreed.kernels.executors.lowering import Pass
from crossbreed.kernels.masks import RANDOM_LEVELS, Mask, MaskKind
from crossbreed.kernels.programs import Coefficient

_THREADS = 128
_LEVELS = tl.constexpr(float(RANDOM_LEVELS))


class _All(NamedTuple):
    value: torch.Tensor
    weight: float


class _Low(NamedTuple):
    value: torch.Tensor
    weight: float
    magnitude: float


class _Band(NamedTuple):
    value: torch.Tensor
    weight: float
    magnitude: float
    high: float


class _Random(NamedTuple):
    value: torch.Tensor
    weight: float
    limit: float
    """An element is kept whose number is below."""
    factor: float


class _Ranked(NamedTuple):
    value: torch.Tensor
    weight: float
    least: float
    slope: float
    ranks: torch.Tensor


_Voter: TypeAlias = _All | _Low | _Band | _Random | _Ranked


@triton.jit
def _total(parts):
    total = parts[0]
    for i in tl.static_range(1, len(parts)):
        total = total + parts[i]
    return total


@triton.jit
def _is_inside(delta, magnitude, end, first, inside, BLOCK: tl.constexpr):
    """Whether elements are inside a threshold; NaN is larger than anything, as it is when thresholds are found."""
    size = tl.abs(delta)
    before = tl.minimum(tl.maximum(end - first, 0), BLOCK).to(tl.int32)
    return ~(size <= magnitude) | ((size == magnitude) & (inside < before))


@triton.jit
def random_u16(first, key, BLOCK: tl.constexpr):
    """Returns the 16-bit numbers of BLOCK elements from `first` on; `key` points to the two words of a Philox key.

    numpy counts before it draws (its first counter is 1), and gives a counter's four words in order, low bits first.
    """
    counter = (first // 16 + 1 + tl.arange(0, BLOCK // 16)).to(tl.uint64)
    zero = counter * 0
    k0 = tl.load(key).to(tl.uint64, bitcast=True)
    k1 = tl.load(key + 1).to(tl.uint64, bitcast=True)
    w0, w1, w2, w3 = tl.philox_impl(counter, zero, zero, zero, k0, k1)
    words = tl.join(tl.join(w0, w2), tl.join(w1, w3)).reshape(BLOCK // 4)
    halves = tl.join(words.to(tl.uint32), (words >> 32).to(tl.uint32)).reshape(BLOCK // 2)
    return tl.join(halves & 0xFFFF, halves >> 16).reshape(BLOCK)


@triton.jit
def _thin(delta, voter, integers, first, inside, mask, KIND: tl.constexpr, BLOCK: tl.constexpr):
    """`integers` points to the voter's two: where its thresholds end, or its key."""
    if KIND == "low":
        kept = _is_inside(delta, voter.magnitude, tl.load(integers), first, inside, BLOCK)
        delta = tl.where(kept, delta, 0.0)
    elif KIND == "band":
        reached = _is_inside(delta, voter.magnitude, tl.load(integers), first, inside, BLOCK)
        outlying = _is_inside(delta, voter.high, tl.load(integers + 1), first, inside, BLOCK)
        delta = delta * (reached & ~outlying).to(tl.float32)
    elif KIND != "all":
        number = random_u16(first, integers, BLOCK).to(tl.float32)
        if KIND == "random":
            delta = delta * (number < voter.limit).to(tl.float32) * voter.factor
        else:
            rank = tl.load(voter.ranks + first + inside, mask=mask, other=0).to(tl.float32)
            limit = rank * voter.slope + voter.least
            delta = delta * (number < limit).to(tl.float32)
            if KIND == "ranked_rescaled":
                delta = delta * tl.div_rn(_LEVELS, limit)
    return delta


@triton.jit
def _sign(value):
    return (value > 0).to(tl.float32) - (value < 0).to(tl.float32)


@triton.jit
def _agreeing(vote):
    """NaN stays, and Inf wins its vote."""
    return tl.where(vote < 0, 0.0, vote)


@triton.jit
@no_type_check
def _elect(
    out,
    base,
    voters,
    integers,
    scale,
    size,
    KINDS: tl.constexpr,
    IS_FULL: tl.constexpr,
    CONSENSUS: tl.constexpr,
    PICK: tl.constexpr,
    BLOCK: tl.constexpr,
):
    first = tl.program_id(0).to(tl.int64) * BLOCK
    inside = tl.arange(0, BLOCK)
    mask = inside < size - first
    base_B = tl.load(base + first + inside, mask=mask, other=0.0).to(tl.float32)
    votes = ()
    for i in tl.static_range(len(KINDS)):
        delta = load_delta(voters[i].value, first, inside, mask, base_B, IS_FULL[i])
        thinned = _thin(delta, voters[i], integers + 2 * i, first, inside, mask, KINDS[i], BLOCK)
        votes = votes + (thinned * voters[i].weight,)  # noqa: RUF005 - Triton does not unpack
    if CONSENSUS == "none":
        picked = _total(votes)
    else:
        ballots = votes
        if CONSENSUS == "count":
            ballots = [_sign(vote) for vote in votes]
        sign = tl.where(_total(ballots) < 0, -1.0, 1.0)
        picked = _agreeing(votes[0] * sign)
        divisor = tl.where(picked > 0, voters[0].weight, 0.0)
        for i in tl.static_range(1, len(KINDS)):
            part = _agreeing(votes[i] * sign)
            if PICK == "max":
                picked = tl.maximum(picked, part, propagate_nan=tl.PropagateNan.ALL)
            else:
                picked = picked + part
                divisor = divisor + tl.where(part > 0, voters[i].weight, 0.0)
        if PICK == "mean":
            picked = tl.div_rn(picked, tl.where(divisor == 0, 1.0, divisor))
        picked = picked * sign
    tl.store(out + first + inside, base_B + picked * scale, mask=mask)


def elect(work: Pass, base: torch.Tensor, out: torch.Tensor) -> Launch:
    """Returns the launch that writes base + scale * pick of the deltas that agree, rounded once, to `out`."""
    values = Values.of(work.values, base.device)
    kinds = tuple(str(mask.kind) for mask in work.masks)
    block = _block(kinds)
    voters = zip(values.tensors, work.weights, work.masks, strict=True)
    return Launch(
        kernel=_elect,
        grid=blocks(base.numel(), block),
        out=out,
        arguments=(
            base,
            tuple(_voter(*voter) for voter in voters),
            torch.tensor([_integers(mask) for mask in work.masks]).to(base.device, non_blocking=True),
            float(work.scale),
            base.numel(),
        ),
        constants={
            "KINDS": kinds,
            "IS_FULL": values.is_full,
            "CONSENSUS": str(work.consensus),
            "PICK": str(work.pick),
            "BLOCK": block,
        },
        num_warps=_THREADS // 32,
    )


def _block(kinds: Sequence[str]) -> int:
    """Returns the elements of a program, all of whose votes its threads hold in registers.

    A thread with 16 elements draws one counter of Philox for each expert; with fewer, several threads draw the same.
    """
    if len(kinds) <= 4 and not {"random", "ranked", "ranked_rescaled"}.isdisjoint(kinds):
        return 16 * _THREADS
    return (8 if len(kinds) <= 8 else 4) * _THREADS


def _voter(value: torch.Tensor, given: Coefficient, mask: Mask) -> _Voter:
    weight, (one, two) = float(given), mask.numbers
    match mask.kind:
        case MaskKind.ALL:
            return _All(value, weight)
        case MaskKind.LOW:
            return _Low(value, weight, one)
        case MaskKind.BAND:
            return _Band(value, weight, one, two)
        case MaskKind.RANDOM:
            return _Random(value, weight, one, two)
    assert mask.ranks is not None, "a mask by rank has ranks"
    return _Ranked(value, weight, one, two, mask.ranks.to(value.device).contiguous())


def _integers(mask: Mask) -> tuple[int, int]:
    """Where the thresholds of a mask end, or its key."""
    if mask.kind in (MaskKind.ALL, MaskKind.LOW, MaskKind.BAND):
        return mask.ends
    return _signed(mask.key[0]), _signed(mask.key[1])


def _signed(word: int) -> int:
    """Returns the 64-bit integer with the same bits."""
    return word - (1 << 64) if word >= 1 << 63 else word
