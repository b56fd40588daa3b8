"""Least squares around an anchor: the minimiser in fp64, between the anchor and plain least squares."""

import pytest
import torch

from crossbreed.errors import InvalidWeights
from crossbreed.kernels.linalg.anchored import AnchoredSums, row_space

NUM_TOKENS, NUM_COLUMNS, NUM_ROWS = 40, 7, 5


def experts(seed: int, number: int = 3) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Inputs and residuals of some experts, fp64."""
    draw = torch.Generator().manual_seed(seed)
    shapes = [((NUM_TOKENS + e, NUM_COLUMNS), (NUM_TOKENS + e, NUM_ROWS)) for e in range(number)]
    return [tuple(torch.randn(shape, generator=draw, dtype=torch.float64) for shape in pair) for pair in shapes]


def summed(given: list[tuple[torch.Tensor, torch.Tensor]]) -> AnchoredSums:
    sums = AnchoredSums(NUM_COLUMNS, {"w": NUM_ROWS})
    for x_TN, residual_TM in given:
        sums.add(x_TN, {"w": residual_TM}, share=1 / len(x_TN))
    return sums


def loss(change_MN: torch.Tensor, given: list[tuple[torch.Tensor, torch.Tensor]], ridge: float) -> torch.Tensor:
    """The sum of squares as its definition says it."""
    fit = sum((x_TN @ change_MN.T - r_TM).square().sum() / len(x_TN) for x_TN, r_TM in given)
    gram_NN = sum(x_TN.T @ x_TN / len(x_TN) for x_TN, _ in given)
    return fit + ridge * gram_NN.trace() / NUM_COLUMNS * change_MN.square().sum()


@pytest.mark.parametrize("ridge", [0.0, 0.3, 20.0])
def test_it_is_the_minimiser(ridge: float) -> None:
    given = experts(1)
    change_MN = summed(given).change("w", ridge=ridge).requires_grad_()
    loss(change_MN, given, ridge).backward()
    assert change_MN.grad.abs().max() < 1e-12


def test_within_a_row_space_it_is_the_minimiser_there() -> None:
    given, rows_RN = experts(2), torch.randn(3, NUM_COLUMNS, generator=torch.Generator().manual_seed(5)).double()
    basis_NR = row_space([rows_RN[:2], rows_RN[1:]])
    assert basis_NR.shape == (NUM_COLUMNS, 3)
    change_MN = summed(given).change("w", ridge=0.2, within_NR=basis_NR)
    assert torch.linalg.matrix_rank(torch.cat([change_MN, rows_RN])) == 3
    factors_MR = (change_MN @ basis_NR).requires_grad_()
    loss(factors_MR @ basis_NR.T, given, 0.2).backward()
    assert factors_MR.grad.abs().max() < 1e-12


def test_a_large_lambda_keeps_the_anchor() -> None:
    changes = [summed(experts(3)).change("w", ridge=ridge).norm() for ridge in (1e3, 1e6, 1e9)]
    assert changes[0] > 900 * changes[1] > 0.9 * 900 * 900 * changes[2]


def test_without_lambda_one_expert_comes_back() -> None:
    """With as many tokens as columns or more, what the expert does to its inputs says what it is."""
    [(x_TN, _)] = experts(4, number=1)
    delta_MN = torch.randn(NUM_ROWS, NUM_COLUMNS, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(summed([(x_TN, x_TN @ delta_MN.T)]).change("w", ridge=0.0), delta_MN, atol=1e-12)


def test_with_too_few_tokens_the_smallest_change_is_taken() -> None:
    [(x_TN, r_TM)] = experts(4, number=1)
    given = [(x_TN[:3], r_TM[:3])]
    change_MN = summed(given).change("w", ridge=0.0)
    assert torch.allclose(change_MN @ x_TN[:3].T, r_TM[:3].T, atol=1e-10)
    assert torch.allclose(change_MN, torch.linalg.lstsq(x_TN[:3], r_TM[:3], driver="gelsd").solution.T, atol=1e-10)


def test_the_order_of_experts_changes_rounding_alone() -> None:
    given = experts(6)
    first, second = (summed(order).change("w", ridge=0.1) for order in (given, given[::-1]))
    assert torch.allclose(first, second, atol=1e-13)


def test_tokens_weigh_as_they_are_told() -> None:
    """A token of weight 2 counts as two."""
    [(x_TN, r_TM)] = experts(7, number=1)
    sums, twice = AnchoredSums(NUM_COLUMNS, {"w": NUM_ROWS}), torch.ones(len(x_TN), dtype=torch.float64)
    twice[:5] = 2
    sums.add(x_TN, {"w": r_TM}, share=1 / 45, weights_T=twice)
    doubled = [(torch.cat([x_TN, x_TN[:5]]), torch.cat([r_TM, r_TM[:5]]))]
    assert torch.allclose(sums.change("w", ridge=0.1), summed(doubled).change("w", ridge=0.1), atol=1e-12)


def test_batches_of_fp32_are_summed_in_fp64() -> None:
    """As far off as the products of one batch are, however many there are."""
    x_TN, r_TM = (value.float() for value in experts(8, number=1)[0])
    sums = AnchoredSums(NUM_COLUMNS, {"w": NUM_ROWS})
    for _ in range(3000):
        sums.add(x_TN, {"w": r_TM}, share=1 / (3000 * len(x_TN)))
    exact = summed([(x_TN.double(), r_TM.double())]).change("w", ridge=0.1)
    assert (sums.change("w", ridge=0.1) - exact).abs().max() < 1e-6 * exact.abs().max()


def test_numbers_that_are_none_are_said() -> None:
    [(x_TN, r_TM)] = experts(9, number=1)
    r_TM[0, 0] = torch.nan
    with pytest.raises(InvalidWeights, match="`w`"):
        summed([(x_TN, r_TM)]).change("w", ridge=0.1)


@pytest.mark.parametrize("ridge", [0.0, 0.3])
def test_columns_held_to_experts_own_are_regmean(ridge: float) -> None:
    """RegMean's solution, off-diagonal elements scaled, in a formula; from any anchor, without a ridge."""
    draw = torch.Generator().manual_seed(6)
    matrices = [torch.randn(NUM_ROWS, NUM_COLUMNS, dtype=torch.float64, generator=draw) for _ in range(3)]
    anchor_MN = torch.randn(NUM_ROWS, NUM_COLUMNS, dtype=torch.float64, generator=draw)
    sums, alpha = AnchoredSums(NUM_COLUMNS, {"w": NUM_ROWS}), 0.9
    numerator, grams = torch.zeros(NUM_ROWS, NUM_COLUMNS).double(), torch.zeros(NUM_COLUMNS, NUM_COLUMNS).double()
    for (x_TN, _), matrix_MN in zip(experts(7), matrices, strict=True):
        x_TN = x_TN[:4].clone()  # fewer tokens than columns
        x_TN[:, 2] = 0
        gram_NN = x_TN.T @ x_TN / len(x_TN)
        reduced_NN = alpha * gram_NN + (1 - alpha) * gram_NN.diagonal().diag()
        numerator, grams = numerator + matrix_MN @ reduced_NN, grams + reduced_NN
        residual_TM = x_TN @ (matrix_MN - anchor_MN).T
        sums.add(x_TN, {"w": residual_TM}, share=alpha / len(x_TN))
        sums.hold(x_TN.square().mean(0), {"w": matrix_MN - anchor_MN}, share=1 - alpha)
    prior = ridge * grams.trace() / NUM_COLUMNS
    seen = [0, 1, 3, 4, 5, 6]
    grams = grams[seen][:, seen] + prior * torch.eye(len(seen), dtype=torch.float64)
    wanted = torch.linalg.solve(grams, (numerator + prior * anchor_MN)[:, seen].T).T
    made = anchor_MN + sums.change("w", ridge=ridge)
    assert torch.allclose(made[:, seen], wanted, atol=1e-10)
    assert torch.equal(made[:, 2], anchor_MN[:, 2]), "an input that is always 0 says nothing"
