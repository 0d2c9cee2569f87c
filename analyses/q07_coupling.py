"""Does the coupling test say what it claims? Rejections at no effect in ten worlds, power, and the lag it finds.

python analyses/q07_coupling.py --runs 2000      # goes on where it stopped; writes analyses/data/coupling.csv

A rejection is of one cell at .05, before Benjamini-Hochberg; two internal series and two proxies make four cells a run.
"""

import argparse
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd

from infodyn_interp.observe import couple
from infodyn_interp.planted import REPLY_WORLDS, draw_replies

HERE = Path(__file__).parent
LEVEL = 0.05
SMALL, LARGE = (6, 6, 48), (12, 8, 128)  # prompts, trials, steps: small data are the harder on a level
POWER_WORLDS, EFFECT = ("iid", "ar_6", "ar_9"), 0.15
BEYOND = ("unequal_scales", "surprisal_unreliable")  # what the test does not withstand, and by how much
FEWER = 400  # runs at most of what is far from its bar


def one_draw(world: str, size: tuple[int, int, int], effect: float, seed: int) -> dict[str, float]:
    """Shares of the cells that reject, or whether the planted cell does, at the lag that was planted."""
    generator = np.random.default_rng([seed, *size, [*REPLY_WORLDS].index(world)])
    lag = int(generator.integers(-5, 6)) if effect else 0
    drawn = draw_replies(REPLY_WORLDS[world], generator, *size, effect=effect, lag=lag)
    found = couple(drawn.seen, drawn.inside, drawn.controls, generator=generator)
    if effect:
        cell = found.isel(layer=0, series=0, proxy=0)
        hit = {"lag_found": float(cell["peak_lag"] == lag)}
        return {
            "rejected": float(cell["p"] <= LEVEL),
            "rejected_without": float(cell["p_without"] <= LEVEL),
        } | hit
    return {
        name: float((found[p] <= LEVEL).mean())
        for name, p in (("rejected", "p"), ("rejected_without", "p_without"))
    }


def main() -> None:
    """Draw, count, write."""
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--runs", type=int, default=2000)
    ask.add_argument("--worlds", nargs="*", default=[*REPLY_WORLDS], choices=[*REPLY_WORLDS])
    ask.add_argument("--processes", type=int, default=1)
    asked = ask.parse_args()
    fewer = min(asked.runs, FEWER)
    jobs = [(world, SMALL, 0.0, asked.runs) for world in REPLY_WORLDS if world not in BEYOND]
    jobs += [(world, LARGE, EFFECT, fewer) for world in POWER_WORLDS]
    jobs += [(world, SMALL, 0.0, fewer) for world in BEYOND]
    file = HERE / "data" / "coupling.csv"
    file.parent.mkdir(exist_ok=True)
    rows = pd.read_csv(file).to_dict("records") if file.exists() else []
    with ProcessPoolExecutor(asked.processes, get_context("spawn")) as pool:
        for world, size, effect, runs in (job for job in jobs if job[0] in asked.worlds):
            shape = {"world": world, "effect": effect} | dict(
                zip(("prompts", "trials", "steps"), size, strict=True)
            )
            same = [row for row in rows if shape.items() <= row.items()]
            if any(row["runs"] >= runs for row in same):
                continue
            drawn = list(pool.map(partial(one_draw, world, size, effect), range(runs), chunksize=10))
            rows = [row for row in rows if row not in same]
            rows.append(shape | {"runs": runs} | pd.DataFrame(drawn).mean().to_dict())
            pd.DataFrame(rows).round(4).to_csv(file, index=False)
            print(rows[-1], flush=True)


if __name__ == "__main__":
    main()
