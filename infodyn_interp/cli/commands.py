"""The commands of `infodyn` and what each may be asked."""

import time
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import typer

from infodyn_interp import __version__
from infodyn_interp.cli.measuring import KEYS, measure_after, require_measures, run_measures
from infodyn_interp.cli.observing import observe, observe_after, require_replies, show_observed
from infodyn_interp.cli.options import given, with_keys
from infodyn_interp.cli.printing import (
    show_cost,
    show_json,
    show_lines,
    show_merged,
    show_path,
    show_plan,
    show_state,
    show_table,
)
from infodyn_interp.cli.requests import read_numbers, read_part, require_writable
from infodyn_interp.cli.studies import (
    ROWS,
    Format,
    Style,
    Width,
    draw_figures,
    open_whole,
    plan_study,
    print_table,
    require_ready,
    run_part,
    run_study,
    write_manual,
)
from infodyn_interp.errors import RequestError
from infodyn_interp.run import Measures, Observe, Run, read, read_table

TableName = Literal[
    "verdicts", "terms", "carry", "nulls", "reference", "energy", "precisions", "ablation", "groups",
    "contrasts", "fidelity", "stability", "action", "jumps", "maps", "coupling", "cost",
]  # fmt: skip
ModelName = Annotated[str, typer.Option("--model", help="A name, a folder, a .gguf file, or demo.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Heads = Annotated[str | None, typer.Option(help="These heads only, as 10.3,12.0.")]
Redo = Annotated[
    bool, typer.Option("--redo-damaged", help="Compute damaged shards again, where they would be refused.")
]
Stage = Annotated[
    str | None, typer.Option("--stage", help="Compute one stage alone, or a part of it, for `merge` to join.")
]
Piece = Annotated[str | None, typer.Option("--part", help="Which part of the stage, as 3/40.")]
Place = Annotated[Path, typer.Argument(help="Folder of a run, or its result.nc.")]

# One window a document: six minutes on two cores, most of them forward passes.
DEMO = {
    "window": 256,
    "documents": 24,
    "windows_per_document": 1,
    "reference_windows_per_document": 12,
    "limits": "3,10,20",
    "ladder_documents": 12,
    "nulls": ("untrained", "shuffled_tokens", "permuted_queries", "swapped_documents"),
}
# Two measures of four layers beside one null: a minute more.
DEMO_MEASURES: dict[str, Any] = {
    "measures": ("fidelity", "jumps"),
    "layers": "0,10,20,29",
    "nulls": ("untrained",),
    "fit_tokens": 4_000,
    "walked": 4,
}

app = typer.Typer(
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(asked: bool) -> bool:
    if asked:
        show_lines(f"infodyn {__version__}")
        raise typer.Exit
    return asked


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show where an error came from.")] = False,
) -> None:
    """Attention energies of transformer language models: prosody, inference tracks and their nulls."""


@app.command()
@with_keys(Run, required=True)
def sweep(
    stage: Stage = None,
    part: Piece = None,
    redo: Redo = False,
    heads: Heads = None,
    as_json: Json = False,
    **flags: Any,
) -> None:
    """Fit the energies of every attention head, and say what may be believed of them."""
    _run(Run(**given(flags)), stage, part, redo, heads, as_json)


def _run(
    run: Run,
    stage: str | None,
    part: str | None,
    redo: bool,
    heads: str | None,
    as_json: bool,
    trajectories: Measures | None = None,
) -> None:
    if part is not None and stage is None:
        raise RequestError(f"part: {part} of which stage? --stage says it")
    if stage is None:
        then = None if trajectories is None else partial(measure_after, run, trajectories)
        run_study(run, heads=heads, as_json=as_json, redo_damaged=redo, then=then)
    else:
        run_part(run, stage, read_part(part or "1/1"), redo_damaged=redo)


@app.command("run")
@with_keys(Run, required=False)
def run_file(
    file: Annotated[Path, typer.Argument(help="A run file: TOML, keys named as the flags.")],
    dry: Annotated[
        bool, typer.Option("--dry", help="Print what would be run, and stop before the model.")
    ] = False,
    stage: Stage = None,
    part: Piece = None,
    redo: Redo = False,
    heads: Heads = None,
    as_json: Json = False,
    **flags: Any,
) -> None:
    """Run the study of a file, with its tables \\[measures] and \\[observe]; flags take the place of keys."""
    asked, trajectories, replies = (
        read(file, **given(flags)),
        read_table(file, Measures),
        read_table(file, Observe),
    )
    if trajectories is not None:
        require_measures(asked, trajectories)
    if replies is not None:
        require_replies(asked, replies)
    if dry:
        require_ready(asked)
        tables = [f"\n{table.as_toml()}" for table in (trajectories, replies) if table is not None]
        show_lines(f"# {asked.digest}, what is asked\n{asked.as_toml()}{''.join(tables)}")
    else:
        _run(asked, stage, part, redo, heads, as_json, trajectories)
        if replies is not None and stage is None:
            observe_after(asked, replies, as_json=as_json)


app.command()(observe)


@app.command()
@with_keys(Run, required=True, only=KEYS)
@with_keys(Measures, required=True, only=set(Measures.model_fields) - {"out"})
def measures(
    inside: Annotated[
        Path | None, typer.Option("--inside", help="Folder of the sweep that these measures belong to.")
    ] = None,
    redo: Redo = False,
    as_json: Json = False,
    **flags: Any,
) -> None:
    """Measure what each layer says, keeps and does to the stream, beside what nulls show."""
    run_measures(given(flags), inside=inside, as_json=as_json, redo_damaged=redo)


@app.command()
@with_keys(Run, required=False)
def plan(
    file: Annotated[
        Path | None, typer.Argument(help="A run file; without one, flags say it all, as for sweep.")
    ] = None,
    as_json: Json = False,
    **flags: Any,
) -> None:
    """Say what a run would read, and the disk, memory and time it would take, before anything runs."""
    run = Run(**given(flags)) if file is None else read(file, **given(flags))
    forecast = plan_study(run)
    if as_json:
        show_json(forecast.as_dict())
    else:
        show_plan(forecast.as_dict())


@app.command()
def merge(
    out: Annotated[Path, typer.Argument(help="Folder of a run.")],
    others: Annotated[list[Path] | None, typer.Argument(help="More folders of the same run.")] = None,
    into: Annotated[
        Path | None, typer.Option("--out", help="Folder that receives all; the first by default.")
    ] = None,
) -> None:
    """Join the shards of parts of one run, and freeze the stages that are whole."""
    if into is not None:
        require_writable(into)

    from infodyn_interp import sweeping

    show_merged(sweeping.merge(out, others or (), into=into))


@app.command()
def show(
    out: Place,
    table: Annotated[TableName | None, typer.Argument(help="Which table; verdicts, after a summary.")] = None,
    head: Annotated[str | None, typer.Option(help="Explain one head in words, as 10.3.")] = None,
    heads: Heads = None,
    sort: Annotated[str | None, typer.Option(help="Column to sort by, highest first; or layer.")] = None,
    rows: Annotated[
        int | None, typer.Option(min=0, help=f"Rows to print, 0 for all; {ROWS} on a terminal.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Print a table of a result; of a run that has none yet, how far it is."""
    from infodyn_interp import results

    if out.is_dir() and not (out / results.FILE).exists():
        from infodyn_interp.sweeping import read_state

        if (state := read_state(out)) is not None:
            show_state(state, as_json=as_json)
            return
    result = open_whole(out)
    if head is not None and not as_json:
        if table is not None:
            raise RequestError(
                f"head: one head is explained in words; for its rows of {table}, --heads {head}"
            )
        from infodyn_interp.report import explain_head

        show_lines(explain_head(result, head))
        return
    if table is None and "output" in result:
        show_observed(result, as_json=as_json, rows=ROWS if rows is None else rows)
        return
    print_table(
        result,
        table or next(name for name in (*results.TABLES, results.CONTRASTS) if name in result.children),
        heads=head or heads,
        sort=sort,
        rows=rows,
        as_json=as_json,
        summarise=table is None,
    )


@app.command()
def compare(
    a: Place,
    b: Annotated[Path, typer.Argument(help="Another one.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder that receives the contrasts and their figures.")
    ] = None,
    heads: Heads = None,
    rows: Annotated[
        int | None, typer.Option(min=0, help=f"Rows to print, 0 for all; {ROWS} on a terminal.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Contrast two results, paired by document where both read the same texts."""
    if out is not None:
        require_writable(out)

    from infodyn_interp import comparing, results

    found = comparing.compare(a, b)
    if out is not None:
        results.refuse_other(out, found)
    print_table(found, results.CONTRASTS, heads=heads, rows=rows, as_json=as_json, summarise=True)
    if out is not None:
        file = results.save(found, out)
        drawn = draw_figures(found, out / "fig", ("pdf", "png"), heads)
        if not as_json:
            show_path("result", file)
            for file in drawn:
                show_path("figure", file)


@app.command()
def figures(
    out: Place,
    kinds: Annotated[str, typer.Option("--format", help="pdf, svg or png, or several: pdf,png.")] = "pdf",
    width: Annotated[Width, typer.Option(help="Print width: a column or a page.")] = "column",
    style: Annotated[
        Style, typer.Option(help="For print, or with larger type and lines on a wider sheet.")
    ] = "paper",
    heads: Heads = None,
) -> None:
    """Draw the figures of a result, each with its caption, into the folder `fig` beside it."""
    known: dict[str, Format] = {kind: kind for kind in get_args(Format)}
    asked = [kind.strip() for kind in kinds.split(",")]
    if unknown := [kind for kind in asked if kind not in known]:
        raise RequestError(f"format: {unknown[0]!r} is not one of {', '.join(known)}")

    result = open_whole(out)
    folder = (out if out.is_dir() else out.parent) / "fig"
    require_writable(folder)
    for file in draw_figures(result, folder, [known[kind] for kind in asked], heads, width, style):
        show_path("figure", file)


@app.command()
def report(out: Place) -> None:
    """Write a result as one HTML page, `report.html`, beside it: open it in a browser, send it to anyone."""
    from infodyn_interp.report import write_report

    result = open_whole(out)
    folder = out if out.is_dir() else out.parent
    require_writable(folder)
    show_path("report", write_report(result, folder))


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for texts, result, figures and report.")] = Path(
        "out/demo"
    ),
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads.")] = None,
) -> None:
    """Run the main job on a small language model and the manual of Python, up to its report."""
    began = time.monotonic()
    require_writable(out)
    texts = write_manual(out)
    asked = Run(model="demo", texts=texts, out=out, threads=threads, **DEMO)
    then = partial(measure_after, asked, Measures(**DEMO_MEASURES))
    run_study(asked, rows=ROWS, rest_is_reference=True, then=then)
    show_path("texts", texts)
    result = open_whole(out)
    for file in draw_figures(result, out / "fig", ("pdf", "png")):
        show_path("figure", file)
    from infodyn_interp.report import write_report

    show_path("report", write_report(result, out))
    show_lines(f"{time.monotonic() - began:.0f} s in all")


@app.command()
def calibrate(
    runs: Annotated[int, typer.Option(min=1, help="Draws of each world.")] = 400,
    documents: Annotated[
        str, typer.Option(help="Documents of a draw, one window each; several as 16,24.")
    ] = "16,24",
    window: Annotated[int, typer.Option(min=16, help="Tokens in a window.")] = 64,
    worlds: Annotated[str | None, typer.Option(help="Worlds, as noise,track_3; all by default.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the first draw.")] = 0,
    processes: Annotated[int, typer.Option(min=1, help="Draws at once.")] = 1,
    out: Annotated[Path | None, typer.Option(help="Folder that keeps finished draws, to go on from.")] = None,
    as_json: Json = False,
) -> None:
    """Check on worlds of known truth that the verdicts tell it."""
    sizes = read_numbers("documents", documents)
    if out is not None:
        require_writable(out)

    from infodyn_interp.cli.progress import Report
    from infodyn_interp.planted import calibration

    with Report("draws") as report:
        frame = calibration.calibrate(
            runs,
            sizes,
            window,
            None if worlds is None else [name.strip() for name in worlds.split(",")],
            seed=seed,
            processes=processes,
            out=out,
            progress=report,
        )
    if as_json:
        show_json(frame.to_dict("records"))
    else:
        show_table(frame)


@app.command()
def cost(
    model: ModelName = "demo",
    batch: Annotated[int, typer.Option(min=1, help="Windows in one forward.")] = 4,
    window: Annotated[int, typer.Option(min=16, help="Tokens in a window.")] = 256,
    repeats: Annotated[int, typer.Option(min=1, help="Interleaved repeats; medians are shown.")] = 5,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 2,
    query_stride: Annotated[int, typer.Option(min=1, help="Every so many queries are used.")] = 1,
    as_json: Json = False,
) -> None:
    """Measure what a fit costs over a plain forward pass, in time and memory."""
    from infodyn_interp import costing, models

    opened = models.open_model(model)
    measured = costing.measure_cost(
        opened, batch=batch, window=window, repeats=repeats, threads=threads, query_stride=query_stride
    )
    if as_json:
        show_json(measured)
    else:
        show_cost(measured)
