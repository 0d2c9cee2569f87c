"""How long does the algebra of a whole run take, with detection limits and without (bars 120 s and 20 s)?

    python analyses/q21_reduce.py     # SmolLM2, all layers, 24 documents x 256 tokens; writes analyses/data/reduce.csv

The passes are gone through once; then the stage `reduce` alone is timed, with as many threads as there are cores.
"""

import argparse
import os
import time
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch
from study import read_manual

from infodyn_interp import models, reducing, sweeping

HERE = Path(__file__).parent
THREADS = os.cpu_count() or 1
REPEATS = 2


def seconds_of(gathered: sweeping.Gathered, settings: sweeping.Settings, model: models.Model) -> float:
    """Of one reduction; the better of `REPEATS`."""
    if not settings.limits:
        gathered = replace(gathered, fine={}, injections={})
    pieces, seconds = [""] * model.bridge.cfg.d_vocab, []
    for _ in range(REPEATS):
        begun = time.perf_counter()
        reducing.reduce(gathered, pieces, model.head_width, settings.reference, {}, settings)
        seconds.append(time.perf_counter() - begun)
    return min(seconds)


def main() -> None:
    """Gather, time, print, write."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    torch.set_num_threads(THREADS)
    model, read = read_manual(windows_per_document=1, reference_windows_per_document=2)
    layers = tuple(range(model.layers))
    settings = sweeping.Settings(layers, limits=layers, nulls=("permuted_queries", "swapped_documents"))
    gathered = sweeping.gather(model, read, settings)
    rows = [
        {
            "limits": name,
            "seconds": seconds_of(gathered, replace(settings, limits=limited), model),
            "heads": model.layers * model.heads,
            "folds": read.folds,
            "threads": THREADS,
        }
        for name, limited in (("none", ()), ("all", layers))
    ]
    table = pd.DataFrame(rows).round(1)
    (HERE / "data").mkdir(exist_ok=True)
    table.to_csv(HERE / "data" / "reduce.csv", index=False)
    print(table.to_string(index=False))


if __name__ == "__main__":
    main()
