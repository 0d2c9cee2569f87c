"""Laws of the figures: what is drawn is what the result holds, at print size, and nothing leaks out."""

import base64
import inspect
import re
import subprocess
import warnings
from collections.abc import Callable, Iterator
from io import BytesIO
from itertools import combinations
from pathlib import Path
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
import xarray
from every_figure import DRAWN, EVERY, WITH_HEADS, Draw
from hypothesis import given
from hypothesis import strategies as st
from IPython.core.formatters import DisplayFormatter
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.text import Text
from synthetic import (
    LAGS,
    RANKS,
    make_ablation,
    make_calibration,
    make_measured,
    make_result,
)

from infodyn_interp import RequestError, figures
from infodyn_interp.figures import example, judgements, plates, selection
from infodyn_interp.identify.evidence import ROWS
from infodyn_interp.identify.verdict import Verdict

TERMS = ("prosody", "rhythm", "state", "track")
UNIT = r"\b(share|nats²?|tokens|ratio|no unit|own unit|standard deviations|directions|units of)(?!\w)"
LOG_RATIOS = {f"log V(long)/V(1), {less}" for less in ("model − null", "group − others")}
# What a user may have set: none of it may show in a figure.
HOSTILE = {
    "pdf.fonttype": 3,
    "svg.fonttype": "path",
    "savefig.bbox": "tight",
    "figure.constrained_layout.use": False,
    "font.size": 20,
    "font.family": ["serif"],
    "axes.unicode_minus": False,
    "axes.facecolor": "black",
    "text.color": "white",
    "lines.linewidth": 9,
    "axes.grid": True,
}
NASTY = [
    "日本",
    "$x$",
    "\\frac{a}",
    "$",
    "\n\n",
    "\t",
    " " * 40,
    "🌐",
    "e\u0301",
    "שלום",
    "مرحبا",
    "\u200b",
    "\x00",
]


@pytest.fixture(scope="module")
def result() -> xarray.DataTree:
    return make_result(layers=6, heads=4, folds=8)


@pytest.fixture(scope="module")
def wide_result() -> xarray.DataTree:
    return make_result(layers=48, heads=32, folds=4)


def _with(result: xarray.DataTree, group: str, change: Callable[[xarray.Dataset], None]) -> xarray.DataTree:
    changed, data = result.copy(), result[group].to_dataset().copy(deep=True)
    change(data)
    changed[group] = xarray.DataTree(data)
    return changed


def _written(plate: figures.Plate, kind: str) -> bytes:
    stream = BytesIO()
    plate.savefig(stream, format=kind, metadata={"pdf": {"CreationDate": None}, "svg": {"Date": None}}[kind])
    return stream.getvalue()


def _pixels(plate: figures.Plate) -> bytes:
    """As a notebook shows it, which asks the canvas and not `savefig`."""
    canvas = FigureCanvasAgg(plate)
    canvas.draw()
    return bytes(canvas.buffer_rgba())


def _panels(plate: figures.Plate) -> list[Axes]:
    return [ax for ax in plate.axes if ax.get_label() != "<colorbar>"]


def _drawn(ax: Axes, gid: str) -> list:
    return [artist for artist in ax.get_children() if artist.get_gid() == gid]


def _points(ax: Axes, gid: str) -> np.ndarray:
    return np.concatenate([np.asarray(dots.get_offsets()) for dots in _drawn(ax, gid)])


def _words(plate: figures.Plate) -> Iterator[Text]:
    """Every text that is drawn: without the labels of ticks outside the view, or of more than there are."""
    hidden = set()
    with plates.print_settings(plate.style):  # how many ticks fit is asked of the settings
        for ax in plate.axes:
            for axis in (ax.xaxis, ax.yaxis):
                low, high = sorted(axis.get_view_interval())
                ticks, count = axis.majorTicks, len(axis.get_majorticklocs())
                hidden |= {
                    tick.label1
                    for place, tick in enumerate(ticks)
                    if place >= count or not low <= tick.get_loc() <= high
                }
    for text in plate.findobj(Text):
        if text.get_visible() and text.get_text().strip() and text not in hidden:
            yield text


def _label(axis: Axis, plate: figures.Plate) -> str:
    """The label a reader finds for an axis: its own, the one it shares, or the whole figure's."""
    ax, upright = axis.axes, axis is axis.axes.yaxis
    shared = ax.get_shared_y_axes() if upright else ax.get_shared_x_axes()
    labels = [other.get_ylabel() if upright else other.get_xlabel() for other in shared.get_siblings(ax)]
    labels.append(plate.get_supylabel() if upright else plate.get_supxlabel())
    return next(filter(None, labels), "")


def _names(axis: Axis) -> bool:
    """Whether an upright axis, or the one it shares, names its rows in words."""
    panels = axis.axes.get_shared_y_axes().get_siblings(axis.axes)
    texts = [text.get_text() for ax in panels for text in ax.get_yticklabels()]
    return axis is axis.axes.yaxis and any(re.match("[a-z]", text) for text in texts)


SHEETS = {("paper", "column"): 3.3, ("paper", "page"): 6.9, ("talk", "column"): 6.2, ("talk", "page"): 12.4}


@pytest.mark.parametrize(("style", "width"), SHEETS)
@pytest.mark.parametrize("draw", EVERY)
def test_the_printed_width_is_exact(draw: Draw, style: str, width: str, result: xarray.DataTree) -> None:
    page = re.search(rb"/MediaBox \[ ?([\d. ]+)\]", _written(draw(result, width=width, style=style), "pdf"))
    assert float(page[1].split()[2]) == pytest.approx(72 * SHEETS[style, width], abs=0.01)


@pytest.mark.parametrize("heads", [None, "4.1,0.3"])
@pytest.mark.parametrize("width", ["column", "page"])
@pytest.mark.parametrize("draw", WITH_HEADS)
def test_every_axis_names_its_quantity_and_unit(
    draw: Draw, width: str, heads: str | None, result: xarray.DataTree
) -> None:
    plate = draw(result, heads=heads, width=width)
    counted = {"layer", "head", "head (layer.head)", "direction, from stiff to sloppy", *LOG_RATIOS}
    for ax in plate.axes:
        bar = ax.get_label() == "<colorbar>"
        for axis in [ax.yaxis] if bar else [ax.xaxis, ax.yaxis]:
            label = _label(axis, plate).replace("\n", " ")
            assert label in counted or re.search(UNIT, label) or (not label and _names(axis)), label


