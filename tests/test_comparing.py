"""Contrasts of groups within a run, and of two runs: they cover, they find, and what is not paired is said."""

import importlib.util
import json
import shutil
from pathlib import Path

import families
import numpy as np
import pytest
import scipy.stats
import xarray
from synthetic import make_result

from infodyn_interp import compare, figures, results
from infodyn_interp.cli import main
from infodyn_interp.energy.fitting import fit_groups
from infodyn_interp.energy.moments import Moments
from infodyn_interp.errors import RequestError
from infodyn_interp.identify.contrasting import Contrast, Mean
from infodyn_interp.identify.evidence import ROWS
from infodyn_interp.models import open_model
from infodyn_interp.reducing.groups import group_gains
from infodyn_interp.sweeping.reading import Reader
from infodyn_interp.texts import read_texts

SENTENCE = "the clock kept its own time and nobody waved . , why would they ? it was raining \n one 42"
WORDS = SENTENCE.split(" ")
ASKED = {
    "window": "48",
    "windows-per-document": "2",
    "reference-documents": "8",
    "state-rank": "4",
    "documents-per-shard": "6",
    "layers": "1",
    "limits": "none",
    "nulls": "none",
}


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """A folder with two tiny models and 26 documents of two styles, 18 of them fitted."""
    folder = tmp_path_factory.mktemp("given")
    for name, seed in (("model", 0), ("other", 1)):
        families.build("gpt2", seed=seed, n_layer=2).save_pretrained(folder / name)
        families.save_tokenizer(folder / name)
    draw = np.random.default_rng(0)
    lines = (
        {"text": " ".join(draw.choice(WORDS, 80)), "style": style, "one": 1, "lone": place == 3}
        for place, style in enumerate(["verse", "prose"] * 13)
    )
    (folder / "texts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.fixture(scope="module")
def sweep(given):
    """Sweep in this process; exit code."""

    def sweep(out, *more, model="model", texts="texts.jsonl", **keys):
        asked = ASKED | {name.replace("_", "-"): value for name, value in keys.items()}
        flags = [word for name, value in asked.items() for word in (f"--{name}", value)]
        place = ["--model", given / model, "--texts", given / texts, "--out", out]
        return main([str(word) for word in ("sweep", *place, *flags, *more)])

    return sweep


@pytest.fixture(scope="module")
def runs(sweep, tmp_path_factory):
    """Three runs of the same texts: by style, without, and of another model."""
    folder = tmp_path_factory.mktemp("runs")
    assert sweep(folder / "by", "--by", "style") == 0
    assert sweep(folder / "plain") == 0
    assert sweep(folder / "other", model="other") == 0
    return folder


@pytest.fixture
def refused(capsys):
    """What must be refused: exit 2, nothing on standard output, one line that is returned."""

    def refused(code):
        out, err = capsys.readouterr()
        lines = [line for line in err.splitlines() if line.startswith("infodyn: ")]
        assert (code, out, len(lines)) == (2, "", 1), (code, out, err)
        return lines[0]

    return refused


@pytest.fixture(scope="module")
def calibration():
    """The script that counts how often contrasts cover, as a module."""
    file = Path(__file__).parents[1] / "analyses" / "q04_contrasts.py"
    found = importlib.util.spec_from_file_location("q04_contrasts", file)
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


# What a contrast is


def test_a_contrast_of_unequal_samples_is_welchs():
    draw = np.random.default_rng(0)
    one, other = draw.normal(size=(7, 5)), draw.normal(0.5, 3, size=(19, 5))
    found = Contrast.of([Mean.of_folds(one), Mean.of_folds(other)], [1, -1])
    known = scipy.stats.ttest_ind(one, other, equal_var=False)
    np.testing.assert_allclose(found.p, known.pvalue)
    np.testing.assert_allclose(found.t, known.statistic)
    np.testing.assert_allclose((found.low, found.high), known.confidence_interval(0.95))


def test_a_jackknifed_mean_of_equal_parts_is_the_mean_over_folds():
    values = np.random.default_rng(0).normal(size=(9, 4))
    without = (values.sum(0) - values) / 8
    found, known = Mean.of_jackknife(values.mean(0), without, np.full(9, 3.0)), Mean.of_folds(values)
    np.testing.assert_allclose(found.variance, known.variance)
    assert found.freedom == pytest.approx(known.freedom)


def test_one_large_part_among_small_ones_leaves_few_degrees_of_freedom():
    values = np.random.default_rng(0).normal(size=(9, 1))
    weight = np.array([100.0, *[1.0] * 8])
    assert Mean.of_jackknife(values.mean(0), values, weight).freedom < 0.2


@pytest.mark.parametrize("design", ["halves", "groups", "paired"])
def test_contrasts_cover_zero_where_nothing_differs_and_find_what_does(calibration, design):
    rows = calibration.count(design, 5, [0])
    covered = [row["rate"] for row in rows if row["said"] == "covers 0"]
    found = [row["rate"] for row in rows if row["said"] == "above 0"]
    assert (len(covered), len(found)) == (5, 4)
    assert np.mean(covered) >= 0.85
    assert np.mean(found) >= 0.6


def test_what_groups_explain_adds_up_to_what_all_documents_do(calibration):
    generator = np.random.default_rng(0)
    corpus = calibration.Corpus.drawn(12, generator, 0)
    read = corpus.read(corpus.energies({}))
    run = read.run(np.arange(12), 6)
    group = np.array([0, 1, 2] * 4)
    cells = Moments.empty(run.moments.columns, calibration.HEADS, 18)
    cells.add(run.window, 6 * group + run.fold)
    found = fit_groups(run.moments, cells, run.fitted)
    together = found.explained.reshape(3, 6, *found.explained.shape[1:]).sum(0)
    np.testing.assert_allclose(together / run.moments.square_row[:, None], run.fitted.gain_by_fold, atol=1e-9)
    whole = fit_groups(run.moments, run.moments, run.fitted)
    np.testing.assert_allclose(whole.share[0], run.fitted.share)
    (mean,) = group_gains(whole, run.variogram(run.fold, 6), 1)
    weight = run.moments.square_row / run.moments.square_row.sum(0)
    np.testing.assert_allclose(mean.value[:4], (run.fitted.gain_by_fold * weight[:, None]).sum(0))


# Groups of a run


def test_groups_change_nothing_else_of_a_result(runs):
    by, plain = (results.open_result(runs / name) for name in ("by", "plain"))
    assert set(by.children) == set(plain.children) | {"groups"}
    for name in set(plain.children) - {"cost"}:
        xarray.testing.assert_identical(by[name].to_dataset(), plain[name].to_dataset())
    groups = by["groups"].to_dataset()
    assert groups["group"].values.tolist() == ["prose", "verse"]
    assert int(groups["documents"].sum()) == by.attrs["documents"]
    assert np.isfinite(groups["contrast"]).all()
    np.testing.assert_allclose(groups["contrast"][0], -groups["contrast"][1])
    np.testing.assert_allclose(groups["contrast"][0], groups["gain"][0] - groups["gain"][1])


def test_groups_are_the_same_bits_in_parts_and_after_an_interruption(sweep, runs, tmp_path):
    out, compute = tmp_path / "out", Reader.compute

    def stop_in_carry(reader, shard, report):
        if (shard.stage, shard.index) == ("carry", 1):
            raise OSError("stopped")
        compute(reader, shard, report)

    for stage in ("survey", "fit"):
        for part in ("2/2", "1/2"):
            assert sweep(out, "--by", "style", "--stage", stage, "--part", part) == 0
        assert main(["merge", str(out)]) == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Reader, "compute", stop_in_carry)
        assert sweep(out, "--by", "style") == 1
    assert sweep(out, "--by", "style") == 0
    whole, again = (results.open_result(one)["groups"].to_dataset() for one in (runs / "by", out))
    xarray.testing.assert_identical(whole, again)


