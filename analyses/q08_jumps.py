"""Does the threshold law say what is planted, and do quiet series stay whole?

    python analyses/q08_jumps.py --draws 2000      # writes analyses/data/jumps.csv

Worlds of 24 documents of 256 steps. A state of eight directions remembers .6 of itself; the log length of its steps
is what a world says it is. A threshold lies at |M|'s 70 % quantile and raises it by one standard deviation of the
response, or by half of one. In `regimes_ahead` |M_t| is of the spell of the step that follows it: no series can tell
that from a cause.
"""

import argparse
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.signal import lfilter

from infodyn_interp.measures.breaks import find_breaks, step_sizes
from infodyn_interp.measures.threshold import LEVEL, TESTS, Law, weigh_threshold

HERE = Path(__file__).parent
DOCUMENTS, STEPS, DIRECTIONS, MEMORY = 24, 256, 8, 0.6
DEVIATION = 0.27  # of the log length of a standard normal step in eight directions
QUANTILE = 0.7
ROUND = 50  # draws of every world before the table is written
AR = (0.0, 0.3, 0.6, 0.8, 0.9)


def remembering(rho: float, generator: np.random.Generator, steps: int = STEPS) -> np.ndarray:
    """Unit autoregressions, `[document, step]`."""
    noise = generator.standard_normal((DOCUMENTS, steps + 100))
    return lfilter([np.sqrt(1 - rho**2)], [1, -rho], noise, axis=1)[:, 100:]


def regimes(generator: np.random.Generator) -> np.ndarray:
    """Two states that last 20 steps on average, as -1 and 1."""
    switches = generator.random((DOCUMENTS, STEPS + 1)) < 0.05
    return 2.0 * ((switches.cumsum(1) + generator.integers(2, size=(DOCUMENTS, 1))) % 2) - 1


def share(
    spell: np.ndarray, level: np.ndarray, generator: np.random.Generator, ahead: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """log |M_t| and the log size of the step to t + 1, each of the spell at its own time."""
    noise = 0.15 * generator.standard_normal((DOCUMENTS, STEPS))
    return 0.2 * spell[:, ahead : ahead + STEPS] + noise + level, 0.2 * spell[:, 1:]


def draw(world: str, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray, float]:
    """State, |M| and E_crit of a world; NaN where there is none."""
    level = 0.1 * generator.standard_normal((DOCUMENTS, 1))
    log = 0.3 * remembering(0.8, generator) + level
    size, critical = np.zeros((DOCUMENTS, STEPS)), np.nan
    position = np.linspace(0, 1, STEPS)
    noise = generator.standard_normal((DOCUMENTS, STEPS, DIRECTIONS))
    if world == "ar":
        size = 0.3 * remembering(0.9, generator)
    elif world == "trend":
        log, size = log + 0.5 * position, size + 0.5 * position
    elif world == "late_trend":  # as |M| of a window's first rows
        log, size = log - np.exp(-6 * position), size - np.exp(-6 * position)
    elif world == "linear":
        size = 0.4 * np.exp(log)
    elif world == "quadratic":
        size = 0.8 * (np.exp(log) - 0.8) ** 2
    elif world == "logarithmic":
        size = 0.4 * log
    elif world == "saturating":
        size = DEVIATION / 2 * np.tanh(log / 0.3)
    elif world == "volatility":
        log, size = share(remembering(0.95, generator, STEPS + 1), level, generator)
    elif world == "regimes":
        log, size = share(regimes(generator), level, generator)
    elif world == "regimes_ahead":  # |M_t| is of the spell that the next step belongs to
        log, size = share(regimes(generator), level, generator, ahead=1)
    elif world == "follower":  # |M| grows where steps were large, and steps persist in size
        size = 0.3 * regimes(generator)[:, 1:]
        length = size + np.log(np.linalg.norm(noise, axis=-1))
        past = lfilter([0, 0.3], [1, -0.7], length - length.mean(), axis=1)
        log = 1.0 * past + 0.1 * generator.standard_normal(size.shape)
    carry = np.exp(log)
    if world.startswith("threshold"):
        critical = float(np.quantile(carry, QUANTILE))
        size = DEVIATION * float(world.partition("_")[2] or 1) * (carry > critical)
    steps = np.exp(size)[..., None] * noise
    state = np.zeros((DOCUMENTS, STEPS, DIRECTIONS))
    for t in range(1, STEPS):
        state[:, t] = MEMORY * state[:, t - 1] + steps[:, t - 1]
    return state, carry, critical


WORLDS = (
    "constant", "ar", "trend", "late_trend", "linear", "quadratic", "logarithmic", "saturating",
    "volatility", "regimes", "regimes_ahead", "follower", "threshold", "threshold_0.5",
)  # fmt: skip


def one_draw(world: str, shuffles: int, seed: int) -> dict[str, float | str]:
    """Verdict and interval of one draw."""
    generator = np.random.default_rng([WORLDS.index(world), seed])
    state, carry, critical = draw(world, generator)
    law = weigh_threshold(step_sizes(state), carry[:, :-1], generator, shuffles=shuffles)
    return {
        "verdict": str(law.verdict),
        "covered": float(law.critical_low <= critical <= law.critical_high),
        "width": (law.critical_high - law.critical_low) / carry.std(),
        **law.p,
    }


def broken(memory: float, seed: int) -> float:
    """Whether a series without a change of level breaks."""
    generator = np.random.default_rng([int(100 * memory), seed])
    noise = lfilter([1], [1, -memory], generator.standard_normal(STEPS + 100))[100:]
    return float(len(find_breaks(noise[:, None])) > 0)


def rows_of(found: dict[str, pd.DataFrame], series: dict[float, list[float]]) -> pd.DataFrame:
    """A row a world, then a row a memory."""
    rows = []
    for world, every in found.items():
        passed = every[every["verdict"] == str(Law.THRESHOLD)]
        planted = world.startswith("threshold")
        rows.append(
            {"world": world, "draws": len(every)}
            | {str(law): (every["verdict"] == str(law)).mean() for law in Law}
            | ({"covered": passed["covered"].mean(), "width": passed["width"].median()} if planted else {})
            | {f"p_{name}": (every[name] <= LEVEL).mean() for name in TESTS}
        )
    rows += [
        {"world": f"breaks_{memory}", "draws": len(broke), "broken": np.mean(broke)}
        for memory, broke in series.items()
    ]
    return pd.DataFrame(rows).round(4)


def main() -> None:
    """Draw, count, write; after every round, so that what is done by then can be read."""
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--draws", type=int, default=2000)
    ask.add_argument("--shuffles", type=int, default=199)
    ask.add_argument("--processes", type=int, default=1)
    asked = ask.parse_args()
    (HERE / "data").mkdir(exist_ok=True)
    found = {world: pd.DataFrame() for world in WORLDS}
    series: dict[float, list[float]] = {memory: [] for memory in AR}
    with ProcessPoolExecutor(asked.processes, get_context("spawn")) as pool:
        for first in range(0, asked.draws, ROUND):
            seeds = range(first, min(first + ROUND, asked.draws))
            for world in WORLDS:
                drawn = pd.DataFrame(pool.map(partial(one_draw, world, asked.shuffles), seeds, chunksize=5))
                found[world] = pd.concat([found[world], drawn])
            for memory in AR:
                series[memory] += pool.map(partial(broken, memory), seeds, chunksize=5)
            table = rows_of(found, series)
            table.to_csv(HERE / "data" / "jumps.csv", index=False)
    print(table.to_string(index=False))


if __name__ == "__main__":
    main()
