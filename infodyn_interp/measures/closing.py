"""Helpful, of a model on texts: does a path take less action than its increments in other orders, does depth close in?

Without trials of one prompt there are no other paths that might as well have been realised: a text's own increments in
random order stand for them, and kinetic action, the same for every order, is left out.
"""

from typing import cast

import numpy as np
import torch
import xarray
from jaxtyping import Float
from torch import Tensor

from infodyn_interp.hooks import Layer
from infodyn_interp.measures.action import KINDS, helpful
from infodyn_interp.measures.choices import weigh_choices
from infodyn_interp.measures.fits import Fitted, Reading
from infodyn_interp.measures.paths import walk
from infodyn_interp.measures.ratios import Found, Quantity, Ratio
from infodyn_interp.measures.updates import WALKED

RANKED = KINDS[1:]  # kinds of action that the order of increments changes
KEPT = ("action", "rank", "mean_rank", "mean_rank_low", "mean_rank_high", "p", "r2")
QUANTITIES = {
    "rank": Quantity(
        ("layer", "kind"),
        "1",
        "share of paths with less action, among a path's own increments in other orders (chance: one half)",
    ),
    "straightness": Quantity((), "1", "chord over arc length of a token's stream over the layers"),
    "gap_closed": Quantity(
        ("layer",),
        "1",
        "share of a token's first distance to the last stream that is closed up to this layer",
    ),
}
UNITS = {
    "action": (
        "1",
        "action of the realised path: potential in units of state squared, Onsager-Machlup in nats",
    ),
    "rank": ("1", "share of paths with less action"),
    "mean_rank": ("1", "mean over documents"),
    "p": ("1", "of the mean rank against chance, two-sided"),
    "r2": ("1", "held-out share of accelerations that the potential tells, of steps that the drift tells"),
}


def measure_action(reading: Reading, fitted: Fitted, walked: int = WALKED) -> Found:
    """`QUANTITIES` by document; by layer what `helpful` finds of paths along the tokens, and the multipliers.

    Paths are those of stability. Distances over depth are of whole streams at the sixteen fixed positions; each layer
    closes a share of the distance from the embedding to the last stream, from the layer read before it.
    """
    texts, layers = reading.texts, reading.layers
    out = {
        "rank": Ratio.empty(texts.documents, len(layers), len(RANKED)),
        "straightness": Ratio.empty(texts.documents),
        "gap_closed": Ratio.empty(texts.documents, len(layers)),
    }
    streams: dict[int, Tensor] = {}
    positions = reading.positions.to(reading.model.device)

    def visit(layer: Layer) -> None:
        if layer.index == 0:
            streams[-1] = cast(Tensor, layer.residual_in)[:, positions].clone()
        streams[layer.index] = cast(Tensor, layer.residual_out)[:, positions].clone()

    for batch in reading.measured():
        reading.capture(batch, visit, "residual_in", "residual_out")
        last = streams[reading.model.layers - 1].double()
        path = torch.stack([streams[place].double() for place in (-1, *layers)])
        straight, closed = _approach(path, last)
        out["straightness"].add(batch.document, (), straight.sum(-1).numpy(), float(len(positions)))
        for place, share in enumerate(closed.sum(-1).numpy()):
            out["gap_closed"].add(batch.document, place, share, float(len(positions)))
        streams.clear()
    if texts.documents < 2:
        return Found(out)
    found = []
    for place, paths in enumerate(walk(reading, fitted).paths):
        one = helpful(paths, seed=reading.seed).sel(kind=list(RANKED))
        out["rank"].add(np.arange(len(paths)), place, one["rank"].values.T)
        found.append(one[list(KEPT)])
    details = xarray.concat(found, "layer", combine_attrs="override")
    if (weighed := weigh_choices(reading, fitted, walked)) is not None:
        details = details.merge(weighed).assign_attrs(
            details.attrs | {"candidates": weighed.attrs["candidates"]}
        )
    return Found(out, details.assign_coords(layer=list(layers)))


def _approach(
    path: Float[Tensor, "place window position direction"], last: Float[Tensor, "window position direction"]
) -> tuple[Float[Tensor, "window position"], Float[Tensor, "layer window position"]]:
    """Chord over arc length, and the share of the first gap to the last stream that each step closes."""
    arc = path.diff(dim=0).norm(dim=-1).sum(0)
    gap = (path - last).norm(dim=-1)
    chord = (path[-1] - path[0]).norm(dim=-1)
    return (chord / arc).cpu(), (-gap.diff(dim=0) / gap[0]).cpu()
