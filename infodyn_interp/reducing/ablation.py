"""Group `ablation`: what the outputs lose with each term of some heads, removals side by side."""

from collections.abc import Sequence

import xarray


def label_ablation(removals: Sequence[xarray.Dataset]) -> xarray.Dataset:
    """Removals of one term from one head each, as `ablate` returns them, by layer, head and term; NaN where none was.

    Placebos by document stay behind: they are more than all the rest.
    """
    parts = []
    for one in removals:
        truth = one["no_causal_effect"]
        words = f"1 where {truth.attrs['long_name']}, 0 where it does not"
        kept = one.assign(no_causal_effect=truth.astype(float).assign_attrs(truth.attrs, long_name=words))
        here = (
            kept.drop_vars("placebo_by_document").isel(layer=0, head=0).assign_coords(term=one.attrs["term"])
        )
        parts.append(here.expand_dims(("layer", "head", "term")).drop_attrs(deep=False))
    shared = {name: value for name, value in removals[0].attrs.items() if name != "term"}
    return xarray.merge(parts, "no_conflicts", "outer", combine_attrs="override").assign_attrs(shared)
