"""The carry-over: variogram against loops, recovery of what was planted, silence where nothing was."""

import numpy as np
import pytest
import torch

from infodyn_interp.energy.carry import (
    LAGS,
    Variogram,
    filter_carry,
    fit_carry,
    fit_variogram,
    lagged_products,
    lags_of,
    later_rows,
    permuted_products,
    shared_keys,
)
from infodyn_interp.energy.gauge import center_rows, support_of

WINDOW, FOLDS, HEADS = 64, 16, 4


def persisting(draw, rho, shape):
    steps = draw.normal(size=shape)
    out = np.array(steps)
    for t in range(1, shape[-2]):
        out[..., t, :] = rho * out[..., t - 1, :] + np.sqrt(1 - rho**2) * steps[..., t, :]
    return out


def residual(draw, rho, noise=0.5, key_effect=1.0, sill=1.0):
    shape = (FOLDS, HEADS, WINDOW, WINDOW)
    carried = persisting(draw, rho, shape) * np.sqrt(sill)
    energy = (
        carried + noise * draw.normal(size=shape) + key_effect * draw.normal(size=(FOLDS, HEADS, 1, WINDOW))
    )
    return center_rows(torch.tensor(energy), support_of(WINDOW)), carried


def variogram_of(values):
    support = support_of(WINDOW)
    out = Variogram.empty(support, HEADS, FOLDS)
    out.add(lagged_products(values, support), shared_keys(support), np.arange(FOLDS))
    return out


@pytest.mark.parametrize("reach", [None, 20])
def test_lagged_products_are_the_loops_over_rows_and_shared_keys(reach):
    support = support_of(WINDOW, reach)
    draw = torch.Generator().manual_seed(0)
    left, right = (
        center_rows(torch.randn(2, 3, WINDOW, WINDOW, generator=draw, dtype=torch.float64), support)
        for _ in range(2)
    )
    products, weights = lagged_products(left, support, right), shared_keys(support)
    for place, lag in enumerate(lags_of(support)):
        total, keys_left = 0.0, 0
        for t in range(12 + lag, WINDOW):
            keys = (support.mask[t] & support.mask[t - lag]).nonzero()[:, 0]
            if len(keys) < 2:
                continue
            a, b = (one[1, 2, t, keys] - one[1, 2, t - lag, keys] for one in (left, right))
            total += float(((a - a.mean()) * (b - b.mean())).sum() / 2)
            keys_left += len(keys) - 1
        assert float(products[1, 2, place]) == pytest.approx(total, abs=1e-9)
        assert float(weights[place]) == keys_left


