"""Laws of the colours: what they tell apart is also told apart by a deuteranope, and in grey print."""

from collections import defaultdict
from collections.abc import Iterator
from itertools import combinations

import numpy as np
import pytest
from colorspacious import cspace_convert, deltaE
from every_figure import EVERY, Draw
from matplotlib.axes import Axes
from matplotlib.collections import Collection, LineCollection, PathCollection, QuadMesh
from matplotlib.colors import to_rgb, to_rgba
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from synthetic import make_result

from infodyn_interp.figures import couplings, judgements, maps

APART = 20  # CAM02-UCS between two colours of one form, to a deuteranope; 1 can just be seen side by side
LIGHTER = 15  # of that, in lightness alone, which is all that grey print keeps
DEUTERANOPE = {"name": "sRGB1+CVD", "cvd_type": "deuteranomaly", "severity": 100}
WHITE = np.ones(3)
Form = tuple[object, ...]


def seen(colours: np.ndarray) -> np.ndarray:
    """What a deuteranope sees of sRGB colours (Machado, Oliveira and Fernandes, 2009)."""
    return np.clip(cspace_convert(colours, DEUTERANOPE, "sRGB1"), 0, 1)


def lightness(colours: np.ndarray) -> np.ndarray:
    return cspace_convert(colours, "sRGB1", "CAM02-UCS")[..., 0]


def on_white(colour: object, alpha: float | None = None) -> tuple[float, ...]:
    red, green, blue, own = to_rgba(colour)
    cover = own if alpha is None else alpha
    return tuple(np.round(cover * np.array([red, green, blue]) + (1 - cover) * WHITE, 4).tolist())


def marks(ax: Axes) -> Iterator[tuple[Form, float, tuple[float, ...]]]:
    """Form, thickness and colour of everything whose colour is a category; intervals are told by their marks."""
    for artist in ax.get_children():
        if str(artist.get_gid() or "").endswith("interval") or not artist.get_visible():
            continue
        match artist:
            case Line2D() if len(artist.get_xdata()):
                dashes = artist._unscaled_dash_pattern[1]
                if artist.get_linestyle() != "None":
                    form = "line", None if dashes is None else tuple(np.round(dashes, 2))
                    yield form, artist.get_linewidth(), on_white(artist.get_color(), artist.get_alpha())
                if artist.get_marker() not in ("None", None, ""):
                    yield ("mark", artist.get_marker()), 1, on_white(artist.get_markerfacecolor())
            case LineCollection() if len(artist.get_segments()):
                for colour in artist.get_colors():
                    yield ("line", None), float(artist.get_linewidth()[0]), on_white(colour)
            case PathCollection() if len(artist.get_offsets()):
                shape = artist.get_paths()[0].vertices.round(2).tobytes()
                for face in artist.get_facecolors():
                    filled = on_white(face) != tuple(WHITE)
                    colour = face if filled else artist.get_edgecolors()[0]
                    yield ("mark", shape, filled), float(np.sqrt(artist.get_sizes()[0])), on_white(colour)
            case Collection() if not isinstance(artist, (QuadMesh, LineCollection, PathCollection)):
                faces = artist.get_facecolors()
                colour = faces[0] if len(faces) and faces[0][3] else artist.get_edgecolors()[0]
                yield ("area", artist.get_hatch()), 1, on_white(colour)
            case Patch() if artist is not ax.patch and artist not in ax.spines.values():
                yield ("area", artist.get_hatch()), 1, on_white(artist.get_facecolor())


@pytest.mark.parametrize("draw", EVERY)
def test_marks_of_one_form_differ_in_colour_to_a_deuteranope_and_in_grey_print(draw: Draw) -> None:
    for ax in draw(make_result(6, 4, 8)).axes:
        forms: dict[Form, set[tuple[float, tuple[float, ...]]]] = defaultdict(set)
        for form, size, colour in marks(ax):
            forms[form].add((size, colour))
        for form, found in forms.items():
            for (thick, one), (thin, other) in combinations(found, 2):
                if one == other or max(thick, thin) >= 2 * min(thick, thin):
                    continue
                pair = np.array([one, other])
                assert deltaE(*seen(pair), input_space="sRGB1") >= APART, (form, pair)
                assert np.ptp(lightness(pair)) >= LIGHTER, (form, pair)


def test_verdicts_differ_in_lightness_also_to_a_deuteranope_and_neighbours_in_sign() -> None:
    grounds = np.array([to_rgb(mark.ground) for mark in judgements.MARKS.values()])
    for shown in (grounds, seen(grounds)):
        assert (np.diff(lightness(shown)) >= LIGHTER).all()
    for one, other in combinations(grounds, 2):
        assert deltaE(*seen(np.array([one, other])), input_space="sRGB1") >= APART
    signs = [mark.sign for mark in judgements.MARKS.values()]
    assert signs[1] != signs[2] != signs[3]


def test_shades_darken_with_what_they_show_to_every_eye() -> None:
    shades = maps.SHADES(np.linspace(0, 1, 64))[:, :3]
    for shown in (shades, seen(shades)):
        assert (np.diff(lightness(shown)) < 0).all()
        assert np.ptp(lightness(shown)) > 70


def test_a_visible_couplings_sign_needs_no_colour() -> None:
    up, down = couplings.SIGNS["VISIBLE"]
    assert up != down
    ends = np.array(couplings.SHADES([0.0, 0.5, 1.0]))[:, :3]
    assert deltaE(*seen(ends[[0, 2]]), input_space="sRGB1") >= APART
    middle = lightness(ends)[1]
    assert (middle - lightness(ends)[[0, 2]] >= LIGHTER).all()


def test_the_law_finds_two_colours_that_only_hue_tells_apart() -> None:
    green_and_red = np.array([[0.35, 0.6, 0.2], [0.75, 0.4, 0.3]])
    assert deltaE(*green_and_red, input_space="sRGB1") > 2 * deltaE(*seen(green_and_red), input_space="sRGB1")
    assert np.ptp(lightness(np.array([to_rgb("#9dbcd4"), to_rgb("#e9a13b")]))) < LIGHTER
