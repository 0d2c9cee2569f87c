"""Innovations that follow the residual of the step before: found where planted, not where sizes persist alone."""

from functools import cache

import numpy as np
import pytest
import torch
from scipy import stats

from infodyn_interp.energy.carry import filter_carry
from infodyn_interp.energy.gauge import center_rows, support_of
from infodyn_interp.identify.interference import (
    LEAST_SHIFT,
    LEAST_SLOPE,
    Interference,
    Sizes,
    regress_innovations,
)

WINDOW, DOCUMENTS, HEADS = 64, 12, 200
RHO, NUGGET, KEY = 0.6, 0.5, 0.7  # sill 1
SUPPORT = support_of(WINDOW)
DEPENDENCE = 0.4  # of the innovation's log size on the residual's


def rms(rows):
    return np.sqrt((rows**2).sum(-1) * SUPPORT.inverse_counts.numpy())


def persisting(draw, rho, shape, deviation):
    out = draw.normal(size=shape)
    for t in range(1, shape[-1]):
        out[..., t] = rho * out[..., t - 1] + np.sqrt(1 - rho**2) * out[..., t]
    return np.exp(deviation * out)


def draw_sizes(seed, *, follows=0.0, innovations=0.0, rows=0.0, heads=HEADS):
    """Rows of a world whose prosody field is nothing: a nuisance that the fits know, key effects, noise and M.

    Args:
        follows: dependence of the innovation's log size on the residual of the row before.
        innovations: deviation of the log size that innovations persist in, whatever the residual.
        rows: of the log size that whole rows persist in.
    """
    draw, rows_of = np.random.default_rng(seed), (DOCUMENTS, heads, WINDOW)
    shape, mask = (*rows_of, WINDOW), SUPPORT.mask.numpy()
    nuisance = persisting(draw, 0.5, rows_of, 0.3)[..., None] * draw.normal(size=shape)
    rest = np.sqrt(NUGGET) * draw.normal(size=shape) + KEY * draw.normal(size=(*rows_of[:2], 1, WINDOW))
    size = persisting(draw, 0.9, rows_of, innovations) * np.sqrt(1 - RHO**2)
    carried = draw.normal(size=shape)
    for t in range(1, WINDOW):
        row = (nuisance + rest + carried)[:, :, t - 1, mask[t - 1]] if follows else np.ones(1)
        before = np.log(row.std(-1)) if row.shape[-1] > 1 else 0
        steps = size[:, :, t] * np.exp(follows * (before - 0.55))
        carried[:, :, t] = RHO * carried[:, :, t - 1] + steps[..., None] * carried[:, :, t]
    gain = persisting(draw, 0.9, rows_of, rows)[..., None]
    known, left = (center_rows(torch.from_numpy(gain * one), SUPPORT) for one in (nuisance, rest + carried))
    one = torch.ones(DOCUMENTS, heads)
    filtered, innovation = filter_carry(left, RHO * one, one, NUGGET * one, KEY**2 * one, SUPPORT)
    foreseen = known + filtered - innovation
    sizes = Sizes(*(rms(values.numpy()) for values in (filtered, innovation, foreseen)))
    return sizes, rms((known + left).numpy())


def regress(sizes, residual) -> Interference:
    keys = SUPPORT.counts.numpy()[-residual.shape[-1] :]
    return regress_innovations(sizes, residual, keys, np.random.default_rng(0))


@cache
def found_in(**world) -> Interference:
    return regress(*draw_sizes(3, **world))


def excludes_nought(found):
    return (found.slope.low > 0) | (found.slope.high < 0)


def at_most_one_in_twenty(wrong):
    return wrong.mean() <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / len(wrong))


