"""Does |M| predict jumps? The law that ties the length of a step to |M| before it, by layer, beside its nulls.

    python analyses/q17_jumps.py      # SmolLM2; writes analyses/data/jumps_of_a_model.csv and the figure of that name

The seed lets the state jump once |M| passes E_crit (seed 1.4): a step in |M|, beyond what a smooth curve would do.
"""

import pandas as pd
import seaborn
import xarray
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from study import LAYERS, OUT, listen, open_demo, publish

from infodyn_interp.cli.progress import Report
from infodyn_interp.figures.depths import LINES
from infodyn_interp.figures.plates import (
    DARK,
    PALE,
    RULE,
    Plate,
    name_ticks,
    new_plate,
    print_settings,
)
from infodyn_interp.measures.threshold import Law
from infodyn_interp.sweeping import measuring

NULLS = ("untrained", "shuffled_tokens")
SIGNS = {Law.THRESHOLD: ("o", True), Law.SMOOTH: ("o", False), Law.VOLATILITY_CONFOUNDED: ("X", True)} | {
    Law.NONE: (".", True)
}


def laws_table(jumps: xarray.DataTree) -> pd.DataFrame:
    """The law of every layer, of the model and its nulls, with its step and the p of each test."""
    rows = []
    for part in ("trained", *NULLS):
        details = jumps[part].to_dataset()
        for layer in details["layer"].values.tolist():
            one = details.sel(layer=layer)
            rows.append(
                {"null": part, "layer": layer, "law": str(one["verdict"].values)}
                | {name: float(one[name]) for name in ("height", "e_crit", "e_crit_low", "e_crit_high")}
                | {f"p_{test}": float(one["p"].sel(test=test)) for test in map(str, one["test"].values)}
                | {"change_points": float(one["jump"].mean())}
                | {f"p_aligned_{name}": float(one["aligned_p"].sel(series=name)) for name in ("|M|",)}
            )
    return pd.DataFrame(rows)


def draw_curves(ax: Axes, details: xarray.Dataset) -> None:
    """Step length by |M| in each layer, and their mean."""
    curve = details["curve"].transpose("layer", "bin").values
    share = (details["bin"].values + 0.5) / details.sizes["bin"]
    ax.plot(share, curve.T, color=PALE, linewidth=0.7)
    ax.plot(share, curve.mean(0), color=DARK, linewidth=1.4)
    ax.axhline(0, color=RULE, linewidth=0.5)
    ax.set_xlabel("rank of |M| (share of steps)")
    ax.set_ylabel("log step length\n(deviations)")
    seaborn.despine(ax=ax)


def draw_laws(ax: Axes, table: pd.DataFrame) -> None:
    """The step at the best threshold by layer, marked by the law."""
    for place, (part, rows) in enumerate(table.groupby("null", sort=False)):
        colour, dashes, width = LINES[str(part)]
        at = [LAYERS.index(layer) for layer in rows["layer"]]
        ax.plot(at, rows["height"], color=colour, linestyle=dashes, linewidth=width, zorder=2 - place)
        for x, height, law in zip(at, rows["height"], rows["law"], strict=True):
            if law in SIGNS:
                marker, full = SIGNS[Law(law)]
                face = colour if full else "white"
                ax.plot(x, height, marker, color=colour, markerfacecolor=face, markersize=3.5, zorder=4)
    ax.axhline(0, color=RULE, linewidth=0.5)
    ax.set_ylabel("step at its best place\n(deviations)")
    ax.set_xlim(-0.6, len(LAYERS) - 0.4)
    name_ticks(ax.xaxis, "layer", LAYERS, 0)
    seaborn.despine(ax=ax)


@print_settings("paper")
def draw(result: xarray.DataTree, table: pd.DataFrame) -> Plate:
    """Curves of the model, above laws of the model and its nulls."""
    details = result["jumps"]["trained"].to_dataset()
    plate, (curves, laws) = new_plate(2, 1, 1.1, "column", "paper", words=0.9, sharex=False, sharey=False)
    draw_curves(curves, details)
    draw_laws(laws, table)
    parts = [
        Line2D([], [], color=colour, linestyle=dashes, linewidth=width, label=part.replace("_", " "))
        for part, (colour, dashes, width) in LINES.items()
        if part in table["null"].values
    ]
    signs = [
        Line2D([], [], linestyle="", marker=marker, color=".2", mfc=".2" if full else "white", label=str(law))
        for law, (marker, full) in SIGNS.items()
    ]
    shared = {"handlelength": 1.5, "columnspacing": 1, "borderpad": 0.2, "markerscale": 0.6}
    plate.legend(handles=parts, loc="outside upper center", ncols=3, **shared)
    plate.legend(handles=signs, loc="outside lower center", ncols=2, **shared)
    said = "; ".join(
        f"{str(part).replace('_', ' ')}: "
        + ", ".join(f"{law} {count}" for law, count in rows["law"].value_counts().items())
        + f", median step {rows['height'].median():.2g}"
        for part, rows in table.groupby("null", sort=False)
    )
    aligned = int((table.loc[table["null"] == "trained", "p_aligned_|M|"] <= 0.05).sum())
    plate.caption = (
        "Log length of prewhitened steps of the state (deviations within documents) by |M| before them: each layer,"
        " pale, and their mean, dark. Below, the step in it at the place that fits best, position held fixed, with the"
        f" law that the tests say: {said}. |M| around change points of the state differs from shifted ones in"
        f" {aligned} of {len(LAYERS)} layers (p <= .05, not corrected). Nulls: |M| shifted within documents; the"
        " untrained twin by its own terms; shuffled tokens by the model's."
        f" n = {details.attrs.get('steps', '?')} steps of {result.attrs['documents']} documents."
    )
    return plate


def main() -> None:
    """Read the study's frozen terms along each document, draw, write."""
    folder = listen(__doc__).parse_args().study
    model, texts = open_demo(folder)
    with Report() as report:
        result = measuring.measure(
            model,
            texts,
            measures=["jumps"],
            layers=LAYERS,
            nulls=NULLS,
            null_share=1,
            fit_tokens=1,
            inside=folder,
            out=OUT / "jumps",
            progress=report,
        )
    table = laws_table(result["jumps"])
    publish("jumps_of_a_model", table, draw(result, table))


if __name__ == "__main__":
    main()
