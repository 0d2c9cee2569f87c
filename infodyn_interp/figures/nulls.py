"""What separates the model from its nulls, and groups of documents: gains of the one minus those of the other."""

import numpy as np
import seaborn
import xarray
from matplotlib.axes import Axes

from infodyn_interp.figures.intervals import LINEAR_TO, scale_gains
from infodyn_interp.figures.plates import (
    DARK,
    PALE,
    RULE,
    TYPE,
    WARM,
    Plate,
    area,
    name_ticks,
    new_panels,
    points,
    printed,
)
from infodyn_interp.figures.selection import ROWS, Chosen, choose_heads, find_group, write_caption
from infodyn_interp.results import Heads

INTERVALS = 24  # heads of a null up to which each shows its interval


@printed
def contrasts(
    result: xarray.DataTree, heads: Heads = None, width: str = "column", style: str = "paper"
) -> Plate:
    """Gain of the model minus that of each null, by verdict row, and the share of heads whose interval lies above 0.

    Gains are shares of energy variance; the carry-over's is log(V(long) / V(1)).
    Raises RequestError for a head, width, style, or contrasts in group `verdicts` that are not there. Source: seed 1.2.
    """
    data = find_group(result, "verdicts", "contrast")
    chosen, nulls = choose_heads(data, heads), [str(null).replace("_", " ") for null in data["null"].values]
    plate, said = draw_strips(data, chosen, "null", nulls, "model − null", width, style)
    plate.caption = write_caption(
        result,
        chosen,
        "Gain of the model minus that of each null on the same documents, by verdict row (share of held-out "
        f"row-centred energy variance, scale linear to {LINEAR_TO:g}, logarithmic beyond; the carry-over's gain is "
        "log(V(long)/V(1)) on a linear scale).",
        explain_strips(chosen),
        "At the right, the share of heads whose interval lies above 0; a dash where a null does not define the row.",
        said,
        nulls=", ".join(nulls),
    )
    return plate


@printed
def group_contrasts(
    result: xarray.DataTree, heads: Heads = None, width: str = "column", style: str = "paper"
) -> Plate:
    """Gain within each group of documents less the mean of the other groups', by verdict row.

    Gains are shares of energy variance; the carry-over's is log(V(long) / V(1)).
    Raises RequestError for a head, width, style, or a group `groups` that is not there. Source: seed 1.2.
    """
    data = find_group(result, "groups", "contrast")
    chosen, groups = choose_heads(data, heads), [str(group) for group in data["group"].values]
    plate, said = draw_strips(data, chosen, "group", groups, "group − others", width, style, reach="contrast")
    sizes = zip(groups, data["documents"].values.tolist(), strict=True)
    plate.caption = write_caption(
        result,
        chosen,
        "Gain within each group of documents minus the mean of the other groups' (share of held-out row-centred energy "
        f"variance, scale linear to {LINEAR_TO:g}, logarithmic beyond; the carry-over's gain is log(V(long)/V(1)) on "
        "a linear scale). One field is fitted to all documents and scored in each group.",
        explain_strips(chosen, "t with Welch's degrees of freedom, over documents"),
        "At the right, the share of heads whose interval lies above 0; a dash where the row was not fitted.",
        f"Documents: {', '.join(f'{group} {size}' for group, size in sizes)}.",
        said,
    )
    return plate


