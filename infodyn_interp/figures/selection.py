"""Which heads of a result a figure draws, where along x, and what its caption must say of them."""

import json
from collections.abc import Callable, Mapping, Sized
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray

from infodyn_interp.errors import RequestError
from infodyn_interp.results import Heads, pick_heads

NAMED_AT_MOST = 12
ROWS = {
    "prosody": "prosody",
    "rhythm": "prosody: rhythm",
    "state": "prosody: state",
    "track": "inference track",
    "carry": "carry-over",
}
FEW, MOST_PANELS = 4, 12  # panels where none were asked for by name, and where they were


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
        return np.asarray(self.take(variable), dtype=float)

    def take(self, variable: xarray.DataArray) -> np.ndarray:
        """The same of words and truths, as they are."""
        return np.asarray(variable.transpose("layer", "head", ...).values[self.layer, self.head])

    def by_slot(self, values: np.ndarray, summary: Callable[..., Any]) -> np.ndarray:
        """`np.ma.mean` or `np.ma.median` over the estimable heads of each column; NaN where there is none."""
        known = np.ma.masked_invalid(values)
        columns = (summary(known[self.slot == slot], axis=0) for slot in range(len(self.slots)))
        return np.array([np.ma.filled(column, np.nan) for column in columns])

    def places(self) -> tuple[np.ndarray, np.ndarray]:
        """Where along x each head stands within its column, and the room it has there."""
        count = np.bincount(self.slot)[self.slot]
        rank = np.arange(len(self.slot)) - np.searchsorted(self.slot, self.slot)
        return self.slot + 0.8 * ((rank + 0.5) / count - 0.5), 0.8 / count


def find_group(result: xarray.DataTree, name: str, variable: str = "") -> xarray.Dataset:
    """A group of the result that holds a variable; raises RequestError where there is none of that name."""
    if name not in result.children:
        raise RequestError(f"the result has no group '{name}': this figure needs a sweep that wrote it")
    data = result[name].to_dataset()
    if variable and variable not in data:
        raise RequestError(f"group '{name}' has no {variable}: this figure needs a sweep that wrote it")
    return data


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


def largest_sill(result: xarray.DataTree, heads: Heads) -> tuple[Chosen, str]:
    """The few heads that have a panel each, and which they are in words: those with the most carry-over.

    Heads that are named are drawn in that order, up to as many as fit a page.
    """
    data = find_group(result, "carry")
    chosen = choose_heads(data, heads)
    most = FEW if heads is None else MOST_PANELS
    if len(chosen.heads) <= most:
        return choose_heads(data, chosen.heads), ""
    share = np.nan_to_num(chosen.pick(data["sill_share"]), nan=-np.inf)
    kept = np.argsort(-share, kind="stable")[:most]
    words = f"Drawn: the {most} of {len(share)} heads with the largest sill (share of energy variance)."
    return choose_heads(data, [chosen.heads[place] for place in kept]), words


def few_layers(data: xarray.Dataset, heads: Heads, most: int = FEW) -> Chosen:
    """All heads of a few layers, evenly spaced, first and last included; among the layers of `heads` if named."""
    every = choose_heads(data, None)
    layers = np.unique(choose_heads(data, heads).layer)
    kept = layers[np.unique(np.linspace(0, len(layers) - 1, min(most, len(layers))).round().astype(int))]
    return _in_columns(every, kept)


def where_known(chosen: Chosen, known: np.ndarray) -> tuple[Chosen, str]:
    """Without the layers of which nothing is known, and how many these are in words; all where nothing is at all.

    Args:
        known: whether anything was computed, by drawn head. Heads that were asked for by name all stay.
    """
    kept = np.unique(chosen.slot[known])
    if chosen.axis != "layer" or len(kept) in (0, len(chosen.slots)):
        return chosen, ""
    left = len(chosen.slots) - len(kept)
    return _in_columns(chosen, kept), f"Left out, not computed: {left} of {len(chosen.slots)} layers."


def _in_columns(chosen: Chosen, kept: np.ndarray) -> Chosen:
    taken = np.flatnonzero(np.isin(chosen.slot, kept))
    return Chosen(
        [chosen.heads[place] for place in taken],
        chosen.layer[taken],
        chosen.head[taken],
        np.searchsorted(kept, chosen.slot[taken]),
        [chosen.slots[place] for place in kept],
        chosen.axis,
    )


def threshold(result: xarray.DataTree, name: str) -> float:
    """A threshold that the verdicts of the result were given by; RequestError where it has no verdicts."""
    return float(json.loads(find_group(result, "verdicts").attrs["thresholds"])[name])


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


def write_caption(result: xarray.DataTree, chosen: Chosen, *sentences: str, nulls: str = "") -> str:
    """One paragraph: the sentences that are not empty, then model, n, nulls and what is said of verdicts.

    Args:
        nulls: those that the figure draws, in words.
    """
    of = result.attrs
    named = "" if chosen.axis == "layer" else f" ({', '.join(chosen.heads)})"
    study = (
        f"Model {of.get('model', 'not named')}; n = {of.get('documents', '?')} documents in "
        f"{of.get('folds', '?')} folds, {name_windows(of)}; "
        f"{count(chosen.heads, 'head')} of {count(set(chosen.layer.tolist()), 'layer')}{named}. "
        f"{f'Nulls drawn: {nulls}' if nulls else _name_nulls(result)}. "
        f"{_count_verdicts(result, chosen)}."
    )
    return " ".join([*filter(None, sentences), study])


def name_windows(of: Mapping[Any, Any]) -> str:
    """How many windows were fitted, as far as attributes tell, and how long they are."""
    length, tokens = of.get("window", "?"), of.get("tokens_fitted")
    return f"{f'{tokens // length} ' if tokens and length != '?' else ''}windows of {length} tokens"


def _name_nulls(result: xarray.DataTree) -> str:
    nulls = result["verdicts"].coords.get("null") if "verdicts" in result.children else None
    if nulls is None:
        return "No nulls drawn, none computed"
    return f"No nulls drawn; computed beside the model: {', '.join(map(str, nulls.values)).replace('_', ' ')}"


def _count_verdicts(result: xarray.DataTree, chosen: Chosen) -> str:
    if "verdicts" not in result.children:
        return "Verdicts: not computed"
    data = find_group(result, "verdicts")
    found = chosen.take(data["verdict"].transpose(..., "term")) == "IDENTIFIED"
    counts = [f"{term} {number}" for term, number in zip(data["term"].values, found.sum(0), strict=True)]
    return f"Heads with the verdict IDENTIFIED: {', '.join(counts)}"
