"""Which verdicts survive the nulls? Verdicts of the model beside those of each null, and what lies above every null.

    python analyses/q15_nulls.py      # SmolLM2; writes analyses/data/nulls.csv, analyses/figures/nulls.png

The nulls of the demo read 8 of its 24 documents: their verdicts have less power than the model's, and contrasts are of
these 8 alone. Detection limits are the model's only: what is ABSENT in a null is NOT_ESTIMABLE.
"""

import json

import numpy as np
import pandas as pd
import seaborn
import xarray
from panels import GROUNDS
from study import listen, publish, read_study

from infodyn_interp.figures.plates import WARM, Plate, new_plate, print_settings
from infodyn_interp.identify.nulls import TWINS

WITH_VERDICTS = (*TWINS, "permuted_queries")


def count(result: xarray.DataTree) -> pd.DataFrame:
    """Heads by term, null and verdict; `survives` are the model's that are IDENTIFIED and above every null."""
    data = result["verdicts"].to_dataset()
    rows = []
    for term in map(str, data["term"].values):
        one = data.sel(term=term)
        above, defined = one["contrast_low"] > 0, one["contrast"].notnull().any(("layer", "head"))
        identified = one["verdict"] == "IDENTIFIED"
        for null in ("trained", *map(str, one["null"].values)):
            own = null == "trained"
            said = one["verdict"] if own else one["null_verdict"].sel(null=null)
            clear = above.sel(null=defined).all("null") if own else above.sel(null=null)
            if own or bool(defined.sel(null=null)):
                rows.append(
                    {"term": term, "null": null, "heads": said.size}
                    | {name: int((said == name).sum()) for name in GROUNDS}
                    | {"model_above": int(clear.sum()), "survives": int((identified & clear).sum())}
                )
    return pd.DataFrame(rows)


@print_settings("paper")
def draw(result: xarray.DataTree, table: pd.DataFrame) -> Plate:
    """A bar a term and null, by verdict; a mark for what of the model's survives every null."""
    shown = table[table["null"].isin(("trained", *WITH_VERDICTS))].reset_index(drop=True)
    plate, (ax,) = new_plate(1, 1, 0.125 * len(shown), "column", "paper", words=0.8)
    first = (shown["term"] != shown["term"].shift()).cumsum() - 1
    place = np.arange(len(shown)) + 0.7 * first.values
    left = np.zeros(len(shown))
    for name, ground in GROUNDS.items():
        share = shown[name].values / shown["heads"].values
        ax.barh(place, share, 0.9, left, label=name, **ground | {"edgecolor": ".4", "linewidth": 0.4})
        left = left + share
    own = (shown["null"] == "trained").values
    share = shown["survives"].values / shown["heads"].values
    ax.scatter(
        share[own],
        place[own],
        s=22,
        marker="|",
        color=WARM,
        linewidths=1.6,
        zorder=4,
        label="above every null",
    )
    names = [row.term if row.null == "trained" else row.null.replace("_", " ") for row in shown.itertuples()]
    ax.set_yticks(place, names)
    for tick, bold in zip(ax.get_yticklabels(), own, strict=True):
        tick.set_fontweight("bold" if bold else "normal")
    ax.set_ylim(place[-1] + 0.6, -0.6)
    ax.set_xlim(0, 1)
    ax.set_xlabel("share of heads")
    ax.tick_params("y", length=0)
    seaborn.despine(ax=ax, left=True)
    plate.legend(loc="outside upper center", ncols=2, handlelength=1.1, columnspacing=1, borderpad=0.2)
    read = round(json.loads(result.attrs["run"])["null_share"] * result.attrs["folds"])
    by_term = table.set_index(["term", "null"])
    said = "; ".join(
        f"{term}: IDENTIFIED {row['IDENTIFIED']:g}, above every null {row['model_above']:g}, both {row['survives']:g}"
        f" ({', '.join(f'{null} {other.IDENTIFIED:g}' for null, other in beside(by_term, term))})"
        for (term, null), row in by_term.iterrows()
        if null == "trained"
    )
    plate.caption = (
        f"Verdicts of {table['heads'].max()} heads by term: of the model (bold), and of each null, twins and shuffled"
        f" tokens on {read} of the documents. Orange: share of the heads that are IDENTIFIED and whose gain lies above"
        f" that of every null (95 % intervals over the same {read}; swapped documents and permuted queries, of all,"
        f" where they are defined). In brackets IDENTIFIED in the null. {said}."
        f" n = {result.attrs['documents']} documents of {result.attrs['window']} tokens."
    ).replace("_", " ")
    return plate


def beside(table: pd.DataFrame, term: str) -> list[tuple[str, pd.Series]]:
    """The nulls of a term that have verdicts."""
    return [(null, table.loc[term, null]) for null in table.loc[term].index if null in WITH_VERDICTS]


def main() -> None:
    """Read the study, count, draw, write."""
    result = read_study(listen(__doc__).parse_args().study)
    table = count(result)
    publish("nulls", table, draw(result, table))


if __name__ == "__main__":
    main()
