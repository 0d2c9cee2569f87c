"""One study from request to printed result."""

import inspect
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from infodyn_interp.cli.printing import show_json, show_lines, show_path, show_table
from infodyn_interp.cli.requests import require_writable
from infodyn_interp.cli.strips import show_strips
from infodyn_interp.errors import RequestError
from infodyn_interp.run import Measures, Run, list_layers

if TYPE_CHECKING:
    import xarray

    from infodyn_interp.models import Model
    from infodyn_interp.planning import Forecast
    from infodyn_interp.texts import Texts

Format = Literal["pdf", "svg", "png"]
Width = Literal["column", "page"]
Style = Literal["paper", "talk"]

ROWS = 20
SORTED = {"verdicts": "gain", "terms": "gain", "carry": "sill_share", "reference": "r2", "energy": "rms"}
SORTED |= {"groups": "contrast", "contrasts": "contrast"}
ASIDE = ("kl_support", "top_changed_support", "advice", "split_half", "swap_p", "bound", "q", "contrast_p")
# Keys that the model and the texts turn into something else; all others are compared before either is read.
READ_FIRST = {"model", "revision", "trust_remote_code", "device", "texts", "field", "split", "documents"}
READ_FIRST |= {"reference_documents", "folds", "layers", "limits", "memory"}


def require_ready(run: Run) -> "xarray.DataTree | None":
    """Refuse what can be refused before a model is loaded; the result that already lies in `out`, or None.

    Raises:
        RequestError: texts that are not there or not as asked, or an `out` that cannot be written or holds another run.
    """
    from infodyn_interp.texts.sources import open_corpus

    if str(run.texts) != "-":
        open_corpus(run.texts, **taken(open_corpus, run))
    require_writable(run.out)

    from infodyn_interp import results

    return results.matching(
        run.out, {key: value for key, value in run.study.items() if key not in READ_FIRST}
    )


def run_study(
    run: Run,
    *,
    heads: str | None = None,
    rows: int | None = None,
    as_json: bool = False,
    rest_is_reference: bool = False,
    redo_damaged: bool = False,
    then: Callable[..., None] | None = None,
) -> None:
    """Sweep, save and print.

    Args:
        run: the study.
        heads, rows, as_json: as on the command line.
        rest_is_reference: documents that are not fitted are all the reference's.
        redo_damaged: as in `sweep`.
        then: called with the model and the texts, and `as_json` and `redo_damaged` by name.
    """
    before = require_ready(run)

    from infodyn_interp import results, sweeping
    from infodyn_interp.cli.progress import Report

    arguments = _open(run, heads=heads, rest_is_reference=rest_is_reference)
    with Report() as report:
        result = sweeping.sweep(**arguments, redo_damaged=redo_damaged, progress=report, asked=run.study)
    if before is not None and before.attrs["run_digest"] == result.attrs["run_digest"]:
        show_lines(f"{run.out}: the result of this run was already there", stderr=True)
    print_table(result, "verdicts", heads=heads, rows=rows, as_json=as_json, summarise=True)
    if not as_json:
        show_path("result", run.out / results.FILE)
    if then is not None:
        then(arguments["model"], arguments["texts"], as_json=as_json, redo_damaged=redo_damaged)


def plan_study(run: Run) -> "Forecast":
    """What a run would take."""
    require_ready(run)

    from infodyn_interp import planning

    arguments = _open(run)
    arguments.pop("out")
    return planning.plan(**arguments)


def run_part(run: Run, stage: str, part: tuple[int, int], *, redo_damaged: bool = False) -> None:
    """Compute a part of one stage, and say what is there; arguments as in `sweep_part`."""
    if require_ready(run) is not None:
        show_lines(f"{run.out}: the result of this run is already there", stderr=True)
        return

    from infodyn_interp import sweeping
    from infodyn_interp.cli.progress import Report

    arguments = _open(run)
    with Report() as report:
        done, there = sweeping.sweep_part(
            **arguments, stage=stage, part=part, redo_damaged=redo_damaged, progress=report
        )
    show_lines(
        f"stage {stage}, part {part[0]}/{part[1]}: {there} shards are there, {done} of them new;"
        f" after all parts, infodyn merge {run.out}"
    )


def _open(run: Run, *, heads: str | None = None, rest_is_reference: bool = False) -> dict[str, Any]:
    """The arguments of `sweep` that a run comes to: its model and texts, opened, and what it says itself."""
    from infodyn_interp import sweeping

    opened, texts, layers = open_run(run, heads=heads, rest_is_reference=rest_is_reference)
    limits = None if run.limits == "all" else list_layers(run.limits, opened.layers, "limits")
    return taken(sweeping.sweep, run) | {
        "model": opened,
        "texts": texts,
        "layers": layers,
        "limits": limits,
    }


def open_run(
    run: Run, *, heads: str | None = None, rest_is_reference: bool = False
) -> "tuple[Model, Texts, list[int]]":
    """The model, the texts and the layers that a run names; arguments as in `run_study`."""
    from infodyn_interp import models, results
    from infodyn_interp import texts as reading

    opened = models.open_model(run.model, **taken(models.open_model, run))
    layers = list_layers(run.layers, opened.layers)
    if heads is not None:
        results.pick_heads(heads, layers, range(opened.heads))
    how = taken(reading.read_texts, run) | {"spool": run.out / "texts"}
    texts = reading.read_texts(run.texts, opened.tokenizer, **how)
    if rest_is_reference:
        rest = texts.census.eligible - texts.documents
        texts = reading.read_texts(run.texts, opened.tokenizer, **how | {"reference_documents": rest})
    show_lines(texts.census.describe(), stderr=True)
    return opened, texts, layers


def open_whole(place: Path) -> "xarray.DataTree":
    """A result, that of a sweep with the measures that `infodyn run` put beside it.

    Raises:
        RequestError: nothing is there, or it is not a result.
    """
    from infodyn_interp import results

    result = results.open_result(place)
    beside = (place if place.is_dir() else place.parent) / Measures.folder
    return results.join(result, results.open_result(beside)) if (beside / results.FILE).exists() else result


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
        summarise: print the result in words and in strips above the table, unless it is JSON.
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
        if heads is None and "verdicts" in result.children:
            show_strips(result)
    aside = [*(column for columns in results.OWN.values() for column in columns), *ASIDE]
    show_table(frame, rows=rows, by="" if sort is None or rising else sort, aside=aside)


def draw_figures(
    result: "xarray.DataTree",
    folder: Path,
    formats: Sequence[Format],
    heads: str | None = None,
    width: Width = "column",
    style: Style = "paper",
) -> list[Path]:
    """Write every figure of a result in each format; the paths."""
    from infodyn_interp import figures

    return [
        file
        for kind in formats
        for file in figures.save_all(result, folder, format=kind, width=width, heads=heads, style=style)
    ]


def write_manual(folder: Path) -> Path:
    """Write the topics of the running Python's own manual as `folder/topics.jsonl`, one a line."""
    from pydoc_data.topics import topics

    file = folder / "topics.jsonl"
    folder.mkdir(parents=True, exist_ok=True)
    with file.open("w", encoding="utf-8") as stream:
        for name in sorted(topics):
            stream.write(json.dumps({"text": topics[name]}, ensure_ascii=False) + "\n")
    return file


def taken(function: Callable[..., object], run: Run) -> dict[str, Any]:
    """What a function takes of a run, by the names of its arguments; None is its own default."""
    keys = dict(run)
    return {name: keys[name] for name in inspect.signature(function).parameters if keys.get(name) is not None}
