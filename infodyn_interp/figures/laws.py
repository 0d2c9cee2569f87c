"""What the measures of a trajectory find: ranks of its action, its jumps along the text, and the law of their size."""

from typing import Any, cast

import numpy as np
import seaborn
import xarray
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from infodyn_interp.errors import RequestError
from infodyn_interp.figures.plates import (
    DARK,
    PALE,
    RULE,
    WARM,
    Plate,
    new_panels,
    new_plate,
    place_legend,
    points,
    printed,
)
from infodyn_interp.results import span

RANKS = 10  # bars of a histogram of ranks
DOCUMENTS = 4  # in a raster, unless some are named
TURNS = {
    "kinetic": "kinetic",
    "potential": "potential (held out)",
    "onsager_machlup": "Onsager-Machlup (held out)",
}


def of_layer(
    result: xarray.DataTree, group: str, layer: int | None = None, part: str = "trained"
) -> xarray.Dataset:
    """What `measures.helpful` or `measures.find_jumps` gave of one layer, as the figures here take it.

    Args:
        result: of `infodyn measures`.
        group: `action` or `jumps`.
        layer: that was read; the middle one of those that say anything by default.
        part: `trained`, or a null that was read.

    Raises:
        RequestError: it was not read.
    """
    if group not in result.children or part not in result[group].children:
        raise RequestError(f"figure: this result has no group {group}/{part}")
    every = result[group].children[part].to_dataset().drop_vars(["null", "quantity"])
    told = every["verdict"] != "NOT_ESTIMABLE" if "verdict" in every else every["layer"] >= 0
    layers = every["layer"].values[told.values]
    chosen = layers[len(layers) // 2] if layer is None else layer
    if chosen not in layers:
        raise RequestError(f"layer: {chosen} asked, {group} has {span(layers)}")
    found = every.sel(layer=chosen)
    if group == "jumps":
        found = found.assign_coords(bin=found["bin_carry"].values)
        found = found.assign_attrs(advice=str(found["advice"].item()))
    return found.assign_attrs(layer=int(chosen))


@printed
def action_ranks(found: xarray.Dataset, width: str = "column", style: str = "paper") -> Plate:
    """Rank of the realised path's action among the paths it might have taken, a panel a kind (seed 1.3.1).

    Args:
        found: what `measures.helpful` gives.
        width: `column` or `page`.
        style: `paper` or `talk`.

    Raises:
        RequestError: there are no ranks in it, or no such width or style.
    """
    rank = _need(found, "rank")
    kinds = [str(kind) for kind in found["kind"].values]
    plate, axes = new_panels(len(kinds), 3, 0.55, width, style)
    even = rank.sizes["document"] / RANKS
    for ax, kind in zip(axes, kinds, strict=True):
        ax.hist(
            rank.sel(kind=kind),
            np.linspace(0, 1, RANKS + 1).tolist(),
            color=PALE,
            edgecolor="white",
            gid="ranks",
        )
        ax.axhline(even, color=RULE, linewidth=points(0.7), linestyle=(0, (4, 2)), gid="chance")
        ax.axvline(float(found["mean_rank"].sel(kind=kind)), color=DARK, linewidth=points(1.1), gid="mean")
        ax.set_title(TURNS.get(kind, kind))
        seaborn.despine(ax=ax)
    axes[0].set_xlim(0, 1)
    plate.supxlabel("share of paths with less action (0: the least)")
    plate.supylabel("documents")
    means = ", ".join(
        f"{TURNS.get(kind, kind)} {float(found['mean_rank'].sel(kind=kind)):.2f} "
        f"[{float(found['mean_rank_low'].sel(kind=kind)):.2f}, {float(found['mean_rank_high'].sel(kind=kind)):.2f}]"
        for kind in kinds
    )
    plate.caption = (
        f"{_layer(found)}Rank of the realised path's action (share of paths that have less) among "
        f"{found.attrs['paths']} others: {found.attrs['among']}. Null drawn, dashed: even ranks, what chance gives; "
        f"line: mean. Cannot discriminate: {found.attrs['cannot_discriminate']}. n = {rank.sizes['document']} "
        f"documents. Mean rank with 95 % interval over documents: {means}."
    )
    return plate


@printed
def jump_raster(
    found: xarray.Dataset, documents: list[int] | None = None, width: str = "column", style: str = "paper"
) -> Plate:
    """|M_t| along the text with E_crit and the change points of the state, a panel a document (seed 1.4).

    Args:
        found: what `measures.find_jumps` gives.
        documents: places of the documents to draw; the first four by default.
        width: `column` or `page`.
        style: `paper` or `talk`.

    Raises:
        RequestError: there are no jumps in it, no such document, or no such width or style.
    """
    jump, carry = _need(found, "jump").values, _need(found, "carry").values
    chosen = list(range(min(DOCUMENTS, len(jump)))) if documents is None else documents
    for one in chosen:
        if not 0 <= one < len(jump):
            raise RequestError(f"document: {one} asked, there are 0 to {len(jump) - 1}")
    plate, axes = new_plate(len(chosen), 1, 0.5, width, style, words=0.7)
    steps = np.arange(carry.shape[1])
    for ax, one in zip(axes, chosen, strict=True):
        ax.axhspan(
            float(found["critical_low"]),
            float(found["critical_high"]),
            color=WARM,
            alpha=0.35,
            linewidth=0,
            zorder=1,
        )
        ax.axhline(
            float(found["critical"]),
            color=WARM,
            linewidth=points(1),
            label="E_crit, 95 % interval",
            gid="critical",
        )
        ax.plot(steps, carry[one], color=DARK, linewidth=points(0.7), label="|M|", gid="carry")
        at = steps[jump[one]]
        ax.plot(
            at, np.full(len(at), 1.0), "v", color=RULE, markersize=points(3.5), transform=ax.get_xaxis_transform(),
            clip_on=False, label="change point of the state", gid="jump",
        )  # fmt: skip
        ax.set_title(f"document {one}", pad=points(6))
        seaborn.despine(ax=ax)
    axes[0].set_xlim(0, carry.shape[1])
    place_legend(plate, axes[0])
    plate.supxlabel("position (tokens)")
    plate.supylabel(_magnitude(found))
    plate.caption = (
        f"{_layer(found)}Size of the carry-over, {_magnitude(found)}, along the text, the change points of the state "
        "(PELT on prewhitened series) and E_crit with its 95 % interval (inverted likelihood ratio). The law found is "
        f"{found['verdict'].item()}: {found.attrs['advice']}. No nulls drawn: {found.attrs['null']} give the law's p. "
        f"n = {len(jump)} documents of {carry.shape[1]} steps, with {jump.sum()} change points."
    )
    return plate


@printed
def threshold_curve(
    found: xarray.Dataset, width: str = "column", style: str = "paper", ax: Axes | None = None
) -> Figure:
    """Step length by |M| with the step, the smooth quadratic and the constant that were weighed (seed 1.4.1).

    Args:
        found: what `measures.find_jumps` gives.
        width: `column` or `page`.
        style: `paper` or `talk`.
        ax: panel of a figure of one's own to draw into; `width` then says nothing. That figure is returned, and the
            caption is the one of the figure drawn without.

    Raises:
        RequestError: there is no curve in it, or no such width or style.
    """
    _need(found, "curve")
    if ax is not None:
        _draw_curve(ax, found)
        ax.legend(handlelength=1.2, borderpad=0.2)
        return cast(Figure, ax.get_figure(root=True))
    plate, (ax,) = new_plate(1, 1, 1.7, width, style, words=0.5)
    _draw_curve(ax, found)
    place_legend(plate, ax)
    p = "; ".join(
        f"{str(name).replace('_', ' ')} {float(value):.3g}"
        for name, value in zip(found["test"].values, found["p"].values, strict=True)
    )
    plate.caption = (
        f"{_layer(found)}Log length of prewhitened steps (standard deviations) by {_magnitude(found)} before them, in "
        f"{found.sizes['bin']} bins of equal count, with 95 % intervals (document clusters). Band: 95 % interval of "
        f"E_crit. Lines are fitted to the bins, for the eye. The law found is {found['verdict'].item()}, p by test: "
        f"{p}. Null drawn: the constant; the p are from {found.attrs['null']}. n = {found.sizes['document']} "
        f"documents, {found.attrs['steps']} steps."
    )
    return plate


def _draw_curve(ax: Axes, found: xarray.Dataset) -> None:
    at, mean, critical = found["bin"].values, found["curve"].values, float(found["critical"])
    fine, above = np.linspace(at[0], at[-1], 200), at > critical
    ax.errorbar(
        at,
        mean,
        1.96 * found["curve_error"].values,
        fmt="o",
        color=DARK,
        markersize=points(2.5),
        linewidth=points(0.8),
        label="steps",
        gid="steps",
    )
    lines: list[tuple[str, np.ndarray, np.ndarray, str, Any, float]]
    lines = [("constant", fine, np.full(len(fine), mean.mean()), RULE, (0, (1, 1.5)), 0.7)]
    quadratic = np.polyval(np.polyfit(at, mean, 2), fine)
    lines.append(("smooth quadratic", fine, quadratic, RULE, (0, (4, 2)), 0.9))
    if above.any() and not above.all():
        x = np.array([at[0], critical, critical, at[-1]])
        levels = np.repeat([mean[~above].mean(), mean[above].mean()], 2)
        lines.append(("step", x, levels, WARM, "-", 1.1))
    for label, x, y, colour, dashes, size in lines:
        ax.plot(
            x,
            y,
            color=colour,
            linewidth=points(size),
            linestyle=dashes,
            label=label,
            gid=label.removeprefix("smooth "),
        )
    ends = float(found["critical_low"]), float(found["critical_high"])
    ax.axvspan(*ends, color=WARM, alpha=0.25, linewidth=0, zorder=0)
    ax.set_xlabel(_magnitude(found))
    ax.set_ylabel("log step length\n(standard deviations)")
    seaborn.despine(ax=ax)


def _layer(found: xarray.Dataset) -> str:
    return f"Layer {found.attrs['layer']}. " if "layer" in found.attrs else ""


def _magnitude(found: xarray.Dataset) -> str:
    return "|M| (share of energy RMS)" if found["carry"].attrs.get("units") == "1" else "|M| (own unit)"


def _need(found: xarray.Dataset, name: str) -> xarray.DataArray:
    if name not in found:
        raise RequestError(
            f"figure: no {name} in what was given; it holds {', '.join(map(str, found)) or 'nothing'}"
        )
    return found[name]
