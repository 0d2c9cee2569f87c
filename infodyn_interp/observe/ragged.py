"""Series of replies side by side: named dimensions, and NaN beyond the end of each reply."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray

from infodyn_interp.errors import RequestError

REPLY = ("prompt", "trial", "step")
Series = np.ndarray | xarray.DataArray | xarray.Dataset | Sequence[np.ndarray]


def read_series(
    values: Any, tail: Sequence[str] = (), name: str = "series", length: Any = None
) -> xarray.DataArray:
    """Numbers of replies with named dimensions, in float64: `(..., prompt, trial, step, *tail)`.

    Args:
        values: labelled, or a plain array whose last dimensions are those, or a list of the trials of one prompt, each
            `(step, *tail)`. A Dataset's variables become the last of `tail`; those with other dimensions are left out.
        tail: dimensions after the step.
        name: what the request calls them.
        length: steps of each reply, where what lies beyond is not NaN.
    Raises:
        RequestError: no numbers, dimensions or widths that do not fit, infinity, NaN inside a reply, or a reply of one
            step.
    """
    tail = tuple(tail)
    if isinstance(values, xarray.Dataset):
        values = _stack_variables(values, tail, name)
    elif isinstance(values, list | tuple):
        values = _pad(values, name)
    if not isinstance(values, xarray.DataArray):
        plain = np.asarray(values)
        names = (*REPLY, *tail)
        if not 1 + len(tail) <= plain.ndim <= len(names):
            raise RequestError(f"{name}: an array of {plain.ndim} dimensions; give ({', '.join(names)})")
        values = xarray.DataArray(plain, dims=names[-plain.ndim :])
    missing = [dim for dim in ("step", *tail) if dim not in values.dims]
    if missing:
        raise RequestError(
            f"{name}: no dimension {', '.join(missing)} among {', '.join(map(str, values.dims))}"
        )
    if values.dtype.kind not in "fiub":
        raise RequestError(f"{name}: {values.dtype} is no kind of number; give float32 or float64")
    front = [dim for dim in values.dims if dim not in (*REPLY, *tail)]
    order = (*front, *(dim for dim in REPLY if dim in values.dims), *tail)
    values = values.transpose(*order).astype(float)
    if length is not None:
        values = values.where(values["step"] < _as_lengths(length, values, name))
    if np.isinf(values).any():
        raise RequestError(f"{name}: an infinite number; NaN may stand beyond a reply's end, nothing else")
    lengths_of(values, tail, name)
    return values


def lengths_of(values: xarray.DataArray, tail: Sequence[str], name: str) -> xarray.DataArray:
    """Steps of each reply, up to the last that is known; what is not known may stand before the first that is.

    Raises:
        RequestError: NaN inside a reply or everywhere, or a reply of one step.
    """
    known = values.notnull().all(tail)
    here, step = known.values, np.arange(known.sizes["step"])
    if not here.any():
        raise RequestError(f"{name}: NaN everywhere; there is no reply")
    first = here.argmax(-1)
    end = np.where(here.any(-1), len(step) - here[..., ::-1].argmax(-1), 0)
    inside = ~here & (step > first[..., None]) & (step < end[..., None])
    if inside.any():
        place = zip(known.dims, np.argwhere(inside)[0].tolist(), strict=True)
        where = ", ".join(f"{dim} {at}" for dim, at in place)
        raise RequestError(f"{name}: NaN inside a reply ({where}); NaN may only stand beyond its end")
    if (here.sum(-1) == 1).any():
        raise RequestError(f"{name}: a reply of one step has no motion; drop it or take smaller steps")
    return known.isel(step=0, drop=True).copy(data=end)


def require_trials(values: xarray.DataArray, name: str, least: int = 2) -> None:
    """Refuse what is not of several prompts with several trials each."""
    for dim in ("prompt", "trial"):
        if dim not in values.dims:
            raise RequestError(f"{name}: no dimension {dim}; give (prompt, trial, step)")
    if values.sizes["trial"] < least:
        raise RequestError(f"{name}: {values.sizes['trial']} trials a prompt; take {least} or more")
    behind = values.dims[values.dims.index("step") :]
    trials = values.notnull().any(behind).sum("trial")
    few = trials.min([dim for dim in trials.dims if dim != "prompt"]).values
    if (few < least).any():
        place = int((few < least).argmax())
        raise RequestError(
            f"{name}: prompt {place} has {few[place]} trial{'' if few[place] == 1 else 's'}; "
            f"take {least} or more of each, or drop it"
        )


def _stack_variables(data: xarray.Dataset, tail: tuple[str, ...], name: str) -> xarray.DataArray:
    without = {"direction", "layer"} - {*tail}
    kept = [
        key
        for key, variable in data.data_vars.items()
        if {"step", *tail[:-1]} <= {*variable.dims} and not without & {*variable.dims}
    ]
    if not tail or not kept:
        raise RequestError(f"{name}: no variable has dimensions {', '.join(('step', *tail[:-1]))}")
    return data[kept].to_dataarray(tail[-1])


def _pad(trials: Sequence[Any], name: str) -> np.ndarray:
    arrays = [np.asarray(trial) for trial in trials]
    if not arrays:
        raise RequestError(f"{name}: no trials")
    widths = sorted({array.shape[1:] for array in arrays})
    if len(widths) > 1:
        raise RequestError(
            f"{name}: trials of width {widths[0]} and {widths[1]}; one embedder gives one width"
        )
    if any(array.dtype.kind not in "fiub" for array in arrays):
        raise RequestError(f"{name}: trials that are not numbers; give float32 or float64")
    out = np.full((len(arrays), max(map(len, arrays)), *widths[0]), np.nan)
    for row, array in zip(out, arrays, strict=True):
        row[: len(array)] = array
    return out


def _as_lengths(length: Any, values: xarray.DataArray, name: str) -> xarray.DataArray:
    if isinstance(length, xarray.DataArray):
        return length
    plain, dims = np.asarray(length), values.dims[: values.dims.index("step")]
    if plain.shape != tuple(values.sizes[dim] for dim in dims):
        raise RequestError(
            f"{name}: lengths of shape {plain.shape}; give one for each of ({', '.join(map(str, dims))})"
        )
    return xarray.DataArray(plain, dims=dims)
