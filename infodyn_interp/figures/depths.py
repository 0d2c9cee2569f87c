"""What layers say, keep and do to the stream, by depth, beside the nulls."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import seaborn
import xarray
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from infodyn_interp.figures.plates import (
    DARK,
    PALE,
    RULE,
    TYPE,
    WARM,
    Plate,
    name_ticks,
    new_panels,
    place_legend,
    points,
    printed,
)
from infodyn_interp.figures.selection import find_group, name_windows

# Colour, dashes and width: they differ in lightness or in dashes, so that grey print keeps them apart.
LINES: dict[str, tuple[str, Any, float]] = {
    "trained": (DARK, "-", 1.2),
    "untrained": (WARM, "-", 1.0),
    "permuted_weights": (WARM, (0, (2, 1.2)), 1.0),
    "shuffled_tokens": (RULE, (0, (1, 1)), 1.0),
}
CURVES = {
    "ffn_linear": "FFN: linear share",
    "ffn_angle": "FFN: angle (degrees)",
    "ffn_size": "FFN update / stream",
    "update_size": "block update / stream",
    "cosine": "cosine of adjacent layers",
    "growth": "log norm growth (nats)",
    "embedding": "embedding (share)",
    "lipschitz": "Lipschitz constant",
    "inversion_error": "inversion error (log10)",
    "gradient": "gradient (log10)",
    "gradient_without_skip": "without skip (log10)",
}
LOGARITHMIC = ("ffn_size", "update_size", "lipschitz")
INTERVAL = "Band: 95 % interval of the model (jackknife over documents); the nulls are drawn without theirs."


@printed
def fidelity(result: xarray.DataTree, width: str = "column", style: str = "paper") -> Plate:
    """KL from the output to what each layer says, by logit and by affine lens (nats), beside unigram and nulls.

    Raises RequestError for a width, style or group `fidelity` that is not there. Source: seed 1.3.
    """
    data = find_group(result, "fidelity", "kl")
    lenses = [str(lens) for lens in data["lens"].values]
    plate, axes = new_panels(len(lenses), 2, 1.3, width, style, in_column=2, words=0.5)
    for ax, lens in zip(axes, lenses, strict=True):
        _draw(ax, data, "kl", lens=lens)
        level = float(data["kl_unigram"].sel(null="trained"))
        ax.axhline(
            level, color=RULE, linewidth=points(0.7), linestyle=(0, (5, 2)), label="unigram", gid="unigram"
        )
        ax.set_title(f"{lens} lens")
        ax.set_yscale("symlog", linthresh=0.1)
        ax.set_ylim(0, None)
        ax.yaxis.set_major_formatter("{x:g}")
    axes[0].set_ylabel("KL from the output (nats)")
    plate.supxlabel("layer")
    place_legend(plate, axes[0])
    said = (f"{lens} {_at(data, 'kl', 0, lens=lens)} to {_at(data, 'kl', -1, lens=lens)}" for lens in lenses)
    plate.caption = _caption(
        result,
        data,
        "KL from the model's output to what the stream that leaves a layer says, read by the model's own end (logit "
        "lens) or first mapped to the last stream by a ridge fit on other documents (affine lens), at 16 fixed "
        "positions of each window (nats; linear to 0.1, logarithmic beyond). Each null against its own output. Dashes: "
        "the model's mean output over other documents.",
        f"First to last layer: {'; '.join(said)}.",
    )
    return plate


@printed
def exponents(result: xarray.DataTree, width: str = "column", style: str = "paper") -> Plate:
    """Log growth of nearby states of one token in each block, of distances and of angles (nats), beside the nulls.

    Raises RequestError for a width, style or group `stability` that is not there. Source: seed 1.3.
    """
    data = find_group(result, "stability", "rate").isel(vector=0)
    kinds = [str(kind) for kind in data["geometry"].values]
    plate, axes = new_panels(len(kinds), 2, 1.3, width, style, in_column=2, words=0.5)
    for ax, kind in zip(axes, kinds, strict=True):
        ax.axhline(0, color=RULE, linewidth=points(0.6), zorder=1)
        _draw(ax, data, "rate", geometry=kind)
        ax.set_title({"raw": "distances", "angular": "angles"}.get(kind, kind))
        ax.set_yscale("symlog", linthresh=0.2)
        ax.yaxis.set_major_formatter("{x:g}")
    axes[0].set_ylabel("log growth (nats)")
    plate.supxlabel("layer")
    place_legend(plate, axes[0])
    means = (f"{kind} {float(data['exponent'].sel(null='trained', geometry=kind)):.3g}" for kind in kinds)
    plate.caption = _caption(
        result,
        data,
        "Log growth in each block of the first direction of a frame kept orthogonal by QR, from Jacobian-vector "
        "products at one token of each document (nats; linear to 0.2, logarithmic beyond). Growth of distances is "
        "mostly growth of the stream's norm; that of angles leaves it out.",
        f"Exponents (nats per layer): {', '.join(means)}.",
    )
    return plate


@printed
def map_curves(result: xarray.DataTree, width: str = "column", style: str = "paper") -> Plate:
    """What FFN and block do to the stream, by layer: the model beside its nulls.

    Raises RequestError for a width, style or group `maps` that is not there. Source: seed 1.5, 1.6.
    """
    data = find_group(result, "maps", "growth")
    names = [name for name in CURVES if name in data]
    plate, axes = new_panels(len(names), 4, 0.75, width, style, in_column=2, words=0.75, sharey=False)
    for ax, name in zip(axes, names, strict=True):
        _draw(ax, data, name)
        ax.set_title(CURVES[name], fontsize=points(TYPE))
        low, high = ax.dataLim.intervaly
        if (
            name in LOGARITHMIC and high > 10 * low > 0
        ):  # within a decade too few ticks of a logarithm have names
            ax.set_yscale("log")
            ax.yaxis.set_major_locator(LogLocator(subs=(1, 3) if high < 100 * low else (1,), numticks=4))
            ax.yaxis.set_major_formatter("{x:g}")
            ax.yaxis.set_minor_formatter(NullFormatter())
    plate.supxlabel("layer")
    place_legend(plate, axes[0])
    plate.caption = _caption(
        result,
        data,
        "By layer: share of the FFN's update that a linear map of its input explains, and of the embedding that one of "
        "the stream does (fitted on other documents, judged on these); mean principal angle between the eight leading "
        "directions that the FFN reads and writes; norms of updates over the stream's; cosine and log growth of the "
        "norm across the block; gradient of the loss over that at the last layer, and what passes back through the "
        "updates alone; Lipschitz constant of the update at the state (below 1 the block can be undone) and relative "
        "error of the state found back by fixed-point steps.",
    )
    return plate


@printed
def transfer(result: xarray.DataTree, width: str = "column", style: str = "paper") -> Plate:
    """Share of the key energies of one layer that the prosody fields of another explain, of the model and a null.

    Raises RequestError for a width, style or group `maps` that is not there. Source: seed 1.6.1.
    """
    data = find_group(result, "maps", "transfer")
    nulls = [str(null) for null in data["null"].values]
    plate, axes = new_panels(min(len(nulls), 4), 4, 1.35, width, style, in_column=2, words=0.5)
    layers = data["layer"].values.tolist()
    shown = data["transfer"].transpose("null", "layer", "target").values
    top = max(float(np.nanmax(shown, initial=0)), 1e-3)
    for ax, null, values in zip(axes, nulls, shown, strict=False):
        image = ax.imshow(
            values, cmap="Blues", vmin=0, vmax=top, origin="lower", aspect="auto", gid="transfer"
        )
        ax.set_title(null.replace("_", " "))
        name_ticks(ax.xaxis, "energies of layer", layers, 0)
        name_ticks(ax.yaxis, "fields of layer", layers, 0)
    bar = plate.colorbar(image, ax=axes, label="share explained, held out", fraction=0.05)
    bar.set_ticks([tick for tick in MaxNLocator(4).tick_values(0, top) if tick <= top])
    away = ~np.eye(len(layers), dtype=bool)
    said = (
        f"{null} {np.nanmedian(values[~away]):.2g} at its own layer, {np.nanmedian(values[away]):.2g} elsewhere"
        for null, values in zip(nulls, shown, strict=True)
    )
    plate.caption = _caption(
        result,
        data,
        "Held-out share of the energy that keys of one layer get (mean over their queries, row-centred, surface zero, "
        "position taken out) which the prosody fields of another explain. Fields are linear in what that layer's "
        "attention receives and fitted on other documents; a layer's heads are told in the heads of the other. Below 0 "
        "is drawn as 0.",
        f"Medians: {'; '.join(said)}.",
        interval="Point values, no intervals.",
    )
    return plate


def _draw(ax: Axes, data: xarray.Dataset, name: str, **at: Any) -> None:
    layers = data["layer"].values
    for null in map(str, data["null"].values):
        middle, low, high = (
            data[f"{name}{end}"].sel(null=null, **at).transpose("layer").values
            for end in ("", "_low", "_high")
        )
        colour, dashes, size = LINES[null]
        if null == "trained":
            ax.fill_between(layers, low, high, color=PALE, linewidth=0, gid="interval")
        ax.plot(
            layers,
            middle,
            color=colour,
            linestyle=dashes,
            linewidth=points(size),
            label=null.replace("_", " "),
            gid=null,
            zorder=3 if null == "trained" else 2,
        )
    ax.set_xlim(layers[0] - 0.3, layers[-1] + 0.3)
    ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    seaborn.despine(ax=ax)


def _at(data: xarray.Dataset, name: str, layer: int, **at: Any) -> str:
    low, middle, high = (
        float(data[f"{name}{end}"].sel(null="trained", **at).isel(layer=layer))
        for end in ("_low", "", "_high")
    )
    return f"{middle:.2g} [{low:.2g}, {high:.2g}]"


def _caption(result: xarray.DataTree, data: xarray.Dataset, *sentences: str, interval: str = INTERVAL) -> str:
    of, nulls = result.attrs, [str(null) for null in data["null"].values[1:]]
    drawn = f"Nulls drawn: {', '.join(nulls).replace('_', ' ')}." if nulls else "No nulls drawn."
    return " ".join(
        [
            *sentences,
            interval,
            f"Model {of.get('model', 'not named')}; n = {of.get('documents', '?')} documents, {name_windows(of)}; "
            f"layers {data['layer'].values[0]} to {data['layer'].values[-1]}.",
            drawn,
            *_verdicts(data, nulls),
        ]
    )


def _verdicts(data: xarray.Dataset, nulls: Sequence[str]) -> list[str]:
    """What looks the same as each null, in words."""
    if "verdict" not in data:
        return ["No nulls were asked for."]
    out = []
    for null in nulls:
        said = data["verdict"].sel(null=null)
        same = [
            str(name)
            for name in said["quantity"].values
            if str(said.sel(quantity=name).values).startswith("LOOKS")
        ]
        out.append(f"Looks the same as {null.replace('_', ' ')}: {', '.join(same) if same else 'nothing'}.")
    return out
