"""The swap gate: its gains are those of `fit`, and of fits to swapped columns done the long way."""

import numpy as np
import oracle
import pytest
import torch

from infodyn_interp.energy.fitting import fit
from infodyn_interp.energy.gauge import support_of
from infodyn_interp.energy.moments import Moments, WindowAlgebra
from infodyn_interp.energy.terms import rhythm_columns
from infodyn_interp.identify.swaps import cross_documents, swap_p, swapped_gains
from infodyn_interp.planted.calibration import survey_basis
from infodyn_interp.planted.worlds import FITTED, WORLDS, draw

DOCUMENTS, WINDOW = 10, 48
NAMES = ("noise", "prosody_20", "track", "key_effects")


@pytest.fixture(scope="module")
def bench():
    generator = np.random.default_rng(2)
    basis = survey_basis(WORLDS["noise"], WINDOW, 2, generator)
    drawn = draw([WORLDS[name] for name in NAMES], DOCUMENTS, WINDOW, generator)
    algebra = WindowAlgebra(support_of(WINDOW), FITTED)
    states = torch.from_numpy(np.ascontiguousarray(drawn.states[..., :FITTED]))
    rhythm = rhythm_columns(torch.from_numpy(drawn.flags))
    return algebra, states, rhythm, basis, torch.from_numpy(-drawn.energies)


@pytest.fixture(scope="module")
def gains(bench):
    algebra, states, rhythm, basis, scores = bench
    return swapped_gains(cross_documents(algebra, states, rhythm, basis, scores, None), algebra.columns)


def moments(algebra, states, rhythm, basis, scores):
    out = Moments.empty(algebra.columns, scores.shape[1], DOCUMENTS)
    out.add(algebra(states, rhythm, basis, scores, None), np.arange(DOCUMENTS))
    return out


def test_unswapped_gains_are_those_of_the_fit(bench, gains):
    fitted = fit(moments(*bench))
    np.testing.assert_allclose(gains[0], fitted.gain_by_fold, atol=1e-10)


@pytest.mark.parametrize("shift", [1, 4])
def test_a_swapped_rhythm_gains_what_a_fit_to_the_partners_rhythm_does(bench, gains, shift):
    algebra, states, rhythm, basis, scores = bench
    swapped = rhythm[(np.arange(DOCUMENTS) + shift) % DOCUMENTS]
    own, other = fit(moments(*bench)), fit(moments(algebra, states, swapped, basis, scores))
    same = (own.chosen_without == other.chosen_without)[:, None]
    assert same.all()
    np.testing.assert_allclose(gains[shift][:, 1], other.gain_by_fold[:, 1], atol=1e-9)


def pair_arrays(z, columns):
    """Every pair column of one document as a dense array."""
    arrays = oracle.dense_columns(z.numpy(), np.zeros((WINDOW, 9)), np.zeros((16, FITTED)), 1.0, columns.bins)
    return arrays[: columns.within]


def track_gain_the_long_way(algebra, states, scores, shift):
    """Gain by document of the partner's best track over the own nuisance, from dense arrays and normal equations."""
    mask = oracle.support(WINDOW)
    n, within = algebra.columns.nuisance.stop, algebra.columns.within
    energies = (-scores).numpy()
    crosses, squares, totals = [], [], []
    for document in range(DOCUMENTS):
        own = pair_arrays(states[document], algebra.columns)[:n]
        theirs = pair_arrays(states[(document + shift) % DOCUMENTS], algebra.columns)[n:]
        dense = np.stack([oracle.center_rows(one, mask) for one in (*own, *theirs, *energies[document])])
        both = np.stack([oracle.center_both(one, mask)[mask] for one in dense])
        row = np.stack([one[mask] for one in dense])
        crosses.append(both @ both.T)
        squares.append((row**2).sum(1))
        totals.append((row[within:] ** 2).sum(1))
    crosses, squares = np.array(crosses), np.array(squares)
    out = np.zeros((DOCUMENTS, scores.shape[1]))
    for document in range(DOCUMENTS):
        gram, left = crosses.sum(0) - crosses[document], crosses[document]
        ridge = 1e-5 * (squares.sum(0) - squares[document])[:within]
        for head in range(scores.shape[1]):
            fits = []
            for columns in (list(range(n)), *([*range(n), track] for track in range(n, within))):
                system = gram[np.ix_(columns, columns)] + np.diag(ridge[columns])
                target = gram[columns, within + head]
                beta = np.linalg.solve(system, target)
                explained = (
                    2 * beta @ left[columns, within + head] - beta @ left[np.ix_(columns, columns)] @ beta
                )
                fits.append((target @ beta, explained))
            best = max(fits[1:], key=lambda one: one[0])
            out[document, head] = (best[1] - fits[0][1]) / totals[document][head]
    return out


def test_a_swapped_track_is_the_partners_over_the_own_nuisance(bench, gains):
    algebra, states, _, _, scores = bench
    np.testing.assert_allclose(gains[3][:, 3], track_gain_the_long_way(algebra, states, scores, 3), atol=1e-7)


def test_only_what_is_wanted_is_computed(bench, gains):
    algebra, states, rhythm, basis, scores = bench
    wanted = np.zeros((4, len(NAMES)), bool)
    wanted[1, 1] = wanted[3, 2] = True
    crossed = cross_documents(algebra, states, rhythm, basis, scores, None)
    some = swapped_gains(crossed, algebra.columns, wanted)
    assert (np.isfinite(some).all((0, 1)) == wanted).all()
    np.testing.assert_allclose(some[:, :, wanted], gains[:, :, wanted], atol=1e-12)
    p = swap_p(some)
    assert p[1, 1] == 1 / DOCUMENTS
    assert np.isnan(p[0, 0])
