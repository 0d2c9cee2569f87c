"""Change points of a trajectory, with the memory of its noise taken out first (seed 1.4).

A level that shifts and a noise that remembers look alike to an autocorrelation: a coefficient read before the shifts
are known takes them for memory, one read from differences alone is too rough (planted: at .9 every fifth series
breaks). So both are found together: of every coefficient on a grid, the breaks of the series it whitens (PELT, l2) cost
a likelihood and a penalty each, and the cheapest pair is taken.
"""

import numpy as np
import ruptures
import scipy.stats
from jaxtyping import Float, Int

from infodyn_interp.errors import RequestError

MIN_SIZE = 4  # steps between breaks
MEMORIES = np.arange(0, 1, 0.05)  # coefficients tried, the same for all directions
REFINEMENTS = 4
TOP = 0.99
FALSE_BREAKS = 0.05  # a series without any, at most: of noise with a memory of .6, and nearly so up to .9


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
    if not (np.isfinite(size).all() and np.ptp(state, axis=1).any(1).all()):
        raise RequestError("jumps: the state does not move in some document, or is not finite: leave it out")
    return size


def memory_of(series: Float[np.ndarray, "document step direction"]) -> Float[np.ndarray, " direction"]:
    """AR(1) coefficient of each direction, from differences: `1 + 2 corr(x_t - x_{t-1}, x_{t+1} - x_t)`."""
    steps = np.diff(series, axis=1)
    square = (steps**2).mean((0, 1))
    product = (steps[:, 1:] * steps[:, :-1]).mean((0, 1))
    return np.clip(1 + 2 * np.divide(product, square, out=np.zeros_like(square), where=square > 0), 0, TOP)


def find_breaks(series: Float[np.ndarray, "step direction"]) -> Int[np.ndarray, " break"]:
    """Steps at which a trajectory's level changes: the first step of every segment but the first.

    Raises:
        RequestError: a series too short to break, one that does not vary, or one that is not finite.
    """
    steps, directions = series.shape
    if steps < 4 * MIN_SIZE:
        raise RequestError(f"jumps: {steps} steps; change points need {4 * MIN_SIZE} at least")
    if not np.isfinite(series).all() or not (series.std(0) > 0).all():
        raise RequestError("jumps: a direction is constant or not finite: leave it out")
    penalty = float(scipy.stats.chi2.isf(FALSE_BREAKS / steps, directions))
    best = _weigh(series, np.arange(0), penalty)
    for memory in MEMORIES:
        best = min(best, _weigh(series, _breaks(series, memory, penalty), penalty), key=_cost)
    for _ in range(REFINEMENTS):  # from here on each direction has a memory of its own
        again = _weigh(series, _breaks(series, best[2], penalty), penalty)
        if _cost(again) >= _cost(best):
            break
        best = again
    return 1 + best[1]


_Found = tuple[float, Int[np.ndarray, " break"], Float[np.ndarray, " direction"]]


def _cost(found: _Found) -> float:
    return found[0]


def _breaks(
    series: Float[np.ndarray, "step direction"],
    memory: float | Float[np.ndarray, " direction"],
    penalty: float,
) -> Int[np.ndarray, " break"]:
    left = series[1:] - memory * series[:-1]
    spread = left.std(0)
    unit = left / np.where(spread > 0, spread, 1)
    found = ruptures.KernelCPD(kernel="linear", min_size=MIN_SIZE).fit(unit).predict(pen=penalty)
    return np.array(found[:-1], int)


def _weigh(series: Float[np.ndarray, "step direction"], found: np.ndarray, penalty: float) -> _Found:
    """Cost of breaks, with the memory that suits them best: steps times log squares left, and a penalty each."""
    both = np.stack([series[1:], series[:-1]])
    starts = np.concatenate([[0], found]).astype(int)
    sizes = np.diff(np.append(starts, both.shape[1]))
    both = both - np.repeat(np.add.reduceat(both, starts, 1) / sizes[:, None], sizes, 1)
    now, before, product = (both[0] ** 2).sum(0), (both[1] ** 2).sum(0), both.prod(0).sum(0)
    memory = np.clip(np.divide(product, before, out=np.zeros_like(before), where=before > 0), 0, TOP)
    left = np.maximum(now - 2 * memory * product + memory**2 * before, np.finfo(float).tiny)
    return float(both.shape[1] * np.log(left).sum() + penalty * len(found)), found, memory
