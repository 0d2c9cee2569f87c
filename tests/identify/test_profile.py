"""Profiles on planted carry-overs and tracks: true values are kept as often as promised, open ends are called open."""

from collections.abc import Callable
from dataclasses import replace

import identifiability
import lmfit
import numpy as np
import oracle
import pytest
import scipy.optimize
import scipy.stats
import torch

from infodyn_interp.energy.carry import TOP, Variogram, lagged_products, lags_of, shared_keys
from infodyn_interp.energy.fitting import Fit, fit
from infodyn_interp.energy.gauge import Support, center_rows, support_of
from infodyn_interp.energy.moments import Moments, WindowAlgebra
from infodyn_interp.energy.terms import FINE, TAUS, WIDTHS, Basis, rhythm_columns
from infodyn_interp.identify.profile import (
    Profile,
    TrackProfile,
    profile_grid,
    profile_moments,
    profile_rho,
    profile_track,
)
from infodyn_interp.planted import worlds
from infodyn_interp.planted.worlds import COMPANY, FITTED

WINDOW = 64


def plant_carry(
    seed: int, folds: int, runs: int, rho: float, sill: float = 1.0, spread: float = 0.0
) -> Variogram:
    """One window a fold: AR carry-over per key, a key effect and white noise, both of variance 1; each head is a run.

    `spread`: standard deviation of the logarithm of a window's energies.
    """
    draw = np.random.default_rng(seed)
    support = support_of(WINDOW)
    sums = []
    for _ in range(folds):
        shape = runs, WINDOW
        carry, effect = np.sqrt(sill) * draw.normal(size=shape), draw.normal(size=shape)
        energy = np.empty((1, runs, WINDOW, WINDOW))
        for query in range(WINDOW):
            energy[0, :, query] = carry + effect + draw.normal(size=shape)
            carry = rho * carry + np.sqrt(sill * (1 - rho**2)) * draw.normal(size=shape)
        energy *= np.exp(spread * draw.normal(size=(1, runs, 1, 1)))
        residual = center_rows(torch.tensor(energy), support)
        sums.append(lagged_products(residual, support)[0].T.numpy())
    weights = np.tile(shared_keys(support).numpy(), (folds, 1))
    return Variogram(lags_of(support), np.stack(sums), weights)


def covers(profile: Profile, rho: float) -> np.ndarray:
    return (profile.low <= rho) & (rho <= profile.high)


def noisy_variogram(rho: float, seed: int) -> Variogram:
    """A curve with independent errors at its lags, the same in each of two folds: one head."""
    draw = np.random.default_rng(seed)
    support = support_of(WINDOW)
    lags = np.array(lags_of(support))
    weights = np.tile(np.linspace(2000.0, 1000.0, len(lags)), (2, 1))
    value = 0.6 + 0.9 * (1 - rho**lags) + 0.01 * draw.normal(size=len(lags))
    return Variogram(tuple(lags.tolist()), weights[..., None] * value[:, None], weights)


@pytest.mark.parametrize(("rho", "seed"), [(0.4, 0), (0.6, 1), (0.6, 2), (0.75, 3)])
def test_with_independent_lags_the_interval_is_that_of_the_package_identifiability(
    rho: float, seed: int
) -> None:
    variogram = noisy_variogram(rho, seed)
    lags, weights = np.array(variogram.lags), variogram.weights.sum(0)

    def residual(parameters: lmfit.Parameters) -> np.ndarray:
        nugget, sill, kept = (parameters[name].value for name in ("nugget", "sill", "rho"))
        return np.sqrt(weights) * (variogram.value[:, 0] - nugget - sill * (1 - kept**lags))

    parameters = lmfit.Parameters()
    parameters.add("rho", value=0.5, min=0, max=1)
    parameters.add("nugget", value=0.5, min=0)
    parameters.add("sill", value=1.0, min=0)
    minimizer = lmfit.Minimizer(residual, parameters)
    interval = identifiability.ConfidenceInterval(minimizer, minimizer.minimize(), ["rho"])
    theirs = interval.calc_all_ci(limits=0.7, points=81, mp=False)["rho"]

    ours = profile_rho(variogram, design_effect=1)
    assert not ours.low_open[0]
    assert not ours.high_open[0]
    assert ours.threshold[0] == pytest.approx(interval.threshold, rel=1e-9)
    assert ours.high[0] - ours.low[0] > 0.02
    np.testing.assert_allclose([ours.low[0], ours.high[0]], theirs, atol=1e-3)