@pytest.mark.parametrize("tokens", [12, 48])
@pytest.mark.parametrize("width", ["column", "page"])
def test_a_landscape_names_nats_on_one_axis_and_tokens_on_the_other(
    width: str, tokens: int, result: xarray.DataTree
) -> None:
    plate = figures.landscape(result, "2.1", tokens=tokens, width=width)
    across = bool(plate.get_supylabel())
    assert (plate.get_supylabel() or plate.get_supxlabel()) == "mean energy received (nats)"
    ax = plate.axes[-1] if across else plate.axes[0]
    pieces = [text.get_text() for text in (ax.xaxis if across else ax.yaxis).get_ticklabels()]
    assert pieces[:4] == ["␣fox", "␣jumps", "␣over", "␣the"]
    assert len(pieces) == tokens
    said = " ".join(text.get_text() for text in _words(plate))
    assert "below 0: draws attention" in said
    assert "above 0: repels it" in said


@pytest.mark.parametrize("size", [(1, 1), (30, 9), (48, 32)], ids=str)
@pytest.mark.parametrize("width", ["column", "page"])
@pytest.mark.parametrize("draw", EVERY)
def test_words_are_legible_within_the_sheet_and_touch_no_other(
    draw: Draw, width: str, size: tuple[int, int]
) -> None:
    _require_legible(draw(make_result(*size), width=width))


@pytest.mark.parametrize("width", ["column", "page"])
@pytest.mark.parametrize("draw", EVERY)
def test_words_of_a_talk_are_twice_as_large_and_touch_no_other(draw: Draw, width: str) -> None:
    _require_legible(draw(make_result(30, 9), width=width, style="talk"), scale=2)


@pytest.mark.parametrize("count", [3, 12, 32])
@pytest.mark.parametrize("width", ["column", "page"])
@pytest.mark.parametrize("draw", WITH_HEADS)
def test_names_of_chosen_heads_touch_no_other(
    draw: Draw, width: str, count: int, wide_result: xarray.DataTree
) -> None:
    names = [f"{layer}.{head}" for layer in (80, 86, 90, 94) for head in range(24, 32)]
    _require_legible(draw(wide_result, heads=names[:count], width=width))


@pytest.mark.parametrize("scale", [1e-3, 1, 300])
@pytest.mark.parametrize("width", ["column", "page"])
def test_a_landscape_is_legible_whatever_its_pieces_and_size(
    width: str, scale: float, result: xarray.DataTree
) -> None:
    def spoil(data: xarray.Dataset) -> None:
        pieces = data["piece"].values.astype(object)
        pieces[4 : 4 + len(NASTY)] = NASTY
        data["piece"] = ("position", pieces)
        data["received"] *= scale

    _require_legible(figures.landscape(_with(result, "example", spoil), "2.1", width=width))


def _require_legible(plate: figures.Plate, scale: float = 1) -> None:
    """Type of 7 to 9 points at print size, on the sheet, no word on another."""
    plate.dpi = 200 / scale
    FigureCanvasAgg(plate).draw()
    words = list(_words(plate))
    boxes = [text.get_window_extent() for text in words]
    for text, box in zip(words, boxes, strict=True):
        assert 7 <= text.get_fontsize() / scale <= 9, text
        assert min(box.x0, box.y0) >= -1, text
        assert max(box.x1 - plate.bbox.x1, box.y1 - plate.bbox.y1) <= 1, text
    slack = 0.5 * scale * plate.dpi / 72  # the box of a line of type is taller than its letters
    for (one, a), (other, b) in combinations(zip(words, boxes, strict=True), 2):
        overlap = min(a.x1, b.x1) - max(a.x0, b.x0), min(a.y1, b.y1) - max(a.y0, b.y0)
        assert min(overlap) <= slack, (one, other)


