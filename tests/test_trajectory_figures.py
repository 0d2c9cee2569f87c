"""Figures of trajectories show what was found: positions, levels and counts are those of the data."""

import numpy as np
import pytest
from matplotlib.figure import Figure
from synthetic import make_acting, make_jumping

import infodyn_interp as idi
from infodyn_interp.errors import RequestError


def marked(plate, name):
    return [artist for ax in plate.axes for artist in ax.get_children() if artist.get_gid() == name]


def test_a_raster_marks_every_change_point_and_draws_the_critical_value():
    found = make_jumping()
    plate = idi.figures.jump_raster(found, [0, 5])
    for line, one in zip(marked(plate, "jump"), (0, 5), strict=True):
        np.testing.assert_array_equal(line.get_xdata(), np.flatnonzero(found["jump"].values[one]))
    assert {float(line.get_ydata()[0]) for line in marked(plate, "critical")} == {float(found["critical"])}
    assert str(found["verdict"].item()) in plate.caption


def test_a_threshold_curve_steps_at_the_critical_value():
    found = make_jumping()
    plate = idi.figures.threshold_curve(found, "page")
    (step,) = marked(plate, "step")
    assert set(step.get_xdata()[1:3]) == {float(found["critical"])}
    assert step.get_ydata()[-1] > step.get_ydata()[0]
    assert f"{found.attrs['steps']} steps" in plate.caption


def test_a_threshold_curve_is_drawn_into_a_panel_of_ones_own():
    mine = Figure()
    left, right = mine.subplots(1, 2)
    assert idi.figures.threshold_curve(make_jumping(), ax=right) is mine
    assert not left.has_data()
    (own,) = idi.figures.threshold_curve(make_jumping()).axes
    for name in ("step", "quadratic", "constant"):
        (here,), (there,) = ([line for line in ax.lines if line.get_gid() == name] for ax in (right, own))
        np.testing.assert_array_equal(here.get_xydata(), there.get_xydata())
    assert right.get_xlabel() == own.get_xlabel()


def test_a_histogram_of_ranks_counts_every_document():
    found = make_acting()
    plate = idi.figures.action_ranks(found)
    for ax in plate.axes:
        assert sum(bar.get_height() for bar in ax.patches) == 20
    for line, mean in zip(marked(plate, "mean"), found["mean_rank"].values, strict=True):
        assert line.get_xdata()[0] == mean
    assert "no trials were given" in plate.caption


@pytest.mark.parametrize("draw", [idi.figures.jump_raster, idi.figures.threshold_curve])
def test_what_does_not_hold_the_data_is_refused_in_one_line(draw):
    with pytest.raises(
        RequestError, match=r"figure: no (jump|curve) in what was given; it holds action, rank"
    ):
        draw(make_acting())


def test_a_document_that_is_not_there_is_refused():
    with pytest.raises(RequestError, match="document: 6 asked, there are 0 to 5"):
        idi.figures.jump_raster(make_jumping(), [6])