def test_the_summary_and_the_table_tell_groups_apart(runs):
    result = results.open_result(runs / "by")
    assert "Groups of documents:" in results.summary(result)
    assert "prose (" in results.summary(result)
    frame = results.table(result, "groups")
    assert list(frame.columns[:4]) == ["group", "layer", "head", "term"]
    assert len(frame) == 2 * result["terms"].sizes["head"] * len(ROWS)


@pytest.mark.parametrize(
    ("field", "says"),
    [
        ("genre", "no field 'genre'"),
        ("one", "by: every document is of group '1', and a contrast needs two"),
        ("lone", "by: group 'true' has"),
    ],
)
def test_a_field_that_makes_no_contrast_is_refused(sweep, refused, tmp_path, field, says):
    assert says in refused(sweep(tmp_path / "out", "--by", field))
    assert not (tmp_path / "out" / "result.nc").exists()


# Two results


def test_two_models_on_the_same_texts_are_paired_by_document(runs):
    a, b = (results.open_result(runs / name) for name in ("plain", "other"))
    found = compare(runs / "plain", runs / "other")
    data = found["contrasts"].to_dataset()
    assert json.loads(found.attrs["notes"]) == ["Paired by document: the same 18 documents."]
    difference = (a["terms"]["gain_by_fold"] - b["terms"]["gain_by_fold"]).transpose(
        "fold", "layer", "head", "term"
    )
    known = scipy.stats.ttest_1samp(difference.values, 0)
    terms = data.sel(term=list(ROWS[:4]))
    np.testing.assert_allclose(terms["contrast_p"], known.pvalue)
    np.testing.assert_allclose(terms["contrast_low"], known.confidence_interval(0.95).low)
    mean = scipy.stats.ttest_1samp(difference.mean("head").values, 0).confidence_interval(0.95)
    np.testing.assert_allclose(terms["layer_contrast_high"], mean.high)
    turned = compare(b, a)["contrasts"].to_dataset()
    np.testing.assert_array_equal(turned["contrast"], -data["contrast"])
    np.testing.assert_array_equal(turned["contrast_low"], -data["contrast_high"])
    np.testing.assert_array_equal(turned["contrast_q"], data["contrast_q"])


