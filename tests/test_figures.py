"""Laws of the figures: what is drawn is what the result holds, at print size, and nothing leaks out."""

import re
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
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.text import Text
from synthetic import make_result

from infodyn_interp import RequestError, figures
from infodyn_interp.figures import example, maps, plates

Draw = Callable[..., figures.Plate]

DRAWN: list[Draw] = [
    figures.energy_map,
    figures.gain,
    figures.track_grid,
    figures.reference_fit,
    figures.landscape,
]
WITH_HEADS = DRAWN[:4]
TERMS = ("prosody", "rhythm", "state", "track")
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
    """Every text that is drawn: without the labels of ticks outside the view."""
    hidden = set()
    for ax in plate.axes:
        for axis in (ax.xaxis, ax.yaxis):
            low, high = sorted(axis.get_view_interval())
            hidden |= {
                t
                for tick in axis.get_major_ticks()
                if not low <= tick.get_loc() <= high
                for t in (tick.label1,)
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


@pytest.mark.parametrize("width", ["column", "page"])
@pytest.mark.parametrize("draw", DRAWN)
def test_the_printed_width_is_exact(draw: Draw, width: str, result: xarray.DataTree) -> None:
    page = re.search(rb"/MediaBox \[ ?([\d. ]+)\]", _written(draw(result, width=width), "pdf"))
    assert float(page[1].split()[2]) == pytest.approx(72 * {"column": 3.3, "page": 6.9}[width], abs=0.01)


@pytest.mark.parametrize("heads", [None, "4.1,0.3"])
@pytest.mark.parametrize("width", ["column", "page"])
@pytest.mark.parametrize("draw", WITH_HEADS)
def test_every_axis_names_its_quantity_and_unit(
    draw: Draw, width: str, heads: str | None, result: xarray.DataTree
) -> None:
    plate = draw(result, heads=heads, width=width)
    counted = {"layer", "head", "head (layer.head)"}
    for ax in plate.axes:
        bar = ax.get_label() == "<colorbar>"
        for axis in [ax.yaxis] if bar else [ax.xaxis, ax.yaxis]:
            label = _label(axis, plate).replace("\n", " ")
            assert label in counted or re.search(r"\b(share|nats|tokens)\b", label), label


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
@pytest.mark.parametrize("draw", DRAWN)
def test_words_are_legible_within_the_sheet_and_touch_no_other(
    draw: Draw, width: str, size: tuple[int, int]
) -> None:
    _require_legible(draw(make_result(*size), width=width))


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


def _require_legible(plate: figures.Plate) -> None:
    plate.dpi = 200
    FigureCanvasAgg(plate).draw()
    words = list(_words(plate))
    boxes = [text.get_window_extent() for text in words]
    for text, box in zip(words, boxes, strict=True):
        assert 6 <= text.get_fontsize() <= 9, text
        assert min(box.x0, box.y0) >= -1, text
        assert max(box.x1 - plate.bbox.x1, box.y1 - plate.bbox.y1) <= 1, text
    slack = 0.5 * plate.dpi / 72  # the box of a line of type is taller than its letters
    for (one, a), (other, b) in combinations(zip(words, boxes, strict=True), 2):
        overlap = min(a.x1, b.x1) - max(a.x0, b.x0), min(a.y1, b.y1) - max(a.y0, b.y0)
        assert min(overlap) <= slack, (one, other)


@pytest.mark.parametrize("draw", DRAWN)
def test_a_pdf_embeds_truetype_and_an_svg_keeps_its_text(draw: Draw, result: xarray.DataTree) -> None:
    plate = draw(result)
    with matplotlib.rc_context(HOSTILE):
        pdf, svg = _written(plate, "pdf"), _written(plate, "svg")
    assert b"/FontFile2" in pdf
    assert b"/CIDFontType2" in pdf
    assert b"/Type3" not in pdf
    said = {text.text for text in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")}
    assert said & {"layer", "mean energy received (nats)"}


@pytest.mark.parametrize("draw", DRAWN)
def test_the_callers_settings_change_nothing_and_come_back(draw: Draw, result: xarray.DataTree) -> None:
    svg, pixels = _written(draw(result), "svg"), _pixels(draw(result))
    with matplotlib.rc_context(HOSTILE):
        before = dict(matplotlib.rcParams)
        assert _written(draw(result), "svg") == svg
        assert _pixels(draw(result)) == pixels
        with pytest.raises(RequestError):
            draw(result, width="poster")
        assert dict(matplotlib.rcParams) == before


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


@pytest.mark.parametrize("draw", WITH_HEADS)
def test_a_result_without_any_estimate_is_still_drawn(draw: Draw, result: xarray.DataTree) -> None:
    def lose(data: xarray.Dataset) -> None:
        for name in data.data_vars:
            data[name] = data[name] * np.nan

    empty = _with(_with(result, "terms", lose), "reference", lose)
    plate = draw(empty)
    _written(plate, "pdf")
    assert "of every head" in plate.caption


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
def test_a_caption_states_n_intervals_units_and_that_verdicts_are_not_computed(
    draw: Draw, result: xarray.DataTree
) -> None:
    caption = draw(result).caption
    assert "n = 24 documents in 8 folds" in caption
    assert "24 heads of 6 layers" in caption or "1 head of 1 layer" in caption
    assert "95 % interval" in caption or "No intervals" in caption or "no intervals" in caption
    assert re.search(r"share|nats", caption)
    assert caption.endswith("Verdicts: not computed.")


@pytest.mark.parametrize("kind", ["pdf", "svg", "png"])
def test_save_all_writes_every_figure_with_its_caption_and_twice_the_same(
    kind: str, result: xarray.DataTree, tmp_path: Path
) -> None:
    written = figures.save_all(result, tmp_path / "été 1", format=kind, heads="4.1")
    names = ["energy_map", "gain", "track_grid", "reference_fit", "landscape_4.1"]
    assert [path.name for path in written] == [f"{name}.{kind}" for name in names]
    assert "head 4.1 on tokens 4 to 51" in (written[4].parent / "landscape_4.1.txt").read_text(
        encoding="utf-8"
    )
    again = figures.save_all(result, tmp_path / "again", format=kind, heads="4.1")
    for one, other in zip(written, again, strict=True):
        assert one.read_bytes() == other.read_bytes()
    assert len(list(written[0].parent.iterdir())) == 2 * len(written)


def test_save_all_draws_what_the_result_can_carry(result: xarray.DataTree, tmp_path: Path) -> None:
    part = xarray.DataTree.from_dict(
        {"/": result.to_dataset(), "/reference": result["reference"].to_dataset()}
    )
    assert [path.name for path in figures.save_all(part, tmp_path)] == ["reference_fit.pdf"]


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        (lambda result, out: figures.gain(result, heads="3.1"), r"3\.1"),
        (lambda result, out: figures.energy_map(result, heads="2.9"), r"2\.9"),
        (lambda result, out: figures.track_grid(result, heads="two"), "two"),
        (lambda result, out: figures.landscape(result, "2"), "layer.head"),
        (lambda result, out: figures.landscape(result, "2.1", start=64), "0 to 63"),
        (lambda result, out: figures.landscape(result, "2.1", tokens=97), "1 to 96"),
        (lambda result, out: figures.landscape(result, "2.1", tokens=0), "1 to 96"),
        (lambda result, out: figures.reference_fit(result, width="poster"), "column or page"),
        (lambda result, out: figures.gain(xarray.DataTree()), "no group 'terms'"),
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
    shown = example._show_piece(piece)
    assert 1 <= len(shown) <= example.LONGEST_PIECE
    assert not re.search(r"\s", shown)
    drawable = frozenset[int]().union(*example._token_fonts().values())
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


def test_colours_that_mean_two_things_differ_in_lightness_also_to_the_colour_blind() -> None:
    shades = maps.SHADES(np.linspace(0, 1, 64))[:, :3]
    for seen in (_lightness(shades), _lightness(_deuteranope(shades))):
        assert (np.diff(seen) < 0).all()
        assert seen[0] - seen[-1] > 80
    for one, other in ((plates.DARK, plates.PALE), (plates.DARK, plates.WARM)):
        pair = np.array([to_rgb(one), to_rgb(other)])
        assert abs(np.diff(_lightness(pair))) > 35
        assert abs(np.diff(_lightness(_deuteranope(pair)))) > 35


def _deuteranope(colours: np.ndarray) -> np.ndarray:
    """What a deuteranope sees of sRGB colours (Machado, Oliveira and Fernandes 2009, severity 1)."""
    matrix = [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ]
    linear = np.clip(_linear(colours) @ np.transpose(matrix), 0, 1)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def _linear(colours: np.ndarray) -> np.ndarray:
    return np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)


def _lightness(colours: np.ndarray) -> np.ndarray:
    """CIE L* of sRGB colours, which is what a grey print keeps."""
    return 116 * np.cbrt(_linear(colours) @ [0.2126, 0.7152, 0.0722]) - 16
