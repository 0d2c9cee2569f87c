"""Where does surface similarity explain attention? R2 of two references by layer, beside the nulls by their own.

    python analyses/q11_surface.py      # SmolLM2; writes analyses/data/surface.csv, analyses/figures/surface.png

`lexical`: what a head would score if each position held the mean state of its token type; `position`: if all held the
mean of the layer. Both are read on row-centred scores (seed 1.1).
"""

import pandas as pd
import seaborn
import xarray
from matplotlib.axes import Axes
from panels import draw_nulls, explain
from study import LAYERS, listen, open_demo, publish, sweep

from infodyn_interp.figures.intervals import draw_intervals
from infodyn_interp.figures.plates import Plate, new_plate, print_settings
from infodyn_interp.figures.selection import choose_heads

NULLS = ("untrained", "shuffled_tokens")
REFERENCES = {"lexical": 16, "position": 4}  # with their documents: the mean of a layer needs few


def gather(results: dict[str, xarray.Dataset]) -> pd.DataFrame:
    """R2 by reference, null, layer and head, with intervals; of nulls also the model's less theirs."""
    parts = []
    for name, data in results.items():
        own = data[["r2", "r2_low", "r2_high"]].to_dataframe().reset_index().assign(null="trained")
        beside = data[[f"null_r2{end}" for end in ("", "_low", "_high")]]
        named = beside.rename({one: str(one).removeprefix("null_") for one in beside})
        contrasts = data[[f"r2_contrast{end}" for end in ("", "_low", "_high")]]
        nulls = named.merge(contrasts).to_dataframe(["null", "layer", "head"]).reset_index()
        parts.append(pd.concat([own, nulls]).assign(reference=name))
    every = pd.concat(parts, ignore_index=True)
    first = ["reference", "null", "layer", "head"]
    return every[first + [name for name in every if name not in first]]


def draw_reference(ax: Axes, data: xarray.Dataset, name: str) -> None:
    """Heads with intervals and medians by layer, and the nulls' medians."""
    chosen = choose_heads(data, None)
    draw_intervals(ax, chosen, *(chosen.pick(data[f"r2{end}"]) for end in ("", "_low", "_high")), 0)
    draw_nulls(ax, data["null_r2"])
    ax.set_ylim(0, 1)
    ax.set_ylabel(f"R², {name}")
    seaborn.despine(ax=ax)


@print_settings("paper")
def draw(results: dict[str, xarray.Dataset], table: pd.DataFrame, about: dict[str, object]) -> Plate:
    """A panel a reference."""
    plate, axes = new_plate(len(results), 1, 1.1, "column", "paper", words=0.7)
    for ax, (name, data) in zip(axes, results.items(), strict=True):
        draw_reference(ax, data, name)
    axes[0].set_xlabel("")
    explain(plate, list(NULLS), verdicts=False)
    said = []
    for (name, null), rows in table.groupby(["reference", "null"], sort=False):
        middle = rows.groupby("layer")["r2"].median()
        words = f"{str(null).replace('_', ' ')} {rows['r2'].median():.2f}"
        if null == "trained":
            words = f"{name}: {words} (layers {', '.join(f'{at} {middle[at]:.2f}' for at in (0, 9, 18, 27))})"
        else:
            words += f", the model above it in {int((rows['r2_contrast_low'] > 0).sum())} of {len(rows)}"
        said.append(words)
    plate.caption = (
        "Share of a head's row-centred score variance that a surface explains: heads with 95 % intervals over"
        " documents, medians over the heads of a layer, and those of the nulls, each by a reference pass of its own"
        f" over as many tokens. Medians. {'; '.join(said)}."
        f" n = {about['documents']} documents of {about['window']} tokens, reference from"
        f" {about['tokens_reference']:,} tokens of others; layers {', '.join(map(str, LAYERS))}."
    )
    return plate


def main() -> None:
    """Read both references, draw, write."""
    model, texts = open_demo(listen(__doc__).parse_args().study)
    made = {
        name: sweep(
            name,
            model,
            texts.part(reference_documents=documents),
            reference=name,
            layers=LAYERS,
            nulls=NULLS,
            carry=False,
        )
        for name, documents in REFERENCES.items()
    }
    results = {name: one["reference"].to_dataset() for name, one in made.items()}
    table = gather(results)
    publish("surface", table, draw(results, table, made["lexical"].attrs))


if __name__ == "__main__":
    main()