def test_the_same_documents_are_known_in_another_order(given):
    tokenizer = open_model(given / "model").tokenizer
    lines = (given / "texts.jsonl").read_text().splitlines()
    texts = [json.loads(line)["text"] for line in lines]
    one, other = (read_texts(some, tokenizer, 48) for some in (texts, texts[::-1]))
    assert one.fold_digests == other.fold_digests
    assert len(set(one.fold_digests)) == one.folds
    fewer = read_texts(texts[8:], tokenizer, 48)
    assert 0 < len(set(one.fold_digests) & set(fewer.fold_digests)) < one.folds
    assert one.shuffled(1).fold_digests != one.fold_digests
    assert one.tokenizer_digest == one.shuffled(1).tokenizer_digest


def changed(result, **attributes):
    out = result.copy(deep=True)
    out.attrs |= attributes
    return out


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda b: changed(b, tokenizer_digest="0"), "Not paired, another tokenizer: intervals are those of"),
        (lambda b: changed(b, window=128), "Not paired, windows of 64 and of 128 tokens: "),
        (lambda b: digests(b, [f"{place + 100:x}" for place in range(8)]), "Not paired, other documents: "),
    ],
)
def test_what_cannot_be_paired_is_contrasted_as_independent_and_said(change, says):
    a, b = make_result(), change(make_result(seed=1))
    found = compare(a, b)
    assert json.loads(found.attrs["notes"])[0].startswith(says)
    by_fold = [
        one["terms"]["gain_by_fold"].transpose("fold", "layer", "head", "term").values for one in (a, b)
    ]
    known = scipy.stats.ttest_ind(*by_fold, equal_var=False)
    data = found["contrasts"].to_dataset()
    np.testing.assert_allclose(data["contrast_p"].sel(term=list(ROWS[:4])), known.pvalue)


def digests(result, names):
    out = result.copy(deep=True)
    terms = out["terms"].to_dataset().assign(documents_digest=("fold", names, {"units": "text"}))
    out["terms"] = xarray.DataTree(terms)
    return out


