"""The plate that a figure is drawn on: print widths, type, colours, panels and their ticks."""

import base64
import html
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib.style
import numpy as np
import seaborn
from matplotlib.axes import Axes
from matplotlib.axis import Axis, YAxis
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from infodyn_interp.errors import RequestError

INCHES = {"column": 3.3, "page": 6.9}
LABEL_SIZE = 7.5  # points
SCREEN = 192  # dots an inch in a notebook: twice what browsers take an inch for
LINE = 8.5 / 72  # inches from one line of tick labels to the next
LETTER = 4.8 / 72  # inches a letter takes along a line
# Colours that mean two things differ in lightness, so that they survive grey print and colour blindness.
DARK, PALE, WARM, RULE = "#12466e", "#9dbcd4", "#e9a13b", ".35"
MISSING: dict[str, Any] = {"facecolor": ".93", "edgecolor": ".6", "hatch": "//////", "linewidth": 0}
PRINT: dict[str, Any] = seaborn.axes_style("ticks") | {
    "font.family": ["DejaVu Sans"],  # comes with matplotlib: the same figure on every machine
    "font.size": 7,
    "axes.titlesize": LABEL_SIZE,
    "axes.labelsize": LABEL_SIZE,
    "axes.titlelocation": "left",
    "axes.titlepad": 3,
    "axes.labelpad": 2,
    "axes.linewidth": 0.6,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.pad": 2,
    "ytick.major.pad": 2,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "hatch.linewidth": 0.4,
    "pdf.fonttype": 42,
    "ps.fonttype": 42,
    "svg.fonttype": "none",
    "svg.hashsalt": "infodyn_interp",
    "savefig.dpi": 300,
}


@contextmanager
def print_settings() -> Iterator[None]:
    """Matplotlib's own defaults and PRINT for the time of a call; what the caller had set comes back.

    The defaults matter too: under a caller's `savefig.bbox: tight` no figure would keep its width.
    """
    with matplotlib.style.context(["default", PRINT]):
        yield


class Plate(Figure):
    """A figure of fixed print width with the caption that belongs to it.

    It is drawn and saved under the print settings: `plate.savefig("map.pdf")` embeds TrueType fonts anywhere.
    """

    caption = ""

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        """What a notebook shows: the figure, and its caption below it and for those who cannot see it."""
        picture = io.BytesIO()
        self.savefig(picture, format="png", dpi=SCREEN)
        encoded = base64.b64encode(picture.getvalue()).decode()
        words = html.escape(self.caption)
        shown = f'<img src="data:image/png;base64,{encoded}" width="{96 * self.get_figwidth():.0f}" alt="{words}">'
        return {
            "text/html": f"<figure>{shown}<figcaption>{words}</figcaption></figure>",
            "image/png": encoded,
            "text/plain": self.caption,
        }

    def draw(self, renderer: Any) -> None:
        with print_settings():
            super().draw(renderer)

    def savefig(self, *arguments: Any, **keywords: Any) -> None:
        with print_settings():
            super().savefig(*arguments, **keywords)


def inches(width: str) -> float:
    """Print width of a figure; raises RequestError for a name that is none."""
    if width not in INCHES:
        raise RequestError(f"no figure width '{width}': take {' or '.join(INCHES)}")
    return INCHES[width]


def new_plate(
    rows: int,
    columns: int,
    height: float,
    width: str,
    *,
    words: float = 0.45,
    sharex: bool = True,
    sharey: bool = True,
) -> tuple[Plate, list[Axes]]:
    """A plate and its panels row by row; `height` of a panel and of all `words` around them, in inches."""
    space = ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.02, wspace=0.02, hspace=0.02)
    plate = Plate(figsize=(inches(width), rows * (height + 0.2) + words), layout=space)
    return plate, list(plate.subplots(rows, columns, sharex=sharex, sharey=sharey, squeeze=False).flat)


def new_panels(
    count: int,
    beside: int,
    height: float,
    width: str,
    *,
    in_column: int = 1,
    words: float = 0.45,
    sharex: bool = True,
    sharey: bool = True,
) -> tuple[Plate, list[Axes]]:
    """`in_column` panels side by side at column width; at page width `beside`, half as high again."""
    columns, tall = (beside, 1.5) if width == "page" else (in_column, 1.0)
    columns = min(columns, count)
    plate, axes = new_plate(
        -(-count // columns), columns, tall * height, width, words=words, sharex=sharex, sharey=sharey
    )
    for place, spare in enumerate(axes[count:], count):
        spare.remove()
        if place >= columns:  # the panel above it is now the lowest
            axes[place - columns].tick_params("x", labelbottom=True)
    return plate, axes[:count]


def name_ticks(axis: Axis, label: str, names: Sequence[object], offset: float) -> None:
    """Name rows or columns at offset, 1 + offset, ...; turned, then thinned, where the names would touch."""
    words, upright = [str(name) for name in names], isinstance(axis, YAxis)
    spec, extent = axis.axes.get_subplotspec(), axis.axes.get_window_extent()
    pixels = extent.height if upright else extent.width
    room = 0.85 * pixels / axis.axes.figure.dpi  # a panel is a little larger before it is laid out
    need = LINE if upright else LETTER * (max(map(len, words)) + 1)
    turned = not upright and max(map(len, words)) > 2 and need * len(words) > room
    step = int(np.ceil((LINE if turned else need) * len(words) / room))
    axis.set_ticks(np.arange(0, len(words), step) + offset, words[::step], rotation=90 if turned else 0)
    if (spec is None or spec.is_first_col()) if upright else is_lowest(axis.axes):
        axis.set_label_text(label)


def place_legend(plate: Plate, ax: Axes) -> None:
    """Put the legend of a panel's marks, which all panels share, above the panels."""
    plate.legend(
        *ax.get_legend_handles_labels(),
        loc="outside upper center",
        ncols=3,
        handlelength=1.2,
        columnspacing=1.2,
        borderpad=0.2,
    )


def is_lowest(ax: Axes) -> bool:
    """Whether no panel lies beneath one."""
    spec = ax.get_subplotspec()
    others = (other.get_subplotspec() for other in ax.figure.axes)
    return spec is None or not any(
        other.colspan.start == spec.colspan.start and other.rowspan.start > spec.rowspan.start
        for other in others
        if other is not None and other.get_gridspec() is spec.get_gridspec()
    )