@pytest.mark.parametrize("sign", [1, -1])
def test_innovations_driven_by_the_residual_before_are_found_with_their_sign_and_size(sign):
    sizes, residual = draw_sizes(5, follows=sign * DEPENDENCE, heads=24)
    found = regress(sizes, residual)
    assert (sign * found.slope.value >= LEAST_SLOPE).all()
    assert (sign * np.where(sign > 0, found.slope.low, found.slope.high) > 0).mean() >= 0.9
    assert (found.p <= 0.05).all()
    assert np.median(found.p) <= 0.005
    # a size mixes the innovation with the noise of its own step: the slope is at most what was planted
    inner = slice(16, -2)
    scale = np.log(residual[..., inner]).std((0, 2)) / np.log(sizes.innovation[..., inner]).std((0, 2))
    planted = DEPENDENCE * np.median(scale)
    assert 0.4 * planted < np.median(sign * found.slope.value) < planted


def test_where_nothing_drives_them_intervals_cover_nought_and_shifts_are_as_good():
    found = found_in()
    assert at_most_one_in_twenty(excludes_nought(found))
    assert at_most_one_in_twenty(found.p <= 0.05)
    assert stats.kstest(found.p, "uniform").pvalue > 0.01
    assert abs(found.slope.value.mean()) < 3 * found.slope.value.std() / np.sqrt(HEADS)


def test_innovations_whose_sizes_persist_without_a_cause_are_silent():
    found = found_in(innovations=0.3)
    assert at_most_one_in_twenty(excludes_nought(found))
    assert at_most_one_in_twenty(found.p <= 0.05)


def test_whole_rows_whose_sizes_persist_stay_beneath_the_least_slope():
    found = found_in(rows=0.3)
    assert abs(found.slope.value.mean()) < 0.04
    assert at_most_one_in_twenty(excludes_nought(found) & (abs(found.slope.value) >= LEAST_SLOPE))


def test_to_hold_the_residual_itself_fixed_would_see_a_brake_where_there_is_none():
    sizes, residual = draw_sizes(3)
    wrong = regress(Sizes(sizes.magnitude, sizes.innovation, residual), residual)
    assert np.median(wrong.slope.value) < -0.05
    assert excludes_nought(wrong).mean() > 0.3


def test_scales_of_documents_and_signs_of_innovations_change_nothing():
    (sizes, residual), draw = draw_sizes(7, follows=DEPENDENCE, heads=4), np.random.default_rng(0)
    scale = draw.uniform(0.1, 10, (DOCUMENTS, 4, 1))
    signs = draw.choice([-1, 1], sizes.innovation.shape)
    turned = Sizes(
        scale * sizes.magnitude,
        scale * signs * sizes.innovation,
        scale * sizes.foreseen,
    )
    first, again = regress(sizes, residual), regress(turned, scale * residual)
    for part in ("value", "low", "high"):
        np.testing.assert_allclose(getattr(again.slope, part), getattr(first.slope, part), rtol=1e-6)
    np.testing.assert_array_equal(again.p, first.p)
    assert (first.r2 > 0.01).all()
    assert (first.r2 < 1).all()


def test_a_head_that_carries_nothing_is_no_telling_and_leaves_the_others_alone():
    sizes, residual = draw_sizes(7, heads=3)
    innovation = sizes.innovation.copy()
    innovation[4, 1] = 0
    found = regress(Sizes(sizes.magnitude, innovation, sizes.foreseen), residual)
    whole = regress(sizes, residual)
    assert np.isnan([found.slope.value[1], found.slope.low[1], found.r2[1], found.p[1]]).all()
    np.testing.assert_allclose(found.slope.value[[0, 2]], whole.slope.value[[0, 2]])


def test_short_windows_have_no_shifts_and_few_documents_no_interval():
    sizes, residual = draw_sizes(7, heads=2)
    part = slice(12, 12 + 2 * LEAST_SHIFT)
    short = Sizes(*(getattr(sizes, name)[..., part] for name in sizes.__match_args__))
    keys = np.arange(8.0, 8 + 2 * LEAST_SHIFT)
    found = regress_innovations(short, residual[..., part], keys, np.random.default_rng(0))
    assert np.isnan(found.p).all()
    assert np.isfinite(found.slope.value).all()
    few = Sizes(*(getattr(sizes, name)[:3] for name in sizes.__match_args__))
    with pytest.raises(ValueError, match="3 documents: an interval needs at least 4"):
        regress(few, residual[:3])