@pytest.mark.parametrize("draw", EVERY)
def test_a_pdf_embeds_truetype_and_an_svg_keeps_its_text(draw: Draw, result: xarray.DataTree) -> None:
    plate = draw(result)
    with matplotlib.rc_context(HOSTILE):
        pdf, svg = _written(plate, "pdf"), _written(plate, "svg")
    assert b"/FontFile2" in pdf
    assert b"/CIDFontType2" in pdf
    assert b"/Type3" not in pdf
    said = {text.text for text in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")}
    assert any(re.search(rf"layer|{UNIT}", text or "") for text in said)


@pytest.mark.parametrize("draw", EVERY)
def test_every_font_of_every_pdf_is_embedded_truetype(
    draw: Draw, result: xarray.DataTree, tmp_path: Path, needed: Callable[[str], str]
) -> None:
    file = tmp_path / "figure.pdf"
    draw(result).savefig(file)
    lines = subprocess.run(
        [needed("pdffonts"), file], capture_output=True, text=True, check=True
    ).stdout.splitlines()[2:]
    assert lines
    assert all(re.search(r" (CID )?TrueType .* yes (yes|no) +(yes|no) ", line) for line in lines), lines


def test_every_public_figure_is_held_to_the_laws_here() -> None:
    assert {draw.__name__ for draw in EVERY} == {*figures.__all__} - {"Plate", "of_layer", "save_all"}


@pytest.mark.parametrize("draw", EVERY)
def test_a_figure_has_a_sheet_a_style_and_where_it_is_one_panel_an_ax(
    draw: Draw, result: xarray.DataTree
) -> None:
    plate = draw(result)
    assert isinstance(plate, figures.Plate)
    taken = inspect.signature(getattr(figures, draw.__name__)).parameters
    assert {"width", "style"} <= taken.keys()
    assert ("ax" in taken) == (len(plate.axes) == 1)


@pytest.mark.parametrize("draw", EVERY)
def test_every_caption_states_n_intervals_nulls_and_units(draw: Draw, result: xarray.DataTree) -> None:
    caption = draw(result).caption
    assert re.search(r"\bn = \d+ (documents|prompts|repl(y|ies)|runs)\b", caption), caption
    assert re.search(
        r"95 % (binomial )?intervals?|middle 95 %|\b[Nn]o\s+intervals|\bno intervals", caption
    ), caption
    assert re.search(r"Nulls? drawn|Nulls: |[Nn]o nulls drawn", caption), caption
    assert re.search(UNIT, caption), caption
    assert not re.search(r"  |\?|nan\b|None|not named", caption.replace("of noise too", "")), caption


def test_a_caption_names_the_nulls(result: xarray.DataTree) -> None:
    assert (
        "No nulls drawn; computed beside the model: untrained, permuted weights, shuffled"
        in figures.gain(result).caption
    )
    assert (
        "Nulls drawn: untrained, permuted weights, shuffled tokens, permuted queries, swapped documents."
        in (figures.contrasts(result).caption)
    )
    assert "Nulls drawn: permuted queries." in figures.variogram(result).caption
    part = result.copy()
    del part["verdicts"]
    assert "No nulls drawn, none computed." in figures.gain(part).caption


@pytest.mark.parametrize("draw", EVERY)
def test_the_callers_settings_change_nothing_and_come_back(draw: Draw, result: xarray.DataTree) -> None:
    svg, pixels = _written(draw(result), "svg"), _pixels(draw(result))
    with matplotlib.rc_context(HOSTILE):
        before = dict(matplotlib.rcParams)
        assert _written(draw(result), "svg") == svg
        assert _pixels(draw(result)) == pixels
        with pytest.raises(RequestError):
            draw(result, width="poster")
        assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize("factor", [1, 30, 1e4])
def test_every_panel_of_curves_names_two_ticks_however_far_it_reaches(factor: float) -> None:
    measured = make_measured().copy()
    rising = np.geomspace(1, factor, measured["maps"].sizes["layer"])
    curves = measured["maps"].to_dataset().drop_vars("verdict") * xarray.DataArray(rising, dims="layer")
    measured["maps"] = xarray.DataTree(curves.assign(verdict=measured["maps"]["verdict"]))
    for ax in figures.map_curves(measured).axes:
        low, high = ax.get_ylim()
        ax.get_yticklabels()  # ticks are placed and named when they are asked for
        named = [tick for tick in ax.yaxis.get_major_ticks() if low <= tick.get_loc() <= high]
        assert len(named) >= 2, ax.get_title("left")
        assert all(tick.label1.get_text() for tick in named)


def test_no_figure_is_left_with_pyplot(result: xarray.DataTree, tmp_path: Path) -> None:
    from matplotlib import pyplot

    figures.save_all(result, tmp_path, format="png")
    assert pyplot.get_fignums() == []


@pytest.mark.parametrize("width", ["column", "page"])
def test_the_energy_map_shows_the_shares(width: str, result: xarray.DataTree) -> None:
    plate = figures.energy_map(result, width=width)
    scales = set()
    for ax, term in zip(_panels(plate), ("rhythm", "state", "track"), strict=True):
        (mesh,) = _drawn(ax, "map")
        share = result["terms"]["share"].sel(term=term).transpose("head", "layer")
        np.testing.assert_array_equal(np.ma.getdata(mesh.get_array()).reshape(share.shape), share)
        scales.add((mesh.norm.vmin, mesh.norm.vmax))
    # one scale for all panels and all results: from a share that is told apart to the whole variance
    assert scales == {(1e-4, 1.0)}


def test_the_energy_map_of_chosen_heads_shows_these_only(result: xarray.DataTree) -> None:
    ax = _panels(figures.energy_map(result, heads="4.1,0.3"))[0]
    mesh, blank = *_drawn(ax, "map"), *_drawn(ax, "not asked for")
    share = result["terms"]["share"].sel(term="rhythm")
    np.testing.assert_array_equal(
        np.ma.filled(mesh.get_array().reshape(2, 2), np.nan),
        [[np.nan, share.sel(layer=4, head=1)], [share.sel(layer=0, head=3), np.nan]],
    )
    # What was not asked for is blank, not hatched as if it could not be estimated.
    assert (np.ma.getmaskarray(blank.get_array()) == ~np.ma.getmaskarray(mesh.get_array())).all()
    assert [text.get_text() for text in ax.get_yticklabels()] == ["1", "3"]


@pytest.mark.parametrize("heads", [None, ["4.1", "0.3"]])
def test_gains_and_intervals_drawn_are_the_results(heads: list[str] | None, result: xarray.DataTree) -> None:
    for ax, term in zip(_panels(figures.gain(result, heads=heads)), TERMS, strict=True):
        _require_intervals(ax, result["terms"].to_dataset().sel(term=term), "gain", heads)


@pytest.mark.parametrize("heads", [None, ["4.1", "0.3"]])
def test_reference_fits_drawn_are_the_results(heads: list[str] | None, result: xarray.DataTree) -> None:
    for ax, name in zip(_panels(figures.reference_fit(result, heads=heads)), ("r2", "slope"), strict=True):
        _require_intervals(ax, result["reference"].to_dataset(), name, heads)


def _require_intervals(ax: Axes, data: xarray.Dataset, name: str, heads: list[str] | None) -> None:
    stacked = data.stack(place=("layer", "head"))
    if heads is not None:
        stacked = stacked.sel(place=[tuple(map(int, head.split("."))) for head in heads])
    dots = _points(ax, "head")
    np.testing.assert_array_equal(dots[dots[:, 0].argsort(), 1], stacked[name])
    lines = np.array([line for lines in _drawn(ax, "interval") for line in lines.get_segments()])
    lines = lines[lines[:, 0, 0].argsort()]
    np.testing.assert_array_equal(lines[:, 0, 1], stacked[f"{name}_low"])
    np.testing.assert_array_equal(lines[:, 1, 1], stacked[f"{name}_high"])
    if heads is None:
        (line,) = _drawn(ax, "median")
        np.testing.assert_allclose(line.get_ydata(), data[name].median("head"), rtol=1e-12)
    else:
        assert [text.get_text() for text in ax.get_xticklabels()] in ([], heads, [""] * len(heads))


def test_an_interval_is_dark_only_where_it_leaves_out_zero(result: xarray.DataTree) -> None:
    def sink(data: xarray.Dataset) -> None:
        for name, value in (("gain_low", -0.03), ("gain", -0.02), ("gain_high", -0.01)):
            data[name].loc[{"layer": 4, "head": 2}] = value

    sunk = _with(result, "terms", sink)
    data = sunk["terms"].to_dataset()
    for ax, term in zip(_panels(figures.gain(sunk)), TERMS, strict=True):
        clear = (data["gain_low"].sel(term=term) > 0) | (data["gain_high"].sel(term=term) < 0)
        drawn = {
            tuple(lines.get_color()[0][:3]): len(lines.get_segments()) for lines in _drawn(ax, "interval")
        }
        assert drawn[to_rgb(plates.DARK)] == int(clear.sum())
        assert drawn.get(to_rgb(plates.PALE), 0) == int((~clear).sum())


@pytest.mark.parametrize("heads", [None, "4.1,0.3"])
def test_the_track_grid_shows_gains_and_the_usual_choice(heads: str | None, result: xarray.DataTree) -> None:
    data = result["terms"].to_dataset()
    if heads is None:
        gain = data["track_gain"].mean("head").values
    else:
        gain = np.array([data["track_gain"].sel(layer=4, head=1), data["track_gain"].sel(layer=0, head=3)])
    dots = []
    for k, ax in enumerate(_panels(figures.track_grid(result, heads=heads))):
        (mesh,) = _drawn(ax, "map")
        np.testing.assert_allclose(mesh.get_array().reshape(3, -1), gain[:, k].T, rtol=1e-12)
        assert len(_points(ax, "no gain")) == (gain[:, k] <= 0).sum()
        dots += [(int(x), k, int(y)) for x, y in _points(ax, "usual choice")]
    assert sorted(column for column, _, _ in dots) == list(range(len(gain)))
    if heads is not None:
        width, tau = data["width"].values, data["tau"].values
        for column, k, m in dots:
            chosen = data.sel(layer=(4, 0)[column], head=(1, 3)[column])
            assert (chosen["width_chosen"], chosen["tau_chosen"]) == (width[k], tau[m])


@pytest.mark.parametrize("tokens", [12, 48])
def test_the_landscape_shows_the_energy_received(tokens: int, result: xarray.DataTree) -> None:
    plate = figures.landscape(result, "2.1", tokens=tokens)
    received = result["example"]["received"].sel(layer=2, head=1).isel(position=slice(4, 4 + tokens))
    scales = set()
    for ax, part in zip(_panels(plate), result["example"]["part"].values, strict=True):
        bars = ax.containers[0]
        across = tokens == 12
        sizes = [bar.get_height() if across else bar.get_width() for bar in bars]
        np.testing.assert_allclose(sizes, received.sel(part=part), rtol=1e-12)
        for bar, value in zip(bars, received.sel(part=part).values, strict=True):
            assert bar.get_facecolor()[:3] == to_rgb(plates.DARK if value < 0 else plates.WARM)
        scales.add(ax.get_ylim() if across else ax.get_xlim())
        assert f"{part} {np.sqrt((received.sel(part=part) ** 2).mean().item()):.2g}" in plate.caption
    assert len(scales) == 1


def test_without_a_name_the_landscape_takes_the_head_whose_prosody_gains_most(
    result: xarray.DataTree,
) -> None:
    low = result["terms"]["gain_low"].sel(term="prosody")
    best = low.where(low == low.max(), drop=True)
    assert f"head {best['layer'].item()}.{best['head'].item()}," in figures.landscape(result).caption.replace(
        " on", ","
    )


def test_what_is_not_estimable_is_hatched_and_named(result: xarray.DataTree) -> None:
    def lose(data: xarray.Dataset) -> None:
        for name in ("share", "gain", "gain_low", "gain_high"):
            data[name].loc[{"layer": 2, "head": 1, "term": "rhythm"}] = np.nan
        for name in ("track_gain", "width_chosen", "tau_chosen"):
            data[name].loc[{"layer": 4}] = np.nan

    holed = _with(result, "terms", lose)
    shown = figures.energy_map(holed)
    masks = [np.ma.getmaskarray(_drawn(ax, "map")[0].get_array()).reshape(4, 6) for ax in _panels(shown)]
    assert masks[0].sum() == 1
    assert masks[0][1, 1]
    assert not masks[1].any()
    assert all(ax.patch.get_hatch() for ax in _panels(shown))
    assert "not estimable: prosody: rhythm of 1 head (2.1)" in shown.caption

    gains = figures.gain(holed)
    assert [len(_drawn(ax, "not estimable")) for ax in _panels(gains)] == [0, 1, 0, 0]
    assert "not estimable: prosody: rhythm of 1 head (2.1)" in gains.caption

    grid = figures.track_grid(holed)
    for ax in _panels(grid):
        assert np.ma.getmaskarray(_drawn(ax, "map")[0].get_array()).reshape(3, 6)[:, 2].all()
        assert 2 not in _points(ax, "usual choice")[:, 0].astype(int)
    assert "not estimable: inference track of 4 heads (4.0, 4.1, 4.2, 4.3)" in grid.caption

    land = figures.landscape(holed, "2.1", start=0, tokens=10)
    assert len(_drawn(_panels(land)[0], "not estimable")) == 4
    assert "4 tokens that no query sees" in land.caption


@pytest.mark.parametrize("width", ["column", "page"])
def test_the_verdict_map_shows_the_verdicts(width: str, result: xarray.DataTree) -> None:
    plate = figures.verdict_map(result, width=width)
    names = np.array([*judgements.MARKS, judgements.NOT_ESTIMABLE])
    for ax, term in zip(_panels(plate), ROWS, strict=True):
        (mesh,) = _drawn(ax, "verdict")
        code = np.ma.filled(mesh.get_array(), len(judgements.MARKS)).reshape(4, 6).astype(int)
        verdict = result["verdicts"]["verdict"].sel(term=term).transpose("head", "layer").values
        np.testing.assert_array_equal(names[code], verdict)
        signs = sorted(len(dots.get_offsets()) for dots in _drawn(ax, "sign"))
        assert signs == sorted([(verdict == "CONFOUNDED").sum(), (verdict == "ABSENT").sum()])
        assert ax.get_title("right") == f"{(verdict == 'IDENTIFIED').sum()} identified"
        assert ax.patch.get_hatch()


def test_every_verdict_and_row_has_its_mark_and_title() -> None:
    assert [*judgements.MARKS, judgements.NOT_ESTIMABLE] == [verdict.value for verdict in Verdict]
    assert tuple(selection.ROWS) == ROWS


@pytest.mark.parametrize("heads", [None, ["4.1", "0.3"]])
def test_the_variogram_shows_data_fit_and_null(heads: list[str] | None, result: xarray.DataTree) -> None:
    data = result["carry"].to_dataset()
    plate = figures.variogram(result, heads=heads)
    names = [ax.get_title("left").removeprefix("head ") for ax in _panels(plate)]
    share = data["sill_share"].stack(place=("layer", "head"))
    largest = share.sortby(share, ascending=False)["place"].values[:4]
    assert names == (heads or [f"{layer}.{head}" for layer, head in largest])
    for ax, name in zip(_panels(plate), names, strict=True):
        here = data.sel(dict(zip(("layer", "head"), map(int, name.split(".")), strict=True)))
        np.testing.assert_array_equal(_points(ax, "head"), np.stack([LAGS, here["variogram"]], 1))
        np.testing.assert_array_equal(_points(ax, "null"), np.stack([LAGS, here["variogram_permuted"]], 1))
        (fit,) = _drawn(ax, "fit")
        lag = fit.get_xdata()
        np.testing.assert_allclose(
            fit.get_ydata(), here["nugget"].item() + here["sill"].item() * (1 - here["rho"].item() ** lag)
        )
        assert ax.get_ylim()[0] == 0


def test_more_heads_than_fit_a_page_are_cut_to_those_of_largest_sill_and_the_caption_says_so(
    result: xarray.DataTree,
) -> None:
    heads = [f"{layer}.{head}" for layer in (0, 2, 4, 6) for head in range(4)]
    for draw in (figures.variogram, figures.rho_profile):
        plate = draw(result, heads=heads)
        assert len(_panels(plate)) == 12
        assert "Drawn: the 12 of 16 heads with the largest sill" in plate.caption


def test_the_ladder_shows_median_and_range_of_the_sill_left(result: xarray.DataTree) -> None:
    data = result["carry"].to_dataset()
    seen = data["sill_share"] >= 0.05
    plate = figures.carry_ladder(result)
    pairs = [*((rank, 0) for rank in RANKS[1:]), (32, 8)]
    for ax, (upper, lower) in zip(_panels(plate), pairs, strict=True):
        ratio = (data["ladder_sill"].sel(rank=upper) / data["ladder_sill"].sel(rank=lower)).where(seen)
        here = np.isfinite(ratio).any("head")
        np.testing.assert_allclose(_points(ax, "median")[:, 1], ratio.median("head"))
        ends = np.array([line[:, 1] for lines in _drawn(ax, "range") for line in lines.get_segments()])
        np.testing.assert_allclose(ends[here], np.stack([ratio.min("head"), ratio.max("head")], 1)[here])
        assert len(_drawn(ax, "not estimable")) == int((~here).sum())
        assert [line.get_ydata()[0] for line in _drawn(ax, "bar")] == ([0.5] if lower == 8 else [])
    assert f"Left out: {int((~seen).sum())} of 24 heads" in plate.caption


def test_contrasts_show_every_head_and_the_share_above_zero(result: xarray.DataTree) -> None:
    data = result["verdicts"].to_dataset()
    for ax, term in zip(_panels(figures.contrasts(result)), ROWS, strict=True):
        here = data.sel(term=term)
        known = np.isfinite(here["contrast"])
        drawn = _points(ax, "head")
        row = drawn[:, 1].round().astype(int)
        for place, null in enumerate(data["null"].values):
            values = here["contrast"].sel(null=null).values
            np.testing.assert_array_equal(
                np.sort(drawn[row == place, 0]), np.sort(values[np.isfinite(values)])
            )
        texts = [text.get_text() for text in _drawn(ax, "share above 0")]
        share = (here["contrast_low"] > 0).where(known).mean(("layer", "head"))
        expected = ["–" if np.isnan(one) else f"{100 * one:.0f} %" for one in share.values]
        assert texts == expected
        medians = here["contrast"].median(("layer", "head"))
        np.testing.assert_allclose(_points(ax, "median")[:, 0], medians[np.isfinite(medians)])


def test_the_carry_over_along_the_window_is_drawn_with_its_interval(result: xarray.DataTree) -> None:
    data = result["carry"].to_dataset()
    for heads, layers in ((None, [0, 4, 6, 10]), ("4.1,0.3", [0, 4])):
        panels = _panels(figures.carry_over(result, heads=heads))
        assert [ax.get_title("left") for ax in panels] == [f"layer {layer}" for layer in layers]
        for ax, layer in zip(panels, layers, strict=True):
            here = data.sel(layer=layer)
            (line,), (band,) = _drawn(ax, "magnitude"), _drawn(ax, "interval")
            np.testing.assert_array_equal(line.get_ydata(), here["layer_magnitude"])
            corners = band.get_paths()[0].vertices
            assert corners[:, 1].max() == here["layer_magnitude_high"].max()
            assert corners[:, 1].min() == here["layer_magnitude_low"].min()
            assert corners[:, 0].min() == 12


def test_the_spectrum_shows_eigenvalues_floors_and_blocks(result: xarray.DataTree) -> None:
    data = result["spectrum"].to_dataset()
    ax, *blocks = _panels(figures.spectrum(result, heads="0.1,2.2,10.0"))
    for line, layer in zip(_drawn(ax, "eigenvalue"), (0, 2, 10), strict=True):
        here = data.sel(layer=layer)
        np.testing.assert_array_equal(line.get_ydata(), here["eigenvalue"].where(here["floored"] != 1))
    crosses = [len(dots.get_offsets()) for dots in _drawn(ax, "floored")]
    assert crosses == [2, 1, 2]  # the second layer's last direction is of a constant column
    for panel, layer in zip(blocks, (0, 2, 10), strict=True):
        (mesh,) = _drawn(panel, "map")
        share = data["block_share"].sel(layer=layer).transpose("block", "direction")
        np.testing.assert_array_equal(np.ma.filled(mesh.get_array(), np.nan).reshape(share.shape), share)
        assert [text.get_text() for text in panel.get_yticklabels()] == data["block"].values.tolist()


def test_the_profile_of_rho_is_drawn_over_its_threshold_with_both_intervals(result: xarray.DataTree) -> None:
    data = result["profile"].to_dataset()
    heads = ["4.1", "0.3", "2.2"]
    for ax, name in zip(_panels(figures.rho_profile(result, heads=heads)), heads, strict=True):
        layer, head = map(int, name.split("."))
        here = data.sel(layer=layer, head=head)
        (curve,) = _drawn(ax, "profile")
        np.testing.assert_allclose(curve.get_xdata(), data["rho"])
        np.testing.assert_allclose(curve.get_ydata(), here["rise"] / here["threshold"])
        for bar, low, high in (
            ("profile's interval", "low", "high"),
            ("jackknife's interval", "fisher_low", "fisher_high"),
        ):
            (lines,) = _drawn(ax, bar)
            np.testing.assert_allclose(lines.get_segments()[0][:, 0], [here[low], here[high]])
        assert ("disagree" in ax.get_title("left")) == bool(here["disagree"])


@pytest.mark.parametrize("end", ["", "_fine"])
def test_the_tracks_profile_shows_the_share_of_heads_that_keep_a_pair(
    result: xarray.DataTree, end: str
) -> None:
    data = result["profile"].to_dataset()
    if not end:
        fine = [name for name in data.data_vars if str(name).endswith("_fine")]
        result = xarray.DataTree.from_dict({"/profile": data.drop_vars(fine)})
    known = data[f"kept{end}"].mean("head").dropna("layer", how="all")  # nothing of the last layer is
    share = known.transpose(f"width{end}", f"tau{end}", "layer").values
    panels = _panels(figures.track_profile(result))
    for ax, expected in zip(panels, share, strict=True):
        (mesh,) = _drawn(ax, "map")
        drawn = np.ma.filled(mesh.get_array(), np.nan).reshape(expected.shape)
        np.testing.assert_allclose(drawn, expected)
        assert (mesh.norm.vmin, mesh.norm.vmax) == (0, 1)


def test_named_heads_show_each_pairs_excess_over_its_threshold_and_what_is_kept(
    result: xarray.DataTree,
) -> None:
    data = result["profile"].to_dataset().transpose("width_fine", "tau_fine", ...)
    names = ["4.1", "0.3", "2.2"]
    layers, heads = (xarray.DataArray([int(name.split(".")[k]) for name in names]) for k in (0, 1))
    here = data.sel(layer=layers, head=heads)
    ratio = (here["excess_fine"] / here["allowed_fine"]).where(here["allowed_fine"] > 0, 0).values
    for k, ax in enumerate(_panels(figures.track_profile(result, heads=names))):
        (mesh,) = _drawn(ax, "map")
        np.testing.assert_allclose(mesh.get_array().reshape(ratio[k].shape), ratio[k])
        row, column = np.nonzero(here["kept_fine"].values[k])
        dots = np.stack([column, row], 1)[np.lexsort((row, column))] + 0.5
        np.testing.assert_array_equal(_points(ax, "kept"), dots)


def test_detection_limits_are_dark_where_an_absence_may_be_called_one(result: xarray.DataTree) -> None:
    plate = figures.detection_limits(result)
    for ax, term in zip(_panels(plate), ROWS, strict=True):
        share = result["limits"]["share"].sel(term=term).values.ravel()
        dots = {
            tuple(one.get_facecolor()[0][:3]): one.get_offsets()
            for one in _drawn(ax, "head")
            if len(one.get_offsets())
        }
        for colour, kept in ((plates.DARK, share <= 0.1), (plates.PALE, (share > 0.1) & np.isfinite(share))):
            drawn = dots.get(to_rgb(colour), np.zeros((0, 2)))
            np.testing.assert_array_equal(np.sort(drawn[:, 1]), np.sort(share[kept]))
        assert len(_points(ax, "beyond")) == np.isinf(share).sum()
        assert [line.get_ydata()[0] for line in _drawn(ax, "small")] == [0.1]
        assert len(_drawn(ax, "empty")) == (term == "prosody")


def test_the_calibration_shows_rates_with_wilson_intervals() -> None:
    table = make_calibration()
    table.index = [0] * len(table)  # as `pandas.concat` of two runs leaves it
    for ax, term in zip(_panels(figures.calibration(table)), ROWS, strict=True):
        rows = table[table["term"] == term]
        for gid, kept in (("present", rows["present"]), ("absent", ~rows["present"])):
            np.testing.assert_array_equal(np.sort(_points(ax, gid)[:, 0]), np.sort(rows["identified"][kept]))
            filled = {one.get_facecolor()[0].tolist() != [1, 1, 1, 1] for one in _drawn(ax, gid)}
            assert filled == {gid == "present"}
        rate, n, z = rows["identified"].to_numpy(), rows["runs"].to_numpy(), 1.959963984540054
        middle = (rate + z**2 / (2 * n)) / (1 + z**2 / n)
        half = z / (1 + z**2 / n) * np.sqrt(rate * (1 - rate) / n + z**2 / (4 * n**2))
        drawn = [line[:, 0] for lines in _drawn(ax, "interval") for line in lines.get_segments()]
        np.testing.assert_allclose(drawn, np.stack([middle - half, middle + half], 1), atol=1e-12)
    assert "n = 60 runs a point, of 16 or 24 documents; 8 worlds" in figures.calibration(table).caption


@pytest.mark.parametrize("heads", [None, "4.1,0.3"])
def test_an_ablation_shows_the_loss_of_every_head_that_was_touched(
    result: xarray.DataTree, heads: str | None
) -> None:
    data = result["ablation"].to_dataset()
    odd = [(2 * place, head) for place in range(6) for head in range(4) if (place + head) % 2]
    places = [(4, 1), (0, 3)] if heads else odd
    plate = figures.ablation(result, heads=heads)
    without = []
    for ax, term in zip(_panels(plate), TERMS, strict=True):
        here = [data.sel(layer=layer, head=head, term=term, measure="loss") for layer, head in places]
        drawn = {round(float(x)): y for x, y in _points(ax, "head")}
        assert [drawn[place] for place in range(len(here))] == [one["difference"].item() for one in here]
        ends = {tuple(line[:, 1]) for lines in _drawn(ax, "interval") for line in lines.get_segments()}
        assert ends == {(one["difference_low"].item(), one["difference_high"].item()) for one in here}
        without.append(f"{term} {sum(bool(one['no_causal_effect']) for one in here)}")
    assert f"No causal effect on the loss (heads): {', '.join(without)}." in plate.caption


def test_a_removal_shows_the_term_its_placebos_and_their_difference() -> None:
    data = make_ablation()
    plate = figures.removal(data)
    for ax, measure in zip(_panels(plate), data["measure"].values, strict=True):
        here = data.sel(measure=measure)
        for name in ("removed", "difference"):
            assert _points(ax, name)[:, 0].tolist() == [here[name].item()]
            (lines,) = _drawn(ax, f"{name} interval")
            ends = [here[f"{name}_low"].item(), here[f"{name}_high"].item()]
            assert lines.get_segments()[0][:, 0].tolist() == ends
        placebo = here["placebo"].values.ravel()
        np.testing.assert_array_equal(_points(ax, "placebo")[:, 0], placebo[np.isfinite(placebo)])
        assert here["unit"].item().replace("1", "no unit") in ax.get_xlabel()
    assert "n = 12 documents, 24 windows, 10 placebos of a kind" in plate.caption
    assert "The interval of the loss leaves out 0." in plate.caption


@pytest.mark.parametrize("draw", WITH_HEADS)
def test_a_result_without_any_estimate_is_still_drawn(draw: Draw, result: xarray.DataTree) -> None:
    def lose(data: xarray.Dataset) -> None:
        for name, values in data.data_vars.items():
            if values.dtype.kind == "f":
                data[name] = values * np.nan
        if "verdict" in data:
            data["verdict"] = xarray.full_like(data["verdict"], "NOT_ESTIMABLE")

    empty = result
    for group in (
        "terms",
        "reference",
        "verdicts",
        "carry",
        "spectrum",
        "profile",
        "limits",
        "ablation",
        "groups",
    ):
        empty = _with(empty, group, lose)
    plate = draw(empty)
    _written(plate, "pdf")
    of_none = (
        r"of every head|24 NOT_ESTIMABLE|24 of 24 heads|24 not computed|: none|not estimable|\d 0 \(0 floored"
    )
    assert re.search(of_none, plate.caption)


def test_wild_heads_stand_at_the_edge_and_are_counted(result: xarray.DataTree) -> None:
    def blow_up(data: xarray.Dataset) -> None:
        for name in ("r2", "r2_low", "r2_high"):
            data[name].loc[{"layer": 10, "head": 0}] = -7

    def fall(data: xarray.Dataset) -> None:
        for name in ("gain", "gain_low", "gain_high"):
            data[name].loc[{"layer": 0, "head": 0, "term": "state"}] = -40

    for wild, panel in (
        (figures.reference_fit(_with(result, "reference", blow_up)), 0),
        (figures.gain(_with(result, "terms", fall)), 2),
    ):
        bottom = _panels(wild)[panel].get_ylim()[0]
        assert bottom > -2
        assert _points(_panels(wild)[panel], "off the scale")[:, 1].tolist() == [bottom]
        assert "off the scale: 1." in wild.caption


@pytest.mark.parametrize("draw", DRAWN)
def test_a_caption_states_n_intervals_units_and_verdicts(draw: Draw, result: xarray.DataTree) -> None:
    plate = draw(result)
    caption = plate.caption
    assert "n = 24 documents in 8 folds, 192 windows of 64 tokens;" in caption
    assert re.search(r"(24|20|16|12|4) heads of (6|5|4|3|2) layers|1 head of 1 layer", caption)
    assert re.search(r"95 % interval|[Nn]o intervals", caption)
    assert re.search(UNIT, caption)
    assert "  " not in caption
    said = re.search(r"Heads with the verdict IDENTIFIED: prosody \d+, .*, carry \d+\.$", caption)
    assert said
    if "; 24 heads" in caption:
        identified = (result["verdicts"]["verdict"] == "IDENTIFIED").sum(("layer", "head"))
        numbers = [f"{term} {int(identified.sel(term=term))}" for term in ROWS]
        assert said[0].endswith(f"{', '.join(numbers)}.")


def test_a_caption_says_where_verdicts_are_not_computed(result: xarray.DataTree) -> None:
    part = result.copy()
    del part["verdicts"]
    assert figures.gain(part).caption.endswith("Verdicts: not computed.")


@pytest.mark.parametrize("kind", ["pdf", "svg", "png"])
def test_save_all_writes_every_figure_with_its_caption_and_twice_the_same(
    kind: str, result: xarray.DataTree, tmp_path: Path
) -> None:
    written = figures.save_all(result, tmp_path / "été 1", format=kind, heads="4.1")
    names = [*(draw.__name__ for draw in WITH_HEADS), "landscape_4.1"]
    assert [path.name for path in written] == [f"{name}.{kind}" for name in names]
    caption = (written[0].parent / "landscape_4.1.txt").read_text(encoding="utf-8")
    assert "head 4.1 on tokens 4 to 51" in caption
    again = figures.save_all(result, tmp_path / "again", format=kind, heads="4.1")
    for one, other in zip(written, again, strict=True):
        assert one.read_bytes() == other.read_bytes()
    assert len(list(written[0].parent.iterdir())) == (3 if kind == "pdf" else 2) * len(written)


def test_save_all_draws_what_the_result_can_carry(result: xarray.DataTree, tmp_path: Path) -> None:
    part = xarray.DataTree.from_dict(
        {"/": result.to_dataset(), "/reference": result["reference"].to_dataset()}
    )
    assert [path.name for path in figures.save_all(part, tmp_path)] == ["reference_fit.pdf"]


def test_save_all_skips_what_a_group_does_not_hold(result: xarray.DataTree, tmp_path: Path) -> None:
    def cut(*names: str) -> Callable[[xarray.Dataset], None]:
        def drop(data: xarray.Dataset) -> None:
            for name in names:
                del data[name]

        return drop

    part = _with(result, "verdicts", cut("contrast"))
    part = _with(part, "carry", cut("ladder_sill", "layer_magnitude", "variogram_permuted"))
    part = _with(part, "profile", cut("rise"))
    del part["limits"]
    del part["ablation"]
    drawn = {path.stem for path in figures.save_all(part, tmp_path)}
    missing = {"contrasts", "carry_ladder", "carry_over", "rho_profile", "detection_limits", "ablation"}
    first = selection.most_gain(result)
    assert drawn == {draw.__name__ for draw in WITH_HEADS} - missing | {f"landscape_{first}"}
    assert not _drawn(figures.variogram(part).axes[0], "null")


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        (lambda result, out: figures.gain(result, heads="3.1"), r"3\.1"),
        (lambda result, out: figures.energy_map(result, heads="2.9"), r"2\.9"),
        (lambda result, out: figures.track_grid(result, heads="two"), "two"),
        (lambda result, out: figures.landscape(result, "2"), "layer.head"),
        (lambda result, out: figures.landscape(result, "2.1", start=64), "0 to 63"),
        (lambda result, out: figures.landscape(result, "2.1", tokens=97), "1 to 84"),
        (lambda result, out: figures.landscape(result, "2.1", tokens=0), "1 to 84"),
        (lambda result, out: figures.reference_fit(result, width="poster"), "column or page"),
        (
            lambda result, out: figures.gain(result, style="poster"),
            "no figure style 'poster': take paper or talk",
        ),
        (lambda result, out: figures.save_all(result, out, style="poster"), "paper or talk"),
        (lambda result, out: figures.gain(xarray.DataTree()), "no group 'terms'"),
        (lambda result, out: figures.verdict_map(xarray.DataTree()), "no group 'verdicts'"),
        (lambda result, out: figures.carry_ladder(result, heads="2.9"), r"2\.9"),
        (lambda result, out: figures.carry_over(result, heads="3.1"), r"3\.1"),
        (lambda result, out: figures.spectrum(result, width="poster"), "column or page"),
        (
            lambda result, out: figures.contrasts(
                _with(result, "verdicts", lambda data: data.__delitem__("contrast"))
            ),
            "group 'verdicts' has no contrast",
        ),
        (lambda result, out: figures.calibration(make_calibration().drop(columns=["runs"])), "no runs"),
        (lambda result, out: figures.calibration(make_calibration().iloc[:0]), "no rows"),
        (lambda result, out: figures.ablation(result, heads="9.9"), r"9\.9"),
        (lambda result, out: figures.removal(xarray.Dataset()), "take what `ablate` returns"),
        (lambda result, out: figures.save_all(xarray.DataTree(), out), "no group"),
        (lambda result, out: figures.save_all(result, out, format="bmp"), "pdf, svg, png"),
        (lambda result, out: figures.save_all(result, out, heads="9.9"), r"9\.9"),
        (lambda result, out: figures.save_all(result, out / "file" / "fig"), "cannot write"),
    ],
)
def test_a_wrong_request_is_refused_in_one_line_with_nothing_written(
    request_: Callable[[xarray.DataTree, Path], object], says: str, result: xarray.DataTree, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RequestError, match=says) as refusal:
        request_(result, tmp_path)
    assert "\n" not in str(refusal.value)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@given(st.text())
