"""The result file and its tables: nothing is lost on the way to disk, nothing half-written is left there."""

import json
import os
import re

import h5py
import numpy as np
import pandas as pd
import pytest
import xarray
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import make_result

from infodyn_interp import RequestError, RunError, results

OF_A_SWEEP = [name for name in results.TABLES if name not in results.MEASURES]


@pytest.fixture(scope="module")
def result():
    return make_result()


def listing(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_saved_result_reads_back_the_same_to_the_bit(result, tmp_path):
    file = results.save(result, tmp_path / "über alles")
    for way in (file, file.parent):
        back = results.open_result(way)
        for node in result.subtree:
            here, there = node.to_dataset(), back[node.path].to_dataset()
            assert there.attrs == here.attrs
            xarray.testing.assert_equal(there, here)
            for name, variable in here.data_vars.items():
                assert there[name].attrs == variable.attrs
                if variable.dtype.kind == "f":
                    assert there[name].values.tobytes() == variable.values.tobytes()


def test_any_netcdf_reader_reads_each_group_alone(result, tmp_path):
    file = results.save(result, tmp_path)
    with xarray.open_datatree(file, engine="h5netcdf") as tree:
        assert set(tree.children) == set(result.children)
    with xarray.open_dataset(file, engine="h5netcdf", group="terms") as alone:
        assert alone["layer"].values.tolist() == result["layer"].values.tolist()
        assert alone["gain"].sel(layer=4, head=1, term="track") == result["terms/gain"].sel(
            layer=4, head=1, term="track"
        )


def test_every_variable_and_coordinate_in_the_file_has_units(result, tmp_path):
    units = {}

    def visit(name, item):
        # A dimension without a coordinate is a data set of HDF5 too, and not a variable of netCDF.
        dimension = b"This is a netCDF dimension but not a netCDF variable"
        if isinstance(item, h5py.Dataset) and not item.attrs.get("NAME", b"").startswith(dimension):
            units[name] = item.attrs.get("units")

    with h5py.File(results.save(result, tmp_path)) as file:
        file.visititems(visit)
    groups = {node.path[1:]: node.to_dataset(inherit=False) for node in result.subtree if node.path != "/"}
    assert {f"{path}/{name}" for path, group in groups.items() for name in group.variables} <= set(units)
    assert [name for name, unit in units.items() if not unit] == []


def test_a_variable_without_units_is_refused_by_name_and_the_old_file_stays(result, tmp_path):
    file = results.save(result, tmp_path)
    before = file.read_bytes()
    nameless = make_result(seed=1)
    del nameless["reference"]["kl"].attrs["units"]
    with pytest.raises(RunError, match=r"/reference/kl: a variable without units"):
        results.save(nameless, tmp_path)
    assert file.read_bytes() == before
    assert listing(tmp_path) == ["result.nc"]


def test_a_write_that_fails_midway_leaves_the_old_file_and_nothing_beside_it(result, tmp_path):
    file = results.save(result, tmp_path)
    before = file.read_bytes()
    unwritable = make_result(seed=1)
    unwritable["cost"].attrs["writer"] = {"a dict": "cannot be a netCDF attribute"}
    with pytest.raises(TypeError):
        results.save(unwritable, tmp_path)
    assert file.read_bytes() == before
    assert listing(tmp_path) == ["result.nc"]


def test_the_file_is_on_disk_before_it_takes_its_name(result, tmp_path, monkeypatch):
    steps = []
    sync, rename = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (steps.append("sync"), sync(handle)))
    monkeypatch.setattr(os, "replace", lambda here, there: (steps.append("rename"), rename(here, there)))
    results.save(result, tmp_path)
    assert steps == ["sync", "rename", "sync"]


def test_a_place_that_cannot_be_written_is_said_in_one_line(result, tmp_path):
    (tmp_path / "a file").write_text("in the way")
    with pytest.raises(RunError, match=r"not written \([^\n]*\); make room or name another place$"):
        results.save(result, tmp_path / "a file" / "study")


def test_what_is_no_result_is_refused_in_one_line(result, tmp_path):
    with pytest.raises(RequestError, match=r"no result.nc there"):
        results.open_result(tmp_path)
    (tmp_path / "result.nc").write_bytes(b"not netCDF")
    with pytest.raises(RequestError, match=r"not a readable result file"):
        results.open_result(tmp_path)
    whole = results.save(result, tmp_path / "cut").read_bytes()
    (tmp_path / "cut" / "result.nc").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(RequestError, match=r"not a readable result file \([^\n]*\); run the sweep again"):
        results.open_result(tmp_path / "cut")
    xarray.Dataset({"a": 1}).to_netcdf(tmp_path / "other.nc", engine="h5netcdf")
    with pytest.raises(RequestError, match=r"not a result of this package"):
        results.open_result(tmp_path / "other.nc")


