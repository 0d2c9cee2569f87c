"""One study from request to printed result."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from infodyn_interp.cli.printing import show_json, show_lines, show_path, show_table
from infodyn_interp.cli.requests import read_layers, require_writable
from infodyn_interp.errors import RequestError

if TYPE_CHECKING:
    import xarray

Format = Literal["pdf", "svg", "png"]

ROWS = 20
SORTED = {"verdicts": "gain", "terms": "gain", "carry": "sill_share", "reference": "r2", "energy": "rms"}
ASIDE = ("kl_support", "top_changed_support", "advice", "split_half", "swap_p", "bound", "q")
# What a run stores as it was asked for, so that another run's folder is refused before a model is loaded.
COMPARED_EARLY = ("window", "reference", "state_rank", "seed", "dtype", "micro_batch", "threads")


def run_study(
    out: Path,
    *,
    model: dict[str, Any],
    texts: dict[str, Any],
    settings: dict[str, Any],
    layers: str | None = None,
    limits: str = "all",
    heads: str | None = None,
    rows: int | None = None,
    as_json: bool = False,
    rest_is_reference: bool = False,
) -> "xarray.DataTree":
    """Sweep, save and print.

    Args:
        model, texts, settings: arguments of `open_model`, `read_texts` and `sweep`; None is their default.
        layers, limits, heads, rows: as on the command line.
        rest_is_reference: documents that are not fitted are all the reference's.
    """
    listed = read_layers(layers)
    limited = read_layers(None if limits in ("all", "none") else limits)
    source = Path(texts["source"])
    if not source.exists():
        raise RequestError(f"texts: {source} is not there; give a JSONL file, a text file or a folder")
    require_writable(out)

    from infodyn_interp import results

    asked = model | texts | settings
    before = results.matching(out, {name: asked.get(name) for name in COMPARED_EARLY})

    from infodyn_interp import models, sweeping
    from infodyn_interp import texts as reading
    from infodyn_interp.cli.progress import Report

    opened = models.open_model(**_given(model))
    chosen = listed(opened.layers)
    if heads is not None:
        results.pick_heads(heads, chosen or range(opened.layers), range(opened.heads))
    read = reading.read_texts(tokenizer=opened.tokenizer, **_given(texts))
    if rest_is_reference:
        texts = texts | {"reference_documents": read.census.eligible - read.documents}
        read = reading.read_texts(tokenizer=opened.tokenizer, **_given(texts))
    show_lines(read.census.describe(), stderr=True)
    with Report() as report:
        result = sweeping.sweep(
            opened,
            read,
            layers=chosen,
            limits=() if limits == "none" else limited(opened.layers),
            out=out,
            progress=report,
            **_given(settings),
        )
    if before is not None and before.attrs["run_digest"] == result.attrs["run_digest"]:
        show_lines(f"{out}: the result of this run was already there", stderr=True)
    print_table(result, "verdicts", heads=heads, rows=rows, as_json=as_json, summarise=True)
    if not as_json:
        show_path("result", out / results.FILE)
    return result


def print_table(
    result: "xarray.DataTree",
    name: str,
    *,
    heads: str | None = None,
    sort: str | None = None,
    rows: int | None = None,
    as_json: bool = False,
    summarise: bool = False,
) -> None:
    """Print one table of a result: the best rows on a terminal, all of them on a pipe or as JSON.

    Args:
        summarise: print the result in words above the table, unless it is JSON.
    """
    from infodyn_interp import results

    frame = results.table(result, name, heads=heads)
    if sort is not None and sort not in frame:
        names = ", ".join(column for column in frame.columns if not column.endswith(("_low", "_high")))
        raise RequestError(f"sort: {name} has no column {sort}; its columns are {names}")
    sort = sort or (None if as_json else SORTED.get(name))
    rising = sort in ("layer", "head", "term", "stage")
    if sort is not None:
        frame = frame.sort_values(sort, ascending=rising, kind="stable", ignore_index=True)
    if as_json:
        show_json(json.loads(frame.to_json(orient="records", double_precision=15)))
        return
    if rows is None:
        rows = ROWS if sys.stdout.isatty() else 0
    if summarise:
        show_lines(results.summary(result) + "\n")
    aside = [*(column for columns in results.OWN.values() for column in columns), *ASIDE]
    show_table(frame, rows=rows, by="" if sort is None or rising else sort, aside=aside)


def draw_figures(
    result: "xarray.DataTree", folder: Path, formats: Sequence[Format], heads: str | None = None
) -> list[Path]:
    """Write every figure of a result in each format; the paths."""
    from infodyn_interp import figures

    return [file for kind in formats for file in figures.save_all(result, folder, format=kind, heads=heads)]


def write_manual(folder: Path) -> Path:
    """Write the topics of the running Python's own manual as `folder/topics.jsonl`, one a line."""
    from pydoc_data.topics import topics

    file = folder / "topics.jsonl"
    folder.mkdir(parents=True, exist_ok=True)
    with file.open("w", encoding="utf-8") as stream:
        for name in sorted(topics):
            stream.write(json.dumps({"text": topics[name]}, ensure_ascii=False) + "\n")
    return file


def _given(arguments: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in arguments.items() if value is not None}
