"""Which heads of a result a figure draws, where along x, and what its caption must say of them."""

from collections.abc import Callable, Mapping, Sized
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray

from infodyn_interp.errors import RequestError
from infodyn_interp.results import Heads, pick_heads

NAMED_AT_MOST = 12


@dataclass(frozen=True)
class Chosen:
    """The heads that a figure draws, as names and indices, and the column of the x axis each stands in."""

    heads: list[str]
    layer: np.ndarray
    head: np.ndarray
    slot: np.ndarray
    slots: list[str]
    axis: str

    def pick(self, variable: xarray.DataArray) -> np.ndarray:
        """Values of the drawn heads along the first axis; other dimensions keep their order."""
        return np.asarray(variable.transpose("layer", "head", ...).values[self.layer, self.head], dtype=float)

    def by_slot(self, values: np.ndarray, summary: Callable[..., Any]) -> np.ndarray:
        """`np.ma.mean` or `np.ma.median` over the estimable heads of each column; NaN where there is none."""
        known = np.ma.masked_invalid(values)
        columns = (summary(known[self.slot == slot], axis=0) for slot in range(len(self.slots)))
        return np.array([np.ma.filled(column, np.nan) for column in columns])


def find_group(result: xarray.DataTree, name: str) -> xarray.Dataset:
    """A group of the result; raises RequestError where the result has none of that name."""
    if name not in result.children:
        raise RequestError(f"the result has no group '{name}': this figure needs a sweep that wrote it")
    return result[name].to_dataset()


def choose_heads(data: xarray.Dataset, heads: Heads) -> Chosen:
    """All heads in a column per layer, or each named head in a column; RequestError for an unknown head."""
    layers, numbers = (data[dim].values.tolist() for dim in ("layer", "head"))
    every = [(layer, head) for layer in layers for head in numbers]
    pairs = every if heads is None else list(dict.fromkeys(pick_heads(heads, layers, numbers)))
    names = [f"{layer}.{head}" for layer, head in pairs]
    layer = np.array([layers.index(pair[0]) for pair in pairs])
    head = np.array([numbers.index(pair[1]) for pair in pairs])
    if heads is None:
        return Chosen(names, layer, head, layer, [str(number) for number in layers], "layer")
    return Chosen(names, layer, head, np.arange(len(names)), names, "head (layer.head)")


def most_gain(result: xarray.DataTree) -> str:
    """Name of the head whose prosody gain has the highest lower bound; the first where none is estimable."""
    data = find_group(result, "terms")
    chosen = choose_heads(data, None)
    low = chosen.pick(data["gain_low"].sel(term="prosody"))
    return chosen.heads[int(np.argmax(np.where(np.isfinite(low), low, -np.inf)))]


def name_missing(chosen: Chosen, drawn: Mapping[str, np.ndarray]) -> str:
    """Which of the drawn values are not estimable, in words; empty where all are."""
    found = []
    for title, values in drawn.items():
        missing = np.flatnonzero(~np.isfinite(values.reshape(len(values), -1)).all(axis=1))
        names = ", ".join(chosen.heads[k] for k in missing[:NAMED_AT_MOST])
        more = f" and {len(missing) - NAMED_AT_MOST} more" if len(missing) > NAMED_AT_MOST else ""
        if len(missing):
            which = (
                "every head" if len(missing) == len(values) else f"{count(missing, 'head')} ({names}{more})"
            )
            found.append(f"{title} of {which}")
    return f"Hatched, not estimable: {'; '.join(found)}." if found else ""


def count(things: Sized, name: str) -> str:
    """How many and of what: 1 head, 2 heads."""
    return f"{len(things)} {name}{'' if len(things) == 1 else 's'}"


def write_caption(result: xarray.DataTree, chosen: Chosen, *sentences: str) -> str:
    """One paragraph: the sentences that are not empty, then model, n and what is said of verdicts."""
    of = result.attrs
    named = "" if chosen.axis == "layer" else f" ({', '.join(chosen.heads)})"
    study = (
        f"Model {of.get('model', 'not named')}; n = {of.get('documents', '?')} documents in "
        f"{of.get('folds', '?')} folds, windows of {of.get('window', '?')} tokens; "
        f"{count(chosen.heads, 'head')} of {count(set(chosen.layer.tolist()), 'layer')}{named}. "
        f"Verdicts: {of.get('verdicts', 'not computed')}."
    )
    return " ".join([*filter(None, sentences), study])
