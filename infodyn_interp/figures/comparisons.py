"""Two results side by side: how far their gains stand apart, head by head."""

import json

import numpy as np
import seaborn
import xarray
from matplotlib.axes import Axes

from infodyn_interp.figures.intervals import LINEAR_TO, draw_intervals, scale_gains
from infodyn_interp.figures.plates import RULE, WARM, Plate, area, name_ticks, new_panels, points, printed
from infodyn_interp.figures.selection import ROWS, Chosen, choose_heads, count, find_group, name_missing
from infodyn_interp.results import Heads


@printed
def comparison(
    result: xarray.DataTree, heads: Heads = None, width: str = "column", style: str = "paper"
) -> Plate:
    """Gain in a less the gain in b of two results, with 95 % intervals, by layer or named head.

    Gains are shares of energy variance; the carry-over's is log(V(long) / V(1)).

    Args:
        result: from `compare`.

    Raises:
        RequestError: a head, width, style, or a group `contrasts` that is not there; heads, where those of the two
            models do not match.
    """
    data = find_group(result, "contrasts", "layer_contrast" if heads is None else "contrast")
    chosen = choose_heads(data, heads) if "head" in data.dims else None
    plate, axes = new_panels(len(ROWS), 2, 0.7, width, style, sharey=False)
    drawn, said, shown = {}, [], ["layer_contrast"] if chosen is None else ["contrast_low", "contrast_high"]
    for ax, (term, title) in zip(axes, ROWS.items(), strict=True):
        of_term = data.sel(term=term)
        if chosen is not None:
            drawn[title], low, high = (
                chosen.pick(of_term[f"contrast{end}"]) for end in ("", "_low", "_high")
            )
            draw_intervals(ax, chosen, drawn[title], low, high, 0, line=False)
            said.append(f"{term} {int((low > 0).sum())} and {int((high < 0).sum())}")
        if heads is None:
            _draw_layers(ax, of_term, alone=chosen is None)
        ax.set_title(title)
    fields, carry = axes[:-1], axes[-1]
    scale_gains(
        fields, reach=np.concatenate([data[name].sel(term=list(ROWS)[:-1]).values.ravel() for name in shown])
    )
    carry.locator_params("y", nbins=4)
    carry.set_ylabel("log V(long)/V(1)")
    plate.supylabel("gain, a − b (share of energy variance)")
    about = result.attrs
    plate.caption = " ".join(
        filter(
            None,
            [
                "Gain in a minus gain in b (share of held-out row-centred energy variance; scale linear to "
                f"{LINEAR_TO:g}, logarithmic beyond; the carry-over's gain is log(V(long)/V(1)) on a linear scale).",
                _explain(chosen),
                *json.loads(about["notes"]),
                f"Heads whose interval lies above and below 0: {', '.join(said)}." if said else "",
                "" if chosen is None else name_missing(chosen, drawn),
                *(
                    f"{side}: model {about[f'model_{side}']}; n = {about[f'documents_{side}']} documents in "
                    f"{about[f'folds_{side}']} folds, windows of {about[f'window_{side}']} tokens."
                    for side in ("a", "b")
                ),
                "No nulls drawn; verdicts: those of the results themselves.",
            ],
        )
    )
    return plate


def _draw_layers(ax: Axes, found: xarray.Dataset, *, alone: bool) -> None:
    """The mean over heads of each layer with its interval; with no heads beneath it, the axes too."""
    layers = found["layer"].values.tolist()
    middle, low, high = (found[f"layer_contrast{end}"].values for end in ("", "_low", "_high"))
    x = np.arange(len(layers))
    ax.vlines(x, low, high, colors="white", linewidth=points(3.2), zorder=5)
    ax.vlines(x, low, high, colors="black", linewidth=points(1.2), zorder=6, gid="layer interval")
    ax.scatter(
        x,
        middle,
        s=area(13),
        marker="D",
        color=WARM,
        edgecolor="black",
        linewidths=points(0.6),
        zorder=7,
        gid="layer",
    )
    if alone:
        ax.axhline(0, color=RULE, linewidth=points(0.6), linestyle=(0, (4, 2)), zorder=1)
        ax.set_xlim(-0.6, len(layers) - 0.4)
        name_ticks(ax.xaxis, "layer", layers, 0)
        seaborn.despine(ax=ax)


def _explain(chosen: Chosen | None) -> str:
    """What is drawn."""
    diamond = "Diamond: mean over the heads of a layer, with its 95 % interval (t, over documents)."
    if chosen is None:
        return diamond
    dots = (
        f"Dot and line: {count(chosen.heads, 'head')}, each with its 95 % interval (t, over documents), dark where it "
        "leaves out 0, pale where it does not; not corrected for the number of heads."
    )
    return f"{dots} {diamond}" if chosen.axis == "layer" else dots
