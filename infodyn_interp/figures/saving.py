"""Write the figures of a result, each with its caption."""

from collections.abc import Callable
from pathlib import Path
from typing import TypedDict, cast

import numpy as np
import xarray
from matplotlib.figure import Figure

from infodyn_interp.errors import RequestError
from infodyn_interp.figures.comparisons import comparison
from infodyn_interp.figures.couplings import coupling_map
from infodyn_interp.figures.depths import exponents, fidelity, map_curves, transfer
from infodyn_interp.figures.directions import spectrum
from infodyn_interp.figures.example import landscape
from infodyn_interp.figures.instances import instantiation
from infodyn_interp.figures.intervals import gain, reference_fit
from infodyn_interp.figures.judgements import verdict_map
from infodyn_interp.figures.ladders import carry_ladder
from infodyn_interp.figures.laws import action_ranks, jump_raster, of_layer, threshold_curve
from infodyn_interp.figures.limits import detection_limits
from infodyn_interp.figures.magnitudes import carry_over
from infodyn_interp.figures.maps import energy_map, track_grid
from infodyn_interp.figures.nulls import contrasts, group_contrasts
from infodyn_interp.figures.plates import Plate
from infodyn_interp.figures.profiles import rho_profile, track_profile
from infodyn_interp.figures.removals import ablation
from infodyn_interp.figures.selection import choose_heads, find_group, most_gain
from infodyn_interp.figures.smoothings import alpha_sweep
from infodyn_interp.figures.sources import unfinished
from infodyn_interp.figures.temperatures import temperature_ladder
from infodyn_interp.figures.trajectories import trajectory
from infodyn_interp.figures.typesetting import typeset
from infodyn_interp.figures.variograms import variogram
from infodyn_interp.results import Heads


class Sheet(TypedDict):
    """What a figure is drawn for."""

    width: str
    style: str


# A date in the file would make two equal figures differ.
DATELESS: dict[str, dict[str, None]] = {"pdf": {"CreationDate": None}, "svg": {"Date": None}, "png": {}}
# Each figure with what it cannot be drawn without: variables by group.
SHOWS: dict[Callable[..., Plate], dict[str, str]] = {
    verdict_map: {"verdicts": "verdict"},
    energy_map: {"terms": "share"},
    gain: {"terms": "gain"},
    contrasts: {"verdicts": "contrast"},
    group_contrasts: {"groups": "contrast"},
    track_grid: {"terms": "track_gain"},
    track_profile: {"profile": "kept"},
    variogram: {"carry": "variogram"},
    rho_profile: {"carry": "sill_share", "profile": "rise"},
    carry_ladder: {"carry": "ladder_sill", "verdicts": "verdict", "basis": "mean"},
    carry_over: {"carry": "layer_magnitude"},
    detection_limits: {"limits": "share", "verdicts": "verdict"},
    spectrum: {"spectrum": "eigenvalue", "terms": "gain"},
    reference_fit: {"reference": "r2"},
    comparison: {"contrasts": "layer_contrast"},
}
# The same of figures by layer, which no head can be chosen for.
BY_LAYER: dict[Callable[..., Plate], tuple[str, str]] = {
    fidelity: ("fidelity", "kl"),
    exponents: ("stability", "rate"),
    map_curves: ("maps", "growth"),
    transfer: ("maps", "transfer"),
    unfinished: ("jumps", "unfinished"),
}

# Of one layer's paths: the middle one of those that were read.
LAWS: dict[Callable[..., Figure], str] = {
    action_ranks: "action",
    jump_raster: "jumps",
    threshold_curve: "jumps",
}


