"""The coupling map: which internal series of which layers show in which proxies, with a mark a verdict."""

import numpy as np
import seaborn
import xarray
from matplotlib.colors import TwoSlopeNorm
from matplotlib.legend_handler import HandlerTuple
from matplotlib.lines import Line2D

from infodyn_interp.errors import RequestError
from infodyn_interp.figures.maps import cell_lines
from infodyn_interp.figures.plates import MISSING, Plate, area, name_ticks, new_panels, points, printed

SHADES = seaborn.color_palette("vlag", as_cmap=True)
# A visible coupling says its sign by its shape: the colours of + and - are as dark as each other.
SIGNS = {"VISIBLE": ("^", "v"), "ALSO_UNTRAINED": ("x", "x"), "ONLY_THROUGH_SURPRISAL": ("_", "_")}
LEAST_SCALE = 0.05  # |r| at the ends of the colours, where none is larger


@printed
def coupling_map(coupled: xarray.Dataset, width: str = "column", style: str = "paper") -> Plate:
    """r of every internal series with every proxy, layers x proxies, on one scale with a mark a verdict (no unit).

    Args:
        coupled: as `observe.couple` gives it.
        width: `column` or `page`.
        style: `paper` or `talk`.

    Raises:
        RequestError: no verdicts, or no such width or style. Source: seed, observation.
    """
    if "verdict" not in coupled:
        raise RequestError("the table has no verdicts: draw what `couple` gives")
    series = [str(name) for name in coupled["series"].values] if "series" in coupled.coords else []
    series = series or [str(k) for k in range(coupled.sizes["series"])]
    layers, proxies = (
        coupled[dim].values if dim in coupled.coords else np.arange(coupled.sizes[dim])
        for dim in ("layer", "proxy")
    )
    plate, axes = new_panels(len(series), 3, 0.2 * len(proxies), width, style, words=0.85)
    top = max(float(np.nanmax(np.abs(coupled["r"].values), initial=0)), LEAST_SCALE)
    for place, (ax, name) in enumerate(zip(axes, series, strict=True)):
        one = coupled.isel(series=place).transpose("proxy", "layer", ...)
        r, verdict = one["r"].values, one["verdict"].values
        ax.patch.set(**MISSING)
        mesh = ax.pcolormesh(
            np.ma.masked_invalid(r),
            cmap=SHADES,
            norm=TwoSlopeNorm(0, -top, top),
            edgecolors=cell_lines(r),
            linewidth=points(0.2),
            gid="r",
        )
        for word, signs in SIGNS.items():
            for sign, side in zip(signs, (r >= 0, r < 0), strict=True):
                row, column = np.nonzero((verdict == word) & side)
                dots = ax.scatter(column + 0.5, row + 0.5, s=area(9), marker=sign, color="black", gid=word)
                dots.set_linewidth(points(0.8 if sign in "x_" else 0))
        name_ticks(ax.xaxis, "layer", layers.tolist(), 0.5)
        name_ticks(ax.yaxis, "", [str(proxy).replace("_", " ") for proxy in proxies], 0.5)
        ax.set_title(name.replace("_", " "))
    bar = plate.colorbar(
        mesh,
        ax=axes,
        ticks=[-top, 0, top],
        format=lambda tick, _: f"{tick:.2g}".replace("-", "−"),
        pad=0.02,
        aspect=25,
    )
    bar.set_label("r (no unit)")
    plate.legend(
        handles=[
            tuple(
                Line2D([], [], linestyle="", marker=sign, color="black", markersize=points(3.5))
                for sign in dict.fromkeys(signs)
            )
            for signs in SIGNS.values()
        ],
        labels=list(SIGNS),
        handler_map={tuple: HandlerTuple(ndivide=None)},
        loc="outside upper left",
        ncols=3 if width == "page" else 2,
        handlelength=1,
        columnspacing=1,
        borderpad=0.2,
    )
    words = coupled["verdict"].values.ravel().tolist()
    counts = ", ".join(f"{words.count(word)} {word}" for word in (*SIGNS, "NOT_VISIBLE"))
    unseen = coupled["limit"].values[coupled["verdict"].values == "NOT_VISIBLE"]
    known = unseen[np.isfinite(unseen)]
    would = (
        f" Not visible: a coupling of |r| = {np.median(known):.2g} would have been seen in half the cases."
        if known.size
        else " Not visible: no coupling of any size could have been seen in so few replies."
        * bool(unseen.size)
    )
    of = coupled.attrs
    plate.caption = (
        "Coupling of each internal series with each proxy by layer: correlation r at the lag (of -5 to 5 steps) where "
        "it is largest, prompts' means, own past and nuisances taken out (no unit). Triangle: VISIBLE beyond surprisal "
        "and entropy, pointing up where r is positive; dash: ONLY_THROUGH_SURPRISAL; cross: ALSO_UNTRAINED, an "
        "untrained twin shows it too; unmarked: NOT_VISIBLE; hatched: the series does not vary. Tension and kinetic "
        f"energy are one degree of freedom. Verdicts at one false discovery rate of {of['discovery']:g} over the map, "
        f"{of['shuffles']} shuffles of trials within prompts. Cells: {counts}.{would} {of['caveat']} Nulls: these "
        f"shuffles and an untrained twin where there is one; no intervals drawn. n = {of['trials']} replies to "
        f"{of['prompts']} prompts, {of['steps']} steps."
    )
    return plate
