"""Heads with their intervals by layer: held-out gains of the terms, and the fit of the reference."""

from typing import Literal

import numpy as np
import seaborn
import xarray
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator

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
from infodyn_interp.figures.selection import (
    ROWS,
    Chosen,
    choose_heads,
    find_group,
    name_missing,
    write_caption,
)
from infodyn_interp.results import Heads

TERMS = {term: title for term, title in ROWS.items() if term != "carry"}
LINEAR_TO = 0.01  # gains within it stand on a linear scale: the smallest that matter are about .005
MOST_TICKS = 6
CROWD = 150  # heads from which a layer's line lies over the dots, below which under them


@printed
def gain(result: xarray.DataTree, heads: Heads = None, width: str = "column", style: str = "paper") -> Plate:
    """Held-out gain of each term with 95 % intervals, by layer or named head (share of energy variance).

    Raises RequestError for a head, width, style or group `terms` that is not there. Source: seed 1.2.
    """
    data = find_group(result, "terms")
    chosen = choose_heads(data, heads)
    plate, axes = new_panels(len(TERMS), 2, 0.8, width, style)
    drawn = {}
    for ax, (term, title) in zip(axes, TERMS.items(), strict=True):
        of_term = data.sel(term=term)
        drawn[title], low, high = (chosen.pick(of_term[f"gain{end}"]) for end in ("", "_low", "_high"))
        draw_intervals(ax, chosen, drawn[title], low, high, 0)
        ax.set_title(title)
    scale_gains(axes)
    outside = sum(_mark_outside(ax, chosen, middle) for ax, middle in zip(axes, drawn.values(), strict=True))
    plate.supylabel("held-out gain (share of energy variance)")
    plate.caption = write_caption(
        result,
        chosen,
        "Held-out gain of each term (share of held-out row-centred energy variance; scale linear to "
        f"{LINEAR_TO:g}, logarithmic beyond), over nuisance and track (prosody), over these and the other "
        "block (rhythm, state), or over nuisance within key (track).",
        _explain(chosen, "zero"),
        _off_scale(outside),
        name_missing(chosen, drawn),
    )
    return plate


@printed
def reference_fit(
    result: xarray.DataTree, heads: Heads = None, width: str = "column", style: str = "paper"
) -> Plate:
    """How well the reference tells a head's scores: R2 (share) and slope (nats per nat) with 95 % intervals.

    Raises RequestError for a head, width, style or group `reference` that is not there. Source: seed 1.1.
    """
    data = find_group(result, "reference")
    chosen = choose_heads(data, heads)
    plate, axes = new_panels(2, 2, 1.1, width, style, sharey=False)
    drawn, outside = {}, 0
    names = {"r2": ("R² (share)", 0), "slope": ("slope (nats per nat)", 1)}
    for ax, (name, (label, level)) in zip(axes, names.items(), strict=True):
        drawn[label], low, high = (chosen.pick(data[name + end]) for end in ("", "_low", "_high"))
        draw_intervals(ax, chosen, drawn[label], low, high, level)
        _cut_scale(ax, drawn[label], level)
        outside += _mark_outside(ax, chosen, drawn[label])
        ax.set_ylabel(label)
    axes[0].set_title(f"reference: {data.attrs.get('reference', 'not named')}")
    plate.caption = write_caption(
        result,
        chosen,
        "Fit of the reference to each head's row-centred scores: R² (share of score variance) and slope "
        "(nats of score per nat of reference).",
        _explain(chosen, "the dashed line (R² 0, slope 1)"),
        _off_scale(outside),
        name_missing(chosen, drawn),
    )
    return plate


