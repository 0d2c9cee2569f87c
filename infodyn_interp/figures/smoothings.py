"""The sweep over alpha: what the tension's statistics are worth beside replies without structure."""

import seaborn
import xarray
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from infodyn_interp.figures.plates import DARK, LABEL_SIZE, PALE, WARM, Plate, new_plate, print_settings

TITLES = {
    "deviation_autocorrelation": "memory of x − x̄",
    "falling_share": "share of steps where V falls",
    "tension_speed": "tension with speed",
}
UNITS = {"falling_share": "share"}
BANDS = {"iid": (PALE, "steps without memory"), "ar": (WARM, "steps with the same memory")}


@print_settings()
def alpha_sweep(swept: xarray.Dataset, width: str = "page") -> Plate:
    """Statistics of the tension over alpha with the bands that structureless replies give (correlation, share).

    Args:
        swept: as `observe.sweep_alpha` gives it.
        width: `column` or `page`.

    Raises:
        RequestError: there is no such width. Source: seed, observation.
    """
    swept = swept.sortby("alpha")
    statistics = swept["statistic"].values.tolist()
    beside = len(statistics) if width == "page" else 1
    plate, axes = new_plate(len(statistics) // beside, beside, 1.2, width, words=1.0, sharey=False)
    alphas = swept["alpha"].values
    outside = []
    for ax, name in zip(axes, statistics, strict=True):
        one = swept.sel(statistic=name)
        for reference, (colour, _) in BANDS.items():
            low, high = (one[end].sel(reference=reference) for end in ("low", "high"))
            band = ax.fill_between(
                alphas, low, high, color=colour, alpha=0.6, linewidth=0.6, edgecolor=colour
            )
            band.set_gid(reference)
        ax.plot(
            alphas, one["value"], color=DARK, linewidth=1.1, marker="o", markersize=2.6, zorder=3, gid="value"
        )
        beyond = (one["value"] < one["low"]) | (one["value"] > one["high"])
        count = int(beyond.all("reference").sum())
        outside.append(f"{TITLES[name]} at {count} of {len(alphas)}")
        ax.set_xscale("log")
        ax.set_xticks(alphas, [f"{alpha:g}".lstrip("0") for alpha in alphas])
        ax.minorticks_off()
        ax.set_title(TITLES[name])
        ax.set_ylabel(UNITS.get(name, "correlation (no unit)"), fontsize=LABEL_SIZE)
        seaborn.despine(ax=ax)
    plate.supxlabel("α: share of a deviation taken up at each step", fontsize=LABEL_SIZE)
    handles = [Patch(color=colour, alpha=0.6, label=words) for colour, words in BANDS.values()]
    plate.legend(
        handles=[Line2D([], [], color=DARK, marker="o", markersize=2.6, label="these replies"), *handles],
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
        f"memory (pale) or with the memory of these replies, {swept.attrs['memory']:.2g} a step (orange). An "
        "exponential moving average alone gives the deviation x − x̄ a memory, lets V = Ψ²/2 fall at about half of the "
        "steps and ties tension to speed; only a dot outside both bands says something of the replies. Correlations "
        f"have no unit. Outside both bands: {'; '.join(outside)} values of α. Half-life in steps by α: {half_lives}. "
        f"n = {swept.attrs['replies']} replies, {swept.attrs['steps']} steps."
    )
    return plate
