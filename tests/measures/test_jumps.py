"""Jumps: the law that is planted is the law that is found, and a quiet series stays whole."""

import numpy as np
import pytest
from scipy.signal import lfilter

from infodyn_interp.errors import RequestError
from infodyn_interp.measures.breaks import find_breaks, memory_of, step_sizes
from infodyn_interp.measures.jumps import AROUND, find_jumps
from infodyn_interp.measures.threshold import LEAST_SHIFT, Law, weigh_threshold

DOCUMENTS, STEPS, DIRECTIONS, MEMORY = 12, 128, 4, 0.6
DEVIATION = 0.4  # of a log step length in four directions


def remembering(rho, draw, *shape):
    noise = draw.standard_normal((*shape[:-1], shape[-1] + 100))
    return lfilter([np.sqrt(1 - rho**2)], [1, -rho], noise, axis=-1)[..., 100:]


def path_of(log_size, draw):
    """A state whose step from t to t + 1 is as long as said."""
    steps = np.exp(log_size)[..., None] * draw.standard_normal((*log_size.shape, DIRECTIONS))
    return lfilter([0, 1], [1, -MEMORY], steps, axis=1)


def world(name, seed, documents=DOCUMENTS, steps=STEPS):
    draw = np.random.default_rng(seed)
    carry = np.exp(0.3 * remembering(0.8, draw, documents, steps))
    size, critical = np.zeros_like(carry), np.nan
    if name == "threshold":
        critical = np.quantile(carry, 0.7)
        size = 1.5 * DEVIATION * (carry > critical)
    elif name == "saturating":
        size = DEVIATION / 2 * np.tanh(np.log(carry) / 0.3)
    elif name == "spells":
        switches = (draw.random((documents, steps + 1)) < 0.05).cumsum(1)
        spell = 2.0 * (switches % 2) - 1
        carry = np.exp(0.3 * spell[:, :-1] + 0.15 * draw.standard_normal((documents, steps)))
        size = 0.3 * spell[:, 1:]
    return path_of(size, draw), carry, critical


def laws(name, draws, shuffles=99):
    out = []
    for seed in range(draws):
        state, carry, critical = world(name, seed)
        law = weigh_threshold(
            step_sizes(state), carry[:, :-1], np.random.default_rng(seed), shuffles=shuffles
        )
        out.append((law, critical))
    return out


def share(found, law):
    return np.mean([one.verdict == law for one, _ in found])


def test_a_planted_threshold_is_found_with_its_place():
    found = laws("threshold", 12)
    assert share(found, Law.THRESHOLD) >= 0.75
    covered = [one.critical_low <= truth <= one.critical_high for one, truth in found]
    assert np.mean(covered) >= 0.75  # of 12; the rate at full size is measured in analyses/q08_jumps.py
    for one, truth in found:
        assert abs(one.critical - truth) < 0.1
        assert one.height > 0.5
        assert one.ratio.min() == 0
        assert (np.diff(one.tried) > 0).all()


@pytest.mark.parametrize(("name", "law"), [("saturating", Law.SMOOTH), ("spells", Law.VOLATILITY_CONFOUNDED)])
def test_a_smooth_truth_and_shared_spells_are_no_threshold(name, law):
    found = laws(name, 12)
    assert share(found, Law.THRESHOLD) <= 1 / 12
    assert share(found, law) >= 0.7


def test_where_nothing_is_planted_nothing_is_found():
    found = laws("constant", 12)
    assert share(found, Law.THRESHOLD) == 0
    assert share(found, Law.NONE) >= 0.7


def test_the_law_does_not_know_the_units_of_the_state_or_of_the_carry_over():
    state, carry, _ = world("threshold", 3)
    first, again = (
        weigh_threshold(step_sizes(a * state), b * carry[:, :-1], np.random.default_rng(0), shuffles=19)
        for a, b in ((1, 1), (7.0, 0.01))
    )
    assert again.p == first.p
    np.testing.assert_allclose(again.critical, 0.01 * first.critical)
    np.testing.assert_allclose(again.height, first.height)


def test_trials_exchange_their_carry_over_within_a_prompt():
    state, carry, _ = world("threshold", 4, documents=16)
    prompt = np.repeat(np.arange(4), 4)
    law = weigh_threshold(step_sizes(state), carry[:, :-1], np.random.default_rng(0), prompt, 99)
    assert law.verdict == Law.THRESHOLD
    # what a prompt shares is no evidence: trials that all have the same |M| and the same sizes
    shared = np.repeat(carry[::4], 4, 0)
    size = DEVIATION * (shared > np.quantile(shared, 0.7))
    size = size + 0.01 * np.random.default_rng(1).standard_normal(size.shape)
    law = weigh_threshold(size[:, :-1], shared[:, :-1], np.random.default_rng(0), prompt, 99)
    assert min(law.p.values()) == 1
    assert law.verdict == Law.NONE


@pytest.mark.parametrize("memory", [0.0, 0.6, 0.9])
def test_quiet_series_stay_whole_whatever_they_remember(memory):
    noise = remembering(memory, np.random.default_rng(int(10 * memory)), 150, STEPS)
    rate = np.mean([len(find_breaks(one[:, None])) > 0 for one in noise])
    assert rate <= 0.08 + 2 * np.sqrt(0.08 * 0.92 / 150)


