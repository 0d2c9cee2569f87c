"""The Fisher spectrum of a few layers: eigenvalues from stiff to sloppy, and the blocks they load on."""

import numpy as np
import seaborn
import xarray
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullLocator

from infodyn_interp.figures.maps import SHADES
from infodyn_interp.figures.plates import (
    DARK,
    MISSING,
    WARM,
    Plate,
    area,
    name_ticks,
    new_panels,
    points,
    printed,
)
from infodyn_interp.figures.selection import few_layers, find_group, write_caption
from infodyn_interp.results import Heads

LINES = ((DARK, "-"), (WARM, (0, (5, 1.5))), (".45", (0, (1, 1))))  # tell the layers apart in grey print too


@printed
def spectrum(
    result: xarray.DataTree, heads: Heads = None, width: str = "column", style: str = "paper"
) -> Plate:
    """Eigenvalues of the Fisher information of a layer's columns (no unit), and each direction's squared loadings.

    First, middle and last layer, or up to three of the layers of the named heads.
    Raises RequestError for a head, width, style or groups `spectrum` or `terms` that are not there. Source: seed 1.2.
    """
    data = find_group(result, "spectrum", "eigenvalue")
    chosen = few_layers(find_group(result, "terms"), heads, len(LINES))  # the spectrum itself knows no heads
    shown = data.isel(layer=np.unique(chosen.layer))
    value = shown["eigenvalue"].transpose("layer", "direction").values
    floored = shown["floored"].transpose("layer", "direction").values == 1
    share = shown["block_share"].transpose("layer", "block", "direction").values
    plate, axes = new_panels(1 + len(value), 2, 0.9, width, style, words=0.6, sharey=False)
    _draw_eigenvalues(axes[0], value, floored, chosen.slots)
    for ax, layer, cells in zip(axes[1:], chosen.slots, share, strict=True):
        ax.patch.set(**MISSING)
        mesh = ax.pcolormesh(
            np.arange(cells.shape[1] + 1) + 0.5,
            np.arange(len(cells) + 1),
            np.ma.masked_invalid(cells),
            cmap=SHADES,
            vmin=0,
            vmax=1,
            edgecolors="face",
            linewidth=points(0.2),
            gid="map",
        )
        ax.set_title(f"layer {layer}")
        ax.invert_yaxis()
        name_ticks(ax.yaxis, "", data["block"].values.tolist(), 0.5)
    bar = plate.colorbar(mesh, ax=axes[1:], ticks=[0, 0.5, 1], format="%g", pad=0.02, aspect=25)
    bar.set_label("squared loading (share)")
    plate.supxlabel("direction, from stiff to sloppy")
    numbers = (
        f"layer {layer} {int(np.isfinite(values).sum())} ({int(lost.sum())} floored)"
        for layer, values, lost in zip(chosen.slots, value, floored, strict=True)
    )
    plate.caption = write_caption(
        result,
        chosen,
        "Fisher spectrum of the columns of a layer in the row gauge, each scaled to unit variance (no unit; the "
        "heads of a layer share it): eigenvalues, largest first, on a logarithmic axis, and below the squared "
        "loadings of each direction on the blocks of columns (share; a direction sums to 1). The data tell "
        "little along the sloppy directions on the right. Cross: below the floor, never inverted; those too "
        "small for the axis stand at its edge. Point values, no intervals.",
        f"Directions: {', '.join(numbers)}.",
    )
    return plate


def _draw_eigenvalues(ax: Axes, value: np.ndarray, floored: np.ndarray, layers: list[str]) -> None:
    direction = np.arange(value.shape[1]) + 1
    kept = value[~floored & (value > 0)]
    edge = 10 ** (np.floor(np.log10(kept.min(initial=1))) - 1)
    for values, lost, layer, (colour, dashes) in zip(value, floored, layers, LINES, strict=False):
        ax.plot(
            direction,
            np.where(lost, np.nan, values),
            color=colour,
            linestyle=dashes,
            linewidth=points(1.2),
            label=f"layer {layer}",
            gid="eigenvalue",
        )
        ax.scatter(
            direction[lost],
            np.maximum(values[lost], edge),
            s=area(14),
            marker="x",
            color=colour,
            linewidths=points(0.9),
            clip_on=False,
            zorder=3,
            gid="floored",
        )
    ax.set_yscale("log")
    ax.set_ylim(edge, 2 * kept.max(initial=1))
    ax.yaxis.set_major_locator(LogLocator(numticks=5))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.set_xlim(0.5, len(direction) + 0.5)
    ax.set_ylabel("eigenvalue (no unit)")
    ax.legend(loc="lower left", handlelength=2.2, borderpad=0.2, labelspacing=0.2)
    seaborn.despine(ax=ax)
