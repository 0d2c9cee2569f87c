"""Variables of a result: values with dimensions, unit and words."""

from collections.abc import Sequence

import numpy as np
import xarray

from infodyn_interp.energy.fitting import Estimate

GRID = ("layer", "head")


def label(dims: Sequence[str], values: object, unit: str, words: str) -> xarray.Variable:
    """A variable with its unit and what it is."""
    return xarray.Variable(tuple(dims), np.asarray(values), {"units": unit, "long_name": words})


def interval(
    name: str, estimate: Estimate, dims: Sequence[str], unit: str, words: str, *, t: bool = False
) -> dict[str, xarray.Variable]:
    """A variable with the ends of its 95 % interval, and its t where asked for."""
    out = {
        name: label(dims, estimate.value, unit, words),
        f"{name}_low": label(
            dims, estimate.low, unit, f"{words}, lower end of the 95 % interval over documents"
        ),
        f"{name}_high": label(
            dims, estimate.high, unit, f"{words}, upper end of the 95 % interval over documents"
        ),
    }
    if t:
        out[f"{name}_t"] = label(dims, estimate.t, "1", f"t of {words} over documents")
    return out


def of_layers(estimates: Sequence[Estimate]) -> Estimate:
    """Estimates of the layers as one, layer first."""
    return Estimate(
        *(np.stack([getattr(one, part) for one in estimates]) for part in ("value", "low", "high", "t"))
    )
