"""Multipliers: planted ones come back with their intervals, and a rhythm without a say has no gain."""

import numpy as np
import pytest

from infodyn_interp.errors import RequestError
from infodyn_interp.measures import fit_multipliers
from infodyn_interp.measures.multipliers import predict_choice

DOCUMENTS, CONTEXTS, CANDIDATES = 12, 30, 8
NAMES = ("helpful", "harmless", "honest")
TRUE = np.array([-0.7, 0.0, 0.4])


def draw_choices(seed, noise=1.0):
    draw = np.random.default_rng(seed)
    functionals = draw.standard_normal((DOCUMENTS, CONTEXTS, CANDIDATES, 3))
    functionals[..., 1] += 0.5 * functionals[..., 0]
    context = 10 * draw.standard_normal((DOCUMENTS, CONTEXTS, 1))
    # documents differ in their multipliers: intervals that took contexts for units would be too short
    slopes = TRUE + 0.2 * draw.standard_normal((DOCUMENTS, 1, 1, 3))
    log_probability = context + (functionals * slopes).sum(-1)
    return log_probability + noise * draw.standard_normal(log_probability.shape), functionals


def test_planted_multipliers_lie_in_their_intervals():
    inside = []
    for seed in range(100):
        found = fit_multipliers(*draw_choices(seed), NAMES)
        inside.append((found["multiplier_low"] <= TRUE) & (found["multiplier_high"] >= TRUE))
    rate = np.mean(inside)
    assert abs(rate - 0.95) < 3.5 * np.sqrt(0.95 * 0.05 / 300)


def test_without_noise_they_are_exact_and_what_a_context_shares_does_not_matter():
    _, functionals = draw_choices(0)
    log_probability = functionals @ TRUE
    shared = np.random.default_rng(1).standard_normal((DOCUMENTS, CONTEXTS, 1))
    found = fit_multipliers(log_probability, functionals)
    again = fit_multipliers(log_probability + 9 * shared, functionals + shared[..., None])
    np.testing.assert_allclose(found["multiplier"], TRUE, atol=1e-10)
    np.testing.assert_allclose(again["multiplier"], TRUE, atol=1e-10)
    np.testing.assert_allclose(found["r2"], 1)


def test_collinearity_is_reported():
    found = fit_multipliers(*draw_choices(0), NAMES)
    assert 0.35 < float(found["correlation"].sel(functional="helpful", other="harmless")) < 0.55
    assert (found["inflation"] >= 1).all()
    assert float(found["inflation"].sel(functional="harmless")) > 1.15
    np.testing.assert_allclose(float(found["inflation"].sel(functional="honest")), 1, atol=0.02)


def draw_rhythm(seed, pull, contexts=CONTEXTS):
    draw = np.random.default_rng(seed)
    shape = DOCUMENTS, contexts, CANDIDATES
    unigram, field = draw.standard_normal(shape) - 5, draw.standard_normal(shape)
    noise = draw.gumbel(size=shape)
    return (unigram - pull * field + noise).argmax(-1), field, unigram


def test_a_rhythm_that_leads_the_choice_gains_beyond_the_unigram():
    found = predict_choice(*draw_rhythm(0, 0.5, 200))
    assert found["gain_low"] > 0
    assert found["coefficient_low"] < -0.5 < found["coefficient_high"]
    assert found["barrier"] < found["barrier_candidates"]


def test_a_rhythm_without_a_say_gains_nothing():
    found = [predict_choice(*draw_rhythm(seed, 0.0)) for seed in range(40)]
    assert np.mean([float(one["gain_low"]) > 0 for one in found]) <= 0.1
    covered = [float(one["coefficient_low"]) <= 0 <= float(one["coefficient_high"]) for one in found]
    assert np.mean(covered) >= 0.95 - 3 * np.sqrt(0.95 * 0.05 / 40)
    above = np.mean([float(one["barrier"] - one["barrier_candidates"]) for one in found])
    assert abs(above) < 0.005


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda p, f: (p[:1], f[:1]), "1 documents with 8 candidates"),
        (lambda p, f: (p[..., :1], f[:, :, :1]), "12 documents with 1 candidates"),
        (lambda p, f: (p, f * np.array([1, 0, 1])), "harmless does not vary"),
        (lambda p, f: (p, np.stack([f[..., 0]] * 3, -1)), "says what the others say"),
        (lambda p, f: (np.where(p > 3, np.nan, p), f), "not finite"),
        (lambda p, f: (p, f[..., :2]), "3 names"),
    ],
)
def test_what_has_no_multiplier_is_refused_in_one_line(spoil, words):
    with pytest.raises(RequestError, match=words):
        fit_multipliers(*spoil(*draw_choices(0)))


def test_a_choice_that_cannot_be_foretold_is_refused_in_one_line():
    chosen, field, unigram = draw_rhythm(0, 0)
    with pytest.raises(RequestError, match="none of the 8 candidates"):
        predict_choice(chosen + 5, field, unigram)
    with pytest.raises(RequestError, match="the same for all candidates"):
        predict_choice(chosen, 0 * field, unigram)
