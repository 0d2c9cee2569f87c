"""Calibration: silent where nothing was planted, seeing where something was, the same for any number of processes."""

import json

import numpy as np
import pandas as pd
import pytest

from infodyn_interp.errors import RequestError
from infodyn_interp.planted.calibration import calibrate

FEW = ["noise", "key_effects", "prosody_20", "carry_noise"]
RATES = ["identified", "weak", "confounded", "absent", "not_estimable"]


@pytest.fixture(scope="module")
def rates():
    return calibrate(12, [16], worlds=[*FEW, "similarity", "bilinear"])


def test_rates_add_up_and_every_world_has_every_row(rates):
    np.testing.assert_allclose(rates[RATES].sum(axis=1), 1)
    assert len(rates) == 6 * 5
    assert (rates["identified_run"] <= rates["identified"]).all()
    assert set(rates["runs"]) == {12}


def test_what_is_absent_is_not_identified(rates):
    absent = rates[~rates["present"]]
    # 12 runs of 23 absent rows: a rate of .05 in all of them would leave 14 expected
    assert absent["identified"].sum() * 12 <= 0.05 * 12 * len(absent)


def test_what_is_there_is_seen(rates):
    for world, term in (("prosody_20", "prosody"), ("carry_noise", "carry")):
        row = rates[(rates["world"] == world) & (rates["term"] == term)].iloc[0]
        assert row["present"]
        assert row["identified"] >= 0.75


def test_a_stopped_calibration_goes_on_and_processes_change_nothing(tmp_path):
    whole = calibrate(3, [8], 40, FEW, seed=7)
    first = calibrate(2, [8], 40, FEW, seed=7, out=tmp_path)
    assert set(first["runs"]) == {2}
    kept = sorted(tmp_path.glob("*.json"))
    assert len(kept) == 2
    kept[0].write_text("{", encoding="utf-8")  # a damaged draw is drawn again
    again = calibrate(3, [8], 40, FEW, seed=7, processes=2, out=tmp_path)
    pd.testing.assert_frame_equal(again, whole)
    assert json.loads(kept[0].read_text(encoding="utf-8"))["worlds"] == FEW


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"runs": 0}, "at least one run"),
        ({"documents": [3]}, "4 documents are needed"),
        ({"worlds": ["narnia"]}, "'narnia' is not one of"),
        ({"processes": 0}, "one process"),
    ],
)
def test_sizes_that_make_no_draw_are_refused(arguments, message):
    with pytest.raises(RequestError, match=message):
        calibrate(**({"runs": 1} | arguments))