def draw_intervals(
    ax: Axes,
    chosen: Chosen,
    middle: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    level: float,
    *,
    line: bool = True,
) -> None:
    """Each head a dot and its interval, dark where it leaves out `level`; a line through layers' medians."""
    x, room = chosen.places()
    weight = float(np.clip(30 / len(x), 0.35, 1))
    ax.axhline(level, color=RULE, linewidth=points(0.6), linestyle=(0, (4, 2)), zorder=1)
    clear = (low > level) | (high < level)
    for kept, color in ((~clear, PALE), (clear, DARK)):
        ax.vlines(
            x[kept], low[kept], high[kept], colors=color, linewidth=points(0.9 * weight), gid="interval"
        )
        ax.scatter(x[kept], middle[kept], s=area(7 * weight), color=color, linewidths=0, zorder=3, gid="head")
    for place, half in zip(x[~np.isfinite(middle)], room[~np.isfinite(middle)] / 2, strict=True):
        ax.axvspan(place - half, place + half, **MISSING, zorder=0, gid="not estimable")
    if chosen.axis == "layer" and line:
        over = len(x) > CROWD
        medians = chosen.by_slot(middle, np.ma.median)
        (drawn,) = ax.plot(
            medians, color="black", linewidth=points(1.1), zorder=4 if over else 2, gid="median"
        )
        drawn.set_path_effects(
            [patheffects.withStroke(linewidth=points(2.2), foreground="white")] if over else []
        )
    ax.set_xlim(-0.6, len(chosen.slots) - 0.4)
    name_ticks(ax.xaxis, chosen.axis, chosen.slots, 0)
    seaborn.despine(ax=ax)


def scale_gains(axes: list[Axes], which: Literal["x", "y"] = "y", reach: np.ndarray | None = None) -> None:
    """One scale for all panels: linear near zero, decades beyond, no further down than up.

    Args:
        reach: values that are all to lie within a scale that goes as far down as up.
    """
    if reach is None:
        limits = np.array([getattr(ax.dataLim, f"interval{which}") for ax in axes])
        limits = limits[np.isfinite(limits)]
        top = 1.25 * max(limits.max(initial=0), LINEAR_TO)
        bottom = max(1.25 * min(limits.min(initial=0), -LINEAR_TO / 2), -top)
    else:
        top = 1.25 * max(np.abs(reach[np.isfinite(reach)]).max(initial=0), LINEAR_TO)
        bottom = -top
    decades = LINEAR_TO * 10.0 ** np.arange(9)
    ticks = np.concatenate([-decades[::-1], [0], decades])
    ticks = ticks[(ticks >= bottom) & (ticks <= top)]
    step = -(-len(ticks) // MOST_TICKS)
    ticks = ticks[int(np.flatnonzero(ticks == 0)[0]) % step :: step]
    for ax in axes:
        axis = ax.xaxis if which == "x" else ax.yaxis
        (ax.set_xscale if which == "x" else ax.set_yscale)("symlog", linthresh=LINEAR_TO, linscale=0.7)
        axis.set_ticks(ticks, [f"{tick:g}".replace("-", "−") for tick in ticks])
        axis.set_minor_locator(NullLocator())
        (ax.set_xlim if which == "x" else ax.set_ylim)(bottom, top)


def _cut_scale(ax: Axes, middle: np.ndarray, level: float) -> None:
    """Keep a few wild heads from flattening all others."""
    low, high = np.quantile(np.append(middle[np.isfinite(middle)], level), [0.05, 0.95])
    bottom, top = ax.get_ylim()
    bottom, top = max(bottom, low - 1.5 * (high - low)), min(top, high + 1.5 * (high - low))
    if bottom < top:
        ax.set_ylim(bottom, top)


def _mark_outside(ax: Axes, chosen: Chosen, middle: np.ndarray) -> int:
    """Triangles at the edge for the heads that the scale leaves out; returns their count."""
    x, _ = chosen.places()
    bottom, top = ax.get_ylim()
    below, above = middle < bottom, middle > top
    for beyond, edge, marker in ((below, bottom, "v"), (above, top, "^")):
        at = np.full(beyond.sum(), edge)
        ax.scatter(
            x[beyond], at, s=area(9), marker=marker, color=WARM, clip_on=False, zorder=5, gid="off the scale"
        )
    return int((below | above).sum())


def _off_scale(count: int) -> str:
    return f"Triangles at the edge, off the scale: {count}." if count else ""


def _explain(chosen: Chosen, level: str) -> str:
    line = " Black line: median over the heads of a layer." if chosen.axis == "layer" else ""
    return (
        "Dot and line: a head and its 95 % interval (t, over folds of documents), dark where the interval "
        f"leaves out {level}, pale where it does not; not corrected for the number of heads.{line}"
    )
