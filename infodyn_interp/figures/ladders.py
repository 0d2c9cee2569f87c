"""The ladder: how much carry-over is left once the nuisance takes more components of the states."""

import numpy as np
import seaborn
import xarray
from matplotlib.axes import Axes

from infodyn_interp.figures.plates import (
    DARK,
    MISSING,
    PALE,
    RULE,
    WARM,
    Plate,
    area,
    name_ticks,
    new_panels,
    points,
    printed,
)
from infodyn_interp.figures.selection import Chosen, choose_heads, find_group, threshold, write_caption
from infodyn_interp.results import Heads

HIGHEST = 1.6  # ratio that is drawn in its place


@printed
def carry_ladder(
    result: xarray.DataTree, heads: Heads = None, width: str = "column", style: str = "paper"
) -> Plate:
    """Sill left when the nuisance's bilinear block has rank r, as a ratio to rank 0: median and range by layer.

    The last panel is the ratio that the verdict asks for: the highest rank over the state's. Named heads stand alone.
    Raises RequestError for a head, width, style, a group `verdicts`, or a ladder in group `carry` that is not there.
    Source: seed 1.2.3.
    """
    data = find_group(result, "carry", "ladder_sill")
    chosen, least = choose_heads(data, heads), threshold(result, "least_sill")
    bar, state = threshold(result, "least_sill_ladder"), find_group(result, "basis").attrs["state_rank"]
    rank = data["rank"].values.tolist()
    pairs = [(upper, rank[0]) for upper in rank[1:]]
    if state in rank[1:-1]:
        pairs.append((rank[-1], state))
    sill, seen = chosen.pick(data["ladder_sill"]), chosen.pick(data["sill_share"]) >= least
    plate, axes = new_panels(len(pairs), 3, 0.55, width, style)
    outside = 0
    for ax, (upper, lower) in zip(axes, pairs, strict=True):
        over = sill[:, rank.index(lower)]
        ratio = np.divide(
            sill[:, rank.index(upper)], over, np.full(len(over), np.nan), where=seen & (over > 0)
        )
        outside += _draw_ranges(ax, chosen, ratio)
        if lower == state:
            ax.axhline(bar, color=WARM, linewidth=points(1.3), linestyle=(0, (1, 1)), zorder=1, gid="bar")
        ax.set_title(f"rank {upper} over rank {lower}")
    axes[0].set_ylim(0, min(1.08 * max(ax.dataLim.y1 for ax in axes), HIGHEST))
    axes[0].set_yticks([0, 0.5, 1, 1.5][: 4 if axes[0].get_ylim()[1] > 1.5 else 3])
    plate.supylabel("sill left (share of sill)")
    plate.caption = write_caption(
        result,
        chosen,
        "What is left of the carry-over's sill when the nuisance's bilinear block takes more components of the "
        "states: sill at the first rank over sill at the second (share, no unit). Dot: "
        f"{'median over the heads of a layer; line: their range' if heads is None else 'a head'}. No intervals.",
        f"Dotted orange line: the ratio {bar:g} below which a verdict is CONFOUNDED with query autocorrelation."
        if pairs[-1][1] == state
        else "",
        f"Left out: {int((~seen).sum())} of {len(seen)} heads, with a sill below {least:g} of their energy variance; "
        "hatched where no head is left.",
        f"Triangles at the edge, off the scale: {outside}." if outside else "",
    )
    return plate


def _draw_ranges(ax: Axes, chosen: Chosen, ratio: np.ndarray) -> int:
    """Median and range of each column; returns how many columns reach off the scale."""
    low, middle, high = (chosen.by_slot(ratio, summary) for summary in (np.ma.min, np.ma.median, np.ma.max))
    place = np.arange(len(chosen.slots))
    ax.axhline(1, color=RULE, linewidth=points(0.6), linestyle=(0, (4, 2)), zorder=1)
    if chosen.axis == "layer":
        ax.vlines(place, low, high, colors=PALE, linewidth=points(1.6), gid="range")
    ax.scatter(place, middle, s=area(9), color=DARK, linewidths=0, zorder=3, gid="median")
    beyond = high > HIGHEST
    ax.scatter(
        place[beyond],
        np.full(beyond.sum(), HIGHEST),
        s=area(9),
        marker="^",
        color=WARM,
        clip_on=False,
        zorder=5,
        gid="off the scale",
    )
    for gap in place[np.isnan(middle)]:
        ax.axvspan(gap - 0.5, gap + 0.5, **MISSING, zorder=0, gid="not estimable")
    ax.set_xlim(-0.6, len(place) - 0.4)
    name_ticks(ax.xaxis, chosen.axis, chosen.slots, 0)
    seaborn.despine(ax=ax)
    return int(beyond.sum())
