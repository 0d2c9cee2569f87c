"""Laws of the figures of the output side: what is drawn is what was found, and each warns of its artefacts."""

import re

import numpy as np
import pytest
import xarray
from synthetic import make_instances, make_observed

from infodyn_interp import RequestError, figures


def drawn(ax, gid):
    return [artist for artist in ax.get_children() if artist.get_gid() == gid]


@pytest.mark.parametrize("width", ["column", "page"])
@pytest.mark.parametrize("start", [0, 30])
def test_a_trajectory_shows_tension_over_its_text_and_both_ways(width, start):
    seen = make_observed()["reply"]
    plate = figures.trajectory(seen, start, width=width)
    above, below = plate.axes
    (line,) = drawn(above, "tension")
    np.testing.assert_array_equal(line.get_ydata(), seen["tension"][start : start + len(line.get_ydata())])
    assert len(line.get_ydata()) == min(40 - start, {"column": 24, "page": 55}[width])
    shown = [text.get_text() for text in above.get_xticklabels()]
    assert shown[:2] == {0: ["The", "quick"], 30: ["sleeps", ".⏎"]}[start]
    (way,) = drawn(below, "xbar")
    (points,) = drawn(below, "x")
    # a rotation: distances between x and xbar in the plane are not longer than the tension
    apart = np.linalg.norm(points.get_offsets() - np.array(way.get_data()).T, axis=1)
    assert (apart <= line.get_ydata() + 1e-9).all()
    assert "what smoothing makes of noise too" in plate.caption


def test_a_ladder_shows_each_temperature_with_its_interval():
    described = make_observed()["described"]
    plate = figures.temperature_ladder(described, "trend")
    assert len(plate.axes) == described.sizes["proxy"]
    for ax, proxy in zip(plate.axes, described["proxy"].values, strict=True):
        one = described.sel(proxy=proxy, statistic="trend")
        (line,) = drawn(ax, "value")
        np.testing.assert_array_equal(line.get_ydata(), one["value"])
        (bars,) = drawn(ax, "interval")
        ends = np.array([segment[:, 1] for segment in bars.get_segments()])
        np.testing.assert_array_equal(ends, np.stack([one["value_low"], one["value_high"]], 1))
        assert len(drawn(ax, "prompt")) == described.sizes["prompt"]


def test_a_sweep_shows_the_bands_beside_the_values():
    swept = make_observed()["swept"]
    plate = figures.alpha_sweep(swept, width="page")
    for ax, statistic in zip(plate.axes, swept["statistic"].values, strict=True):
        (line,) = drawn(ax, "value")
        np.testing.assert_array_equal(line.get_ydata(), swept["value"].sel(statistic=statistic))
        for reference in ("iid", "ar"):
            (band,) = drawn(ax, reference)
            heights = band.get_paths()[0].vertices[:, 1]
            ends = swept.sel(statistic=statistic, reference=reference)
            assert heights.min() == pytest.approx(ends["low"].min().item())
            assert heights.max() == pytest.approx(ends["high"].max().item())
    assert "outside both bands says something" in plate.caption


def test_a_coupling_map_marks_every_verdict_where_it_is():
    coupled = make_observed()["coupled"]
    plate = figures.coupling_map(coupled)
    found = set(np.unique(coupled["verdict"].values))
    assert {"VISIBLE", "ALSO_UNTRAINED", "ONLY_THROUGH_SURPRISAL"} & found
    for ax, series in zip(plate.axes, coupled["series"].values, strict=False):
        one = coupled.sel(series=series).transpose("proxy", "layer", ...)
        (mesh,) = drawn(ax, "r")
        np.testing.assert_array_equal(mesh.get_array().reshape(one["r"].shape), one["r"])
        for verdict in ("VISIBLE", "ALSO_UNTRAINED", "ONLY_THROUGH_SURPRISAL"):
            up, down = drawn(ax, verdict)
            for dots, side in ((up, one["r"] >= 0), (down, one["r"] < 0)):
                row, column = np.nonzero(((one["verdict"] == verdict) & side).values)
                np.testing.assert_array_equal(
                    np.asarray(dots.get_offsets()) - 0.5, np.stack([column, row], 1)
                )
    assert "reliability .8" in plate.caption
    counts = sum(map(int, re.findall(r"(\d+) (?:VISIBLE|ALSO|ONLY|NOT_VIS)", plate.caption)))
    assert counts == coupled["verdict"].size


