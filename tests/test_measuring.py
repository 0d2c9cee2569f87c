"""Measures of a model and its nulls as files: resumed, refused, labelled, shown and drawn."""

import json

import families
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from infodyn_interp import RequestError, figures, open_model, open_result, read_texts, summary, table
from infodyn_interp.cli import main
from infodyn_interp.figures.saving import BY_LAYER
from infodyn_interp.results import MEASURES as GROUPS
from infodyn_interp.results import save
from infodyn_interp.sweeping import measuring
from infodyn_interp.sweeping.measuring import MEASURES, Measure, measure

WORDS = ["clock", "rain", "why", "numbers", "one", "town", "proof", "step", "walk", "sure"]
READ = [name for name, one in MEASURES.items() if not one.within]
DRAWN = [draw for draw, (group, _) in BY_LAYER.items() if group in READ]
ASKED = {"nulls": ("untrained", "shuffled_tokens"), "null_share": 0.7, "fit_tokens": 400, "walked": 2}


def documents(count):
    draw = np.random.default_rng(0)
    return [" ".join(draw.choice(WORDS, 120)) for _ in range(count)]


@pytest.fixture(scope="module")
def model(tiny_tokenizer):
    return open_model(families.build("llama"), tokenizer=tiny_tokenizer)


@pytest.fixture(scope="module")
def texts(tiny_tokenizer):
    return read_texts(documents(10), tiny_tokenizer, window=40, windows_per_document=1, documents=6)


@pytest.fixture(scope="module")
def result(model, texts):
    return measure(model, texts, **ASKED)


def test_every_measure_is_a_group_with_each_quantity_and_its_interval_along_null(result):
    assert set(MEASURES) == set(GROUPS)
    assert set(MEASURES) - set(result.children) == {"jumps"}  # which need a sweep
    for name in READ:
        one = MEASURES[name]
        group = result[name].to_dataset()
        assert group["null"].values.tolist() == ["trained", "untrained", "shuffled_tokens"]
        for quantity in one.quantities:
            value, low, high = (group[quantity + end] for end in ("", "_low", "_high"))
            assert np.isfinite(value).all(), quantity
            assert ((low <= value) & (value <= high)).all(), quantity
            contrast = group[f"{quantity}_contrast"]
            assert np.isnan(contrast.sel(null="trained")).all()
            assert np.isfinite(contrast.sel(null="untrained")).all(), quantity
            assert str(group["verdict"].sel(null="untrained", quantity=quantity).values)


def test_a_contrast_is_of_the_documents_that_both_read(result, model, texts):
    fewer = measure(model, texts.part(folds=4), **ASKED | {"nulls": (), "measures": ["fidelity"]})
    kl, unread = result["fidelity"]["kl"], result["fidelity"]["kl_contrast"]
    expected = fewer["fidelity"]["kl"].sel(null="trained") - kl.sel(null="untrained")
    np.testing.assert_allclose(unread.sel(null="untrained"), expected, rtol=1e-9, atol=1e-9)


def test_a_saved_result_is_a_tidy_table_a_summary_and_figures(result, tmp_path):
    save(result, tmp_path)
    again = open_result(tmp_path)
    for name in READ:
        frame = table(again, name)
        assert set(frame["null"]) == {"trained", "untrained", "shuffled_tokens"}
        assert set(frame["quantity"]) == set(MEASURES[name].quantities)
        assert not frame.duplicated(["quantity", "null", "layer", "of"]).any()
    row = table(again, "fidelity").query("quantity == 'kl' and layer == 1 and of == 'affine'").iloc[0]
    assert row["value"] == pytest.approx(
        float(result["fidelity"]["kl"].sel(null="trained", layer=1, lens="affine"))
    )
    words = summary(again)
    for name in (
        "kl (affine)",
        "gradient_without_skip",
        "exponent (angular 0)",
        "Looks the same as untrained",
    ):
        assert name in words
    written = figures.save_all(again, tmp_path / "fig", format="pdf")
    assert [path.stem for path in written] == [draw.__name__ for draw in DRAWN] + ["action_ranks"]


@pytest.mark.parametrize("width", ["column", "page"])
@pytest.mark.parametrize("draw", DRAWN)
def test_figures_show_the_model_and_every_null_within_the_sheet(draw, width, result):
    plate = draw(result, width=width)
    canvas = FigureCanvasAgg(plate)
    canvas.draw()
    group, name = BY_LAYER[draw]
    assert "untrained" in plate.caption
    assert "n = 6 documents" in plate.caption
    for ax in plate.axes:
        for text in [ax.title, ax.xaxis.label, ax.yaxis.label]:
            if text.get_visible() and text.get_text():
                box = text.get_window_extent(canvas.get_renderer())
                assert box.x0 >= -1
                assert box.x1 <= plate.bbox.x1 + 1
    if name in ("kl", "rate"):
        line = next(one for one in plate.axes[0].get_lines() if one.get_gid() == "untrained")
        first = result[group][name].sel(null="untrained")
        first = first.sel(lens="logit") if name == "kl" else first.sel(geometry="raw", vector=0)
        np.testing.assert_allclose(line.get_ydata(), first)


def test_without_nulls_nothing_is_told_from_anything(model, texts):
    alone = measure(model, texts, measures=["fidelity"], nulls=(), fit_tokens=400)
    assert "verdict" not in alone["fidelity"]
    assert "nothing here tells this model from any other" in summary(alone)
    assert "No nulls were asked for" in figures.fidelity(alone).caption