@pytest.mark.parametrize(("folds", "rho"), [(16, 0.7), (24, 0.7), (24, 0.3), (24, 0.97)])
def test_the_true_rho_is_kept_in_95_of_100_runs(folds: int, rho: float) -> None:
    runs = 200
    covered = covers(profile_rho(plant_carry(0, folds, runs, rho)), rho).sum()
    assert scipy.stats.binomtest(int(covered), runs, 0.95).pvalue > 0.001


def test_lags_taken_for_independent_keep_the_truth_too_seldom() -> None:
    variogram = plant_carry(0, 24, 200, 0.7)
    covered = covers(profile_rho(variogram, design_effect=1), 0.7).sum()
    assert scipy.stats.binomtest(int(covered), 200, 0.95, "less").pvalue < 1e-6
    assert np.median(profile_rho(variogram).design_effect) > 1.5


def test_documents_of_unequal_energy_widen_the_profile_as_they_widen_the_jackknife() -> None:
    profile = profile_rho(plant_carry(0, 16, 200, 0.7, spread=0.5))
    reach = (profile.high - profile.low) / (profile.fisher.high - profile.fisher.low)
    assert np.median(reach) == pytest.approx(1, abs=0.03)
    assert covers(profile, 0.7).mean() > 0.87


@pytest.fixture(scope="module")
def variogram() -> Variogram:
    return plant_carry(1, 12, 6, 0.7)


@pytest.fixture(scope="module")
def profile(variogram: Variogram) -> Profile:
    return profile_rho(variogram)


def test_the_curve_is_what_non_negative_least_squares_leaves_at_each_rho(
    variogram: Variogram, profile: Profile
) -> None:
    root = np.sqrt(variogram.weights.sum(0))
    lags = np.array(variogram.lags)

    def squares(rho: float, head: int) -> float:
        design = np.stack([np.ones(len(lags)), 1 - rho**lags], 1)
        return scipy.optimize.nnls(root[:, None] * design, root * variogram.value[:, head])[1] ** 2

    for head in range(6):
        least = squares(profile.best[head], head)
        expected = [squares(rho, head) / least - 1 for rho in profile.rho]
        np.testing.assert_allclose(profile.rise[:, head], expected, rtol=1e-6, atol=1e-6)
        for end in (profile.low[head], profile.high[head]):
            assert squares(end, head) / least - 1 == pytest.approx(profile.threshold[head], rel=1e-4)


def test_where_both_intervals_hold_they_agree_and_nothing_is_said(profile: Profile) -> None:
    assert not profile.disagree.any()
    assert profile.reason == ("",) * 6
    assert not (profile.low_open | profile.high_open).any()


def test_the_unit_of_energy_and_the_order_of_documents_change_nothing(
    variogram: Variogram, profile: Profile
) -> None:
    turned = replace(variogram, sums=9 * variogram.sums[::-1], weights=variogram.weights[::-1])
    other = profile_rho(turned)
    for name in ("low", "high", "design_effect", "threshold"):
        np.testing.assert_allclose(getattr(other, name), getattr(profile, name), rtol=1e-5)


def test_one_head_alone_has_the_profile_it_has_among_others(variogram: Variogram, profile: Profile) -> None:
    alone = profile_rho(variogram, head=4)
    np.testing.assert_allclose(alone.low, profile.low[[4]], atol=1e-6)
    np.testing.assert_allclose(alone.rise, profile.rise[:, [4]], rtol=1e-9, atol=1e-9)


