"""Laws of the floating equilibrium: the seed's recursion against its closed form, and what it must leave alone."""

import numpy as np
import pytest
import xarray
from hypothesis import given
from hypothesis import strategies as st

from infodyn_interp.errors import RequestError
from infodyn_interp.observe import half_life, sweep_alpha, track_equilibrium


def replies(prompts=2, trials=3, steps=20, width=5, seed=0):
    x = np.random.default_rng(seed).standard_normal((prompts, trials, steps, width))
    x[0, 1, 7:] = np.nan
    return x


@given(st.floats(0.001, 1), st.integers(2, 60))
def test_the_equilibrium_is_the_closed_forms_weighted_sum(alpha, steps):
    x = np.random.default_rng(steps).standard_normal((steps, 3))
    n = np.arange(steps)
    weights = np.where(n[None] < n[:, None], alpha * (1 - alpha) ** (n[:, None] - 1.0 - n[None]).clip(0), 0)
    weights[:, 0] += (1 - alpha) ** n
    np.testing.assert_allclose(track_equilibrium(x, alpha)["equilibrium"], weights @ x, atol=1e-12, rtol=0)


def test_kinetic_energy_is_half_the_squared_tension():
    found = track_equilibrium(replies(), 0.3)
    np.testing.assert_array_equal(found["kinetic_energy"], found["tension"] ** 2 / 2)


def test_alpha_one_keeps_the_last_step():
    x = replies()
    np.testing.assert_allclose(
        track_equilibrium(x, 1.0)["equilibrium"][:, :, 1:7], x[:, :, :6], rtol=0, atol=1e-12
    )


def test_normalised_equilibria_stay_on_the_sphere():
    x = replies()
    x /= np.linalg.norm(x, axis=-1, keepdims=True)
    norms = np.linalg.norm(track_equilibrium(x, 0.2, normalise=True)["equilibrium"], axis=-1)
    np.testing.assert_allclose(norms[np.isfinite(norms)], 1, atol=1e-14)
    free = np.linalg.norm(track_equilibrium(x, 0.2)["equilibrium"], axis=-1)
    assert np.nanmin(free) < 0.9


@pytest.mark.parametrize("alpha", [0.01, 0.1, 0.7, 1.0])
def test_what_stands_still_has_no_tension(alpha):
    found = track_equilibrium(np.full((3, 9, 4), 0.1), alpha)
    for name in ("tension", "kinetic_energy"):
        assert (found[name] == 0).all()
    assert (found["curvature"][:, 1:-1] == 0).all()
    assert (found["speed"][:, 1:] == 0).all()


def test_a_circle_turns_by_its_angle_and_a_line_by_none():
    angle = np.arange(12) * 0.3
    circle = np.stack([np.cos(angle), np.sin(angle)], -1)
    found = track_equilibrium(np.stack([circle, np.outer(angle, [1, 2])]), 0.1)
    np.testing.assert_allclose(found["curvature"][0, 1:-1], 0.3, atol=1e-12)
    np.testing.assert_allclose(found["curvature"][1, 1:-1], 0, atol=1e-12)
    np.testing.assert_allclose(found["speed"][0, 1:], 2 * np.sin(0.15), atol=1e-12)
    assert np.isnan(found["speed"][:, 0]).all()
    assert np.isnan(found["curvature"][:, [0, -1]]).all()


def test_a_reply_says_the_same_alone_and_among_longer_ones():
    x = replies()
    together, alone = track_equilibrium(x, 0.2), track_equilibrium(x[0, 1, :7], 0.2)
    for name in together.data_vars:
        np.testing.assert_array_equal(together[name][0, 1, :7], alone[name])
        assert np.isnan(together[name][0, 1, 7:]).all()


def test_arrays_labels_lists_and_lengths_agree():
    x = replies()
    plain = track_equilibrium(x, 0.2)
    labelled = xarray.DataArray(x, dims=("prompt", "trial", "step", "direction")).transpose("direction", ...)
    xarray.testing.assert_identical(track_equilibrium(labelled, 0.2), plain)
    assert plain["tension"].dims == ("prompt", "trial", "step")
    assert plain["equilibrium"].dims == ("prompt", "trial", "step", "direction")
    listed = track_equilibrium([x[0, 0], x[0, 1, :7], x[0, 2]], 0.2)
    xarray.testing.assert_identical(listed, plain.isel(prompt=0))
    full = np.where(np.isnan(x), 3.0, x)
    xarray.testing.assert_identical(track_equilibrium(full, 0.2, length=[[20, 7, 20], [20, 20, 20]]), plain)


def test_half_lives():
    assert half_life(0.5) == pytest.approx(1)
    assert half_life(0.1) == pytest.approx(6.5788, abs=1e-4)
    assert half_life(1) == 0
    assert track_equilibrium(replies(), 0.5).attrs["half_life"] == pytest.approx(1)


