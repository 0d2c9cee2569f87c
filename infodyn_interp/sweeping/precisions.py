"""The carry-over of the same weights in other precisions: does it grow where more is cut off (seed 1.2.3: truncation)?

Held fixed are the basis, the mean states of the reference, every coefficient (of other folds) and the filter, all from
the run itself: a precision is read by them and changes none. Not held fixed are the states: a rounded model has rounded
ones, from which its own attention makes its surface and from which the fields of nuisance and track are made; what is
compared is the whole model in two precisions, not one rounding of its scores.

White rounding passes the filter in part: |M_t| may grow by it where nothing is carried. It lifts the variogram by the
same at every lag, so the rise of the variogram from the first lag to the longest is blind to it. The fitted sill is not
in heads whose nugget is 0 or whose rho is small: there it takes white noise in.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from infodyn_interp.energy.carry import Carry, Variogram
from infodyn_interp.energy.fitting import Fit
from infodyn_interp.hooks import Layer, capture, check
from infodyn_interp.models import recast
from infodyn_interp.sweeping.carrying import Carrying
from infodyn_interp.sweeping.looking import SecondLook, Series
from infodyn_interp.sweeping.passes import Study
from infodyn_interp.texts import Batch


@dataclass(frozen=True)
class Precision:
    """What one precision leaves, by layer: sizes of rows and the variogram of the residual, by fold."""

    series: dict[int, Series]
    variograms: dict[int, Variogram]


@dataclass(frozen=True)
class Frozen:
    """What a run holds fixed for every precision.

    Args:
        fits: of the fit pass.
        carries: the fitted carry-overs, which make the filter.
        variance: of the residual, each fold left out, nats^2.
    """

    fits: Mapping[int, Fit]
    carries: Mapping[int, Carry]
    variance: Mapping[int, Float[np.ndarray, "fold head"]]


def read_precisions(
    study: Study,
    frozen: Frozen,
    names: Sequence[str],
    batches: Callable[[str], Iterable[Batch]],
) -> dict[str, Precision]:
    """One more pass in the run's own precision and in each of the others, its own first.

    Args:
        study: of the run, with as many folds as the batches have.
        names: of dtypes.
        batches: the same first windows of documents, for each precision anew, by its name.
    """
    own = str(study.model.dtype).removeprefix("torch.")
    found = {own: read_precision(study, frozen, batches(own))}
    for name in names:
        if name not in found:
            twin = recast(study.model, name)
            checked = check(twin, next(iter(batches(name))))
            found[name] = read_precision(replace(study, model=twin, checked=checked), frozen, batches(name))
    return found


def read_precision(study: Study, frozen: Frozen, batches: Iterable[Batch]) -> Precision:
    """Variograms and filtered carry-over of the study's model, by frozen fits, in one pass."""
    carrying = Carrying(study, frozen.fits, {})
    looking = SecondLook(study, frozen.fits, frozen.carries, frozen.variance)

    def visit(layer: Layer) -> None:
        carrying(layer)
        looking(layer)

    for batch in batches:
        carrying.begin(batch)
        looking.begin(batch)
        capture(study.model, batch, visit, layers=study.layers, checked=study.checked, logits_to_keep=None)
    chosen = {layer: found.own.chosen for layer, found in carrying.carried.items()}
    return Precision(looking.series, chosen)
