"""Panels that figures of several questions share: gains beside their nulls, and verdicts by layer."""

import json
from typing import Any

import numpy as np
import pandas as pd
import seaborn
import xarray
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from infodyn_interp import results
from infodyn_interp.figures.depths import LINES
from infodyn_interp.figures.intervals import draw_intervals, scale_gains
from infodyn_interp.figures.judgements import MARKS, NOT_ESTIMABLE
from infodyn_interp.figures.plates import DARK, MISSING, RULE, Plate, name_ticks
from infodyn_interp.figures.selection import choose_heads
from infodyn_interp.report.words import gain_intervals

NULL_LINES: dict[str, tuple[str, Any, float]] = {null: LINES[null] for null in LINES if null != "trained"} | {
    "swapped_documents": (RULE, (0, (5, 1.5)), 1.0),
    "permuted_queries": (RULE, (0, (5, 1.5)), 1.0),
}
GROUNDS = {name: {"facecolor": mark.ground} for name, mark in MARKS.items()} | {NOT_ESTIMABLE: MISSING}


def gains_table(result: xarray.DataTree, term: str) -> pd.DataFrame:
    """Gains of a term in every head, of the model with intervals and of each null with the contrast to it."""
    verdicts = results.table(result, "verdicts").query("term == @term")
    low, high = (ends.sel(term=term).to_dataframe("x")["x"].values for ends in gain_intervals(result))
    own = verdicts[["layer", "head", "gain", "verdict"]].assign(null="trained", gain_low=low, gain_high=high)
    nulls = results.table(result, "nulls").query("term == @term and contrast.notna()")
    kept = ["null", "layer", "head", "null_gain", "null_verdict", "contrast", "contrast_low", "contrast_high"]
    beside = nulls[kept].rename(columns={"null_gain": "gain", "null_verdict": "verdict"})
    every = pd.concat([own, beside], ignore_index=True)
    return every[["null", "layer", "head", "verdict", "gain", "gain_low", "gain_high", *kept[-3:]]]


def draw_gains(ax: Axes, result: xarray.DataTree, term: str) -> None:
    """Each head's gain with its interval, the model's medians by layer, and the nulls'."""
    data = result["verdicts"].to_dataset().sel(term=term)
    chosen = choose_heads(data, None)
    ends = (chosen.pick(one.sel(term=term)) for one in gain_intervals(result))
    draw_intervals(ax, chosen, chosen.pick(data["gain"]), *ends, 0)
    draw_nulls(ax, data["null_gain"])
    scale_gains([ax])
    ax.set_xlabel("")


def draw_nulls(ax: Axes, values: xarray.DataArray) -> None:
    """Medians over the heads of each layer, a line a null that has any."""
    for null in map(str, values["null"].values):
        middle = values.sel(null=null).median("head").values
        if np.isfinite(middle).any():
            colour, dashes, width = NULL_LINES[null]
            ax.plot(middle, color=colour, linestyle=dashes, linewidth=width, zorder=5, gid=null)


def draw_verdicts(ax: Axes, verdict: xarray.DataArray) -> None:
    """Share of the heads of each layer by verdict, from IDENTIFIED upwards."""
    layers = verdict["layer"].values.tolist()
    below = np.zeros(len(layers))
    for name, ground in GROUNDS.items():
        share = (verdict == name).mean("head").values
        ax.bar(range(len(layers)), share, 0.85, below, **ground | {"edgecolor": ".4", "linewidth": 0.4})
        below = below + share
    ax.set_ylim(0, 1)
    ax.set_xlim(-0.6, len(layers) - 0.4)
    ax.set_ylabel("share of heads")
    name_ticks(ax.xaxis, "layer", layers, 0)
    seaborn.despine(ax=ax)


def explain(plate: Plate, nulls: list[str], *, verdicts: bool = True) -> None:
    """Above the panels what lines are, below them what grounds are."""
    model = [
        Line2D([], [], color="black", linewidth=1.2, label="trained"),
        Line2D([], [], color=DARK, linestyle="", marker="o", markersize=2.5, label="a head"),
    ]
    beside = [
        Line2D([], [], color=colour, linestyle=dashes, linewidth=width, label=null.replace("_", " "))
        for null, (colour, dashes, width) in NULL_LINES.items()
        if null in nulls
    ]
    shared: dict[str, Any] = {"handlelength": 1.5, "columnspacing": 1, "borderpad": 0.2}
    plate.legend(handles=[*model, *beside], loc="outside upper center", ncols=3, **shared)
    if verdicts:
        grounds = [
            Patch(**ground | {"edgecolor": ".4", "linewidth": 0.4}, label=name)
            for name, ground in GROUNDS.items()
        ]
        shared |= {"handlelength": 1}
        plate.legend(handles=grounds, loc="outside lower center", ncols=3, **shared)


def count_beside(result: xarray.DataTree, table: pd.DataFrame) -> str:
    """Verdicts of the model, and in how many heads its gain lies above each null's, in words."""
    read = round(json.loads(result.attrs["run"])["null_share"] * result.attrs["folds"])
    own = table[table["null"] == "trained"]
    verdicts = ", ".join(f"{name} {count}" for name, count in own["verdict"].value_counts().items())
    beside = table[table["null"] != "trained"].groupby("null", sort=False)
    above = ", ".join(f"{null} {int((rows['contrast_low'] > 0).sum())}" for null, rows in beside)
    identified = ", ".join(
        f"{null} {int((rows['verdict'] == 'IDENTIFIED').sum())}"
        for null, rows in beside
        if (rows["verdict"] != "").any()
    )
    return (
        (
            f"Of {len(own)} heads: {verdicts}. Gain above the null's, 95 % interval over documents: {above}."
            f" IDENTIFIED in the null: {identified}. Of twins and shuffled tokens {read} documents are contrasted."
        )
        .replace("_", " ")
        .replace("NOT ESTIMABLE", NOT_ESTIMABLE)
    )
