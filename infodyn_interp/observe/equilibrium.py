"""The floating equilibrium point of a reply and what the seed reads off it: tension, kinetic energy, speed, curvature.

`xbar_{n+1} = xbar_n + alpha (x_n - xbar_n)`, `xbar_0 = x_0`: an exponential moving average that lags a step behind.
Tension and kinetic energy are one degree of freedom, `K = Psi^2 / 2`: what is found in one is found in the other.
"""

from typing import Any

import numpy as np
import xarray
from jaxtyping import Float

from infodyn_interp.errors import RequestError
from infodyn_interp.observe.ragged import Series, lengths_of, read_series

ALPHA = 0.1  # a half-life of 6.6 steps
UNITS = {
    "equilibrium": ("1", "floating equilibrium point"),
    "tension": ("1", "distance from the floating equilibrium point"),
    "kinetic_energy": ("1", "half the squared tension"),
    "speed": ("1 per step", "distance from the step before"),
    "curvature": ("rad", "turn from the motion into a step to the motion out of it"),
}


def track_equilibrium(
    x: Series, alpha: float = ALPHA, *, normalise: bool = False, length: Any = None
) -> xarray.Dataset:
    """Floating equilibrium, tension, kinetic energy, speed and curvature of replies, step by step (seed, observation).

    Args:
        x: embeddings `(..., step, direction)`, labelled or not, NaN beyond the end of a reply; or a list of trials.
        alpha: share of the deviation that the equilibrium takes up at each step, in (0, 1].
        normalise: set the equilibrium, `xbar_0` included, back on the unit sphere at each step, for embeddings that
            lie on it.
        length: steps of each reply, where what lies beyond is not NaN.
    Returns:
        `equilibrium` with the dimensions of `x`; the others without `direction`, in the units of the embedding.
        `speed` begins at the second step; `curvature` (rad) lacks the first and the last, and is 0 where nothing moves.
        Attributes `alpha` and `half_life` (steps).
    Raises:
        RequestError: alpha outside (0, 1], NaN inside a reply, a reply of one step, no numbers, varying width.
    """
    steps_to_half = half_life(alpha)
    series = read_series(x, ("direction",), "embeddings", length)
    known = series["step"] < lengths_of(series, ["direction"], "embeddings")
    values = series.values
    if (np.isnan(values[..., 0, 0]) & known.isel(step=0).values).any():
        raise RequestError("embeddings: NaN before the first step of a reply; a reply begins at step 0")
    if normalise and (np.linalg.norm(values[..., 0, :], axis=-1) == 0).any():
        raise RequestError("embeddings: a first step of length 0 has no direction to normalise")
    centre = np.where(np.isfinite(values), float_equilibrium(values, alpha, normalise), np.nan)
    motion = np.diff(values, axis=-2)
    tension = np.linalg.norm(values - centre, axis=-1)
    before = [(0, 0)] * (tension.ndim - 1)
    found = {
        "tension": tension,
        "kinetic_energy": tension**2 / 2,
        "speed": np.pad(np.linalg.norm(motion, axis=-1), [*before, (1, 0)], constant_values=np.nan),
        "curvature": np.pad(_turns(motion), [*before, (1, 1)], constant_values=np.nan),
    }
    dims = [dim for dim in series.dims if dim != "direction"]
    out = xarray.Dataset({"equilibrium": series.copy(data=centre)}).assign(
        {
            name: xarray.DataArray(one, series.isel(direction=0, drop=True).coords, dims)
            for name, one in found.items()
        }
    )
    for name, (units, long_name) in UNITS.items():
        out[name] = out[name].where(known).transpose(*series.dims if name == "equilibrium" else dims)
        out[name].attrs = {"units": units, "long_name": long_name}
    out.attrs = {"alpha": alpha, "half_life": steps_to_half, "normalised": int(normalise)}
    return out


def half_life(alpha: float) -> float:
    """Steps after which half of a deviation has been taken up; 0 at alpha 1, which keeps the last step alone.

    Raises:
        RequestError: alpha outside (0, 1].
    """
    if not 0 < alpha <= 1:
        raise RequestError(f"alpha {alpha}: it lies in (0, 1]; take 0.1 for a half-life of 6.6 steps")
    with np.errstate(divide="ignore"):
        return float(np.log(0.5) / np.log1p(-alpha)) if alpha < 1 else 0.0


def float_equilibrium(
    x: Float[np.ndarray, "*reply step direction"], alpha: float, normalise: bool = False
) -> Float[np.ndarray, "*reply step direction"]:
    """The equilibrium at each step, from the steps before it alone."""
    by_step = np.moveaxis(x, -2, 0)
    out = np.empty_like(by_step)
    out[0] = by_step[0]
    for n in range(len(out)):
        if n:
            out[n] = out[n - 1] + alpha * (by_step[n - 1] - out[n - 1])
        if normalise:
            out[n] /= np.linalg.norm(out[n], axis=-1, keepdims=True)
    return np.moveaxis(out, 0, -2)


def _turns(motion: Float[np.ndarray, "*reply move direction"]) -> Float[np.ndarray, "*reply turn"]:
    """Angles between successive motions, exact for small ones too (Kahan); 0 where one of them is no motion."""
    size = np.linalg.norm(motion, axis=-1, keepdims=True)
    unit = np.divide(motion, size, out=np.zeros_like(motion), where=size > 0)
    unit[np.isnan(motion)] = np.nan
    into, out_of = unit[..., :-1, :], unit[..., 1:, :]
    angle = 2 * np.arctan2(np.linalg.norm(out_of - into, axis=-1), np.linalg.norm(out_of + into, axis=-1))
    return np.where((size[..., :-1, 0] == 0) | (size[..., 1:, 0] == 0), 0.0, angle)
