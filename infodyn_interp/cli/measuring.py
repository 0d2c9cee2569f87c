"""`infodyn measures` from request to printed result."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infodyn_interp.cli.printing import show_json, show_lines, show_path
from infodyn_interp.cli.requests import require_writable
from infodyn_interp.cli.studies import open_run, require_ready, taken
from infodyn_interp.errors import RequestError
from infodyn_interp.identify.nulls import TWINS
from infodyn_interp.run import Measures, Run, list_layers, list_names

if TYPE_CHECKING:
    import xarray

    from infodyn_interp.models import Model
    from infodyn_interp.texts import Texts

# What decides how texts are read: taken from the result that measures belong to, where it is not given.
READS = (
    "revision", "dtype", "field", "split", "window", "windows_per_document", "reference_windows_per_document", "folds",
    "documents", "reference_documents", "seed",
)  # fmt: skip
KEYS = {"model", "texts", "out", "trust_remote_code", "device", "threads", *READS}
OWN = Measures.model_fields.keys() - Run.model_fields.keys()  # that no sweep has


def run_measures(keys: dict[str, Any], *, inside: Path | None, as_json: bool, redo_damaged: bool) -> None:
    """Measure, save and print.

    Args:
        keys: of the run and of the table `[measures]`, as they were given.
        inside: folder of a sweep's result that the measures belong to.
        as_json: print the tables as JSON.
        redo_damaged: as in `measure`.
    """
    from infodyn_interp import results

    require_writable(Path(keys["out"]))
    stored = {}
    if inside is not None:
        within = results.open_result(inside)
        if Path(inside).resolve() == Path(keys["out"]).resolve():
            raise RequestError(f"out: {keys['out']} holds the result that is measured; name another folder")
        told = json.loads(within.attrs["run"])
        stored = {key: told[key] for key in READS if told.get(key) is not None}
    own = {key: keys.pop(key) for key in OWN if key in keys}
    if "measures" in own:
        own["measures"] = list_names(own["measures"])
    run = Run(**{"nulls": TWINS} | stored | keys)
    require_ready(run)

    from infodyn_interp.sweeping import measuring

    model, texts, layers = open_run(run)
    others = taken(measuring.measure, run) | own | {"layers": layers, "inside": inside}
    told = {key: value for key, value in run.study.items() if key in KEYS | set(Measures.model_fields)}
    result = _measure(others | {"model": model, "texts": texts}, told, redo_damaged=redo_damaged)
    if as_json:
        frames = {
            name: results.table(result, name).to_json(orient="records", double_precision=15)
            for name in results.MEASURES
            if name in result.children
        }
        show_json({name: json.loads(frame) for name, frame in frames.items()})
    else:
        _show(result, run.out)


def require_measures(run: Run, asked: Measures) -> None:
    """Refuse, before the sweep, what could not be measured after it.

    Raises:
        RequestError: a measure that there is not, jumps without a carry-over or in short windows, or an `out` that
            cannot be written or is the sweep's.
    """
    from infodyn_interp.measures.leaps import LEAST_WINDOW
    from infodyn_interp.sweeping.measuring import choose_measures

    if asked.measures is not None and "jumps" in choose_measures(asked.measures):
        if not run.carry:
            raise RequestError("measures.measures: jumps are of the carry-over, and carry is false")
        if run.window < LEAST_WINDOW:
            raise RequestError(
                f"measures.measures: jumps in windows of {run.window} tokens; a threshold needs {LEAST_WINDOW} at least"
            )
    if asked.place(run.out).resolve() == run.out.resolve():
        raise RequestError(f"measures.out: {run.out} is the sweep's; name another folder")
    require_writable(asked.place(run.out))


def measure_after(
    run: Run, asked: Measures, model: "Model", texts: "Texts", *, as_json: bool, redo_damaged: bool = False
) -> None:
    """Measure by a finished sweep of a model and its texts, save and print; as JSON the sweep's table is all."""
    table = {key: value for key, value in asked if value is not None} | {"out": asked.place(run.out)}
    others = table | {
        "model": model,
        "texts": texts,
        "layers": list_layers(asked.layers, model.layers),
        "seed": run.seed,
        "threads": run.threads,
        "inside": run.out,
    }
    of_run = {key: value for key, value in run.study.items() if key in KEYS}
    told = of_run | table | {"out": str(asked.place(run.out))}
    result = _measure(others, told, redo_damaged=redo_damaged)
    if not as_json:
        show_lines("")
        _show(result, asked.place(run.out))


def _measure(
    arguments: Mapping[str, Any], told: Mapping[str, object], *, redo_damaged: bool
) -> "xarray.DataTree":
    """Measure with the arguments of `measure`; `told` is stored."""
    from infodyn_interp.cli.progress import Report
    from infodyn_interp.sweeping import measuring

    with Report() as report:
        return measuring.measure(**arguments, redo_damaged=redo_damaged, progress=report, asked=told)


def _show(result: "xarray.DataTree", out: Path) -> None:
    from infodyn_interp import results

    show_lines(results.summary(result))
    show_path("result", out / results.FILE)
