"""What is printed when work is done: lines, tables and JSON."""

import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table

if TYPE_CHECKING:
    import pandas as pd

PIPE_WIDTH = 200
NOTHING = "-"
LABELS = {
    "seconds": "time",
    "tokens_per_second": "speed",
    "peak_mib": "peak",
    "rms_seed": "U rms",
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

    What does not fit a narrow terminal is left out and said: first the columns `aside`, then the intervals.

    Args:
        rows: how many of them to print; 0 is all.
        by: the column that the rows were sorted by, highest first.
        aside: columns that few rows have or few readers need; a last column names and holds them.
    """
    out, shown = console(), frame.head(rows) if rows else frame
    units = frame.attrs.get("units", {})
    more = [name for name in aside if name in frame and shown[name].notna().any()]
    has_intervals = any(name.endswith("_low") for name in frame.columns)
    table, left_out = _arrange(shown, units, aside, more, True), ""
    if more and _width(out, table) > out.width:
        table, left_out = _arrange(shown, units, aside, (), True), "more columns"
    if has_intervals and _width(out, table) > out.width:
        table, left_out = (
            _arrange(shown, units, aside, (), False),
            "intervals" + " and more columns" * bool(more),
        )
    out.print(table)
    if len(shown) < len(frame):
        order = f", highest {_label(by)} first" if by else ""
        out.print(f"{len(shown)} of {len(frame)} rows{order}; --rows 0 shows all", style="dim")
    if left_out:
        out.print(f"{left_out}: in a wider terminal, or --json", style="dim")


def _arrange(
    frame: "pd.DataFrame",
    units: Mapping[str, str],
    aside: Sequence[str],
    more: Sequence[str],
    intervals: bool,
) -> Table:
    names = [name for name in map(str, frame.columns) if not name.endswith(("_low", "_high"))]
    of_heads = "head" in names  # layer and head are one column
    names = [name for name in names if not (of_heads and name == "layer")]
    names = [name for name in names if name not in aside and frame[name].notna().any()]
    table = Table(box=None, pad_edge=False, collapse_padding=True, header_style="bold")
    for name in names:
        numeric = name not in ("layer", "head") and frame[name].dtype.kind in "if"
        unit = units.get(name, "1")
        label = _label(name) if unit == "1" else f"{_label(name)} ({unit})"
        table.add_column(label, justify="right" if numeric else "left", no_wrap=not numeric)
    if more:
        table.add_column("also")
    for record in frame.to_dict("records"):
        if of_heads and "layer" in record:
            record["head"] = f"{record['layer']}.{record['head']}"
        cells = [_cell(record, name, intervals) for name in names]
        if more:
            held = [(name, _cell(record, name, intervals)) for name in more]
            cells.append(", ".join(f"{_label(name)} {cell}" for name, cell in held if cell != NOTHING))
        table.add_row(*map(escape, cells))
    return table


def _width(out: Console, table: Table) -> int:
    """Columns of the terminal that a table would take if there were room."""
    return Measurement.get(out, out.options.update(width=10_000), table).maximum


def number(value: object, decimals: int = 3) -> str:
    """A number for reading: whole ones and large ones without decimals."""
    if not isinstance(value, float):
        return NOTHING if str(value) == "<NA>" else str(value)
    if math.isnan(value):
        return NOTHING
    if value.is_integer() or abs(value) >= 1000:
        return f"{value:,.0f}"
    text = f"{value:.{decimals}f}"
    return text.removeprefix("-") if float(text) == 0 else text


def _cell(record: Mapping[str, object], name: str, interval: bool) -> str:
    value = number(record.get(name, math.nan), 1 if name.endswith("_t") else 3)
    if not interval or f"{name}_low" not in record or value == NOTHING:
        return value
    return f"{value} [{number(record[f'{name}_low'])}, {number(record[f'{name}_high'])}]"


def _label(name: str) -> str:
    return LABELS.get(name, name.replace("_", " "))


def show_cost(measured: Mapping[str, float]) -> None:
    """Print what `measure_cost` returns: a row per way to run the model, then what belongs to no row."""
    rows = [name.removesuffix("_seconds") for name in measured if name.endswith("_seconds")]
    columns = {"seconds": "s", "over_bridge_forward": "over bridge forward", "peak_mib": "peak (MiB)"}
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("", no_wrap=True)
    for label in columns.values():
        table.add_column(label, justify="right")
    for row in rows:
        table.add_row(_label(row), *(number(measured.get(f"{row}_{name}", math.nan)) for name in columns))
    console().print(table)
    rest = [
        name
        for name in measured
        if not name.startswith(tuple(f"{row}_{end}" for row in rows for end in columns))
    ]
    show_lines("\n" + "\n".join(f"{_label(name)} {number(measured[name])}" for name in rest))


def show_plan(forecast: Mapping[str, Any]) -> None:
    """Print what `Forecast.as_dict` says: a row a stage, then what it comes to."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    columns = {
        "documents": ",",
        "windows": ",",
        "tokens": ",",
        "passes": ",",
        "seconds": ",.1f",
        "shards_mib": ",.1f",
    }
    for name in ("part", "stage", *columns):
        head = {"seconds": "time (s)", "shards_mib": "shards (MiB)"}.get(name, name)
        table.add_column(head, justify="right" if name in columns else "left", no_wrap=True)
    for row in forecast["stages"]:
        table.add_row(row["part"], row["stage"], *(format(row[name], form) for name, form in columns.items()))
    console().print(table)
    census = forecast["census"]
    stage, _ = max(forecast["memory_mib"].items(), key=lambda item: item[1])
    show_lines(
        f"""
Tokens: {census["tokens_fitted"]:,} fitted, {census["tokens_reference"]:,} reference, {census["tokens_lost"]:,} lost
Left out: {census["too_short"]:,} documents too short, {census["duplicates"]:,} exact duplicates
In all: {forecast["passes"]:,} passes, {forecast["tokens_read"]:,} tokens read, {forecast["seconds"]:,.0f} s
Memory: {forecast["peak_mib"]:,.0f} MiB a process (stage {stage}), micro_batch {forecast["micro_batch"]}
Disk: {forecast["disk_mib"]:,.1f} MiB while it goes on, result.nc {forecast["result_mib"]:,.1f} MiB"""
    )


