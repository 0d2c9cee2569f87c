"""What a measure leaves of each document: a sum over a count, whose ratio has a jackknife over documents."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import xarray
from jaxtyping import Float, Int, Shaped

from infodyn_interp.energy.fitting import Estimate
from infodyn_interp.reducing.labels import interval


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

    @property
    def value(self) -> Float[np.ndarray, "*shape"]:
        """Over all documents; NaN where none was read."""
        return _divide(self.above.sum(0), self.below.sum(0))

    @property
    def without(self) -> Float[np.ndarray, "document *shape"]:
        """Each document left out."""
        return _divide(self.above.sum(0) - self.above, self.below.sum(0) - self.below)

    def estimate(self, other: "Ratio | None" = None) -> Estimate:
        """The value, or how far it lies above another's on the same documents, with its 95 % interval (jackknife)."""
        if other is None:
            return Estimate.of_jackknife(self.value, self.without)
        return Estimate.of_jackknife(self.value - other.value, self.without - other.without)


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
        `NAME`, `NAME_low`, `NAME_high` along `null` (the first is `trained`) and `NAME_contrast` with its own interval:
        the model less the null on the documents they share, NaN where the null is the model itself.
    """
    variables: dict[str, xarray.Variable] = {}
    for name, (dims, unit, words) in quantities.items():
        mine = trained[name]
        whole = [mine, *(theirs[name] for theirs in nulls.values())]
        nothing = np.full(mine.value.shape, np.nan)
        apart = [Estimate(nothing, nothing, nothing, nothing)]
        apart += [mine.of(shared[null]).estimate(theirs[name]) for null, theirs in nulls.items()]
        for end, estimates, what in (
            ("", [one.estimate() for one in whole], words),
            ("_contrast", apart, f"{words}: the model less the null on the same documents"),
        ):
            stacked = Estimate(
                *(np.stack([getattr(one, part) for one in estimates]) for part in ("value", "low", "high", "t"))
            )
            variables |= interval(f"{name}{end}", stacked, ("null", *dims), unit, what)
    used = {dim for variable in variables.values() for dim in variable.dims}
    known = {"null": ["trained", *nulls]} | {dim: values for dim, values in coords.items() if dim in used}
    return xarray.Dataset(variables, coords=known)


def _divide(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    return np.divide(above, below, out=np.full(above.shape, np.nan), where=below > 0)