def test_a_run_that_was_cut_off_goes_on_from_its_files_with_the_same_bits(
    result, model, texts, tmp_path, monkeypatch
):
    def stop(*_):
        raise KeyboardInterrupt

    def never(*_):
        raise AssertionError("finished files are not computed again")

    with monkeypatch.context() as patch:
        patch.setitem(MEASURES, "maps", Measure(stop, MEASURES["maps"].quantities))
        with pytest.raises(KeyboardInterrupt):
            measure(model, texts, **ASKED, out=tmp_path)
    assert sorted(path.stem for path in (tmp_path / "shards").glob("*.npz")) == [
        "study-action", "study-fidelity", "study-fit", "study-stability"
    ]  # fmt: skip
    calls = []
    fidelity = MEASURES["fidelity"].measure
    monkeypatch.setitem(
        MEASURES,
        "fidelity",
        Measure(
            lambda reading, *more: calls.append(1) or fidelity(reading, *more),
            MEASURES["fidelity"].quantities,
        ),
    )
    again = measure(model, texts, **ASKED, out=tmp_path)
    assert len(calls) == 2  # of the two nulls
    for name in READ:
        assert again[name].to_dataset().equals(result[name].to_dataset()), name
    assert not (tmp_path / "shards").exists()
    monkeypatch.setattr(measuring, "fit_maps", never)
    assert (
        measure(model, texts, **ASKED, out=tmp_path)["maps"].to_dataset().equals(again["maps"].to_dataset())
    )
    with pytest.raises(RequestError, match="walked"):
        measure(model, texts, **ASKED | {"walked": 3}, out=tmp_path)


def test_a_damaged_file_is_refused_and_computed_again_when_asked(model, texts, tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    asked = {"nulls": (), "measures": ["fidelity", "stability"], "fit_tokens": 400, "walked": 1}
    with monkeypatch.context() as patch:
        patch.setitem(MEASURES, "stability", Measure(stop, MEASURES["stability"].quantities))
        with pytest.raises(KeyboardInterrupt):
            measure(model, texts, **asked, out=tmp_path)
    file = tmp_path / "shards" / "study-fidelity.npz"
    whole = bytearray(file.read_bytes())
    whole[len(whole) // 2] ^= 1
    file.write_bytes(whole)
    with pytest.raises(RequestError, match=r"study-fidelity.npz: damaged .*--redo-damaged"):
        measure(model, texts, **asked, out=tmp_path)
    measure(model, texts, **asked, out=tmp_path, redo_damaged=True)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"layers": [1]}, "layers: 1 asked, a trajectory in depth needs at least 2"),
        ({"layers": [0, 9]}, r"layers: 9 asked, the model has 3 \(0..2\)"),
        ({"measures": ["charm"]}, "measures: 'charm' is not one of fidelity, stability, action, jumps, maps"),
        ({"measures": []}, "measures: none asked of fidelity"),
        ({"nulls": ["permuted_queries"]}, "nulls: permuted_queries is of attention energies"),
        ({"walked": 0}, "walked: 0 asked, at least 1 is needed"),
        ({"null_share": 0.0}, "null_share: 0.0 asked"),
    ],
)
def test_what_cannot_be_measured_is_refused_in_one_line(model, texts, keywords, message):
    with pytest.raises(RequestError, match=message) as caught:
        measure(model, texts, **keywords)
    assert "\n" not in str(caught.value)


def test_measures_of_another_models_sweep_are_refused(model, texts, result, tmp_path):
    other = result.copy()
    other.attrs["run"] = json.dumps(json.loads(other.attrs["run"]) | {"texts_digest": "none"})
    save(other, tmp_path / "other")
    with pytest.raises(RequestError, match="inside: that result is of another texts"):
        measure(model, texts, **ASKED, inside=tmp_path / "other")
    save(result, tmp_path / "sweep")
    inside = measure(model, texts, measures=["fidelity"], nulls=(), fit_tokens=400, inside=tmp_path / "sweep")
    assert json.loads(inside.attrs["run"])["inside"] == result.attrs["run_digest"]


def test_the_command_writes_what_it_prints_and_takes_the_windows_of_the_sweep_it_belongs_to(tmp_path, capsys):
    families.build("gpt2").save_pretrained(tmp_path / "model")
    families.save_tokenizer(tmp_path / "model")
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text("".join(json.dumps({"text": text}) + "\n" for text in documents(10)))
    words = ["measures", "--model", str(tmp_path / "model"), "--texts", str(corpus), "--measures", "fidelity"]
    first = [
        *words,
        "--window",
        "40",
        "--windows-per-document",
        "1",
        "--nulls",
        "none",
        "--fit-tokens",
        "300",
    ]
    assert main([*first, "--out", str(tmp_path / "path")]) == 0
    assert "kl (logit), nats: trained" in capsys.readouterr().out
    second = [*words, "--inside", str(tmp_path / "path"), "--nulls", "none", "--fit-tokens", "300", "--json"]
    assert main([*second, "--out", str(tmp_path / "again")]) == 0
    rows = json.loads(capsys.readouterr().out)["fidelity"]
    assert open_result(tmp_path / "again").attrs["window"] == 40
    frame = table(open_result(tmp_path / "path"), "fidelity")
    assert [row["value"] for row in rows] == pytest.approx(frame["value"].tolist())
    assert main(["show", str(tmp_path / "path")]) == 0
    assert "quantity" in capsys.readouterr().out
    assert main([*second, "--fit-tokens", "200", "--out", str(tmp_path / "again")]) == 2
    assert "fit_tokens" in capsys.readouterr().err
    assert main([*words, "--inside", str(tmp_path / "path"), "--out", str(tmp_path / "path")]) == 2
    assert "holds the result that is measured" in capsys.readouterr().err
    assert main([*first, "--layers", "1", "--out", str(tmp_path / "one")]) == 2
    assert "a trajectory in depth needs at least 2" in capsys.readouterr().err
