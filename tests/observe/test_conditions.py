"""Laws of the statistics by condition: what is planted comes back, intervals cover, nothing foretells nothing."""

import numpy as np
import pytest
import xarray

from infodyn_interp.errors import RequestError
from infodyn_interp.observe import compare_instantiations, contrast, describe, project
from infodyn_interp.observe.conditions import autocorrelation

REPLY = ("prompt", "trial", "step")


def rng(*seed):
    return np.random.default_rng(seed)


def remember(noise, memory, axis):
    out = noise.copy()
    steps = np.moveaxis(out, axis, 0)
    for n in range(1, len(steps)):
        steps[n] = memory * steps[n - 1] + np.sqrt(1 - memory**2) * steps[n]
    return out


def proxies(generator, temperatures=2, prompts=10, trials=6, steps=40, between=1.0, within=0.5, shift=0.3):
    means = between * generator.standard_normal((1, prompts, 1, 1)) + within * generator.standard_normal(
        (temperatures, prompts, trials, 1)
    )
    values = means + shift * np.arange(temperatures)[:, None, None, None] + 0.01 * np.arange(steps)
    values = values + 0.3 * remember(
        generator.standard_normal((temperatures, prompts, trials, steps)), 0.5, 3
    )
    return xarray.DataArray(
        values[..., None],
        dims=("temperature", *REPLY, "proxy"),
        coords={"temperature": [0.7, 1.0][:temperatures], "proxy": ["tension"]},
    )


def test_mean_trend_and_autocorrelation_of_each_reply_are_what_was_planted():
    seen = proxies(rng(0), within=0.0, between=0.0, steps=400)
    seen[0, 2, 3, 250:] = np.nan
    found = describe(seen)
    by_trial = found["by_trial"].squeeze("proxy").sel(temperature=0.7)
    assert by_trial.dims == ("prompt", "trial", "statistic")
    np.testing.assert_allclose(by_trial.sel(statistic="trend"), 0.01, atol=2e-3)
    line = by_trial.sel(statistic="mean").values
    assert line[2, 3] == pytest.approx(0.01 * 124.5, abs=0.15)
    np.testing.assert_allclose(np.delete(line, 3, 1), 0.01 * 199.5, atol=0.15)
    xarray.testing.assert_allclose(found["by_prompt"], found["by_trial"].mean("trial"))
    xarray.testing.assert_allclose(found["value"], found["by_prompt"].mean("prompt"))


@pytest.mark.parametrize("memory", [0.0, 0.5, 0.8])
def test_a_short_reply_does_not_hide_its_memory(memory):
    x = remember(rng(1).standard_normal((4000, 25, 1)), memory, 1)
    assert autocorrelation(x).mean() == pytest.approx(memory, abs=0.03)


def test_variances_between_and_within_prompts_come_back_and_their_intervals_cover():
    covered, runs = np.zeros(2), 60
    for seed in range(runs):
        found = describe(proxies(rng(2, seed), 1, prompts=16, steps=12)).sel(
            statistic="mean", proxy="tension"
        )
        noise = 0.3**2 / 12 * (1 + 2 * sum(0.5**k * (1 - k / 12) for k in range(1, 12)))
        for place, (name, truth) in enumerate((("between", 1.0), ("within", 0.25 + noise))):
            low, high = (float(found[f"{name}_{end}"][0]) for end in ("low", "high"))
            covered[place] += low <= truth <= high
    assert (covered / runs > 0.82).all(), covered / runs  # a jackknife of a variance of 16 is a little short


def test_temperatures_are_compared_within_prompts():
    seen = proxies(rng(3), between=5.0, within=0.1)
    found = contrast(describe(seen)).sel(temperature=1.0, proxy="tension", statistic="mean")
    assert found["difference_low"] < 0.3 < found["difference_high"]
    assert found["difference_high"] - found["difference_low"] < 0.3
    alone = describe(seen).sel(proxy="tension", statistic="mean")
    assert (
        alone["value_high"] - alone["value_low"]
    ).min() > 3  # what prompts differ by is not in the contrast
    back = contrast(describe(seen), base=1.0)
    np.testing.assert_allclose(
        back["difference"].sel(temperature=0.7, statistic="mean").item(), -found["difference"]
    )


def parts(generator, prompts=8, trials=6, steps=40):
    inside = generator.standard_normal((prompts, trials, steps, 2, 3))
    inside[..., 1] = 0.8 * inside[..., 0] + 0.6 * inside[..., 1]
    return xarray.DataArray(
        inside, dims=(*REPLY, "layer", "series"), coords={"series": ["prosody", "track", "carry"]}
    )


