"""What a measure leaves of each document: a sum over a count, whose ratio has a jackknife over documents."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import xarray
from jaxtyping import Float, Int, Shaped

from infodyn_interp.energy.fitting import Estimate
from infodyn_interp.reducing.labels import interval, label

SAME = 0.25  # of the intervals may leave 0 out by chance alone: neighbouring layers do so together


class Quantity(NamedTuple):
    """What a variable of a group is: its dimensions beyond null and layer, its unit, and words."""

    dims: tuple[str, ...]
    unit: str
    words: str


@dataclass(frozen=True)
class Ratio:
    """Sums by document whose ratio over all of them is what is reported.

    Args:
        above, below: of each document; a document that was not read has 0 in both.
    """

    above: Float[np.ndarray, "document *shape"]
    below: Float[np.ndarray, "document *shape"]

    @classmethod
    def empty(cls, documents: int, *shape: int) -> "Ratio":
        """Of no document yet."""
        return cls(np.zeros((documents, *shape)), np.zeros((documents, *shape)))

    def add(
        self,
        document: Int[np.ndarray, " window"],
        place: int | tuple[int, ...] | slice,
        above: Float[np.ndarray, "window *part"],
        below: Float[np.ndarray, "window *part"] | float = 1.0,
    ) -> None:
        """Add the sums of some windows at a place of the shape, most often a layer's."""
        at = place if isinstance(place, tuple) else (place,)
        for window, rank in enumerate(document):
            self.above[(rank, *at)] += above[window]
            self.below[(rank, *at)] += below[window] if isinstance(below, np.ndarray) else below

    def of(self, documents: Shaped[np.ndarray, " chosen"]) -> "Ratio":
        """The same of some documents."""
        return Ratio(self.above[documents], self.below[documents])

    def beside(self, other: "Ratio") -> "Ratio":
        """The same where another, of the same documents, was read too."""
        both = other.below > 0
        return Ratio(np.where(both, self.above, 0), np.where(both, self.below, 0))

    @property
    def value(self) -> Float[np.ndarray, "*shape"]:
        """Over all documents; NaN where none was read."""
        return _divide(*map(np.asarray, (self.above.sum(0), self.below.sum(0))))

    @property
    def without(self) -> Float[np.ndarray, "document *shape"]:
        """Each document left out."""
        return _divide(self.above.sum(0) - self.above, self.below.sum(0) - self.below)

    def estimate(self, other: "Ratio | None" = None) -> Estimate:
        """The value, or how far it lies above another's on the same documents, with its 95 % interval (jackknife)."""
        mine, theirs = (self, None) if other is None else (self.beside(other), other.beside(self))
        read = np.flatnonzero(mine.below.reshape(len(mine.below), -1).any(1))
        value, without = mine.value, mine.of(read).without
        if theirs is not None:
            value, without = np.asarray(value - theirs.value), without - theirs.of(read).without
        if len(read) < 2:
            nothing = np.full(value.shape, np.nan)
            return Estimate(value, nothing, nothing, nothing)
        flat = Estimate.of_jackknife(value.reshape(-1), without.reshape(len(without), -1))
        return Estimate(*(getattr(flat, part).reshape(value.shape) for part in ("value", "low", "high", "t")))


@dataclass(frozen=True)
class Found:
    """What a measure finds of one model.

    Args:
        ratios: its quantities by document.
        details: by layer, what is no sum over documents.
    """

    ratios: Mapping[str, Ratio]
    details: xarray.Dataset | None = None


def label_ratios(
    trained: Mapping[str, Ratio],
    nulls: Mapping[str, Mapping[str, Ratio]],
    shared: Mapping[str, Shaped[np.ndarray, " chosen"]],
    quantities: Mapping[str, Quantity],
    coords: Mapping[str, Sequence[object] | np.ndarray],
) -> xarray.Dataset:
    """A group: every quantity of the model and of its nulls along `null`, with intervals and contrasts.

    Args:
        trained: of the model under study.
        nulls: of each null, documents in the order in which it read them.
        shared: which documents of the study each null read.
        quantities: what is labelled.
        coords: of the dimensions; `layer` is always the first.

    Returns:
        `NAME`, `NAME_low`, `NAME_high` along `null` (the first is `trained`); where there are nulls,
        `NAME_contrast` with its own interval (the model less the null on the documents they share) and `verdict` by
        quantity, in words. Both are empty at `trained`.
    """
    variables: dict[str, xarray.Variable] = {}
    verdicts = []
    for name, (dims, unit, words) in quantities.items():
        mine = trained[name]
        whole = [mine, *(theirs[name] for theirs in nulls.values())]
        nothing = np.full(mine.value.shape, np.nan)
        apart = [Estimate(nothing, nothing, nothing, nothing)]
        apart += [mine.of(shared[null]).estimate(theirs[name]) for null, theirs in nulls.items()]
        verdicts.append(["", *(say(one) for one in apart[1:])])
        sides = [("", [one.estimate() for one in whole], words)]
        if nulls:
            sides.append(("_contrast", apart, f"{words}: the model less the null on the same documents"))
        for end, estimates, what in sides:
            stacked = Estimate(
                *(
                    np.stack([getattr(one, part) for one in estimates])
                    for part in ("value", "low", "high", "t")
                )
            )
            variables |= interval(f"{name}{end}", stacked, ("null", *dims), unit, what)
    if nulls:
        words = "does the measure tell the model from the null?"
        variables["verdict"] = label(("null", "quantity"), np.array(verdicts, object).T, "text", words)
    used = {dim for variable in variables.values() for dim in variable.dims}
    coords = {"null": ["trained", *nulls], "quantity": list(quantities), **coords}
    known = {dim: list(values) for dim, values in coords.items() if dim in used}
    return xarray.Dataset(variables, coords=known)


def say(apart: Estimate) -> str:
    """What a contrast with a null says over its cells, most often layers, by how many intervals leave 0 out."""
    known = np.isfinite(apart.low)
    above, below = int((apart.low[known] > 0).sum()), int((apart.high[known] < 0).sum())
    cells = int(known.sum())
    if not cells:
        return "not estimable: fewer than two documents were read by both"
    counts = f"above it in {above}, below it in {below} of {cells}"
    if above + below < SAME * cells:
        return f"LOOKS THE SAME: {counts}"
    return f"{'DIFFERS' if above + below > (1 - SAME) * cells else 'DIFFERS IN PART'}: {counts}"


def _divide(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    return np.divide(above, below, out=np.full(above.shape, np.nan), where=below > 0)
