"""Laws of the coupling test: silent where nothing is coupled, seeing what is, and right about in what sense."""

import json

import numpy as np
import pytest
import scipy.stats
import xarray

from infodyn_interp.errors import RequestError
from infodyn_interp.observe import Visibility, couple, track_equilibrium
from infodyn_interp.observe.pairings import LAGS, draw_shuffles, pair_up
from infodyn_interp.observe.residuals import MEMORY, demean, innovations
from infodyn_interp.planted import REPLY_WORLDS, ReplyWorld, draw_replies

SILENT = [name for name in REPLY_WORLDS if name not in ("unequal_scales", "surprisal_unreliable")]


def rng(*seed):
    return np.random.default_rng(seed)


@pytest.mark.parametrize("world", SILENT)
def test_what_is_not_coupled_is_rejected_at_the_level(world):
    runs, cells = 20, []
    for seed in range(runs):
        drawn = draw_replies(REPLY_WORLDS[world], rng(seed), 4, 5, 32, layers=2)
        cells.append(
            couple(drawn.seen, drawn.inside, drawn.controls, generator=rng(seed), shuffles=199)["p"].values
        )
    rejected = np.mean(np.array(cells) <= 0.05, axis=(1, 2, 3))
    # cells of a run share their proxies: the spread of the runs says how far the mean may stray
    assert abs(rejected.mean() - 0.05) < 3 * max(rejected.std(), 0.1) / np.sqrt(runs)


@pytest.mark.parametrize("world", ["surprisal_linear", "surprisal_quadratic"])
def test_what_goes_through_surprisal_is_said_to(world):
    drawn = draw_replies(REPLY_WORLDS[world], rng(1), 8, 6, 64)
    found = couple(drawn.seen, drawn.inside, drawn.controls)
    assert (found["verdict"] == Visibility.ONLY_THROUGH_SURPRISAL).all()
    assert (found["p_without"] == 0.001).all()


@pytest.mark.parametrize("memory", [0.0, 0.9])
@pytest.mark.parametrize("lag", [-5, 0, 3])
def test_an_effect_is_seen_where_it_is_at_its_lag_and_nowhere_else(memory, lag):
    drawn = draw_replies(ReplyWorld(memory=memory), rng(lag + 9), 12, 8, 64, effect=0.2, lag=lag)
    found = couple(drawn.seen, drawn.inside, drawn.controls)
    cell = found.isel(layer=0, series=0, proxy=0)
    assert cell["verdict"] == Visibility.VISIBLE
    assert cell["peak_lag"] == lag
    assert cell["r"] == pytest.approx(0.2, abs=0.05)
    assert cell["r_by_lag"].sel(lag=lag) == cell["r"]
    assert (found["verdict"].values.ravel()[1:] == Visibility.NOT_VISIBLE).all()


def test_a_twin_that_shows_as_much_explains_the_cell_and_one_that_shows_the_opposite_does_not():
    drawn = draw_replies(ReplyWorld(memory=0.6), rng(0), 8, 6, 64, effect=0.4)

    def verdict(twin):
        found = couple(drawn.seen, drawn.inside, drawn.controls, twin)
        return found["verdict"].values[0, 0, 0], found

    like, found = verdict(drawn.inside + 0.5 * rng(1).standard_normal(drawn.inside.shape))
    assert like == Visibility.ALSO_UNTRAINED
    assert found["r_untrained"][0, 0, 0] >= 0.5 * found["r"][0, 0, 0]
    assert verdict(-drawn.inside)[0] == Visibility.VISIBLE
    assert verdict(drawn.inside + 4 * rng(1).standard_normal(drawn.inside.shape))[0] == Visibility.VISIBLE
    assert verdict(rng(2).standard_normal(drawn.inside.shape) + 0 * drawn.inside)[0] == Visibility.VISIBLE


def test_the_limit_is_what_is_seen_in_half_of_the_cases():
    drawn = draw_replies(ReplyWorld(), rng(3), 8, 5, 40)
    limit = couple(drawn.seen, drawn.inside, drawn.controls, shuffles=399)["limit"].values
    assert np.isfinite(limit).all()
    seen, effect, runs = 0, float(limit.mean()), 60
    for seed in range(runs):
        one = draw_replies(ReplyWorld(), rng(4, seed), 8, 5, 40, effect=effect)
        found = couple(one.seen, one.inside, one.controls, generator=rng(seed), shuffles=399)
        seen += int(found["p"].values[0, 0, 0] <= 0.05 / 4)
    assert scipy.stats.binomtest(seen, runs).pvalue > 0.001, seen


