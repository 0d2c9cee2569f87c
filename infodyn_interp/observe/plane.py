"""Embeddings and their floating equilibrium in two directions, to be looked at."""

import numpy as np
import xarray

from infodyn_interp.observe.ragged import read_series

AXES = 2


def lay_in_plane(x: xarray.DataArray | np.ndarray, equilibrium: xarray.DataArray) -> xarray.Dataset:
    """Both in the two directions in which the embeddings of all given replies vary most.

    Args:
        x: embeddings `(..., step, direction)`, NaN beyond the end of a reply.
        equilibrium: as `track_equilibrium` gives it for `x`.
    Returns:
        `x_plane` and `equilibrium_plane` `(..., step, axis)`, in the units of the embedding; `plane_share`, the share
        of the embeddings' variance along each.
    Raises:
        RequestError: what `read_series` refuses.
    """
    series = read_series(x, ("direction",), "embeddings")
    points = series.values
    known = points[np.isfinite(points).all(-1)]
    middle = known.mean(0)
    values, vectors = np.linalg.eigh(np.cov(known, rowvar=False).reshape(len(middle), -1))
    plane = vectors[:, ::-1][:, :AXES]
    plane = plane * np.sign(plane[np.abs(plane).argmax(0), np.arange(plane.shape[1])])
    dims = (*series.dims[:-1], "axis")
    out = {}
    for name, one, words in (
        ("x_plane", series, "embedding of a step in the two directions of largest variance"),
        ("equilibrium_plane", equilibrium, "floating equilibrium in the same directions"),
    ):
        placed = (one.transpose(*series.dims).values - middle) @ plane
        out[name] = (dims, placed, {"units": "1", "long_name": words})
    share = values[::-1][: plane.shape[1]] / values.sum()
    out["plane_share"] = (("axis",), share, {"units": "1", "long_name": "share of the embeddings' variance"})
    return xarray.Dataset(out)
