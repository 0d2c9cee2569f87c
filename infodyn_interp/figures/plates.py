"""The plate that a figure is drawn on: print widths, type, colours, panels and their ticks."""

import base64
import html
import inspect
import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import Any, NamedTuple, ParamSpec, TypeVar

import matplotlib.style
import numpy as np
import seaborn
from matplotlib.axes import Axes
from matplotlib.axis import Axis, YAxis
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from infodyn_interp.errors import RequestError


class Style(NamedTuple):
    """What a figure is for: the widths of its sheet in inches, and how much larger type, lines and marks are."""

    inches: dict[str, float]
    scale: float


# A talk's page is a slide of 16:9 (13.3 in) with its margins, a column half of one: type of 14 to 15 points there.
STYLES = {
    "paper": Style({"column": 3.3, "page": 6.9}, 1),
    "talk": Style({"column": 6.2, "page": 12.4}, 2),
}
# Sizes in points and inches here and in the figures are the paper's; `points`, `area` give those of the style at hand.
TYPE, LABEL = 7.0, 7.5  # points: at print size no type is smaller than 7 or larger than 9
SCREEN = 192  # dots an inch in a notebook: twice what browsers take an inch for
LINE = 8.5 / 72  # inches from one line of tick labels to the next
LETTER = 4.8 / 72  # inches a letter takes along a line
# Colours that mean two things differ in lightness, so that they survive grey print and colour blindness.
DARK, PALE, WARM, RULE = "#12466e", "#9dbcd4", "#e9a13b", ".35"
MISSING: dict[str, Any] = {"facecolor": ".93", "edgecolor": ".6", "hatch": "//////", "linewidth": 0}
PRINT: dict[str, Any] = seaborn.axes_style("ticks") | {
    "font.family": ["DejaVu Sans"],  # comes with matplotlib: the same figure on every machine
    "axes.titlelocation": "left",
    "legend.frameon": False,
    "pdf.fonttype": 42,
    "ps.fonttype": 42,
    "svg.fonttype": "none",
    "svg.hashsalt": "infodyn_interp",
    "savefig.dpi": 300,
}
SIZES: dict[str, float] = {
    "font.size": TYPE,
    "axes.titlesize": LABEL,
    "axes.labelsize": LABEL,
    "figure.labelsize": LABEL,
    "legend.title_fontsize": LABEL,
    "legend.fontsize": TYPE,
    "xtick.labelsize": TYPE,
    "ytick.labelsize": TYPE,
    "axes.titlepad": 3,
    "axes.labelpad": 2,
    "axes.linewidth": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.pad": 2,
    "ytick.major.pad": 2,
    "xtick.minor.size": 1.5,
    "ytick.minor.size": 1.5,
    "xtick.minor.width": 0.45,
    "ytick.minor.width": 0.45,
    "hatch.linewidth": 0.4,
}
P = ParamSpec("P")
Drawn = TypeVar("Drawn", bound=Figure)


def find_style(name: str) -> Style:
    """The style of a name; raises RequestError for a name that is none."""
    if name not in STYLES:
        raise RequestError(f"no figure style '{name}': take {' or '.join(STYLES)}")
    return STYLES[name]


@contextmanager
def print_settings(style: str) -> Iterator[None]:
    """Matplotlib's own defaults, PRINT and SIZES for the time of a call; what the caller had set comes back.

    The defaults matter too: under a caller's `savefig.bbox: tight` no figure would keep its width.
    """
    scale = find_style(style).scale
    with matplotlib.style.context(["default", PRINT, {key: scale * size for key, size in SIZES.items()}]):
        yield


def printed(draw: Callable[P, Drawn]) -> Callable[P, Drawn]:
    """Draw a figure under the settings of the `style` that its function is asked for."""
    signature = inspect.signature(draw)

    @wraps(draw)
    def under(*arguments: P.args, **keywords: P.kwargs) -> Drawn:
        asked = signature.bind(*arguments, **keywords)
        asked.apply_defaults()
        with print_settings(asked.arguments["style"]):
            return draw(*arguments, **keywords)

    return under


def points(size: float) -> float:
    """A size in points, or in inches, of the paper style in the style at hand."""
    return float(size * matplotlib.rcParams["font.size"] / TYPE)


def area(size: float) -> float:
    """The same of an area, as marks of a scatter have it, in square points."""
    return size * points(1) ** 2


class Plate(Figure):
    """A figure of fixed print width with the caption that belongs to it.

    It is drawn and saved under the print settings: `plate.savefig("map.pdf")` embeds TrueType fonts anywhere.
    """

    caption = ""
    style = "paper"

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
        with print_settings(self.style):
            super().draw(renderer)

    def savefig(self, *arguments: Any, **keywords: Any) -> None:
        with print_settings(self.style):
            super().savefig(*arguments, **keywords)


def inches(width: str, style: str) -> float:
    """Width of a figure's sheet; raises RequestError for a name that is none."""
    widths = find_style(style).inches
    if width not in widths:
        raise RequestError(f"no figure width '{width}': take {' or '.join(widths)}")
    return widths[width]


def new_plate(
    rows: int,
    columns: int,
    height: float,
    width: str,
    style: str,
    *,
    words: float = 0.45,
    sharex: bool = True,
    sharey: bool = True,
) -> tuple[Plate, list[Axes]]:
    """A plate and its panels row by row; `height` of a panel and of all `words` around them, in inches on paper."""
    space = ConstrainedLayoutEngine(w_pad=points(0.02), h_pad=points(0.02), wspace=0.02, hspace=0.02)
    sheet = inches(width, style), points(rows * (height + 0.2) + words)
    plate = Plate(figsize=sheet, layout=space)
    plate.style = style
    return plate, list(plate.subplots(rows, columns, sharex=sharex, sharey=sharey, squeeze=False).flat)


def new_panels(
    count: int,
    beside: int,
    height: float,
    width: str,
    style: str,
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
        -(-count // columns), columns, tall * height, width, style, words=words, sharex=sharex, sharey=sharey
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
    line, letter = points(LINE), points(LETTER)
    need = line if upright else letter * (max(map(len, words)) + 1)
    turned = not upright and max(map(len, words)) > 2 and need * len(words) > room
    step = int(np.ceil((line if turned else need) * len(words) / room))
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
