"""Laws of the figures of the output side: what is drawn is what was found, and each warns of its artefacts."""

import re

import numpy as np
import pytest
from synthetic import make_observed

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
    assert len(line.get_ydata()) == min(40 - start, {"column": 28, "page": 64}[width])
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
            (dots,) = drawn(ax, verdict)
            row, column = np.nonzero((one["verdict"] == verdict).values)
            np.testing.assert_array_equal(np.asarray(dots.get_offsets()) - 0.5, np.stack([column, row], 1))
    assert "reliability .8" in plate.caption
    counts = sum(map(int, re.findall(r"(\d+) (?:VISIBLE|ALSO|ONLY|NOT_VIS)", plate.caption)))
    assert counts == coupled["verdict"].size


def test_what_cannot_be_drawn_is_refused():
    seen = make_observed()["reply"]
    described, coupled = make_observed()["described"], make_observed()["coupled"]
    for ask, message in (
        (lambda: figures.trajectory(seen.expand_dims("trial")), r"choose one of \(trial\)"),
        (lambda: figures.trajectory(seen, 40), "start 40 of a reply of 40 steps"),
        (lambda: figures.trajectory(seen.drop_vars(["text", "x_plane"])), "needs text, x_plane"),
        (lambda: figures.temperature_ladder(described.isel(temperature=0)), "no temperatures"),
        (lambda: figures.temperature_ladder(described, "median"), "take mean, trend, autocorrelation"),
        (lambda: figures.coupling_map(coupled.drop_vars("verdict")), "no verdicts"),
    ):
        with pytest.raises(RequestError, match=message):
            ask()
