"""What carries over, truncation or interference? The rise of the variogram beside nulls, and where it may come from.

    python analyses/q14_carry.py      # SmolLM2; writes analyses/data/carry.csv, analyses/figures/carry.png

Weighed are: what a persistent query makes of itself (nuisance of rank r), truncation (the same weights in bfloat16 and
float64, 4 layers, 12 documents) and interference (innovations on the prosody residual of the step before; seed 1.2.3).
"""

from typing import TYPE_CHECKING

import numpy as np
import seaborn
import xarray
from matplotlib.axes import Axes
from panels import draw_nulls, explain
from study import listen, open_demo, publish, read_study, sweep

from infodyn_interp.figures.plates import DARK, PALE, RULE, WARM, Plate, name_ticks, new_plate, print_settings

if TYPE_CHECKING:
    from infodyn_interp.models import Model
    from infodyn_interp.texts import Texts

RECAST = (3, 12, 21, 29)
DTYPES = {"bfloat16": WARM, "float64": DARK}
RANKS = (8, 32)


def read_precisions(model: "Model", texts: "Texts") -> xarray.Dataset:
    """The carry-over of half of the documents, in float32 and in the other dtypes."""
    half = texts.part(folds=texts.folds // 2, reference_documents=texts.reference_documents // 2)
    made = sweep("precisions", model, half, layers=RECAST, nulls=(), ladder_documents=8, precisions=[*DTYPES])
    return made["precisions"].to_dataset()


def gather(result: xarray.DataTree, recast: xarray.Dataset) -> xarray.Dataset:
    """What is known of every head's carry-over, [layer, head]."""
    carry, verdicts = (
        result["carry"].to_dataset(),
        result["verdicts"].to_dataset().sel(term="carry", drop=True),
    )
    found = carry[["gain", "gain_low", "gain_high", "rho", "rho_low", "rho_high", "sill_share"]]
    found = found.assign(verdict=verdicts["verdict"])
    for null in map(str, verdicts["null"].values):
        one = verdicts.sel(null=null, drop=True)
        if one["null_gain"].notnull().any():
            found[f"gain_{null}"], found[f"above_{null}"] = one["null_gain"], one["contrast_low"] > 0
            found[f"verdict_{null}"] = one["null_verdict"]
    ladder = carry["ladder_sill"]
    for rank in RANKS:
        found[f"sill_{rank}_over_0"] = ladder.sel(rank=rank, drop=True) / ladder.sel(rank=0, drop=True)
    own = recast["rise"].sel(dtype=recast.attrs["own"], drop=True)
    for dtype in DTYPES:
        for end in ("", "_low", "_high"):
            found[f"{dtype}{end}"] = recast[f"rise_contrast{end}"].sel(dtype=dtype, drop=True) / own
    for name in ("interference", "interference_low", "interference_high", "interference_q"):
        found[name] = carry[name]
    return found


def draw_heads(ax: Axes, values: xarray.DataArray, found: np.ndarray, colour: str, shift: float = 0) -> None:
    """A dot a head, in colour where it is found, pale where not."""
    for place, (row, known) in enumerate(zip(values.values, found, strict=True)):
        x = place + shift + np.linspace(-0.3, 0.3, len(row))
        for kept, ink in ((~known, PALE), (known, colour)):
            ax.scatter(x[kept], row[kept], s=4, color=ink, linewidths=0, zorder=3)


@print_settings("paper")
def draw(result: xarray.DataTree, found: xarray.Dataset) -> Plate:
    """Four panels: beside nulls, beyond leading components, in other precisions, after residuals."""
    plate, (beside, beyond, cut, after) = new_plate(
        2, 2, 1.2, "column", "paper", words=0.75, sharex=False, sharey=False
    )
    verdicts = result["verdicts"].to_dataset().sel(term="carry")
    beside.plot(found["gain"].median("head").values, color="black", linewidth=1.2, zorder=6)
    draw_heads(beside, found["gain"], np.ones(found["gain"].shape, bool), DARK)
    draw_nulls(beside, verdicts["null_gain"])
    beside.set_title("log V(long)/V(1)")
    for rank, colour in zip(RANKS, (DARK, WARM), strict=True):
        ratio = found[f"sill_{rank}_over_0"]
        beyond.plot(ratio.median("head").values, color=colour, linewidth=1.1, label=f"r = {rank}")
    beyond.set_ylim(0, 1.1)
    beyond.legend(loc="lower left", handlelength=1)
    beyond.set_title("sill left, r over 0")
    few = found.sel(layer=[*RECAST])
    for (dtype, colour), shift in zip(DTYPES.items(), (-0.18, 0.18), strict=True):
        away = ((few[f"{dtype}_low"] > 0) | (few[f"{dtype}_high"] < 0)).values
        draw_heads(cut, few[dtype], away, colour, shift)
        cut.scatter([], [], s=6, color=colour, label=dtype)
    cut.set_yscale("symlog", linthresh=1e-3)
    cut.set_yticks([-0.1, -1e-3, 0, 1e-3, 0.1], ["−.1", "−.001", "0", ".001", ".1"])
    cut.legend(loc="best", handlelength=0.6, borderpad=0.1, handletextpad=0.2)
    cut.set_title("rise, other dtypes")
    least = result["carry"].attrs["least_interference"]
    clear = (found["interference_q"] <= 0.05) & (np.abs(found["interference"]) >= least)
    draw_heads(after, found["interference"], clear.values, DARK)
    after.set_title("slope on residual")
    every = found["layer"].values.tolist()
    for ax, layers in ((beside, every), (beyond, every), (cut, [*RECAST]), (after, every)):
        ax.axhline(0, color=RULE, linewidth=0.5, zorder=1)
        ax.set_xlim(-0.6, len(layers) - 0.4)
        name_ticks(ax.xaxis, "layer", layers, 0)
        ax.set_xlabel("layer")
        seaborn.despine(ax=ax)
    nulls = [name.removeprefix("verdict_") for name in map(str, found) if name.startswith("verdict_")]
    explain(plate, nulls, verdicts=False)
    plate.caption = say(result, found, nulls, clear)
    return plate


def say(result: xarray.DataTree, found: xarray.Dataset, nulls: list[str], clear: xarray.DataArray) -> str:
    """The caption, with what was counted."""
    heads = found["gain"].size

    def middle(name: str) -> str:
        return f"{float(found[name].median()):.2g}"

    beside = "; ".join(
        f"{null.replace('_', ' ')} {middle(f'gain_{null}')}, IDENTIFIED in"
        f" {int((found[f'verdict_{null}'] == 'IDENTIFIED').sum())}, the model above it in"
        f" {int(found[f'above_{null}'].sum())}"
        for null in nulls
    )
    cut = "; ".join(
        f"{dtype} {middle(dtype)} (heads from {float(found[dtype].min()):.2g} to {float(found[dtype].max()):.2g},"
        f" interval without 0 in {int(((found[f'{dtype}_low'] > 0) | (found[f'{dtype}_high'] < 0)).sum())}"
        f" of {int(found[dtype].notnull().sum())})"
        for dtype in DTYPES
    )
    grow = int((clear & (found["interference"] > 0)).sum())
    return (
        f"Carry-over of {heads} heads. Rise of the residual's variogram, log V(long)/V(1), medians over the heads of a"
        f" layer: model {middle('gain')}, IDENTIFIED in {int((found['verdict'] == 'IDENTIFIED').sum())}; {beside}."
        " Sill left when the nuisance's bilinear block takes r components of the states, over r = 0: "
        + ", ".join(f"{middle(f'sill_{rank}_over_0')} at {rank}" for rank in RANKS)
        + ". Change of the rise in another dtype of the same weights, share of the rise in float32"
        f" (layers {', '.join(map(str, RECAST))}, half of the documents; median): "
        + f"{cut}. Slope of the innovation's log size on the prosody residual's of the step before: median"
        f" {middle('interference')}; {int(clear.sum())} heads found (q <= .05, slope of .1 or more), {grow} grow."
        f" n = {result.attrs['documents']} documents of {result.attrs['window']} tokens."
    )


def main() -> None:
    """Read the study and other precisions, draw, write."""
    folder = listen(__doc__).parse_args().study
    result = read_study(folder)
    found = gather(result, read_precisions(*open_demo(folder)))
    publish("carry", found.to_dataframe().reset_index(), draw(result, found))


if __name__ == "__main__":
    main()
