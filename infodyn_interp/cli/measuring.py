"""`infodyn measures` from request to printed result."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from infodyn_interp.cli.printing import show_json, show_lines, show_path
from infodyn_interp.cli.requests import require_writable
from infodyn_interp.cli.studies import open_run, require_ready, taken
from infodyn_interp.errors import RequestError
from infodyn_interp.identify.nulls import TWINS
from infodyn_interp.run import Run

# What decides how texts are read: taken from the result that measures belong to, where it is not given.
READS = (
    "revision", "dtype", "field", "split", "window", "windows_per_document", "reference_windows_per_document", "folds",
    "documents", "reference_documents", "seed",
)  # fmt: skip
KEYS = {
    *("model", "texts", "out", "trust_remote_code", "device", "layers", "nulls", "null_share", "micro_batch"),
    *("threads", *READS),
}


def run_measures(
    keys: dict[str, Any],
    *,
    inside: Path | None,
    more: Mapping[str, object],
    as_json: bool,
    redo_damaged: bool,
) -> None:
    """Measure, save and print.

    Args:
        keys: of the run, as they were given.
        inside: folder of a sweep's result that the measures belong to.
        more: `measures`, `fit_tokens` and `walked`; what is None is left to `measure`.
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
    run = Run(**{"nulls": TWINS} | stored | keys)
    require_ready(run)

    from infodyn_interp.cli.progress import Report
    from infodyn_interp.sweeping import measuring

    model, texts, layers = open_run(run)
    others = taken(measuring.measure, run) | {
        name: value for name, value in more.items() if value is not None
    }
    with Report() as report:
        result = measuring.measure(
            **others | {"model": model, "texts": texts, "layers": layers, "inside": inside},
            redo_damaged=redo_damaged,
            progress=report,
            asked={key: value for key, value in run.study.items() if key in KEYS},
        )
    tables = [name for name in results.MEASURES if name in result.children]
    if as_json:
        frames = {
            name: results.table(result, name).to_json(orient="records", double_precision=15)
            for name in tables
        }
        show_json({name: json.loads(frame) for name, frame in frames.items()})
    else:
        show_lines(results.summary(result))
        show_path("result", run.out / results.FILE)
