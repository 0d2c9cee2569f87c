"""Does a whole sweep cost what `cost` shows: time per token of its fit beside the fit's row, memory beside a forward?

    python analyses/q09_sweep.py      # SmolLM2, all layers, 24 documents x 256 tokens; writes analyses/data/sweep.csv

Each peak is of a process of its own; both times are of one process, the sweep between two halves of the rows.
"""

import argparse
import os
import resource
import tempfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pandas as pd
import torch
from study import read_manual

from infodyn_interp import models, sweeping, texts
from infodyn_interp.costing.bench import Bench, time_rows

HERE = Path(__file__).parent
BATCH, WINDOW, REPEATS, THREADS = 4, 256, 3, os.cpu_count() or 1


def opened() -> tuple[models.Model, texts.Texts]:
    """The demo model and 24 documents of the running Python's own manual."""
    torch.set_num_threads(THREADS)
    return read_manual(window=WINDOW, reference_windows_per_document=2)


def peak_mib() -> float:
    """Highest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def peak_of_forwards(_: object) -> float:
    """Plain forward passes over the fitted windows and nothing else."""
    model, read = opened()
    with torch.inference_mode():
        for batch in read.batches(BATCH):
            model.bridge(batch.tokens, use_cache=False, logits_to_keep=1)
    return peak_mib()


def peak_of_sweep(_: object) -> float:
    """A sweep that holds 24 folds of all layers: survey, fit and reduction."""
    model, read = opened()
    sweeping.sweep(model, read, nulls=(), limits=(), carry=False)
    return peak_mib()


def seconds_per_token(_: object) -> tuple[float, float]:
    """Of the fit stage of a sweep, and of the fit's row with the reference's second look, around it."""
    model, read = opened()

    settings = sweeping.Settings(tuple(range(model.layers)))
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(model, next(read.batches(BATCH)).tokens, settings, Path(scratch))
        fit = bench.fit()

        def row() -> float:
            return time_rows({"fit": lambda: bench.read(fit)}, REPEATS)["fit"] / (BATCH * WINDOW)

        before = row()
        result = sweeping.sweep(model, read, nulls=(), limits=(), carry=False)
        pace = float(result["cost"]["tokens_per_second"].sel(stage="fit"))
        return 1 / pace, (before + row()) / 2


def main() -> None:
    """Measure, print, write."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as pool:
        forward, sweep, (stage, row) = (
            pool.submit(one, None).result() for one in (peak_of_forwards, peak_of_sweep, seconds_per_token)
        )
    table = pd.DataFrame(
        {
            "forward_peak_mib": [forward],
            "sweep_peak_mib": [sweep],
            "sweep_over_forward_mib": [sweep - forward],
            "fit_stage_ms_per_token": [1e3 * stage],
            "fit_row_ms_per_token": [1e3 * row],
            "stage_over_row": [stage / row],
        }
    )
    (HERE / "data").mkdir(exist_ok=True)
    table.round(3).to_csv(HERE / "data" / "sweep.csv", index=False)
    print(table.T.to_string(header=False))


if __name__ == "__main__":
    main()
