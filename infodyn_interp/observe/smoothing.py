"""What the smoothing itself makes of a series: statistics of the tension by alpha, beside structureless replies.

An exponential moving average alone gives its deviation a memory, lets V fall on half of the steps and ties tension to
speed. A statistic says something of a reply only where it leaves the band of series without structure for that alpha.
"""

from collections.abc import Sequence

import numpy as np
import scipy.signal
import xarray
from jaxtyping import Bool, Float

from infodyn_interp.errors import RequestError
from infodyn_interp.observe.conditions import autocorrelation
from infodyn_interp.observe.equilibrium import float_equilibrium, half_life
from infodyn_interp.observe.ragged import Series, read_series

ALPHAS = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
STATISTICS = {
    "deviation_autocorrelation": "autocorrelation of x - xbar at lag one",
    "falling_share": "share of steps at which V = Psi^2 / 2 falls",
    "tension_speed": "correlation of tension and speed within replies",
}
REFERENCES = ("iid", "ar")
DRAWS = 100
BAND = (0.025, 0.975)


def sweep_alpha(
    x: Series,
    alphas: Sequence[float] = ALPHAS,
    *,
    draws: int = DRAWS,
    generator: np.random.Generator | None = None,
) -> xarray.Dataset:
    """Statistics of the tension by alpha, with the bands that replies without structure give at the same alpha.

    Args:
        x: embeddings `(..., step, direction)`, NaN beyond the end of a reply; or a list of trials.
        alphas: each in (0, 1].
        draws: of each reference: Gaussian replies of the same number, lengths and covariance of directions, without
            memory (`iid`) and with the memory of `x` (`ar`, one coefficient for all directions).
        generator: of the draws; None begins one at 0.
    Returns:
        `value` by statistic and alpha; `low` and `high` of the middle 95 % of the draws, by reference too; `half_life`
        (steps). Attribute `memory`: the coefficient fitted.
    Raises:
        RequestError: no alpha, or one outside (0, 1]; fewer than ten draws; what `read_series` refuses.
    """
    generator = np.random.default_rng(0) if generator is None else generator
    half_lives = [half_life(alpha) for alpha in alphas]
    if not half_lives or draws < 10:
        raise RequestError(
            f"{len(half_lives)} alphas and {draws} draws; take one alpha and ten draws or more"
        )
    series = read_series(x, ("direction",), "embeddings")
    values = series.values.reshape(-1, *series.shape[-2:])
    values = values[np.isfinite(values[:, 0, 0])]
    known = np.isfinite(values).all(-1)
    fitted = autocorrelation(values)
    if not np.isfinite(fitted).any():
        raise RequestError("embeddings: no reply of six steps or more that moves; take longer replies")
    memory = float(np.clip(np.nanmean(fitted), 0, 1 - 1 / known.sum(1).max()))
    spreads = _spreads(values, known)
    band = np.zeros((draws, len(REFERENCES), len(STATISTICS), len(alphas)))
    for one in band:
        noise = generator.standard_normal((*known.shape, len(spreads))) * spreads
        for place, coefficient in enumerate((0.0, memory)):
            drawn = noise.copy()
            drawn[:, 1:] *= np.sqrt(1 - coefficient**2)
            drawn = scipy.signal.lfilter([1], [1, -coefficient], drawn, axis=1)
            one[place] = _statistics(drawn, known, alphas)
    low, high = np.quantile(band, BAND, axis=0)
    no_unit = {"units": "1"}
    dims = ("statistic", "alpha")
    return xarray.Dataset(
        {
            "value": (dims, _statistics(np.where(known[..., None], values, 0), known, alphas), no_unit),
            "low": (("reference", *dims), low, no_unit),
            "high": (("reference", *dims), high, no_unit),
            "half_life": (
                "alpha",
                half_lives,
                {"units": "steps", "long_name": "steps that take up half a deviation"},
            ),
        },
        {"statistic": [*STATISTICS], "alpha": [*alphas], "reference": [*REFERENCES]},
        {"memory": memory, "draws": draws, "replies": len(values), "steps": int(known.sum())},
    )


def _spreads(
    values: Float[np.ndarray, "reply step direction"], known: Bool[np.ndarray, "reply step"]
) -> Float[np.ndarray, " axis"]:
    """Standard deviations along the principal axes of the replies less their means: no statistic sees more."""
    left = np.where(known[..., None], values, 0)
    left = np.where(known[..., None], left - left.sum(1, keepdims=True) / known.sum(1)[:, None, None], 0)
    flat = left.reshape(-1, left.shape[-1])
    squares = np.linalg.eigvalsh(flat.T @ flat / known.sum())
    return np.sqrt(squares[squares > 1e-12 * squares.max()])


def _statistics(
    values: Float[np.ndarray, "reply step direction"],
    known: Bool[np.ndarray, "reply step"],
    alphas: Sequence[float],
) -> Float[np.ndarray, "statistic alpha"]:
    """From the second step on: at the first the tension is 0, at the next it is the speed."""
    both, moved = known[:, 2:] & known[:, 1:-1], known[:, 2:]
    speed = np.linalg.norm(np.diff(values, axis=1), axis=-1)[:, 1:]
    out = []
    for alpha in alphas:
        deviation = values - float_equilibrium(values, alpha)
        square = (deviation**2).sum(-1)
        product = (deviation[:, 2:] * deviation[:, 1:-1]).sum(-1)[both].sum()
        energy = np.sqrt((square[:, 2:][both].sum()) * (square[:, 1:-1][both].sum()))
        falling = (square[:, 2:] < square[:, 1:-1])[both].mean()
        out.append([product / energy, falling, _within(np.sqrt(square[:, 2:]), speed, moved)])
    return np.array(out).T


def _within(
    one: Float[np.ndarray, "reply step"],
    other: Float[np.ndarray, "reply step"],
    known: Bool[np.ndarray, "reply step"],
) -> float:
    """Correlation of two series, each less the mean of its reply."""
    count = np.maximum(known.sum(1, keepdims=True), 1)
    one, other = (
        np.where(known, part - np.where(known, part, 0).sum(1, keepdims=True) / count, 0)
        for part in (one, other)
    )
    size = np.sqrt((one**2).sum() * (other**2).sum())
    return float((one * other).sum() / size) if size > 0 else np.nan
