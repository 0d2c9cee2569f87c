"""`infodyn observe`: replies of a model, or replies that came as texts, from request to printed result."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from infodyn_interp.cli.printing import show_json, show_lines, show_path, show_table
from infodyn_interp.cli.requests import require_writable
from infodyn_interp.cli.studies import taken
from infodyn_interp.errors import RequestError
from infodyn_interp.run import Observe, Run

if TYPE_CHECKING:
    import xarray

ROWS = 20
CLEAREST = ("q", "q_without", "p", "p_without")  # by these the table is sorted, smallest first


def observe(
    out: Annotated[Path, typer.Option(help="Folder that receives result.nc.")],
    model: Annotated[str | None, typer.Option(help="A name, a folder, a .gguf file, or demo.")] = None,
    prompts: Annotated[
        Path | None, typer.Option(help="JSONL with a field prompt, or text of one a line.")
    ] = None,
    texts: Annotated[
        Path | None, typer.Option(help="Replies without a model: JSONL with prompt, and completion or text.")
    ] = None,
    inside: Annotated[Path | None, typer.Option(help="A finished sweep of the same weights.")] = None,
    trials: Annotated[int, typer.Option(help="Replies to each prompt, at each temperature.")] = 12,
    tokens: Annotated[int, typer.Option(help="Most tokens of a reply.")] = 128,
    temperature: Annotated[str, typer.Option(help="One or several, as 0.7,1.0.")] = "1.0",
    top_p: Annotated[float, typer.Option(help="Draw from the likeliest tokens of this probability.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 0,
    chat: Annotated[bool, typer.Option("--chat", help="Put prompts into the model's chat template.")] = False,
    field: Annotated[
        str | None, typer.Option(help="JSONL field that holds the prompt, or the reply of texts.")
    ] = None,
    alpha: Annotated[float, typer.Option(help="Of the floating equilibrium, in (0, 1].")] = 0.1,
    step: Annotated[str, typer.Option(help="token, sentence, or window:8.")] = "token",
    embedder: Annotated[
        str | None,
        typer.Option(help="A sentence-transformers folder, package or name; own_unembedding by default."),
    ] = None,
    alphas: Annotated[
        bool,
        typer.Option("--sweep-alpha", help="Also other values of alpha, beside bands without structure."),
    ] = False,
    nulls: Annotated[str, typer.Option(help="untrained, or none.")] = "untrained",
    instantiation: Annotated[
        bool,
        typer.Option(
            "--instantiation/--no-instantiation",
            help="Also compare how freely trials differ with no prompt and in the chat template.",
        ),
    ] = False,
    instantiation_tokens: Annotated[int, typer.Option(help="Of each of those trials.")] = 16,
    micro_batch: Annotated[int, typer.Option(help="Replies in one forward.")] = 4,
    dtype: Annotated[str, typer.Option(help="Of the model's weights.")] = "float32",
    device: Annotated[str | None, typer.Option(help="cpu, cuda, ...; the best there is by default.")] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a hub model.")] = None,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run code that comes with a model.")
    ] = False,
    threads: Annotated[int | None, typer.Option(help="CPU threads; torch's own number by default.")] = None,
    rows: Annotated[int, typer.Option(min=0, help="Rows of couplings to print, 0 for all.")] = ROWS,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Draw replies, follow them outside and inside, and say what of the inside shows."""
    if texts is not None:
        for name, value in (("model", model), ("prompts", prompts), ("inside", inside)):
            if value is not None:
                raise RequestError(f"{name}: texts come without a model; leave --{name} or --texts out")
        if embedder is None:
            raise RequestError(
                "embedder: texts alone have no model whose unembedding could serve; give --embedder"
            )
        require_writable(out)

        from infodyn_interp import observing

        result = observing.trace_texts(
            texts, embedder, out=out, field=field, alpha=alpha, step=step, alphas=alphas
        )
    elif model is None or prompts is None:
        raise RequestError("observe: give --model and --prompts, or --texts")
    else:
        heats = _read_temperatures(temperature)
        if not prompts.exists():
            raise RequestError(f"prompts: {prompts} is not there")
        require_writable(out)

        from infodyn_interp import models, observing
        from infodyn_interp.cli.progress import Report

        opened = models.open_model(
            model, revision=revision, dtype=dtype, device=device, trust_remote_code=trust_remote_code
        )
        with Report() as report:
            result = observing.trace(
                opened,
                prompts,
                inside=inside,
                out=out,
                trials=trials,
                tokens=tokens,
                temperature=heats,
                top_p=top_p,
                seed=seed,
                chat=chat,
                field=field,
                alpha=alpha,
                step=step,
                embedder=embedder,
                alphas=alphas,
                nulls=() if nulls == "none" else [name.strip() for name in nulls.split(",")],
                instantiation=instantiation,
                instantiation_tokens=instantiation_tokens,
                micro_batch=micro_batch,
                threads=threads,
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
