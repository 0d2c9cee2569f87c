"""What is printed when work is done: lines, tables and JSON."""

import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    import pandas as pd

PIPE_WIDTH = 200
SPACIOUS = 160
NOTHING = "-"
LABELS = {
    "gain_t": "t",
    "marginal_gain": "marginal",
    "marginal_gain_t": "t",
    "track_coefficient": "coefficient",
    "covariance_share_prosody_track": "cov prosody-track",
    "covariance_share_prosody_nuisance": "cov prosody-nuisance",
    "covariance_share_track_nuisance": "cov track-nuisance",
}


def console(*, stderr: bool = False) -> Console:
    """Standard output or error as rich sees it; what goes to a pipe is not folded at 80 columns."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else PIPE_WIDTH
    return Console(stderr=stderr, width=width, highlight=False, emoji=False)


def show_lines(text: str, *, stderr: bool = False) -> None:
    """Print text as it is, markup and all, folded at spaces on a terminal."""
    console(stderr=stderr).print(text, markup=False)


def show_table(frame: "pd.DataFrame", *, rows: int = 0, by: str = "", aside: Sequence[str] = ()) -> None:
    """Print a tidy table: layer and head as 10.3; `name`, `name_low` and `name_high` in one column.

    Args:
        rows: how many of them to print; 0 is all.
        by: the column that the rows were sorted by, highest first.
        aside: columns that few rows have; a last column names and holds them, where there is room for it.
    """
    out, units = console(), frame.attrs.get("units", {})
    names = [name for name in map(str, frame.columns) if not name.endswith(("_low", "_high"))]
    names = [name for name in names if name != "layer" and name not in aside and frame[name].notna().any()]
    roomy = out.width >= SPACIOUS and any(name in frame for name in aside)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in names:
        numeric = name != "head" and frame[name].dtype.kind in "if"
        unit = units.get(name, "1")
        table.add_column(
            _label(name) if unit == "1" else f"{_label(name)} ({unit})",
            justify="right" if numeric else "left",
        )
    if roomy:
        table.add_column("also")
    shown = frame.head(rows) if rows else frame
    for record in shown.to_dict("records"):
        if "layer" in record:
            record["head"] = f"{record['layer']}.{record['head']}"
        also = ", ".join(
            f"{_label(name)} {cell}" for name in aside if (cell := _cell(record, name)) != NOTHING
        )
        cells = [_cell(record, name) for name in names] + [also] * roomy
        table.add_row(*map(escape, cells))
    out.print(table)
    if len(shown) < len(frame):
        order = f", highest {_label(by)} first" if by else ""
        out.print(f"{len(shown)} of {len(frame)} rows{order}; --rows 0 shows all", style="dim")


def number(value: object, decimals: int = 3) -> str:
    """A number for reading: whole ones and large ones without decimals."""
    if not isinstance(value, float):
        return str(value)
    if math.isnan(value):
        return NOTHING
    return f"{value:,.0f}" if value.is_integer() or abs(value) >= 1000 else f"{value:.{decimals}f}"


def _cell(record: dict[str, object], name: str) -> str:
    value = number(record.get(name, math.nan), 1 if name.endswith("_t") else 3)
    if f"{name}_low" not in record or value == NOTHING:
        return value
    return f"{value} [{number(record[f'{name}_low'])}, {number(record[f'{name}_high'])}]"


def _label(name: str) -> str:
    return LABELS.get(name, name.replace("_", " "))


def show_path(what: str, path: Path) -> None:
    """Print where something lies, never folded."""
    print(f"{what:<8} {path}")  # noqa: T201


def show_json(value: object) -> None:
    """Print a value as JSON."""
    print(json.dumps(value, indent=1, default=float))  # noqa: T201