@settings(max_examples=25, deadline=None)
@given(layers=st.integers(1, 4), heads=st.integers(1, 5), seed=st.integers(0, 99))
def test_the_terms_table_is_the_tree_row_by_row(layers, heads, seed):
    tree = make_result(layers=layers, heads=heads, seed=seed)
    table = results.table(tree, "terms")
    assert len(table) == layers * heads * 4
    assert not table.duplicated(["layer", "head", "term"]).any()
    group = tree["terms"].to_dataset()
    for row in table.sample(3, random_state=seed).itertuples():
        here = group.sel(layer=row.layer, head=row.head, term=row.term)
        for name in ("share", "gain", "gain_low", "gain_high", "gain_t", "marginal_gain"):
            assert getattr(row, name) == here[name].item()
        assert (row.track_coefficient == here["track_coefficient"].item()) == (row.term == "track")
        assert (row.rhythm_tail_high == here["rhythm_tail_high"].item()) == (row.term == "rhythm")


def test_tables_of_heads_and_stages_are_tidy(result):
    reference = results.table(result, "reference")
    assert len(reference) == 24
    assert reference["r2"].to_numpy() == pytest.approx(result["reference/r2"].values.ravel(), abs=0)
    energy = results.table(result, "energy")
    assert energy["rms_seed"].to_numpy() == pytest.approx(8 * energy["rms"].to_numpy())
    pairs = result["energy/covariance_share"].sel(pair="track-nuisance").values.ravel()
    assert energy["covariance_share_track_nuisance"].to_numpy() == pytest.approx(pairs, abs=0)
    cost = results.table(result, "cost")
    assert cost.columns.tolist() == ["stage", "seconds", "tokens_per_second", "peak_mib"]
    assert cost["stage"].tolist() == ["count", "survey", "fit", "reduce"]


def test_a_removal_has_a_row_for_each_measure_and_heads_left_alone_have_none(result):
    table, group = results.table(result, "ablation"), result["ablation"].to_dataset()
    touched = group["no_causal_effect"].notnull().all("term")
    assert len(table) == int(touched.sum()) * 4 * 4
    for row in table.sample(9, random_state=0).itertuples():
        here = group.sel(layer=row.layer, head=row.head, term=row.term, measure=row.measure)
        assert (row.difference, row.removed_low) == (here["difference"].item(), here["removed_low"].item())
        assert row.difference_permuted_high == here["difference_by_kind_high"].sel(kind="permuted").item()
        assert row.no_causal_effect is bool(here["no_causal_effect"])
        assert row.unit == here["unit"].item()
    assert results.table(result, "ablation", heads="0.0").empty


def test_the_summary_says_which_identified_terms_the_model_does_without(result):
    changed = result.copy(deep=True)
    changed["verdicts/verdict"][:] = "WEAK"
    changed["verdicts/verdict"].loc[{"layer": [0, 2], "head": [0, 1], "term": ["state", "track"]}] = (
        "IDENTIFIED"
    )
    changed["ablation/no_causal_effect"][:] = changed["ablation/no_causal_effect"] * 0
    said = "IDENTIFIED, but without causal effect"
    assert said not in results.summary(changed)
    for term in ("prosody", "track"):
        changed["ablation/no_causal_effect"].loc[{"layer": 2, "head": 0, "term": term}] = 1
    words = results.summary(changed)
    assert f"  {said} (the interval covers 0): track of 2.0.\n" in words + "\n"
    low, high = (
        changed[f"ablation/difference_{end}"].sel(measure="loss", layer=2, head=0, term="track").item()
        for end in ("low", "high")
    )
    assert f"[{low:.3g}, {high:.3g}] nats" in words
    del changed["ablation"]
    assert "live scores" not in results.summary(changed)


@pytest.mark.parametrize("name", OF_A_SWEEP)
def test_every_column_of_a_table_has_a_unit(result, name):
    table = results.table(result, name)
    assert set(table.attrs["units"]) == set(table.columns)
    assert all(table.attrs["units"].values())


def test_heads_filter_a_table_and_nothing_else(result):
    everything = results.table(result, "terms")
    some = results.table(result, "terms", heads=" 10.3,2.0")
    expected = everything[
        [
            (layer, head) in {(10, 3), (2, 0)}
            for layer, head in zip(everything["layer"], everything["head"], strict=True)
        ]
    ]
    pd.testing.assert_frame_equal(some, expected.reset_index(drop=True))
    pd.testing.assert_frame_equal(some, results.table(result, "terms", heads=["2.0", "10.3"]))
    assert len(results.table(result, "cost", heads="2.0")) == 4


@pytest.mark.parametrize(
    ("heads", "message"),
    [
        ("10", r"heads: '10' is not layer\.head; write them as 10\.3,12\.0"),
        ("", r"heads: '' is not layer\.head"),
        ("2.0,1.0", r"heads: 1\.0 asked, the layers are 0\.\.10 by 2"),
        ("2.9", r"heads: 2\.9 asked, the heads are 0\.\.3"),
    ],
)
def test_heads_that_are_not_there_are_refused_with_those_that_are(result, heads, message):
    with pytest.raises(RequestError, match=message):
        results.table(result, "terms", heads=heads)


def test_an_unknown_table_is_refused_with_the_known_ones(result):
    with pytest.raises(RequestError, match=r"myths: there is none; the tables are verdicts, terms, carry"):
        results.table(result, "myths")


