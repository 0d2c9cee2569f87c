"""Do tracks dig wells? Their gain beside nulls, verdicts, the sign of their coefficient, and what would have been seen.

    python analyses/q13_tracks.py      # SmolLM2; writes analyses/data/tracks.csv, analyses/figures/tracks.png

A well is a coefficient below 0: keys near earlier states cost less energy (seed 1.2.2).
"""

import numpy as np
import pandas as pd
import seaborn
import xarray
from matplotlib.axes import Axes
from panels import count_beside, draw_gains, draw_verdicts, explain, gains_table
from study import listen, publish, read_study

from infodyn_interp.figures.plates import DARK, PALE, RULE, WARM, Plate, new_plate, print_settings
from infodyn_interp.figures.selection import threshold

TERM = "track"
SIGNS = {"well": DARK, "0 in the interval": "white", "hill": WARM}
EDGE = 0.8  # where limits beyond the grid stand


def signs_of(result: xarray.DataTree) -> xarray.DataArray:
    """Well or hill where the interval of the coefficient leaves out 0."""
    terms = result["terms"].to_dataset()
    low, high = terms["track_coefficient_low"], terms["track_coefficient_high"]
    return xarray.where(high < 0, "well", xarray.where(low > 0, "hill", "0 in the interval"))


def draw_signs(ax: Axes, signs: xarray.DataArray) -> None:
    """Share of heads by sign."""
    below = np.zeros(signs.sizes["layer"])
    for name, colour in SIGNS.items():
        share = (signs == name).mean("head").values
        ax.bar(range(len(below)), share, 0.85, below, color=colour, edgecolor=".4", linewidth=0.4, label=name)
        below = below + share
    ax.set_ylim(0, 1)
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3, handlelength=1, columnspacing=1)
    ax.set_ylabel("share of heads")
    seaborn.despine(ax=ax)


def draw_limits(ax: Axes, limits: xarray.DataArray, small: float) -> None:
    """Each head's detection limit."""
    for place, of_heads in enumerate(limits.values):
        x = place + np.linspace(-0.3, 0.3, len(of_heads))
        kept = np.isfinite(of_heads)
        ax.scatter(x[kept], of_heads[kept], s=5, color=DARK, linewidths=0, clip_on=False)
        beyond = np.isinf(of_heads)
        ax.scatter(
            x[beyond], np.full(beyond.sum(), EDGE), s=7, marker="^", color=PALE, linewidths=0, clip_on=False
        )
    ax.axhline(small, color=RULE, linewidth=0.6, linestyle=(0, (4, 2)))
    ax.set_yscale("log")
    ax.set_ylim(0.002, 1)
    ax.set_yticks([0.01, 0.1, EDGE], [".01", ".1", ".5+"])
    ax.set_ylabel("detection limit")
    seaborn.despine(ax=ax)


@print_settings("paper")
def draw(result: xarray.DataTree, signs: xarray.DataArray, said: str, nulls: list[str]) -> Plate:
    """Gains beside nulls, signs, limits and verdicts."""
    plate, axes = new_plate(4, 1, 0.85, "column", "paper", words=0.9, sharey=False)
    draw_gains(axes[0], result, TERM)
    axes[0].set_ylabel("gain (share)")
    axes[0].axhline(threshold(result, "least_gain"), color=RULE, linewidth=0.6, linestyle=(0, (1, 1)))
    draw_signs(axes[1], signs)
    verdicts = result["verdicts"].to_dataset().sel(term=TERM)
    limits = verdicts["limit"]
    draw_limits(axes[2], limits, threshold(result, "small"))
    draw_verdicts(axes[3], verdicts["verdict"])
    explain(plate, nulls)
    counts = ", ".join(f"{name} {int((signs == name).sum())}" for name in SIGNS)
    asked = verdicts["swap_p"].notnull()
    passed = int((verdicts["swap_p"] <= threshold(result, "swap_level")).sum())
    seen = limits.values[np.isfinite(limits.values)]
    plate.caption = (
        "The chosen track in every head: held-out gain over nuisance within keys (share of row-centred energy"
        " variance; dotted, the .005 that a name takes) with 95 % intervals over documents and medians by layer of the"
        f" model and its nulls; sign of its coefficient, by 95 % interval ({counts}); the share that would have been"
        " identified half the time (arrow: beyond .5; dashed: .1); verdicts."
        f" Largest gain {float(verdicts['gain'].max()):.2g}. {said}"
        f" Swap gate passed by {passed} of the {int(asked.sum())} heads whose gain has a bound."
        f" Limits in {len(seen)} of {int(limits.notnull().sum())} heads at most .5, median of these"
        f" {np.median(seen):.2g}."
        f" n = {result.attrs['documents']} documents of {result.attrs['window']} tokens."
    )
    return plate


def main() -> None:
    """Read the study, draw, write."""
    result = read_study(listen(__doc__).parse_args().study)
    table, signs = gains_table(result, TERM), signs_of(result)
    own = xarray.Dataset(
        {
            "coefficient": result["terms"]["track_coefficient"],
            "sign": signs,
            "limit": result["verdicts"]["limit"].sel(term=TERM, drop=True),
            "swap_p": result["verdicts"]["swap_p"].sel(term=TERM, drop=True),
        }
    ).to_dataframe()
    more = own.reset_index()[["layer", "head", *own.columns]].assign(null="trained")
    table = pd.merge(table, more, "left", ["null", "layer", "head"])
    plate = draw(result, signs, count_beside(result, table), table["null"].unique().tolist())
    publish("tracks", table, plate)


if __name__ == "__main__":
    main()
