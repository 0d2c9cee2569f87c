"""The verdict map: layers x heads, a mark a verdict."""

from typing import Any, NamedTuple

import numpy as np
import xarray
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.legend_handler import HandlerTuple
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from infodyn_interp.figures.maps import Lattice, cell_lines
from infodyn_interp.figures.plates import DARK, MISSING, TYPE, WARM, Plate, area, new_panels, points, printed
from infodyn_interp.figures.selection import ROWS, choose_heads, find_group, write_caption
from infodyn_interp.results import Heads


class Mark(NamedTuple):
    """How a verdict is drawn: its ground, and the sign on it."""

    ground: str
    sign: str
    ink: str


# Grounds darken with what may be said; a sign tells those apart that grey print or an eye may bring together.
MARKS = {
    "IDENTIFIED": Mark(DARK, "", ""),
    "WEAK": Mark("#4a86b5", "", ""),
    "CONFOUNDED": Mark(WARM, "x", "black"),
    "ABSENT": Mark("white", "o", ".45"),
}
NOT_ESTIMABLE = "NOT_ESTIMABLE"


@printed
def verdict_map(
    result: xarray.DataTree, heads: Heads = None, width: str = "column", style: str = "paper"
) -> Plate:
    """The verdict of every head in each of the five rows, layers x heads (no unit).

    Raises RequestError for a head, width, style or group `verdicts` that is not there. Source: seed 1.2.
    """
    data = find_group(result, "verdicts", "verdict")
    chosen = choose_heads(data, heads)
    lattice = Lattice.of(chosen, data)
    plate, axes = new_panels(len(ROWS), 3, lattice.height, width, style, words=0.8)
    colours = ListedColormap([mark.ground for mark in MARKS.values()])
    norm = BoundaryNorm(np.arange(len(MARKS) + 1) - 0.5, len(MARKS))
    counts = []
    for ax, (term, title) in zip(axes, ROWS.items(), strict=True):
        verdict = chosen.take(data["verdict"].sel(term=term)).astype(str)
        code = np.full(len(verdict), np.nan)
        for place, name in enumerate(MARKS):
            code[verdict == name] = place
        cells = lattice.fill(code)
        ax.patch.set(**MISSING)
        ax.pcolormesh(
            np.ma.masked_invalid(cells),
            cmap=colours,
            norm=norm,
            edgecolors=cell_lines(cells),
            linewidth=points(0.2),
            gid="verdict",
        )
        lattice.finish(ax)
        box = ax.get_window_extent()
        cell = min(box.width / cells.shape[1], box.height / cells.shape[0]) * 72 / plate.dpi / points(1)
        _draw_signs(ax, cells, cell)
        ax.set_title(title)
        identified = int((verdict == "IDENTIFIED").sum())
        ax.set_title(f"{identified} identified", loc="right", fontsize=points(TYPE))
        found, number = np.unique(verdict, return_counts=True)
        of_name = dict(zip(found.tolist(), number.tolist(), strict=True))
        listed = ", ".join(f"{of_name[name]} {name}" for name in (*MARKS, NOT_ESTIMABLE) if name in of_name)
        counts.append(f"{term}: {listed}")
    _explain_marks(plate, 5 if width == "page" else 3)
    plate.caption = write_caption(
        result,
        chosen,
        "Verdict of every head (layers x heads): dark, IDENTIFIED; lighter, WEAK (there, but not to be read "
        "off); crossed, CONFOUNDED (another part explains the same data); a dot on white, ABSENT (a share of "
        "the detection limit would have been seen); hatched, NOT_ESTIMABLE (the data cannot decide). Verdicts "
        "rest on intervals over folds of documents and on one false discovery rate a panel; no intervals here."
        + ("" if heads is None else " Blank: not asked for."),
        f"Number of heads. {'; '.join(counts)}.",
    )
    return plate


def _draw_signs(ax: Axes, cells: np.ndarray, cell: float) -> None:
    """The signs of the verdicts that have one, in cells of a size given in points on paper."""
    for place, mark in enumerate(MARKS.values()):
        if mark.sign:
            row, column = np.nonzero(cells == place)
            crossed = mark.sign == "x"
            size = np.clip((0.5 if crossed else 0.34) * cell, 0.8, 6)
            line = np.clip(0.07 * cell, 0.3, 0.8) if crossed else 0
            dots = ax.scatter(column + 0.5, row + 0.5, s=area(size**2), marker=mark.sign, color=mark.ink)
            dots.set(linewidth=points(line), gid="sign")


def _explain_marks(plate: Plate, columns: int) -> None:
    grounds = [Patch(facecolor=mark.ground, edgecolor=".4", linewidth=points(0.4)) for mark in MARKS.values()]
    signs = [
        Line2D([], [], linestyle="", marker=mark.sign, color=mark.ink or "none", markersize=points(2.5))
        for mark in MARKS.values()
    ]
    handles: list[Any] = [*zip(grounds, signs, strict=True), Patch(**MISSING | {"linewidth": 0.4})]
    plate.legend(
        handles,
        [*MARKS, NOT_ESTIMABLE],
        handler_map={tuple: HandlerTuple(ndivide=1)},
        loc="outside upper left",
        ncols=columns,
        handlelength=1.1,
        handleheight=1.1,
        columnspacing=1,
        handletextpad=0.4,
        borderpad=0.2,
    )