def test_any_piece_is_shown_short_visible_and_drawable(piece: str) -> None:
    shown = example.show_piece(piece)
    assert 1 <= len(shown) <= example.LONGEST_PIECE
    assert not re.search(r"\s", shown)
    drawable = frozenset[int]().union(*example.token_fonts().values())
    assert all(ord(char) in drawable for char in shown)


def test_pieces_that_no_font_has_or_that_look_like_formulas_are_set_as_they_are(
    result: xarray.DataTree,
) -> None:
    def spoil(data: xarray.Dataset) -> None:
        pieces = data["piece"].values.astype(object)
        pieces[4 : 4 + len(NASTY)] = NASTY
        data["piece"] = ("position", pieces)

    plate = figures.landscape(_with(result, "example", spoil), "2.1")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _written(plate, "pdf")
        svg = ElementTree.fromstring(_written(plate, "svg"))
    said = {text.text for text in svg.iter("{http://www.w3.org/2000/svg}text")}
    assert {"$x$", "\\frac{a}", "⏎⏎", "⇥", "␣×40"} <= said  # a dollar starts no formula


def test_a_notebook_shows_a_figure_at_its_print_width_with_its_caption():
    plate = figures.energy_map(make_result())
    plate.caption += " <&>"
    with matplotlib.rc_context(HOSTILE):
        shown, _ = DisplayFormatter().format(plate)
    picture = matplotlib.image.imread(BytesIO(base64.b64decode(shown["image/png"])), format="png")
    assert picture.shape[1] == pytest.approx(plates.SCREEN * plates.STYLES["paper"].inches["column"], abs=1)
    assert shown["image/png"] in shown["text/html"]
    page = ElementTree.fromstring(shown["text/html"].replace('"><figcaption', '"/><figcaption'))
    assert page.find("img").get("alt") == page.find("figcaption").text == shown["text/plain"] == plate.caption
