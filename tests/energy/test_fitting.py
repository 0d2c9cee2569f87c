"""Fits on moments of made-up worlds: planted terms come back, absent ones stay silent, gauges are honoured."""

from dataclasses import replace

import numpy as np
import oracle
import pytest
import torch

from infodyn_interp.energy.fitting import PRIOR_TOKENS, TERMS, Estimate, Fit, fit, track_gains
from infodyn_interp.energy.gauge import Support
from infodyn_interp.energy.moments import Moments, WindowAlgebra
from infodyn_interp.energy.terms import TAUS, WIDTHS, Basis

WINDOW, RANK, FOLDS = 48, 3, 12
HEADS = 5  # noise alone, rhythm, state, track, similarity alone
WIDTH, TAU = 0.4, 8.0
NOISE, SHARE = 1.0, 0.3


def make_moments(seed: int) -> Moments:
    """Energies of five heads, each with one term or none, four windows a fold, from the oracle's formulas."""
    draw = np.random.default_rng(seed)
    centres = draw.normal(size=(16, RANK))
    basis = Basis(torch.zeros(RANK), torch.eye(RANK), torch.tensor(centres), 2.0)
    support = Support(WINDOW)
    mask = support.mask.numpy()
    algebra = WindowAlgebra(support, RANK)
    moments = Moments.empty(algebra.columns, HEADS, FOLDS)
    beta_rhythm, beta_state = draw.normal(size=9), draw.normal(size=RANK + 16)
    for fold in range(FOLDS):
        for _ in range(4):
            z = np.cumsum(draw.normal(size=(WINDOW, RANK)), 0) / 3
            rhythm = draw.normal(size=(WINDOW, 9))
            fields = [
                np.zeros((WINDOW, WINDOW)),
                oracle.key_only(rhythm @ beta_rhythm),
                oracle.key_only(oracle.state(z, centres, 2.0) @ beta_state),
                -oracle.track(z, WIDTH, TAU),
                oracle.kernel(z, WIDTH),
            ]
            energies = []
            for field in fields:
                centred = oracle.center_rows(field, mask)
                square = (centred**2).sum() / mask.sum()
                factor = np.sqrt(SHARE / (1 - SHARE) * NOISE / square) if square else 0.0
                energies.append(factor * centred + np.sqrt(NOISE) * draw.normal(size=mask.shape))
            moments.add(
                algebra(
                    torch.tensor(z)[None],
                    torch.tensor(rhythm)[None],
                    basis,
                    torch.tensor(-np.stack(energies))[None],
                    None,
                ),
                np.array([fold]),
            )
    return moments


@pytest.fixture(scope="module")
def moments() -> Moments:
    return make_moments(0)


@pytest.fixture(scope="module")
def fitted(moments: Moments) -> Fit:
    return fit(moments)


def test_each_planted_term_is_found_in_its_head_and_in_no_other(fitted: Fit) -> None:
    gain = fitted.gain
    found = {(term, head) for term in range(len(TERMS)) for head in range(HEADS) if gain.t[term, head] > 4}
    prosody, rhythm, state, track = range(4)
    assert found == {(prosody, 1), (rhythm, 1), (prosody, 2), (state, 2), (track, 3)}


def test_a_gain_is_the_share_that_was_planted(fitted: Fit) -> None:
    for term, head in (("rhythm", 1), ("state", 2)):
        gain = fitted.gain.value[TERMS.index(term), head]
        assert 0.15 < gain <= SHARE + 0.02
        assert abs(fitted.share[TERMS.index(term), head] - SHARE) < 0.06


def test_the_track_is_chosen_and_its_sign_is_a_well(fitted: Fit) -> None:
    place = WIDTHS.index(WIDTH) * len(TAUS) + TAUS.index(TAU)
    assert fitted.chosen[3] == place
    assert (fitted.chosen_without[:, 3] == place).all()
    assert fitted.track[3] < 0
    assert (fitted.track_without[:, 3] < 0).all()


def test_pure_similarity_is_not_taken_for_a_track(fitted: Fit) -> None:
    assert fitted.gain.high[TERMS.index("track"), 4] < 0.01