def test_a_table_that_this_result_lacks_is_refused(result):
    bare = xarray.DataTree.from_dict(
        {"verdicts": result["verdicts"].to_dataset().drop_dims("null"), "terms": result["terms"].to_dataset()}
    )
    for name in ("nulls", "carry"):
        with pytest.raises(RequestError, match=f"table {name}: this result has no group {name}"):
            results.table(bare, name)


def test_the_summary_counts_verdicts_and_says_how_sure_and_what_next(result):
    words = results.summary(result)
    verdicts, terms = results.table(result, "verdicts"), results.table(result, "terms")
    for term, rows in verdicts.groupby("term"):
        part = words[words.index(f"{term}: {results.MEANING[term]}") :]
        part = part[: part.index("Next:") + 60]
        for verdict, count in rows["verdict"].value_counts().items():
            assert f"{verdict} in {count}" in part.splitlines()[1]
        found = rows.loc[rows["verdict"] == "IDENTIFIED", ["layer", "head"]]
        if term != "carry" and len(found):
            best = terms[terms["term"] == term].merge(found).nlargest(1, "gain").iloc[0]
            assert f"{best['layer']}.{best['head']}: gain {best['gain']:.3f}" in part
        common = rows["verdict"].value_counts().index[0]
        assert f"Next: do something about {common}." in part
    assert f"{result.attrs['tokens_fitted']:,} tokens" in words
    assert result["reference"].attrs["reference"] in words


def test_the_summary_counts_heads_whose_innovations_follow_the_prosody_residual(result):
    carry = results.table(result, "carry")
    found = carry[(carry["interference_q"] <= 0.05) & (carry["interference"].abs() >= 0.1)]
    grow = (found["interference"] > 0).sum()
    assert 0 < grow < len(found) < len(carry)
    said = f"in {len(found)} of {len(carry)} heads ({grow} grow with it, {len(found) - grow} shrink;"
    assert said in results.summary(result)
    bare = result.copy()
    names = [name for name in result["carry"].data_vars if str(name).startswith("interference")]
    bare["carry"] = xarray.DataTree(result["carry"].to_dataset().drop_vars(names))
    assert "Innovations follow" not in results.summary(bare)


def test_precisions_are_a_table_with_a_row_for_every_dtype(result):
    table = results.table(result, "precisions")
    assert len(table) == 3 * 24
    rounded = table[table["dtype"] == "bfloat16"]
    assert (rounded["contrast_low"] > 0).all()
    assert not table.loc[table["dtype"] == "float32", ["contrast", "rise_contrast"]].any(axis=None)


def test_the_summary_sets_the_model_beside_each_null(result):
    words, nulls = results.summary(result), results.table(result, "nulls")
    for null, rows in nulls.groupby("null"):
        line = re.search(rf"  {null}: (.*)\.$", words, re.MULTILINE)[1]
        rows = rows[rows["contrast"].notna()]
        for term, of_term in rows.groupby("term"):
            assert f"{term} {(of_term['contrast_low'] > 0).sum()} of {len(of_term)}" in line
    bare = result.copy()
    bare["verdicts"] = xarray.DataTree(result["verdicts"].to_dataset().drop_dims("null"))
    assert "nulls" not in results.summary(bare)


def test_the_summary_of_a_run_without_a_surface_speaks_of_no_r2(result):
    bare = result.copy(deep=True)
    bare["reference"]["r2"][:] = np.nan
    assert "other documents: no R2." in results.summary(bare)


def test_parquet_holds_every_table_with_its_units(result, tmp_path):
    files = results.export(result, tmp_path / "tables")
    assert [file.stem for file in files] == OF_A_SWEEP
    for file in files:
        table = results.table(result, file.stem)
        back = pd.read_parquet(file)
        pd.testing.assert_frame_equal(back, table, check_dtype=False)
        assert back.attrs["units"] == table.attrs["units"]
    assert listing(tmp_path / "tables") == sorted(file.name for file in files)


def test_the_result_of_the_same_run_is_found_again(result, tmp_path):
    assert results.matching(tmp_path, {"window": 64}) is None
    results.save(result, tmp_path)
    run = json.loads(result.attrs["run"])
    found = results.matching(
        tmp_path, run | {"layers": tuple(run["layers"]), "not stored": 1, "device": None}
    )
    assert found.attrs["run_digest"] == result.attrs["run_digest"]


@pytest.mark.parametrize(("name", "value"), [("window", 128), ("reference", "zero"), ("layers", [0, 2])])
def test_another_runs_folder_is_refused_by_the_first_setting_that_differs(result, tmp_path, name, value):
    file = results.save(result, tmp_path)
    before = file.read_bytes()
    run = json.loads(result.attrs["run"])
    message = (
        rf"another run \({name} was {re.escape(json.dumps(run[name]))}, now {re.escape(json.dumps(value))}\)"
    )
    with pytest.raises(RequestError, match=message):
        results.matching(tmp_path, run | {name: value})
    assert file.read_bytes() == before