def test_folds_that_both_hold_are_paired_whatever_their_place():
    a, b = make_result(), make_result(seed=1)
    names = [f"{place:032x}" for place in (7, 6, 5, 4, 30, 31, 32, 33)]
    found = compare(a, digests(b, names))
    note = json.loads(found.attrs["notes"])[0]
    assert note == "Paired on the 4 folds that both hold, of 8 in a and 8 in b."
    gains = [one["terms"]["gain_by_fold"].transpose("fold", "layer", "head", "term").values for one in (a, b)]
    known = (gains[0][[4, 5, 6, 7]] - gains[1][[3, 2, 1, 0]]).mean(0)
    np.testing.assert_allclose(found["contrasts"]["contrast"].sel(term=list(ROWS[:4])), known)


def test_models_whose_layers_and_heads_do_not_match_are_compared_by_layer():
    a, b = make_result(layers=6, heads=4), make_result(layers=3, heads=2, seed=1)
    found = compare(a, b)
    notes = json.loads(found.attrs["notes"])
    assert notes[1:] == [
        "Not compared, in a alone: layers 6..10 by 2.",
        "Heads do not match (4 a layer in a, 2 in b): means over heads are compared.",
    ]
    data = found["contrasts"].to_dataset()
    assert "contrast" not in data
    assert data["layer"].values.tolist() == [0, 2, 4]
    assert list(results.table(found, "contrasts").columns[:2]) == ["layer", "term"]
    assert "of 3 layers" in results.summary(found)
    figures.comparison(found)
    with pytest.raises(RequestError, match="has no contrast"):
        figures.comparison(found, heads="0.1")


def test_settings_that_make_another_energy_are_said():
    a, b = make_result(), make_result(seed=1)
    b.attrs["run"] = json.dumps(json.loads(b.attrs["run"]) | {"reference": "zero"})
    assert "Not alike: reference lexical in a, zero in b" in json.loads(compare(a, b).attrs["notes"])[1]


def test_a_comparison_is_printed_saved_opened_and_drawn(runs, tmp_path, capsys):
    out = tmp_path / "apart"
    assert main(["compare", str(runs / "plain"), str(runs / "other"), "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "Paired by document: the same 18 documents." in said
    assert {path.name for path in (out / "fig").iterdir()} == {
        "comparison.pdf",
        "comparison.png",
        "comparison.tex",
        "comparison.txt",
    }
    assert main(["show", str(out), "--json"]) == 0
    shown = capsys.readouterr().out
    assert main(["compare", str(runs / "plain"), str(runs / "other"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(shown)
    assert [file.stem for file in results.export(results.open_result(out), tmp_path / "tables")] == [
        "contrasts"
    ]


def test_nothing_to_compare_is_one_line_and_nothing_is_written(sweep, runs, refused, tmp_path, capsys):
    def asked(a, b, *more):
        return refused(main([str(word) for word in ("compare", a, b, *more)]))

    plain, other, out = runs / "plain", runs / "other", tmp_path / "out"
    assert "a and b are of the same run" in asked(plain, plain, "--out", out)
    assert not out.exists()
    assert "no result.nc there" in asked(plain, tmp_path)
    assert "not the result of a sweep" in asked(plain, saved(compare(plain, other), tmp_path / "kept"))
    assert "holds another result" in asked(
        plain, other, "--out", shutil.copytree(runs / "by", tmp_path / "by")
    )
    assert "is not layer.head" in asked(plain, other, "--heads", "two", "--out", out)
    assert not out.exists()
    assert sweep(tmp_path / "begun", "--stage", "survey") == 0
    capsys.readouterr()
    assert "its run is not finished; infodyn show" in asked(plain, tmp_path / "begun")
    terms = make_result()["terms"].to_dataset().assign_coords(layer=np.arange(6) + 50)
    far = xarray.DataTree.from_dict({"/": xarray.Dataset(attrs={"run_digest": "1"}), "/terms": terms})
    with pytest.raises(RequestError, match=r"a holds layers 0\.\.10 by 2, b layers 50\.\.55: none in common"):
        compare(make_result(), far)


def saved(result, folder):
    results.save(result, folder)
    return folder