def test_more_shuffles_are_drawn_where_the_table_has_more_tests_than_they_tell_apart():
    drawn = draw_replies(ReplyWorld(), rng(0), 3, 4, 24, layers=20)
    found = couple(drawn.seen, drawn.inside, drawn.controls)
    assert found.attrs["shuffles"] == 80 / 0.05 - 1
    few = couple(drawn.seen, drawn.inside, drawn.controls, shuffles=99)
    assert (few["verdict"] == Visibility.NOT_VISIBLE).all()
    assert np.isinf(few["limit"]).all()


def test_sums_over_pairs_are_the_products_of_shuffled_series():
    generator = rng(0)
    known = np.arange(12) < np.array([[12, 9, 12], [12, 12, 0]])[..., None]
    one, other = (np.where(known[..., None], generator.standard_normal((2, 3, 12, n)), 0) for n in (4, 2))
    partners = draw_shuffles(np.array([3, 2]), 3, 5, generator)
    (found,) = pair_up(one, other, known, partners)
    for shuffle in range(5):
        for place, lag in enumerate(LAGS):
            sums, pairs = np.zeros((4, 2)), 0
            for prompt, partner in enumerate(partners):
                for trial, mate in enumerate(partner[shuffle, : known[prompt].any(1).sum()]):
                    for step in range(12):
                        if (
                            0 <= step + lag < 12
                            and known[prompt, trial, step]
                            and known[prompt, mate, step + lag]
                        ):
                            sums += np.outer(one[prompt, trial, step], other[prompt, mate, step + lag])
                            pairs += 1
            np.testing.assert_allclose(found.shuffled[shuffle, place], sums, atol=1e-4)
            assert found.pairs_shuffled[shuffle, place] == pairs
    moved = rng(1).standard_normal((4000, 2, 3, 12, 1))
    left = np.stack([demean(one, known)[..., 0] for one in moved])
    sums = np.einsum("npts,npts->n", left[:2000], left[2000:])
    assert found.spread[LAGS.index(0)] == pytest.approx(sums.std(), rel=0.05)
    np.testing.assert_allclose(found.true[LAGS.index(0)], np.einsum("ptsc,ptsq->cq", one, other), atol=1e-10)
    assert found.pairs[LAGS.index(0)] == known.sum()


def test_innovations_keep_neither_their_past_nor_the_nuisances():
    generator = rng(2)
    known = np.ones((6, 8, 60), bool)
    nuisance = generator.standard_normal((6, 8, 60, 1))
    noise = generator.standard_normal((6, 8, 60, 1))
    series = noise + 3 * nuisance
    for step in range(1, 60):
        series[:, :, step] += 0.8 * (series[:, :, step - 1] - 3 * nuisance[:, :, step - 1])
    left, fitted = innovations(demean(series, known), demean(nuisance, known), known)
    assert fitted == 2 * MEMORY + 1
    assert np.corrcoef(left.ravel(), noise[:, :, MEMORY:].ravel())[0, 1] > 0.9
    assert abs((left[:, :, 1:] * left[:, :, :-1]).mean()) < 0.05
    assert abs((left * nuisance[:, :, MEMORY:]).mean()) < 0.05


def test_order_and_units_change_nothing_but_the_draw():
    drawn = draw_replies(REPLY_WORLDS["unequal_lengths"], rng(5), 5, 5, 40, effect=0.3)
    found = couple(drawn.seen, drawn.inside, drawn.controls)
    turned = couple(
        drawn.seen[::-1, ::-1] * 7 + 3, drawn.inside[::-1, ::-1] / 9, drawn.controls[::-1, ::-1] * 2
    )
    np.testing.assert_allclose(turned["r_by_lag"], found["r_by_lag"], atol=1e-9)
    np.testing.assert_allclose(turned["p"], found["p"], atol=0.06)


def test_a_trial_that_is_missing_counts_for_nothing():
    drawn = draw_replies(ReplyWorld(memory=0.5), rng(6), 5, 4, 40, effect=0.3)

    def widen(one):
        return one.pad(trial=(1, 0))

    found = couple(drawn.seen, drawn.inside, drawn.controls)
    xarray.testing.assert_allclose(
        couple(widen(drawn.seen), widen(drawn.inside), widen(drawn.controls)), found
    )


