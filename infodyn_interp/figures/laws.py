"""What the measures of a trajectory find: ranks of its action, its jumps along the text, and the law of their size."""

import numpy as np
import seaborn
import xarray

from infodyn_interp.errors import RequestError
from infodyn_interp.figures.plates import (
    DARK,
    LABEL_SIZE,
    PALE,
    RULE,
    WARM,
    Plate,
    new_panels,
    new_plate,
    place_legend,
    print_settings,
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


@print_settings()
def action_ranks(found: xarray.Dataset, width: str = "column") -> Plate:
    """Rank of the realised path's action among the paths it might have taken, a panel a kind (seed 1.3.1).

    Args:
        found: what `measures.helpful` gives.
        width: `column` or `page`.

    Raises:
        RequestError: there are no ranks in it, or no such width.
    """
    rank = _need(found, "rank")
    kinds = [str(kind) for kind in found["kind"].values]
    plate, axes = new_panels(len(kinds), 3, 0.55, width)
    even = rank.sizes["document"] / RANKS
    for ax, kind in zip(axes, kinds, strict=True):
        ax.hist(
            rank.sel(kind=kind),
            np.linspace(0, 1, RANKS + 1).tolist(),
            color=PALE,
            edgecolor="white",
            gid="ranks",
        )
        ax.axhline(even, color=RULE, linewidth=0.7, linestyle=(0, (4, 2)), gid="chance")
        ax.axvline(float(found["mean_rank"].sel(kind=kind)), color=DARK, linewidth=1.1, gid="mean")
        ax.set_title(TURNS.get(kind, kind))
        seaborn.despine(ax=ax)
    axes[0].set_xlim(0, 1)
    plate.supxlabel("share of paths with less action (0: the least)", fontsize=LABEL_SIZE)
    plate.supylabel("documents", fontsize=LABEL_SIZE)
    means = ", ".join(
        f"{TURNS.get(kind, kind)} {float(found['mean_rank'].sel(kind=kind)):.2f} "
        f"[{float(found['mean_rank_low'].sel(kind=kind)):.2f}, {float(found['mean_rank_high'].sel(kind=kind)):.2f}]"
        for kind in kinds
    )
    plate.caption = (
        f"{_layer(found)}Rank of the realised path's action among {found.attrs['paths']} others: "
        f"{found.attrs['among']}. Dashed: what chance gives; line: mean. Cannot discriminate: "
        f"{found.attrs['cannot_discriminate']}. n = {rank.sizes['document']} documents. "
        f"Mean rank with 95 % interval over documents: {means}."
    )
    return plate


@print_settings()
def jump_raster(found: xarray.Dataset, documents: list[int] | None = None, width: str = "column") -> Plate:
    """|M_t| along the text with E_crit and the change points of the state, a panel a document (seed 1.4).

    Args:
        found: what `measures.find_jumps` gives.
        documents: places of the documents to draw; the first four by default.
        width: `column` or `page`.

    Raises:
        RequestError: there are no jumps in it, no such document, or no such width.
    """
    jump, carry = _need(found, "jump").values, _need(found, "carry").values
    chosen = list(range(min(DOCUMENTS, len(jump)))) if documents is None else documents
    for one in chosen:
        if not 0 <= one < len(jump):
            raise RequestError(f"document: {one} asked, there are 0 to {len(jump) - 1}")
    plate, axes = new_plate(len(chosen), 1, 0.5, width, words=0.7)
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
            float(found["critical"]), color=WARM, linewidth=1, label="E_crit, 95 % interval", gid="critical"
        )
        ax.plot(steps, carry[one], color=DARK, linewidth=0.7, label="|M|", gid="carry")
        at = steps[jump[one]]
        ax.plot(
            at, np.full(len(at), 1.0), "v", color=RULE, markersize=3.5, transform=ax.get_xaxis_transform(),
            clip_on=False, label="change point of the state", gid="jump",
        )  # fmt: skip
        ax.set_title(f"document {one}", pad=6)
        seaborn.despine(ax=ax)
    axes[0].set_xlim(0, carry.shape[1])
    place_legend(plate, axes[0])
    plate.supxlabel("position (tokens)", fontsize=LABEL_SIZE)
    plate.supylabel("|M|", fontsize=LABEL_SIZE)
    plate.caption = (
        f"{_layer(found)}Size of the carry-over along the text, the change points of the state (PELT on prewhitened "
        f"series) and E_crit with its 95 % interval (inverted likelihood ratio). The law found is "
        f"{found['verdict'].item()}: {found.attrs['advice']}. {jump.sum()} change points in {len(jump)} documents."
    )
    return plate


@print_settings()
def threshold_curve(found: xarray.Dataset, width: str = "column") -> Plate:
    """Step length by |M| with the step, the smooth quadratic and the constant that were weighed (seed 1.4.1).

    Args:
        found: what `measures.find_jumps` gives.
        width: `column` or `page`.

    Raises:
        RequestError: there is no curve in it, or no such width.
    """
    curve, error = _need(found, "curve"), found["curve_error"].values
    at, mean, critical = curve["bin"].values, curve.values, float(found["critical"])
    plate, (ax,) = new_plate(1, 1, 1.7, width, words=0.5)
    ax.errorbar(
        at, mean, 1.96 * error, fmt="o", color=DARK, markersize=2.5, linewidth=0.8, label="steps", gid="steps"
    )
    ax.axhline(
        mean.mean(), color=RULE, linewidth=0.7, linestyle=(0, (1, 1.5)), label="constant", gid="constant"
    )
    fine = np.linspace(at[0], at[-1], 200)
    ax.plot(
        fine, np.polyval(np.polyfit(at, mean, 2), fine), color=RULE, linewidth=0.9, linestyle=(0, (4, 2)),
        label="smooth quadratic", gid="quadratic",
    )  # fmt: skip
    above = at > critical
    if above.any() and not above.all():
        levels = mean[~above].mean(), mean[above].mean()
        ax.plot(
            [at[0], critical, critical, at[-1]], np.repeat(levels, 2), color=WARM, linewidth=1.1, label="step",
            gid="step",
        )  # fmt: skip
    ax.axvspan(
        float(found["critical_low"]),
        float(found["critical_high"]),
        color=WARM,
        alpha=0.25,
        linewidth=0,
        zorder=0,
    )
    ax.set_xlabel("|M|")
    ax.set_ylabel("log step length\n(deviations)")
    seaborn.despine(ax=ax)
    place_legend(plate, ax)
    p = "; ".join(
        f"{str(name).replace('_', ' ')} {float(value):.3g}"
        for name, value in zip(found["test"].values, found["p"].values, strict=True)
    )
    plate.caption = (
        f"{_layer(found)}Log length of prewhitened steps by |M| before them, in {len(at)} bins of equal count, with "
        f"95 % intervals (document clusters). Band: 95 % interval of E_crit. Lines are fitted to the bins, "
        f"for the eye. The law found is {found['verdict'].item()}, p by test: {p}. Null: "
        f"{found.attrs['null']}. n = {found.attrs['steps']} steps."
    )
    return plate


def _layer(found: xarray.Dataset) -> str:
    return f"Layer {found.attrs['layer']}. " if "layer" in found.attrs else ""


def _need(found: xarray.Dataset, name: str) -> xarray.DataArray:
    if name not in found:
        raise RequestError(
            f"figure: no {name} in what was given; it holds {', '.join(map(str, found)) or 'nothing'}"
        )
    return found[name]
