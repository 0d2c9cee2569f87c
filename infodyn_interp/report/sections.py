"""A section for each group of a result: its figures, and its numbers as a tidy table."""

import base64
from io import BytesIO
from typing import Any

import numpy as np
import pandas as pd
import xarray

from infodyn_interp.figures.plates import Plate
from infodyn_interp.figures.saving import BY_LAYER, DATELESS, LAWS, SHOWS, draw_all
from infodyn_interp.results import TABLES, table

# Groups that the map, the panel of a head and the page's own sections show; of these only figures are added.
SHOWN = ("basis", "example", "energy", "terms", "verdicts", "carry", "limits", "profile", "spectrum")
TITLES = {
    "reference": "How well the surface reference fits",
    "terms": "The terms, every head",
    "verdicts": "Beside the nulls",
    "carry": "Carry-over",
    "limits": "What would have been seen",
    "profile": "How far the data pin the estimates down",
    "spectrum": "What the data tell apart",
    "ablation": "Taken out of the live model",
    "precisions": "Other precisions",
    "cost": "What it cost",
    "output": "From the outside: trajectories of the outputs",
    "coupling": "From the outside to the inside: coupling",
    "fidelity": "Fidelity of trajectories",
    "stability": "Stability of trajectories",
    "action": "Action along trajectories",
    "jumps": "Jumps",
    "maps": "Maps from layer to layer",
    "contrasts": "Contrasts",
}
BY_HEAT = {"coupling_map": "coupling", "instantiation": "output"}  # a figure for each temperature
OUTSIDE = ("trajectory", "temperature_ladder", "alpha_sweep")  # figures of replies
MIME = {"svg": "image/svg+xml", "png": "image/png"}
DOTS = 150  # an inch, of the pictures that are smaller as pixels
MOST_ROWS = 60


def group_sections(result: xarray.DataTree) -> list[dict[str, Any]]:
    """The sections in the order of the groups: name, title, figures as data and captions, tables."""
    groups = {draw.__name__: next(iter(needs)) for draw, needs in SHOWS.items()}
    groups |= {draw.__name__: group for draw, (group, _) in BY_LAYER.items()}
    groups |= {draw.__name__: group for draw, group in LAWS.items()}
    groups |= dict.fromkeys(OUTSIDE, "output")
    figures: dict[str, list[dict[str, str]]] = {}
    for name, plate in draw_all(result, width="page").items():
        if name != "verdict_map" and not name.startswith("landscape"):  # the page has its own
            group = next(
                (to for kind, to in BY_HEAT.items() if name.startswith(kind)), groups.get(name, name)
            )
            figures.setdefault(group, []).append(_picture(name, plate))
    return [
        {
            "name": name,
            "title": TITLES.get(name, name.replace("_", " ").capitalize()),
            "figures": figures.get(name, []),
            "tables": tables,
        }
        for name in result.children
        for tables in [[] if name in SHOWN else _tables(result, name)]
        if tables or name in figures
    ]


def _picture(name: str, plate: Plate) -> dict[str, str]:
    """A figure as it is smaller, drawn in lines or in dots."""
    drawn = {}
    for kind in MIME:
        stream = BytesIO()
        plate.savefig(stream, format=kind, dpi=DOTS, metadata=DATELESS[kind])
        drawn[kind] = base64.b64encode(stream.getvalue()).decode()
    kind = min(drawn, key=lambda kind: len(drawn[kind]))
    return {
        "title": name.replace("_", " "),
        "source": f"data:{MIME[kind]};base64,{drawn[kind]}",
        "caption": plate.caption,
    }


def _tables(result: xarray.DataTree, name: str) -> list[dict[str, Any]]:
    """The tidy table that `table` makes of a group, else one for each set of dimensions in it."""
    if name in TABLES:
        frame = table(result, name)
        return [_table(frame, name, frame.attrs["units"])]
    made = []
    for node in result[name].subtree:
        data = node.to_dataset()
        if node.path == "/output":  # step by step: the figures show it, and the result file has it
            continue
        by_dims: dict[tuple[Any, ...], list[Any]] = {}
        for variable in data.data_vars.values():
            by_dims.setdefault(variable.dims, []).append(variable.name)
        for dims, names in by_dims.items():
            units = {
                str(one): str(data[one].attrs.get("units", "1")) for one in (*dims, *names) if one in data
            }
            kept = data[names]
            frame = kept.to_dataframe().reset_index() if dims else kept.expand_dims("all").to_dataframe()
            title = f"{node.path.strip('/')} by {', '.join(map(str, dims))}" if dims else node.path.strip("/")
            made.append(_table(frame, title, units))
    return made


def _table(frame: pd.DataFrame, title: str, units: dict[str, str]) -> dict[str, Any]:
    rows = frame.dropna(axis="columns", how="all").head(MOST_ROWS)
    heads = [
        f"{str(name).replace('_', ' ')}"
        + (f" ({units[name]})" if units.get(str(name), "1") not in ("1", "text") else "")
        for name in rows.columns
    ]
    return {
        "title": title,
        "heads": heads,
        "rows": [[_cell(value) for value in row] for row in rows.itertuples(index=False)],
        "left_out": len(frame) - len(rows),
    }


def _cell(value: object) -> str:
    if not isinstance(value, float | np.floating):
        return str(value)
    return "–" if np.isnan(value) else f"{value:.4g}"
