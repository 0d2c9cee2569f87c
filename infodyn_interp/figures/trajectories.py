"""One reply's way: tension over its text, and its steps with the floating equilibrium in two principal directions."""

from textwrap import shorten

import numpy as np
import seaborn
import xarray
from matplotlib.axes import Axes

from infodyn_interp.errors import RequestError
from infodyn_interp.figures.example import show_piece, token_fonts
from infodyn_interp.figures.plates import (
    DARK,
    RULE,
    WARM,
    Plate,
    area,
    inches,
    new_plate,
    place_legend,
    points,
    printed,
)

NEEDED = ("tension", "text", "x_plane", "equilibrium_plane", "plane_share")
LINE = 8.4 / 72  # inches from one piece of text to the next


@printed
def trajectory(seen: xarray.Dataset, start: int = 0, width: str = "page", style: str = "paper") -> Plate:
    """Tension of one reply over its text, and x with xbar in the two directions that embeddings vary most in.

    Args:
        seen: one reply of the group `output`: `tension`, `text`, `x_plane`, `equilibrium_plane` and `plane_share`; or
            what `track_equilibrium` gives, merged with `lay_in_plane` and a `text` by step.
        start: first step shown; as many as fit stand side by side.
        width: `column` or `page`.
        style: `paper` or `talk`.

    Raises:
        RequestError: more than one reply, a variable missing, a start outside it, or no such width or style.
            Source: seed.
    """
    if missing := [name for name in NEEDED if name not in seen]:
        raise RequestError(f"a trajectory needs {', '.join(missing)}; give a reply of the group output")
    tension = seen["tension"]
    if tension.dims != ("step",):
        raise RequestError(
            f"a trajectory is of one reply; choose one of ({', '.join(map(str, tension.dims[:-1]))})"
        )
    steps = int(tension.notnull().sum())
    if not 0 <= start < steps:
        raise RequestError(f"start {start} of a reply of {steps} steps: it does not fit")
    plate, (above, below) = new_plate(2, 1, 1.3, width, style, words=1.0, sharex=False, sharey=False)
    most = int((inches(width, style) - points(0.48)) / points(LINE))
    shown = np.arange(start, min(start + most, steps))
    pieces = [show_piece(str(piece)) for piece in seen["text"].values[shown]]
    _draw_tension(above, tension.values[shown], pieces)
    _draw_way(below, seen["x_plane"].values, seen["equilibrium_plane"].values, shown)
    place_legend(plate, below)
    plate.draw_without_rendering()  # equal scales widen the limits, whose words the layout must make room for
    plate.caption = (
        f"Trajectory of one reply{_whose(seen)}: steps {shown[0] + 1} to {shown[-1] + 1} of {steps}. Above: tension, "
        "the distance of each step's embedding x from the floating equilibrium point x̄ (no unit), over the text; it "
        "begins at 0, where x̄ begins at x. The equilibrium is an exponential moving average with "
        f"α = {seen.attrs['alpha']:g}: half of a deviation is taken up in {seen.attrs['half_life']:.2g} steps. The "
        "kinetic energy is half the squared tension: one degree of "
        "freedom, not drawn twice. Below: x (points, joined in order) and x̄ (line) in the two directions in which "
        f"embeddings vary most, {float(seen['plane_share'].sum()):.2g} of their variance (share). n = 1 reply, so no "
        "intervals, and no nulls drawn: a tension that rises and falls is what smoothing makes of noise too: see "
        "the sweep over α."
    )
    return plate


def _whose(seen: xarray.Dataset) -> str:
    """Which prompt it answers, and at what temperature, where that is known."""
    prompt = (
        f" to “{shorten(str(seen['prompt_text'].values), 60, placeholder=' …')}”"
        if "prompt_text" in seen.coords
        else ""
    )
    return prompt + (
        f" at temperature {float(seen['temperature']):g}" if "temperature" in seen.coords else ""
    )


def _draw_tension(ax: Axes, tension: np.ndarray, pieces: list[str]) -> None:
    place = np.arange(len(tension))
    ax.plot(
        place, tension, color=DARK, linewidth=points(1.1), marker="o", markersize=points(2.2), gid="tension"
    )
    ax.set_xticks(place, pieces, rotation=90)
    for text in ax.get_xticklabels():
        text.set(fontfamily=list(token_fonts()), parse_math=False)
    ax.set_xlim(-0.6, len(place) - 0.4)
    ax.set_ylim(0, None)
    ax.set_ylabel("tension (no unit)")
    ax.grid(axis="x", color=".92", linewidth=points(0.4))
    ax.tick_params("x", length=0)
    seaborn.despine(ax=ax)


def _draw_way(ax: Axes, states: np.ndarray, centres: np.ndarray, shown: np.ndarray) -> None:
    ax.plot(*states[shown].T, color=DARK, linewidth=points(0.4), alpha=0.5, zorder=1)
    ax.scatter(
        states[shown, 0],
        states[shown, 1],
        s=area(7),
        color=DARK,
        linewidths=0,
        label="x, a step each",
        gid="x",
    )
    ax.plot(
        *centres[shown].T,
        color=WARM,
        linewidth=points(1.4),
        zorder=3,
        label="x̄, floating equilibrium",
        gid="xbar",
    )
    x, y = centres[shown[-1]]
    ax.scatter(
        x, y, s=area(16), color=WARM, edgecolor="black", linewidths=points(0.5), zorder=4, label="its last"
    )
    ax.axhline(0, color=RULE, linewidth=points(0.3), zorder=0)
    ax.axvline(0, color=RULE, linewidth=points(0.3), zorder=0)
    ax.set_aspect("equal", "datalim")
    ax.set_xlabel("first principal direction (no unit)")
    ax.set_ylabel("second (no unit)")
    seaborn.despine(ax=ax)
