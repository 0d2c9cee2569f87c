"""The seed's projection: how much of each proxy the parts of U foretell, and how much of it only one of them does.

The parts are correlated, so the split is not unique: beside what a part explains alone stands what is lost without it,
and what is in neither column is shared. Shares are of prompts that were left out of the fit: within a prompt, replies
are alike, and a fit that has seen the others foretells half of what is nothing.
"""

import numpy as np
import xarray
from jaxtyping import Float

from infodyn_interp.energy.fitting import Estimate
from infodyn_interp.errors import RequestError
from infodyn_interp.observe.ragged import REPLY, Series, read_series, require_trials

LEAST_PROMPTS = 3


def project(seen: Series, parts: Series) -> xarray.Dataset:
    """Held-out share of each proxy that the parts of U explain: together, each alone, and each over the others.

    Args:
        seen: proxies `(prompt, trial, step, proxy)`, or a Dataset of them.
        parts: of U, `(prompt, trial, step, layer, series)`, or a Dataset of them: P, T, |M|, residual energy.
    Returns:
        By layer and proxy: `r2` of all parts; by series too `alone` and `unique`; `shared`, r2 less all unique parts,
        which no part can call its own (below 0 where parts explain only together); each with its 95 % interval by the
        delete-one-prompt jackknife. `coefficient`, standard deviations of the proxy within prompts by one of the part.
    Raises:
        RequestError: fewer than three prompts or two trials, different replies, or what `read_series` refuses.
    """
    proxies = read_series(seen, ("proxy",), "proxies")
    inside = read_series(parts, ("layer", "series"), "parts")
    require_trials(proxies, "proxies")
    if inside.dims[:3] != REPLY or inside.shape[:3] != proxies.shape[:3]:
        raise RequestError(
            f"parts: {inside.shape[:3]} prompts, trials and steps; the proxies have {proxies.shape[:3]}"
        )
    if proxies.sizes["prompt"] < LEAST_PROMPTS:
        raise RequestError(f"{proxies.sizes['prompt']} prompts: {LEAST_PROMPTS} are needed to leave one out")
    grams = _grams(inside.values, proxies.values)
    count = inside.sizes["series"]
    every = np.arange(count)
    subsets = [every, *(every[[one]] for one in every), *(np.delete(every, one) for one in every)]
    errors = np.stack([_left_out(grams, subset, count) for subset in subsets])
    squares = np.diagonal(grams, axis1=2, axis2=3)[..., count:]

    def shares(errors: np.ndarray, squares: np.ndarray) -> Float[np.ndarray, "row layer proxy"]:
        with np.errstate(divide="ignore", invalid="ignore"):
            r2 = 1 - errors / squares
        unique = r2[0] - r2[1 + count :]
        return np.concatenate([r2[: 1 + count], unique, (r2[0] - unique.sum(0))[None]])

    whole = shares(errors.sum(1), squares.sum(0))
    without = np.stack(
        [shares(errors.sum(1) - errors[:, p], squares.sum(0) - squares[p]) for p in range(len(squares))]
    )
    found = Estimate.of_jackknife(whole, without)
    grid = ("layer", "proxy")
    units = {"units": "share of held-out variance within prompts"}
    out = xarray.Dataset()
    for end, values in (("", found.value), ("_low", found.low), ("_high", found.high)):
        out[f"r2{end}"] = (grid, values[0], units)
        out[f"alone{end}"] = (("series", *grid), values[1 : 1 + count], units)
        out[f"unique{end}"] = (("series", *grid), values[1 + count : -1], units)
        out[f"shared{end}"] = (grid, values[-1], units)
    total = grams.sum(0)
    size = np.sqrt(np.diagonal(total, axis1=1, axis2=2))
    slopes = _solve(total, every, count)
    with np.errstate(divide="ignore", invalid="ignore"):
        slopes = slopes * size[:, :count, None] / size[:, None, count:]
    out["coefficient"] = (("layer", "series", "proxy"), slopes, {"units": "1"})
    kept = {
        dim: one[dim]
        for one, dim in ((inside, "layer"), (inside, "series"), (proxies, "proxy"))
        if dim in one.coords
    }
    return out.assign_coords(kept).assign_attrs(prompts=len(squares))


def _grams(
    parts: Float[np.ndarray, "prompt trial step layer series"],
    proxies: Float[np.ndarray, "prompt trial step proxy"],
) -> Float[np.ndarray, "prompt layer column column"]:
    """Products of the parts and, after them, the proxies, each less its prompt's mean over the steps that all know."""
    shape = (*parts.shape[:4], proxies.shape[-1])
    both = np.concatenate([parts, np.broadcast_to(proxies[:, :, :, None], shape)], -1)
    known = np.isfinite(both).all((3, 4), keepdims=True)
    filled = np.where(known, both, 0)
    left = filled - filled.sum((1, 2), keepdims=True) / np.maximum(known.sum((1, 2), keepdims=True), 1)
    flat = np.where(known, left, 0).reshape(len(both), -1, *both.shape[3:])
    return np.einsum("pnlc,pnld->plcd", flat, flat, optimize=True)


def _left_out(grams: np.ndarray, subset: np.ndarray, count: int) -> Float[np.ndarray, "prompt layer proxy"]:
    """Squared error in each prompt of what the others' fit on some parts foretells."""
    slopes = _solve(grams.sum(0) - grams, subset, count)
    cross, own = grams[..., subset, count:], grams[..., subset[:, None], subset]
    square = np.diagonal(grams, axis1=2, axis2=3)[..., count:]
    return square - 2 * (slopes * cross).sum(-2) + (slopes * (own @ slopes)).sum(-2)


def _solve(gram: np.ndarray, subset: np.ndarray, count: int) -> np.ndarray:
    """Least squares on some parts; what is a copy of others is shared out, not blown up."""
    own = gram[..., subset[:, None], subset]
    size = np.sqrt(np.maximum(np.diagonal(own, axis1=-2, axis2=-1), np.finfo(float).tiny))
    scaled = own / (size[..., :, None] * size[..., None, :])
    inverse = np.linalg.pinv(scaled, rcond=1e-10, hermitian=True)
    return (inverse @ (gram[..., subset, count:] / size[..., None])) / size[..., None]