def test_a_shift_of_level_is_found_where_it_is():
    draw = np.random.default_rng(2)
    near = []
    for series in remembering(0.6, draw, 20, STEPS):
        series[64:] += 4
        near.append(any(abs(place - 64) <= 2 for place in find_breaks(series[:, None])))
    assert np.mean(near) >= 0.8


def test_memory_is_read_from_differences_whatever_the_levels():
    state = remembering(0.7, np.random.default_rng(1), 24, 3, 400).swapaxes(1, 2)
    levels = np.zeros_like(state)
    levels[:, 200:] = 5
    np.testing.assert_allclose(memory_of(state), 0.7, atol=0.06)
    np.testing.assert_allclose(memory_of(state + 1e3), memory_of(state), atol=1e-9)
    np.testing.assert_allclose(memory_of(state + levels), 0.7, atol=0.15)


def planted_jumps(seed=0):
    """|M| builds up until it is released by a shift of level; the state of every document jumps twice."""
    draw = np.random.default_rng(seed)
    state = 0.3 * remembering(0.5, draw, DOCUMENTS, DIRECTIONS, STEPS).swapaxes(1, 2)
    carry = np.exp(0.1 * draw.standard_normal((DOCUMENTS, STEPS)))
    at = np.stack([draw.integers(30, 60, DOCUMENTS), draw.integers(75, 110, DOCUMENTS)], 1)
    for one, places in enumerate(at):
        for place in places:
            state[one, place:] += 4 * draw.choice([-1, 1], DIRECTIONS)
        last = 0
        for place in (*places, STEPS):
            carry[one, last:place] += 0.05 * np.arange(place - last)
            last = place
    return state, carry, at


def test_what_happens_around_planted_jumps_is_seen():
    state, carry, at = planted_jumps()
    noise = np.random.default_rng(9).standard_normal(carry.shape)
    found = find_jumps(state, carry, {"noise": noise}, shuffles=199)
    assert found["jump"].values[np.arange(DOCUMENTS)[:, None], at].mean() >= 0.9
    assert found["jump"].values.sum() <= 2.5 * DOCUMENTS
    around = found.sel(series="|M|")
    assert float(around["aligned_p"]) <= 0.01
    assert float(around["aligned"].sel(lag=-1)) > float(around["null_high"].sel(lag=-1))
    assert float(around["aligned"].sel(lag=1)) < float(around["null_low"].sel(lag=1))
    assert float(found["aligned_p"].sel(series="noise")) > 0.05
    assert found["slope_low"] < 0.05 < found["slope_high"] + 0.005
    assert found["slope"] > 0.04
    assert found["slope_p"] <= 0.01
    assert found.sizes["lag"] == 2 * AROUND + 1
    assert "shifted within documents" in found.attrs["null"]


def test_steps_before_the_first_query_are_passed_over():
    state, carry, _ = world("threshold", 6)
    carry[:, :12] = np.nan
    found = find_jumps(state, carry, shuffles=19)
    np.testing.assert_allclose(found["curve"].values[-1], found["curve"].max(), atol=0.3)
    assert np.isfinite(found["curve"].values).all()
    assert np.isfinite(float(found["critical"]))


def ruined(what):
    state, carry, _ = world("constant", 0)
    series = prompt = None
    if what == "short":
        state, carry = state[:, : 2 * LEAST_SHIFT], carry[:, : 2 * LEAST_SHIFT]
    elif what == "one":
        state, carry = state[:1], carry[:1]
    elif what == "flat |M|":
        carry[2] = 1
    elif what == "flat state":
        state[3] = 1
    elif what == "hole":
        carry[1, 40] = np.nan
    elif what == "other steps":
        carry = carry[:, 1:]
    elif what == "alone":
        prompt = np.arange(DOCUMENTS)
    elif what == "flat series":
        series = {"energy": np.ones_like(carry)}
    return state, carry, series, prompt


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("short", "12 documents of 31 steps; a threshold needs 4 documents and"),
        ("one", "1 documents of 127 steps"),
        ("flat |M|", "of a document are constant"),
        ("flat state", "does not move in some document"),
        ("hole", "missing within a document"),
        ("other steps", r"\|M\| is of \(12, 127\) documents and steps"),
        ("alone", "prompt 0 has one trial"),
        ("flat series", "a series to align is constant"),
    ],
)
def test_what_cannot_be_weighed_is_refused_in_one_line(what, words):
    state, carry, series, prompt = ruined(what)
    with pytest.raises(RequestError, match=words) as refused:
        find_jumps(state, carry, series, prompt, shuffles=19)
    assert "\n" not in str(refused.value)


def test_change_points_of_what_has_none_are_refused():
    with pytest.raises(RequestError, match="8 steps; change points need 16"):
        find_breaks(np.random.default_rng(0).standard_normal((8, 1)))
    with pytest.raises(RequestError, match="a direction is constant"):
        find_breaks(np.ones((64, 1)))
