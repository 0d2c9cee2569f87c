"""Jumps of a trajectory (seed 1.4): where they are, whether |M| rules them, and what happens around them."""

from collections.abc import Iterator, Mapping

import numpy as np
import xarray
from jaxtyping import Bool, Float, Int

from infodyn_interp.energy.fitting import Estimate
from infodyn_interp.errors import RequestError
from infodyn_interp.measures.breaks import find_breaks, step_sizes
from infodyn_interp.measures.threshold import LEAST_SHIFT, SHUFFLES, exchange, weigh_threshold

AROUND = 8  # steps to each side of a jump
BINS = 20  # of |M|, in the curve of step sizes
TAILS = 0.025, 0.975


def find_jumps(
    state: Float[np.ndarray, "document step direction"],
    carry: Float[np.ndarray, "document_carry step_carry"],
    series: Mapping[str, Float[np.ndarray, "..."]] | None = None,
    prompt: Int[np.ndarray, " document"] | None = None,
    seed: int = 0,
    shuffles: int = SHUFFLES,
) -> xarray.Dataset:
    """Change points of a state, the threshold law of its steps, and means around its jumps (science: jumps).

    A trajectory of another kind, of a proxy or over layers, goes through `breaks.find_breaks` alone.

    Args:
        state: any unit.
        carry: |M_t|, of the step's layer; NaN before the first query.
        series: others to align with the jumps, as the signed innovation or the track's energy at the state.
        prompt: of each document, where documents are trials.
        seed: of the shuffles.
        shuffles: of every null.

    Returns:
        `verdict`, `p` by test, `height` (of the step, deviations of log step length), `critical` with interval (units
        of `carry`); `jump` and `size` by document and step; `aligned` by series and lag (deviations within documents;
        lag 0 is the first step of the new level, so -1 is |M| as the jump began) with the null's `null_low`,
        `null_high` and the p of its largest deviation over lags; `slope` of |M_t| on t between jumps (units a step)
        with interval and p; `curve` of standardised `size` over bins of |M|.

    Raises:
        RequestError: series of other steps than the state's, shorter than the lags, constant or with holes; fewer than
            four documents; a prompt with one trial.
    """
    documents, steps, _ = state.shape
    for name, values in {"|M|": carry, **(series or {})}.items():
        if values.shape != (documents, steps):
            raise RequestError(
                f"jumps: {name} is of {values.shape} documents and steps, the state of {(documents, steps)}"
            )
    generator = np.random.default_rng(seed)
    size = step_sizes(state)
    law = weigh_threshold(size, carry[:, :-1], generator, prompt, shuffles)
    first = steps - 1 - law.length
    jump = np.zeros((documents, steps), bool)
    for one, path in enumerate(state):
        jump[one, find_breaks(path)] = True
    known = slice(first, None)
    rasters = np.stack(list(_rasters(jump[:, known], prompt, shuffles, generator)))
    every = {"|M|": carry, **(series or {})}
    aligned = [_align(values[:, known], rasters) for values in every.values()]
    slope, slope_p = _slope(carry[:, known], rasters)
    at, mean, error = _curve(size[:, first:], carry[:, first:-1])
    p = np.array([one[3] for one in aligned])
    return xarray.Dataset(
        {
            "verdict": ((), str(law.verdict)),
            "p": ("test", list(law.p.values())),
            "height": ((), law.height),
            "critical": ((), law.critical),
            "critical_low": ((), law.critical_low),
            "critical_high": ((), law.critical_high),
            "size": (("document", "step"), np.pad(size, ((0, 0), (0, 1)), constant_values=np.nan)),
            "carry": (("document", "step"), carry),
            "jump": (("document", "step"), jump),
            "aligned": (("series", "lag"), np.stack([one[0] for one in aligned])),
            "null_low": (("series", "lag"), np.stack([one[1] for one in aligned])),
            "null_high": (("series", "lag"), np.stack([one[2] for one in aligned])),
            "aligned_p": ("series", p),
            "slope": ((), slope.value[0]),
            "slope_low": ((), slope.low[0]),
            "slope_high": ((), slope.high[0]),
            "slope_p": ((), slope_p),
            "curve": ("bin", mean),
            "curve_error": ("bin", error),
        },
        {
            "test": list(law.p),
            "series": list(every),
            "lag": np.arange(-AROUND, AROUND + 1),
            "bin": at,
        },
        {
            "null": "|M| and jumps exchanged among trials of a prompt"
            if prompt is not None
            else f"|M| and jumps shifted within documents by {LEAST_SHIFT} steps at least",
            "advice": law.verdict.advice,
            "steps": law.steps,
        },
    )


