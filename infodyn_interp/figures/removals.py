"""The causal check: what the outputs lose when a term is taken out, beside placebos of the same norm."""

import numpy as np
import seaborn
import xarray
from matplotlib.axes import Axes

from infodyn_interp.errors import RequestError
from infodyn_interp.figures.intervals import TERMS, draw_intervals
from infodyn_interp.figures.plates import DARK, PALE, RULE, WARM, Plate, area, new_panels, points, printed
from infodyn_interp.figures.selection import choose_heads, count, find_group, name_missing, write_caption
from infodyn_interp.results import Heads

TITLES = {
    "loss": "loss of the next token",
    "kl": "KL from the intact output",
    "inertia": "inertia: cosine of successive steps",
    "repeats": "rate of repeated tokens",
}


@printed
def ablation(
    result: xarray.DataTree, heads: Heads = None, width: str = "column", style: str = "paper"
) -> Plate:
    """Loss of the next token where a term is taken out less that under placebos, with 95 % intervals (nats).

    Drawn are the heads whose terms were taken out, or those named.
    Raises RequestError for a head, width, style or group `ablation` that is not there. Source: seed 1.2.
    """
    data = find_group(result, "ablation", "difference")
    every = choose_heads(data, heads)
    there = every.pick(data["no_causal_effect"].transpose(..., "term"))
    removed = [head for head, seen in zip(every.heads, np.isfinite(there).any(1), strict=True) if seen]
    chosen = choose_heads(data, removed or every.heads)
    plate, axes = new_panels(len(TERMS), 2, 0.8, width, style)
    drawn, covers = {}, []
    for ax, (term, title) in zip(axes, TERMS.items(), strict=True):
        here = data.sel(term=term)
        drawn[title], low, high = (
            chosen.pick(here[f"difference{end}"].sel(measure="loss")) for end in ("", "_low", "_high")
        )
        draw_intervals(ax, chosen, drawn[title], low, high, 0)
        ax.set_title(title)
        covers.append(f"{term} {int((chosen.pick(here['no_causal_effect']) == 1).sum())}")
    plate.supylabel("loss, removed − placebos (nats)")
    about = data.attrs
    plate.caption = write_caption(
        result,
        chosen,
        "Each term taken out of the live scores of one head: change of the loss of the next token, less the mean "
        f"of placebos of its norm ({about.get('placebos', '?')} with keys permuted within rows, no more of other "
        f"documents), nats, on {about.get('windows', '?')} windows of {about.get('documents', '?')} documents; "
        "coefficients never saw the fold of a window. Dot and line: a head and its 95 % interval (t, over "
        "documents), dark where the interval leaves out zero, pale where it covers it; not corrected for the number "
        "of heads.",
        f"No causal effect on the loss (heads): {', '.join(covers)}.",
        name_missing(chosen, drawn),
        nulls="placebos, as the zero",
    )
    return plate


@printed
def removal(dataset: xarray.Dataset, width: str = "column", style: str = "paper") -> Plate:
    """Change of the outputs where a term is removed, under each placebo, and the difference, with 95 % intervals.

    Args:
        dataset: from `energy.ablate`; units are its coordinate `unit`.
        width: `column` or `page`.
        style: `paper` or `talk`.

    Raises:
        RequestError: the dataset is not of an ablation, or there is no such width or style.
    """
    if not {"removed", "placebo", "difference"} <= set(dataset.variables):
        raise RequestError(
            "removal: the dataset has no removed, placebo and difference; take what `ablate` returns"
        )
    measures = [str(measure) for measure in dataset["measure"].values]
    kinds = [str(kind) for kind in dataset["kind"].values]
    names = ["removed", *(f"placebo: {kind.replace('_', ' ')}" for kind in kinds), "removed − placebos"]
    plate, axes = new_panels(len(measures), 2, 0.17 * len(names), width, style, words=0.2, sharex=False)
    plate.set_figheight(plate.get_figheight() + points(0.2) * len(measures) / (2 if width == "page" else 1))
    said = []
    for ax, measure in zip(axes, measures, strict=True):
        here = dataset.sel(measure=measure)
        unit = str(here["unit"].item()).replace("1", "no unit")
        ax.axvline(0, color=RULE, linewidth=points(0.6), linestyle=(0, (4, 2)), zorder=1)
        _draw(ax, here, "removed", np.array([0.0]), DARK, large=True)
        for row, kind in enumerate(kinds, 1):
            places = row + 0.76 * ((np.arange(here.sizes["draw"]) + 0.5) / here.sizes["draw"] - 0.5)
            _draw(ax, here.sel(kind=kind), "placebo", places, PALE, large=False)
        _draw(ax, here, "difference", np.array([len(names) - 1.0]), WARM, large=True)
        ax.axhline(len(names) - 1.5, color=".8", linewidth=points(0.5))
        ax.set_ylim(len(names) - 0.5, -0.5)
        ax.set_yticks(range(len(names)), names)
        ax.set_title(TITLES.get(measure, measure))
        ax.set_xlabel(f"change ({unit})")
        ax.locator_params("x", nbins=5)
        seaborn.despine(ax=ax)
        said.append(
            f"{measure} {here['difference'].item():.2g} [{here['difference_low'].item():.2g}, "
            f"{here['difference_high'].item():.2g}]"
        )
    about = dataset.attrs
    where = f"{count(dataset['head'], 'head')} of {count(dataset['layer'], 'layer')}"
    effect = "covers 0: no causal effect" if bool(dataset["no_causal_effect"]) else "leaves out 0"
    plate.caption = (
        f"Term {about.get('term', 'not named')} taken out of the live scores of {where}: change of the outputs from "
        "the intact model (units of each at its axis). Removed: the term itself; placebo: an energy of its norm in its "
        "place, a mark each (the term with keys permuted within rows, or another document's term); last, removed minus "
        "the mean of all placebos, which is the zero to compare with. Nulls drawn: the placebos. Lines: 95 % intervals "
        "(t, over "
        f"documents). n = {about.get('documents', '?')} documents, {about.get('windows', '?')} windows, "
        f"{about.get('placebos', '?')} placebos of a kind. Removed minus placebos: {', '.join(said)}. The interval of "
        f"the loss {effect}."
    )
    return plate


def _draw(ax: Axes, data: xarray.Dataset, name: str, places: np.ndarray, colour: str, *, large: bool) -> None:
    middle, low, high = (np.atleast_1d(data[f"{name}{end}"].values) for end in ("", "_low", "_high"))
    ax.hlines(
        places,
        low,
        high,
        colors=colour,
        linewidth=points(1.4 if large else 0.8),
        zorder=2,
        gid=f"{name} interval",
    )
    known = np.isfinite(middle)
    ax.scatter(
        middle[known],
        places[known],
        s=area(18 if large else 4.4),
        color=colour if large else ".35",
        edgecolor="black" if large else "none",
        linewidths=points(0.5) if large else 0,
        zorder=3,
        gid=name,
    )
