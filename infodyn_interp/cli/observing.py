"""`infodyn observe`: replies of a model, or replies that came as texts, from request to printed result."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from infodyn_interp.cli.options import given, with_keys
from infodyn_interp.cli.printing import show_json, show_lines, show_path, show_table
from infodyn_interp.cli.requests import require_writable
from infodyn_interp.cli.studies import taken
from infodyn_interp.errors import RequestError
from infodyn_interp.run import Observe, Run

if TYPE_CHECKING:
    import xarray

ROWS = 20
OPENED = ("model", "revision", "trust_remote_code", "dtype", "device")  # keys of a run that open its model
CLEAREST = ("q", "q_without", "p", "p_without")  # by these the table is sorted, smallest first


@with_keys(Run, required=False, only=(*OPENED, "threads"))
@with_keys(Observe, required=False, only=set(Observe.model_fields) - {"out"})
def observe(
    out: Annotated[Path, typer.Option(help="Folder that receives result.nc.")],
    texts: Annotated[
        Path | None, typer.Option(help="Replies without a model: JSONL with prompt, and completion or text.")
    ] = None,
    inside: Annotated[Path | None, typer.Option(help="A finished sweep of the same weights.")] = None,
    nulls: Annotated[str, typer.Option(help="untrained, or none.")] = "untrained",
    rows: Annotated[int, typer.Option(min=0, help="Rows of couplings to print, 0 for all.")] = ROWS,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    **flags: Any,
) -> None:
    """Draw replies, follow them outside and inside, and say what of the inside shows."""
    asked = given(flags)
    if "sweep_alpha" in asked:
        asked["alphas"] = asked.pop("sweep_alpha")
    if texts is not None:
        for name, value in {"inside": inside, **asked}.items():
            if name in ("model", "prompts", "inside") and value is not None:
                raise RequestError(f"{name}: texts come without a model; leave --{name} or --texts out")
        if "embedder" not in asked:
            raise RequestError(
                "embedder: texts alone have no model whose unembedding could serve; give --embedder"
            )
        require_writable(out)

        from infodyn_interp import observing

        taken_up = {key: asked[key] for key in ("field", "alpha", "step", "alphas") if key in asked}
        result = observing.trace_texts(texts, asked["embedder"], out=out, **taken_up)
    elif not {"model", "prompts"} <= asked.keys():
        raise RequestError("observe: give --model and --prompts, or --texts")
    else:
        if "temperature" in asked:
            asked["temperature"] = _read_temperatures(asked["temperature"])
        if not asked["prompts"].exists():
            raise RequestError(f"prompts: {asked['prompts']} is not there")
        require_writable(out)

        from infodyn_interp import models, observing
        from infodyn_interp.cli.progress import Report

        opening = {key: asked.pop(key) for key in OPENED if key in asked}
        opened = models.open_model(opening.pop("model"), **opening)
        with Report() as report:
            result = observing.trace(
                opened,
                **asked,
                inside=inside,
                out=out,
                nulls=() if nulls == "none" else [name.strip() for name in nulls.split(",")],
                progress=report,
            )
    show_observed(result, as_json=as_json, rows=rows)
    if not as_json:
        show_path("result", out / "result.nc")


def require_replies(run: Run, asked: Observe) -> None:
    """Refuse, before the sweep, what could not be observed after it.

    Raises:
        RequestError: prompts that cannot be read, numbers out of range, an embedder that cannot be used, a reply longer
            than a window of the sweep, or an `out` that cannot be written.
    """
    from infodyn_interp.observe.prompts import read_prompts
    from infodyn_interp.observe.sampling import Drawing
    from infodyn_interp.observing.settings import Outside

    if not asked.prompts.exists():
        raise RequestError(f"observe.prompts: {asked.prompts} is not there")
    read_prompts(asked.prompts, asked.field)
    Drawing(asked.trials, asked.tokens, asked.temperature, asked.top_p, asked.seed)
    Outside.of(asked.alpha, asked.step, asked.embedder)
    if asked.tokens >= run.window:
        raise RequestError(
            f"observe.tokens: {asked.tokens} of a reply, where a window of the sweep holds {run.window} with its"
            " prompt; give fewer, or a larger window"
        )
    require_writable(asked.place(run.out))


def observe_after(run: Run, asked: Observe, *, as_json: bool) -> None:
    """Observe replies by a finished sweep, save and print; as JSON the sweep's table is all that is printed."""
    from infodyn_interp import models, observing
    from infodyn_interp.cli.progress import Report

    out = asked.place(run.out)
    told = asked.model_dump(exclude={"out", "sweep_alpha"})
    opened = models.open_model(run.model, **taken(models.open_model, run))
    with Report() as report:
        result = observing.trace(
            opened,
            **told,
            alphas=asked.sweep_alpha,
            inside=run.out,
            out=out,
            nulls=[name for name in observing.NULLS if name in run.nulls],
            threads=run.threads,
            progress=report,
        )
    if not as_json:
        show_lines("")
        show_observed(result)
        show_path("result", out / "result.nc")


def show_observed(result: "xarray.DataTree", *, as_json: bool = False, rows: int = ROWS) -> None:
    """Print what was observed, in words and as the table of couplings where there is one."""
    import json

    from infodyn_interp import results
    from infodyn_interp.observe.words import describe_output

    frame = None
    if "coupling" in result:
        frame = results.table(result, "coupling").sort_values([*CLEAREST], ignore_index=True)
    if as_json:
        told = [] if frame is None else json.loads(frame.to_json(orient="records", double_precision=15))
        show_json(told)
        return
    show_lines(describe_output(result))
    if frame is not None:
        show_lines("")
        show_table(frame, rows=rows)


def _read_temperatures(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(word) for word in text.split(","))
    except ValueError:
        raise RequestError(f"temperature: {text!r} is not a list of numbers such as 0.7,1.0") from None
