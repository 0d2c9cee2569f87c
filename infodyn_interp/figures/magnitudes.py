"""The size of the carry-over along the window."""

import numpy as np
import seaborn
import xarray

from infodyn_interp.figures.plates import DARK, PALE, Plate, new_panels, points, printed
from infodyn_interp.figures.selection import FEW, MOST_PANELS, few_layers, find_group, write_caption
from infodyn_interp.results import Heads


@printed
def carry_over(
    result: xarray.DataTree, heads: Heads = None, width: str = "column", style: str = "paper"
) -> Plate:
    """|M_t| of a few layers by position of the query, as a share of the energy's RMS, with 95 % intervals.

    Four layers from first to last, or those of the named heads; always over all heads of a layer.
    Raises RequestError for a head, width, style, or magnitudes in group `carry` that are not there. Source: seed 1.2.3.
    """
    data = find_group(result, "carry", "layer_magnitude")
    chosen = few_layers(data, heads, FEW if heads is None else MOST_PANELS)
    plate, axes = new_panels(len(chosen.slots), 4, 0.8, width, style, in_column=2)
    shown, query = data.isel(layer=np.unique(chosen.layer)), data["query"].values
    last = []
    for k, (ax, layer) in enumerate(zip(axes, chosen.slots, strict=True)):
        middle, low, high = (
            np.asarray(shown[f"layer_magnitude{end}"].transpose("layer", "query").values[k], float)
            for end in ("", "_low", "_high")
        )
        ax.fill_between(query, low, high, color=PALE, linewidth=0, gid="interval")
        ax.plot(query, middle, color=DARK, linewidth=points(0.9), gid="magnitude")
        ax.set_xlim(0, query[-1] + 1)
        ax.set_title(f"layer {layer}")
        known = np.flatnonzero(np.isfinite(middle))
        last.append(
            f"layer {layer} {middle[known[-1]]:.2g}" if len(known) else f"layer {layer} not estimable"
        )
        seaborn.despine(ax=ax)
    axes[0].set_ylim(0, None)
    plate.supxlabel("position of the query (tokens)")
    plate.supylabel("|M| (share of energy RMS)")
    plate.caption = write_caption(
        result,
        chosen,
        "Size of the filtered carry-over by position of the query in the first window of each document: "
        "root mean square over the heads of a layer of |M_t| over the head's row-centred energy RMS (share, no "
        "unit). Band: 95 % interval (t, over documents), point by point. Energies begin at the first query of the "
        "support; before it nothing is drawn.",
        f"At the last position: {', '.join(last)}.",
    )
    return plate
