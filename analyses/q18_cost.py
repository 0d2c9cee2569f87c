"""What does it cost? Time of each pass of a sweep over a plain forward pass, as `infodyn cost` measures it.

    python analyses/q18_cost.py      # SmolLM2, 4 x 256 tokens; writes analyses/data/cost.csv, analyses/figures/cost.png

Worth reading on a quiet machine alone; `--measured FILE` draws what `infodyn cost --json > FILE` found there.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import seaborn
from study import listen, publish

from infodyn_interp.figures.plates import DARK, PALE, RULE, Plate, new_plate, print_settings

# What each row is; a pass of a sweep, or something to hold it against.
ROWS = {
    "hf_forward": ("Hugging Face's forward", False),
    "bridge_forward": ("forward of the bridge", False),
    "run_with_cache": ("run_with_cache", False),
    "fit": ("fit, reference zero", True),
    "fit_with_reference": ("fit", True),
    "fit_with_finer_grid": ("fit with finer tracks", True),
    "carry": ("carry-over", True),
    "ladder": ("ladder", True),
    "carry_with_ladder": ("carry-over with ladder", True),
}


def tabulate(measured: Mapping[str, float]) -> pd.DataFrame:
    """Seconds, the ratio to a plain forward pass, and memory over what was resident, of each row."""
    rows = [
        {
            "pass": name,
            "seconds": measured[f"{name}_seconds"],
            "over_forward": measured[f"{name}_over_bridge_forward"],
            "peak_mib": measured[f"{name}_peak_mib"],
        }
        for name in ROWS
        if f"{name}_seconds" in measured
    ]
    return pd.DataFrame(rows)


@print_settings("paper")
def draw(table: pd.DataFrame, measured: Mapping[str, float]) -> Plate:
    """A bar a row."""
    plate, (ax,) = new_plate(1, 1, 0.17 * len(table), "column", "paper", words=0.4)
    of_sweep = [ROWS[name][1] for name in table["pass"]]
    bars = ax.barh(
        [ROWS[name][0] for name in table["pass"]],
        table["over_forward"],
        color=[DARK if own else PALE for own in of_sweep],
    )
    white = {"facecolor": "white", "edgecolor": "none", "pad": 0.6}
    ax.bar_label(bars, fmt="%.2f", padding=3, fontsize=6.5, bbox=white)
    ax.axvline(1, color=RULE, linewidth=0.6, linestyle=(0, (4, 2)), zorder=0)
    ax.invert_yaxis()
    ax.set_xlim(0, 1.12 * table["over_forward"].max())
    ax.set_xlabel("time, over a plain forward pass")
    ax.tick_params("y", length=0)
    seaborn.despine(ax=ax, left=True)
    plate.caption = (
        f"Time of each pass over all layers, over a plain forward pass of the same {measured['batch']:g} windows of"
        f" {measured['window']:g} tokens ({measured['bridge_forward_seconds']:.2f} s): medians of"
        f" {measured['repeats']:g} interleaved repeats on {measured['threads']:g} threads, logits at the last position"
        " alone. Dark: passes of a sweep; pale: what they are held against. A sweep reads every token once in the fit"
        " and once in the carry-over, the first window of a document once more to filter, and of some documents the"
        " finer tracks and the ladder. Memory over what the process held before: fit"
        f" {measured['fit_with_reference_peak_mib']:.0f} MiB, run_with_cache"
        f" {measured['run_with_cache_peak_mib']:.0f} MiB."
    )
    return plate


def main() -> None:
    """Measure, or take what was measured; draw, write."""
    ask = listen(__doc__)
    ask.add_argument("--measured", type=Path, help="rows of `infodyn cost --json`")
    asked = ask.parse_args()
    if asked.measured is None:
        from infodyn_interp import costing, models

        measured = costing.measure_cost(models.open_model("demo"))
    else:
        measured = json.loads(asked.measured.read_text())
    table = tabulate(measured)
    publish("cost", table, draw(table, measured))


if __name__ == "__main__":
    main()
