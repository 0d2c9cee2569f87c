"""Profiles: which values of rho, and which widths and decays of the track, the documents do not reject."""

import numpy as np
import seaborn
import xarray
from matplotlib.colors import Normalize

from infodyn_interp.figures.maps import draw_maps
from infodyn_interp.figures.plates import (
    DARK,
    RULE,
    WARM,
    Plate,
    area,
    name_ticks,
    new_panels,
    place_legend,
    points,
    printed,
)
from infodyn_interp.figures.selection import (
    choose_heads,
    find_group,
    largest_sill,
    name_missing,
    where_known,
    write_caption,
)
from infodyn_interp.results import Heads

CEILING = 4.0  # thresholds up to which a profile is drawn
BARS = (-0.55, -1.15)  # where the two intervals lie beneath the curve


@printed
def rho_profile(
    result: xarray.DataTree, heads: Heads = None, width: str = "column", style: str = "paper"
) -> Plate:
    """Profile of rho for a few heads: squares over the least, in units of the threshold, with both intervals.

    Without `heads`, the four with the largest share of sill.
    Raises RequestError for a head, width, style, or groups `profile` or `carry` that are not there. Source: seed 1.2.3.
    """
    data = find_group(result, "profile", "rise")
    chosen, which = largest_sill(result, heads)
    plate, axes = new_panels(len(chosen.heads), 4, 0.85, width, style, in_column=2, words=0.65)
    rho = data["rho"].values
    rise, limit = (chosen.pick(data[name]) for name in ("rise", "threshold"))
    best, low, high, fisher_low, fisher_high = (
        chosen.pick(data[name]) for name in ("best", "low", "high", "fisher_low", "fisher_high")
    )
    apart = chosen.pick(data["disagree"]) == 1
    words = []
    for k, (ax, head) in enumerate(zip(axes, chosen.heads, strict=True)):
        ax.axhline(1, color=RULE, linewidth=points(0.6), linestyle=(0, (4, 2)), zorder=1, gid="threshold")
        ax.axhline(0, color=RULE, linewidth=points(0.4), zorder=1)
        ax.plot(rho, rise[k] / limit[k], color=DARK, linewidth=points(1.1), gid="profile")
        for bar, ends, colour, name in (
            (BARS[0], (low[k], high[k]), DARK, "profile's interval"),
            (BARS[1], (fisher_low[k], fisher_high[k]), WARM, "jackknife's interval"),
        ):
            line = ax.hlines(bar, *ends, colors=colour, linewidth=points(2.4), label=name)
            line.set_gid(name)
        ax.scatter(
            best[k],
            0,
            s=area(13),
            color="black",
            marker="v",
            linewidths=0,
            zorder=4,
            label="best",
            gid="best",
        )
        ax.set_title(f"head {head}{', disagree' if apart[k] else ''}")
        seaborn.despine(ax=ax)
        words.append(
            f"{head}: ρ {best[k]:.2f}, profile {low[k]:.2f} to {high[k]:.2f}, "
            f"jackknife {fisher_low[k]:.2f} to {fisher_high[k]:.2f}"
        )
    axes[0].set_ylim(BARS[1] - 0.4, CEILING)
    axes[0].set_yticks(np.arange(0, CEILING + 0.1))
    axes[0].set_xlim(-0.02, 1.02)
    axes[0].set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
    plate.supxlabel("ρ: share of the carry-over that one token keeps")
    plate.supylabel("rise over threshold (ratio)")
    place_legend(plate, axes[0])
    plate.caption = write_caption(
        result,
        chosen,
        "Profile of ρ: weighted squares of the variogram's fit with ρ held, nugget and sill fitted anew, as their "
        "rise over the least, divided by the threshold (ratio; below the dashed line at 1, ρ is not rejected; the "
        "threshold is scaled by the design effect of documents). Bars: the 95 % interval by the profile and by the "
        "jackknife over folds of documents; 'disagree' where they share less than half of their union.",
        f"{'; '.join(words)}.",
        which,
        name_missing(
            chosen, {"profile": rise, "jackknife's interval": np.stack([fisher_low, fisher_high], 1)}
        ),
    )
    return plate


@printed
def track_profile(
    result: xarray.DataTree, heads: Heads = None, width: str = "column", style: str = "paper"
) -> Plate:
    """Share of a layer's heads that do not reject a kernel width and decay (tokens), or each of the named heads.

    On the finer grid where the result has one; named heads then show how far each pair is from its threshold, with a
    dot where it is kept. Raises RequestError for a head, width, style or group `profile` that is not there.
    Source: seed 1.2.2.
    """
    data = find_group(result, "profile", "kept")
    every, end = choose_heads(data, heads), "_fine" if "kept_fine" in data else ""
    grid = f"width{end}", f"tau{end}"
    kept = data[f"kept{end}"].transpose(..., *grid)
    chosen, left_out = where_known(every, np.isfinite(every.pick(kept)).any((1, 2)))
    each = chosen.pick(kept)
    share = shown = chosen.by_slot(each, np.ma.mean)
    label, norm, ticks = "not rejected\n(share of heads)", Normalize(0, 1), [0, 0.5, 1]
    what = "share of the heads of a layer" if heads is None else "by head, whether (1) or not (0)"
    what += " for which the documents do not reject that pair against the chosen one ("
    graded = bool(end) and heads is not None
    if graded:
        excess, allowed = (
            chosen.pick(data[name].transpose(..., *grid)) for name in ("excess_fine", "allowed_fine")
        )
        # the chosen pair exceeds itself by nothing and is allowed nothing
        shown = np.divide(excess, allowed, out=0 * excess, where=allowed != 0)
        label, norm, ticks = (
            "excess over\nthreshold (ratio)",
            Normalize(0, CEILING, clip=True),
            [0, 1, 2, 3, 4],
        )
        what = (
            "by head, held-out squares of that pair over those of the chosen one, divided by the threshold "
            "(ratio; dot: not rejected, "
        )
    widths, taus = (data[dim].values for dim in grid)
    cells = {f"kernel width w = {w:g}": shown[:, k].T for k, w in enumerate(widths)}
    plate, axes = new_panels(len(cells), 3, 0.17 * len(taus), width, style)
    draw_maps(plate, axes, cells, label, norm, ticks)
    for k, ax in enumerate(axes):
        if graded:
            column, row = np.nonzero(share[:, k] == 1)
            dots = ax.scatter(column + 0.5, row + 0.5, s=area(5), color="white", gid="kept")
            dots.set(edgecolor="black", linewidth=points(0.4))
        name_ticks(ax.xaxis, chosen.axis, chosen.slots, 0.5)
        name_ticks(ax.yaxis, "τ (tokens)", [f"{tau:g}" for tau in taus], 0.5)
    alone = int((each.reshape(len(each), -1).sum(axis=1) == 1).sum())
    plate.caption = write_caption(
        result,
        chosen,
        "Profile of the inference track over kernel width w (no unit) and decay τ (tokens): "
        f"{what}one-sided 95 %, t over folds of documents). Point values, no intervals.",
        "Read on the first windows of the first documents." if end else "",
        f"Heads for which one pair alone is left: {alone} of {len(each)}.",
        left_out,
        name_missing(chosen, {"inference track": each}),
    )
    return plate
