"""Verdicts: each outcome on the world that deserves it, and the laws they keep."""

import numpy as np
import pytest
import torch

from infodyn_interp.energy.gauge import support_of
from infodyn_interp.energy.moments import Moments, WindowAlgebra
from infodyn_interp.energy.terms import rhythm_columns
from infodyn_interp.errors import RequestError
from infodyn_interp.identify.evidence import ROWS
from infodyn_interp.identify.verdict import DISCOVERY, Verdict, judge, verdicts
from infodyn_interp.planted.calibration import survey_basis, weigh_draw, weigh_energies
from infodyn_interp.planted.worlds import FITTED, WORLDS, draw

NAMES = ("noise", "similarity", "carry_97", "carry_noise", "prosody_20", "track")


@pytest.fixture(scope="module")
def evidence():
    return weigh_draw([WORLDS[name] for name in NAMES], 20, 64, 3)


@pytest.fixture(scope="module")
def judged(evidence):
    return judge([evidence], cutoff=DISCOVERY)


def of(judged, world, term):
    place = 0, ROWS.index(term), NAMES.index(world)
    return judged.verdict[place], judged.reason[place], judged.confounder[place]


def test_what_was_planted_is_identified(judged):
    for world, term in (
        ("prosody_20", "prosody"),
        ("prosody_20", "rhythm"),
        ("track", "track"),
        ("carry_noise", "carry"),
    ):
        verdict, reason, _ = of(judged, world, term)
        assert verdict is Verdict.IDENTIFIED, (world, term, reason)


def test_noise_is_nothing_and_without_a_limit_absence_is_not_claimed(judged):
    for term in ROWS:
        verdict, reason, _ = of(judged, "noise", term)
        assert verdict is Verdict.NOT_ESTIMABLE, (term, reason)
        assert "power unknown" in reason or "rho" in reason


def test_with_a_small_limit_nothing_is_an_absence_and_with_a_large_one_a_lack_of_power(evidence):
    shape = (1, len(ROWS), len(NAMES))
    small, large = (judge([evidence], np.full(shape, limit), DISCOVERY) for limit in (0.02, 0.3))
    assert of(small, "noise", "track")[0] is Verdict.ABSENT
    assert "0.020 would have been seen" in of(small, "noise", "track")[1]
    assert of(large, "noise", "track")[0] is Verdict.NOT_ESTIMABLE
    assert "power" in of(large, "noise", "track")[1]


def test_look_alikes_are_confounded_with_what_they_look_like(judged):
    assert of(judged, "similarity", "state")[::2] == (Verdict.CONFOUNDED, "kernels")
    assert of(judged, "carry_97", "carry")[::2] == (Verdict.CONFOUNDED, "key effects")


def test_a_query_that_persists_beyond_the_nuisance_is_no_carry_over():
    found = judge([weigh_draw([WORLDS["bilinear_32_persistent"]], 16, 64, 3)], cutoff=DISCOVERY)
    place = 0, ROWS.index("carry"), 0
    assert (found.verdict[place], found.confounder[place]) == (Verdict.CONFOUNDED, "query autocorrelation")


def test_a_hill_is_not_a_well():
    drawn_worlds = [WORLDS["track"]]
    generator = np.random.default_rng(5)
    basis = survey_basis(WORLDS["track"], 64, 5, generator)
    drawn = draw(drawn_worlds, 16, 64, generator)
    hill = type(drawn)(drawn.states, drawn.flags, -drawn.energies)
    judged = judge([weigh_energies(hill, basis)], cutoff=DISCOVERY)
    place = 0, ROWS.index("track"), 0
    assert judged.verdict[place] is Verdict.WEAK
    assert "a hill, not a well" in judged.reason[place]


def test_discoveries_are_counted_over_all_layers_and_heads(evidence):
    alone, twice = judge([evidence]), judge([evidence, evidence])
    assert (twice.tests == 2 * alone.tests).all()
    assert (twice.q[0] >= alone.q[0] - 1e-12)[np.isfinite(alone.q[0])].all()
    strict = judge([evidence], cutoff=0.0)
    assert not (strict.verdict == Verdict.IDENTIFIED).any()
    assert "no discovery" in of(strict, "prosody_20", "prosody")[1]


def moments_of(energies, states, flags, basis):
    support = support_of(energies.shape[-1])
    algebra = WindowAlgebra(support, FITTED)
    out = Moments.empty(algebra.columns, energies.shape[1], len(energies))
    z = torch.from_numpy(np.ascontiguousarray(states[..., :FITTED]))
    rhythm = rhythm_columns(torch.from_numpy(flags))
    out.add(algebra(z, rhythm, basis, torch.from_numpy(-energies), None), np.arange(len(energies)))
    return out


@pytest.fixture(scope="module")
def plain():
    generator = np.random.default_rng(8)
    basis = survey_basis(WORLDS["noise"], 64, 8, generator)
    drawn = draw([WORLDS["prosody_20"], WORLDS["track"]], 8, 64, generator)
    return drawn, basis


def test_adding_a_row_constant_changes_no_verdict(plain):
    drawn, basis = plain
    before = verdicts(moments_of(drawn.energies, drawn.states, drawn.flags, basis))
    shift = np.random.default_rng(0).normal(size=drawn.energies.shape[:3])[..., None] * 10
    after = verdicts(moments_of(drawn.energies + shift, drawn.states, drawn.flags, basis))
    assert (before["verdict"] == after["verdict"]).all()
    np.testing.assert_allclose(before["gain"], after["gain"], atol=1e-9)


def test_anyones_moments_get_verdicts_and_without_a_variogram_the_carry_over_says_so(plain):
    drawn, basis = plain
    found = verdicts(moments_of(drawn.energies, drawn.states, drawn.flags, basis))
    assert found.sizes == {"layer": 1, "term": 5, "head": 2}
    assert (found["verdict"].sel(term="carry") == "NOT_ESTIMABLE").all()
    assert "no variogram" in str(found["reason"].sel(term="carry").values[0, 0])
    assert all(found["advice"].values.ravel())
    assert "no swap gate" in str(found["reason"].sel(term="track").values[0, 0])


def test_a_head_without_energy_is_not_estimable(plain):
    drawn, basis = plain
    energies = np.concatenate([drawn.energies, np.zeros_like(drawn.energies[:, :1])], 1)
    found = verdicts(moments_of(energies, drawn.states, drawn.flags, basis))
    assert (found["verdict"].isel(head=2) == "NOT_ESTIMABLE").all()
    assert (
        found["verdict"].isel(head=0)
        == verdicts(moments_of(drawn.energies, drawn.states, drawn.flags, basis))["verdict"].isel(head=0)
    ).all()


def test_moments_of_one_fold_are_refused_in_one_line(plain):
    drawn, basis = plain
    one = moments_of(drawn.energies[:1], drawn.states[:1], drawn.flags[:1], basis)
    with pytest.raises(RequestError, match="moments: a fit leaves folds out"):
        verdicts(one)