def test_a_constant_of_the_row_and_an_effect_of_the_key_change_no_variogram():
    draw = np.random.default_rng(1)
    values, _ = residual(draw, 0.6)
    support = support_of(WINDOW)
    shifted = values + torch.tensor(draw.normal(size=(FOLDS, HEADS, WINDOW, 1)))
    shifted = shifted + torch.tensor(draw.normal(size=(FOLDS, HEADS, 1, WINDOW)))
    again = lagged_products(center_rows(shifted, support), support)
    torch.testing.assert_close(again, lagged_products(values, support), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("rho", [0.3, 0.6, 0.9])
def test_a_planted_carry_over_comes_back_under_noise_and_key_effects(rho):
    carry = fit_carry(variogram_of(residual(np.random.default_rng(2), rho)[0]))
    assert carry.rho == pytest.approx(np.full(HEADS, rho), abs=0.06)
    # at a small rho one lag alone tells sill from nugget: their sum is known better than either
    loose = 0.3 if rho < 0.5 else 0.15
    assert carry.sill == pytest.approx(np.ones(HEADS), abs=loose)
    assert carry.sill + carry.nugget == pytest.approx(np.full(HEADS, 1.25), abs=0.08 if rho < 0.8 else 0.2)
    assert (carry.misfit < 0.03).all()
    assert (carry.gain.low > 0).all()


def test_intervals_of_rho_cover_as_they_claim():
    draw, covered = np.random.default_rng(3), []
    for _ in range(40):
        interval = fit_carry(variogram_of(residual(draw, 0.6)[0])).rho_interval
        covered += ((interval.low <= 0.6) & (interval.high >= 0.6)).tolist()
    # 160 heads: three standard errors of a rate of .95
    assert 0.90 <= np.mean(covered) <= 1.0


def test_key_effects_and_noise_alone_are_no_carry_over():
    draw, found = np.random.default_rng(4), []
    for _ in range(25):
        gain = fit_carry(variogram_of(residual(draw, 0.0, noise=0.0)[0])).gain
        found += (gain.low > 0).tolist()
    assert np.mean(found) <= 0.025 + 3 * np.sqrt(0.025 * 0.975 / len(found))


def test_queries_in_random_order_carry_nothing():
    draw = np.random.default_rng(5)
    values, _ = residual(draw, 0.7)
    support, documents = support_of(WINDOW), np.arange(FOLDS)
    sums, weights = permuted_products(
        later_rows(values, support), support, documents, np.zeros_like(documents)
    )
    null = Variogram.empty(support, HEADS, FOLDS)
    null.add(sums, weights, documents)
    assert (np.abs(null.value[-2:].mean(0) / null.value[0] - 1) < 0.05).all()
    again, _ = permuted_products(later_rows(values[:3], support), support, documents[:3], np.zeros(3, int))
    torch.testing.assert_close(again, sums[:3], rtol=0, atol=0)


def test_the_grid_is_refined_to_the_least_squares():
    lags = np.array(LAGS)
    values = (0.2 + 0.7 * (1 - 0.7312**lags))[:, None]
    rho, nugget, sill = fit_variogram(lags, values, np.ones(len(lags)))
    assert (rho[0], nugget[0], sill[0]) == pytest.approx((0.7312, 0.2, 0.7), abs=2e-4)


def test_the_filter_follows_the_carry_over_and_knows_nothing_of_what_comes():
    draw = np.random.default_rng(6)
    values, carried = residual(draw, 0.8)
    support, one = support_of(WINDOW), torch.ones(FOLDS, HEADS)
    filtered, innovation = filter_carry(values, 0.8 * one, one, 0.25 * one, one, support)
    truth = center_rows(torch.tensor(carried), support)
    late = support.mask.clone()
    late[:40] = False
    found = np.corrcoef(filtered[..., late].flatten(), truth[..., late].flatten())[0, 1]
    assert found > 0.7
    later = values.clone()
    later[:, :, 50:] = 0
    shorter, _ = filter_carry(later, 0.8 * one, one, 0.25 * one, one, support)
    torch.testing.assert_close(shorter[:, :, :50], filtered[:, :, :50], rtol=0, atol=0)
    before = torch.zeros_like(filtered)
    before[:, :, 1:] = filtered[:, :, :-1]
    torch.testing.assert_close(innovation * support.mask, (filtered - 0.8 * before) * support.mask)


def test_merging_folds_is_one_pass_and_unlike_variograms_are_refused():
    values, _ = residual(np.random.default_rng(7), 0.5)
    support, folds = support_of(WINDOW), np.arange(FOLDS)
    parts = []
    for half in (slice(0, 8), slice(8, 16)):
        part = Variogram.empty(support, HEADS, FOLDS)
        part.add(lagged_products(values[half], support), shared_keys(support), folds[half])
        parts.append(part)
    np.testing.assert_array_equal((parts[0] + parts[1]).sums, variogram_of(values).sums)
    with pytest.raises(ValueError, match="cannot be added"):
        _ = parts[0] + Variogram.empty(support, HEADS + 1, FOLDS)
    with pytest.raises(ValueError, match="two folds at least"):
        fit_carry(parts[0])