def _spoiled(place):
    x = replies()
    x[place] = np.nan
    return x


@pytest.mark.parametrize(
    ("x", "alpha", "message"),
    [
        (replies(), 0.0, r"alpha 0.0: it lies in \(0, 1\]"),
        (replies(), 1.5, "alpha 1.5"),
        (replies(), float("nan"), "alpha nan"),
        (_spoiled((1, 2, 5)), 0.1, r"NaN inside a reply \(prompt 1, trial 2, step 5\)"),
        (_spoiled((1, 2, 0)), 0.1, "NaN before the first step"),
        (np.where(np.isnan(replies()), np.nan, np.inf), 0.1, "an infinite number"),
        (np.full((2, 4, 3), np.nan), 0.1, "NaN everywhere"),
        (np.zeros((4, 1, 3)), 0.1, "a reply of one step has no motion"),
        ([np.zeros((4, 3)), np.zeros((1, 3))], 0.1, "a reply of one step has no motion"),
        ([np.zeros((4, 3)), np.zeros((5, 2))], 0.1, r"trials of width \(2,\) and \(3,\)"),
        ([], 0.1, "no trials"),
        (np.zeros((4, 3)).astype(str), 0.1, "no kind of number"),
        (np.zeros((4, 3), complex), 0.1, "no kind of number"),
        (np.zeros(4), 0.1, "an array of 1 dimensions"),
        (xarray.DataArray(np.zeros((4, 3)), dims=("step", "width")), 0.1, "no dimension direction"),
    ],
)
def test_what_has_no_equilibrium_is_refused_in_one_line(x, alpha, message):
    with pytest.raises(RequestError, match=message) as caught:
        track_equilibrium(x, alpha)
    assert "\n" not in str(caught.value)


def test_lengths_that_fit_no_reply_are_refused():
    with pytest.raises(RequestError, match=r"lengths of shape \(3,\)"):
        track_equilibrium(replies(), length=[1, 2, 3])


def test_a_reply_without_a_direction_cannot_be_normalised():
    with pytest.raises(RequestError, match="no direction to normalise"):
        track_equilibrium(np.zeros((4, 3)), normalise=True)


def test_the_artefacts_of_smoothing_are_found_where_nothing_else_is():
    """A memory by smoothing alone; V falls on half of the steps; tension goes with speed."""
    noise = np.random.default_rng(1).standard_normal((20, 200, 16))
    iid = sweep_alpha(noise, [0.1, 1.0], draws=20)
    value = iid["value"].sel(alpha=0.1)
    assert value.sel(statistic="falling_share") == pytest.approx(0.5, abs=0.02)
    # of squares it is (1 + alpha)^2 (2 - alpha) / 4, as of two Gaussian vectors that share x_n
    assert value.sel(statistic="tension_speed") == pytest.approx(1.1**2 * 1.9 / 4, abs=0.03)
    assert iid["value"].sel(alpha=1.0, statistic="tension_speed") == pytest.approx(1)
    walk = sweep_alpha(np.cumsum(noise, 1), [0.1], draws=20)
    assert walk["value"].sel(alpha=0.1, statistic="deviation_autocorrelation") > 0.8


@pytest.mark.parametrize("memory", [0.0, 0.6])
def test_structureless_replies_lie_in_their_own_band(memory):
    inside, trials = 0, 25
    for seed in range(trials):
        x = np.random.default_rng(seed).standard_normal((6, 40, 3)) * [3, 1, 1]
        for n in range(1, 40):
            x[:, n] = memory * x[:, n - 1] + np.sqrt(1 - memory**2) * x[:, n]
        x[2, 25:] = np.nan
        found = sweep_alpha(x, [0.1], draws=40, generator=np.random.default_rng(seed + 1)).sel(reference="ar")
        inside += ((found["value"] >= found["low"]) & (found["value"] <= found["high"])).values.mean()
    assert inside / trials > 0.85  # 95 % less the width that 40 draws and a fitted coefficient cost


def test_a_memory_leaves_the_band_of_series_without_one():
    x = np.cumsum(np.random.default_rng(0).standard_normal((6, 60, 3)), 1)
    found = sweep_alpha(x, [0.05, 0.2], draws=40)
    above = found["value"] > found["high"].sel(reference="iid")
    assert above.sel(statistic="deviation_autocorrelation").all()
    assert found.attrs["memory"] > 0.9


@pytest.mark.parametrize(
    ("alphas", "draws", "message"), [([], 20, "0 alphas"), ([0.1], 2, "2 draws"), ([2.0], 20, "alpha 2")]
)
def test_a_sweep_over_nothing_is_refused(alphas, draws, message):
    with pytest.raises(RequestError, match=message):
        sweep_alpha(replies(), alphas, draws=draws)
