"""Maps: the energy map (layers x heads) and the track's grid (kernel width x decay)."""

from dataclasses import dataclass

import numpy as np
import seaborn
import xarray
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, LogNorm, Normalize, PowerNorm
from matplotlib.ticker import NullLocator

from infodyn_interp.figures.plates import DARK, MISSING, Plate, area, name_ticks, new_panels, points, printed
from infodyn_interp.figures.selection import (
    ROWS,
    Chosen,
    choose_heads,
    find_group,
    name_missing,
    write_caption,
)
from infodyn_interp.results import Heads

SHADES = seaborn.color_palette("mako_r", as_cmap=True)
FAINT, WHOLE = (
    1e-4,
    1.0,
)  # ends of the energy map's scale: the smallest share told apart, and all of the variance
TERMS = {term: ROWS[term] for term in ("rhythm", "state", "track")}


@dataclass(frozen=True)
class Lattice:
    """Layers x heads: which of them a map shows, and where each drawn head lies."""

    layers: list[int]
    heads: list[int]
    row: np.ndarray
    column: np.ndarray

    @classmethod
    def of(cls, chosen: Chosen, data: xarray.Dataset) -> "Lattice":
        """The layers and heads that occur among those chosen."""
        columns, column = np.unique(chosen.layer, return_inverse=True)
        rows, row = np.unique(chosen.head, return_inverse=True)
        return cls(data["layer"].values[columns].tolist(), data["head"].values[rows].tolist(), row, column)

    @property
    def height(self) -> float:
        """Of a panel, in inches."""
        return float(np.clip(0.09 * len(self.heads), 0.6, 1.5))

    def fill(self, values: np.ndarray) -> np.ndarray:
        """Values of the drawn heads where they lie, [head, layer]; NaN elsewhere."""
        cells = np.full((len(self.heads), len(self.layers)), np.nan)
        cells[self.row, self.column] = values
        return cells

    def finish(self, ax: Axes) -> None:
        """Name layers and heads, and blank what was not asked for: it is not hatched as if not estimable."""
        name_ticks(ax.xaxis, "layer", self.layers, 0.5)
        name_ticks(ax.yaxis, "head", self.heads, 0.5)
        asked = np.isfinite(self.fill(np.ones(len(self.row))))
        if not asked.all():
            blank = np.ma.masked_where(asked, asked)
            ax.pcolormesh(blank, cmap=ListedColormap(["white"]), edgecolors="white", gid="not asked for")


def cell_lines(cells: np.ndarray) -> str:
    """Lines between the cells of a crowded map would cover them; without any, viewers show hairlines."""
    return "white" if cells.shape[0] <= 16 and cells.shape[1] <= 36 else "face"


@printed
def energy_map(
    result: xarray.DataTree, heads: Heads = None, width: str = "column", style: str = "paper"
) -> Plate:
    """Share of each term in every head's row-centred energy variance, layers x heads on one colour scale.

    Raises RequestError for a head, width, style or group `terms` that is not there. Source: seed 1.2.
    """
    data = find_group(result, "terms")
    chosen = choose_heads(data, heads)
    lattice = Lattice.of(chosen, data)
    shares = {title: chosen.pick(data["share"].sel(term=term)) for term, title in TERMS.items()}
    cells = {title: lattice.fill(share) for title, share in shares.items()}
    plate, axes = new_panels(len(cells), 3, lattice.height, width, style)
    ticks = [FAINT, 1e-3, 1e-2, 1e-1, WHOLE]
    draw_maps(plate, axes, cells, "share of\nenergy variance", LogNorm(FAINT, WHOLE, clip=True), ticks)
    for ax in axes:
        lattice.finish(ax)
    plate.caption = write_caption(
        result,
        chosen,
        "Share of each fitted term (the track's within keys) in the row-centred energy variance of every "
        f"head (share, no unit; the colour scale is logarithmic and ends at {FAINT:g} and {WHOLE:g}: a term and the "
        "nuisance can explain against each other, and then both exceed the whole). No intervals: these are point "
        "values.",
        name_missing(chosen, shares),
    )
    return plate