def test_datasets_go_in_as_they_come_and_arrays_say_the_same():
    generator = rng(7)
    seen = track_equilibrium(generator.standard_normal((4, 4, 30, 3)), 0.2)
    names = ["surprisal", "entropy", "log_frequency", "repeats"]
    dims = ("prompt", "trial", "step")
    controls = generator.standard_normal((4, 4, 30, 4))
    inside = generator.standard_normal((4, 4, 30, 2, 3))
    data = xarray.Dataset(
        {name: ((*dims, "layer"), inside[..., k]) for k, name in enumerate(("prosody", "track", "carry"))}
        | {name: (dims, controls[..., k]) for k, name in enumerate(names)},
        {"layer": [3, 9]},
    )
    found = couple(seen, data)
    assert found["proxy"].values.tolist() == ["tension", "kinetic_energy", "speed", "curvature"]
    assert found["series"].values.tolist() == ["prosody", "track", "carry"]
    assert found["layer"].values.tolist() == [3, 9]
    assert json.loads(found.attrs["controls"]) == [*names, "position"]
    plain = couple(
        seen.drop_vars("equilibrium").to_dataarray("proxy").transpose(*dims, "proxy").values, inside, controls
    )
    np.testing.assert_array_equal(plain["p"], found["p"])
    assert set(json.loads(found.attrs["advice"])) == {one.value for one in Visibility}
    assert "reliability .8" in found.attrs["caveat"]
    assert all("units" in found[name].attrs for name in found.data_vars)


def test_surprisal_and_entropy_alone_are_controls_enough():
    drawn = draw_replies(REPLY_WORLDS["surprisal_linear"], rng(1), 6, 5, 40)
    found = couple(drawn.seen, drawn.inside, drawn.controls[..., :2])
    assert (found["verdict"] == Visibility.ONLY_THROUGH_SURPRISAL).all()


def test_what_does_not_vary_or_is_a_control_itself_is_not_visible():
    drawn = draw_replies(ReplyWorld(), rng(8), 4, 5, 30)
    inside = drawn.inside.copy()
    inside[..., 0] = 3.7
    inside[..., 1] = drawn.controls.values[..., :1]
    found = couple(drawn.seen, inside, drawn.controls)
    assert np.isnan(found["p"]).all()
    assert np.isnan(found["limit"]).all()
    assert np.isnan(found["p_without"].sel(series="first")).all()
    assert np.isfinite(found["p_without"].sel(series="second")).all()
    assert (found["verdict"] == Visibility.NOT_VISIBLE).all()


def _nan_inside(drawn):
    drawn.inside[1, 2, 9] = np.nan


def _one_trial(drawn):
    for one in (drawn.seen, drawn.inside, drawn.controls):
        one[2, 1:] = np.nan


@pytest.mark.parametrize(
    ("size", "spoil", "message"),
    [
        ((4, 5, 30), _nan_inside, r"internals: NaN inside a reply \(prompt 1, trial 2, step 9\)"),
        ((4, 5, 30), _one_trial, "prompt 2 has 1 trial; take 2 or more of each"),
        ((4, 1, 30), None, "1 trials a prompt; take 2 or more"),
        ((4, 5, 5), None, "take longer replies or smaller steps|steps that a coupling needs"),
        ((2, 2, 30), None, "no test could reject at 0.05; take more trials"),
    ],
)
def test_what_cannot_be_coupled_is_refused_in_one_line(size, spoil, message):
    drawn = draw_replies(ReplyWorld(), rng(0), *(size if size[2] > 5 else (*size[:2], 30)))
    drawn = type(drawn)(*(one.copy() for one in (drawn.inside, drawn.seen, drawn.controls)))
    if spoil is not None:
        spoil(drawn)
    if size[2] == 5:
        drawn = type(drawn)(*(one[:, :, :4] for one in (drawn.inside, drawn.seen, drawn.controls)))
    with pytest.raises(RequestError, match=message) as caught:
        couple(drawn.seen, drawn.inside, drawn.controls)
    assert "\n" not in str(caught.value)


def test_controls_and_replies_that_do_not_fit_are_refused():
    drawn = draw_replies(ReplyWorld(), rng(0), 4, 5, 30)
    with pytest.raises(RequestError, match="no surprisal and no entropy"):
        couple(drawn.seen, drawn.inside, drawn.controls[..., 2:])
    with pytest.raises(RequestError, match="controls: none given"):
        couple(drawn.seen, drawn.inside)
    with pytest.raises(RequestError, match=r"proxies: .* give the same prompts, trials and steps"):
        couple(drawn.seen[:, :, :20], drawn.inside, drawn.controls)
    with pytest.raises(RequestError, match=r"twin: \(1, 1\) layers and series; the model has \(1, 2\)"):
        couple(drawn.seen, drawn.inside, drawn.controls, drawn.inside[..., :1])
    with pytest.raises(RequestError, match="could reject"):
        couple(drawn.seen, drawn.inside, drawn.controls, shuffles=5)