def test_shares_alone_unique_and_shared_are_those_of_the_population():
    inside = parts(rng(4), steps=200)
    noise = rng(5).standard_normal(inside.shape[:3])
    seen = (inside[..., 0, 0] + inside[..., 0, 1] + noise).expand_dims(proxy=["tension"], axis=-1)
    found = project(seen + 7 * rng(6).standard_normal((8, 1, 1, 1)), inside).sel(proxy="tension")
    # var(first + second) = 2 + 1.6, of 4.6; each alone holds 1.8^2, over the other 0.6^2
    first = found.isel(layer=0)
    assert first["r2"] == pytest.approx(3.6 / 4.6, abs=0.02)
    np.testing.assert_allclose(first["alone"], [1.8**2 / 4.6, 1.8**2 / 4.6, 0], atol=0.02)
    np.testing.assert_allclose(first["unique"], [0.36 / 4.6, 0.36 / 4.6, 0], atol=0.02)
    assert first["shared"] == pytest.approx((3.6 - 0.72) / 4.6, abs=0.02)
    assert (first["r2_low"] < 3.6 / 4.6) & (first["r2_high"] > 3.6 / 4.6)
    assert found["r2"].isel(layer=1) < 0.01


def test_a_part_that_is_a_copy_is_unique_in_nothing():
    inside = parts(rng(4))
    inside[..., 1] = inside[..., 0]
    seen = inside[..., 0, :1].rename(series="proxy")
    found = project(seen.drop_vars("proxy").assign_coords(proxy=["tension"]), inside).isel(layer=0, proxy=0)
    np.testing.assert_allclose(found["alone"][:2], 1)
    np.testing.assert_allclose(found["unique"][:2], 0, atol=1e-12)


def test_nothing_foretells_nothing_however_alike_the_replies_to_a_prompt_are():
    shares = []
    for seed in range(20):
        inside = parts(rng(7, seed)) + rng(8, seed).standard_normal((8, 1, 1, 2, 3)) * 3
        seen = rng(9, seed).standard_normal((8, 6, 40, 2)) + 3 * rng(10, seed).standard_normal((8, 1, 1, 2))
        shares.append(project(seen, inside)["r2"].values)
    assert np.mean(shares) < 0
    assert np.max(shares) < 0.01


@pytest.mark.parametrize("trials", [4, 12])
def test_the_participation_ratio_counts_directions_whatever_the_trials(trials):
    states = rng(11).standard_normal((2, 6, trials, 60, 20)) + 5 * rng(12).standard_normal((2, 6, 1, 60, 20))
    states[1, ..., 5:] = 0
    found = compare_instantiations(
        xarray.DataArray(
            states, dims=("condition", *REPLY, "direction"), coords={"condition": ["none", "prompt"]}
        )
    )
    ratio = found["value"].sel(statistic="participation_ratio")
    assert ratio.sel(condition="none") == pytest.approx(20, rel=0.08)
    assert ratio.sel(condition="prompt") == pytest.approx(5, rel=0.08)
    difference = contrast(found, "condition").sel(condition="prompt", statistic="participation_ratio")
    assert difference["difference_high"] < -10


def test_step_sizes_are_the_mean_motion():
    walk = np.cumsum(np.full((2, 4, 10, 3), 2.0), 2)
    walk[0, 1, 6:] = np.nan
    walk += rng(0).standard_normal((2, 4, 1, 3))
    found = compare_instantiations(walk)
    np.testing.assert_allclose(found["by_prompt"].sel(statistic="step_size"), 2 * np.sqrt(3))


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda: describe(np.zeros((1, 3, 5, 1))), "1 prompts: an interval"),
        (lambda: describe(np.zeros((3, 1, 5, 1))), "1 trials a prompt"),
        (lambda: describe(np.zeros((3, 5, 1))), "no dimension prompt"),
        (lambda: contrast(describe(np.zeros((3, 2, 5, 1)))), "no two values of temperature"),
        (
            lambda: contrast(describe(proxies(rng(0))), base=3.0),
            "3.0 is no temperature; take one of 0.7, 1.0",
        ),
        (lambda: project(np.zeros((2, 2, 5, 1)), np.zeros((2, 2, 5, 1, 1))), "3 are needed to leave one out"),
        (lambda: project(np.zeros((3, 2, 5, 1)), np.zeros((3, 2, 6, 1, 1))), r"parts: \(3, 2, 6\)"),
        (lambda: compare_instantiations(np.zeros((3, 3, 5, 2))), "3 trials a prompt; take 4 or more"),
        (lambda: compare_instantiations(np.zeros((1, 4, 5, 2))), "1 prompt: an interval"),
    ],
)
def test_what_has_no_statistics_is_refused_in_one_line(ask, message):
    with pytest.raises(RequestError, match=message) as caught:
        ask()
    assert "\n" not in str(caught.value)
