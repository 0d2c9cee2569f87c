"""Descent: rises are counted right, and a path that only remembers is like its twins."""

import numpy as np
import pytest
from scipy.signal import lfilter

from infodyn_interp.errors import RequestError
from infodyn_interp.measures.descent import count_rises, measure_descent


def remembering(draw, documents=12, steps=60, directions=2, rho=0.7):
    noise = draw.standard_normal((documents, steps + 50, directions))
    return lfilter([1], [1, -rho], noise, axis=1)[:, 50:]


def floating(path):
    """Energy about an equilibrium that floats after the path."""
    equilibrium = lfilter([0.1], [1, -0.9], path, axis=1)
    return ((path - equilibrium) ** 2).sum(-1) / 2


def test_rises_and_their_longest_run_are_counted():
    share, run = count_rises(np.array([[0.0, 1, 2, 1, 2, 3, 4, 0], [3, 2, 1, 0, -1, -2, -3, -4]]))
    np.testing.assert_allclose(share, [5 / 7, 0])
    np.testing.assert_array_equal(run, [3, 0])


def test_a_path_that_only_remembers_is_no_different_from_its_twins():
    p = [
        measure_descent(remembering(np.random.default_rng(seed)), {"kinetic": floating}, seed)
        for seed in range(12)
    ]
    for name in ("share_p", "run_p"):
        assert np.mean([one[name].values <= 0.05 for one in p]) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 24)
    assert list(p[0]["energy"].values) == ["quadratic", "kinetic"]


def test_a_path_that_runs_away_rises_where_its_twins_do_not():
    path = remembering(np.random.default_rng(0))
    away = np.random.default_rng(1).choice([-1, 1], (12, 1, 2))
    path = path + 40 * away * np.linspace(0, 1, 60)[:, None] ** 2
    found = measure_descent(path).sel(energy="quadratic")
    assert found["run_p"] <= 0.05
    assert found["run_mean"] > found["run_null_high"]


def test_energies_do_not_know_the_units_of_a_path():
    path = remembering(np.random.default_rng(1))
    first, again = (measure_descent(scale * path)["share"].values for scale in (1, 1e3))
    np.testing.assert_array_equal(first, again)


@pytest.mark.parametrize(
    ("path", "words"),
    [
        (np.ones((1, 20, 2)), "1 documents of 20 steps"),
        (np.ones((4, 5, 2)), "4 documents of 5 steps"),
        (np.ones((4, 20, 2)), "constant or not finite"),
    ],
)
def test_paths_without_a_descent_are_refused_in_one_line(path, words):
    with pytest.raises(RequestError, match=words):
        measure_descent(path)