def draw_strips(
    data: xarray.Dataset,
    chosen: Chosen,
    dim: str,
    names: list[str],
    less: str,
    width: str,
    style: str,
    reach: str | None = None,
) -> tuple[Plate, str]:
    """Contrasts along a dimension, a strip of heads each, a panel a verdict row; medians in words.

    Args:
        less: what is taken from what.
        reach: the variable whose values are all to lie within a scale that goes as far down as up.
    """
    plate, axes = new_panels(
        len(ROWS), 2, 0.1 + 0.14 * max(len(names), 2), width, style, words=0.75, sharex=False
    )
    fields, carry = axes[:-1], axes[-1]
    for ax in fields[1:]:
        ax.sharex(fields[0])
    said = []
    for ax, (term, title) in zip(axes, ROWS.items(), strict=True):
        middle, low, high = (
            chosen.pick(data[f"contrast{end}"].sel(term=term).transpose(..., dim)).T
            for end in ("", "_low", "_high")
        )
        ax.axvline(0, color=RULE, linewidth=points(0.6), linestyle=(0, (4, 2)), zorder=1)
        for place in range(len(names)):
            _draw_strip(ax, chosen, place, middle[place], low[place], high[place])
        ax.set_title(title)
        ax.set_title("above 0", loc="right", fontsize=points(TYPE))
        ax.set_ylim(len(names) - 0.5, -0.5)
        name_ticks(ax.yaxis, "", names, 0)
        seaborn.despine(ax=ax)
        known = np.flatnonzero(np.isfinite(middle).any(axis=1))
        medians = (f"{names[place]} {np.nanmedian(middle[place]):.2g}" for place in known)
        said.append(f"{term}: {', '.join(medians) if len(known) else 'none'}")
    scale_gains(fields, "x", None if reach is None else data[reach].sel(term=list(ROWS)[:-1]).values)
    columns = 2 if width == "page" else 1
    for place, ax in enumerate(fields):
        if place + columns < len(fields):
            ax.tick_params("x", labelbottom=False)
        else:
            ax.set_xlabel(f"gain, {less} (share of variance)")
    carry.margins(x=0.08)
    carry.locator_params("x", nbins=5)
    carry.set_xlabel(f"log V(long)/V(1), {less}")
    return plate, f"Medians. {'; '.join(said)}."


def explain_strips(chosen: Chosen, interval: str = "t, over folds of documents") -> str:
    """What dots, lines and diamonds of a strip are."""
    lone = chosen.axis != "layer"
    return (
        f"Dot: a head, dark where its 95 % interval ({interval}) lies above 0, an orange triangle below 0, pale where "
        "it covers 0; not corrected for the number of heads."
        + (" Lines: these intervals." if _shows_intervals(chosen) else "")
        + (
            " Heads from top to bottom as named."
            if lone
            else " Diamond: median over heads; black line: medians of the lower and upper ends."
        )
    )


def _shows_intervals(chosen: Chosen) -> bool:
    return len(chosen.heads) <= INTERVALS


def _draw_strip(
    ax: Axes, chosen: Chosen, place: int, middle: np.ndarray, low: np.ndarray, high: np.ndarray
) -> None:
    """Heads in a strip around `place`, from the first layer above to the last below."""
    known = np.isfinite(middle)
    share = f"{(low[known] > 0).mean():.0%}".replace("%", " %") if known.any() else "–"
    ax.text(
        1.01,
        place,
        share,
        transform=ax.get_yaxis_transform(),
        va="center",
        gid="share above 0",
    )
    if not known.any():
        return
    lone = chosen.axis != "layer"
    y = place + (0.7 if lone else 0.64) * ((np.arange(len(middle)) + 0.5) / len(middle) - 0.5)
    above, below = low > 0, high < 0
    for kept, colour, marker in ((~above & ~below, PALE, "o"), (above, DARK, "o"), (below, WARM, "v")):
        kept = kept & known
        if _shows_intervals(chosen):
            ax.hlines(y[kept], low[kept], high[kept], colors=colour, linewidth=points(0.6), gid="interval")
        dots = ax.scatter(
            middle[kept], y[kept], s=area(3.5 if marker == "o" else 6), marker=marker, color=colour
        )
        dots.set(linewidth=0, zorder=2, gid="head")
    if not lone:
        ends = np.nanmedian(low), np.nanmedian(high)
        ax.hlines(place, *ends, colors="white", linewidth=points(2.6), zorder=3)
        ax.hlines(place, *ends, colors="black", linewidth=points(1.3), zorder=4, gid="typical interval")
        ax.scatter(
            np.nanmedian(middle),
            place,
            s=area(16),
            marker="D",
            color="black",
            edgecolor="white",
            linewidths=points(0.7),
            zorder=5,
            gid="median",
        )