def test_gains_are_what_a_regression_on_the_other_documents_explains(moments: Moments, fitted: Fit) -> None:
    total = moments.total
    field = np.arange(moments.columns.within, moments.columns.count)
    nuisance = np.arange(moments.columns.nuisance.stop)
    bases = [name.startswith("rbf") for name in moments.columns.names]
    for fold in (0, 7):
        for head in (1, 2):
            track = [moments.columns.blocks["track"].start + fitted.chosen_without[fold, head]]
            explained = []
            for places in ([*nuisance, *track], [*nuisance, *track, *field]):
                train = total.gram(0) - moments.gram(fold)
                cross = (total.cross(0) - moments.cross(fold))[:, head]
                block = train[np.ix_(places, places)]
                # a prior on the radial basis functions worth so many of the tokens that were seen
                prior = np.where(bases, PRIOR_TOKENS / ((FOLDS - 1) * 4 * WINDOW), 0)
                block = block + np.diag(((1e-5 + prior) * train.diagonal())[places])
                beta = np.linalg.solve(block, cross[places])
                left = moments.gram(fold)[np.ix_(places, places)]
                explained.append(2 * beta @ moments.cross(fold)[places, head] - beta @ left @ beta)
            expected = (explained[1] - explained[0]) / moments.square(fold)[head]
            assert fitted.gain_by_fold[fold, 0, head] == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_gains_of_tracks_alone_are_those_of_the_fit(moments: Moments, fitted: Fit) -> None:
    gains, chosen = track_gains(moments)
    np.testing.assert_allclose(gains, fitted.track_gain_by_fold, rtol=1e-9, atol=1e-12)
    np.testing.assert_array_equal(chosen, fitted.chosen)


def test_folds_that_hold_nothing_change_no_gain_of_a_track(moments: Moments) -> None:
    wider = Moments.empty(moments.columns, HEADS, FOLDS + 3)
    places = [place for place in range(FOLDS + 3) if place not in (0, 5, FOLDS + 2)]
    for name in Moments._arrays:
        getattr(wider, name)[places] = getattr(moments, name)
    for got, expected in zip(track_gains(wider), track_gains(moments), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-9)


def test_scaling_the_energies_scales_coefficients_and_no_share(moments: Moments, fitted: Fit) -> None:
    scaled = replace(
        moments,
        cross_row=3 * moments.cross_row,
        cross_within=3 * moments.cross_within,
        square_row=9 * moments.square_row,
        square_within=9 * moments.square_within,
    )
    one, other = fitted, fit(scaled)
    np.testing.assert_allclose(other.coefficient, 3 * one.coefficient, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(other.gain_by_fold, one.gain_by_fold, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(other.rms, 3 * one.rms)


def test_the_order_of_folds_changes_nothing(moments: Moments, fitted: Fit) -> None:
    order = np.random.default_rng(1).permutation(FOLDS)
    turned = replace(moments, **{name: getattr(moments, name)[order] for name in Moments._arrays})
    one, other = fitted, fit(turned)
    np.testing.assert_allclose(other.gain_by_fold, one.gain_by_fold[order], rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(other.gain.low, one.gain.low, rtol=1e-6, atol=1e-9)


def test_a_column_the_texts_never_move_gets_no_coefficient(moments: Moments) -> None:
    place = moments.columns.blocks["rhythm"].start + 1
    p = moments.columns.count
    touched = (np.triu_indices(p)[0] == place) | (np.triu_indices(p)[1] == place)
    still = replace(
        moments,
        gram_row=np.where(touched, 0, moments.gram_row),
        cross_row=np.where(np.arange(p)[:, None] == place, 0, moments.cross_row),
    )
    fitted = fit(still)
    assert (fitted.coefficient[:, place] == 0).all()
    assert np.isfinite(fitted.gain_by_fold).all()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda m: replace(m, pairs=np.where(np.arange(FOLDS) == 3, 0, m.pairs)), "none empty"),
        (lambda m: m.total, "at least two"),
        (lambda m: replace(m, square_row=m.square_row * np.nan), "not finite"),
    ],
)
def test_moments_that_cannot_be_fitted_are_refused(moments: Moments, spoil: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit(spoil(moments))


def test_intervals_of_a_mean_cover_at_their_level() -> None:
    draw = np.random.default_rng(0)
    estimate = Estimate.of_folds(draw.normal(1.0, 2.0, size=(16, 4000)))
    covered = ((estimate.low <= 1) & (estimate.high >= 1)).mean()
    assert abs(covered - 0.95) < 3 * np.sqrt(0.95 * 0.05 / 4000)


def test_the_jackknife_of_a_mean_is_the_interval_of_the_mean() -> None:
    values = np.random.default_rng(0).normal(size=(12, 5))
    without = (values.sum(0) - values) / 11
    jackknife, direct = Estimate.of_jackknife(values.mean(0), without), Estimate.of_folds(values)
    for part in ("value", "low", "high", "t"):
        np.testing.assert_allclose(getattr(jackknife, part), getattr(direct, part), rtol=1e-9)