@printed
def track_grid(
    result: xarray.DataTree, heads: Heads = None, width: str = "column", style: str = "paper"
) -> Plate:
    """Held-out gain of the inference track (share of energy variance) by kernel width and decay (tokens).

    Mean over the heads of a layer, or each of the named heads. Raises RequestError as `energy_map`.
    Source: seed 1.2.2.
    """
    data = find_group(result, "terms")
    chosen = choose_heads(data, heads)
    each = chosen.pick(data["track_gain"].transpose(..., "width", "tau"))
    mean, usual = chosen.by_slot(each, np.ma.mean), _usual_choice(chosen, data)
    cells = {f"kernel width w = {w:g}": mean[:, k].T for k, w in enumerate(data["width"].values)}
    plate, axes = new_panels(len(cells), 3, 0.17 * data.sizes["tau"], width, style)
    top, ticks = _square_root_scale(cells)
    draw_maps(plate, axes, cells, "held-out gain\n(share)", PowerNorm(0.5, 0, top, clip=True), ticks)
    for k, (ax, panel) in enumerate(zip(axes, cells.values(), strict=True)):
        row, column = np.nonzero(panel <= 0)
        ax.scatter(
            column + 0.5, row + 0.5, marker="_", s=area(8), color=DARK, linewidths=points(0.6), gid="no gain"
        )
        here = np.flatnonzero(usual[:, 0] == k)
        dots = ax.scatter(here + 0.5, usual[here, 1] + 0.5, s=area(7), color="white", gid="usual choice")
        dots.set(edgecolor="black", linewidth=points(0.5))
        name_ticks(ax.xaxis, chosen.axis, chosen.slots, 0.5)
        name_ticks(ax.yaxis, "τ (tokens)", [f"{tau:g}" for tau in data["tau"].values], 0.5)
    plate.caption = write_caption(
        result,
        chosen,
        "Held-out gain of the inference track over kernel width w (no unit) and decay τ (tokens), "
        f"{'mean over the heads of a layer' if heads is None else 'by head'} (share of held-out row-centred "
        "energy variance; the colour scale is a square root). No intervals here. Dash: no gain. Dot: the "
        "(w, τ) that the fits chose for the most heads of the column.",
        name_missing(chosen, {"inference track": each}),
    )
    return plate


def draw_maps(
    plate: Plate,
    axes: list[Axes],
    cells: dict[str, np.ndarray],
    label: str,
    norm: Normalize,
    ticks: list[float],
) -> None:
    """One map a panel on one colour scale; what is not estimable lets the hatched ground through."""
    for ax, (title, panel) in zip(axes, cells.items(), strict=True):
        ax.patch.set(**MISSING)
        mesh = ax.pcolormesh(
            np.ma.masked_invalid(panel),
            cmap=SHADES,
            norm=norm,
            edgecolors=cell_lines(panel),
            linewidth=points(0.2),
            gid="map",
        )
        ax.set_title(title)
    bar = plate.colorbar(mesh, ax=axes, ticks=ticks, format=lambda tick, _: f"{tick:g}", pad=0.02, aspect=25)
    bar.ax.yaxis.set_minor_locator(NullLocator())
    bar.set_label(label)


def _square_root_scale(cells: dict[str, np.ndarray]) -> tuple[float, list[float]]:
    """Upper end and ticks of a scale that begins at 0 and spreads its small values."""
    known = np.concatenate([panel[np.isfinite(panel)] for panel in cells.values()])
    top = max(float(known.max(initial=0)), 1e-4)
    ticks = [0.0]
    for tick in (step * 10.0**power for power in range(-6, 1) for step in (1, 2, 5)):
        if tick <= top and np.sqrt(tick) - np.sqrt(ticks[-1]) >= 0.16 * np.sqrt(top):
            ticks.append(tick)
    return top, ticks


def _usual_choice(chosen: Chosen, data: xarray.Dataset) -> np.ndarray:
    """Indices (width, tau) that the most heads of each column chose, [column, 2]; -1 where none could."""
    near = {}
    for dim in ("width", "tau"):
        near[dim] = np.asarray(np.isclose(chosen.pick(data[f"{dim}_chosen"])[:, None], data[dim].values))
    votes = near["width"][:, :, None] & near["tau"][:, None, :]
    sums = np.array([votes[chosen.slot == slot].sum(axis=0) for slot in range(len(chosen.slots))])
    best = np.stack(np.unravel_index(sums.reshape(len(sums), -1).argmax(axis=1), sums.shape[1:]), axis=1)
    best[sums.sum(axis=(1, 2)) == 0] = -1
    return best
