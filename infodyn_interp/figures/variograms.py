"""The variogram of a few heads, with its fit and its null."""

import numpy as np
import seaborn
import xarray

from infodyn_interp.figures.plates import DARK, WARM, Plate, area, new_panels, place_legend, points, printed
from infodyn_interp.figures.selection import find_group, largest_sill, name_missing, write_caption
from infodyn_interp.results import Heads


@printed
def variogram(
    result: xarray.DataTree, heads: Heads = None, width: str = "column", style: str = "paper"
) -> Plate:
    """Variogram of a few heads' residual by lag (nats^2), with its fit and with queries in random order.

    The curve is `nugget + sill (1 - rho^k)`. Without `heads`, the four with the largest share of sill.
    Raises RequestError for a head, width, style or group `carry` that is not there. Source: seed 1.2.3.
    """
    data = find_group(result, "carry", "variogram")
    chosen, which = largest_sill(result, heads)
    plate, axes = new_panels(len(chosen.heads), 4, 0.85, width, style, in_column=2, words=0.65, sharey=False)
    lag = data["lag"].values
    reach = np.linspace(0, lag.max(), 200)
    rho, low, high, sill, nugget = (
        chosen.pick(data[name])[:, None] for name in ("rho", "rho_low", "rho_high", "sill", "nugget")
    )
    measured, curve = chosen.pick(data["variogram"]), nugget + sill * (1 - rho**reach)
    permuted = chosen.pick(data["variogram_permuted"]) if "variogram_permuted" in data else None
    for k, (ax, head) in enumerate(zip(axes, chosen.heads, strict=True)):
        ax.plot(reach, curve[k], color=DARK, linewidth=points(1.1), label="fit", gid="fit")
        ax.scatter(
            lag, measured[k], s=area(11), color=DARK, linewidths=0, zorder=3, label="variogram", gid="head"
        )
        if permuted is not None:
            ax.scatter(
                lag,
                permuted[k],
                s=area(11),
                marker="D",
                facecolor="white",
                edgecolor=WARM,
                linewidths=points(1),
                zorder=3,
                label="queries permuted",
                gid="null",
            )
        ax.set_ylim(0, 1.1 * ax.dataLim.y1 if ax.dataLim.y1 > 0 else 1)
        ax.set_xlim(-0.4, lag.max() + 0.7)
        ax.set_xticks([0, *lag[lag % (4 * lag[0]) == 0]])
        ax.set_title(f"head {head}")
        words = f"ρ {rho[k, 0]:.2f}\n[{low[k, 0]:.2f}, {high[k, 0]:.2f}]"
        ax.text(0.97, 0.05, words, transform=ax.transAxes, ha="right", gid="rho")
        seaborn.despine(ax=ax)
    plate.supxlabel("lag (tokens)")
    plate.supylabel("variogram (nats²)")
    place_legend(plate, axes[0])
    numbers = (
        f"{head}: nugget {nugget[k, 0]:.2g}, sill {sill[k, 0]:.2g}" for k, head in enumerate(chosen.heads)
    )
    plate.caption = write_caption(
        result,
        chosen,
        "Variogram of the residual after inference track and nuisance: half the mean squared difference of "
        "two query rows, by their lag, on the keys they share (nats²). Line: nugget + sill (1 − ρ^lag). "
        "ρ with its 95 % interval (jackknife over folds of documents); the points have no intervals.",
        "Diamonds: the same with the later half's queries in random order, where carry-over must vanish."
        if permuted is not None
        else "",
        f"In nats²: {'; '.join(numbers)}.",
        which,
        name_missing(chosen, {"variogram": measured}),
        nulls="" if permuted is None else "permuted queries",
    )
    return plate
