"""Calibration: how often planted worlds get the verdict IDENTIFIED, where the term is there and where it is not."""

import numpy as np
import pandas as pd
import seaborn
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from scipy.stats import binomtest

from infodyn_interp.errors import RequestError
from infodyn_interp.figures.plates import DARK, RULE, WARM, Plate, area, new_panels, points, printed
from infodyn_interp.figures.selection import ROWS, count

NEEDED = ("world", "term", "present", "identified", "runs", "documents")
BAR = 0.05  # of wrong identifications
MARKERS = "osD^"  # by number of documents
ROW = 0.09  # inches a world takes for each number of documents


@printed
def calibration(table: pd.DataFrame, width: str = "column", style: str = "paper") -> Plate:
    """Rate of IDENTIFIED by planted world and term (share of runs) with 95 % binomial intervals (Wilson, 1927).

    Args:
        table: a row a world, term and number of documents, as `calibrate` gives: `identified` is a rate of `runs`.
        width: `column` or `page`.
        style: `paper` or `talk`.

    Raises:
        RequestError: a column is missing, the table is empty, or there is no such width or style.
    """
    missing = [name for name in NEEDED if name not in table]
    if missing or table.empty:
        raise RequestError(f"calibration table: {'no ' + ', '.join(missing) if missing else 'no rows'}")
    worlds, sizes = list(dict.fromkeys(table["world"])), sorted(set(table["documents"].tolist()))
    terms = [term for term in ROWS if (table["term"] == term).any()]
    strip = ROW * max(len(sizes), 1.35) * len(worlds)
    plate, axes = new_panels(
        len(terms), len(terms), strip / (1.5 if width == "page" else 1), width, style, in_column=3, words=0.7
    )
    for ax, term in zip(axes, terms, strict=True):
        _draw_rates(ax, table[table["term"] == term], worlds, sizes)
        ax.set_title(term)
    axes[0].set_ylim(len(worlds) - 0.5, -0.5)
    axes[0].set_yticks(range(len(worlds)), [world.replace("_", " ") for world in worlds])
    plate.supxlabel("rate of IDENTIFIED (share of runs)")
    signs = [
        Line2D(
            [], [], linestyle="", marker=marker, color=".3", markersize=points(3.5), label=f"{size} documents"
        )
        for marker, size in zip(MARKERS, sizes, strict=False)
    ]
    truth = [
        Line2D([], [], linestyle="", marker="o", color=DARK, markersize=points(4), label="term is there"),
        Line2D(
            [],
            [],
            linestyle="",
            marker="o",
            mec=WARM,
            mfc="white",
            markersize=points(4),
            label="term is not there",
        ),
    ]
    plate.legend(
        handles=truth + (signs if len(sizes) > 1 else []),
        loc="outside upper center",
        ncols=4 if width == "page" else 2,
        handlelength=1,
        columnspacing=1.2,
        borderpad=0.2,
    )
    runs = table["runs"]
    absent = table[~table["present"].astype(bool)]
    worst = absent.iloc[absent["identified"].argmax()] if len(absent) else None
    plate.caption = " ".join(
        [
            "Rate at which planted worlds get the verdict IDENTIFIED, by world and term (share of runs; the axis is a "
            "square root, so that small rates can be read). Filled: the term is planted, the rate is power; open: it "
            f"is not, the rate is of wrong identifications, and the line at {BAR:g} is the bar to keep below. Nulls "
            "drawn: the worlds without the term. A line through a mark: 95 % binomial interval (Wilson).",
            f"n = {runs.min()} {'' if runs.min() == runs.max() else f'to {runs.max()} '}runs a point, of "
            f"{' or '.join(map(str, sizes))} documents; {count(worlds, 'world')}.",
            f"Highest rate where the term is not there: {worst['identified']:.3g} ({worst['world']}, {worst['term']}, "
            f"{worst['documents']} documents)."
            if worst is not None
            else "",
        ]
    ).strip()
    return plate


def _draw_rates(ax: Axes, rows: pd.DataFrame, worlds: list[str], sizes: list[int]) -> None:
    ax.axvline(BAR, color=RULE, linewidth=points(0.7), linestyle=(0, (4, 2)), zorder=1, gid="bar")
    for row in rows.itertuples():
        turn = sizes.index(row.documents)
        y = worlds.index(row.world) + 0.6 * ((turn + 0.5) / len(sizes) - 0.5)
        ends = binomtest(round(row.identified * row.runs), row.runs).proportion_ci(method="wilson")
        colour = DARK if row.present else WARM
        ax.hlines(y, ends.low, ends.high, colors=colour, linewidth=points(0.9), zorder=2, gid="interval")
        ax.scatter(
            row.identified,
            y,
            s=area(11),
            marker=MARKERS[turn % len(MARKERS)],
            facecolor=colour if row.present else "white",
            edgecolor=colour,
            linewidths=points(0.9),
            clip_on=False,
            zorder=3,
            gid="present" if row.present else "absent",
        )
    ax.set_xscale("function", functions=(_signed_root, _signed_square))
    ax.set_xlim(0, 1)
    ax.set_xticks([0, BAR, 0.5, 1], ["0", f"{BAR:g}".lstrip("0"), ".5", "1"])
    ax.grid(axis="y", color=".92", linewidth=points(0.4))
    ax.tick_params("y", length=0, pad=points(4))
    ax.tick_params("x", labelbottom=True)
    seaborn.despine(ax=ax, left=True)


def _signed_root(values: np.ndarray) -> np.ndarray:
    return np.sign(values) * np.sqrt(np.abs(values))


def _signed_square(values: np.ndarray) -> np.ndarray:
    return np.sign(values) * np.square(values)