@pytest.mark.parametrize("layer", [None, 3])
@pytest.mark.parametrize("twin", [True, False])
def test_an_instantiation_shows_every_condition_paired_by_prompt_beside_the_twin(twin, layer):
    found = make_instances(twin=twin).isel(temperature=1)
    plate = figures.instantiation(found, layer)
    at = 9 if layer is None else layer
    for above, below, name in zip(plate.axes[:2], plate.axes[2:], found["statistic"].values, strict=True):
        one = found.sel(statistic=name)
        for weights in found["weights"].values:
            here = one.sel(weights=weights, layer=at)
            (dots,), (bars,) = drawn(above, weights), drawn(above, f"{weights} interval")
            np.testing.assert_array_equal(dots.get_ydata(), here["value"])
            ends = np.array([segment[:, 1] for segment in bars.get_segments()])
            np.testing.assert_array_equal(ends, np.stack([here["value_low"], here["value_high"]], 1))
            for instance in ("prompt", "chat"):
                (line,) = drawn(below, f"{weights} {instance}")
                np.testing.assert_array_equal(
                    line.get_ydata(), one["difference"].sel(weights=weights, instance=instance)
                )
        lines = np.array([line.get_ydata() for line in drawn(above, "prompt")])
        by_prompt = one["by_prompt"].sel(weights="trained", layer=at).transpose("prompt", "condition")
        np.testing.assert_array_equal(lines, by_prompt)
    assert plate.axes[0].get_title("left") == f"participation ratio, layer {at}"
    assert "n = 5 prompts, 6 trials each; 1 prompts left out" in plate.caption
    assert ("the untrained twin" in plate.caption) == twin


def test_a_prompt_that_is_left_out_keeps_its_place_in_the_group():
    found = make_instances(prompts=4, left_out=2)
    assert found["by_prompt"].isnull().all(set(found["by_prompt"].dims) - {"prompt"}).values.tolist() == [
        1,
        1,
        0,
        0,
    ]
    names = xarray.Dataset(coords={"prompt_text": ("prompt", list("abcd"))})
    tree = xarray.DataTree.from_dict({"/output": names, "/output/instantiation": found})
    assert tree["output/instantiation"].sizes["prompt"] == len(names["prompt_text"])
    kept = found["by_prompt"].isel(prompt=[2, 3]).mean("prompt")
    np.testing.assert_allclose(found["value"], kept.transpose(*found["value"].dims))


def test_what_cannot_be_drawn_is_refused():
    seen = make_observed()["reply"]
    described, coupled = make_observed()["described"], make_observed()["coupled"]
    for ask, message in (
        (lambda: figures.trajectory(seen.expand_dims("trial")), r"choose one of \(trial\)"),
        (lambda: figures.trajectory(seen, 40), "start 40 of a reply of 40 steps"),
        (lambda: figures.trajectory(seen.drop_vars(["text", "x_plane"])), "needs text, x_plane"),
        (lambda: figures.temperature_ladder(described.isel(temperature=0)), "no temperatures"),
        (lambda: figures.temperature_ladder(described, "median"), "take mean, trend, autocorrelation"),
        (lambda: figures.instantiation(make_instances()), "of one temperature"),
        (lambda: figures.instantiation(seen), "give the group output/instantiation"),
        (
            lambda: figures.instantiation(make_observed()["instances"], 4),
            r"layer: 4 asked, the instantiation has 0\.\.15 by 3",
        ),
        (lambda: figures.coupling_map(coupled.drop_vars("verdict")), "no verdicts"),
    ):
        with pytest.raises(RequestError, match=message):
            ask()