def test_without_carry_over_the_texts_bound_rho_on_no_side_and_the_jackknife_is_contradicted() -> None:
    runs = 100
    profile = profile_rho(plant_carry(2, 16, runs, rho=0, sill=0))
    unbounded = profile.low_open & profile.high_open
    assert unbounded.mean() > 0.85
    assert (profile.low[unbounded] == 0).all()
    assert (profile.high[unbounded] == TOP).all()
    stuck = unbounded & (profile.fisher.high - profile.fisher.low < 0.1)
    assert stuck.sum() > 10
    assert profile.disagree[stuck].all()
    assert all("open below and above" in profile.reason[head] for head in np.flatnonzero(stuck))


def test_a_carry_over_like_an_effect_of_the_key_is_open_above() -> None:
    profile = profile_rho(plant_carry(3, 16, 50, rho=0.99))
    assert profile.high_open.mean() > 0.8
    assert not profile.low_open.any()


def test_a_head_without_energy_is_open_on_both_sides(variogram: Variogram) -> None:
    silent = profile_rho(replace(variogram, sums=0 * variogram.sums), head=0)
    assert silent.low_open[0]
    assert silent.high_open[0]
    assert np.isnan(silent.threshold[0])


def test_a_curve_without_errors_leaves_no_other_rho() -> None:
    exact = noisy_variogram(0.6, 0)
    curve = 0.6 + 0.9 * (1 - 0.6 ** np.array(exact.lags))
    found = profile_rho(replace(exact, sums=exact.weights[..., None] * curve[:, None]))
    np.testing.assert_allclose([found.low[0], found.high[0]], 0.6, atol=1e-4)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda v: Variogram(v.lags[:3], v.sums[:, :3], v.weights[:, :3]), "more than 3 lags"),
        (lambda v: replace(v, sums=v.sums * np.nan), "not finite"),
        (lambda v: Variogram(v.lags, v.sums[:1], v.weights[:1]), "two folds"),
    ],
)
def test_variograms_without_a_profile_are_refused(
    variogram: Variogram, spoil: Callable[[Variogram], Variogram], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        profile_rho(spoil(variogram))


RANK, LENGTH = 3, 48
PLANTED = WIDTHS.index(0.4), TAUS.index(8.0)


def plant_track(share: float, folds: int, runs: int) -> Fit:
    """Fits of energies that are the same track (width .4, tau 8) and noise of their own in every head."""
    draw = np.random.default_rng(0)
    basis = Basis(torch.zeros(RANK), torch.eye(RANK), torch.tensor(draw.normal(size=(16, RANK))), 2.0)
    support = Support(LENGTH)
    mask = support.mask.numpy()
    algebra = WindowAlgebra(support, RANK)
    moments = Moments.empty(algebra.columns, runs, folds)
    for fold in range(folds):
        states = draw.normal(size=(LENGTH, RANK))
        states[1:] = 0.6 * states[:-1] + 0.8 * states[1:]
        track = oracle.center_rows(-oracle.track(states, 0.4, 8.0), mask)
        track *= np.sqrt(share / (1 - share) * mask.sum() / (track**2).sum())
        energy = track + draw.normal(size=(1, runs, LENGTH, LENGTH))
        rhythm = torch.tensor(draw.normal(size=(1, LENGTH, 9)))
        moments.add(
            algebra(torch.tensor(states)[None], rhythm, basis, torch.tensor(-energy), None), np.array([fold])
        )
    return fit(moments)


def test_the_planted_track_is_kept_and_a_strong_one_leaves_few_others() -> None:
    runs = 60
    for share in (0.005, 0.02, 0.3):
        fitted = plant_track(share, 12, runs)
        profile = profile_track(fitted)
        assert scipy.stats.binomtest(int(profile.kept[PLANTED].sum()), runs, 0.95, "less").pvalue > 0.001
        assert profile.kept.reshape(9, runs)[fitted.chosen, range(runs)].all()
        assert (profile.tau_kept == profile.kept.any(0)).all()
    assert profile.kept.sum((0, 1)).mean() < 1.5
    assert not profile.tau_kept[TAUS.index(32.0)].any()


def test_a_head_without_a_track_rejects_none() -> None:
    profile = profile_track(plant_track(0.0, 12, 20))
    assert profile.kept.mean() > 0.7


def test_a_finer_grid_has_the_curves_of_its_own_gains() -> None:
    draw = np.random.default_rng(0)
    widths, taus = (0.1, 0.2, 0.4, 0.8), (2.0, 4.0, 8.0, 16.0, 32.0)
    loss = np.log(np.array(widths) / 0.2)[:, None] ** 2 / 2 + np.log(np.array(taus) / 8) ** 2
    noise = draw.normal(size=(10, 20, 1))
    gain = 0.5 - loss.reshape(1, -1, 1) + 0.01 * (noise - noise.mean(0))
    chosen = np.array([1 * 5 + 2])
    profile = profile_grid(gain, chosen, widths, taus)
    np.testing.assert_allclose(profile.excess[..., 0], loss, atol=1e-12)
    np.testing.assert_allclose(profile.over_tau[:, 0], np.log(np.array(taus) / 8) ** 2, atol=1e-12)
    np.testing.assert_allclose(profile.over_width[:, 0], np.log(np.array(widths) / 0.2) ** 2 / 2, atol=1e-12)
    assert profile.kept.sum() == 1
    assert profile.width_kept[1, 0]


SHARES = (0.0, 0.03, 0.1)
OFF_GRID = FINE.widths.index(0.2), FINE.taus.index(4.0)


def plant_off_grid(seed: int, documents: int = 16) -> TrackProfile:
    """Three heads over all nuisances, with shares of a track between the nine: one document a fold."""
    generator = np.random.default_rng(seed)
    seen = worlds.draw([worlds.World(COMPANY)] * len(SHARES), documents, WINDOW, generator)
    states = seen.states[..., :FITTED]
    track = worlds.center(-worlds.track_map(states, 0.2, 4.0))
    track /= np.sqrt((track**2).sum() / (documents * support_of(WINDOW).pairs))
    share = np.array(SHARES)[:, None, None]
    energy = np.sqrt(1 - share) * seen.energies + np.sqrt(share) * track[:, None]
    algebra = WindowAlgebra(support_of(WINDOW), FITTED, grid=FINE)
    moments = Moments.empty(algebra.columns, len(SHARES), documents)
    basis = Basis(torch.zeros(FITTED), torch.eye(FITTED), torch.tensor(states[0, :16]), 3.0)
    rhythm = rhythm_columns(torch.tensor(seen.flags))
    read = algebra(torch.tensor(states), rhythm, basis, torch.tensor(-energy).float(), None)
    moments.add(read, np.arange(documents))
    return profile_moments(moments)


@pytest.fixture(scope="module")
def kept_off_grid() -> np.ndarray:
    """What 100 draws keep, [draw, width, tau, share]."""
    return np.stack([plant_off_grid(seed).kept for seed in range(100)])


def test_a_track_between_the_nine_is_kept_on_the_finer_grid(kept_off_grid: np.ndarray) -> None:
    assert (kept_off_grid[:, *OFF_GRID, 1:].mean(0) >= 0.93).all()


def test_far_from_a_planted_track_the_finer_grid_is_rejected(kept_off_grid: np.ndarray) -> None:
    far = np.add.outer(
        np.abs(np.arange(len(FINE.widths)) - OFF_GRID[0]), np.abs(np.arange(len(FINE.taus)) - OFF_GRID[1])
    )
    assert kept_off_grid[:, far >= 2, 1].mean() < 0.05
    assert kept_off_grid[:, far >= 1, 2].mean() < 0.02


def test_nuisance_alone_leaves_the_finer_grid_flat(kept_off_grid: np.ndarray) -> None:
    assert kept_off_grid[..., 0].mean() > 0.9
    assert kept_off_grid[..., 0].mean(0).min() > 0.8


@pytest.mark.parametrize("shape", [(1, 9, 2), (4, 8, 2)])
def test_gains_that_do_not_fill_the_grid_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="3 x 3 tracks"):
        profile_grid(np.zeros(shape), np.zeros(2, int), WIDTHS, TAUS)
