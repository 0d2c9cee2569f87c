"""One reply's way: tension over its text, and its steps with the floating equilibrium in two principal directions."""

from collections.abc import Sequence

import numpy as np
import seaborn
import xarray
from matplotlib.axes import Axes

from infodyn_interp.errors import RequestError
from infodyn_interp.figures.example import show_piece, token_fonts
from infodyn_interp.figures.plates import (
    DARK,
    LABEL_SIZE,
    RULE,
    WARM,
    Plate,
    new_plate,
    place_legend,
    print_settings,
)

MOST_STEPS = {"column": 28, "page": 64}  # pieces of text that stand side by side


@print_settings()
def trajectory(
    seen: xarray.Dataset,
    x: xarray.DataArray | np.ndarray,
    pieces: Sequence[str],
    start: int = 0,
    width: str = "page",
) -> Plate:
    """Tension of one reply over its text, and x with xbar in the two directions that x varies most in.

    Args:
        seen: of one reply, as `track_equilibrium` gives it for `x`.
        x: embeddings `(step, direction)`.
        pieces: the text of each step.
        start: first step shown; as many as fit stand side by side.
        width: `column` or `page`.

    Raises:
        RequestError: more than one reply, a start outside it, other lengths, or no such width. Source: seed.
    """
    tension = seen["tension"]
    if tension.dims != ("step",):
        raise RequestError(
            f"a trajectory is of one reply; choose one of ({', '.join(map(str, tension.dims[:-1]))})"
        )
    steps = int(tension.notnull().sum())
    if not 0 <= start < steps or len(pieces) < steps:
        raise RequestError(
            f"start {start} and {len(pieces)} pieces of a reply of {steps} steps: they do not fit"
        )
    plate, (above, below) = new_plate(2, 1, 1.3, width, words=1.0, sharex=False, sharey=False)
    shown = np.arange(start, min(start + MOST_STEPS[width], steps))
    _draw_tension(above, tension.values[shown], [show_piece(pieces[step]) for step in shown.tolist()])
    points, centres = np.asarray(x)[:steps], seen["equilibrium"].values[:steps]
    middle = points.mean(0)
    _, size, directions = np.linalg.svd(points - middle, full_matrices=False)
    of_two = float((size[:2] ** 2).sum() / max((size**2).sum(), np.finfo(float).tiny))
    _draw_way(below, (points - middle) @ directions[:2].T, (centres - middle) @ directions[:2].T, shown)
    place_legend(plate, below)
    plate.caption = (
        f"Trajectory of one reply, steps {shown[0]} to {shown[-1]} of {steps}. Above: tension, the distance of each "
        "step's embedding x from the floating equilibrium point x̄ (no unit), over the text. The equilibrium is an "
        f"exponential moving average with α = {seen.attrs['alpha']:g}: half of a deviation is taken up in "
        f"{seen.attrs['half_life']:.2g} steps. The kinetic energy is half the squared tension: one degree of "
        "freedom, not drawn twice. Below: x (points, joined in order) and x̄ (line) in the two directions in which "
        f"the whole reply varies most, {of_two:.2g} of its variance (share). One reply, so no intervals; a tension "
        "that rises and falls is what smoothing makes of noise too: see the sweep over α."
    )
    return plate


def _draw_tension(ax: Axes, tension: np.ndarray, pieces: list[str]) -> None:
    place = np.arange(len(tension))
    ax.plot(place, tension, color=DARK, linewidth=1.1, marker="o", markersize=2.2, gid="tension")
    ax.set_xticks(place, pieces, rotation=90)
    for text in ax.get_xticklabels():
        text.set(fontfamily=list(token_fonts()), fontsize=6, parse_math=False)
    ax.set_xlim(-0.6, len(place) - 0.4)
    ax.set_ylim(0, None)
    ax.set_ylabel("tension (no unit)")
    ax.grid(axis="x", color=".92", linewidth=0.4)
    ax.tick_params("x", length=0)
    seaborn.despine(ax=ax)


def _draw_way(ax: Axes, points: np.ndarray, centres: np.ndarray, shown: np.ndarray) -> None:
    ax.plot(*points[shown].T, color=DARK, linewidth=0.4, alpha=0.5, zorder=1)
    ax.scatter(
        points[shown, 0], points[shown, 1], s=7, color=DARK, linewidths=0, label="x, a step each", gid="x"
    )
    ax.plot(
        *centres[shown].T, color=WARM, linewidth=1.4, zorder=3, label="x̄, floating equilibrium", gid="xbar"
    )
    x, y = centres[shown[-1]]
    ax.scatter(x, y, s=16, color=WARM, edgecolor="black", linewidths=0.5, zorder=4, label="its last")
    ax.axhline(0, color=RULE, linewidth=0.3, zorder=0)
    ax.axvline(0, color=RULE, linewidth=0.3, zorder=0)
    ax.set_aspect("equal", "datalim")
    ax.set_xlabel("first principal direction (no unit)", fontsize=LABEL_SIZE)
    ax.set_ylabel("second (no unit)", fontsize=LABEL_SIZE)
    seaborn.despine(ax=ax)
