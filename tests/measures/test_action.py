"""Action: closed forms, a drift that is found, and ranks that mean what they say."""

import numpy as np
import pytest
from scipy.linalg import expm

from infodyn_interp.errors import RequestError
from infodyn_interp.measures.action import (
    REORDERED,
    Well,
    fit_drift,
    fit_well,
    helpful,
    lagrangian_action,
    settle_depth,
)

MASS, DURATION, INTERVALS = 1.7, 2.0, 40_000
TIME = np.linspace(0, DURATION, INTERVALS + 1)


def action_of(path, well):
    return lagrangian_action(path, well(path), DURATION / INTERVALS, MASS)


def test_a_free_particle_has_the_action_of_its_straight_line():
    ends = np.array([[0.3, -1.0, 2.0], [1.3, 0.4, -0.7]])
    path = ends[0] + (TIME / DURATION)[:, None] * (ends[1] - ends[0])
    truth = MASS * ((ends[1] - ends[0]) ** 2).sum() / (2 * DURATION)
    free = Well(np.zeros(3), np.zeros((3, 3)))
    np.testing.assert_allclose(action_of(path, free), truth, rtol=1e-8)


def test_a_harmonic_oscillator_has_the_action_of_its_closed_form():
    pace, (a, b) = 1.3, (0.4, -1.1)  # Feynman and Hibbs (1965)
    path = (a * np.sin(pace * (DURATION - TIME)) + b * np.sin(pace * TIME)) / np.sin(pace * DURATION)
    truth = MASS * pace / (2 * np.sin(pace * DURATION))
    truth *= (a**2 + b**2) * np.cos(pace * DURATION) - 2 * a * b
    well = Well(np.array([5.0]), np.array([[MASS * pace**2]]))
    np.testing.assert_allclose(action_of(path[:, None] + 5, well), truth, rtol=1e-8)
    bent = path + 0.01 * np.sin(
        np.pi * TIME / DURATION
    )  # less than half a period: the true path is the least
    assert action_of(bent[:, None] + 5, well) > truth


def test_a_well_is_read_from_the_accelerations_of_its_paths():
    pace = np.array([0.3, 0.5])
    draw = np.random.default_rng(0)
    phase, size = draw.uniform(0, 6, (2, 8, 1, 2))
    path = 2 + size * np.cos(np.arange(60)[:, None] * pace + phase)
    well = fit_well(path)
    np.testing.assert_allclose(np.diag(well.stiffness), 2 - 2 * np.cos(pace), rtol=1e-4)
    np.testing.assert_allclose(well.centre, 2, atol=1e-3)


def process(draw, documents, steps, pull):
    """A stationary process of Ornstein and Uhlenbeck, sampled exactly at times 1 apart."""
    keep = expm(-pull)
    size = len(pull)
    stationary = np.eye(size) if np.allclose(pull, pull.T) else None
    assert stationary is not None
    noise = np.linalg.cholesky(np.eye(size) - keep @ keep.T)
    state = draw.standard_normal((documents, steps, size))
    for t in range(1, steps):
        state[:, t] = state[:, t - 1] @ keep.T + state[:, t] @ noise.T
    return state, keep - np.eye(size)


def test_the_drift_of_an_ornstein_uhlenbeck_process_lies_in_its_interval():
    draw, covered = np.random.default_rng(1), []
    pull = np.array([[0.5, 0.2], [0.2, 0.8]])
    for _ in range(150):
        state, truth = process(draw, 16, 128, pull)
        found = fit_drift(state).interval
        covered.append((found.low <= truth) & (truth <= found.high))
    rate = np.mean(covered)  # 600 of four entries; 2,000 processes in analyses/q08_drift.py
    assert abs(rate - 0.95) < 3.5 * np.sqrt(0.95 * 0.05 / 300)


def test_the_onsager_machlup_action_is_least_where_every_step_is_the_drift():
    state, _ = process(np.random.default_rng(2), 16, 64, np.array([[0.5]]))
    drift = fit_drift(state)
    led = np.empty((1, 20, 1))
    led[:, 0] = 2
    for t in range(1, 20):
        led[:, t] = led[:, t - 1] + drift.offset + led[:, t - 1] @ drift.matrix.T
    assert drift.action(led) < 1e-20
    # of the paths it was fitted to, half the degrees of freedom
    np.testing.assert_allclose(drift.action(state).mean(), 63 / 2, rtol=0.1)


def test_a_path_led_by_the_drift_beats_its_own_increments_in_another_order():
    state, _ = process(np.random.default_rng(3), 24, 64, np.diag([0.7, 0.7]))
    found = helpful(state)
    assert float(found["mean_rank"].sel(kind="onsager_machlup")) < 0.1
    assert float(found["p"].sel(kind="onsager_machlup")) < 1e-4
    assert (found["rank"].sel(kind="kinetic") == 0.5).all()  # every order has it
    assert found.attrs["paths"] == REORDERED
    assert "no trials were given" in found.attrs["among"]
    assert float(found["r2"].sel(kind="onsager_machlup")) > 0.2


def test_ranks_among_exchangeable_trials_are_uniform():
    draw, p = np.random.default_rng(4), []
    for _ in range(40):
        state, _ = process(draw, 12 * 5, 24, np.array([[0.4]]))
        state = state.reshape(12, 5, 24, 1)
        found = helpful(state[:, 0], state[:, 1:])
        p.append(found["p"].values)
    assert np.mean(np.array(p) <= 0.05) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 40)
    assert found.attrs["among"] == "exchangeable trials of its prompt"


def test_what_is_fitted_in_noise_tells_nothing_of_other_documents():
    found = helpful(np.random.default_rng(5).standard_normal((6, 12, 4)).cumsum(1))
    assert float(found["r2"].sel(kind="onsager_machlup")) < 0.2
    assert abs(float(found["mean_rank"].sel(kind="kinetic")) - 0.5) < 1e-12


def test_a_straight_path_is_straight_and_closes_its_gap_evenly():
    draw = np.random.default_rng(6)
    straight = np.linspace(0, 1, 6)[:, None] * draw.standard_normal((3, 1, 4))
    found = helpful(straight)
    np.testing.assert_allclose(found["straightness"], 1)
    np.testing.assert_allclose(found["gap_closed"], 0.2)
    bent = helpful(draw.standard_normal((3, 6, 4)))
    assert (bent["straightness"] < 1).all()
    np.testing.assert_allclose(bent["gap_closed"].sum("step"), 1)


def test_settle_depth_is_the_first_layer_that_keeps_the_final_token():
    top = np.array([[7, 7, 7], [1, 7, 7], [7, 1, 7], [7, 7, 1]])
    np.testing.assert_array_equal(settle_depth(top, np.full(4, 7)), [0, 1, 2, 3])


@pytest.mark.parametrize(
    ("path", "trials", "words"),
    [
        (np.ones((1, 9, 2)), None, "1 documents of 9 steps"),
        (np.ones((4, 3, 2)), None, "4 documents of 3 steps"),
        (np.ones((4, 9, 2)), None, "path of a document is constant"),
        (np.full((4, 9, 2), np.nan), None, "not finite"),
        (np.ones((4, 9, 2)), np.ones((4, 0, 9, 2)), r"trials of shape \(4, 0, 9, 2\)"),
        (np.ones((4, 9, 2)), np.ones((4, 3, 8, 2)), r"trials of shape \(4, 3, 8, 2\)"),
    ],
)
def test_paths_that_have_no_rank_are_refused_in_one_line(path, trials, words):
    with pytest.raises(RequestError, match=words) as refused:
        helpful(path, trials)
    assert "\n" not in str(refused.value)
