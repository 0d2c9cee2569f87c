"""Laws of the support and its two centrings."""

import numpy as np
import oracle
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from infodyn_interp.energy.gauge import Support, center_rows, center_rows_and_keys, support_of

shapes = st.tuples(st.integers(16, 60), st.one_of(st.none(), st.integers(3, 70)))


@settings(deadline=None, max_examples=25)
@given(shapes)
def test_the_support_is_the_pairs_the_formula_names(shape: tuple[int, int | None]) -> None:
    window, reach = shape
    support = Support(window, reach)
    expected = oracle.support(window, reach)
    np.testing.assert_array_equal(support.mask.numpy(), expected)
    np.testing.assert_array_equal(support.counts.numpy(), expected.sum(1))


@settings(deadline=None, max_examples=25)
@given(shapes)
def test_prefix_sums_are_products_with_the_mask(shape: tuple[int, int | None]) -> None:
    window, reach = shape
    support = Support(window, reach)
    values = torch.randn(2, window, 3, dtype=torch.float64)
    mask = support.mask.double()
    torch.testing.assert_close(support.row_sums(values), mask @ values)
    torch.testing.assert_close(support.key_sums(values), mask.T @ values)


@pytest.mark.parametrize("reach", [None, 20])
def test_centring_is_a_projection_and_leaves_no_mean(reach: int | None) -> None:
    support = Support(40, reach)
    values = torch.randn(3, 40, 40, dtype=torch.float64)
    rows = center_rows(values, support)
    torch.testing.assert_close(center_rows(rows, support), rows)
    assert rows.sum(-1).abs().max() < 1e-12
    both = center_rows_and_keys(values, support)
    torch.testing.assert_close(center_rows_and_keys(both, support), both)
    assert both.sum(-1).abs().max() < 1e-12
    assert both.sum(-2).abs().max() < 1e-12


@pytest.mark.parametrize("reach", [None, 17])
def test_the_two_way_projection_is_the_limit_of_alternating_projections(reach: int | None) -> None:
    support = Support(36, reach)
    values = torch.randn(36, 36, dtype=torch.float64)
    expected = oracle.center_both(values.numpy(), support.mask.numpy(), rounds=2000)
    np.testing.assert_allclose(center_rows_and_keys(values, support).numpy(), expected, atol=1e-10)


def test_a_row_constant_is_seen_by_neither_gauge() -> None:
    support = Support(48)
    values = torch.randn(48, 48, dtype=torch.float64)
    moved = values + 1e6 * torch.randn(48, 1, dtype=torch.float64)
    torch.testing.assert_close(center_rows(moved, support), center_rows(values, support), atol=1e-8, rtol=0)
    torch.testing.assert_close(
        center_rows_and_keys(moved, support), center_rows_and_keys(values, support), atol=1e-8, rtol=0
    )


def test_a_reach_as_long_as_the_window_is_no_reach() -> None:
    assert support_of(32, 32) == support_of(32, 99) == support_of(32)
