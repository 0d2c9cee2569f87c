"""The commands of `infodyn` and what each may be asked."""

import time
from pathlib import Path
from typing import Annotated, Literal, get_args

import typer

from infodyn_interp import __version__
from infodyn_interp.cli.printing import show_cost, show_json, show_lines, show_path, show_table
from infodyn_interp.cli.requests import read_nulls, read_numbers, require_writable
from infodyn_interp.cli.studies import ROWS, Format, draw_figures, print_table, run_study, write_manual
from infodyn_interp.errors import RequestError

Reference = Literal["lexical", "position", "zero", "own"]
Dtype = Literal["float32", "float64", "bfloat16", "float16"]
TableName = Literal["verdicts", "terms", "carry", "nulls", "reference", "energy", "cost"]
ModelName = Annotated[str, typer.Option("--model", help="A name, a folder, a .gguf file, or demo.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Heads = Annotated[str | None, typer.Option(help="These heads only, as 10.3,12.0.")]
Place = Annotated[Path, typer.Argument(help="Folder of a run, or its result.nc.")]

# One window a document: six minutes on two cores, most of them forward passes.
DEMO = {"window": 256, "documents": 24, "windows_per_document": 1, "reference_windows_per_document": 12}
DEMO_LIMITS = "3,10,20"
DEMO_LADDER = 12
DEMO_NULLS = ("untrained", "shuffled_tokens", "permuted_queries", "swapped_documents")

app = typer.Typer(
    add_completion=False,
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
def sweep(
    model: ModelName,
    texts: Annotated[Path, typer.Option(help="JSONL, a text file, or a folder of text files.")],
    out: Annotated[Path, typer.Option(help="Folder that receives result.nc.")],
    layers: Annotated[str | None, typer.Option(help="0,10,20 or start:stop:step; all by default.")] = None,
    window: Annotated[int, typer.Option(min=1, help="Tokens in a window.")] = 256,
    documents: Annotated[int | None, typer.Option(min=1, help="Documents to fit; all that remain.")] = None,
    reference_documents: Annotated[
        int | None, typer.Option(min=1, help="Documents of the reference; half by default.")
    ] = None,
    windows_per_document: Annotated[int, typer.Option(min=1, help="At most, evenly spaced.")] = 8,
    field: Annotated[str | None, typer.Option(help="JSONL field that holds the text.")] = None,
    split: Annotated[bool, typer.Option("--split", help="Blank lines separate documents.")] = False,
    reference: Annotated[Reference, typer.Option(help="What energy is measured from.")] = "lexical",
    state_rank: Annotated[int, typer.Option(min=1, help="Components of the state.")] = 8,
    folds: Annotated[int, typer.Option(min=2, help="Folds of documents, at most.")] = 24,
    seed: Annotated[int, typer.Option(min=0, help="Of everything random.")] = 0,
    dtype: Annotated[Dtype, typer.Option(help="Of the model's weights.")] = "float32",
    device: Annotated[str | None, typer.Option(help="cpu, cuda, ...; the best there is by default.")] = None,
    micro_batch: Annotated[int, typer.Option(min=1, help="Windows in one forward.")] = 4,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads.")] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a hub model.")] = None,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run code that comes with a model.")
    ] = False,
    carry: Annotated[
        bool, typer.Option("--carry/--no-carry", help="Fit the carry-over: two more passes.")
    ] = True,
    series: Annotated[bool, typer.Option("--series", help="Keep |M_t| by document.")] = False,
    nulls: Annotated[str, typer.Option(help="Nulls, as untrained,shuffled_tokens; all or none.")] = "all",
    null_share: Annotated[float, typer.Option(help="Share of the folds that a null reads.")] = 1 / 3,
    null_reference_tokens: Annotated[
        int, typer.Option(min=1, help="Tokens of each null's own reference, at least.")
    ] = 8_000,
    limits: Annotated[
        str, typer.Option(help="Layers that get detection limits, as 0,10,20 or 0:30:5; all or none.")
    ] = "all",
    ladder_documents: Annotated[int, typer.Option(min=8, help="Documents of the carry-over's ladder.")] = 96,
    heads: Heads = None,
    as_json: Json = False,
) -> None:
    """Fit the energies of every attention head, and say what may be believed of them."""
    run_study(
        out,
        model={
            "source": model,
            "revision": revision,
            "dtype": dtype,
            "device": device,
            "trust_remote_code": trust_remote_code,
        },
        texts={
            "source": texts,
            "window": window,
            "documents": documents,
            "reference_documents": reference_documents,
            "windows_per_document": windows_per_document,
            "field": field,
            "split": split,
            "folds": folds,
        },
        settings={
            "reference": reference,
            "state_rank": state_rank,
            "seed": seed,
            "micro_batch": micro_batch,
            "threads": threads,
            "carry": carry,
            "series": series,
            "nulls": read_nulls(nulls),
            "null_share": null_share,
            "null_reference_tokens": null_reference_tokens,
            "ladder_documents": ladder_documents,
        },
        layers=layers,
        limits=limits,
        heads=heads,
        as_json=as_json,
    )


@app.command()
def show(
    out: Place,
    table: Annotated[TableName | None, typer.Argument(help="Which table; verdicts, after a summary.")] = None,
    heads: Heads = None,
    sort: Annotated[str | None, typer.Option(help="Column to sort by, highest first; or layer.")] = None,
    rows: Annotated[
        int | None, typer.Option(min=0, help=f"Rows to print, 0 for all; {ROWS} on a terminal.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Print a table of a result."""
    from infodyn_interp import results

    print_table(
        results.open_result(out),
        table or "verdicts",
        heads=heads,
        sort=sort,
        rows=rows,
        as_json=as_json,
        summarise=table is None,
    )


@app.command()
def figures(
    out: Place,
    kinds: Annotated[str, typer.Option("--format", help="pdf, svg or png, or several: pdf,png.")] = "pdf",
    heads: Heads = None,
) -> None:
    """Draw the figures of a result, into the folder `fig` beside it."""
    known: dict[str, Format] = {kind: kind for kind in get_args(Format)}
    asked = [kind.strip() for kind in kinds.split(",")]
    if unknown := [kind for kind in asked if kind not in known]:
        raise RequestError(f"format: {unknown[0]!r} is not one of {', '.join(known)}")

    from infodyn_interp import results

    result = results.open_result(out)
    folder = (out if out.is_dir() else out.parent) / "fig"
    require_writable(folder)
    for file in draw_figures(result, folder, [known[kind] for kind in asked], heads):
        show_path("figure", file)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for texts, result and figures.")] = Path("out/demo"),
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads.")] = None,
) -> None:
    """Run the main job on a small language model and the manual of Python."""
    began = time.monotonic()
    require_writable(out)
    texts = write_manual(out)
    result = run_study(
        out,
        model={"source": "demo"},
        texts={"source": texts, **DEMO},
        settings={"threads": threads, "nulls": DEMO_NULLS, "ladder_documents": DEMO_LADDER},
        limits=DEMO_LIMITS,
        rows=ROWS,
        rest_is_reference=True,
    )
    show_path("texts", texts)
    for file in draw_figures(result, out / "fig", ("pdf", "png")):
        show_path("figure", file)
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
    as_json: Json = False,
) -> None:
    """Measure what a fit costs over a plain forward pass, in time and memory."""
    from infodyn_interp import costing, models

    opened = models.open_model(model)
    measured = costing.measure_cost(opened, batch=batch, window=window, repeats=repeats, threads=threads)
    if as_json:
        show_json(measured)
    else:
        show_cost(measured)