def draw_all(
    result: xarray.DataTree, heads: Heads = None, width: str = "column", style: str = "paper"
) -> dict[str, Plate]:
    """Every figure whose group the result has, by the name of its file.

    The landscape is drawn for each of `heads`, or for the head whose prosody gains most.
    Raises RequestError for what the figures refuse.
    """
    plates: dict[str, Plate] = {}
    sheet = Sheet(width=width, style=style)
    for draw, needs in SHOWS.items():
        if all(group in result.children and name in result[group].data_vars for group, name in needs.items()):
            plates[draw.__name__] = draw(result, heads=heads, **sheet)
    for draw, (group, name) in BY_LAYER.items():
        if group in result.children and name in result[group].data_vars:
            plates[draw.__name__] = draw(result, **sheet)
    for law, group in LAWS.items():
        if group in result.children and "trained" in result[group].children:
            plates[law.__name__] = cast(Plate, law(of_layer(result, group), **sheet))
    if "ablation" in result.children:
        plates["ablation"] = ablation(result, **sheet)
    if "example" in result.children:
        every = choose_heads(find_group(result, "example"), heads).heads
        for head in every if heads is not None else [most_gain(result)]:
            plates[f"landscape_{head}"] = landscape(result, head, **sheet)
    return plates | _observed(result, sheet)


def save_all(
    result: xarray.DataTree,
    folder: str | Path,
    format: str = "pdf",  # noqa: A002 (the word of the command line)
    width: str = "column",
    heads: Heads = None,
    style: str = "paper",
) -> list[Path]:
    """Write every figure whose group the result has, its caption beside it as .txt; returns their paths.

    Beside a pdf lies a .tex too: the figure with its caption, for LaTeX's `input`.
    All are drawn (`draw_all`) before the first is written. Raises RequestError for what the figures refuse, an
    unknown format, a result without any of the groups, and a folder that cannot be written.
    """
    if format not in DATELESS:
        raise RequestError(f"figures cannot be written as '{format}': take {', '.join(DATELESS)}")
    plates = draw_all(result, heads, width, style)
    if not plates:
        raise RequestError("the result has no group that a figure shows: draw the result of a sweep")
    folder = Path(folder)
    written = [folder / f"{name}.{format}" for name in plates]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, plate in zip(written, plates.values(), strict=True):
            plate.savefig(path, format=format, metadata=DATELESS[format])
            name = path.name.removesuffix(f".{format}")
            path.with_name(f"{name}.txt").write_text(plate.caption + "\n", "utf-8")
            if format == "pdf":
                wide = width == "page"
                path.with_name(f"{name}.tex").write_text(typeset(name, plate.caption, wide=wide), "utf-8")
    except OSError as error:
        raise RequestError(
            f"cannot write figures to {folder} ({error.strerror}): name another folder"
        ) from None
    return written


def _observed(result: xarray.DataTree, sheet: Sheet) -> dict[str, Plate]:
    """Figures of the output side: the longest reply, couplings by temperature, their ladder, the sweep over alpha."""
    plates: dict[str, Plate] = {}
    if "output" in result.children and "x_plane" in result["output"].data_vars:
        out = result["output"].to_dataset()
        steps = out["tension"].notnull().sum("step")
        longest = np.unravel_index(int(steps.values.argmax()), steps.shape)
        reply = dict(zip(steps.dims, map(int, longest), strict=True))
        plates["trajectory"] = trajectory(out.isel(reply), **sheet)
    if "coupling" in result.children:
        coupled = result["coupling"].to_dataset()
        for place, heat in enumerate(coupled["temperature"].values):
            own = {name: np.ravel(value)[place] for name, value in coupled.attrs.items() if np.ndim(value)}
            at = coupled.isel(temperature=place).assign_attrs(own)
            plates[f"coupling_map_{heat:g}"] = coupling_map(at, **sheet)
    beside = result["output"].children if "output" in result.children else {}
    if "conditions" in beside and beside["conditions"].sizes.get("temperature", 1) > 1:
        plates["temperature_ladder"] = temperature_ladder(beside["conditions"].to_dataset(), **sheet)
    if "instantiation" in beside:
        found = beside["instantiation"].to_dataset()
        for place, heat in enumerate(found["temperature"].values):
            plates[f"instantiation_{heat:g}"] = instantiation(found.isel(temperature=place), **sheet)
    if "smoothing" in beside:
        plates["alpha_sweep"] = alpha_sweep(beside["smoothing"].to_dataset(), **sheet)
    return plates
