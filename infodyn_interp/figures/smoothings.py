"""The sweep over alpha: what the tension's statistics are worth beside replies without structure."""

from typing import Any

import seaborn
import xarray
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from infodyn_interp.figures.plates import DARK, PALE, WARM, Plate, new_plate, points, printed

TITLES = {
    "deviation_autocorrelation": "memory of x − x̄",
    "falling_share": "share of steps where V falls",
    "tension_speed": "tension with speed",
}
UNITS = {"falling_share": "share"}
# Ground, lines on it, and words: the bands overlap, and are as light as each other.
BANDS: dict[str, tuple[str, str, str]] = {
    "iid": (PALE, "", "steps without memory"),
    "ar": ("none", "//////", "steps with the same memory"),
}


@printed
def alpha_sweep(swept: xarray.Dataset, width: str = "page", style: str = "paper") -> Plate:
    """Statistics of the tension over alpha with the bands that structureless replies give (correlation, share).

    Args:
        swept: as `observe.sweep_alpha` gives it.
        width: `column` or `page`.
        style: `paper` or `talk`.

    Raises:
        RequestError: there is no such width or style. Source: seed, observation.
    """
    swept = swept.sortby("alpha")
    statistics = swept["statistic"].values.tolist()
    beside = len(statistics) if width == "page" else 1
    plate, axes = new_plate(len(statistics) // beside, beside, 1.2, width, style, words=1.0, sharey=False)
    alphas = swept["alpha"].values
    outside = []
    for ax, name in zip(axes, statistics, strict=True):
        one = swept.sel(statistic=name)
        for reference, (ground, hatch, _) in BANDS.items():
            low, high = (one[end].sel(reference=reference) for end in ("low", "high"))
            ax.fill_between(alphas, low, high, gid=reference, **_look(ground, hatch))
        ax.plot(
            alphas,
            one["value"],
            color=DARK,
            linewidth=points(1.1),
            marker="o",
            markersize=points(2.6),
            zorder=3,
            gid="value",
        )
        beyond = (one["value"] < one["low"]) | (one["value"] > one["high"])
        count = int(beyond.all("reference").sum())
        outside.append(f"{TITLES[name]} at {count} of {len(alphas)}")
        ax.set_xscale("log")
        ax.set_xticks(alphas, [f"{alpha:g}".lstrip("0") for alpha in alphas])
        ax.minorticks_off()
        ax.set_title(TITLES[name])
        ax.set_ylabel(UNITS.get(name, "correlation (no unit)"))
        seaborn.despine(ax=ax)
    plate.supxlabel("α: share of a deviation taken up at each step")
    handles = [Patch(label=words, **_look(ground, hatch)) for ground, hatch, words in BANDS.values()]
    plate.legend(
        handles=[
            Line2D([], [], color=DARK, marker="o", markersize=points(2.6), label="these replies"),
            *handles,
        ],
        loc="outside upper center",
        ncols=3 if width == "page" else 1,
        handlelength=1.2,
        columnspacing=1.2,
        borderpad=0.2,
    )
    half_lives = ", ".join(
        f"{alpha:g}: {steps:.2g}" for alpha, steps in zip(alphas, swept["half_life"].values, strict=True)
    )
    plate.caption = (
        "What the smoothing makes of these replies at each α (dots) and of replies without any structure (bands, the "
        f"middle 95 % of {swept.attrs['draws']} draws): Gaussian steps with the same covariance of directions, without "
        f"memory (pale) or with the memory of these replies, {swept.attrs['memory']:.2g} a step (hatched). An "
        "exponential moving average alone gives the deviation x − x̄ a memory, lets V = Ψ²/2 fall at about half of the "
        "steps and ties tension to speed; only a dot outside both bands says something of the replies. Correlations "
        f"have no unit; the dots have no intervals. Nulls drawn: both bands. Outside both bands: {'; '.join(outside)} "
        f"values of α. Half-life in steps by α: {half_lives}. n = {swept.attrs['replies']} replies, "
        f"{swept.attrs['steps']} steps."
    )
    return plate


def _look(ground: str, hatch: str) -> dict[str, Any]:
    edge = WARM if hatch else PALE
    return {"facecolor": ground, "edgecolor": edge, "hatch": hatch, "linewidth": points(0.6)}
