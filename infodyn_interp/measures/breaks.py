"""Change points of a trajectory, with the memory of its noise taken out first (seed 1.4).

A level that shifts and a noise that remembers look alike to an autocorrelation: a coefficient read before the shifts
are known takes them for memory, one read from differences alone is too rough (planted: at .9 every fifth series
breaks). So both are found together: of every coefficient on a grid, the breaks of the series it whitens (PELT, l2) cost
a likelihood and a penalty each, and the cheapest pair is taken.
"""

from functools import lru_cache

import numpy as np
import ruptures
import scipy.signal
from jaxtyping import Float, Int

from infodyn_interp.errors import RequestError

MIN_SIZE = 4  # steps between breaks
MEMORIES = np.arange(0, 1, 0.05)  # coefficients tried
REFERENCE = 0.6  # memory of the noise that the penalty is set on
FALSE_BREAKS = 0.05  # of it, a series
DRAWN, BURN_IN = 400, 100  # series that the penalty is set on, and their first steps that are thrown away
PENALTIES = np.arange(6, 40, 0.5)


def step_sizes(
    state: Float[np.ndarray, "document step direction"],
) -> Float[np.ndarray, "document step_before"]:
    """Log length of each prewhitened step, from t to t + 1; the last step has none.

    The memory of a direction comes from its differences, pooled over documents: a shift of level is one difference in
    many, and a mean does not matter at all.

    Raises:
        RequestError: a state that does not move in some document.
    """
    left = state[:, 1:] - memory_of(state) * state[:, :-1]
    left = left - left.mean(1, keepdims=True)
    with np.errstate(divide="ignore"):
        size = np.log(np.linalg.norm(left, axis=-1))
    if not np.isfinite(size).all():
        raise RequestError("jumps: the state does not move in some document, or is not finite: leave it out")
    return size


def memory_of(series: Float[np.ndarray, "document step direction"]) -> Float[np.ndarray, " direction"]:
    """AR(1) coefficient of each direction, from differences: `1 + 2 corr(x_t - x_{t-1}, x_{t+1} - x_t)`."""
    steps = np.diff(series, axis=1)
    square = (steps**2).mean((0, 1))
    product = (steps[:, 1:] * steps[:, :-1]).mean((0, 1))
    return np.clip(1 + 2 * np.divide(product, square, out=np.zeros_like(square), where=square > 0), 0, 0.99)


def find_breaks(series: Float[np.ndarray, "step direction"]) -> Int[np.ndarray, " break"]:
    """Steps at which a trajectory's level changes: the first step of every segment but the first.

    Raises:
        RequestError: a series too short to break, or one that does not vary.
    """
    steps, directions = series.shape
    if steps < 4 * MIN_SIZE:
        raise RequestError(f"jumps: {steps} steps; change points need {4 * MIN_SIZE} at least")
    if not (series.std(0) > 0).all():
        raise RequestError("jumps: a direction is constant: leave it out")
    penalty = penalty_of(steps, 1)
    memory = np.array([_cheapest(one, penalty)[0] for one in series.T])
    return 1 + _breaks(_whiten(series, memory), penalty_of(steps, directions))


@lru_cache(maxsize=64)
def penalty_of(steps: int, directions: int) -> float:
    """The least penalty at which noise with a memory of .6 has .05 breaks a series, its memory being found first."""
    generator = np.random.default_rng([steps, directions])
    noise = generator.standard_normal((DRAWN, steps + BURN_IN, directions))
    noise = scipy.signal.lfilter([1.0], [1.0, -REFERENCE], noise, axis=1)[:, BURN_IN:]
    low, high = 0, len(PENALTIES) - 1
    while low < high:  # breaks fall as the penalty grows
        middle = (low + high) // 2
        if _rate(noise, PENALTIES[middle]) <= FALSE_BREAKS:
            high = middle
        else:
            low = middle + 1
    return float(PENALTIES[low])


def _rate(noise: Float[np.ndarray, "series step direction"], penalty: float) -> float:
    if noise.shape[2] == 1:
        return float(np.mean([len(_cheapest(one[:, 0], penalty)[1]) for one in noise]))
    own = penalty_of(noise.shape[1], 1)
    memories = [[_cheapest(one, own)[0] for one in series.T] for series in noise[: DRAWN // 4]]
    return float(
        np.mean(
            [
                len(_breaks(_whiten(series, np.array(memory)), penalty))
                for series, memory in zip(noise, memories, strict=False)
            ]
        )
    )


def _cheapest(series: Float[np.ndarray, " step"], penalty: float) -> tuple[float, Int[np.ndarray, " break"]]:
    """Memory and breaks of least cost: steps times the log of the square left, and the penalty of each break."""
    best = np.inf, 0.0, np.arange(0)
    for memory in MEMORIES:
        left = series[1:] - memory * series[:-1]
        spread = left.std()
        if spread == 0:
            continue
        found = _breaks((left / spread)[:, None], penalty)
        square = sum(len(part) * part.var() for part in np.split(left, found))
        cost = len(left) * np.log(square / len(left)) + penalty * len(found)
        best = min(best, (cost, memory, found), key=lambda one: one[0])
    return best[1], best[2]


def _whiten(series: np.ndarray, memory: np.ndarray) -> Float[np.ndarray, "step direction"]:
    left = series[1:] - memory * series[:-1]
    return left / left.std(0)


def _breaks(whitened: Float[np.ndarray, "step direction"], penalty: float) -> Int[np.ndarray, " break"]:
    found = ruptures.KernelCPD(kernel="linear", min_size=MIN_SIZE).fit(whitened).predict(pen=penalty)
    return np.array(found[:-1], int)
