"""Statistics by condition beside what was observed, each where there is enough of it, or the reason why not."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import xarray
from jaxtyping import Float

from infodyn_interp.errors import RequestError
from infodyn_interp.observe.conditions import contrast, describe
from infodyn_interp.observe.coupling import couple
from infodyn_interp.observe.projection import project
from infodyn_interp.observe.smoothing import ALPHAS, sweep_alpha

PARTS = ("rhythm", "state", "track", "carry", "residual_energy")  # of U


def by_condition(
    out: xarray.Dataset,
    points: Float[np.ndarray, "temperature prompt trial step direction"],
    proxies: Sequence[str],
    *,
    alphas: bool,
    seed: int,
) -> dict[str, xarray.Dataset]:
    """Groups beside `output`: `conditions`, and `smoothing` where it was asked for.

    Where one cannot be had, an attribute of `out` says why.
    """
    groups: dict[str, xarray.Dataset] = {}
    asked: dict[str, Callable[[], xarray.Dataset]] = {
        "conditions": partial(_conditions, _moving(out[list(proxies)]))
    }
    if alphas:
        x = xarray.DataArray(points, dims=("temperature", "prompt", "trial", "step", "direction"))
        grid = sorted({*ALPHAS, out.attrs["alpha"]})
        asked["smoothing"] = partial(sweep_alpha, x, grid, generator=np.random.default_rng(seed))
    for name, made in asked.items():
        put(groups, out, name, made)
    return groups


def by_inside(
    out: xarray.Dataset,
    proxies: Sequence[str],
    series: Sequence[str],
    controls: Sequence[str],
    nulls: Sequence[str],
    seed: int,
) -> dict[str, xarray.Dataset]:
    """Groups beside `output` that take the inside: `projection` and `coupling`, by temperature."""
    groups: dict[str, xarray.Dataset] = {}
    parts = [name for name in PARTS if name in series]
    twins = [
        _moving(
            out[[f"{name}_{null}" for name in series]].rename({f"{name}_{null}": name for name in series})
        )
        for null in nulls
    ]

    def projected() -> xarray.Dataset:
        return _each(
            lambda seen, inside: project(seen, inside),
            *(_moving(out[names]) for names in (list(proxies), parts)),
        )

    def coupled() -> xarray.Dataset:
        generator = np.random.default_rng(seed)
        return _each(
            partial(couple, generator=generator),
            *(_moving(out[list(names)]) for names in (proxies, series, controls)),
            *twins,
        )

    if len(parts) > 1:
        put(groups, out, "projection", projected)
    put(groups, out, "coupling", coupled)
    return groups


def _moving(seen: xarray.Dataset) -> xarray.Dataset:
    """Series without the replies that have one value of them alone: a reply of three steps turns once."""
    return seen.map(lambda one: one.where(one.notnull().sum("step") > 1))


def put(
    groups: dict[str, xarray.Dataset], out: xarray.Dataset, name: str, made: Callable[[], xarray.Dataset]
) -> None:
    """A group where it can be had; else an attribute of `out` says why not."""
    try:
        groups[name] = made()
    except RequestError as reason:
        out.attrs[f"no_{name}"] = str(reason)


def _conditions(seen: xarray.Dataset) -> xarray.Dataset:
    described = describe(seen)
    if described.sizes.get("temperature", 1) < 2:
        return described
    apart = contrast(described)
    return described.merge(apart.rename(temperature="other"), combine_attrs="override").assign_attrs(
        apart.attrs
    )


def _each(function: Callable[..., xarray.Dataset], *series: xarray.Dataset) -> xarray.Dataset:
    """A function of series without temperatures, at each of them."""
    heats = series[0]["temperature"]
    found = []
    for place, heat in enumerate(heats.values):
        try:
            found.append(function(*(one.isel(temperature=place, drop=True) for one in series)))
        except RequestError as reason:
            raise RequestError(f"temperature {heat:g}: {reason}") from None
    whole = xarray.concat(found, heats.variable, combine_attrs=_attributes)
    return whole.assign_coords(temperature=heats)


def _attributes(found: Sequence[dict[Any, Any]], context: object = None) -> dict[Any, Any]:
    """What all temperatures share once, the rest by temperature."""
    by_name = {name: [one[name] for one in found] for name in (found[0] if found else {})}
    return {name: some[0] if some == [some[0]] * len(some) else some for name, some in by_name.items()}
