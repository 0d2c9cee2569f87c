"""Group `groups`: what each term explains of each group of documents, and how far groups stand apart."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import xarray
from jaxtyping import Float

from infodyn_interp.energy.carry import Variogram, fit_variogram
from infodyn_interp.energy.fitting import GroupFit, share_of
from infodyn_interp.identify.contrasting import Contrast, Mean
from infodyn_interp.identify.evidence import ROWS
from infodyn_interp.identify.verdict import DISCOVERY, discoveries
from infodyn_interp.reducing.labels import interval, label, of_layers

if TYPE_CHECKING:
    from infodyn_interp.sweeping import Gathered

GRID = ("group", "layer", "term", "head")


def label_groups(gathered: "Gathered", layers: Sequence[int]) -> xarray.Dataset:
    """Shares, gains and contrasts by group, layer, head and verdict row."""
    count = len(gathered.groups)
    means, shares = [], []
    for layer in layers:
        fitted, variogram = gathered.group_fits[layer], gathered.group_variograms.get(layer)
        means.append(group_gains(fitted, variogram, count))
        shares.append(np.concatenate([fitted.share, _sill_shares(fitted, variogram, count)[:, None]], 1))
    variables = {
        "documents": label(("group",), [size for _, size in gathered.groups], "1", "fitted documents"),
        "share": label(
            GRID,
            np.stack(shares, 1),
            "1",
            "variance of the term fitted to all over the group's energy variance",
        ),
        **_interval(
            "gain",
            [[Contrast.of([mean], [1]) for mean in of_layer] for of_layer in means],
            "held-out share of the group's energy variance (carry: log(V(long) / V(1)))",
        ),
    }
    apart = [less_others(of_layer) for of_layer in means]
    variables |= _interval("contrast", apart, "gain within the group less the mean of the other groups'")
    p = np.stack([[one.p for one in of_layer] for of_layer in apart], 1)
    variables["contrast_p"] = label(GRID, p, "1", "two-sided p of a contrast of 0 over documents")
    variables["contrast_q"] = label(
        GRID,
        np.stack([discoveries(one)[0] for one in p]),
        "1",
        "that p adjusted for all heads (Benjamini-Hochberg)",
    )
    coords = {"group": [name for name, _ in gathered.groups], "term": list(ROWS)}
    made = xarray.Dataset(variables, coords=coords, attrs={"discovery": DISCOVERY})
    return made.transpose("group", "layer", "head", ...)


def group_gains(fitted: GroupFit, variogram: Variogram | None, groups: int) -> list[Mean]:
    """Gain of every verdict row within each group, `[row, head]`, over all its documents as one.

    Squares explained over squares, not a mean of the folds': groups fill their folds unequally, and the mean of
    quotients depends on how many documents each is of.

    Args:
        fitted: of a layer.
        variogram: the layer's, by fold within group; without it the carry-over is NaN.
    """
    out = []
    for group in np.split(np.arange(len(fitted.pairs)), groups):
        there = group[fitted.pairs[group] > 0]
        explained, square = fitted.explained[there], fitted.square[there][:, None]
        with np.errstate(divide="ignore", invalid="ignore"):
            value = explained.sum(0) / square.sum(0)
            without = (explained.sum(0) - explained) / (square.sum(0) - square)
        nothing = np.full_like(value[:1], np.nan)
        carry, carry_without = nothing[0], np.repeat(nothing, len(there), 0)
        if variogram is not None:
            of_group = replace(variogram, sums=variogram.sums[there], weights=variogram.weights[there])
            carry, carry_without = _rise(of_group.value), _rise(of_group.without)
        out.append(
            Mean.of_jackknife(
                np.concatenate([value, carry[None]]),
                np.concatenate([without, carry_without[:, None]], 1),
                fitted.pairs[there],
            )
        )
    return out


def less_others(means: Sequence[Mean]) -> list[Contrast]:
    """Each group's estimate less the mean of the others'."""
    others = len(means) - 1
    return [
        Contrast.of(means, [1.0 if other == place else -1 / others for other in range(len(means))])
        for place in range(len(means))
    ]


def _rise(values: Float[np.ndarray, "*fold lag head"]) -> Float[np.ndarray, "*fold head"]:
    """How far a variogram rises: log of its two longest lags over its first."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.log(values[..., -2:, :].mean(-2) / values[..., 0, :]))


def _sill_shares(
    fitted: GroupFit, variogram: Variogram | None, groups: int
) -> Float[np.ndarray, "group head"]:
    """Sill of the carry-over over each group's energy variance."""
    out = np.full((groups, fitted.square.shape[1]), np.nan)
    if variogram is None:
        return out
    lags = np.array(variogram.lags)
    for place, group in enumerate(np.split(np.arange(len(fitted.pairs)), groups)):
        weights = variogram.weights[group].sum(0)
        _, _, sill = fit_variogram(lags, variogram.sums[group].sum(0) / weights[:, None], weights)
        out[place] = share_of(sill * fitted.pairs[group].sum(), fitted.square[group].sum(0))
    return out


def _interval(name: str, found: Sequence[Sequence[Contrast]], words: str) -> dict[str, xarray.Variable]:
    """A variable with the ends of its interval, from layers of groups."""

    groups = [of_layers(of_group) for of_group in zip(*found, strict=True)]
    return interval(name, of_layers(groups), GRID, "1", words)