def _rasters(
    jump: Bool[np.ndarray, "document step"],
    prompt: Int[np.ndarray, " document"] | None,
    shuffles: int,
    generator: np.random.Generator,
) -> Iterator[Bool[np.ndarray, "document step"]]:
    """The jumps where they are, then where they might as well be."""
    yield jump
    documents, steps = jump.shape
    if prompt is not None:
        yield from (jump[order] for order in exchange(prompt, shuffles, generator)[1:])
        return
    for _ in range(shuffles):
        shift = generator.integers(LEAST_SHIFT, steps - LEAST_SHIFT + 1, (documents, 1))
        yield np.take_along_axis(jump, (np.arange(steps) - shift) % steps, 1)


def _align(
    values: Float[np.ndarray, "document step"], rasters: Bool[np.ndarray, "shuffle document step"]
) -> tuple[Float[np.ndarray, " lag"], Float[np.ndarray, " lag"], Float[np.ndarray, " lag"], float]:
    """Mean around jumps in deviations within documents, the null's band, and the p of its largest deviation."""
    spread = values.std(1, keepdims=True)
    if not (np.isfinite(spread) & (spread > 0)).all():
        raise RequestError("jumps: a series to align is constant or has holes in a document: leave it out")
    unit = (values - values.mean(1, keepdims=True)) / spread
    flat = rasters.reshape(len(rasters), -1).astype(np.float32)
    steps = values.shape[1]
    means = np.full((len(rasters), 2 * AROUND + 1), np.nan)
    for place, lag in enumerate(range(-AROUND, AROUND + 1)):
        moved = np.zeros(
            (2, *unit.shape), np.float32
        )  # what stands a lag after each step, and whether anything does
        here, there = slice(max(0, -lag), steps - max(0, lag)), slice(max(0, lag), steps - max(0, -lag))
        moved[0, :, here], moved[1, :, here] = unit[:, there], 1
        total, count = (flat @ moved.reshape(2, -1).T).T
        np.divide(total, count, out=means[:, place], where=count > 0)
    if np.isnan(means).any():  # no jump near enough
        return means[0], means[0] * np.nan, means[0] * np.nan, np.nan
    centre, deviation = means.mean(0), means.std(0)
    far = np.abs((means - centre) / np.where(deviation > 0, deviation, 1)).max(1)
    low, high = np.quantile(means[1:], TAILS, axis=0)
    return means[0], low, high, float((far >= far[0]).mean())


def _slope(
    carry: Float[np.ndarray, "document step"], rasters: Bool[np.ndarray, "shuffle document step"]
) -> tuple[Estimate, float]:
    """Slope of |M_t| on t within the stretches between jumps, and its two-sided p: a trend alone is in the null too."""
    documents, steps = carry.shape
    time = np.broadcast_to(np.arange(float(steps)), carry.shape)
    products = np.empty((len(rasters), documents, 2))
    for place, raster in enumerate(rasters):
        stretch = raster.cumsum(1) + steps * np.arange(documents)[:, None]
        sizes = np.bincount(stretch.ravel(), minlength=documents * steps)
        centred = [
            one
            - (np.bincount(stretch.ravel(), one.ravel(), documents * steps) / np.maximum(sizes, 1))[stretch]
            for one in (time, carry)
        ]
        products[place] = np.stack([(centred[0] * centred[1]).sum(1), (centred[0] ** 2).sum(1)], -1)
    total = products.sum(1)
    slopes = total[:, :1] / total[:, 1:]
    without = total[0] - products[0]
    far = np.abs(slopes - np.median(slopes))
    return Estimate.of_jackknife(slopes[0], without[:, :1] / without[:, 1:]), float((far >= far[0]).mean())


def _curve(
    size: Float[np.ndarray, "document step"], carry: Float[np.ndarray, "document step"]
) -> tuple[Float[np.ndarray, " bin"], Float[np.ndarray, " bin"], Float[np.ndarray, " bin"]]:
    """Mean |M|, mean standardised size and its standard error over documents, in bins of |M|."""
    unit = (size - size.mean(1, keepdims=True)) / size.std(1, keepdims=True)
    edges = np.quantile(carry, np.linspace(0, 1, BINS + 1)[1:-1])
    place = np.searchsorted(edges, carry)
    cells = place + BINS * np.arange(len(carry))[:, None]
    count, total = (
        np.bincount(cells.ravel(), weights, BINS * len(carry)).reshape(-1, BINS)
        for weights in (None, unit.ravel())
    )
    present = np.maximum(count.sum(0), 1)
    mean = total.sum(0) / present
    error = np.sqrt(((total - count * mean) ** 2).sum(0)) / present
    at = np.bincount(place.ravel(), carry.ravel(), BINS) / present
    return at, mean, error
