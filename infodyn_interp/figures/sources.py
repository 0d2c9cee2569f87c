"""Where the carry-over might come from: what its innovations follow, head by head."""

import numpy as np
import seaborn
import xarray
from matplotlib.ticker import MaxNLocator

from infodyn_interp.figures.plates import (
    DARK,
    PALE,
    RULE,
    WARM,
    Plate,
    new_panels,
    place_legend,
    points,
    printed,
)
from infodyn_interp.figures.selection import find_group

LEFT = {
    "helpful": "Helpful: excess of action",
    "harmless": "Harmless: rise of V",
    "honest": "Honest: KL to close",
}
TAILS = 5, 95  # per cent of a null's heads


@printed
def unfinished(result: xarray.DataTree, width: str = "column", style: str = "paper") -> Plate:
    """Slope of innovations of M on what each functional left at the step before, a dot a head, a panel a functional.

    Raises RequestError for a width, a style or a group `jumps` that is not there. Source: seed 1.2.3.
    """
    data = find_group(result, "jumps", "unfinished").transpose("null", "functional", "layer", "head", ...)
    about = result["jumps"].children["trained"].attrs
    least, limit = about["least_slope"], about["discovery"]
    slope, layers = data["unfinished"], data["layer"].values
    known = [null for null in map(str, data["null"].values[1:]) if slope.sel(null=null).notnull().any()]
    plate, axes = new_panels(slope.sizes["functional"], 3, 0.85, width, style, words=0.7)
    for ax, functional in zip(axes, map(str, data["functional"].values), strict=True):
        mine = slope.sel(null="trained", functional=functional).values
        q = data["unfinished_q"].sel(null="trained", functional=functional).values
        found = (q <= limit) & (np.abs(mine) >= least)
        for null, colour in zip(known, (WARM, RULE), strict=False):
            theirs = slope.sel(null=null, functional=functional).values
            told = np.isfinite(theirs).any(1)
            if told.any():
                ends, words = np.nanpercentile(theirs[told], TAILS, axis=1).T, null.replace("_", " ")
                lines = ax.plot(layers[told], ends, color=colour, linewidth=points(0.8), gid=null)
                lines[0].set_label(f"{words}, 90 % of heads")
        place = np.broadcast_to(layers[:, None], mine.shape)
        ax.plot(
            place[~found], mine[~found], "o", color=PALE, markersize=points(2), label="a head", gid="heads"
        )
        ax.plot(
            place[found],
            mine[found],
            "o",
            color=DARK,
            markersize=points(2.6),
            label="it follows",
            gid="found",
        )
        for line in (-least, least):
            ax.axhline(line, color=RULE, linewidth=points(0.6), linestyle=(0, (4, 2)), gid="least")
        ax.set_title(LEFT.get(functional, functional))
        ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        seaborn.despine(ax=ax)
    plate.supxlabel("layer")
    plate.supylabel("slope (deviations)")
    place_legend(plate, axes[0])
    of = result.attrs
    plate.caption = (
        "Slope of the log size of M's innovation at a token on what each functional left at the token before "
        "(deviations within documents; |M|, the keys, neighbouring innovations and what was foreseen held fixed). Left "
        "are the action of the step into the state, the rise of the quadratic form in it, and the KL from the output "
        f"to the affine lens. Dark: q <= {limit:g} by shifts within documents, and a slope beyond the dashes "
        f"({least:g}). {_told(known)} No intervals are drawn. Model {of.get('model', 'not named')}; "
        f"n = {of.get('documents', '?')} documents, windows of {of.get('window', '?')} tokens."
    )
    return plate


def _told(nulls: list[str]) -> str:
    if not nulls:
        return "No nulls drawn: none was read."
    of = " and of ".join(null.replace("_", " ") for null in nulls[:2])
    return f"Nulls drawn: lines between which the middle 90 % of heads of {of} lie."