def show_state(state: Mapping[str, Any], *, as_json: bool = False) -> None:
    """Print how far a run is that has no result yet."""
    if as_json:
        show_json(state)
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("part", "stage", "shards"):
        table.add_column(name, justify="right" if name == "shards" else "left", no_wrap=True)
    for row in state["stages"]:
        table.add_row(row["part"], row["stage"], f"{row['shards_done']}/{row['shards']}")
    show_lines("No result yet; finished shards:\n")
    console().print(table)
    if "stage" in state:
        left = "" if state["seconds_left"] is None else f", {state['seconds_left']:,.0f} s left of it"
        show_lines(
            f"\n{state['stage']}: {state['tokens_done']:,} of {state['tokens']:,} tokens,"
            f" {state['tokens_per_second']:,.0f} tokens/s{left}, {state['seconds_ago']:,.0f} s ago"
        )


def show_merged(lacking: Mapping[tuple[str, str], int]) -> None:
    """Print what `merge` returns: of each part the stages that are frozen, then the one that lacks shards."""
    for (part, stage), missing in lacking.items():
        show_lines(f"{part} {stage}: {f'lacks {missing} shards' if missing else 'frozen'}")
    if not any(lacking.values()):
        show_lines("All is there: the command of the run, without --stage, writes its result.")


def show_path(what: str, path: Path) -> None:
    """Print where something lies, never folded."""
    print(f"{what:<8} {path}")  # noqa: T201


def show_json(value: object) -> None:
    """Print a value as JSON."""
    print(json.dumps(value, indent=1, default=float))  # noqa: T201
