"""Detection limits: the smallest share that would have been seen, head by head."""

import numpy as np
import seaborn
import xarray
from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator

from infodyn_interp.figures.plates import (
    DARK,
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
from infodyn_interp.figures.selection import (
    ROWS,
    Chosen,
    choose_heads,
    find_group,
    threshold,
    where_known,
    write_caption,
)
from infodyn_interp.results import Heads

LOWEST, HIGHEST = 0.002, 0.5  # ends of the grid that limits are looked for on
EDGE = 0.8  # where those beyond it stand


@printed
def detection_limits(
    result: xarray.DataTree, heads: Heads = None, width: str = "column", style: str = "paper"
) -> Plate:
    """Share of energy variance from which half of the resampled data sets identify a term, by layer or named head.

    The line is the limit up to which an absence is called ABSENT.
    Raises RequestError for a head, width, style, or groups `limits` or `verdicts` that are not there. Source: seed 1.2.
    """
    data = find_group(result, "limits", "share")
    small, every = threshold(result, "small"), choose_heads(data, heads)
    chosen, left_out = where_known(every, ~np.isnan(every.pick(data["share"].sel(term=list(ROWS)))).all(-1))
    plate, axes = new_panels(len(ROWS), 3, 0.62, width, style)
    counts = []
    for ax, (term, title) in zip(axes, ROWS.items(), strict=True):
        share = chosen.pick(data["share"].sel(term=term))
        _draw_limits(ax, chosen, share, small)
        ax.set_title(title)
        seen, beyond = np.isfinite(share), np.isinf(share)
        if np.isnan(share).all():
            ax.text(
                0.5,
                0.45,
                "not computed",
                transform=ax.transAxes,
                ha="center",
                gid="empty",
            )
        counts.append(
            f"{title} {int((share[seen] <= small).sum())} of {len(share)} "
            f"({int(beyond.sum())} beyond {HIGHEST:g}, {int(np.isnan(share).sum())} not computed)"
        )
    lowest = min((line for ax in axes if np.isfinite(line := ax.dataLim.y0)), default=LOWEST)
    axes[0].set_yscale("log")
    axes[0].set_ylim(0.8 * min(lowest, LOWEST * 5), 1.15 * EDGE)
    axes[0].set_yticks([0.01, 0.1, HIGHEST], ["0.01", "0.1", f"{HIGHEST:g}"])
    axes[0].yaxis.set_minor_locator(NullLocator())
    plate.supylabel("detection limit (share of energy variance)")
    plate.caption = write_caption(
        result,
        chosen,
        "Detection limit: the share of row-centred energy variance at which half of the resampled data sets get the "
        f"verdict IDENTIFIED (share, logarithmic). Dot: a head, dark up to {small:g} (line), where an absence is "
        f"called ABSENT, pale above it; arrow: beyond {HIGHEST:g}, the end of the grid."
        + (" Black dash: median over the heads of a layer." if chosen.axis == "layer" else "")
        + " Limits are point values, no intervals.",
        f"Heads with a limit up to {small:g}: {'; '.join(counts)}.",
        left_out,
    )
    return plate


def _draw_limits(ax: Axes, chosen: Chosen, share: np.ndarray, small: float) -> None:
    x, _ = chosen.places()
    weight = float(np.clip(30 / len(x), 0.35, 1))
    ax.axhline(small, color=RULE, linewidth=points(0.7), linestyle=(0, (4, 2)), zorder=1, gid="small")
    for kept, colour in ((share <= small, DARK), ((share > small) & np.isfinite(share), PALE)):
        ax.scatter(x[kept], share[kept], s=area(9 * weight), color=colour, linewidths=0, zorder=2, gid="head")
    beyond = np.isinf(share)
    ax.scatter(
        x[beyond],
        np.full(beyond.sum(), EDGE),
        s=area(max(14 * weight, 9)),
        marker="^",
        color=WARM,
        linewidths=0,
        clip_on=False,
        zorder=3,
        gid="beyond",
    )
    if chosen.axis == "layer":
        for slot in range(len(chosen.slots)):
            known = share[(chosen.slot == slot) & ~np.isnan(share)]
            if len(known):
                middle = min(float(np.median(known)), EDGE)
                ax.hlines(
                    middle,
                    slot - 0.4,
                    slot + 0.4,
                    colors="black",
                    linewidth=points(1),
                    zorder=4,
                    gid="median",
                )
    ax.set_xlim(-0.6, len(chosen.slots) - 0.4)
    name_ticks(ax.xaxis, chosen.axis, chosen.slots, 0)
    seaborn.despine(ax=ax)
